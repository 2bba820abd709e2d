"""What the range of a Gaussian's numbers gives away: a second tanh, bounds without their scale, the exp of a std."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.adopt.command import run
from export.declaration import parsed
from export.declared import state_dict
from export.errors import DeclarationInvalid, HeadImplausible
from export.module import of_module
from export.torchscript import torch_file
from export.trained import About, TrainedPolicy
from export.write import build
from tests.export.adopt.files import File
from tests.export.scripted.policies import saved

ABOUT = About(name="test", version="1")
Table = dict[str, object]

torch.set_num_threads(1)


class Actor(nn.Module):
    """Gives actions as TD3's actors do, behind a tanh; without it, numbers that a tanh has to come behind."""

    def __init__(self, *, tanh: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 2)
        self.tanh, self.scale = tanh, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.net(x)
        return torch.tanh(found) * self.scale if self.tanh else found


class Spread(nn.Module):
    """Gives a mean and its std, as it is or as its logarithm."""

    def __init__(self, *, log: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mean, self.spread, self.log = nn.Linear(4, 2), nn.Linear(4, 2), log

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        std = nn.functional.softplus(self.spread(x)) + 0.05
        return self.mean(x), std.log() if self.log else std


def table(bound: float = 1.0, **network: object) -> Table:
    """Declare a whole module with two numbers between +-bound."""
    action: Table = {"low": [-bound] * 2, "high": [bound] * 2}
    return {"observation": {"shape": [4]}, "action": action, "network": {"kind": "module"} | network}


def told(policy: TrainedPolicy) -> list[str]:
    """Make the artefact, and give what was told besides."""
    lines: list[str] = []
    build(policy, ABOUT, tell=lines.append)
    return lines


def adopted(folder: Path, *words: str, tanh: bool = True) -> list[str]:
    """Give the words of a command that adopts a file with a tanh at its end, or without one."""
    file = File()
    found = file.linear(file.input("obs", ["batch", 4]), 4, 2)
    file.add("Tanh" if tanh else "Identity", found, out=file.output("out", ["batch", 2]))
    (folder / "theirs.onnx").write_bytes(file.data())
    return [str(folder / "theirs.onnx"), "-o", str(folder / "ours-1.onnx"), "--head", "mean", *words]


def squashed_module() -> None:
    """Ask for a tanh behind a module that has one."""
    build(of_module(Actor(), table(2.0, head="deterministic", squash="tanh")), ABOUT)


def squashed_script() -> None:
    """Ask for one behind TorchScript."""
    asked = parsed(table(head="deterministic", squash="tanh"), "a.toml")
    build(torch_file(saved(Actor()), "a.pt", asked), ABOUT)


def squashed_gaussian() -> None:
    """Ask for one behind means that have one, with a std."""
    build(of_module(Actor(), table(head="gaussian", std=0.3, squash="tanh")), ABOUT)


@pytest.mark.parametrize("make", [squashed_module, squashed_script, squashed_gaussian])
def test_a_second_tanh_is_refused(make: Callable[[], None]) -> None:
    """No action would ever be beyond 0.76 of its bound, and 100 % the same on both sides of the proof."""
    with pytest.raises(HeadImplausible, match=r"a tanh was asked for .* between -1 and 1 and reach both"):
        make()


def test_a_second_tanh_is_refused_of_an_adopted_file(tmp_path: Path) -> None:
    """--squash tanh is for means that come before it."""
    words = adopted(tmp_path, "--squash", "tanh", "--action-low=-2", "--action-high=2")

    with pytest.raises(HeadImplausible, match=r"a tanh was asked for .* between -1 and 1 and reach both"):
        run(words)


def test_a_first_tanh_is_right(tmp_path: Path) -> None:
    """Numbers before a tanh are squashed, and a small network that is far from saturating is no evidence."""
    small = Actor()
    with torch.no_grad():
        small.net.weight.mul_(0.01)

    assert told(of_module(Actor(tanh=False), table(head="deterministic", squash="tanh"))) == []
    assert told(of_module(small, table(head="deterministic", squash="tanh"))) == []
    assert run(adopted(tmp_path, "--squash", "tanh", "--action-low=-2", "--action-high=2", tanh=False)) == 0


@pytest.mark.parametrize("source", ["module", "torchscript", "adopted"])
def test_numbers_of_a_tanh_with_other_bounds_are_warned_of(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pendulum's torque goes to 2: an actor that is not brought there answers half of it."""
    if source == "adopted":
        run(adopted(tmp_path, "--action-low=-2", "--action-high=2"))
        lines = capsys.readouterr().out.splitlines()
    elif source == "module":
        lines = told(of_module(Actor(), table(2.0, head="deterministic")))
    else:
        lines = told(torch_file(saved(Actor()), "a.pt", parsed(table(2.0, head="deterministic"), "a.toml")))

    assert [line for line in lines if "action_0, action_1 are between -1 and 1 and reach both" in line]


@pytest.mark.parametrize(
    ("actor", "asked"),
    [
        (Actor(), table(1.0, head="deterministic")),
        (Actor(scale=2.0), table(2.0, head="deterministic")),
        (Actor(), table(2.0, head="deterministic", unscale={"scale": 2.0})),
        (Actor(tanh=False), table(2.0, head="deterministic")),
    ],
    ids=["its bounds", "scaled inside", "scaled by the declaration", "no tanh"],
)
def test_bounds_that_fit_are_not_warned_of(actor: Actor, asked: Table) -> None:
    """Where numbers come to the action's bounds there is nothing to say."""
    assert told(of_module(actor, asked)) == []


def test_a_std_taken_for_its_logarithm_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exponential of a std is never below 1."""
    log, plain = Spread(log=True), Spread(log=False)
    wide = table(9.0, head="gaussian", std={"output": 1})
    file = File()
    found = file.network(file.input("obs", ["batch", 4]), 4, 4)
    halves = [file.constant([at], "int64") for at in (0, 2, 4, 1)]
    mean = file.add("Slice", found, halves[0], halves[1], halves[3])
    std = file.add("Exp", file.add("Slice", found, halves[1], halves[2], halves[3]))
    file.add("Concat", mean, std, axis=1, out=file.output("out", ["batch", 4]))
    (tmp_path / "theirs.onnx").write_bytes(file.data())
    words = [str(tmp_path / "theirs.onnx"), "-o", str(tmp_path / "ours-1.onnx"), "--head"]

    assert "the std is above 1 for every number" in told(of_module(plain, wide))[0]
    assert told(of_module(log, wide)) == []
    assert told(of_module(plain, table(9.0, head="gaussian", std={"output": 1, "of": "std"}))) == []
    run([*words, "mean_std"])
    assert "warning" not in capsys.readouterr().out


def checkpoint(name: str, value: float, **std: object) -> tuple[bytes, Table]:
    """Give a state dict with a tensor for the std under some name, and its declaration."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    stream = io.BytesIO()
    torch.save(net.state_dict() | {name: torch.full((2,), value)}, stream)
    network: Table = {"hidden": [8], "activation": "tanh", "head": "gaussian", "std": {"parameter": name} | std}
    return stream.getvalue(), table(9.0) | {"network": network}


@pytest.mark.parametrize("name", ["std", "actor.std", "action_stddev"])
def test_a_tensor_that_is_called_a_std_has_to_be_said(name: str) -> None:
    """rsl_rl's std of 0.6 would become 1.8, because a logarithm is what nothing said means."""
    data, asked = checkpoint(name, 0.6)
    with pytest.raises(DeclarationInvalid, match=rf"network.std has '{name}', which by its name is a std"):
        state_dict(data, "a.pt", parsed(asked, "a.toml"))

    for of, std in (("std", 0.6), ("log_std", float(np.exp(0.6)))):
        data, asked = checkpoint(name, 0.6, of=of)
        policy = state_dict(data, "a.pt", parsed(asked, "a.toml"))
        assert np.allclose(policy.answer({"obs": np.zeros((1, 4), np.float32)})["std"], std)


@pytest.mark.parametrize("name", ["log_std", "actor_logstd", "log_std_parameter"])
def test_a_tensor_that_is_called_a_logarithm_is_one(name: str) -> None:
    """Nothing is asked of such a name; where it is said to be a std, that is warned of."""
    data, asked = checkpoint(name, 0.6)
    policy = state_dict(data, "a.pt", parsed(asked, "a.toml"))
    data, asked = checkpoint(name, 0.6, of="std")

    assert np.allclose(policy.answer({"obs": np.zeros((1, 4), np.float32)})["std"], np.exp(0.6))
    assert told(policy) == []
    remarks = state_dict(data, "a.pt", parsed(asked, "a.toml")).remarks
    assert f"warning: network.std is {name}, which by its name is a logarithm" in remarks
