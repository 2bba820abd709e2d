"""Modules that give probabilities or the action that they chose, in memory and as TorchScript: right, or refused."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from export.declaration import parsed
from export.distill import distilled
from export.errors import DeclarationInvalid, HeadImplausible, OptionInvalid
from export.module import of_module
from export.mother import mother_of
from export.quantize import quantized
from export.runtime import Session
from export.spec import Recorded
from export.spec.artefact import Artefact
from export.torchscript import torch_file
from export.trained import About, TrainedPolicy
from export.verify import verify
from export.write import build
from tests.export.test_torchscript import quiet, scripted

Table = dict[str, object]
Tail = Callable[[torch.Tensor], torch.Tensor]
ABOUT = About(name="test", version="1")
SEEN = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32) * 2
THREE: Table = {"n": 3}
TWO: Table = {"nvec": [3, 2]}
SWITCHES: Table = {"kind": "multi_binary", "n": 3}

torch.set_num_threads(1)


class Ending(nn.Module):
    """A small network, and what its author put behind its last layer."""

    def __init__(self, tail: Tail, width: int = 3) -> None:
        super().__init__()
        torch.manual_seed(1)
        last = nn.Linear(8, width)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), last)
        self.layers.requires_grad_(requires_grad=False)
        last.weight *= 4
        self.tail = tail

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self.layers(x))


def softmax(x: torch.Tensor) -> torch.Tensor:
    """Give probabilities."""
    return torch.softmax(x, dim=1)


def of_each(x: torch.Tensor) -> torch.Tensor:
    """Give the probabilities of three choices and of two."""
    return torch.cat([torch.softmax(x[:, :3], dim=1), torch.softmax(x[:, 3:], dim=1)], dim=1)


def chosen(x: torch.Tensor) -> torch.Tensor:
    """Give an action for each row."""
    return x.argmax(dim=1)


def kept(x: torch.Tensor) -> torch.Tensor:
    """Give an action for each row, on an axis of its own."""
    return x.argmax(dim=1, keepdim=True)


def as_float(x: torch.Tensor) -> torch.Tensor:
    """Give an action for each row as a float."""
    return x.argmax(dim=1, keepdim=True).to(torch.float32)


def both(x: torch.Tensor) -> torch.Tensor:
    """Give the choices of two factors."""
    return torch.stack([x[:, :3].argmax(dim=1), x[:, 3:].argmax(dim=1)], dim=1)


def ones(x: torch.Tensor) -> torch.Tensor:
    """Give a one for the action."""
    return (x.argmax(dim=1, keepdim=True) == torch.arange(3)).to(torch.float32)


def thrown(x: torch.Tensor) -> torch.Tensor:
    """Give what each switch is to be."""
    return (x > 0).to(torch.float32)


def read(module: nn.Module, action: Table, head: str, *, script: bool) -> TrainedPolicy:
    """Read a module from memory, or traced as TorchScript."""
    table: Table = {"observation": {"shape": [4]}, "action": action, "network": {"kind": "module", "head": head}}
    if not script:
        return of_module(module, table)
    with quiet():
        return torch_file(scripted(module, torch.zeros(2, 4)), "net.pt", parsed(table, "net.toml"))


def answered(artefact: Artefact) -> dict[str, np.ndarray]:
    """Ask an artefact."""
    return dict(Session(artefact.data).run({"obs": SEEN}))


SOURCES = pytest.mark.parametrize("script", [False, True], ids=["in memory", "torchscript"])


@SOURCES
@pytest.mark.parametrize(
    ("tail", "action", "head"),
    [(softmax, THREE, "logits"), (softmax, THREE, "q_values"), (of_each, TWO, "logits")],
    ids=["one choice", "as values", "two factors"],
)
def test_a_softmax_at_the_end_is_no_head_of_scores(tail: Tail, action: Table, head: str, script: bool) -> None:
    """It is refused where it is proved, with the word that takes it, and nothing is written."""
    policy = read(Ending(tail, 5 if action is TWO else 3), action, head, script=script)

    with pytest.raises(HeadImplausible, match=r"these are probabilities, .*head = 'probabilities' in a declaration"):
        build(policy, ABOUT)


@SOURCES
@pytest.mark.parametrize(("tail", "action", "sizes"), [(softmax, THREE, (3,)), (of_each, TWO, (3, 2))])
def test_probabilities_become_logits(tail: Tail, action: Table, sizes: tuple[int, ...], script: bool) -> None:
    """The softmax of the head is what the module says, factor by factor."""
    module = Ending(tail, sum(sizes))

    artefact = build(read(module, action, "probabilities", script=script), ABOUT)
    manifest = artefact.manifest

    head = answered(artefact)["logits"].astype(np.float64)
    shares = np.exp(head)
    told = module(torch.from_numpy(SEEN)).numpy()
    assert np.abs(shares - told).max() < 1e-6
    assert (manifest.head, manifest.family, manifest.scores) == (
        "logits",
        "categorical",
        True,
    )
    assert "logarithm of the probabilities, of 1.2e-38 where they are less" in artefact.manifest.inside


def test_log_probabilities_and_logits_are_as_they_were() -> None:
    """A logarithm of a softmax has the same softmax; logits are no probabilities, and the sentence says so."""
    for tail in (lambda x: torch.log_softmax(x, dim=1), lambda x: x):
        assert build(read(Ending(tail), THREE, "logits", script=False), ABOUT).manifest.scores
        with pytest.raises(HeadImplausible, match=r"said to be 'probabilities', but .*head = 'logits'"):
            build(read(Ending(tail), THREE, "probabilities", script=False), ABOUT)


@SOURCES
@pytest.mark.parametrize(
    ("tail", "action", "shown"),
    [
        (chosen, THREE, r"int64\[8\]"),
        (kept, THREE, r"int64\[8, 1\]"),
        (as_float, THREE, r"float32\[8, 1\]"),
        (both, TWO, r"int64\[8, 2\]"),
    ],
    ids=["[B]", "keepdim", "float", "two factors"],
)
def test_an_arg_max_at_the_end_is_no_head(tail: Tail, action: Table, shown: str, script: bool) -> None:
    """What it is is said, and what to do about it."""
    with pytest.raises(DeclarationInvalid, match=rf"is {shown}.*the action already chosen, .*head = 'action'"):
        read(Ending(tail, 5 if action is TWO else 3), action, "logits", script=script)


def test_an_arg_max_is_no_number_of_a_box_either() -> None:
    """Whole numbers where real ones are carried out are a choice that was made."""
    with pytest.raises(DeclarationInvalid, match="the action already chosen"):
        read(Ending(kept), {"low": [-1], "high": [1]}, "deterministic", script=False)


@pytest.mark.parametrize(
    ("tail", "action", "message"),
    [
        (ones, THREE, "the action already chosen"),
        (thrown, SWITCHES, "the action already chosen"),
        (torch.sigmoid, SWITCHES, "expected the numbers before the sigmoid"),
    ],
    ids=["a one among zeros", "switches", "sigmoids"],
)
def test_floats_in_the_right_shape_are_seen_through(tail: Tail, action: Table, message: str) -> None:
    """Their shape is that of scores; their numbers are not."""
    with pytest.raises(HeadImplausible, match=message):
        build(read(Ending(tail), action, "logits", script=False), ABOUT)


@SOURCES
@pytest.mark.parametrize(
    ("tail", "action"),
    [(chosen, THREE), (kept, THREE), (as_float, THREE), (ones, THREE), (both, TWO), (thrown, SWITCHES)],
    ids=["[B]", "keepdim", "float", "a one among zeros", "two factors", "switches"],
)
def test_a_choice_is_served_without_scores(tail: Tail, action: Table, script: bool) -> None:
    """The head has a one for each choice, the action is the module's, and the file says what it does not know."""
    module = Ending(tail, 5 if action is TWO else 3)

    artefact = build(read(module, action, "action", script=script), ABOUT)

    found, told = answered(artefact), module(torch.from_numpy(SEEN))
    told = told.argmax(dim=1) if tail is ones else told
    assert np.array_equal(found["action"].reshape(len(SEEN), -1), told.numpy().reshape(len(SEEN), -1))
    assert set(np.unique(found["logits"])) == {0.0, 1.0}
    assert not artefact.manifest.scores
    assert verify(artefact.data).passed


def test_the_action_of_a_box_is_its_mean() -> None:
    """With a std of 0, and the word that there is no more to it."""
    module = Ending(torch.tanh)

    artefact = build(read(module, {"low": [-1] * 3, "high": [1] * 3}, "action", script=False), ABOUT)

    assert np.abs(answered(artefact)["mean"] - module(torch.from_numpy(SEEN)).numpy()).max() < 1e-6
    assert not answered(artefact)["std"].any()
    assert (artefact.manifest.head, artefact.manifest.scores) == ("gaussian", False)


def test_a_choice_that_was_not_declared_is_refused() -> None:
    """One more than there are is no other action."""
    policy = read(Ending(chosen), {"n": 2}, "action", script=False)

    with pytest.raises(
        HeadImplausible, match="are none of the 2 actions that were told, expected whole numbers 0 to 1"
    ):
        build(policy, ABOUT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"hidden": [8], "head": "probabilities"}}, "the layers of a file end in scores"),
        ({"network": {"kind": "lstm", "units": 8, "head": "action"}}, "the layers of a file end in scores"),
        ({"network": {"kind": "module", "head": "action"}, "mask": True}, "mask is true, expected no mask"),
        (
            {"network": {"kind": "module", "head": "probabilities"}, "action": SWITCHES},
            "expected 'logits' for switches, the numbers before the sigmoid",
        ),
        (
            {"network": {"kind": "module", "head": "probabilities"}, "action": {"low": [0], "high": [1]}},
            "expected 'gaussian' or 'deterministic' for an action of kind box",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_the_declaration(changes: Table, message: str) -> None:
    """Before any tensor is looked at."""
    table: Table = {"observation": {"shape": [4]}, "action": THREE}

    with pytest.raises(DeclarationInvalid, match=message):
        parsed(table | changes, "net.toml")


def test_variants_of_a_choice() -> None:
    """Of one without scores no student learns; in eight bits it is still one without scores."""
    named: Table = {"fields": [{"name": f"x{at}"} for at in range(4)]}
    table: Table = {"observation": named, "action": THREE, "network": {"kind": "module", "head": "action"}}
    mother = mother_of(build(of_module(Ending(chosen), table), ABOUT).data)
    with pytest.raises(OptionInvalid, match="the mother has no scores"):
        distilled(mother, ABOUT, [8], None, 0.5)
    deep = Ending(chosen)
    deep.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    mother = mother_of(build(read(deep, THREE, "action", script=False), ABOUT).data)

    variant = quantized(mother, About(name="test", version="1q"), Recorded(inputs={"obs": SEEN}), 0.5)

    assert not variant.manifest.scores
