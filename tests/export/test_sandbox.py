"""Behaviour of trusted files: unpickled only where nothing can be reached, and what comes back is only arrays."""

import io
import os
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export import sandbox
from export.errors import CheckpointRefused, OptionInvalid
from export.sandbox import Limits, trusted_state_dict, unpickled
from tests.export.gadgets import Gadget

QUICK = Limits(memory=256 * 1024 * 1024, cpu_s=1, wall_s=60.0, answer=1024 * 1024)


class Net(nn.Module):
    """A network whose class the confined process does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        self.register_buffer("steps", torch.tensor(7))


def saved(value: object, *, zipped: bool = True) -> bytes:
    """Give what ``torch.save`` writes."""
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def code(text: str) -> bytes:
    """Give a pickle that runs the text."""
    return pickle.dumps(Gadget(exec, text, {}))


def test_a_whole_module_comes_back_as_its_tensors() -> None:
    """A module that was saved whole gives its state dict, although its class is not at hand."""
    net = Net()

    found = trusted_state_dict(saved(net), "net.pt")

    assert found.keys() == net.state_dict().keys()
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
        assert found[name].dtype == tensor.numpy().dtype


def test_tensors_are_found_inside_dicts() -> None:
    """A training checkpoint, here in torch's old form, gives the tensors and modules in it by their path."""
    given = {"epoch": 3, "model": {"w": torch.ones(2)}, "stats": np.arange(3), "actor": nn.Linear(1, 1), "when": b"now"}

    found = trusted_state_dict(saved(given, zipped=False), "all.pt")

    assert sorted(found) == ["actor.bias", "actor.weight", "model.w", "stats"]


class Kept:
    """Statistics as an object, with something in it that is no number."""

    def __init__(self) -> None:
        self.mean, self.var, self.env = np.ones(3), np.full(3, 2.0), "Ant-v4"


def test_what_is_no_tensor_of_a_dict_is_told_apart() -> None:
    """Objects' arrays, numbers and lists are given for who names them; a replay buffer is only named."""
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}}
    given = {"net": {"w": torch.ones(2)}, "rms": Kept(), "std": [1, 2.5], "epoch": 3, "when": None, "ok": True}
    big = Kept()
    big.mean = np.zeros(1_000_000)

    found = unpickled(pickle.dumps(given | {"optimizer": optimizer, "buffer": big}), "all.pkl")

    assert list(found.arrays) == ["net.w"]
    assert sorted(found.within) == ["buffer.var", "optimizer.state.0.exp_avg", "rms.mean", "rms.var"]
    assert {name: array.tolist() for name, array in found.plain.items()} == {"std": [1, 2.5], "epoch": 3}
    kinds = {"when": "NoneType", "ok": "bool", "rms.env": "str", "buffer.env": "str"}
    assert found.others == kinds | {"buffer.mean": "array of float64 [1000000]"}
    with pytest.raises(CheckpointRefused, match="no arrays that could be found"):
        trusted_state_dict(pickle.dumps({"epoch": 3}), "none.pkl")
    with pytest.raises(CheckpointRefused, match="more than 20000 things"):
        unpickled(pickle.dumps({f"a{at}": at for at in range(20_001)}), "many.pkl")


@pytest.mark.parametrize(
    ("table", "states"),
    [
        ({0: [1.0, 2.0], 2: np.array([3.0, 4.0])}, [[0], [2]]),
        ({-1: [1.0, 2.0], np.int64(2): [3.0, 4.0]}, [[-1], [2]]),
        ({(0, 3): [1.0, 2.0], (1, False): [3.0, 4.0]}, [[0, 3], [1, 0]]),
    ],
)
def test_a_pickled_table_comes_back_as_its_states_and_rows(table: object, states: list[list[int]]) -> None:
    """A dict from states to rows is a table; what it lacks is not made up there, and -1 is not the last row."""
    found = trusted_state_dict(pickle.dumps(table), "q.pkl")

    np.testing.assert_array_equal(found["q_states"], states)
    np.testing.assert_array_equal(found["q_table"], [[1, 2], [3, 4]])


ATTEMPTS = """
import _socket, _thread, os
def shell():
    if os.system("touch {canary}"): raise PermissionError
def variables():
    if not os.environ: raise PermissionError
def thread():
    try: _thread.start_new_thread(print, ())
    except RuntimeError: raise PermissionError
tries = {{
    "file": lambda: open({canary!r}, "w"),
    "folder": lambda: os.mkdir({canary!r}),
    "link": lambda: os.symlink("/", {canary!r}),
    "removal": lambda: os.unlink({kept!r}),
    "program": lambda: os.execv("/bin/touch", ["touch", {canary!r}]),
    "shell": shell,
    "reading": lambda: open("/proc/self/environ").read(),
    "listing": lambda: os.listdir("/"),
    "fork": os.fork,
    "thread": thread,
    "network": lambda: _socket.socket().connect(("127.0.0.1", {port})),
    "signal": lambda: os.kill({parent}, 9),
    "variables": variables,
}}
reached = []
for name, attempt in tries.items():
    try: attempt()
    except PermissionError: continue
    except BaseException as error: name += repr(error)
    reached.append(name)
raise RuntimeError("tried %d and reached %s" % (len(tries), reached))
"""


def test_a_trusted_file_reaches_nothing(tmp_path: Path) -> None:
    """No file, program, process, thread, variable or address can be reached from inside, even by name."""
    kept = tmp_path / "kept"
    kept.touch()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        place = {"canary": str(tmp_path / "canary"), "kept": str(kept)}
        text = ATTEMPTS.format(**place, port=listener.getsockname()[1], parent=os.getpid())

        with pytest.raises(CheckpointRefused, match=r"tried 13 and reached \[\]"):
            trusted_state_dict(code(text), "evil.pkl", QUICK)

        with pytest.raises(BlockingIOError):
            listener.accept()
    assert list(tmp_path.iterdir()) == [kept]


ENDINGS = {
    "memory": ("[bytearray(1 << 24) for _ in range(1 << 20)]", "MemoryError|status"),
    "time": ("while True: pass", "status -(9|24)"),
    "crash": ("import ctypes; ctypes.string_at(0)", "status -11"),
    "flood": ("import os\nfor at in range(3, 9):\n while True: os.write(at, b'x' * 65536)", "no answer|status|failed"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_trusted_file_ends_at_its_limits(name: str) -> None:
    """Memory, processor time and the size of the answer are bounded, and a crash is only the process's own."""
    text, expected = ENDINGS[name]

    with pytest.raises(CheckpointRefused, match=expected):
        trusted_state_dict(code(text), "evil.pkl", QUICK)


ANSWERS = {
    "nothing": (b"", "no answer"),
    "no JSON": (b"hello\n", "no answer"),
    "deep JSON": (b"[" * 100_000 + b"\n", "no answer"),
    "no object": (b"[]\n", "no answer"),
    "no arrays": (b'{"arrays": []}\n', "no arrays"),
    "other things than arrays": (b'{"arrays": 3}\n', "no arrays"),
    "giant shape": (b'{"arrays": [["a", "<f4", [1099511627776]]]}\n', "does not fit"),
    "negative shape": (b'{"arrays": [["a", "<f4", [-1]]]}\n', "does not fit"),
    "too few bytes": (b'{"arrays": [["a", "<f4", [1]]]}\nabc', "does not fit"),
    "twice": (b'{"arrays": [["a", "<f4", [0]], ["a", "<f4", [0]]]}\n', "does not fit"),
    "objects": (b'{"arrays": [["a", "|O", [1]]]}\n12345678', "something else than arrays"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_believed_no_more_than_a_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process writes is cut into arrays of numbers, or refused."""
    answer, expected = ANSWERS[name]
    monkeypatch.setattr(sandbox, "_PROGRAM", f"import os, sys; os.write(int(sys.argv[3]), {answer!r})")

    with pytest.raises(CheckpointRefused, match=expected):
        trusted_state_dict(b"", "evil.pkl", QUICK)


def test_the_clock_stops_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that needs longer than is allowed is ended by the clock."""
    monkeypatch.setattr(sandbox, "_PROGRAM", "while True: pass")

    with pytest.raises(CheckpointRefused, match=r"longer than 0.05 s"):
        trusted_state_dict(b"", "slow.pkl", Limits(wall_s=0.05))


def test_a_system_that_cannot_confine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a measure is missing the file is not even opened, and the message names the measure."""
    program = sandbox._PROGRAM.replace(
        "from export.sandboxed import main", "import export.sandboxed as s; s.confine = lambda: ''; main = s.main"
    )
    monkeypatch.setattr(sandbox, "_PROGRAM", program)

    with pytest.raises(OptionInvalid, match="a ban on the network"):
        trusted_state_dict(code("raise SystemExit"), "evil.pkl", QUICK)


def test_a_system_without_memory_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file could not be handed over sealed."""
    monkeypatch.delattr(os, "memfd_create")

    with pytest.raises(OptionInvalid, match="memory files"):
        trusted_state_dict(b"", "net.pt")
