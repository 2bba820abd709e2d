"""A torch module in memory as a policy: right, or refused with the reason."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from export.declaration import parsed
from export.errors import CheckpointRefused, ConversionFailed, DeclarationInvalid
from export.graph import graph_of
from export.module import of_module
from export.runtime import Session
from export.torchscript import torch_file
from export.trained import About
from export.write import build
from tests.export.scripted.policies import saved

Table = dict[str, object]
CHOICE: Table = {"observation": {"shape": [4]}, "action": {"n": 3}}
BOX: Table = {"observation": {"shape": [4]}, "action": {"low": [-1, -2], "high": [1, 2]}}

torch.set_num_threads(1)


def normal(*shape: int) -> torch.Tensor:
    """Draw numbers, the same ones every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Twofold(nn.Module):
    """Gives a mean and the logarithm of a standard deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.mean(x), self.spread(x).tanh()


class Learning(nn.Module):
    """Goes on learning its normaliser in eval mode."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean += 0.1 * (x.mean(0) - self.mean)
        found: torch.Tensor = self.layer(x - self.mean)
        return found


class Sampling(nn.Module):
    """Draws its action instead of giving its head."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.rand((len(x), 3))


class Lost(nn.Module):
    """Gives NaN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3] * float("nan")


class Asserting(nn.Module):
    """Takes one row at a time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert len(x) == 1, "one row at a time"
        return x[:, :3]


class Giving(nn.Module):
    """Gives anything at all."""

    def __init__(self, give: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.layer, self.give = nn.Linear(4, 3), give

    def forward(self, x: torch.Tensor) -> object:
        return self.give(self.layer(x))


class Branching(nn.Module):
    """Goes another way for an observation that is far out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x[:, :3] if (x > 1e9).any() else x[:, :3]


class Constant(nn.Module):
    """Gives a parameter as it is, whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bias.expand(len(x), 3)


class Asking(nn.Module):
    """Asks for gradients in its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            found: torch.Tensor = self.layer(x)
        return found


def test_a_module_becomes_an_artefact() -> None:
    """The whole way from a module and a table of its spaces, normalisation in numbers included."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    table = CHOICE | {"normalise": {"mean": 2, "var": 9, "clip": 5}, "algorithm": "DQN"}

    artefact = build(of_module(module, table), About(name="test", version="1"))
    found = Session(artefact.data).run({"obs": normal(100, 4).numpy()})

    own = module(((normal(100, 4) - 2) / 3).clamp(-5, 5)).detach().numpy()
    assert np.abs(found["q_values"] - own).max() < 1e-5
    assert artefact.manifest.source.algorithm == "DQN"


def test_dropout_and_batch_normalisation_are_as_in_use() -> None:
    """A module in training mode is exported in eval mode, and stays in training mode itself (trap 19)."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    for _ in range(20):
        module(normal(64, 4) * 3 + 1)
    running = module[1].state_dict()["running_mean"].clone()

    found = Session(graph_of(of_module(module, CHOICE)).SerializeToString()).run({"obs": normal(100, 4).numpy()})

    assert module.training
    assert torch.equal(module[1].state_dict()["running_mean"], running)
    assert np.abs(found["q_values"] - module.eval()(normal(100, 4)).detach().numpy()).max() < 1e-6


def test_a_module_that_gives_its_own_deviation() -> None:
    """A second output is the logarithm of the standard deviation where that is declared."""
    torch.manual_seed(0)
    module = Twofold()
    network: Table = {"kind": "module", "head": "gaussian", "std": {"output": 1}}

    found = of_module(module, BOX | {"network": network}).answer({"obs": normal(100, 4).numpy()})

    mean, spread = (tensor.detach().numpy() for tensor in module(normal(100, 4)))
    assert np.abs(found["mean"] - mean).max() < 1e-6
    assert np.abs(found["std"] - np.exp(spread)).max() < 1e-6


@pytest.mark.parametrize(
    ("module", "table", "error", "message"),
    [
        (Learning(), CHOICE, CheckpointRefused, r"changes mean when it is run"),
        (Sampling(), CHOICE, CheckpointRefused, r"gives another q_values when asked again"),
        (Lost(), CHOICE, CheckpointRefused, r"output 0 of the module is NaN or infinite"),
        (
            nn.Linear(4, 5),
            CHOICE,
            DeclarationInvalid,
            r"is float32\[8, 5\] for 8 observations, expected float32\[8, 3\]",
        ),
        (nn.Linear(6, 3), CHOICE, DeclarationInvalid, r"cannot be run on float32\[8, 4\]: mat1 and mat2"),
        (
            nn.Linear(4, 3).double(),
            CHOICE,
            DeclarationInvalid,
            r"cannot be run on float32\[8, 4\]: .*; its parameters are float64: bring it to float32 with float\(\)",
        ),
        (nn.Linear(4, 3).bfloat16(), CHOICE, DeclarationInvalid, r"its parameters are bfloat16"),
        (Asserting(), CHOICE, DeclarationInvalid, r"cannot be run on float32\[8, 4\]: one row at a time"),
        (Giving(lambda _: 1 // 0), CHOICE, DeclarationInvalid, r"integer division or modulo by zero"),
        (Giving(lambda y: {"q": y}), CHOICE, DeclarationInvalid, r"is a dict .*: have its forward give that tensor"),
        (Giving(lambda _: None), CHOICE, DeclarationInvalid, r"output 0 of the module is nothing"),
        (Giving(lambda y: [[y]]), CHOICE, DeclarationInvalid, r"is a list for 8 observations"),
        (Giving(lambda y: y.double()), CHOICE, DeclarationInvalid, r"is float64\[8, 3\]"),
        (Giving(lambda y: y.to_sparse()), CHOICE, DeclarationInvalid, r"is sparse_coo float32\[8, 3\]"),
        (Giving(lambda y: y[:, 0]), CHOICE, DeclarationInvalid, r"is float32\[8\] for 8 observations"),
        (
            nn.Linear(4, 2),
            BOX | {"network": {"kind": "module", "head": "gaussian", "std": {"output": 1}}},
            DeclarationInvalid,
            r"output 1 of the module is nothing",
        ),
        (
            nn.Linear(4, 2),
            BOX | {"network": {"kind": "module", "head": "gaussian", "std": {"parameter": "log_std"}}},
            DeclarationInvalid,
            r"network.std names a tensor or a layer",
        ),
        (
            nn.Linear(4, 3),
            CHOICE | {"network": {"hidden": []}},
            DeclarationInvalid,
            r"kind is 'mlp', expected 'module'",
        ),
        (
            nn.Linear(4, 3),
            CHOICE | {"normalise": {"mean": "a", "var": "b"}},
            DeclarationInvalid,
            r"expected numbers for a module",
        ),
    ],
)
def test_a_module_that_cannot_be_served_is_refused(
    module: nn.Module, table: Table, error: type[Exception], message: str
) -> None:
    """State, chance, NaN and other shapes than those declared are said in a sentence."""
    with pytest.raises(error, match=message):
        of_module(module, table)


@pytest.mark.parametrize(
    "give",
    [
        lambda y: (y, None),
        lambda y: [y, "text"],
        lambda y: (y, (y, y)),
        lambda y: y.t().contiguous().t(),
        lambda y: torch.cat([y, y], dim=1)[:, ::2],
    ],
    ids=["none behind", "text behind", "nested", "not contiguous", "a view"],
)
def test_what_lies_behind_the_head_and_how_it_lies_does_not_matter(give: Callable[[torch.Tensor], object]) -> None:
    """Tuples and lists that begin with the head, and heads that are views, are written and answer alike."""
    module = Giving(give)

    policy = of_module(module, CHOICE)
    found = Session(graph_of(policy).SerializeToString()).run({"obs": normal(20, 4).numpy()})

    assert np.allclose(found["q_values"], policy.answer({"obs": normal(20, 4).numpy()})["q_values"], atol=1e-5)


@pytest.mark.parametrize("module", [Constant(), Asking()], ids=["expanded", "enable_grad"])
def test_answers_are_numbers_though_the_module_asks_for_gradients(module: nn.Module) -> None:
    """A parameter that is handed out, and gradients that forward itself turns on."""
    found = of_module(module, CHOICE).answer({"obs": normal(5, 4).numpy()})

    assert np.allclose(found["q_values"], module(normal(5, 4)).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Branching(), r"decides by a tensor's numbers which way it goes .*: torch.where chooses by numbers"),
        (Giving(lambda y: torch.lgamma(y.abs() + 1)), r"ONNX has no operator for prims.lgamma"),
        (Giving(lambda y: torch.special.gammainc(y.abs() + 1, y.abs() + 1)), r"ONNX has no operator for prims.igamma"),
        (Giving(lambda y: torch.median(y, dim=1, keepdim=True)[0] + y), r"ONNX has no operator for aten.median"),
    ],
)
def test_what_no_graph_can_do_is_named(module: nn.Module, message: str) -> None:
    """A decision, and operators that ONNX does not have, are sentences and no headings of torch's exporter."""
    policy = of_module(module, CHOICE)

    with pytest.raises(ConversionFailed, match=message):
        graph_of(policy)


class Counting(nn.Module):
    """Answers one observation otherwise than several."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 1:
            return -x[:, :3]
        return x[:, :3]


class Centred(nn.Module):
    """Takes the mean of the batch away."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(0))[:, :3]


class Scaled(nn.Module):
    """Divides by the largest number of the whole batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x / x.abs().max())[:, :3]


@pytest.mark.parametrize("kind", [Counting, Centred, Scaled])
@pytest.mark.parametrize("way", ["module", "torchscript"])
def test_a_row_that_is_answered_otherwise_alone_is_refused(kind: type[nn.Module], way: str) -> None:
    """The proof asks many rows at once, and a controller one: a module that tells them apart is another policy."""
    declared = parsed(CHOICE | {"network": {"kind": "module"}}, "policy.toml")

    with pytest.raises(CheckpointRefused, match="gives another q_values for an observation alone than for the same"):
        _ = of_module(kind(), declared) if way == "module" else torch_file(saved(kind()), "policy.pt", declared)


class Meaned(nn.Module):
    """Looks at an observation beside its own mean, or at its spread: operators that are called as our outputs are."""

    def __init__(self, how: str, count: int) -> None:
        super().__init__()
        self.how, self.layer = how, nn.Linear(4, count)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        middle = torch.mean(x, dim=1, keepdim=True)
        if self.how == "std":
            return torch.mean(torch.stack([self.layer(x), self.layer(x / (torch.std(x, dim=1, keepdim=True) + 1))]), 0)
        found: torch.Tensor = self.layer(x - middle)
        return torch.mean(torch.stack([found, 2 * found]), dim=0) if self.how == "last" else found


@pytest.mark.parametrize("how", ["first", "last", "std"])
def test_an_operator_may_be_called_as_our_outputs_are(how: str) -> None:
    """What torch.mean gives is called mean, as the head of a Gaussian is: the graph has both."""
    torch.manual_seed(0)
    module = Meaned(how, 2)
    asked = normal(50, 4)

    artefact = build(of_module(module, BOX | {"network": {"kind": "module", "head": "deterministic"}}), About("m", "1"))

    found = Session(artefact.data).run({"obs": asked.numpy()})["mean"]
    assert np.abs(found - module(asked).detach().numpy()).max() <= 1e-5
