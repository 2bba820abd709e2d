"""The operators of TorchScript: each answers as torch does, is drawn as a graph, or is refused by its name."""

import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.declaration import parsed
from export.errors import CheckpointRefused, ConversionFailed, ExportError
from export.graph import graph_of
from export.scripted import read_code
from export.scripted.states import states_of
from export.scripted.tree import copied
from export.torchscript import torch_file
from export.trained import About
from export.write import build
from tests.export.scripted.expressions import GROUPS
from tests.export.scripted.policies import imported, saved, several, single

CASES = {f"{group}, {name}": text for group, table in GROUPS.items() for name, text in table.items()}
DECLARED = parsed(
    {
        "observation": {"shape": [4]},
        "action": {"n": 3},
        "network": {"kind": "module", "head": "q_values"},
    },
    "policy.toml",
)
# What ONNX, or torch's exporter to it, does not have.
NO_GRAPH = {
    "numbers, copysign": "prims.signbit",
    "numbers, digamma": "prims.digamma",
    "numbers, lgamma": "prims.lgamma",
    "reductions, cumprod": "prims.prod",
    "reductions, median": "aten.median",
}

torch.set_num_threads(1)
Kinds = dict[str, type[nn.Module]]


def normal(count: int, width: int = 4) -> torch.Tensor:
    """Draw observations, the same ones every time."""
    return torch.randn((count, width), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Kinds:
    """Write the whole table as one file of policies: torch scripts what it can read."""
    policies = [single(f"Policy{at}", text) for at, text in enumerate(CASES.values())]
    return imported(tmp_path_factory.mktemp("operators"), *policies)


# How many policies a group's expressions make.
PARTS = 6


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Draw the same parameters in every test."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def interpreted(data: bytes, obs: torch.Tensor) -> torch.Tensor:
    """Work a file's code out, on the shapes and then on the numbers, without what makes a policy of it."""
    code = read_code(data, "policy.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted, _ = copied(code, torch.jit.load(io.BytesIO(data)), "policy.pt")  # type: ignore[no-untyped-call]
    assert states_of(scripted, [[obs[at : at + 1]] for at in range(len(obs))], "policy.pt") == []
    with torch.no_grad():
        found: torch.Tensor = scripted(obs)[0]
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_expression_answers_as_torch_does(case: str, kinds: Kinds) -> None:
    """Scripted and traced, with parameters that require grad; what the caller gave stays as it was."""
    module = kinds[f"Policy{list(CASES).index(case)}"]().eval()
    assert all(parameter.requires_grad for parameter in module.parameters())
    own = module(normal(7)).detach()
    given = normal(7).numpy()

    policy = torch_file(saved(module), "policy.pt", DECLARED)
    found = policy.answer({"obs": given})["q_values"]
    assert policy.native is not None
    told = policy.native({"obs": given})["q_values"]
    traced = interpreted(saved(module, normal(2)), normal(7))

    assert np.array_equal(given, normal(7).numpy())
    assert np.allclose(told, own.numpy(), rtol=1e-5, atol=1e-5)
    assert np.allclose(found, told, rtol=1e-5, atol=1e-5)
    assert torch.allclose(traced, own, rtol=1e-5, atol=1e-5)


# Converting takes seconds: every run converts a few operators of each group, `make soak` all of them.
@pytest.mark.parametrize("part", [pytest.param(at, marks=pytest.mark.soak) if at else 0 for at in range(PARTS)])
@pytest.mark.parametrize("group", GROUPS)
def test_every_group_becomes_an_artefact(group: str, part: int, tmp_path: Path) -> None:
    """A part of a group's expressions, added up in one policy, are written and proved."""
    table = {name: text for name, text in GROUPS[group].items() if f"{group}, {name}" not in NO_GRAPH}
    # Those that return, or write into the observation that the others see, are not for adding up.
    table = {name: text for name, text in table.items() if "return" not in text and not name.startswith("input")}
    table = dict(list(table.items())[part::PARTS])
    module = imported(tmp_path, several("Policy", table))["Policy"]().eval()

    artefact = build(torch_file(saved(module), "policy.pt", DECLARED), About(name="test", version="1"))

    assert artefact.manifest.parity.reference.startswith("TorchScript in torch")
    assert artefact.manifest.parity.action_agreement == 1.0


@pytest.mark.parametrize("case", NO_GRAPH)
def test_an_operator_that_onnx_does_not_have_is_named(case: str, kinds: Kinds) -> None:
    """What torch works out and no graph can is a sentence with the operator."""
    module = kinds[f"Policy{list(CASES).index(case)}"]().eval()
    policy = torch_file(saved(module), "policy.pt", DECLARED)

    with pytest.raises(ConversionFailed, match=f"ONNX has no operator for {re.escape(NO_GRAPH[case])}: write it with"):
        graph_of(policy)


def only(folder: Path, expression: str) -> bytes:
    """Save a policy around one expression, scripted."""
    return saved(imported(folder, single("Policy", expression))["Policy"]().eval())


@pytest.mark.parametrize(
    ("expression", "operator"),
    [
        ("y = torch.special.gammainc(h.abs() + 1.0, h.abs() + 1.0)", "torch.igamma"),
        ("z = torch.fft.rfft(h)\ny = torch.view_as_real(z).flatten(1)[:, :6]", "torch.fft_rfft"),
        ("y = h @ torch.linalg.inv(self.w)", "torch.linalg_inv"),
        ("y = torch.as_strided(h, [6], [1]).expand_as(h)", "torch.as_strided"),
    ],
)
def test_an_operator_that_is_not_on_the_list_is_named(expression: str, operator: str, tmp_path: Path) -> None:
    """The sentence has the operator, its line in the archive's code, and the ways to bring the policy all the same."""
    told = rf"calls {operator}, which is not on the list .* \(line \d+ of code/__torch__/.*{operator}\(.*\): "

    with pytest.raises(CheckpointRefused, match=told + r"declare the layers .* or give the module itself to export"):
        torch_file(only(tmp_path, expression), "policy.pt", DECLARED)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("y = h if bool(x.sum() > 0) else -h", "calls bool on a .*: its way must not depend on its numbers"),
        ("y = h * x.mean().item()", "calls torch.item on a tensor: its way, and its shapes, must not depend"),
        ("y = h[h > 0].sum() + h", "the result of aten.nonzero.default has another shape for other numbers"),
        ("y = h + torch.unique(x).sum()", "calls torch.unique_dim, which is not on the list"),
        ("y = h\nwhile bool(y.sum() < 10.0):\n    y = y + 1.0", r"has a while .*line \d+ of code/__torch__"),
        ("y = h\nfor at in range(3):\n    if at == 1:\n        break\n    y = y * 2.0", "has a while"),
        ("y = h + torch.rand_like(h)", "calls torch.rand_like, which draws random numbers"),
        ("y = F.dropout(h, 0.5, True)", "was saved in training mode, with dropout"),
        ("print(x)\ny = h", "calls print"),
        ("assert h.shape[1] == 7, 'seven'\ny = h", "the module's own code refuses its input: .*seven"),
        ("y = h * len([1] * 1000000000)", "repeats a list 1000000000 times"),
        ("n = 3\nfor at in range(60):\n    n = n * n\ny = h * n", "works out a whole number beyond"),
        ("p = [1]\nfor at in range(60):\n    p = p + p\ny = h * len(p)", "makes a list of 131072 things"),
        ("y = h * float(len(torch.zeros(100000).unbind(0)))", "cuts a tensor of 100000 rows apart"),
    ],
)
def test_code_that_no_graph_can_follow_is_a_sentence(expression: str, message: str, tmp_path: Path) -> None:
    """Decisions by numbers, endless and early-ending loops, chance, output, and growth without end."""
    with pytest.raises(ExportError, match=message):
        graph_of(torch_file(only(tmp_path, expression), "policy.pt", DECLARED))


class TwoInputs(nn.Module):
    """Takes its state as an input."""

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return x[:, :3] + state


class Several(nn.Module):
    """Gives its head by name."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"q": x[:, :3]}


class WithText(nn.Module):
    """Gives a text beside its head."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
        return x[:, :3], "q"


class Wide(nn.Module):
    """Works in double precision and stays there."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x.double())
        return found


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (TwoInputs(), r"forward takes x, state, found 1 of them: its forward has to take the observation alone"),
        (Several(), r"the module gives dict, expected its head, a tensor, or a tuple of tensors that begins with it"),
        (WithText(), r"the module gives Tensor, str, expected its head"),
        (Wide(), r"output 0 of the module is float64\[8, 3\] for 8 observations, expected float32\[8, 3\]"),
        (nn.Linear(4, 3).half(), r"cannot be run on an observation \[1, 4\]: .*(dtype|Half)"),
        (nn.Linear(5, 3), r"cannot be run on an observation \[1, 4\]: .*"),
    ],
)
def test_a_module_of_another_form_is_a_sentence(module: nn.Module, message: str) -> None:
    """A second input, a dictionary, a text, and numbers of another width."""
    with pytest.raises(ExportError, match=message):
        torch_file(saved(module), "policy.pt", DECLARED)


class Pairing(nn.Module):
    """Gives its head and no state, as actors of some libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, state: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.layer(x), state


def test_a_head_with_nothing_behind_it_is_taken() -> None:
    """An optional second input is left out, and None behind the head is no output."""
    module = Pairing()

    found = torch_file(saved(module), "policy.pt", DECLARED).answer({"obs": normal(5).numpy()})

    assert np.allclose(found["q_values"], module(normal(5))[0].detach().numpy(), atol=1e-6)
