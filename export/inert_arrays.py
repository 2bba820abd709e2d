"""NumPy arrays and numbers out of what an inert pickle says about them: only plain numbers, of the size they claim."""

import math
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from export.errors import CheckpointRefused
from export.inert import Inert, Named

_RECONSTRUCT = frozenset({"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"})
_SCALAR = frozenset({"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"})
_FROM_BUFFER = frozenset({"numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"})
_MAPPINGS = frozenset({"collections.OrderedDict", "collections.defaultdict"})
_BYTES = frozenset(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray"))
# Booleans, whole numbers and floating point numbers, as NumPy spells them in pickles.
_NUMBERS = re.compile(r"b1|\??|[iu][1248]|f[248]")
_DIMENSIONS_CAP = 32


def is_array(value: object) -> bool:
    """Say whether a value stands for a NumPy array or number."""
    return isinstance(value, Inert) and str(value.of) in _RECONSTRUCT | _SCALAR | _FROM_BUFFER


def mapping_of(value: object, what: str) -> Mapping[object, object]:
    """Give the entries of a dict, an OrderedDict or a defaultdict; raises CheckpointRefused for anything else."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Inert) and str(value.of) in _MAPPINGS:
        return value.entries
    msg = f"{what} is {kind_of(value)}, expected a dict"
    raise CheckpointRefused(msg)


def number_of(value: object, what: str) -> float:
    """Give a plain or a NumPy number as a float; raises CheckpointRefused for anything else."""
    if isinstance(value, (bool, int, float)):
        try:
            return float(value)
        except OverflowError as error:
            msg = f"{what} is a whole number that no float can hold, expected a number"
            raise CheckpointRefused(msg) from error
    array = array_in(value, what)
    if array.size != 1:
        msg = f"{what} is an array of shape {list(array.shape)}, expected a number"
        raise CheckpointRefused(msg)
    return float(array.reshape(())[()])


def kind_of(value: object) -> str:
    """Name what a value is, for messages."""
    if isinstance(value, Named):
        return f"the name {value}"
    if isinstance(value, Inert):
        return f"an object of {value.of if isinstance(value.of, Named) else 'what a call gave'}"
    return f"a {type(value).__name__}"


def array_in(value: object, what: str) -> NDArray[np.generic]:
    """Give the array of numbers that a value stands for; raises CheckpointRefused for anything else.

    The array has exactly as many bytes as are there for it, so no claimed shape allocates anything.
    """
    if not isinstance(value, Inert) or not is_array(value):
        msg = f"{what} is {kind_of(value)}, expected an array of numbers"
        raise CheckpointRefused(msg)
    try:
        return _array(value, what)
    except (ValueError, TypeError, OverflowError) as error:
        msg = f"{what} is not built as NumPy builds an array of numbers: {error}"
        raise CheckpointRefused(msg) from error


def _array(value: Inert, what: str) -> NDArray[np.generic]:
    kind = str(value.of)
    if kind in _RECONSTRUCT:
        # (version, shape, dtype, Fortran order, bytes), as numpy.ndarray.__reduce__ documents it.
        _, shape, dtype, fortran, raw = _tuple(value.state, 5)
        return _filled(raw, _dtype(dtype, what), shape, "F" if fortran is True else "C")
    if kind in _SCALAR:
        dtype, raw = _tuple(value.args, 2)
        return _filled(raw, _dtype(dtype, what), (), "C")
    raw, dtype, shape, order = _tuple(value.args, 4)
    return _filled(raw, _dtype(dtype, what), shape, "F" if order == "F" else "C")


def _tuple(value: object, length: int) -> tuple[object, ...]:
    if not isinstance(value, tuple) or len(value) != length:
        msg = f"{length} values expected in the state of an array"
        raise ValueError(msg)
    return value


def _dtype(value: object, what: str) -> np.dtype[np.generic]:
    """Give the type that ``numpy.dtype(text)`` with its state stands for, if it is one of plain numbers."""
    if not isinstance(value, Inert) or str(value.of) != "numpy.dtype" or not isinstance(value.args, tuple):
        msg = f"{what} has {kind_of(value)} as its type, expected a numpy.dtype"
        raise CheckpointRefused(msg)
    text = value.args[0] if value.args else None
    if not isinstance(text, str) or not _NUMBERS.fullmatch(text) or not text:
        shown = repr(text[:40]) if isinstance(text, str) else kind_of(text)
        msg = f"{what} is an array of {shown}, expected numbers"
        raise CheckpointRefused(msg)
    # (version, byte order, subarray, names, fields, ...), as numpy.dtype.__reduce__ documents it.
    state = value.state if isinstance(value.state, tuple) else (3, "=", None, None, None)
    if len(state) < 5 or state[1] not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
        msg = f"{what} is an array of records, expected numbers"
        raise CheckpointRefused(msg)
    dtype = np.dtype(text)
    return dtype.newbyteorder(state[1]) if state[1] in ("<", ">") else dtype


def _filled(raw: object, dtype: np.dtype[np.generic], shape: object, order: str) -> NDArray[np.generic]:
    data = _bytes(raw)
    sizes = (shape,) if isinstance(shape, int) else shape
    if not isinstance(sizes, tuple) or len(sizes) > _DIMENSIONS_CAP:
        msg = f"its shape is {kind_of(shape)}, expected at most {_DIMENSIONS_CAP} sizes"
        raise ValueError(msg)
    if any(not isinstance(size, int) or not 0 <= size < 2**40 for size in sizes):
        msg = "its shape has a size that is none"
        raise ValueError(msg)
    if math.prod(sizes) * dtype.itemsize != len(data):
        msg = f"shape {list(sizes)} of {dtype} does not fit {len(data)} bytes"
        raise ValueError(msg)
    array = np.frombuffer(data, dtype=dtype) if data else np.empty(0, dtype=dtype)
    shaped = array.reshape(sizes, order="F" if order == "F" else "C")
    return np.ascontiguousarray(shaped, dtype=dtype.newbyteorder("=")).reshape(sizes)


def _bytes(raw: object) -> bytes:
    """Give the bytes of an array, also as protocols 0 to 2 spell them: a text of one character per byte."""
    if isinstance(raw, Inert) and str(raw.of) in _BYTES and isinstance(raw.args, tuple):
        raw = raw.args[0] if raw.args else b""
    if isinstance(raw, Inert) and str(raw.of) == "_codecs.encode" and isinstance(raw.args, tuple):
        text, encoding = (*raw.args, "latin1", "latin1")[:2]
        if isinstance(text, str) and encoding in ("latin1", "latin-1"):
            return text.encode("latin-1")
    if isinstance(raw, str):
        return raw.encode("latin-1")
    if not isinstance(raw, bytes):
        msg = f"its content is {kind_of(raw)}, expected bytes"
        raise TypeError(msg)
    return raw
