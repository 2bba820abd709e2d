"""Answers of trained policies: numbers whatever their parameters ask for, and nothing that was given is changed."""

import io
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from export.channels import channels_last
from export.declaration import parsed
from export.declared import cleanrl, state_dict
from export.distill import distilled
from export.ensemble import ensemble
from export.errors import CheckpointRefused
from export.meaning import EPISODE_START, Arrays
from export.module import of_module
from export.mother import mother_of
from export.observations import sampled
from export.quantize import quantized
from export.remembered import stacked, timed
from export.sb3 import of_sb3, read_sb3
from export.spec import MASK, Discrete, Field, Fields, Recorded
from export.tensorfile import tensor_file
from export.torchscript import torch_file
from export.trained import About, TrainedPolicy
from export.write import build
from tests.export.sb3.zips import dqn_zip, with_tensors
from tests.export.scripted.policies import saved
from tests.export.test_torchscript import Stateful
from tests.export.test_torchscript import declared as robot

ABOUT = About(name="test", version="1")
SPACES: dict[str, object] = {"observation": {"shape": [4]}, "action": {"n": 3}}
NAMED: dict[str, object] = {"observation": {"fields": [{"name": name} for name in "abcd"]}, "action": {"n": 3}}
IMAGE: dict[str, object] = {"observation": {"shape": [1, 4, 4]}, "action": {"n": 3}}

torch.set_num_threads(1)


def network(seed: int = 0, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    """Make a small network whose parameters require grad, as those of every fresh one do."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 16), activation(), nn.Linear(16, 3))


def script(head: str, *, traced: bool = False, seed: int = 0, spaces: Mapping[str, object] = SPACES) -> TrainedPolicy:
    """Read a network as TorchScript."""
    module = network(seed)
    example = torch.zeros(1, 4) if traced else None
    if spaces is IMAGE:
        module = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3))
    declared = parsed({**spaces, "network": {"kind": "module", "head": head}}, "policy.toml")
    return torch_file(saved(module, example), "policy.pt", declared)


def parameters(module: nn.Module) -> dict[str, torch.Tensor]:
    """Give a module's state as parameters that require grad, as some people save it."""
    return {name: nn.Parameter(tensor.clone()) for name, tensor in module.state_dict().items()}


def stored(value: object) -> bytes:
    """Give what torch.save writes."""
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def layers(head: str = "q_values") -> dict[str, object]:
    """Declare the layers of the small network."""
    return {**SPACES, "network": {"hidden": [16], "activation": "tanh", "head": head}}


def normalised() -> TrainedPolicy:
    """Read a Gaussian whose log_std and statistics are parameters too."""
    tensors = parameters(network()) | {
        name: nn.Parameter(torch.ones(width)) for name, width in (("log_std", 3), ("mean", 4), ("var", 4))
    }
    table = {
        "observation": {"shape": [4]},
        "action": {"low": [-1, -1, -1], "high": [1, 1, 1]},
        "network": {
            "hidden": [16],
            "activation": "tanh",
            "head": "gaussian",
            "std": {"parameter": "log_std"},
        },
        "normalise": {"mean": "mean", "var": "var"},
    }
    return state_dict(stored(tensors), "policy.pt", parsed(table, "policy.toml"))


def zipped() -> TrainedPolicy:
    """Read an SB3 zip whose tensors are parameters."""

    def ask(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: nn.Parameter(tensor) for name, tensor in tensors.items()})

    return of_sb3(read_sb3(with_tensors(dqn_zip(), ask)))


SOURCES: Mapping[str, Callable[[], TrainedPolicy]] = {
    "logits (torchscript, scripted)": lambda: script("logits"),
    "logits (torchscript, traced)": lambda: script("logits", traced=True),
    "q_values (torchscript, scripted)": lambda: script("q_values"),
    "q_values (torchscript, traced)": lambda: script("q_values", traced=True),
    "state in buffers (torchscript)": lambda: torch_file(saved(Stateful()), "robot.pt", robot(4, 2)),
    "module": lambda: of_module(network(), SPACES),
    "state dict": lambda: state_dict(stored(parameters(network())), "policy.pt", parsed(layers(), "policy.toml")),
    "state dict, statistics": normalised,
    "cleanrl": lambda: cleanrl(stored(parameters(network())), "a.cleanrl_model", parsed(layers("logits"), "a.toml")),
    "safetensors": lambda: tensor_file(save(parameters(network())), "a.safetensors", parsed(layers(), "a.toml")),
    "sb3": zipped,
    "ensemble of torchscript": lambda: ensemble([script("q_values", seed=seed) for seed in range(3)]),
    "ensemble, logits": lambda: ensemble([script("logits", seed=seed) for seed in range(2)]),
    "frame stack of torchscript": lambda: stacked(script("logits"), 2),
    "frame stack, first": lambda: stacked(script("q_values"), 2, "first"),
    "time feature of torchscript": lambda: timed(script("logits", spaces=NAMED), 100),
    "channels last of torchscript": lambda: channels_last(script("logits", spaces=IMAGE)),
}


def questions(policy: TrainedPolicy, count: int = 12) -> Arrays:
    """Draw observations, with the memory at its beginning."""
    found = dict(sampled(policy.observation, count))
    for port in policy.inputs[len(policy.observation.inputs) :]:
        found[port.name] = np.full((count, *port.shape), port.name == MASK, dtype=port.dtype)
    return found


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_answers_with_parameters_that_require_grad(source: str) -> None:
    """Numbers come out each time, of the graph's module and of the source itself: torch compiles as it is asked."""
    policy = SOURCES[source]()
    asked = questions(policy)

    for _ in range(4):
        found = policy.answer(asked)
        started = {EPISODE_START: np.ones(len(next(iter(asked.values()))), dtype=np.bool_)}
        told = {} if policy.native is None else policy.native({**asked, **started})

    assert all(np.isfinite(array).all() for array in found.values())
    assert all(np.allclose(found[name], array, rtol=1e-4, atol=1e-5) for name, array in told.items())


@pytest.mark.parametrize(
    "source", ["logits (torchscript, scripted)", "q_values (torchscript, traced)", "frame stack of torchscript"]
)
def test_a_source_whose_parameters_require_grad_becomes_an_artefact(source: str) -> None:
    """The whole way, with recorded observations, and the original TorchScript beside the graph."""
    policy = SOURCES[source]()
    seen = Recorded(inputs=dict(sampled(policy.observation, 50, seed=3)))

    artefact = build(policy, ABOUT, recorded=seen)

    assert artefact.manifest.parity.action_agreement == 1.0
    assert artefact.manifest.parity.reference.startswith("TorchScript")


@pytest.mark.soak
def test_variants_of_torchscript_are_made() -> None:
    """Eight bits, and a student, of a policy that came with parameters that require grad."""
    module = nn.Sequential(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3))
    spaces = SPACES | {"observation": {"fields": [{"name": name, "low": -1, "high": 1} for name in "abcd"]}}
    declared = parsed(spaces | {"network": {"kind": "module", "head": "logits"}}, "policy.toml")
    mother = mother_of(build(torch_file(saved(module), "policy.pt", declared), ABOUT).data)
    seen = Recorded(inputs=dict(sampled(mother.meaning.observation, 300)))

    smaller = quantized(mother, ABOUT, seen, floor=0.5)
    student = distilled(mother, ABOUT, [8], seen, floor=0.3)

    assert smaller.manifest.variant is not None
    assert student.manifest.variant is not None


class Clipping(nn.Module):
    """Writes into the observation that it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x.clamp_(-0.25, 0.25))
        return found


def wide(width: int) -> dict[str, object]:
    """Declare so many numbers to see."""
    return {"observation": {"shape": [width]}, "action": {"n": 3}, "network": {"kind": "module"}}


@pytest.mark.parametrize(
    "make",
    [
        lambda: of_module(Clipping(4), wide(4)),
        lambda: torch_file(saved(Clipping(4)), "policy.pt", parsed(wide(4), "policy.toml")),
        lambda: stacked(of_module(Clipping(8), wide(8)), 2),
        lambda: stacked(torch_file(saved(Clipping(8)), "policy.pt", parsed(wide(8), "policy.toml")), 2),
    ],
    ids=["module", "torchscript", "frame stack of a module", "frame stack of torchscript"],
)
def test_a_network_that_writes_into_its_observation_changes_nothing_else(make: Callable[[], TrainedPolicy]) -> None:
    """The caller's arrays stay, and the frames that are kept are those that were seen, in the graph too."""
    policy = make()
    asked, kept = questions(policy), questions(policy)

    found = policy.answer(asked)
    build(policy, ABOUT)

    assert all(np.array_equal(asked[name], kept[name]) for name in kept)
    if policy.memory:
        assert np.array_equal(found["memory.frames.out"], kept["obs"])
        assert np.abs(kept["obs"]).max() > 0.25


def test_a_policy_that_cannot_be_run_says_so() -> None:
    """Whatever a module raises becomes a sentence with the shapes that it was asked about."""

    class Alone(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert len(x) == 1, "one row at a time"
            return x[:, :3]

    space = Fields(fields=tuple(Field(name=name) for name in "abcd"))
    policy = TrainedPolicy(module=Alone(), observation=space, action=Discrete(names=("a", "b", "c")))

    with pytest.raises(CheckpointRefused, match=r"cannot be run on obs \[12, 4\]: one row at a time"):
        policy.answer(questions(policy))
