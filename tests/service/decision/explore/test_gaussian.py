"""Gaussian: numbers are drawn as their propensity says, whose every part is checked against somebody else's."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from export.spec import Box, Field, Squash
from guards.errors import GuardMisconfigured
from guards.projection import Region
from guards.records import Floats
from service.decision.explore.acting import acting_of
from service.decision.explore.choice import LEAST, MOST, Explorer
from service.decision.explore.explorers import EpsilonGreedy, Greedy, Normal, Softmax
from service.decision.explore.gaussian import Gaussian, normals
from service.log.ids import Key
from service.log.records import Decision
from tests.acting import ARM, BOUNDED, GRID, acting_behaviour
from tests.fakes import asked, batch_of, recorded
from tests.service.decision.explore.drawing import Drawn

BATCH = 1000
INF = math.inf


def drawn(space: Box, head: Any, uniform: Any, *, squash: Squash = "none", **told: float) -> Drawn:
    """Draw from heads[N, 2D] in the bounds of the Box."""
    gaussian, region = Gaussian(space, squash, **told), Region(space.low, space.high)
    both = zip(np.array(head, dtype=np.float64), np.asarray(uniform).tolist(), strict=True)
    return Drawn([gaussian.draw(one, region, numbers) for one, numbers in both])


def of(low: float | None, high: float | None, count: int = 1) -> Box:
    """Numbers that all have these bounds."""
    return Box(fields=tuple(Field(name=f"n{i}", low=low, high=high) for i in range(count)))


class TestNormals:
    """Normal numbers from uniform ones."""

    def test_no_uniform_number_is_too_far_out(self) -> None:
        """Not even the first and the last there are; they lie evenly around the middle."""
        least, most = normals([0.0, 1 - 2.0**-53]).tolist()

        assert least == -most
        assert 8 < most < 8.3

    def test_they_are_the_quantiles(self) -> None:
        """To the last digits, in the middle and far out."""
        uniform = np.concatenate([np.random.default_rng(0).random(500), 2.0 ** -np.arange(1, 50)])

        np.testing.assert_allclose(normals(uniform.tolist()), stats.norm.ppf(uniform + 2.0**-53), rtol=1e-13)

    def test_neighbours_are_in_order(self) -> None:
        """A larger number never gives a smaller one."""
        uniform = np.sort(np.random.default_rng(1).random(5000))

        assert (np.diff(normals(uniform.tolist())) >= 0).all()


class TestMeasure:
    """What the propensity is of, number by number."""

    # u = 0.5 is z = 1e-16: the mean itself; 0.975 is z = 1.96.
    @pytest.mark.parametrize(
        ("mean", "std", "uniform", "action", "propensity", "measure"),
        [
            ([0.5, 5], [1, 2], [0.5, 0.5], [0.5, 5], stats.norm.pdf(0) * stats.norm.pdf(0) / 2, "density"),
            ([3, 5], [1, 2], [0.5, 0.5], [2, 5], stats.norm.cdf(1) * stats.norm.pdf(0) / 2, "mixed"),
            ([3, -1], [1, 2], [0.5, 0.5], [2, 0], stats.norm.cdf(1) * stats.norm.cdf(0.5), "mass"),
            ([0.5, 5], [0, 0], [0.9, 0.1], [0.5, 5], 1, "mass"),
            ([9, 5], [0, 0], [0.9, 0.1], [2, 5], 1, "mass"),
            ([0.5, 5], [0, 2], [0.9, 0.5], [0.5, 5], stats.norm.pdf(0) / 2, "mixed"),
            ([0.5, 30], [0, 2], [0.9, 0.5], [0.5, 10], 1, "mass"),
        ],
    )
    def test_of_clipped_numbers(
        self, mean: Any, std: Any, uniform: Any, action: Any, propensity: float, measure: str
    ) -> None:
        """The mass beyond a bound, the density between, and 1 where nothing is random."""
        draw = drawn(BOUNDED, [mean + std], [uniform])

        np.testing.assert_allclose(draw.action[0], action, rtol=1e-14)
        assert draw.propensity[0] == pytest.approx(propensity, rel=1e-12)
        assert list(draw.measure) == [measure]
        assert draw.explored.tolist() == [bool((draw.action[0] != np.clip(mean, [-2, 0], [2, 10])).any())]

    def test_a_number_without_a_choice_is_certain(self) -> None:
        """Where both bounds are the same, whatever the std."""
        draw = drawn(of(1.5, 1.5, 2), [[0.3, 9.0, 1.0, 2.0]], [[0.1, 0.9]])

        assert (draw.action.tolist(), draw.propensity.tolist(), draw.measure.tolist()) == (
            [[1.5, 1.5]],
            [1.0],
            ["mass"],
        )
        assert not draw.explored.any()

    @pytest.mark.parametrize("squash", ["none", "tanh"])
    def test_without_a_std_nothing_is_random(self, squash: Squash) -> None:
        """The same as greedy, with certainty."""
        head = np.concatenate([np.random.default_rng(2).normal(size=(20, 2)) * 3, np.zeros((20, 2))], axis=1)
        uniform = np.random.default_rng(3).random((20, 4))

        draw = drawn(BOUNDED, head, uniform, squash=squash)
        greedy = Drawn(list(map(Gaussian(BOUNDED, squash).greedy, head)))

        assert draw.action.tolist() == greedy.action.tolist() == draw.proposed.tolist()
        assert draw.propensity.tolist() == greedy.propensity.tolist() == [1.0] * 20
        assert set(draw.measure) == {"mass"}
        assert not draw.explored.any()

    def test_noise_makes_a_policy_without_a_std_explore(self) -> None:
        """By a share of each number's range, independently of a std of its own."""
        draw = drawn(BOUNDED, [[0.5, 5, 0, 0], [0.5, 5, 0.3, 0]], [[0.6, 0.5]] * 2, noise=0.1)

        z = NormalDist().inv_cdf(0.6)
        expected = [stats.norm.pdf(z) / 0.4, stats.norm.pdf(z) / 0.5]
        np.testing.assert_allclose(draw.propensity, np.array(expected) * stats.norm.pdf(0) / 1.0, rtol=1e-12)
        np.testing.assert_allclose(draw.action, [[0.5 + 0.4 * z, 5], [0.5 + 0.5 * z, 5]], rtol=1e-12)

    def test_scale_widens_the_policys_own_std(self) -> None:
        """And the propensity with it."""
        draw = drawn(of(None, None), [[0.0, 1.0]], [[0.9]], scale=3.0)

        z = NormalDist().inv_cdf(0.9)
        assert draw.action[0, 0] == pytest.approx(3 * z, rel=1e-14)
        assert draw.propensity[0] == pytest.approx(stats.norm.pdf(z) / 3, rel=1e-12)


def decided(space: Box, head: Sequence[float], explorer: Explorer, squash: Squash, n: int) -> list[Decision]:
    """Decisions of one observation."""
    behaviour = acting_behaviour(space, explorer, squash=squash, key=Key(1, b"gaussian" * 4))
    heads, rows = np.tile(np.array(head, dtype=np.float32), (BATCH, 1)), [asked()] * BATCH
    records = [record for at in range(0, n, BATCH) for record in recorded(behaviour, batch_of(rows, seq=1 + at), heads)]
    made = [record for record in records if isinstance(record, Decision)]
    assert len(made) == n
    return made


class TestFrequencies:
    """Through the whole decision, with a keyed hash for every number."""

    N = 30_000

    def test_clipped_numbers_have_their_density_and_their_atoms(self) -> None:
        """The atoms as often as was logged; between them, by Kolmogorov and Smirnov, the normal that was logged."""
        mean, std, low, high = 0.5, 1.5, -2.0, 2.0
        made = decided(of(low, high), [mean, std], Normal(), "none", self.N)
        actions = np.array([d.action for d in made])[:, 0]
        normal = stats.norm(mean, std)

        for bound, mass in ((low, normal.cdf(low)), (high, normal.sf(high))):
            logged = {(d.propensity, d.measure) for d in made if d.action == (bound,)}
            ((propensity, measure),) = logged
            assert measure == "mass"
            assert propensity == pytest.approx(mass, rel=1e-9)
            assert abs((actions == bound).sum() - self.N * mass) < 4.5 * math.sqrt(self.N * mass * (1 - mass))
        inside = [d for d in made if d.measure == "density"]
        between = np.array([d.action for d in inside])[:, 0]
        np.testing.assert_allclose([d.propensity for d in inside], normal.pdf(between), rtol=1e-9)
        truncated = stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std)
        assert stats.kstest(between, truncated.cdf).pvalue > 1e-3

    def test_squashed_numbers_have_their_density(self) -> None:
        """What was logged adds up to the distribution that was drawn."""
        made = decided(of(-1, 3), [0.3, 0.8], Normal(), "tanh", self.N)
        actions = np.array([d.action for d in made])[:, 0]

        def cumulative(x: Floats) -> Floats:
            return np.asarray(stats.norm.cdf(np.arctanh((x - 1) / 2), 0.3, 0.8))

        assert stats.kstest(actions, cumulative).pvalue > 1e-3
        step = 1e-6
        near = (actions > -0.99) & (actions < 2.99)
        slope = (cumulative(actions[near] + step) - cumulative(actions[near] - step)) / (2 * step)
        np.testing.assert_allclose(np.array([d.propensity for d in made])[near], slope, rtol=1e-3)

    def test_numbers_are_independent_of_each_other(self) -> None:
        """Also those that are not of the first hash."""
        made = decided(of(None, None, 9), [0.0] * 9 + [1.0] * 9, Normal(), "none", self.N // 2)

        correlation = np.corrcoef(np.array([d.action for d in made]).T) - np.eye(9)

        assert np.abs(correlation).max() < 5 / math.sqrt(self.N // 2)

    def test_greedy_is_certain(self) -> None:
        """What the policy means, clipped."""
        made = decided(BOUNDED, [0.25, -7.0, 1.0, 1.0], Greedy(), "none", BATCH)

        assert {(d.action, d.propensity, d.measure, d.explored) for d in made} == {((0.25, 0.0), 1.0, "mass", False)}


class TestExtremes:
    """Whatever finite numbers a head has."""

    NUMBERS = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1e-45, -1e-45, 1e38, -1e38, 3.4e38, 5e-324, 1e30])
    SPREADS = st.floats(0, 1e6) | st.sampled_from([0.0, 1e-45, 5e-324, 1e30, 3.4e38, 1e-300])
    SPACES = (of(-1, 1, 2), of(None, None, 2), of(0, None, 2), of(2, 2, 2), of(-1e308, 1.7e308, 2), of(-1e-300, 0, 2))

    @pytest.mark.parametrize("squash", ["none", "tanh"])
    @settings(max_examples=300, deadline=None)
    @given(
        mean=st.lists(NUMBERS, min_size=2, max_size=2),
        std=st.lists(SPREADS, min_size=2, max_size=2),
        uniform=st.lists(
            st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 1 - 2.0**-53, 0.5]), min_size=2, max_size=2
        ),
        space=st.sampled_from(SPACES),
        scale=st.sampled_from([1.0, 1e-6, 1e6, 0.0]),
    )
    def test_an_action_is_finite_and_its_propensity_positive(
        self, squash: Squash, mean: Any, std: Any, uniform: Any, space: Box, scale: float
    ) -> None:
        """Within its bounds, never NaN; and where no number can say how probable it is, that is said."""
        low, high = np.array(space.low), np.array(space.high)
        if squash == "tanh" and not (np.isfinite([low, high]).all() and (low < high).all()):
            return
        draw = drawn(space, [mean + std], [uniform], squash=squash, scale=scale)

        assert np.isfinite(draw.action).all()
        assert ((draw.action >= low) & (draw.action <= high)).all()
        assert LEAST <= draw.propensity[0] <= MOST
        assert draw.beyond is not None
        assert draw.beyond[0] == (draw.propensity[0] in (LEAST, MOST))
        assert draw.measure[0] in ("mass", "density", "mixed")
        assert draw.measure[0] != "mass" or draw.propensity[0] <= 1

    def test_a_density_that_no_number_can_say_is_said_so(self) -> None:
        """The action is the policy's; its propensity is not ok."""
        space = of(None, None, 40)
        behaviour = acting_behaviour(space, Normal())
        head = np.array([[0.0] * 40 + [1e-30] * 40], dtype=np.float32)

        (record,) = recorded(behaviour, batch_of([asked()]), head)

        assert isinstance(record, Decision)
        assert (record.propensity, record.propensity_ok, record.why_not_ok) == (MOST, False, "not_representable")
        assert (record.source, record.measure) == ("policy", "density")

    def test_numbers_that_left_all_bounds_fall_back(self) -> None:
        """Of an unbounded number that overflowed nothing is left to clip: the shield refuses it."""
        behaviour = acting_behaviour(of(None, None), Normal(scale=1e6))
        head = np.array([[1.7e308, 1e308]])

        records = [recorded(behaviour, batch_of([asked()], seq=seq), head)[0] for seq in range(1, 9)]

        assert {(r.source, r.reason, r.action) for r in records if isinstance(r, Decision)} == {
            ("baseline", "CheckFailed", (0.5,))
        }
        assert all(isinstance(r, Decision) for r in records)

    @pytest.mark.parametrize("column", [0, 2])
    @pytest.mark.parametrize("bad", [math.nan, INF, -INF, -1e-9])
    def test_heads_that_nothing_can_be_drawn_from_fall_back(self, column: int, bad: float) -> None:
        """Numbers that are not finite, and a std below zero; the row beside it is the policy's."""
        heads = np.array([[0.5, 5.0, 1.0, 1.0]] * 2)
        heads[1, column] = bad

        first, second = recorded(acting_behaviour(BOUNDED, Normal()), batch_of([asked()] * 2), heads)

        assert isinstance(first, Decision)
        assert isinstance(second, Decision)
        assert (first.source, first.reason) == ("policy", None)
        invalid = not math.isfinite(bad) or column == 2
        assert (second.source, second.reason) == (("baseline", "InvalidOutput") if invalid else ("policy", None))
        assert (second.measure == "mass") == invalid


def test_rows_that_may_not_explore_are_greedy_beside_those_that_may() -> None:
    """Each with its own measure."""
    rows = [asked(explore=bool(i % 2)) for i in range(6)]
    head = np.tile(np.array([0.5, 5.0, 0.1, 0.1], dtype=np.float32), (6, 1))

    made = [d for d in recorded(acting_behaviour(BOUNDED, Normal()), batch_of(rows), head) if isinstance(d, Decision)]

    assert [(d.explorer, d.measure, d.explored) for d in made] == [
        ("greedy", "mass", False),
        ("gaussian", "density", True),
    ] * 3
    assert {(d.action, d.propensity) for d in made[::2]} == {((0.5, 5.0), 1.0)}


@pytest.mark.parametrize(
    ("explorer", "space", "squash", "problem"),
    [
        (EpsilonGreedy(epsilon=0.1), ARM, "none", "kind: 'epsilon_greedy' does not draw box actions"),
        (Softmax(), GRID, "none", "kind: 'softmax' does not draw box actions"),
        (Normal(noise=0.1), BOUNDED, "tanh", "noise: was 0.1, expected 0 for a policy whose actions are squashed"),
        (Normal(noise=0.1), ARM, "none", "noise: was 0.1, expected 0 where a number has no bounds"),
    ],
)
def test_an_explorer_that_does_not_fit_is_refused(explorer: Explorer, space: Box, squash: Squash, problem: str) -> None:
    """At start, with the path of the setting."""
    with pytest.raises(GuardMisconfigured) as refused:
        acting_of(explorer, space, squash)

    assert problem in str(refused.value)
