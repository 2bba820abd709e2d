"""The executed action and the memory: every form of policy is written, and what is left out of its graph is found."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export.errors import ParityFailed
from export.graph import graph_of
from export.runtime import Session
from export.spec import Array, Box, Dict, Discrete, Entry, Factor, Field, Fields, Memory, MultiDiscrete
from export.trained import About, TrainedPolicy
from export.write import build, finish

ABOUT = About(name="policy", version="1")
SPACE = Fields(fields=tuple(Field(name=f"x{at}") for at in range(4)))
BOX = Box(fields=(Field(name="left", low=-1, high=2), Field(name="right", low=0.5, high=1)), shape=(2, 1))
MULTI = MultiDiscrete(factors=(Factor(name="fan", names=("off", "on")), Factor(name="heat", names=("0", "1", "2"))))
CHOICE = Discrete(names=("a", "b", "c"))

torch.set_num_threads(1)


class Gaussian(nn.Module):
    """A mean that leaves the bounds often, and a deviation for each number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.mean, self.log_std = nn.Linear(4, 2), nn.Parameter(torch.tensor([0.1, -1.0]))

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self.mean(obs)
        return mean, self.log_std.exp().expand_as(mean)


class Masked(nn.Module):
    """Logits of which the masked ones cannot be chosen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.logits = nn.Linear(4, width)

    def forward(self, obs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, self.logits(obs), -1e8)


class Remembering(nn.Module):
    """Q-values of a fading mean of what was seen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.values = nn.Linear(4, 3)

    def forward(self, obs: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = 0.9 * seen + 0.1 * obs
        return self.values(seen), seen


class Parts(nn.Module):
    """Q-values of a vector and an image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.values = nn.Linear(4 + 12, 3)

    def forward(self, vector: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.values(torch.cat([vector, image.flatten(1).to(torch.float32) / 255], dim=1))
        return values


PARTS = Dict(
    entries=(Entry(key="vector", space=SPACE), Entry(key="image", space=Array(shape=(3, 2, 2), dtype="uint8")))
)
POLICIES: dict[str, Callable[[], TrainedPolicy]] = {
    "clipped": lambda: TrainedPolicy(module=Gaussian(), observation=SPACE, action=BOX, head="gaussian"),
    "squashed": lambda: TrainedPolicy(module=Gaussian(), observation=SPACE, action=BOX, head="gaussian", squash="tanh"),
    "masked": lambda: TrainedPolicy(module=Masked(3), observation=SPACE, action=CHOICE, head="logits", mask=True),
    "several": lambda: TrainedPolicy(module=Masked(5), observation=SPACE, action=MULTI, head="logits", mask=True),
    "remembering": lambda: TrainedPolicy(
        module=Remembering(), observation=SPACE, action=CHOICE, memory=(Memory(name="seen", shape=(4,)),)
    ),
    "parts": lambda: TrainedPolicy(module=Parts(), observation=PARTS, action=CHOICE),
}


@pytest.mark.parametrize("name", POLICIES)
def test_every_form_of_policy_is_written(name: str) -> None:
    """Inputs and outputs have the names and shapes that the manifest says, and golden rows of each are in the file."""
    policy = POLICIES[name]()

    artefact = build(policy, ABOUT)
    manifest, session = artefact.manifest, Session(artefact.data)

    assert session.inputs == tuple(port.name for port in manifest.inputs)
    assert session.outputs == tuple(port.name for port in (*manifest.outputs, manifest.action.port))
    assert set(manifest.golden.inputs) == set(session.inputs)
    assert set(manifest.golden.outputs) == set(session.outputs)
    assert manifest.parity.observations == 2000
    assert manifest.parity.steps == (100 if policy.memory else 1)


def test_a_clipped_mean_and_a_squashed_one_end_at_the_bounds() -> None:
    """The executed action of a Box is within its bounds and in its shape, whatever the network says."""
    rows = {"obs": np.random.default_rng(0).normal(0, 30, (200, 4)).astype(np.float32)}

    for name in ("clipped", "squashed"):
        action = Session(build(POLICIES[name](), ABOUT).data).run(rows)["action"].astype(np.float64)
        assert action.shape == (200, 2, 1)
        assert action[:, 0].min() == pytest.approx(-1)
        assert action[:, 0].max() == pytest.approx(2)
        assert action[:, 1].min() == pytest.approx(0.5)
        assert action[:, 1].max() == pytest.approx(1)


def test_masked_logits_set_no_scale() -> None:
    """The constant that stands for a masked logit would hide every error and make every row a near tie."""
    parity = build(POLICIES["masked"](), ABOUT).manifest.parity

    assert parity.scale < 100
    assert parity.near_ties == 0


def _without(model: onnx.ModelProto, *kinds: str) -> None:
    """Make every node of some kinds pass its first input on."""
    for node in model.graph.node:
        if node.op_type in kinds:
            passed = node.input[1 if node.op_type == "Where" else 0]
            node.op_type = "Identity"
            node.input[:] = [passed]
            del node.attribute[:]


def _forgetful(model: onnx.ModelProto) -> None:
    """Have the memory that comes out be what every episode starts with."""
    for node in model.graph.node:
        node.output[:] = ["lost" if name == "memory.seen.out" else name for name in node.output]
    model.graph.node.add(op_type="Sub", input=["lost", "lost"], output=["memory.seen.out"])


@pytest.mark.parametrize(
    ("name", "drop"),
    [
        ("clipped", lambda model: _without(model, "Max", "Min")),
        ("squashed", lambda model: _without(model, "Mul")),
        ("squashed", lambda model: _without(model, "Tanh")),
        ("masked", lambda model: _without(model, "Where")),
        ("several", lambda model: _without(model, "Where")),
        ("remembering", _forgetful),
    ],
    ids=["clip", "un-scaling", "squash", "mask", "masks of several", "memory"],
)
def test_what_is_left_out_of_the_graph_is_found(name: str, drop: Callable[[onnx.ModelProto], object]) -> None:
    """A graph without the clip, the un-scaling, the mask or the memory is not written."""
    policy = POLICIES[name]()
    model = graph_of(policy)

    before = model.SerializeToString()
    drop(model)

    assert model.SerializeToString() != before
    with pytest.raises(ParityFailed, match="does not answer as the source does"):
        finish(policy, model, policy.answer, ABOUT, answers_name="torch")
