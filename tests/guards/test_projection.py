"""Projection: the nearest point of a region, against a solver library on polytopes of every kind."""

import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from guards.boxes import EXACT
from guards.projection import Region
from guards.records import Floats
from tests.guards.polytopes import SHAPES, Polytope, polytope

INF = math.inf
# The share of polytopes that sweeps find the nearest point of.
LEAST_SWEPT = 0.69


def region(low: Any, high: Any, slopes: Any = (), most: Any = ()) -> Region:
    """A region."""
    return Region(*(np.array(numbers, dtype=np.float64).tolist() for numbers in (low, high, slopes, most)))


def nearest(where: Region, point: Any, scale: Any = 1.0) -> list[float] | None:
    """The nearest point of a region; None where there is none."""
    told = where.nearest(np.array(point, float).tolist(), np.broadcast_to(np.array(scale, float), (len(point),)))
    return None if told is None else list(told)


class TestBounds:
    """Where only bounds are there."""

    def test_it_is_a_clip(self) -> None:
        """Exactly, number by number, and zero by zero."""
        rng = np.random.default_rng(0)
        for _ in range(500):
            low = rng.normal(size=4).round()
            high, point = low + rng.random(4).round(1), (rng.normal(size=4) * 9).round()

            told = region(low, high).nearest(point.tolist(), np.ones(4))

            assert told is not None
            assert np.array(told).tobytes() == np.clip(point, low, high).tobytes()
            assert region(low, high).holds(told)

    def test_where_a_low_is_above_a_high_there_is_nothing(self) -> None:
        """There is no room."""
        assert nearest(region([0, 2], [1, 1]), [5, 5]) is None
        assert not region([0, 2], [1, 1]).bounded
        assert nearest(region([0, 0], [1, 1]), [5, 5]) == [1.0, 1.0]

    def test_where_a_low_is_a_high_that_is_it(self) -> None:
        """One number is room enough."""
        assert nearest(region([1, 0], [1, 1]), [5, 0.5]) == [1.0, 0.5]
        assert nearest(region([1, 0], [1, 1], [[1, 1]], [1]), [5, 0.5]) == [1.0, 0.0]

    @pytest.mark.parametrize("bad", [math.nan, INF, -INF])
    def test_what_is_not_finite_has_nothing_near(self, bad: float) -> None:
        """Not even with bounds to clip to: nobody meant it."""
        assert nearest(region([0, 0], [1, 1]), [0.5, bad]) is None
        assert nearest(region([0, 0], [1, 1], [[1, 1]], [1]), [0.5, bad]) is None
        assert not region([-INF, 0], [INF, 1], [[1, 1]], [1]).holds([bad, 0.5])


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

    def test_what_is_inside_stays_as_it_is(self) -> None:
        """Bit for bit, and what is not inside is moved."""
        rng = np.random.default_rng(5)
        for i, point in enumerate(rng.normal(size=(200, 3)).tolist()):
            room = 1e-3 if i % 2 else -1e-3
            where = region([-9] * 3, [9] * 3, [[1] * 3], [sum(point) + room])

            assert (nearest(where, point, [0.3, 7.0, 1.1]) == point) == (room > 0)

    @pytest.mark.parametrize(
        ("slopes", "most", "point", "kept"),
        [
            ([1.0], 0.0, [0.9e-9], True),
            ([1.0], 0.0, [1.1e-9], False),
            ([-1.0], 0.0, [-0.9e-9], True),
            ([-1.0], 0.0, [-1.1e-9], False),
            ([1.0], 8.0, [8.0 + 7e-9], True),
            ([1.0], 8.0, [8.0 + 9e-9], False),
            ([-1.0], -8.0, [8.0 - 7e-9], True),
            ([1.0, 1.0], 0.0, [1.8e-9, 0.0], True),
            ([1.0, 1.0], 0.0, [2.2e-9, 0.0], False),
            ([4.0, -4.0], 0.0, [0.0, -1.8e-9], True),
            ([1.0], INF, [0.0], False),
        ],
    )
    def test_a_half_space_is_kept_to_a_billionth_of_its_scale(
        self, slopes: list[float], most: float, point: list[float], kept: bool
    ) -> None:
        """Of the sum of its parts, each number counting as one at least."""
        width = len(slopes)

        assert region([-9] * width, [9] * width, [slopes], [most]).holds(point) == kept

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
        assert nearest(where, [1, 1]) is None

    def test_what_cannot_be_added_up_is_not_kept(self) -> None:
        """Infinity is not less than a part of infinity."""
        assert not region([0, 0], [9, 9], [[1e308, 1e308]], [1]).holds([9.0, 9.0])


def several(count: int, rng: np.random.Generator, **most: int) -> list[tuple[Polytope, Floats, Floats]]:
    """Polytopes with the scale of each and what comes of it, NaN where nothing does: those of one size share theirs."""
    sizes = defaultdict(list)
    for _ in range(count):
        one = polytope(rng, **most)
        sizes[one.slopes.shape].append(one)
    told = []
    for (_, d), some in sizes.items():
        scale = 10.0 ** rng.uniform(-1, 1, size=d)
        told += [(one, scale, moved(one, one.point, scale)) for one in some]
    return told


def moved(one: Polytope, point: Floats, scale: Floats) -> Floats:
    """What is nearest to a point, NaN where nothing is."""
    found = one.region.nearest(point.tolist(), scale)
    return np.full(len(point), np.nan) if found is None else np.array(found)


def is_nearest(one: Polytope, scale: Floats, point: Floats) -> bool:
    """Whether a point is inside and nothing is nearer, or there is none and nothing is inside."""
    if np.isnan(point).any():
        # What there is no room for by a billionth may be said to be empty.
        return one.empty_by() > -1e-9
    distance = float(np.linalg.norm((point - one.point) / scale))
    bounds = (one.least(point, scale, near) for near in (1e-9, 1e-6, 1e-12))
    return one.excess(point) <= EXACT and any(distance <= bound * (1 + 1e-6) + 1e-7 for bound in bounds)


class TestOracle:
    """Against scipy.optimize, on polytopes up to 8 dimensions and 10 half-spaces, most of them degenerate."""

    @pytest.mark.parametrize(
        "count", [1_000, 10_000, pytest.param(200_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
    )
    def test_it_is_inside_and_nothing_is_nearer(self, count: int) -> None:
        """Inside to 1e-9, and no farther than what the library's multipliers prove by more than a millionth of it."""
        seen, nowhere = Counter[str](), Counter[str]()
        for one, scale, point in several(count, np.random.default_rng(2)):
            seen[one.shape] += 1
            if np.isnan(point).any():
                nowhere[one.shape] += 1
            assert is_nearest(one, scale, point), one

        assert min(seen[shape] for shape in SHAPES) > count / 20
        assert nowhere["apart"] == seen["apart"]
        assert not any(nowhere[shape] for shape in ("any", "parallel", "nearly parallel", "point", "cone", "whole"))
        assert 0 < nowhere["zero"] < seen["zero"]

    @pytest.mark.parametrize("part", [1e-2, 1e-4])
    def test_a_point_that_is_nearly_inside_goes_the_same_way(self, part: float) -> None:
        """What is nearest to a point is nearest to all between the two, however short the way."""
        for one, scale, point in several(400, np.random.default_rng(8), dimensions=4, sides=6):
            if not np.isnan(point).any():
                between = point + part * (one.point - point)

                told = moved(one, between, scale)

                assert np.linalg.norm((told - point) / scale) <= 1e-4 * np.linalg.norm((between - point) / scale) + 1e-7

    def test_what_sweeps_do_not_find_is_worked_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever it is: here without any sweeps."""
        monkeypatch.setattr("guards.projection._SWEEPS", ())

        for one, scale, point in several(1_000, np.random.default_rng(6)):
            assert is_nearest(one, scale, point), one

    def test_sweeps_alone_find_most(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of small polytopes, also where half-spaces meet or are doubled: the rest costs a step of Python each."""
        known = several(1_000, np.random.default_rng(7), dimensions=3, sides=3)
        monkeypatch.setattr("guards.projection._exact", lambda sweep: np.full(len(sweep.start), np.nan))

        swept = several(1_000, np.random.default_rng(7), dimensions=3, sides=3)

        away = [
            (one, scale, point)
            for (one, _, before), (_, scale, point) in zip(known, swept, strict=True)
            if not np.isnan(before).any() and not np.array_equal(before, np.clip(one.point, one.low, one.high))
        ]
        found = [(one, scale, point) for one, scale, point in away if not np.isnan(point).any()]
        assert len(found) > LEAST_SWEPT * len(away)
        assert all(is_nearest(*each) for each in found)

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
        points = [moved(one, one.point, np.ones(len(one.low))) for one in polytopes]

        lost = [np.isnan(point).any() for point in points]
        assert 0 < sum(lost) < len(lost)
        assert all(one.excess(point) <= EXACT for one, point, no in zip(polytopes, points, lost, strict=True) if not no)
