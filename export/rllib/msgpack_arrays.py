"""NumPy arrays as msgpack_numpy writes them: a small dict with the type, the shape and the bytes."""

import math

import numpy as np
from numpy.typing import NDArray

from export.errors import CheckpointRefused
from export.inert_arrays import kind_of

_TYPES = frozenset(f"{order}{kind}" for order in "<=|" for kind in ("b1", "i1", "u1", *("i2 i4 i8 f2 f4 f8".split())))


def packed_array(value: object, what: str) -> NDArray[np.generic]:
    """Give the array of numbers of a dict ``nd, type, kind, shape, data``; raises CheckpointRefused.

    An array of objects would be a pickle; it is refused.
    """
    found = {_text(key): part for key, part in value.items()} if isinstance(value, dict) else {}
    kind, shape, data = (_text(found.get("type")), found.get("shape"), found.get("data"))
    if found.get("nd") is not True or kind not in _TYPES or not isinstance(data, bytes) or not isinstance(shape, list):
        msg = f"{what} is {kind_of(value)} that is no array of numbers, expected one as msgpack_numpy writes it"
        raise CheckpointRefused(msg)
    dtype = np.dtype(str(kind))
    sizes = [size for size in shape if isinstance(size, int) and 0 <= size < 2**40]
    if len(sizes) != len(shape) or len(sizes) > 8 or math.prod(sizes) * dtype.itemsize != len(data):
        msg = f"{what} says it has the shape {str(shape)[:80]}, which does not fit its {len(data)} bytes"
        raise CheckpointRefused(msg)
    return np.frombuffer(data, dtype=dtype).reshape(sizes)


def _text(value: object) -> object:
    return value.decode("ascii", "replace") if isinstance(value, bytes) and len(value) < 16 else value
