"""Numbers of an action that never change are named, until people say that they may; a std is never negative."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.adopt.adoption import adopt
from export.adopt.command import run
from export.adopt.reading import Said
from export.declaration import parsed
from export.declared import state_dict
from export.errors import DeclarationInvalid, HeadImplausible, OptionInvalid
from export.gaussian_columns import columns_named, constant_columns
from export.module import of_module
from export.runtime import Session
from export.spec import Box, Discrete, Field, Recorded
from export.spec.artefact import open_artefact
from export.torchscript import torch_file
from export.trained import About
from export.write import build
from tests.export.adopt.files import File, answered, finished, rows
from tests.export.test_torchscript import scripted

ABOUT = About(name="test", version="1")
Table = dict[str, object]

torch.set_num_threads(1)


class Rllib(nn.Module):
    """RLlib's default Gaussian with a free log-std: [mean, log_std] as one output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        self.log_std = nn.Parameter(torch.tensor([-0.7, 0.2]))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        mean = self.net(obs)
        return torch.cat([mean, self.log_std.unsqueeze(0).expand_as(mean)], dim=1)


class Padded(nn.Module):
    """Three numbers, of which the second is a padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 2)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        found = self.net(obs)
        return torch.stack([found[:, 0], torch.zeros_like(found[:, 0]), found[:, 1]], dim=1)


class Saturated(nn.Module):
    """A second number that is 1 but where the observation is close to zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 1)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.net(obs), torch.tanh(60 * obs.norm(dim=1, keepdim=True))], dim=1)


def table(count: int, head: str = "deterministic", **action: object) -> Table:
    """Declare a whole module of a Box action with so many numbers."""
    names = [{"name": f"joint_{at}"} for at in range(count)]
    network: Table = {"kind": "module", "head": head}
    return {"observation": {"shape": [4]}, "action": {"fields": names} | action, "network": network}


def rllib_file() -> bytes:
    """Give an ONNX file of [mean, log_std], the second half free."""
    file = File()
    mean = file.network(file.input("obs", ["batch", 4]), 4, 2)
    log_std = file.add("Add", file.add("Mul", mean, file.constant([0.0])), file.constant([-0.5, 0.3]))
    file.add("Concat", mean, log_std, axis=1, out=file.output("dist", ["batch", 4]))
    return file.data()


def test_mean_and_log_std_taken_for_an_action_are_refused_when_adopted() -> None:
    """Four numbers of which two never change: they are named with their values, and the head that splits them."""
    with pytest.raises(HeadImplausible, match=r"2 never change \(action_2 = -0.5, action_3 = 0.3\).*mean_log_std"):
        finished(rllib_file(), Said(head="mean"))
    with pytest.raises(HeadImplausible, match="say --constant 2,3"):
        finished(rllib_file(), Said(head="mean", action_low=(-1.0,), action_high=(1.0,)))


def test_mean_and_log_std_taken_for_an_action_are_refused_in_torchscript() -> None:
    """The same of a module's file, and of a module in memory."""
    data = scripted(Rllib())

    with pytest.raises(
        HeadImplausible, match=r"joint_2 = -0.7, joint_3 = 0.2.*head = 'mean_log_std' under \[network\]"
    ):
        build(torch_file(data, "policy.pt", parsed(table(4), "robot.toml")), ABOUT)
    with pytest.raises(HeadImplausible, match=r"constant = \[2,3\] under \[action\]"):
        build(of_module(Rllib(), table(4)), ABOUT)


@pytest.mark.parametrize("source", ["module", "torchscript"])
def test_the_head_that_was_advised_splits_them(source: str) -> None:
    """mean_log_std of a module: the first half is the mean, the exponential of the second the std."""
    declared = table(2, "mean_log_std")
    data = scripted(Rllib())
    policy = (
        of_module(Rllib(), declared) if source == "module" else torch_file(data, "a.pt", parsed(declared, "robot.toml"))
    )
    seen = rows(100, 4)

    found = Session(build(policy, ABOUT).data).run({"obs": seen})

    mean = Rllib()(torch.from_numpy(seen)).detach().numpy()[:, :2]
    assert np.abs(found["mean"] - mean).max() <= 1e-5
    assert np.abs(found["std"] - np.exp(np.array([-0.7, 0.2], np.float32))).max() <= 1e-6


def test_a_padding_is_refused_until_it_is_told() -> None:
    """A number in the midst is named without advice on a std; by name or place it may stay."""
    with pytest.raises(HeadImplausible, match=r"1 never change \(joint_1 = 0\)") as refused:
        build(of_module(Padded(), table(3)), ABOUT)
    assert "mean_log_std" not in str(refused.value)

    by_name, by_place = (build(of_module(Padded(), table(3, constant=[told])), ABOUT) for told in ("joint_1", 1))

    assert by_name.digest == by_place.digest
    assert (Session(by_name.data).run({"obs": rows(5, 4)})["mean"][:, 1] == 0).all()
    with pytest.raises(HeadImplausible, match=r"joint_1 = 0"):
        build(of_module(Padded(), table(3, constant=["joint_0"])), ABOUT)


def test_a_dead_output_of_a_state_dict_is_refused(tmp_path: Path) -> None:
    """A row of zeros in the last layer: the number is the layer's bias whatever is observed."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        net[2].state_dict()["weight"][1] = 0.0
    torch.save(net.state_dict(), tmp_path / "net.pt")
    layers: Table = {"hidden": [8], "head": "gaussian", "std": 0.3}
    spaces = table(2) | {"network": layers}

    with pytest.raises(HeadImplausible, match="1 never change") as refused:
        build(state_dict((tmp_path / "net.pt").read_bytes(), "net.pt", parsed(spaces, "net.toml")), ABOUT)

    assert "mean_log_std" not in str(refused.value)


def test_mean_and_log_std_of_a_state_dict(tmp_path: Path) -> None:
    """The last layer of a declared network has twice the action's numbers; a clip of the log-std can be said."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    data, seen = (tmp_path / "net.pt").read_bytes(), rows(80, 4)
    short: Table = {"hidden": [8], "head": "mean_log_std"}
    clipped: Table = {"hidden": [8], "head": "gaussian", "std": {"half": True, "squash": "clip", "span": [-0.1, 0.1]}}

    plain, limited = (
        Session(build(state_dict(data, "net.pt", parsed(table(2) | {"network": network}, "net.toml")), ABOUT).data).run(
            {"obs": seen}
        )
        for network in (short, clipped)
    )

    told = net(torch.from_numpy(seen)).detach().numpy()
    assert np.abs(plain["mean"] - told[:, :2]).max() <= 1e-5
    assert np.abs(plain["std"] - np.exp(told[:, 2:])).max() <= 1e-5
    assert np.abs(limited["std"] - np.exp(told[:, 2:].clip(-0.1, 0.1))).max() <= 1e-5


def test_what_changes_near_the_middle_alone_is_no_constant() -> None:
    """A saturated number that is the same in all 2,000 drawn rows is asked about nearer ones."""
    policy = of_module(Saturated(), table(2))

    artefact = build(policy, ABOUT)

    assert constant_columns(policy.answer({"obs": rows(2000, 4)})["mean"]).tolist() == [False, True]
    assert artefact.manifest.action.width == 2


def test_an_action_that_is_always_at_its_bound_is_refused() -> None:
    """A log-std of -3 and less, clipped to [-1, 1], is -1 for ever, though the network's number changes."""
    file = File()
    obs = file.input("obs", ["batch", 4])
    low = file.add("Sub", file.add("Tanh", file.network(obs, 4, 2)), file.constant([3.0]))
    file.add("Concat", file.network(obs, 4, 2), low, axis=1, out=file.output("dist", ["batch", 4]))

    with pytest.raises(HeadImplausible, match=r"action_2 = -1, action_3 = -1\), though the network's own do"):
        finished(file.data(), Said(head="mean", action_low=(-1.0,), action_high=(1.0,)))
    assert finished(file.data(), Said(head="mean")).manifest.action.width == 4


def test_a_constant_that_recorded_observations_change_is_none() -> None:
    """What was recorded counts: a number that changes there alone is alive."""

    class Far(nn.Module):
        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return torch.stack([obs[:, 0], torch.relu(obs[:, 1] - 1000.0)], dim=1)

    recorded = Recorded({"obs": rows(50, 4) + np.array([0, 1100, 0, 0], np.float32)})

    with pytest.raises(HeadImplausible, match="joint_1 = 0"):
        build(of_module(Far(), table(2)), ABOUT)
    assert build(of_module(Far(), table(2)), ABOUT, recorded=recorded).manifest.action.width == 2


def test_a_constant_std_and_dead_choices_are_legitimate() -> None:
    """A std is often free, and an action that is never chosen has a score that never changes."""
    dead = nn.Sequential(nn.Linear(4, 3))
    with torch.no_grad():
        dead[0].state_dict()["weight"][2] = 0.0
    choice: Table = {"observation": {"shape": [4]}, "action": {"n": 3}, "network": {"kind": "module", "head": "logits"}}

    logits = build(of_module(dead, choice), ABOUT)
    fixed = finished(rllib_file(), Said(head="mean_log_std"))

    assert logits.manifest.head == "logits"
    assert (np.ptp(answered(fixed, {"obs": rows(30, 4)})["std"], axis=0) == 0).all()


def test_sources_that_know_their_head_are_not_asked() -> None:
    """Of a checkpoint that says itself what its head is, a dead output is its own business."""
    policy = replace(of_module(Padded(), table(3)), constant=None)

    assert build(policy, ABOUT).manifest.action.width == 3


def test_a_std_below_zero_is_refused() -> None:
    """A module whose second output is a log-std, declared as a std."""

    class Twofold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.mean, self.spread = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.mean(obs), self.spread(obs)

    network: Table = {"kind": "module", "head": "gaussian", "std": {"output": 1, "of": "std"}}

    with pytest.raises(HeadImplausible, match=r"the std is negative for \d+ of 2000 observations"):
        build(of_module(Twofold(), table(2) | {"network": network}), ABOUT)


def test_the_option_names_constants_by_what_they_are_called(tmp_path: Path) -> None:
    """--constant takes the names that --actions gives, or places."""
    (tmp_path / "theirs.onnx").write_bytes(rllib_file())
    words = [str(tmp_path / "theirs.onnx"), "-o", str(tmp_path / "arm-1.onnx"), "--head", "mean"]

    with pytest.raises(OptionInvalid, match="--constant has 'fin', expected one of action_0, action_1"):
        run([*words, "--constant", "fin"])
    run([*words, "--actions", "x,y,fin,rudder", "--constant", "fin,3"])

    action = open_artefact((tmp_path / "arm-1.onnx").read_bytes()).manifest.action
    assert isinstance(action, Box)
    assert action.fields[2].name == "fin"


def test_constants_that_are_not_there_are_refused() -> None:
    """Names, places and kinds of action that do not fit are said with those that do."""
    box = Box(fields=(Field(name="x"), Field(name="y")))

    assert columns_named(box, ("y", "0", 1), "--constant") == (1, 0, 1)
    with pytest.raises(OptionInvalid, match=r"has '2', expected one of x, y, or a place from 0 to 1"):
        columns_named(box, ("2",), "--constant")
    with pytest.raises(OptionInvalid, match="found an action of kind discrete"):
        columns_named(Discrete(names=("a", "b")), ("a",), "--constant")
    with pytest.raises(DeclarationInvalid, match=r"constant has 'fin', expected one of joint_0, joint_1"):
        parsed(table(2, constant=["fin"]), "robot.toml")
    with pytest.raises(OptionInvalid, match="--constant names numbers of a Box action"):
        adopt(rllib_file(), Said(head="logits", constant=("0",)))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"head": "mean_log_std", "std": 0.5}, "head is 'mean_log_std', which has its std in it, expected no std"),
        ({"head": "gaussian", "std": {"half": True, "output": 1}}, r"expected a number, or one of parameter"),
        ({"head": "mean_log_std", "outputs": [0, 0]}, r"outputs and std.output are \[0, 0\], expected each place once"),
        ({"head": "gaussian", "std": {"output": 1}, "outputs": [0, 1]}, r"are \[0, 1, 1\], expected each place once"),
    ],
)
def test_declarations_that_say_it_twice_are_refused(network: Table, message: str) -> None:
    """A std that comes from two places, and an output that is taken twice."""
    with pytest.raises(DeclarationInvalid, match=message):
        parsed(table(2) | {"network": {"kind": "module"} | network}, "robot.toml")


class Several(nn.Module):
    """Gives one output a branch, or a mean and a log-std: as many as there are widths."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleList(nn.Linear(4, width) for width in widths)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        found = [torch.tanh(head(obs)) for head in self.heads]
        return found[0], found[1], found[2]


@pytest.mark.parametrize("source", ["module", "torchscript"])
def test_outputs_of_a_module_are_put_side_by_side(source: str) -> None:
    """outputs = [2, 0] makes two branches of a module of three; a mean and a log-std become one head."""
    module, seen = Several(3, 2, 2), rows(60, 4)
    branches: Table = {"observation": {"shape": [4]}, "action": {"nvec": [2, 3]}}
    branches["network"] = {"kind": "module", "head": "logits", "outputs": [2, 0]}
    gaussian = table(2) | {"network": {"kind": "module", "head": "mean_log_std", "outputs": [1, 2]}}

    def found(declared: Table) -> dict[str, np.ndarray]:
        data = scripted(module, torch.from_numpy(seen[:2]))
        made = (
            of_module(module, declared)
            if source == "module"
            else torch_file(data, "a.pt", parsed(declared, "robot.toml"))
        )
        return dict(Session(build(made, ABOUT).data).run({"obs": seen}))

    told = [part.detach().numpy() for part in module(torch.from_numpy(seen))]
    choices, spread = found(branches), found(gaussian)
    assert np.abs(choices["logits"] - np.concatenate([told[2], told[0]], axis=1)).max() <= 1e-5
    assert np.array_equal(choices["action"], np.stack([told[2].argmax(axis=1), told[0].argmax(axis=1)], axis=1))
    assert np.abs(spread["mean"] - told[1]).max() <= 1e-5
    assert np.abs(spread["std"] - np.exp(told[2])).max() <= 1e-5


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([0], r"output 0 of the module is float32\[8, 3\] .* expected float32\[8, 5\] \(network.outputs = \[0, 1"),
        ([0, 1, 2], r"outputs 0, 1, 2 of the module are .* expected float32\[8, 5\]"),
        ([0, 3], "output 3 of the module is nothing"),
    ],
)
def test_outputs_of_a_module_that_do_not_fit_are_refused(outputs: list[int], message: str) -> None:
    """Counts and shapes that do not fit are said, with the way to join outputs."""
    declared: Table = {"observation": {"shape": [4]}, "action": {"nvec": [3, 2]}}
    declared["network"] = {"kind": "module", "head": "logits", "outputs": outputs}

    with pytest.raises(DeclarationInvalid, match=message):
        of_module(Several(3, 2, 2), declared)
