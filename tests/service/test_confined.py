"""Draws in a Box under constraints: what was executed is distributed as its propensity says, wherever that is ok."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from export.spec import Box, Field, Squash
from guards.abstention import AnyConstraint
from guards.baselines import Constant
from guards.batched import Shield
from guards.constraints import Bounds, Linear, RateLimit, Rule
from guards.records import Floats, History
from guards.shield import Violation
from service.decision.explore.choice import Explorer
from service.decision.explore.explorers import Greedy, Normal
from service.decision.sessions import SessionState
from service.log.ids import Key
from service.log.records import Decision, Refused
from tests.acting import BOUNDED, acting_behaviour
from tests.fakes import NOW, asked, batch_of, recorded

BATCH = 2000
LINE = Box(fields=(Field(name="n", low=-2, high=3),))
# What the observation of `asked` says: load is 0.5, so these leave -1 to 1.25.
WITHIN = Bounds(name="w", of="n", low="-2 * load", high="1 + load / 2")
SUM = Linear(name="s", coefficients={"left": 1.0, "right": 0.5}, at_most="4 * load")
DRAWS = [100_000, pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]


def decided(
    constraints: Sequence[AnyConstraint],
    head: Sequence[float],
    n: int,
    *,
    space: Box = LINE,
    explorer: Explorer | None = None,
    squash: Squash = "none",
    history: History | None = None,
) -> list[Decision]:
    """Decisions of one state."""
    behaviour = acting_behaviour(
        space, explorer or Normal(), squash=squash, key=Key(1, b"confined" * 4), constraints=list(constraints)
    )
    entry = SessionState(None, None, history or History(known=True, since=NOW), None)
    rows = [asked(entry=entry, now=NOW)] * min(n, BATCH)
    heads = np.tile(np.array(head, dtype=np.float32), (len(rows), 1))
    records = [
        record for at in range(0, n, len(rows)) for record in recorded(behaviour, batch_of(rows, seq=1 + at), heads)
    ]
    made = [record for record in records if isinstance(record, Decision)]
    assert len(made) == len(records) == n
    return made


def numbers(made: Sequence[Decision]) -> Floats:
    """The first number of what was executed."""
    return np.array([d.action for d in made])[:, 0]


class TestBounds:
    """Where only bounds or rate limits bite: the propensity is exact, and ok."""

    @pytest.mark.parametrize("n", DRAWS)
    @pytest.mark.parametrize(("squash", "mean", "std"), [("none", 0.5, 1.5), ("tanh", 0.3, 0.8), ("tanh", -0.2, 2.5)])
    def test_draws_are_as_probable_as_they_say(self, n: int, squash: Squash, mean: float, std: float) -> None:
        """Atoms as often as was logged; between them, by Kolmogorov and Smirnov, the density that was logged."""
        made = decided([WITHIN], [mean, std], n, squash=squash)
        actions, low, high = numbers(made), -1.0, 1.25

        def cumulative(x: Floats) -> Floats:
            before = np.arctanh((x - 0.5) / 2.5) if squash == "tanh" else x
            return np.asarray(stats.norm.cdf(before, np.float32(mean), np.float32(std)))

        assert {d.source for d in made} == {"policy"}
        assert all(d.propensity_ok for d in made)
        for bound, mass in ((low, cumulative(np.array(low))), (high, 1 - cumulative(np.array(high)))):
            ((propensity, measure),) = {(d.propensity, d.measure) for d in made if d.action == (bound,)}
            assert measure == "mass"
            assert propensity == pytest.approx(float(mass), rel=1e-9)
            assert abs((actions == bound).sum() - n * mass) < 4.5 * math.sqrt(n * mass * (1 - mass))
        inside = (actions > low) & (actions < high)
        between = actions[inside]
        step = 1e-6
        slope = (cumulative(between + step) - cumulative(between - step)) / (2 * step)
        np.testing.assert_allclose(np.array([d.propensity for d in made])[inside], slope, rtol=1e-6)
        first, last = cumulative(np.array([low, high]))
        assert stats.kstest((cumulative(between) - first) / (last - first), "uniform").pvalue > 1e-3
        assert {d.measure for d, is_so in zip(made, inside.tolist(), strict=True) if is_so} == {"density"}

    def test_what_was_moved_says_how_far_and_by_what(self) -> None:
        """An intervention has a cause, and nothing else has."""
        warned = Bounds(name="q", mode="warn", of="n", high=0.0)

        for d in decided([WITHIN, warned], [0.5, 1.5], BATCH):
            assert isinstance(d.proposed, tuple)
            assert isinstance(d.action, tuple)
            (proposed,), (action,) = d.proposed, d.action
            said = [] if proposed == action else [Violation("w", "prevented")]
            assert d.violations == said + [Violation("q", "reported", "warn")] * (action > 0)
            assert d.moved == (None if proposed == action else pytest.approx(abs(proposed - action) / 5))

    @pytest.mark.parametrize("squash", ["none", "tanh"])
    def test_a_rate_limit_is_a_pair_of_bounds(self, squash: Squash) -> None:
        """In the measure too: with no time gone by there is one number left, whose mass is 1."""
        limit = RateLimit(name="r", of="n", per_second=0.25)
        shield = Shield([limit], acting_behaviour(LINE).schema)

        def after(seconds: float) -> list[Decision]:
            history = shield.advanced(History(known=True, since=NOW - 9), (0.5,), NOW - seconds)
            return decided([limit], [0.5, 1.5], BATCH, squash=squash, history=history)

        assert {(d.action, d.propensity, d.measure, d.explored) for d in after(0)} == {((0.5,), 1.0, "mass", False)}
        assert set(numbers(after(2)).tolist()) > {0.0, 1.0}
        assert all(d.propensity_ok and 0 <= d.action[0] <= 1 for d in after(2) if isinstance(d.action, tuple))

    def test_several_numbers_are_mixed(self) -> None:
        """Each with its own mass or density."""
        made = decided([Bounds(name="b", of="left", high=0.0)], [1.0, 5.0, 1.0, 2.0], BATCH, space=BOUNDED)

        bound = [d for d in made if isinstance(d.action, tuple) and d.action[0] == 0 and 0 < d.action[1] < 10]
        assert {d.measure for d in bound} == {"mixed"}
        for d in bound:
            assert isinstance(d.action, tuple)
            expected = stats.norm.cdf(1.0) * stats.norm.pdf(d.action[1], 5, 2)
            assert d.propensity == pytest.approx(expected, rel=1e-9)
            assert d.propensity_ok

    def test_greedy_is_certain(self) -> None:
        """Moved or not."""
        (d,) = decided([WITHIN], [9.0, 1.0], 1, explorer=Greedy())

        assert (d.proposed, d.action, d.propensity, d.measure) == ((3.0,), (1.25,), 1.0, "mass")
        assert (d.propensity_ok, d.explored) == (True, False)
        assert d.moved == pytest.approx(1.75 / 5)

    def test_what_was_moved_by_next_to_nothing_was_moved(self) -> None:
        """Its distance is no number above zero, and it is told all the same."""
        (d,) = decided([Bounds(name="b", of="n", high=0.0)], [1e-45, 0.0], 1)

        assert (d.action, d.violations) == ((0.0,), [Violation("b", "prevented")])
        assert d.moved is not None
        (d,) = decided([Bounds(name="b", of="n", high=-5e-324)], [0.0, 0.0], 1)
        assert (d.action, d.moved) == ((-5e-324,), 0.0)

    def test_bounds_at_the_ends_of_a_squash_are_its_own(self) -> None:
        """A constraint that says what the Box says changes nothing."""
        same = Bounds(name="b", of="n", low=-2, high=3)

        free = [(d.action, d.propensity, d.measure) for d in decided([], [0.3, 9.0], BATCH, squash="tanh")]
        told = [(d.action, d.propensity, d.measure) for d in decided([same], [0.3, 9.0], BATCH, squash="tanh")]

        assert free == told


class TestHalfSpaces:
    """Where a half-space moved the action nobody knows how probable it is; elsewhere it is as probable as before."""

    @pytest.mark.parametrize("squash", ["none", "tanh"])
    def test_what_was_projected_is_never_ok(self, squash: Squash) -> None:
        """And what was not always is: with the propensity that it has without the constraint."""
        head = [1.0, 0.0, 1.0, 1.0] if squash == "none" else [0.5, -1.0, 1.0, 1.0]
        made = decided([SUM], head, 20 * BATCH, space=BOUNDED, squash=squash)
        free = decided([], head, 20 * BATCH, space=BOUNDED, squash=squash)

        moved = [d for d in made if d.proposed != d.action]
        assert len(moved) > BATCH
        assert {(d.propensity_ok, d.why_not_ok, d.source, d.reason) for d in moved} == {
            (False, "Projected", "policy", None)
        }
        assert {tuple(d.violations) for d in moved} == {(Violation("s", "prevented"),)}
        for d, one in zip(made, free, strict=True):
            assert isinstance(d.action, tuple)
            assert d.proposed == one.action
            assert d.action[0] + 0.5 * d.action[1] <= 2 + 1e-9
            if d.proposed == d.action:
                assert (d.propensity, d.measure, d.propensity_ok) == (one.propensity, one.measure, True)
                assert d.moved is None
            else:
                assert d.moved is not None
                assert d.moved > 0

    def test_what_is_moved_to_where_the_best_is_moved_has_not_explored(self) -> None:
        """Two proposals may end at one point."""
        line = Linear(name="s", coefficients={"n": 1.0}, at_most=1.0)
        corner = [Linear(name=f"s{i}", coefficients={"left": 1.0, "right": 0.1 * i}, at_most=0.5) for i in range(1, 4)]

        alone = decided([line], [1.5, 1.0], BATCH)
        together = decided([*corner, Bounds(name="b", of="right", low=1.0)], [1.5, 0.5, 0.2, 0.2], BATCH, space=BOUNDED)

        assert all(d.explored is (d.action != (1.0,)) for d in alone)
        assert [d.explored for d in alone].count(True) > BATCH / 5
        assert {d.explored for d in together if isinstance(d.proposed, tuple) and d.proposed[0] > 1} == {False}
        assert len({d.proposed for d in together}) == BATCH

    def test_what_is_moved_elsewhere_than_the_best_has_explored(self) -> None:
        """Though they would be clipped to one point: what is moved is the proposal, not its clip."""
        limits: list[AnyConstraint] = [
            Bounds(name="b", of="left", high=0.0),
            Linear(name="s", coefficients={"left": 0.25, "right": 0.1}, at_most=0.2),
        ]
        made = decided(limits, [1.0, 8.0, 0.2, 0.0], BATCH, space=BOUNDED)

        assert {d.explored for d in made} == {True}
        assert {d.explored for d in decided(limits, [1.0, 8.0, 0.2, 0.0], 1, space=BOUNDED, explorer=Greedy())} == {
            False
        }

    def test_rows_that_may_not_explore_have_not_beside_rows_that_may(self) -> None:
        """Each has its own draw."""
        behaviour = acting_behaviour(
            LINE, Normal(), constraints=[Linear(name="s", coefficients={"n": 1.0}, at_most=1.0)]
        )
        rows = [asked(explore=i % 2 == 0) for i in range(100)]
        made = recorded(behaviour, batch_of(rows), np.tile(np.array([0.0, 0.3], dtype=np.float32), (100, 1)))

        assert [isinstance(d, Decision) and d.explored for d in made] == [row.explore for row in rows]

    def test_greed_is_projected_too(self) -> None:
        """It is certain, and still not ok: a solver is in the path."""
        (d,) = decided([SUM], [2.0, 4.0, 1.0, 1.0], 1, space=BOUNDED, explorer=Greedy())

        assert (d.propensity, d.measure, d.propensity_ok, d.why_not_ok) == (1.0, "mass", False, "Projected")

    def test_with_bounds_that_bite_alone_it_stays_ok(self) -> None:
        """The half-space has to move it."""
        both: list[AnyConstraint] = [SUM, Bounds(name="b", of="left", high=0.0)]

        made = decided(both, [1.0, 1.0, 1.0, 1.0], BATCH, space=BOUNDED)

        clipped = [d for d in made if isinstance(d.action, tuple) and d.action[0] == 0 and d.action[1] < 3]
        assert len(clipped) > BATCH / 3
        assert all(d.propensity_ok for d in clipped)


class TestLadder:
    """Where the policy's action cannot be moved to a safe place, the baseline's is tried in the same way."""

    def one(
        self, constraints: list[AnyConstraint], action: tuple[float, float], last: tuple[float, float] | None = None
    ) -> Decision | Refused:
        """What comes of a policy that wants (2, 10) and a baseline that wants something else."""
        behaviour = acting_behaviour(
            BOUNDED, Greedy(), Constant(action=action, last_resort=last), constraints=constraints
        )
        (record,) = recorded(behaviour, batch_of([asked()]), np.array([[2.0, 10.0, 0.0, 0.0]], dtype=np.float32))
        return record

    def test_a_rule_refuses_and_does_not_move(self) -> None:
        """The policy's action; the baseline's is the next."""
        d = self.one([Rule(name="r", forbid="left > 1 and right > 5")], (0.0, 5.0))

        assert isinstance(d, Decision)
        assert (d.source, d.reason, d.action, d.propensity_ok) == ("baseline", "NoSafeAction", (0.0, 5.0), True)

    def test_the_baselines_proposal_is_moved_as_well(self) -> None:
        """Every rung goes through the same guard."""
        none = Rule(name="r", forbid="left > 1")
        d = self.one([none, Bounds(name="b", of="right", high=4.0)], (0.5, 5.0))

        assert isinstance(d, Decision)
        assert (d.source, d.proposed, d.action) == ("baseline", (0.5, 5.0), (0.5, 4.0))
        assert d.moved == pytest.approx(0.1)
        # One refused the policy's action, the other moved the baseline's.
        assert d.violations == [Violation("r", "prevented"), Violation("b", "prevented")]

    def test_a_projected_baseline_is_not_ok_either(self) -> None:
        """Even where the policy's own failure is a function of what is seen."""
        behaviour = acting_behaviour(BOUNDED, Greedy(), Constant(action=(2.0, 5.0)), constraints=[SUM])
        head = np.array([[math.nan, 1.0, 0.0, 0.0]], dtype=np.float32)

        (d,) = recorded(behaviour, batch_of([asked()]), head)

        assert isinstance(d, Decision)
        assert (d.source, d.reason, d.propensity_ok, d.why_not_ok) == ("baseline", "InvalidOutput", False, "Projected")

    @pytest.mark.parametrize(
        "nowhere",
        [
            [Bounds(name="a", of="left", low=0.5, high=0.2)],
            [Bounds(name="a", of="left", low="1 / (load - 0.5)")],
            [Linear(name="a", coefficients={"left": 1.0}, at_most=-3.0)],
            [Linear(name="a", coefficients={"left": "missing"}, at_most=9.0)],
        ],
    )
    def test_where_nothing_is_left_the_last_resort_leaves(self, nowhere: list[AnyConstraint]) -> None:
        """Or nothing; it is not moved, and counts as executed against what it breaks."""
        behaviour = acting_behaviour(
            BOUNDED,
            Normal(),
            Constant(action=(0.0, 0.0), last_resort=(1.0, 1.0)),
            constraints=nowhere,
            facts=("missing",),
        )
        head = np.array([[0.0, 1.0, 1.0, 1.0]] * 2, dtype=np.float32)

        first, _ = recorded(behaviour, batch_of([asked()] * 2), head)

        assert isinstance(first, Decision)
        assert (first.source, first.reason, first.propensity_ok) == ("last_resort", "NoSafeAction", True)
        assert (first.action, first.moved) == ((1.0, 1.0), None)
        assert Violation("a", "executed") in first.violations

    def test_with_none_declared_nothing_is_done(self) -> None:
        """The row is refused."""
        nowhere = Bounds(name="a", of="left", low=0.5, high=0.2)

        assert isinstance(self.one([nowhere], (0.0, 0.0)), Refused)
