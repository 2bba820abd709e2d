"""Projection: what constraints leave of a Box in a row, a region, and its point that is nearest to a proposal.

Near is Euclid's distance with every number in units of its ``scale``. With bounds alone it is a clip. With half-spaces
it is Hildreth's method, here with all bounds in one step of each sweep: a quadratic program's dual, one constraint
after another (C. Hildreth, A quadratic programming procedure, 1957; A. N. Iusem and A. R. De Pierro, On the convergence
properties of Hildreth's quadratic programming algorithm, 1990). Now and then the point is polished: moved onto the face
that the multipliers speak of, and taken where it is inside and weak duality proves that nothing there is nearer. The
method can stand still for long; what is not found after some sweeps is worked out by an active set. Whatever comes out
was found to be inside.
"""

from collections.abc import Callable, Sequence
from math import inf, isfinite
from typing import NamedTuple

import numpy as np

from export.spec import Box
from guards.boxes import EXACT
from guards.language.terms import Within
from guards.language.walk import within
from guards.records import Floats, Row

# Beyond this a declared range says nothing of what is near.
WIDEST = 1e6
# How much nearer another point may be, as a part of half the square of the distance: the distance is good to 5e-9.
_GAP = 1e-8
# Sweeps before each polish; what is not found then takes so many steps at most.
_SWEEPS = (2, 6, 16)
_STEPS = 300
_ROUNDING = 1e-13
# Works out the coefficients of a side and its limit for a row; raises ArithmeticError.
Amounts = Callable[[Row], Sequence[float]]


class Region(NamedTuple):
    """``{low[D] <= a <= high[D], slopes[M][D] a <= most[M]}``; empty where a low is above a high."""

    low: Sequence[float]
    high: Sequence[float]
    slopes: Sequence[Sequence[float]] = ()
    most: Sequence[float] = ()

    @property
    def bounded(self) -> bool:
        """Whether the bounds alone leave something."""
        return all(low <= high for low, high in zip(self.low, self.high, strict=True))

    def holds(self, point: Sequence[float]) -> bool:
        """Whether a point[D] is inside: exactly of bounds, to EXACT of half-spaces."""
        for low, x, high in zip(self.low, point, self.high, strict=True):
            if not low <= x <= high:
                return False
        return all(within(slope, point, most, EXACT) for slope, most in zip(self.slopes, self.most, strict=True))

    def nearest(self, point: Sequence[float], scale: Floats) -> tuple[float, ...] | None:
        """The nearest point to a finite one[D], by a scale[D]; None where there is none to be found."""
        if not (self.bounded and all(map(isfinite, point))):
            return None
        # The order of arguments says which zero it is, as in NumPy's clip.
        clipped = tuple(min(high, max(low, x)) for low, x, high in zip(self.low, point, self.high, strict=True))
        return clipped if self.holds(clipped) else _projected(self, np.array(point), scale)


def confined(box: Box, constraints: Sequence[Sequence[tuple[Within, Amounts]]], row: Row) -> Region:
    """What is left of a Box by constraints that each have some sides; nothing where one cannot be worked out."""
    low, high = list(box.low), list(box.high)
    slopes: list[list[float]] = []
    most: list[float] = []
    for sides in constraints:
        for side, amounts in sides:
            *slope, limit = _worked_out(amounts, row) or (*[0.0] * len(side.numbers), -inf)
            if not side.tolerance:
                (at,) = side.numbers
                if slope[0] < 0 or limit == -inf:
                    low[at] = max(low[at], -limit)
                if slope[0] > 0 or limit == -inf:
                    high[at] = min(high[at], limit)
                continue
            known = isfinite(limit) and all(map(isfinite, slope))
            whole = [0.0] * len(low)
            for at, one in zip(side.numbers, slope, strict=True):
                whole[at] = one if known else 0.0
            slopes.append(whole)
            most.append(limit if known else 0.0)
            if not known:
                low, high = [inf] * len(low), [-inf] * len(low)
    return Region(low, high, slopes, most)


def _worked_out(amounts: Amounts, row: Row) -> Sequence[float] | None:
    try:
        found = amounts(row)
    except ArithmeticError:
        return None
    return None if any(one != one for one in found) else found


def _projected(region: Region, point: Floats, scale: Floats) -> tuple[float, ...] | None:
    """The nearest point where the clip is not inside."""
    with np.errstate(all="ignore"):  # of what is not finite nothing comes
        low, high, most = np.array(region.low), np.array(region.high), np.array(region.most)
        slopes = np.array(region.slopes) * scale
        norm = np.sqrt(_squared(slopes))
        norm = np.where(norm > 0, norm, 1.0)
        sweep = _Sweeps(low / scale, high / scale, slopes / norm[:, None], most / norm, point / scale)
        if not (np.isfinite(norm).all() and np.isfinite(sweep.most).all() and np.isfinite(sweep.start).all()):
            return None
        for count in _SWEEPS:
            for _ in range(count):
                sweep.once()
            at, proved = sweep.polished()
            found: tuple[float, ...] = tuple(np.clip(at * scale, low, high).tolist())
            if proved and region.holds(found):
                return found
        found = tuple(np.clip(_exact(sweep) * scale, low, high).tolist())
    return found if region.holds(found) else None


class _Sweeps:
    """The state of Hildreth's method: a ``point[D]``, ``multipliers[M]`` of the half-spaces, and ``bounds[D]``, those
    of the bounds; all in units of the scale, slopes of length one."""

    def __init__(self, low: Floats, high: Floats, slopes: Floats, most: Floats, start: Floats) -> None:
        self.low, self.high, self.slopes, self.most, self.start = low, high, slopes, most, start
        self.point = np.clip(start, low, high)
        self.bounds = start - self.point
        self.multipliers = np.zeros_like(most)

    def once(self) -> None:
        """Step onto each half-space that is exceeded, or back from it as far as was stepped before; then clip."""
        point = self.point
        for j, slope in enumerate(self.slopes):
            step = np.maximum(np.add.reduce(slope * point) - self.most[j], -self.multipliers[j])
            self.multipliers[j] += step
            point = point - step * slope
        point = point + self.bounds
        self.point = np.clip(point, self.low, self.high)
        self.bounds = point - self.point

    def polished(self) -> tuple[Floats, bool]:
        """The nearest point[D] of the face that the multipliers are of, and whether none nearer is inside."""
        free, tight = self.bounds == 0, self.multipliers > 0
        inverse = np.linalg.pinv(np.where(tight[:, None] & free, self.slopes, 0.0))
        at = np.where(free, self.start, self.point)
        for _ in range(2):  # the second time takes away what the first has lost to rounding
            at = at - _dot(inverse, np.where(tight, _dot(self.slopes, at) - self.most, 0.0))
        forces = _dot(inverse.T, np.where(free, self.start - at, 0.0))
        at = np.clip(at, self.low, self.high)
        half = 0.5 * _squared(self.start - at)
        least = np.fmax(self._least(self.multipliers), self._least(np.maximum(forces, 0.0)))
        return at, bool(half - least <= _GAP * half)

    def _least(self, multipliers: Floats) -> Floats:
        """Half the square of the distance that nothing inside is nearer than: weak duality."""
        point = np.clip(self.start - _dot(self.slopes.T, multipliers), self.low, self.high)
        beyond = _dot(self.slopes, point) - self.most
        return np.asarray(0.5 * _squared(point - self.start) + np.add.reduce(multipliers * beyond))


def _exact(sweep: _Sweeps) -> Floats:
    """The nearest point[D], or what is nearly one: the dual method of Goldfarb and Idnani (1983).

    Bounds are half-spaces too. Where there is no way on, nothing is inside, or the rest is rounding.
    """
    start = sweep.start
    one = np.eye(len(start))
    slopes = np.concatenate([sweep.slopes, one, -one])
    most = np.concatenate([sweep.most, sweep.high, -sweep.low])
    slopes, most = slopes[np.isfinite(most)], most[np.isfinite(most)]
    point, tight, forces, force, worst = start, list[int](), np.zeros(0), 0.0, -1
    for _ in range(_STEPS):
        if worst < 0:
            beyond = slopes @ point - most
            beyond[tight] = 0.0
            worst, force = int(beyond.argmax()), 0.0
            if beyond[worst] <= _ROUNDING * max(1.0, float(np.abs(start).max())):
                break
        inverse, away, along = np.linalg.pinv(slopes[tight]).T, slopes[worst], np.zeros(len(tight))
        for _ in range(2):  # twice is enough to be orthogonal
            more = inverse @ away
            along, away = along + more, away - more @ slopes[tight]
        length = away @ away
        own = length > (_ROUNDING * (1.0 + np.abs(along).sum())) ** 2
        full = (slopes[worst] @ point - most[worst]) / length if own else np.inf
        limits = np.where(along > _ROUNDING, forces / along, np.inf)
        step = min(full, limits.min(initial=np.inf))
        if not np.isfinite(step):
            break
        forces, force = forces - step * along, force + step
        if np.isfinite(full):
            point = point - step * away
        if step == full:
            tight, forces, worst = [*tight, worst], np.append(forces, force), -1
        else:
            let = int(limits.argmin())
            tight, forces = tight[:let] + tight[let + 1 :], np.delete(forces, let)
    return np.asarray(point - np.linalg.pinv(slopes[tight]) @ (slopes[tight] @ point - most[tight]))


def _dot(matrix: Floats, vector: Floats) -> Floats:
    """A matrix[I, J] times a vector[J], summed as a row alone is: BLAS sums as its processor likes."""
    product: Floats = np.add.reduce(matrix * vector, axis=1)
    return product


def _squared(vectors: Floats) -> Floats:
    """Squares of the lengths of vectors[..., D]."""
    squared: Floats = np.add.reduce(vectors * vectors, axis=-1)
    return squared


def scale_of(space: Box) -> Floats:
    """What a distance of one is for each number[D]: its range; one where it has none, or none that says anything."""
    low, high = np.array(space.low), np.array(space.high)
    spread = high / 2 - low / 2
    return np.where((spread > 0) & (spread <= WIDEST / 2), 2 * np.minimum(spread, WIDEST), 1.0)
