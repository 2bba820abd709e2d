"""TorchScript: stateless modules as they are, stateful ones with their state outside, nothing that could do harm."""

import io
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.declaration import Declaration, parsed
from export.errors import CheckpointRefused, DeclarationInvalid, OptionInvalid
from export.graph import graph_of
from export.parity import TOLERANCE
from export.runtime import Session
from export.scripted import is_torchscript
from export.torchscript import torch_file
from export.trained import About, TrainedPolicy
from export.write import build
from tests.export.cleanrl import nature

UNITREE = Path("../shared/policies/torchscript/unitree_g1_lstm_STATEFUL.pt")
Table = dict[str, object]

torch.set_num_threads(1)


@contextmanager
def quiet() -> Iterator[None]:
    """Let torch say that TorchScript is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def scripted(module: nn.Module, example: torch.Tensor | None = None) -> bytes:
    """Script a module, or trace it on an example, and give the file."""
    stream = io.BytesIO()
    make = torch.jit.script if example is None else torch.jit.trace
    given = (module,) if example is None else (module, example)
    with quiet():
        torch.jit.save(make(*given), stream)  # type: ignore[operator]
    return stream.getvalue()


def declared(width: int, outputs: int, **network: object) -> Declaration:
    """Declare a deterministic Box policy of a whole module."""
    table: Table = {
        "observation": {"shape": [width]},
        "action": {"fields": [{"name": f"joint_{at}"} for at in range(outputs)]},
        "network": {"kind": "module", "head": "deterministic"} | network,
    }
    return parsed(table, "robot.toml")


def rows(count: int, width: int) -> torch.Tensor:
    """Draw observations, the same ones every time."""
    return torch.randn((count, width), generator=torch.Generator().manual_seed(0))


class Stateful(nn.Module):
    """Keeps an LSTM's state in buffers, as robots' policies are exported: by writing into them, or by setting them."""

    hidden: torch.Tensor
    cell: torch.Tensor

    def __init__(self, *, write: bool = True, batch_first: bool = False) -> None:
        super().__init__()
        self.memory = nn.LSTM(4, 6, 2, batch_first=batch_first)
        self.actor = nn.Sequential(nn.Linear(6, 5), nn.ELU(), nn.Linear(5, 2))
        self.register_buffer("hidden", torch.zeros(2, 1, 6))
        self.register_buffer("cell", torch.zeros(2, 1, 6))
        self.write, self.axis = write, 1 if batch_first else 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, (hidden, cell) = self.memory(x.unsqueeze(self.axis), (self.hidden, self.cell))
        if self.write:
            self.hidden[:] = hidden
            self.cell[:] = cell
        else:
            self.hidden, self.cell = hidden, cell
        found: torch.Tensor = self.actor(out.squeeze(self.axis))
        return found


class History(nn.Module):
    """Keeps the last three observations."""

    past: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("past", torch.zeros(1, 3, 4))
        self.actor = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.past = torch.cat([self.past[:, 1:], x.unsqueeze(1)], dim=1)
        found: torch.Tensor = self.actor(self.past.flatten(1))
        return found


class Counting(nn.Module):
    """Counts its steps in a number."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: int = 0
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps = self.steps + 1
        found: torch.Tensor = self.layer(x) * float(self.steps)
        return found


class Drifting(nn.Module):
    """Has a state over all rows, which no session can have for itself."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean[:] = 0.9 * self.mean + 0.1 * x.mean(0)
        found: torch.Tensor = self.layer(x - self.mean)
        return found


class Deciding(nn.Module):
    """Goes another way for another observation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x)
        if bool(x.sum() > 0):
            return found
        return -found


class Writing(nn.Module):
    """Writes a file."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "written")
        return x[:, :2]


class Sampling(nn.Module):
    """Draws its action."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :2] + torch.randn_like(x[:, :2])


class Endless(nn.Module):
    """Does not come to an end."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.sum() < 1e9):
            x = x * 1.0
        return x[:, :2]


class Long(nn.Module):
    """Comes to an end much later."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(1000000000000):
            x = x * 1.0
        return x[:, :2]


class Huge(nn.Module):
    """Asks for four terabytes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :2] + torch.zeros([1024, 1024, 1024, 1024]).sum()


def differences(policy: TrainedPolicy, module: nn.Module, steps: torch.Tensor) -> float:
    """Play an episode with the graph, its memory outside, and with the module that keeps its state; the worst error."""
    session = Session(graph_of(policy).SerializeToString())
    memory = {port.name: np.zeros((1, *port.shape), dtype=np.float32) for port in policy.inputs[1:]}
    worst = 0.0
    for obs in steps:
        found = session.run({"obs": obs.unsqueeze(0).numpy(), **memory})
        memory = {name: np.asarray(found[name.replace(".in", ".out")]) for name in memory}
        with torch.no_grad():
            worst = max(worst, float(np.abs(found["mean"] - module(obs.unsqueeze(0)).numpy()).max()))
    return worst


@pytest.mark.skipif(not UNITREE.exists(), reason="needs the real policies beside the repository")
def test_a_robots_stateful_module_is_right_over_100_steps() -> None:
    """The state that the module keeps in its buffers goes in and out, and every step is the original's (trap 29)."""
    policy = torch_file(UNITREE.read_bytes(), UNITREE.name, declared(47, 12))
    with quiet():
        original = torch.jit.load(str(UNITREE))  # type: ignore[no-untyped-call]

    worst = differences(policy, original, rows(100, 47))

    assert worst < TOLERANCE
    assert [(memory.name, memory.shape) for memory in policy.memory] == [("hidden_state", (64,)), ("cell_state", (64,))]


@pytest.mark.parametrize(
    "module",
    [Stateful(), Stateful(write=False), Stateful(write=False, batch_first=True), History()],
    ids=["written", "set", "batch first", "history"],
)
def test_states_become_memory(module: nn.Module) -> None:
    """LSTMs that write into their buffers or set them anew, and a history of observations, over 100 steps."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.6)

    policy = torch_file(scripted(module), "robot.pt", declared(4, 2))

    assert differences(policy, module, rows(100, 4)) < TOLERANCE
    assert "the module's own state in and out" in policy.inside[-1]


def test_sessions_side_by_side_keep_their_states_apart() -> None:
    """Rows of one batch answer as each would alone."""
    policy = torch_file(scripted(Stateful()), "robot.pt", declared(4, 2))
    session = Session(graph_of(policy).SerializeToString())
    states = {port.name: rows(5, 12).reshape(5, 2, 6).numpy() for port in policy.inputs[1:]}

    together = session.run({"obs": rows(5, 4).numpy(), **states})
    alone = [
        session.run({"obs": rows(5, 4)[at : at + 1].numpy(), **{name: s[at : at + 1] for name, s in states.items()}})
        for at in range(5)
    ]

    for name in together:
        assert np.abs(np.asarray(together[name]) - np.concatenate([one[name] for one in alone])).max() < 1e-6


def test_a_stateful_module_becomes_an_artefact() -> None:
    """The whole way, with the original TorchScript as what the graph is compared with."""
    artefact = build(torch_file(scripted(Stateful()), "robot.pt", declared(4, 2)), About(name="test", version="1"))

    assert artefact.manifest.parity.reference.startswith("TorchScript in torch")
    assert [memory.shape for memory in artefact.manifest.memory] == [(2, 6), (2, 6)]


@pytest.mark.parametrize("way", ["script", "trace"])
def test_a_stateless_module(way: str) -> None:
    """A network without state, scripted or traced, answers as it is, un-scaled as declared."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(4, 8), nn.LayerNorm(8), nn.ELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2)
    ).eval()
    data = scripted(module, None if way == "script" else rows(1, 4))

    policy = torch_file(data, "robot.pt", declared(4, 2, unscale={"scale": 0.25, "offset": [1, -1], "clip": 100}))
    found = Session(graph_of(policy).SerializeToString()).run({"obs": rows(200, 4).numpy()})

    own = torch.tensor([1.0, -1.0]) + 0.25 * module(rows(200, 4))
    assert np.abs(found["mean"] - own.detach().numpy()).max() < 1e-5
    assert policy.memory == ()


def test_an_image_module() -> None:
    """Convolutions, from images of uint8 that are divided inside."""
    torch.manual_seed(0)
    module = nn.Sequential(*nature(1), nn.Linear(512, 3)).eval()
    table: Table = {
        "observation": {"shape": [84, 84, 1], "dtype": "uint8", "layout": "NHWC", "scale": 255},
        "action": {"n": 3},
        "network": {"kind": "module"},
    }
    images = np.random.default_rng(0).integers(0, 256, (20, 84, 84, 1), dtype=np.uint8)

    policy = torch_file(scripted(module), "atari.pt", parsed(table, "atari.toml"))
    found = Session(graph_of(policy).SerializeToString()).run({"obs": images})

    own = module(torch.from_numpy(images).permute(0, 3, 1, 2) / 255.0).detach().numpy()
    assert np.abs(found["q_values"] - own).max() < 1e-5


def test_dropout_in_a_module_saved_in_training_mode_is_off() -> None:
    """TorchScript saved in training mode is used in eval mode (trap 19)."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    module(rows(64, 4) * 2 + 1)

    policy = torch_file(scripted(module.train()), "robot.pt", declared(4, 2))

    found = policy.answer({"obs": rows(100, 4).numpy()})
    assert np.abs(found["mean"] - module.eval()(rows(100, 4)).detach().numpy()).max() < 1e-6


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Counting(), "sets 'steps', which is no tensor"),
        (Drifting(), r"cannot be kept for each session apart: mean \[4\]"),
        (Deciding(), "calls bool on a .*Tensor: its way must not depend on its numbers"),
        (Writing(), "calls torch.save, which is not on the list"),
        (Sampling(), "calls torch.randn_like, which draws random numbers"),
        (Endless(), "its code has a while"),
        (Long(), "takes more than 20000 steps"),
        (Huge(), "makes a tensor of 1099511627776 numbers by zeros"),
    ],
)
def test_what_a_graph_cannot_do_or_must_not_is_refused(
    module: nn.Module, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States in numbers or over all sessions, decisions, files, chance, endless loops, memory: nothing of it is run."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(CheckpointRefused, match=message):
        torch_file(scripted(module), "robot.pt", declared(4, 2))
    assert list(tmp_path.iterdir()) == []


def changed(data: bytes, name: str, content: bytes) -> bytes:
    """Put another content at those of an archive's members whose path has the name in it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, content if name in info.filename else old.read(info))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"import os\n", "its code has a import"),
        (b"def f(x):\n  return eval(x)\n", "its code calls eval"),
        (b"def f(x):\n  return torch.from_file(x)\n", "torch.from_file, which is not on the list"),
        (b"def f(x):\n  return ops.mine.run(x)\n", "ops.mine.run, which is not on the list"),
        (b"def f(x):\n  return __torch__.torch.classes.c.C(x)\n", "a class that comes from outside"),
        (b"class A(Module):\n  def __setstate__(self, s):\n    return None\n", "which runs as it is loaded"),
        (b"def f(:\n", r"cannot be read \(SyntaxError\)"),
        (b"x = " + b"(" * 9000, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_code_that_is_no_arithmetic_is_refused_before_loading(code: bytes, message: str) -> None:
    """The archive's code is read as text first; what is not on the list is never loaded."""
    data = changed(scripted(nn.Linear(4, 2)), "/code/", code)

    with pytest.raises(CheckpointRefused, match=message):
        torch_file(data, "robot.pt", declared(4, 2))


def test_a_damaged_archive_is_refused() -> None:
    """A pickle that torch's own reader does not take, and NaN in a weight, are sentences."""
    layer = nn.Linear(4, 2)
    good = scripted(layer)
    with torch.no_grad():
        layer.weight[0, 0] = torch.nan

    with pytest.raises(CheckpointRefused, match=r"cannot be read as TorchScript \("):
        torch_file(changed(good, "/data.pkl", b"cos\nsystem\n(S'true'\ntR."), "robot.pt", declared(4, 2))
    with pytest.raises(CheckpointRefused, match="holds NaN or infinite values"):
        torch_file(scripted(layer), "robot.pt", declared(4, 2))


def test_torchscript_and_state_dicts_are_told_apart() -> None:
    """Both end in .pt: the archive's members tell them, and each asks for a declaration of its kind."""
    stream = io.BytesIO()
    torch.save(nn.Sequential(nn.Linear(4, 2)).state_dict(), stream)
    script, tensors = scripted(nn.Linear(4, 2)), stream.getvalue()
    layers = declared(4, 2, kind="mlp")

    assert is_torchscript(script)
    assert not is_torchscript(tensors)
    assert not is_torchscript(b"PK\x03\x04 cut")
    assert torch_file(tensors, "net.pt", layers).family == "deterministic"
    with pytest.raises(DeclarationInvalid, match=r"kind is 'mlp', expected 'module'"):
        torch_file(script, "net.pt", layers)
    with pytest.raises(DeclarationInvalid, match=r"kind is 'module', which is for TorchScript"):
        torch_file(tensors, "net.pt", declared(4, 2))
    with pytest.raises(DeclarationInvalid, match=r"does not say what its numbers mean: give --declare"):
        torch_file(script, "net.pt", None)
    with pytest.raises(OptionInvalid, match=r"--cvar is 0\.5"):
        torch_file(script, "net.pt", declared(4, 2), 0.5)


class Phase(nn.Module):
    """Counts time in a buffer, and knows how an episode begins."""

    time: torch.Tensor

    def __init__(self, begun: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2)
        self.register_buffer("time", torch.full((1, 1), begun))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.time += 0.125
        found: torch.Tensor = self.layer(torch.cat([x, self.time.expand(x.shape[0], 1)], dim=1))
        return found


class Zeroed(Phase):
    """Sets it to 0."""

    @torch.jit.export
    def reset(self) -> None:
        self.time.zero_()


class Ahead(Phase):
    """Sets it to 1, which is never stored."""

    @torch.jit.export
    def reset_memory(self) -> None:
        self.time[:] = 1.0


class OfSome(Phase):
    """Sets it for some robots of many, which is not what a session needs."""

    @torch.jit.export
    def reset(self, robots: torch.Tensor) -> None:
        self.time[robots] = 0.0


@pytest.mark.parametrize(
    ("module", "begins"),
    [(Zeroed(0.375), 0.0), (Zeroed(), 0.0), (Ahead(), 1.0), (OfSome(0.375), 0.375), (OfSome(), 0.0)],
    ids=["saved midway", "saved at the beginning", "elsewhere than stored", "a reset of some", "begins at 0"],
)
def test_an_episode_begins_as_the_modules_own_reset_says(module: Phase, begins: float) -> None:
    """A state of one number that was saved in the midst of an episode looks like any beginning."""
    policy = torch_file(scripted(module), "robot.pt", declared(4, 2))

    assert [memory.initial for memory in policy.memory] == [begins]
    assert policy.remarks == ()


def test_a_beginning_that_only_the_file_says_is_warned_of() -> None:
    """Without a reset nothing tells a beginning from what was there as the module was saved."""
    (said,) = torch_file(scripted(Phase(0.375)), "robot.pt", declared(4, 2)).remarks

    assert said.startswith("warning: the state time begins each episode at 0.375, as the module was saved")
    assert torch_file(scripted(Phase()), "robot.pt", declared(4, 2)).remarks == ()
