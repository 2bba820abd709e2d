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
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import nn

from export.seccomp import confine

_DEPTH = 3
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
        found = dict(_arrays(_unpickled(_whole(source)), "", 0))
        heads = [[name, array.dtype.str, list(array.shape)] for name, array in found.items()]
        _answer(target, {"arrays": heads}, list(found.values()))
    except BaseException as error:  # noqa: BLE001 - whatever the file raises is said and ends here
        _answer(target, {"failed": f"{type(error).__name__}: {error}"[:300]}, [])
    os._exit(0)


def _warm_up() -> None:
    """Use everything once that will be used: afterwards no module can be read from the disk any more."""
    for whole in (True, False):
        stream = io.BytesIO()
        torch.save(nn.Sequential(nn.Linear(1, 1), nn.Tanh()), stream, _use_new_zipfile_serialization=whole)
        dict(_arrays(_unpickled(stream.getvalue()), "", 0))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        table = collections.defaultdict(list, {0: np.zeros(2), 1: [1.0, 2.0]})
        dict(_arrays(_unpickled(pickle.dumps(table, protocol)), "", 0))
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


def _arrays(found: object, prefix: str, depth: int) -> Iterator[tuple[str, np.ndarray]]:
    """Give the arrays of a module, of a dict by name (also within dicts), or of a table by state as ``q_table``."""
    if isinstance(found, nn.Module):
        found = found.state_dict()
    if isinstance(found, torch.Tensor):
        yield prefix, found.detach().cpu().contiguous().numpy()
    elif isinstance(found, np.ndarray):
        yield prefix, found
    elif isinstance(found, Mapping) and found and all(isinstance(key, int) for key in found):
        states = max(found) + 1
        table = np.zeros((states, len(next(iter(found.values())))), np.float64)
        for state, row in found.items():
            table[state] = row
        yield f"{prefix}q_table", table
    elif isinstance(found, Mapping) and depth < _DEPTH:
        for name, value in found.items():
            if isinstance(name, str) and isinstance(value, (nn.Module, torch.Tensor, np.ndarray, Mapping)):
                yield from _arrays(value, f"{prefix}.{name}" if prefix else name, depth + 1)


def _answer(target: int, head: Mapping[str, object], arrays: list[np.ndarray]) -> None:
    os.write(target, json.dumps(head).encode() + b"\n")
    for array in arrays:
        content = memoryview(np.ascontiguousarray(array).tobytes())
        while content:
            content = content[os.write(target, content) :]


if __name__ == "__main__":
    main(sys.argv[1:])
