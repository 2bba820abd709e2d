"""The source's own float32 rounding, measured in float64: what a graph may be off by besides the tolerance."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from export.meaning import Answers, Meaning
from export.questions import Played, sizes_of
from export.spec import HEADS, Box, Parity

# The most that rounding can be the reason of, at an output's scale. Beyond a thousandth, less than three digits of a
# float32 answer are the policy's own: it acts otherwise on every machine, and nothing can be proven.
CAP = 1e-3
# One sum in another order is one more draw of the same errors, of which a few were measured. Of 5,000 rows of networks
# with large sums that cancel, ONNX Runtime's errors went up to 2.9 times the largest of 17 that torch made there.
_SPREAD = 4.0
# What running a module in float64 raises, in and beneath torch.
_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, AssertionError)
_NEIGHBOURS = 16
_CANDIDATES = 512
_UNKNOWN = "the source cannot be evaluated in float64, which would show how much of that is its own rounding"
# Gives the error of each row of what was found, ``[N, ...]`` beside what is true -> ``[N]``.
Measure = Callable[[NDArray[np.generic], NDArray[np.generic]], NDArray[np.float64]]
# Asks all trials' questions.
Play = Callable[[Answers], Played]


@dataclass(frozen=True, slots=True)
class Judged:
    """Which rows are excused, ``[N]``, and how far each side is from the float64 answer there, in units of the scale.

    For a choice of one the sides are how far the executed action is behind the best one; ``source`` is the head's.
    """

    excused: NDArray[np.bool_]
    source: NDArray[np.float64]
    told: NDArray[np.float64]
    graph: NDArray[np.float64]
    known: bool = True

    def why(self, row: int) -> str:
        """Say for people where the difference of a row comes from."""
        if not self.known:
            return _UNKNOWN
        found = (
            f"beside the same network in float64 the source itself is off by {self.source[row]:.2g} of its scale in "
            f"float32, what is expected here by {self.told[row]:.2g}, the graph by {self.graph[row]:.2g}"
        )
        return (
            f"{found}, and rounding explains no more than {CAP:g}"
            if max(self.told[row], self.graph[row]) > CAP
            else found
        )


class Rounding:
    """Two float32 answers beside the same network in float64, which is worked out where they differ at all.

    A row that differs by more than the tolerance is excused where neither is further from the float64 answer than the
    source's own rounding there explains, by more than the tolerance. That is a few times its error in float32, and at
    most ``CAP``: the largest error of the row itself and of its nearest neighbours, since a single answer may be right
    by luck. The graph's own error never widens what it is allowed, and a row that the source answers well gets nothing.
    """

    def __init__(
        self, meaning: Meaning, parity: Parity, source: Played, answers: Answers, precise: Answers | None, exactly: Play
    ) -> None:
        """Take the source's float32 answers to all rows, and how to have them for others, and in float64.

        ``precise`` answers in float64, None where the source cannot; ``exactly`` plays what answers it is given.
        """
        self._meaning, self._parity, self._source = meaning, parity, source
        self._answers, self._precise, self._play = answers, precise, exactly
        self._exact: Played | None = None
        self._excused = np.zeros(len(source), dtype=np.bool_)
        self._worst = (0.0, 0.0)

    def __repr__(self) -> str:
        return f"<Rounding {int(self._excused.sum())} of {len(self._excused)} rows judged in float64>"

    def output(
        self, name: str, told: NDArray[np.generic], seen: NDArray[np.generic], wrong: NDArray[np.bool_]
    ) -> Judged:
        """Judge the rows of an output that are ``wrong[N]`` by the tolerance alone."""
        return self._judged(name, told, seen, wrong, partial(self._parity.errors, output=name))

    def action(self, told: NDArray[np.generic], seen: NDArray[np.generic], wrong: NDArray[np.bool_]) -> Judged:
        """Judge the executed actions, ``[K, ...]`` of the first K rows, in the same way.

        A number of a Box is off at the scale of its range. A choice of one is excused where the float64 answer has it
        that close to the best.
        """
        box = self._meaning.action
        if isinstance(box, Box):
            return self._judged("action", told, seen, wrong, partial(ranged, box))
        head = HEADS[self._meaning.head][0]
        return self._judged(head, told, seen, wrong, self._parity.errors, self._behind)

    def _judged(
        self,
        name: str,
        told: NDArray[np.generic],
        seen: NDArray[np.generic],
        wrong: NDArray[np.bool_],
        measure: Measure,
        measure_sides: Measure | None = None,
    ) -> Judged:
        exact = self._asked()
        if exact is None:
            return _unknown(wrong)
        true = exact.outputs[name][: len(wrong)]
        by_told, by_graph = ((measure_sides or measure)(true, side) for side in (told, seen))
        source, furthest = measure(true, self._source.outputs[name][: len(wrong)]), np.maximum(by_told, by_graph)
        tolerance = self._parity.tolerance
        # NaN is never at most anything; what no allowance reaches needs no neighbours.
        if (furthest[wrong] <= tolerance + CAP).all():
            doubtful = wrong & ~(furthest <= tolerance + _allowed(source))
            source = self._around(name, np.flatnonzero(doubtful), source, measure)
        excused = wrong & (furthest <= tolerance + _allowed(source))
        if excused.any():
            self._excused[: len(excused)] |= excused
            self._worst = (
                max(self._worst[0], float(source[excused].max())),
                max(self._worst[1], float(by_graph[excused].max())),
            )
        return Judged(excused, source, by_told, by_graph)

    def _around(
        self, name: str, rows: NDArray[np.int64], errors: NDArray[np.float64], measure: Measure
    ) -> NDArray[np.float64]:
        """Give the source's errors ``[N]``, those of some rows the largest among their neighbours too."""
        if not len(rows) or self._precise is None:
            return errors
        generator, found = np.random.default_rng(0), errors.copy()
        for _ in range(_NEIGHBOURS):
            inputs = {key: _moved(array[rows], generator) for key, array in self._source.inputs.items()}
            here = measure(self._precise(inputs)[name], self._answers(inputs)[name])
            found[rows] = np.maximum(found[rows], here)
        return found

    @property
    def said(self) -> str:
        """Say for the manifest what was judged so; nothing where nothing was."""
        count = int(self._excused.sum())
        if not count:
            return ""
        source, graph = self._worst
        return (
            f"; {count} rows judged in float64, where the source is off by up to {source:.2g} of its scale in float32, "
            f"the graph by {graph:.2g}"
        )

    @property
    def plain(self) -> NDArray[np.bool_]:
        """The rows ``[N]`` that are within the tolerance by themselves."""
        return ~self._excused

    @property
    def steady(self) -> NDArray[np.bool_]:
        """The rows ``[N]`` that float32 surely answers well on other machines too; all where nothing was judged.

        Some hundreds of the others are asked, with their neighbours, and have to be well within the tolerance.
        """
        exact = self._exact
        if exact is None or not self._excused.any():
            return ~self._excused
        rows = np.flatnonzero(~self._excused)
        rows = rows[np.linspace(0, len(rows) - 1, min(_CANDIDATES, len(rows))).astype(np.int64)]
        steady = np.zeros(len(self._source), dtype=np.bool_)
        steady[rows] = True
        for name in HEADS[self._meaning.head]:
            error = self._parity.errors(exact.outputs[name], self._source.outputs[name], name)
            error = self._around(name, rows, error, partial(self._parity.errors, output=name))
            steady &= error <= self._parity.tolerance / _SPREAD
        return steady

    def _asked(self) -> Played | None:
        """Give the float64 answers, worked out once; None where the source cannot give them."""
        if self._exact is None and self._precise is not None:
            try:
                self._exact = self._play(self._precise)
            except _ERRORS:
                self._precise = None
        return self._exact

    def _behind(self, head: NDArray[np.generic], action: NDArray[np.generic]) -> NDArray[np.float64]:
        """Give how far actions are behind the best of a head ``[N, W]``, at its scale: the most of their choices."""
        most = np.zeros(len(head))
        rows, at = np.arange(len(head)), 0
        for size, chosen in zip(sizes_of(self._meaning), action.reshape(len(head), -1).T, strict=True):
            part = head[:, at : at + size].astype(np.float64)
            most = np.maximum(most, part.max(axis=1) - part[rows, chosen.astype(np.int64)])
            at += size
        return np.asarray(most / self._parity.row_scales(head))


def ranged(box: Box, true: NDArray[np.generic], found: NDArray[np.generic]) -> NDArray[np.float64]:
    """Give the largest difference of each row's numbers as a share of their ranges, ``[N, ...]`` -> ``[N]``.

    A number without bounds has the range of its own size, at least 1.
    """
    low, high = np.array(box.low), np.array(box.high)
    a, b = (array.reshape(len(true), -1).astype(np.float64) for array in (true, found))
    width = np.where(np.isfinite(high - low), high - low, np.maximum(1.0, np.abs(a)))
    return np.asarray((np.abs(a - b) / np.maximum(width, 1e-12)).max(axis=1))


def _allowed(source: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give what errors of the source explain in a graph."""
    return np.asarray(np.minimum(_SPREAD * source, CAP))


def _unknown(wrong: NDArray[np.bool_]) -> Judged:
    nothing = np.full(len(wrong), np.nan)
    return Judged(np.zeros_like(wrong), nothing, nothing, nothing, known=False)


def _moved(rows: NDArray[np.generic], generator: np.random.Generator) -> NDArray[np.generic]:
    """Move numbers by their smallest step, up, down or not at all; states and masks stay as they are."""
    steps = generator.integers(-1, 2, rows.shape)
    if rows.dtype == np.uint8:
        return np.asarray(np.clip(rows.astype(np.int64) + steps, 0, 255), dtype=np.uint8)
    if rows.dtype.kind != "f":
        return rows
    ends = np.where(steps < 0, -np.inf, np.inf).astype(rows.dtype)
    moved: NDArray[np.generic] = np.where(steps == 0, rows, np.nextafter(rows, ends))
    return moved
