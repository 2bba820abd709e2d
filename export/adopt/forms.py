"""The forms of a file's numbers that are not served as they are, as arrays to compare with and as nodes of the graph.

Of probabilities the logarithm is served. Of choices that were made, a row with a one for each of them is.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from export.adopt.reading import Form
from export.adopt.sheet import Sheet
from export.plausible import FLOOR, ROUNDED

_INSIDE = {
    "probabilities": f"logarithm of the probabilities, of {FLOOR:.2g} where they are less",
    "choices": "a one for each choice that was made, zeros for the others; NaN for one that does not exist",
}


def inside_of(forms: Sequence[Form]) -> tuple[str, ...]:
    """Name what happens in the graph, for people."""
    return tuple(_INSIDE[form] for form in dict.fromkeys(forms) if form != "numbers")


def served(found: NDArray[np.generic], form: Form, sizes: Sequence[int]) -> NDArray[np.float32]:
    """Give what is served of ``found[N, M]``: ``[N, W]`` for choices of these sizes."""
    if form == "choices":
        return _ones(found.astype(np.float64), sizes)
    numbers = found.astype(np.float32)
    if form == "numbers":
        return numbers
    shares = np.maximum(numbers, np.float32(FLOOR))
    with np.errstate(invalid="ignore"):
        return np.log(np.where(numbers >= np.float32(ROUNDED), shares, np.float32(np.nan)))


def _ones(found: NDArray[np.float64], sizes: Sequence[int]) -> NDArray[np.float32]:
    rows = np.zeros((len(found), sum(sizes)), np.float32)
    for row, numbers in zip(rows, found, strict=True):
        if len(numbers) == len(sizes):
            starts = np.cumsum(sizes) - sizes
            whole = (numbers == np.floor(numbers)) & (numbers >= 0) & (numbers < sizes)
            row[(starts + np.where(whole, numbers, 0)).astype(np.int64)] = 1.0
            good = bool(whole.all())
        else:
            row[:] = numbers
            parts = np.split(numbers, np.cumsum(sizes)[:-1])
            good = all(np.count_nonzero(part) == 1 and part.max() == 1 for part in parts)
        if not good:
            row[:] = np.nan
    return rows


def draw_logarithm(sheet: Sheet, found: str) -> str:
    """Draw the logarithm of probabilities, float32 ``[N, W]``; NaN where one is below 0 by more than rounding."""
    some = sheet.add("Max", found, sheet.real([FLOOR]))
    enough = sheet.add("GreaterOrEqual", found, sheet.real([ROUNDED]))
    return sheet.add("Log", sheet.add("Where", enough, some, sheet.real([np.nan])))


def draw_ones(sheet: Sheet, found: str, sizes: Sequence[int], width: int) -> str:
    """Draw a row with a one for each choice out of ``found[N, width]``, float64: indices, or ones among zeros.

    A row in which something is no choice of its factor is NaN.
    """
    indices, one, axis = width == len(sizes), sheet.constant(np.ones(1)), sheet.whole([1])
    starts = range(width) if indices else np.cumsum([0, *sizes[:-1]]).tolist()
    hot, good = [], []
    for start, size in zip(starts, sizes, strict=True):
        end = start + (1 if indices else size)
        part = sheet.add("Slice", found, sheet.whole([start]), sheet.whole([end]), axis)
        hot.append(sheet.add("Equal", part, sheet.constant(np.arange(size, dtype=np.float64)) if indices else one))
        ones = sheet.add("Cast", hot[-1], to=TensorProto.DOUBLE)
        good.append(sheet.add("Equal", sheet.add("ReduceSum", ones, axis, keepdims=1), one))
        if not indices:
            # Beside a one there is nothing but zeros where all of them together are no more than it.
            total = sheet.add("ReduceSum", sheet.add("Abs", part), axis, keepdims=1)
            good.append(sheet.add("Equal", total, one))
    truth = good[0]
    for other in good[1:]:
        truth = sheet.add("And", truth, other)
    joined = hot[0] if len(hot) == 1 else sheet.add("Concat", *hot, axis=1)
    return sheet.add("Where", truth, sheet.add("Cast", joined, to=TensorProto.FLOAT), sheet.real([np.nan]))
