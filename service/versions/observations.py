"""Observations: how each is laid out in one row for guards and records, and how rows are split for a network.

Named numbers are a row of float64. An array is kept in its own shape and dtype: as float64 an image of bytes would need
eight times the memory. The parts of a Dict stand flattened one after another in one row: float64 where a part has named
numbers, which rules calculate with, or is float64 or int64; uint8 where all parts are; else float32.
"""

import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from export.spec import Array, Dict, Fields, ObservationSpace

# Beyond it an integer is not the same as a float any more, and records are made of floats.
INTEGER_MAX = 2**53
_FLAT = {frozenset({"uint8"}): "uint8", frozenset({"float32"}): "float32", frozenset({"float32", "uint8"}): "float32"}


class Layout:
    """How the observations of a space lie in rows."""

    def __init__(self, space: ObservationSpace) -> None:
        self.space = space
        self.dtype = np.dtype(_row_dtype(space))
        self._names = [port.name for port in space.inputs]
        self._shapes = [port.shape for port in space.inputs]
        self._dtypes = [np.dtype(port.dtype) for port in space.inputs]
        parts = [entry.space.size for entry in space.entries] if isinstance(space, Dict) else []
        self._ends = np.cumsum(parts).tolist()

    def rows(self, observations: Sequence[Any]) -> np.ndarray:
        """Rows[N, ...] of N observations, each as the wire gives it."""
        return np.array(observations, dtype=self.dtype)

    def split(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """A network's inputs by name, each [N, ...], from rows[N, ...]."""
        if not self._ends:
            return {"obs": rows.astype(self._dtypes[0], copy=False)}
        starts = [0, *self._ends]
        return {
            name: rows[:, start:end].reshape(len(rows), *shape).astype(dtype, copy=False)
            for name, start, end, shape, dtype in zip(
                self._names, starts, self._ends, self._shapes, self._dtypes, strict=False
            )
        }

    def joined(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Rows[N, ...] from a network's inputs by name: what ``split`` undoes."""
        if not self._ends:
            return inputs["obs"].astype(self.dtype)
        flat = [inputs[name].reshape(len(inputs[name]), -1) for name in self._names]
        return np.concatenate(flat, axis=1).astype(self.dtype)

    def flattened(self, parts: Sequence[Any]) -> np.ndarray:
        """The row[F] of one Dict observation from its parts in the space's order, nested as they may be."""
        return np.concatenate([np.asarray(part, dtype=self.dtype).reshape(-1) for part in parts])


def decoded_text(text: str, space: Array) -> np.ndarray:
    """The array in a text: base64 of its row-major little-endian bytes. Raises ValueError."""
    dtype = np.dtype(space.dtype)
    try:
        raw = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("is not base64") from None
    size = space.size * dtype.itemsize
    if len(raw) != size:
        raise ValueError(f"has {len(raw)} bytes in base64, expected {size}: {space.dtype}{list(space.shape)}")
    array = np.frombuffer(raw, dtype=dtype.newbyteorder("<")).astype(dtype).reshape(space.shape)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("holds NaN or infinity, expected numbers")
    if space.dtype == "int64":
        low, high = integer_bounds(space.low, space.high)
        if array.min() < low or array.max() > high:
            raise ValueError(f"holds a number outside of {low} to {high}")
    return array


def text_length(space: Array) -> int:
    """How many characters an array takes as base64."""
    return (space.size * np.dtype(space.dtype).itemsize + 2) // 3 * 4


def integer_bounds(low: float | None, high: float | None) -> tuple[int, int]:
    """What an int64 may be: an index that does not exist is no stray measurement, there is nothing to look up."""
    return -INTEGER_MAX if low is None else int(low), INTEGER_MAX if high is None else int(high)


def _row_dtype(space: ObservationSpace) -> str:
    if isinstance(space, Fields):
        return "float64"
    if isinstance(space, Array):
        return space.dtype
    if any(isinstance(entry.space, Fields) for entry in space.entries):
        return "float64"
    return _FLAT.get(frozenset(entry.space.dtype for entry in space.entries), "float64")
