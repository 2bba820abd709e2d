"""Projection: the nearest point of a region {low <= a <= high, slopes a <= most}, for each row of a batch.

Near is Euclid's distance with every number in units of its ``scale``. With bounds alone it is a clip. With half-spaces
it is Hildreth's method, here with all bounds in one step of each sweep: a quadratic program's dual, one constraint
after another (C. Hildreth, A quadratic programming procedure, 1957; A. N. Iusem and A. R. De Pierro, On the convergence
properties of Hildreth's quadratic programming algorithm, 1990). Now and then the point is polished: moved onto the face
that the multipliers speak of, and taken where it is inside and weak duality proves that nothing there is nearer. The
method can stand still for long; what is left after some sweeps is worked out by an active set. Whatever comes out was
found to be inside. A row is worked out alike in any batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.spec import Box
from guards.boxes import EXACT as EXACT
from guards.boxes import Confines
from guards.records import Booleans, Floats, Integers

# Beyond this a declared range says nothing of what is near.
WIDEST = 1e6
# How much nearer another point may be, as a part of half the square of the distance: the distance is good to 5e-9.
_GAP = 1e-8
# Sweeps before each polish; rows that are still left then are worked out one by one, in so many steps at most.
_SWEEPS = (2, 6, 16)
_STEPS = 300
_ROUNDING = 1e-13


@dataclass(frozen=True, slots=True)
class Region:
    """``low[N, D]``, ``high[N, D]``, ``slopes[N, M, D]`` and ``most[N, M]``; empty where a low is above a high."""

    low: Floats
    high: Floats
    slopes: Floats
    most: Floats

    @classmethod
    def within(cls, low: Floats, high: Floats) -> "Region":
        """Of bounds alone."""
        return cls(low, high, np.empty((len(low), 0, low.shape[1])), np.empty((len(low), 0)))

    @classmethod
    def of(cls, left: Sequence[Confines], width: int) -> "Region":
        """What is left of each row of a Box of so many numbers."""
        count = len(left[0].most) if left else 0
        return cls(
            np.array([one.low for one in left], dtype=np.float64).reshape(-1, width),
            np.array([one.high for one in left], dtype=np.float64).reshape(-1, width),
            np.array([one.slopes for one in left], dtype=np.float64).reshape(len(left), count, width),
            np.array([one.most for one in left], dtype=np.float64).reshape(len(left), count),
        )

    def rows(self, index: Integers | Booleans | list[int]) -> "Region":
        """Of some of the rows."""
        return Region(self.low[index], self.high[index], self.slopes[index], self.most[index])

    def holds(self, points: Floats) -> Booleans:
        """Whether each row's point[N, D] is inside: exactly of bounds, to EXACT of half-spaces."""
        inside = every((points >= self.low) & (points <= self.high))
        if self.most.shape[1]:
            inside &= self._kept(points)
        return inside

    def nearest(self, points: Floats, scale: Floats) -> Floats:
        """The nearest point of each row[N, D] to a finite one; NaN where there is none to be found."""
        there = every((self.low <= self.high) & np.isfinite(points))
        nearest = np.where(there[:, None], np.clip(points, self.low, self.high), np.nan)
        if self.most.shape[1]:
            far = np.flatnonzero(there & ~self._kept(nearest))
            if len(far):
                nearest[far] = _projected(self.rows(far), points[far], scale)
        return nearest

    def _kept(self, points: Floats) -> Booleans:
        with np.errstate(all="ignore"):  # what is not finite is not kept
            sizes = np.abs(self.slopes) * np.maximum(np.abs(points), 1.0)[:, None, :]
            size = np.maximum(np.abs(self.most), np.add.reduce(sizes, axis=2))
            excess = np.add.reduce(self.slopes * points[:, None, :], axis=2) - self.most
            return every((excess <= EXACT * size) & np.isfinite(size))


def _projected(region: Region, points: Floats, scale: Floats) -> Floats:
    """The nearest points in units of the scale, for rows whose clip is not inside."""
    nearest = np.full(points.shape, np.nan)
    with np.errstate(all="ignore"):  # of what is not finite nothing comes
        slopes = region.slopes * scale
        norm = np.sqrt(_squared(slopes))
        norm = np.where(norm > 0, norm, 1.0)
        unit = Region(region.low / scale, region.high / scale, slopes / norm[:, :, None], region.most / norm)
        start = points / scale
        left = np.flatnonzero(every(np.isfinite(norm)) & every(np.isfinite(unit.most)) & every(np.isfinite(start)))
        sweep = _Sweeps(unit.rows(left), start[left])
        for count in _SWEEPS:
            for _ in range(count):
                sweep.once()
            at, proved = sweep.polished()
            at = np.clip(at * scale, region.low[left], region.high[left])
            done = proved & region.rows(left).holds(at)
            nearest[left[done]] = at[done]
            left, sweep = left[~done], sweep.rows(~done)
            if not len(left):
                return nearest
        for i in left.tolist():
            at = np.clip(_exact(unit.rows([i]), start[i]) * scale, region.low[i], region.high[i])
            if region.rows([i]).holds(at[None])[0]:
                nearest[i] = at
    return nearest


class _Sweeps:
    """The state of Hildreth's method: a point[K, D], a multiplier of each half-space[K, M], and those of the bounds."""

    def __init__(self, region: Region, start: Floats) -> None:
        self.region, self.start = region, start
        self.point = np.clip(start, region.low, region.high)
        self.bounds = start - self.point
        self.multipliers = np.zeros_like(region.most)

    def rows(self, index: Booleans) -> "_Sweeps":
        """Of some of the rows."""
        left = _Sweeps(self.region.rows(index), self.start[index])
        left.point, left.bounds, left.multipliers = self.point[index], self.bounds[index], self.multipliers[index]
        return left

    def once(self) -> None:
        """Step onto each half-space that is exceeded, or back from it as far as was stepped before; then clip."""
        region, point = self.region, self.point
        for j in range(region.most.shape[1]):
            slope, multiplier = region.slopes[:, j], self.multipliers[:, j]
            step = np.maximum(np.add.reduce(slope * point, axis=1) - region.most[:, j], -multiplier)
            multiplier += step
            point = point - step[:, None] * slope
        point = point + self.bounds
        self.point = np.clip(point, region.low, region.high)
        self.bounds = point - self.point

    def polished(self) -> tuple[Floats, Booleans]:
        """The nearest point[K, D] of the face that the multipliers are of, and whether none nearer is inside."""
        region = self.region
        free, tight = self.bounds == 0, self.multipliers > 0
        inverse = np.linalg.pinv(np.where(tight[:, :, None] & free[:, None, :], region.slopes, 0.0))
        at = np.where(free, self.start, self.point)
        for _ in range(2):  # the second time takes away what the first has lost to rounding
            at = at - _dot(inverse, np.where(tight, _dot(region.slopes, at) - region.most, 0.0))
        forces = _dot(inverse.transpose(0, 2, 1), np.where(free, self.start - at, 0.0))
        at = np.clip(at, region.low, region.high)
        half = 0.5 * _squared(self.start - at)
        least = np.fmax(self._least(self.multipliers), self._least(np.maximum(forces, 0.0)))
        return at, np.asarray(half - least <= _GAP * half)

    def _least(self, multipliers: Floats) -> Floats:
        """Half the square of the distance[K] that nothing inside is nearer than: weak duality."""
        slopes = self.region.slopes
        point = np.clip(self.start - _dot(slopes.transpose(0, 2, 1), multipliers), self.region.low, self.region.high)
        beyond = _dot(slopes, point) - self.region.most
        return np.asarray(0.5 * _squared(point - self.start) + np.add.reduce(multipliers * beyond, axis=1))


def _exact(region: Region, start: Floats) -> Floats:
    """The nearest point[D] of one row, or what is nearly one: the dual method of Goldfarb and Idnani (1983).

    Bounds are half-spaces too. Where there is no way on, nothing is inside, or the rest is rounding.
    """
    one = np.eye(len(start))
    slopes = np.concatenate([region.slopes[0], one, -one])
    most = np.concatenate([region.most[0], region.high[0], -region.low[0]])
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


def _dot(matrices: Floats, vectors: Floats) -> Floats:
    """Matrices[K, I, J] times vectors[K, J], each row alike in any batch."""
    product: Floats = np.add.reduce(matrices * vectors[:, None, :], axis=2)
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


def every(cells: Booleans) -> Booleans:
    """Whether all of each row's cells[N, ...] are true."""
    return np.asarray(np.logical_and.reduce(cells, axis=1))


def some(cells: Booleans) -> Booleans:
    """Whether any of each row's cells[N, ...] is true."""
    return np.asarray(np.logical_or.reduce(cells, axis=1))
