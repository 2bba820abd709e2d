"""Projection: the nearest point of a region, against a solver library on polytopes of every kind."""

import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from guards.projection import EXACT, Region
from guards.records import Floats
from tests.guards.polytopes import SHAPES, Polytope, polytope

INF = math.inf


def region(low: Any, high: Any, slopes: Any = (), most: Any = ()) -> Region:
    """A region of one row."""
    width = len(low)
    sides = np.array(slopes, dtype=np.float64).reshape(1, -1, width)
    return Region(np.array([low], float), np.array([high], float), sides, np.array([most], float).reshape(1, -1))


def nearest(where: Region, point: Any, scale: Any = 1.0) -> list[float]:
    """The nearest point of a region of one row."""
    point = np.array([point], dtype=np.float64)
    told: list[float] = where.nearest(point, np.broadcast_to(np.array(scale, float), point.shape[1:]))[0].tolist()
    return told


class TestBounds:
    """Where only bounds are there."""

    def test_it_is_a_clip(self) -> None:
        """Exactly, number by number."""
        rng = np.random.default_rng(0)
        low = rng.normal(size=(500, 4))
        high, points = low + rng.random((500, 4)), rng.normal(size=(500, 4)) * 9

        told = Region.within(low, high).nearest(points, np.ones(4))

        assert np.array_equal(told, np.clip(points, low, high))
        assert Region.within(low, high).holds(told).all()

    def test_where_a_low_is_above_a_high_there_is_nothing(self) -> None:
        """The row beside it has its own."""
        where = Region.within(np.array([[0.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [1.0, 1.0]]))

        told = where.nearest(np.full((2, 2), 5.0), np.ones(2))

        assert np.isnan(told[0]).all()
        assert told[1].tolist() == [1.0, 1.0]

    @pytest.mark.parametrize("bad", [math.nan, INF, -INF])
    def test_what_is_not_finite_has_nothing_near(self, bad: float) -> None:
        """Not even with bounds to clip to: nobody meant it."""
        assert np.isnan(nearest(region([0, 0], [1, 1]), [0.5, bad])).all()
        assert np.isnan(nearest(region([0, 0], [1, 1], [[1, 1]], [1]), [0.5, bad])).all()
        assert not region([-INF, 0], [INF, 1], [[1, 1]], [1]).holds(np.array([[bad, 0.5]]))[0]


class TestHalfSpaces:
    """Where there are half-spaces too."""

    @pytest.mark.parametrize(
        ("where", "point", "expected"),
        [
            (region([0, 0], [1, 1], [[1, 1]], [1]), [1, 1], [0.5, 0.5]),
            (region([0, 0], [1, 1], [[1, 1]], [1]), [0.2, 0.3], [0.2, 0.3]),
            (region([0, 0], [1, 1], [[1, 1]], [1]), [2, 0], [1, 0]),
            (region([0.8, 0], [1, 1], [[1, 1]], [1]), [1, 1], [0.8, 0.2]),
            (region([-INF] * 2, [INF] * 2, [[3, 4]], [0]), [3, 4], [0, 0]),
            (region([-INF] * 2, [INF] * 2, [[1, 0], [-1, 0]], [2, -2]), [7, 7], [2, 7]),
            (region([0, 0], [4, 4], [[0, 0]], [0]), [5, 5], [4, 4]),
        ],
    )
    def test_it_is_the_nearest_point(self, where: Region, point: Any, expected: list[float]) -> None:
        """As one sees it on paper."""
        assert nearest(where, point) == pytest.approx(expected, abs=1e-12)

    def test_near_is_in_units_of_the_scale(self) -> None:
        """Half of a range of ten is as far as half of a range of one."""
        where = region([0, 0], [1, 10], [[1, 0.1]], [1])

        assert nearest(where, [1, 10], [1, 10]) == pytest.approx([0.5, 5])

    @pytest.mark.parametrize(
        "where",
        [
            region([0, 0], [1, 1], [[1, 1]], [-1e-3]),
            region([-INF] * 2, [INF] * 2, [[1, 0], [-1, 0]], [2, -2.001]),
            region([0, 0], [1, 1], [[0, 0]], [-1]),
            region([0, 0], [1, 1], [[1e308, 1e308]], [1]),
            region([0, 0], [1, 1], [[1e-320, 0]], [-1]),
        ],
    )
    def test_where_nothing_is_inside_there_is_nothing(self, where: Region) -> None:
        """Nor where the numbers are too large to be sure."""
        assert np.isnan(nearest(where, [1, 1])).all()

    def test_what_cannot_be_added_up_is_not_kept(self) -> None:
        """Infinity is not less than a part of infinity."""
        assert not region([0, 0], [9, 9], [[1e308, 1e308]], [1]).holds(np.array([[9.0, 9.0]]))[0]

    def test_a_row_is_projected_alike_in_any_batch(self) -> None:
        """Bit for bit: or a decision could not be recomputed alone afterwards."""
        rng = np.random.default_rng(1)
        for d, m in ((1, 1), (2, 3), (3, 5), (7, 2), (8, 10)):
            low = np.full((40, d), -1.0)
            many = Region(low, -low, rng.normal(size=(40, m, d)), rng.random((40, m)))
            points, scale = rng.normal(size=(40, d)) * 3, rng.random(d) + 0.5

            together = many.nearest(points, scale)

            for i in range(40):
                alone = many.rows([i]).nearest(points[i : i + 1].copy(), scale)
                assert np.array_equal(alone[0], together[i], equal_nan=True)


def several(count: int, rng: np.random.Generator, **most: int) -> list[tuple[Polytope, Floats, Floats]]:
    """Polytopes with the scale of each and what comes of it: those of one size are one batch."""
    sizes = defaultdict(list)
    for _ in range(count):
        one = polytope(rng, **most)
        sizes[one.slopes.shape].append(one)
    told = []
    for (_, d), some in sizes.items():
        scale = 10.0 ** rng.uniform(-1, 1, size=d)
        parts = [np.stack([getattr(one, part) for one in some]) for part in ("low", "high", "slopes", "most", "point")]
        points = Region(*parts[:4]).nearest(parts[4], scale)
        told += [(one, scale, point) for one, point in zip(some, points, strict=True)]
    return told


class TestOracle:
    """Against scipy.optimize, on polytopes up to 8 dimensions and 10 half-spaces, most of them degenerate."""

    @pytest.mark.parametrize(
        "count", [10_000, pytest.param(200_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
    )
    def test_it_is_inside_and_nothing_is_nearer(self, count: int) -> None:
        """Inside to 1e-9, and no farther than what the library's multipliers prove by more than a millionth of it."""
        seen, nowhere = Counter[str](), Counter[str]()
        for one, scale, point in several(count, np.random.default_rng(2)):
            seen[one.shape] += 1
            if np.isnan(point).any():
                # What there is no room for by a billionth may be said to be empty.
                assert one.empty_by() > -1e-9
                nowhere[one.shape] += 1
                continue
            assert one.excess(point) <= EXACT
            distance = float(np.linalg.norm((point - one.point) / scale))
            bounds = (one.least(point, scale, near) for near in (1e-9, 1e-6, 1e-12))
            assert any(distance <= bound * (1 + 1e-6) + 1e-7 for bound in bounds), one

        assert min(seen[shape] for shape in SHAPES) > count / 20
        assert nowhere["apart"] == seen["apart"]
        assert not any(nowhere[shape] for shape in ("any", "parallel", "nearly parallel", "point", "cone", "whole"))
        assert 0 < nowhere["zero"] < seen["zero"]

    def test_it_is_what_a_solver_finds(self) -> None:
        """The distance of a general one, which is not that exact itself."""
        found = 0
        for one, scale, point in several(300, np.random.default_rng(3), dimensions=4, sides=5):
            if one.shape in ("any", "whole", "redundant", "parallel"):
                normals, most = one.rows(scale)
                start = one.point / scale
                solved = minimize(
                    lambda x, start=start: 0.5 * np.sum((x - start) ** 2),
                    point / scale + 0.1,
                    jac=lambda x, start=start: x - start,
                    constraints={
                        "type": "ineq",
                        "fun": lambda x, n=normals, m=most: m - n @ x,
                        "jac": lambda _, n=normals: -n,
                    },
                    method="SLSQP",
                    options={"ftol": 1e-14, "maxiter": 300},
                )
                if solved.success and (normals @ solved.x - most).max() < 1e-9:
                    found += 1
                    distance = float(np.linalg.norm(point / scale - start))
                    assert distance == pytest.approx(float(np.linalg.norm(solved.x - start)), rel=1e-6, abs=1e-6)
        assert found > 50

    def test_it_gives_up_in_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Steps are counted: where they do not get there, nothing is said to be near."""
        polytopes = [one for one, _, point in several(300, np.random.default_rng(4)) if not np.isnan(point).any()]

        monkeypatch.setattr("guards.projection._STEPS", 0)
        monkeypatch.setattr("guards.projection._SWEEPS", (1,))
        points = [one.region.nearest(one.point[None], np.ones(len(one.low)))[0] for one in polytopes]

        lost = [np.isnan(point).any() for point in points]
        assert 0 < sum(lost) < len(lost)
        assert all(one.excess(point) <= EXACT for one, point, no in zip(polytopes, points, lost, strict=True) if not no)
