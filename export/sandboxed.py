"""The program that unpickles a trusted file, run in a process of its own that is confined first.

It is started by ``sandbox`` with three arguments: the descriptors of the file and of its answer, and its limits as
JSON. The answer is a line of JSON and then the arrays' bytes one after another; nobody has to believe it.
"""

import collections
import contextlib
import ctypes
import io
import json
import math
import os
import pickle  # used in this one place, after the process was confined
import resource
import socket
import sys
import time
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from export.seccomp import confine

_DEPTH = 5
_LIST_CAP = 64
_FOUND_CAP = 20_000
# Statistics are as large as an observation.
_SMALL = 1024 * 1024
_LARGEST = 2**1000
# What torch puts into a module whose class is not at hand, which may have been no module.
_OF_MODULES = frozenset(vars(nn.Module()))
# The number that files start with which torch wrote before it wrote zips.
_LEGACY = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


def main(arguments: list[str]) -> None:
    """Confine this process, check that it is, unpickle the file, write the answer, and end."""
    source, target = int(arguments[0]), int(arguments[1])
    limits: Mapping[str, int] = json.loads(arguments[2])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    _warm_up()
    _limit(limits)
    os.environ.clear()
    missing = confine()
    missing = missing or _unconfined()
    if missing:
        _answer(target, {"missing": missing}, [])
        os._exit(0)
    try:
        found = _gathered(_unpickled(_whole(source)))
        _answer(target, found.head(), list(found.arrays.values()))
    except BaseException as error:  # noqa: BLE001 - whatever the file raises is said and ends here
        _answer(target, {"failed": f"{type(error).__name__}: {error}"[:300]}, [])
    os._exit(0)


def _warm_up() -> None:
    """Use everything once that will be used: afterwards no module can be read from the disk any more."""
    for whole in (True, False):
        stream = io.BytesIO()
        torch.save(nn.Sequential(nn.Linear(1, 1), nn.Tanh()), stream, _use_new_zipfile_serialization=whole)
        _gathered(_unpickled(stream.getvalue()))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        table = collections.defaultdict(list, {0: np.zeros(2), 1: [1.0, 2.0]})
        _gathered(_unpickled(pickle.dumps([table, 1.0, [2.0], None], protocol)))
    with contextlib.suppress(Exception):
        _unpickled(b"nothing")
    json.dumps({"failed": repr(OSError(1, "x"))})


def _limit(limits: Mapping[str, int]) -> None:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - pathlib brings nothing here
        used = int(file.read().split()[0]) * resource.getpagesize()
    wanted = {
        resource.RLIMIT_AS: used + limits["memory"],
        resource.RLIMIT_CPU: math.ceil(time.process_time()) + limits["cpu"],
        resource.RLIMIT_FSIZE: limits["answer"],
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in wanted.items():
        resource.setrlimit(kind, (most, most))


def _unconfined() -> str:
    """Name the first measure that does not hold; nothing where all do."""
    tries: Mapping[str, Callable[[], object]] = {
        "a ban on the network": socket.socket,
        "a ban on opening files": lambda: os.open("/", os.O_RDONLY),
        "a ban on new processes": lambda: os.fork() or os._exit(0),
        "a ban on other programs": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606
        "a ban on signals to others": lambda: os.kill(os.getppid(), 0),
    }
    for measure, attempt in tries.items():
        try:
            attempt()
        except PermissionError:
            continue
        except OSError:
            return measure
        return measure
    return "an empty environment" if os.environ or _environ_of_c() else ""


def _environ_of_c() -> bool:
    environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
    return bool(environ) and environ[0] is not None


def _whole(source: int) -> bytes:
    parts = []
    while part := os.read(source, 1 << 24):
        parts.append(part)
    return b"".join(parts)


class _Unpickler(pickle.Unpickler):
    """Unpickles; a class that is not at hand becomes a bare module, whose tensors are still found."""

    def find_class(self, module: str, name: str) -> object:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return type(name.rpartition(".")[2], (nn.Module,), {"__module__": module})


class _Pickle:
    """What torch.load wants of a pickle module."""

    Unpickler = _Unpickler
    load = staticmethod(lambda stream, **_: _Unpickler(stream).load())


def _unpickled(data: bytes) -> object:
    zipped = data.startswith(b"PK\x03\x04")
    return _torch_load(data) if zipped or _LEGACY in data[:64] else _Unpickler(io.BytesIO(data)).load()


def _torch_load(data: bytes) -> object:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False, pickle_module=_Pickle)


class _Found:
    """What a file gives, by dotted name: its arrays, and the kinds of what is no number.

    ``within`` names the arrays that no state dict holds: those in plain objects, or under keys that are no texts.
    ``plain`` names the numbers, and the lists of them.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.within: list[str] = []
        self.plain: list[str] = []
        self.others: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<_Found {len(self.arrays)} arrays, {len(self.others)} others>"

    def head(self) -> dict[str, object]:
        """Describe the arrays, whose bytes follow in this order."""
        heads = [[name, array.dtype.str, list(array.shape)] for name, array in self.arrays.items()]
        return {"arrays": heads, "within": self.within, "plain": self.plain, "others": list(self.others.items())}

    def add(self, name: str, array: np.ndarray, kept: list[str] | None) -> None:
        """Take an array of a state dict, or a small one of numbers: statistics are small, replay buffers are not."""
        if kept is not None and (array.dtype.kind not in "biuf" or array.nbytes > _SMALL):
            self.others[name] = f"array of {array.dtype} {list(array.shape)}"
            return
        self.arrays[name] = array
        if kept is not None:
            kept.append(name)


def _gathered(found: object) -> _Found:
    """Gather what a file holds: arrays of modules and dicts, and of a table by state as ``q_table``."""
    given = _Found()
    _gather(found, "", 0, given, within=False)
    return given


def _gather(found: object, name: str, depth: int, given: _Found, *, within: bool) -> None:
    if len(given.arrays) + len(given.others) >= _FOUND_CAP:
        msg = f"it holds more than {_FOUND_CAP} things"
        raise ValueError(msg)
    kept = given.within if within else None
    if isinstance(found, torch.Tensor):
        given.add(name, found.detach().cpu().contiguous().numpy(), kept)
    elif isinstance(found, np.ndarray):
        given.add(name, found, kept)
    elif _is_number(found):
        given.add(name, np.asarray(found), given.plain)
    elif isinstance(found, Mapping) and _is_table(found):
        keys = [key if isinstance(key, tuple) else (key,) for key in found]
        given.add(f"{name}q_states", np.array(keys, np.int64), kept)
        given.add(f"{name}q_table", np.array([np.asarray(row) for row in found.values()], np.float64), kept)
    elif isinstance(found, (list, tuple)) and found and all(map(_is_number, found)):
        given.add(name, np.asarray(found, np.float64), given.plain)
    elif isinstance(found, nn.Module) and "_parameters" in vars(found):
        for key, tensor in found.state_dict().items():
            inner = f"{name}.{key}" if name else key
            if isinstance(tensor, torch.Tensor):
                given.arrays[inner] = tensor.detach().cpu().contiguous().numpy()
                given.within.extend([inner] if within else [])
    elif depth < _DEPTH and (parts := _parts(found)):
        texts = isinstance(found, (list, tuple))
        made = not isinstance(found, (Mapping, list, tuple))
        for place, part in parts:
            inner = f"{name}.{place}" if name else str(place)
            _gather(part, inner, depth + 1, given, within=within or made or not (texts or isinstance(place, str)))
    else:
        given.others[name] = f"{'deep ' if depth == _DEPTH else ''}{type(found).__name__}"


def _is_number(found: object) -> bool:
    if isinstance(found, (bool, np.bool_)) or not isinstance(found, (int, float, np.integer, np.floating)):
        return False
    return not isinstance(found, int) or abs(found) < _LARGEST


def _parts(found: object) -> list[tuple[object, object]]:
    """Give what lies in a dict, a short list or an object, by its name or place."""
    if isinstance(found, Mapping):
        return list(found.items())
    if isinstance(found, (list, tuple)):
        return list(enumerate(found)) if len(found) <= _LIST_CAP else []
    if isinstance(found, type) or not hasattr(found, "__dict__"):
        return []
    return [(key, part) for key, part in vars(found).items() if key not in _OF_MODULES]


def _is_table(found: Mapping[object, object]) -> bool:
    """Say whether it is rows by state: optimizers have dicts by number too, of other dicts."""
    whole = bool(found) and all(_is_state(key) for key in found)
    return whole and all(isinstance(row, (list, tuple, np.ndarray, torch.Tensor)) for row in found.values())


def _is_state(key: object) -> bool:
    parts = key if isinstance(key, tuple) and key else (key,)
    return all(isinstance(part, (int, np.integer)) for part in parts)


def _answer(target: int, head: Mapping[str, object], arrays: list[np.ndarray]) -> None:
    os.write(target, json.dumps(head).encode() + b"\n")
    for array in arrays:
        content = memoryview(np.ascontiguousarray(array).tobytes())
        while content:
            content = content[os.write(target, content) :]


if __name__ == "__main__":
    main(sys.argv[1:])
