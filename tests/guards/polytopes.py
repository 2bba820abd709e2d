"""Random polytopes, from easy to degenerate ones, and what a solver library knows of them."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog, lsq_linear

from guards.projection import Region
from guards.records import Floats

SHAPES = ("any", "parallel", "equal", "thin", "apart", "point", "cone", "nearly parallel", "whole", "redundant", "zero")


@dataclass(frozen=True)
class Polytope:
    """One row of a region, and the point that is to be moved into it."""

    shape: str
    low: Floats
    high: Floats
    slopes: Floats
    most: Floats
    point: Floats

    @property
    def region(self) -> Region:
        return Region(*(numbers.tolist() for numbers in (self.low, self.high, self.slopes, self.most)))

    def rows(self, scale: Floats) -> tuple[Floats, Floats]:
        """All half-spaces, bounds too, in units of a scale, with normals of length one: those that say something."""
        one = np.eye(len(self.low))
        normals = np.concatenate([self.slopes, one, -one]) * scale
        most = np.concatenate([self.most, self.high, -self.low])
        length = np.linalg.norm(normals, axis=1)
        said = np.isfinite(most) & (length > 0)
        return normals[said] / length[said, None], most[said] / length[said]

    def excess(self, point: Floats) -> float:
        """How far a point is beyond the worst half-space or bound, as a part of what that is made of."""
        worst = 0.0
        for slope, most in zip(self.slopes.tolist(), self.most.tolist(), strict=True):
            size = max(abs(most), sum(abs(s) * max(1.0, abs(x)) for s, x in zip(slope, point.tolist(), strict=True)))
            over = sum(s * x for s, x in zip(slope, point.tolist(), strict=True)) - most
            worst = max(worst, over / size if size else over)
        return max(worst, float((self.low - point).max()), float((point - self.high).max()))

    def least(self, point: Floats, scale: Floats, near: float) -> float:
        """What no distance is less than, by the library's multipliers of what a nearest point would lie on.

        That is what it is ``near`` to: how near is for numerics to say, the bound holds whatever is chosen.
        """
        normals, most = self.rows(scale)
        start, there = self.point / scale, point / scale
        tight = normals @ there > most - near * np.maximum(1.0, np.abs(most))
        force = np.zeros(len(most))
        if tight.any():
            solved = lsq_linear(normals[tight].T, start - there, bounds=(0, np.inf), method="bvls", max_iter=1000)
            force[tight] = solved.x
        away = normals.T @ force
        half = force @ (normals @ start - most) - 0.5 * away @ away
        return math.sqrt(max(0.0, 2 * float(half)))

    def empty_by(self) -> float:
        """How far the best point there is lies beyond the worst half-space: below zero where some point is inside."""
        if ((self.most < 0) & (self.slopes == 0).all(axis=1)).any():
            return 1.0
        normals, most = self.rows(np.ones_like(self.low))
        goal = np.append(np.zeros(len(self.low)), 1.0)
        told = linprog(
            goal,
            np.concatenate([normals, -np.ones((len(most), 1))], axis=1),
            most,
            bounds=[(None, None)] * len(self.low) + [(-1.0, None)],
        )
        assert told.success
        return float(told.fun)


def polytope(rng: np.random.Generator, dimensions: int = 8, sides: int = 10) -> Polytope:
    """A random polytope of up to so many dimensions and half-spaces."""
    shape = str(rng.choice(SHAPES))
    d, m = int(rng.integers(1, dimensions + 1)), int(rng.integers(2, sides + 1))
    low = rng.normal(size=d) * 2 - 1
    high = low + 0.01 + np.abs(rng.normal(size=d)) * 3
    fixed = rng.random(d) < 0.05
    high[fixed] = low[fixed]
    inner = np.clip(rng.normal(size=d) * 1.5, low, high)
    low[rng.random(d) < 0.1], high[rng.random(d) < 0.1] = -np.inf, np.inf
    slopes = rng.normal(size=(m, d))
    room = np.abs(rng.normal(size=m)) * rng.choice([0.1, 1.0])
    if shape in ("point", "cone", "nearly parallel"):
        room[:] = 0.0
    most = slopes @ inner + room
    if shape == "parallel":
        slopes[1], most[1] = slopes[0] * 2.5, slopes[0] @ inner * 2.5 + 0.1
    if shape in ("equal", "thin", "apart"):
        gap = {"equal": 0.0, "thin": 1e-7, "apart": -float(rng.choice([1e-6, 1e-3, 1.0]))}[shape]
        slopes[1], most[1] = -slopes[0], -most[0] + gap * np.linalg.norm(slopes[0])
    if shape == "point":
        slopes = np.concatenate([np.linalg.qr(rng.normal(size=(d, d)))[0], slopes])[: sides // 2]
        slopes = np.concatenate([slopes, -slopes])
        most = slopes @ inner
    if shape == "nearly parallel":
        slopes[1] = slopes[0] + rng.normal(size=d) * 10.0 ** -int(rng.integers(1, 7))
        most[1] = slopes[1] @ inner
    if shape == "whole":
        slopes = rng.integers(-2, 3, size=(m, d)).astype(np.float64)
        most = slopes @ inner + np.round(room, 1)
    if shape == "redundant":
        slopes[1], most[1] = slopes[0], most[0] + 100.0
    if shape == "zero":
        slopes[0], most[0] = 0.0, float(rng.choice([0.0, 1.0, -1.0]))
    return Polytope(shape, low, high, slopes, most, rng.normal(size=d) * rng.choice([1.0, 3.0, 30.0]))
