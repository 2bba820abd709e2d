"""Reading what still has to be unpickled: in a process of its own that can reach nothing, and only where that holds.

The process reads the file from a sealed memory file, and answers with plain arrays into another one. It has no network,
no files but these two, no other processes, an empty environment, a folder of its own, and limits on memory, processor
time, time by the clock and the size of its answer. What comes back is checked like any other untrusted file.
"""

import fcntl
import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import CheckpointRefused, OptionInvalid

_TYPES = frozenset(f"{order}{kind}" for order in "<|" for kind in "b1 i1 u1 i2 u2 i4 u4 i8 u8 f2 f4 f8".split())
_HEAD_CAP = 4 * 1024 * 1024
_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from export.sandboxed import main; main(sys.argv[1:])"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the process may use: bytes and processor seconds beyond its start, seconds by the clock, bytes of answer."""

    memory: int = 2 * 1024 * 1024 * 1024
    cpu_s: int = 60
    wall_s: float = 120.0
    answer: int = 512 * 1024 * 1024


DEFAULT = Limits()


@dataclass(frozen=True, slots=True)
class Unpickled:
    """What a trusted file holds, by dotted name.

    ``arrays`` are those of modules and dicts, ``within`` those that lie in plain objects or under keys that are no
    texts, ``plain`` numbers and lists of them, ``others`` the kinds of what is no number.
    """

    arrays: dict[str, NDArray[np.generic]]
    within: dict[str, NDArray[np.generic]]
    plain: dict[str, NDArray[np.generic]]
    others: dict[str, str]


def trusted_state_dict(data: bytes, name: str, limits: Limits = DEFAULT) -> dict[str, NDArray[np.generic]]:
    """Unpickle a file that somebody trusts, confined; gives its arrays by name. ``name`` names it in messages.

    Takes what ``torch.save`` wrote of a whole module or of anything that holds tensors, and pickles of arrays; a table
    by state comes back as ``q_states[S, K]`` and ``q_table[S, A]``. Raises OptionInvalid where the system cannot
    confine a process, and CheckpointRefused where the file reached for something or has no arrays in it.
    """
    found = unpickled(data, name, limits)
    if not found.arrays:
        raise CheckpointRefused(_none_in(name))
    return found.arrays


def unpickled(data: bytes, name: str, limits: Limits = DEFAULT) -> Unpickled:
    """Unpickle a file that somebody trusts, confined; gives all that it holds.

    Raises as ``trusted_state_dict`` does.
    """
    answer = _run(data, name, limits)
    line, _, content = answer.partition(b"\n")
    head = _head(line, name)
    if "missing" in head:
        msg = f"--trust needs {str(head['missing'])[:120]}, which this system does not give; {name} was not read"
        raise OptionInvalid(msg)
    if "failed" in head:
        msg = f"{name} was unpickled in a confined process and failed there: {str(head['failed'])[:300]!r}"
        raise CheckpointRefused(msg)
    arrays = _arrays(head.get("arrays"), content, name)
    plain, within = ({key for key in _listed(head.get(kind)) if isinstance(key, str)} for kind in ("plain", "within"))
    pairs = [pair for entry in _listed(head.get("others")) if len(pair := _listed(entry)) == 2]
    return Unpickled(
        arrays={key: array for key, array in arrays.items() if key not in plain | within},
        within={key: array for key, array in arrays.items() if key in within - plain},
        plain={key: array for key, array in arrays.items() if key in plain},
        others={str(key): str(kind)[:80] for key, kind in pairs},
    )


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _none_in(name: str) -> str:
    return f"{name} holds no arrays that could be found, expected a module, a state dict or a table"


def _run(data: bytes, name: str, limits: Limits) -> bytes:
    """Run the confined process to its end or its limits; gives what it wrote."""
    if not hasattr(os, "memfd_create"):
        msg = f"--trust needs memory files, which this system does not give; {name} was not read"
        raise OptionInvalid(msg)
    source, target = _sealed(data), os.memfd_create("answer", os.MFD_CLOEXEC)
    told = json.dumps({"memory": limits.memory + 4 * len(data), "cpu": limits.cpu_s, "answer": limits.answer})
    root = str(Path(__file__).resolve().parents[1])
    try:
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
                [sys.executable, "-I", "-B", "-c", _PROGRAM, root, str(source), str(target), told],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                pass_fds=(source, target),
                start_new_session=True,
            )
            _wait(process, name, limits)
        with os.fdopen(os.dup(target), "rb") as answer:
            answer.seek(0)
            return answer.read(limits.answer)
    finally:
        os.close(source)
        os.close(target)


def _sealed(data: bytes) -> int:
    """Put the file into memory where nobody can change it any more."""
    source = os.memfd_create("checkpoint", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(source), "wb") as file:
        file.write(data)
    os.lseek(source, 0, os.SEEK_SET)
    fcntl.fcntl(source, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return source


def _wait(process: "subprocess.Popen[bytes]", name: str, limits: Limits) -> None:
    try:
        status = process.wait(limits.wall_s)
    except subprocess.TimeoutExpired as error:
        msg = f"{name} was unpickled in a confined process and took longer than {limits.wall_s:g} s; it was stopped"
        raise CheckpointRefused(msg) from error
    finally:
        process.kill()
        process.wait()
    if status:
        msg = f"{name} was unpickled in a confined process, which ended with status {status}: a limit, or a crash"
        raise CheckpointRefused(msg)


def _head(line: bytes, name: str) -> dict[str, object]:
    try:
        head = json.loads(line) if len(line) <= _HEAD_CAP else None
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict):
        msg = f"{name} was unpickled in a confined process, which gave no answer that can be read"
        raise CheckpointRefused(msg)
    return head


def _arrays(listed: object, content: bytes, name: str) -> dict[str, NDArray[np.generic]]:
    """Cut the arrays out of the answer, which is believed no more than any other file."""
    found: dict[str, NDArray[np.generic]] = {}
    at = 0
    for entry in listed if isinstance(listed, list) else ():
        match entry:
            case [str(key), str(kind), [*shape]] if kind in _TYPES and len(shape) <= 32:
                sizes = [size for size in shape if isinstance(size, int) and 0 <= size < 2**40]
                end = at + math.prod(sizes) * np.dtype(kind).itemsize
            case _:
                msg = f"{name} holds something else than arrays of numbers: {str(entry)[:80]}"
                raise CheckpointRefused(msg)
        if key in found or len(sizes) != len(shape) or end > len(content):
            msg = f"{name} gave the array {key[:80]!r} of shape {str(shape)[:80]}, which does not fit what was there"
            raise CheckpointRefused(msg)
        found[key] = np.frombuffer(content[at:end], dtype=kind).reshape(sizes)
        at = end
    if not found:
        raise CheckpointRefused(_none_in(name))
    return found
