"""Constraints over a Box: what each kind leaves of it, what is moved there, and what is refused."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from export.spec import Box, Field
from guards.abstention import AnyConstraint
from guards.boxes import sides_of
from guards.constraints import Bounds, Budget, Constraint, Cooldown, Linear, MaxSwitches, RateLimit, Rule
from guards.errors import ExpressionInvalid, GuardMisconfigured
from guards.language.terms import FALSE, Term, Within, compare, number, operation, opposite
from guards.projection import Region, scale_of
from guards.records import History, Schema
from tests.acting import ARM, OBSERVATION, SWITCHES
from tests.fakes import NOW, SCHEMA, context_of
from tests.guards.asked import confined
from tests.guards.batched import BoxRuling, Context, Shield

INF, NAN = math.inf, math.nan
# torque within -2 and 2, grip from 0 on, drift anything.
SPACE = Schema(observation=OBSERVATION, action=ARM, facts=("budget", "price"))
KNOWN = History(known=True, since=NOW)
parsed = TypeAdapter[Constraint](AnyConstraint).validate_python


def ruling(constraints: Sequence[Constraint], context: Context) -> BoxRuling:
    """What the shield leaves."""
    told = Shield(constraints, SPACE).judge(context)
    assert isinstance(told, BoxRuling)
    return told


def left(constraint: Constraint, context: Context) -> Region:
    """What one constraint leaves."""
    return confined(constraint, SPACE)(context)


def moved(constraints: Sequence[Constraint], context: Context, *points: list[float]) -> list[list[float]]:
    """Where points come to."""
    proposed = np.array(points)
    where: list[list[float]] = ruling(constraints, context).nearest(proposed, proposed).tolist()
    return where


def done(at: float = 0.0, *actions: tuple[float, ...], known: bool = True, since: float = NOW) -> History:
    """A history in which the last of these was executed so many seconds ago."""
    shield = Shield([RateLimit(name="r", of="torque", per_second=1)], SPACE)
    history = History(known=known, since=since)
    for action in actions:
        history = shield.advanced(history, action, NOW - at)
    return history


class TestSides:
    """Which half-spaces a term forbids what is beyond of."""

    INSIDE, OTHER = (Within((i,), 0.0, parts=(number(1), number(2))) for i in (0, 1))

    def test_what_is_not_in_a_half_space_is_beyond_it(self) -> None:
        """One, or several that are all to hold."""
        assert sides_of(opposite(self.INSIDE)) == [self.INSIDE]
        assert sides_of(operation("or", opposite(self.INSIDE), opposite(self.OTHER))) == [self.INSIDE, self.OTHER]

    @pytest.mark.parametrize(
        "term",
        [
            FALSE,
            INSIDE,
            opposite(compare(number(1), ">", number(2))),
            operation("and", INSIDE, OTHER),
            operation("or", opposite(INSIDE), compare(number(1), ">", number(2))),
            operation("or", opposite(INSIDE), opposite(FALSE)),
        ],
    )
    def test_any_other_term_has_none(self, term: Term) -> None:
        """Not even where a part of it has some: they would leave what the rest forbids."""
        assert sides_of(term) == []


class TestBounds:
    """A number of the action within bounds that may depend on what is seen."""

    def test_bounds_may_be_numbers_or_expressions(self) -> None:
        """Of fields and of facts, row by row."""
        bounds = Bounds(name="b", of="torque", low="-load", high="budget / 2")
        context = context_of([[1, 0, 0], [0.5, 0, 0]], facts=[[1, 0], [3, 0]])

        assert moved([bounds], context, [-2, 1, 5], [2, 1, 5]) == [[-1, 1, 5], [1.5, 1, 5]]
        assert moved([bounds], context, [0.5, 1, 5], [1.5, 1, 5]) == [[0.5, 1, 5], [1.5, 1, 5]]

    @pytest.mark.parametrize("settings", [{"high": "1 / load"}, {"low": "budget"}, {"low": 1, "high": "-1"}])
    def test_what_cannot_be_evaluated_leaves_nothing(self, settings: Any) -> None:
        """Nor does a low that is above the high; and both checks say so."""
        bounds = [Bounds(name="b", of="torque", **settings)]
        context = context_of([[0, 0, 0]], facts=[[NAN, 0]])

        assert np.isnan(moved(bounds, context, [0, 0, 0])).all()
        assert not Shield(bounds, SPACE).check(context, np.zeros((1, 3)))[0]
        assert not Shield(bounds, SPACE).domain.choosable(ruling(bounds, context).leaves)[0]
        assert not left(bounds[0], context).bounded

    def test_one_side_is_enough(self) -> None:
        """The other is the Box's own."""
        context = context_of([[0, 0, 0]] * 2)

        assert moved([Bounds(name="b", of="grip", high=3.0)], context, [2, 9, 0], [-2, -1, 0]) == [
            [2, 3, 0],
            [-2, 0, 0],
        ]


class TestRateLimit:
    """A number of the action that may change by so much a second since the last decision."""

    LIMIT = RateLimit(name="r", of="torque", per_second=0.5)

    def region(self, history: History, **told: Any) -> list[float]:
        """The least and the most that is left."""
        limit = self.LIMIT.model_copy(update=told)
        region = left(limit, context_of([[0, 0, 0]], histories=[history]))
        return [region.low[0], region.high[0]]

    def test_it_may_change_as_far_as_the_time_allows(self) -> None:
        """From the value that was executed last."""
        assert self.region(done(2.0, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0))) == [0.0, 2.0]
        assert self.region(done(0.0, (1.0, 0.0, 0.0))) == [1.0, 1.0]

    def test_a_clock_that_runs_backwards_stands_still(self) -> None:
        """What is in the future was executed now."""
        assert self.region(done(-9.0, (1.0, 0.0, 0.0))) == [1.0, 1.0]

    def test_what_was_executed_last_is_from_the_latest_time(self) -> None:
        """Also where the clock was put back in between."""
        shield = Shield([self.LIMIT], SPACE)
        history = KNOWN
        for at in (NOW, NOW - 50):
            history = shield.advanced(history, (1.0, 0.0, 0.0), at)

        assert self.region(history) == [1.0, 1.0]
        assert self.region(shield.advanced(history, (1.5, 0.0, 0.0), NOW + 1)) == [1.5, 1.5]

    def test_an_episode_begins_anywhere(self) -> None:
        """There is nothing to change yet."""
        assert self.region(KNOWN) == [-INF, INF]

    def test_where_the_history_is_not_here_nothing_is_left(self) -> None:
        """It may stand anywhere."""
        low, high = self.region(History(known=False, since=NOW - 1e6))

        assert low > high

    def test_what_it_is_known_to_be_within_is_assumed(self) -> None:
        """What is near enough to all of that, since the session was first seen, is left."""
        stranger = History(known=False, since=NOW - 2)

        assert self.region(stranger, assume=(0.2, 0.6)) == [0.6 - 1, 0.2 + 1]
        low, high = self.region(stranger, assume=(-2.0, 2.0))
        assert low > high

    def test_what_was_done_here_is_known_again(self) -> None:
        """Whatever was before."""
        assert self.region(done(1.0, (1.0, 0.0, 0.0), known=False)) == [0.5, 1.5]

    def test_a_history_without_its_time_is_not_known(self) -> None:
        """It was made before the constraint was."""
        low, high = self.region(History(known=True, since=NOW, step=3, action=(1.0, 0.0, 0.0)))

        assert low > high


class TestLinear:
    """A half-space whose coefficients may depend on what is seen."""

    def test_the_nearest_point_is_done(self) -> None:
        """Numbers without a range count in their own units, the others in ranges."""
        linear = Linear(name="l", coefficients={"grip": 1.0, "drift": "load"}, at_most="budget")
        context = context_of([[1, 0, 0], [0, 0, 0]], facts=[[4, 0], [3, 0]])

        assert np.array(moved([linear], context, [1, 4, 4], [1, 4, 4])) == pytest.approx(
            np.array([[1, 2, 2], [1, 3, 4]]), abs=1e-9
        )

    @pytest.mark.parametrize(("coefficient", "at_most"), [("1 / load", 1.0), (1.0, "budget"), ("price", "budget")])
    def test_what_cannot_be_evaluated_leaves_nothing(self, coefficient: Any, at_most: Any) -> None:
        """The row beside it is not touched."""
        linear = [Linear(name="l", coefficients={"grip": coefficient}, at_most=at_most)]
        context = context_of([[0, 0, 0], [1, 0, 0]], facts=[[NAN, NAN], [3, 1]])
        points = np.zeros((2, 3))

        assert np.isnan(moved(linear, context, *points.tolist())).any(axis=1).tolist() == [True, False]
        assert Shield(linear, SPACE).check(context, points).tolist() == [False, True]
        assert Shield(linear, SPACE).domain.choosable(ruling(linear, context).leaves).tolist() == [False, True]

    def test_all_that_deny_are_met_together(self) -> None:
        """Bounds and half-spaces of several constraints; those that only report move nothing."""
        constraints: list[Constraint] = [
            Linear(name="a", coefficients={"torque": 1.0, "drift": 1.0}, at_most=1.0),
            Linear(name="b", coefficients={"drift": -1.0}, at_most=-0.5),
            Bounds(name="c", of="torque", low=0.25),
            Bounds(name="d", mode="warn", of="torque", high=-1.0),
            Linear(name="e", mode="audit", coefficients={"drift": 1.0}, at_most=-9.0),
        ]
        context = context_of([[0, 0, 0]])

        ((torque, grip, drift),) = moved(constraints, context, [2, 1, 3])

        assert (grip, drift >= 0.5 - 1e-9, torque >= 0.25) == (1, True, True)
        assert torque + drift == pytest.approx(1.0, abs=1e-9)


class TestRule:
    """Expressions that name numbers of the action: not convex, so they are only checked."""

    RULE = Rule(name="r", forbid="abs(torque) < 0.5 and grip > load")

    def test_it_is_checked_and_nothing_is_moved(self) -> None:
        """What it forbids is refused as it is."""
        context = context_of([[1, 0, 0]] * 2)
        points = np.array([[0.1, 2.0, 0.0], [0.1, 1.0, 0.0]])

        assert moved([self.RULE], context, *points.tolist()) == points.tolist()
        assert Shield([self.RULE], SPACE).check(context, points).tolist() == [False, True]

    def test_a_name_with_two_meanings_is_refused(self) -> None:
        """Where the observation has a number of the same name."""
        space = Box(fields=(Field(name="load"),))

        with pytest.raises(ExpressionInvalid, match="'load' is a number of the action and an input too"):
            Shield([Rule(name="r", forbid="load > 1")], Schema(OBSERVATION, space))

    @pytest.mark.parametrize("name", ["action", "previous_action"])
    def test_an_action_has_no_name_there(self, name: str) -> None:
        """Only its numbers have."""
        with pytest.raises(ExpressionInvalid, match=f"the name '{name}' is not known, expected one of load, lag"):
            Rule(name="r", forbid=f"{name} == 'up'").term(SPACE)

    def test_a_budget_of_a_cost_in_numbers_is_checked_too(self) -> None:
        """It keeps what the executed numbers cost."""
        shield = Shield([Budget(name="b", cost="abs(torque)", at_most=2.0, seconds=60)], SPACE)
        context = context_of([[0, 0, 0]])
        action = (1.5, 0.0, 0.0)
        (weights,) = shield.weights(context, np.array([action]))
        history = shield.advanced(KNOWN, action, NOW, weights)
        after = context_of([[0, 0, 0]] * 2, histories=[history] * 2)

        assert shield.check(after, np.array([[0.5, 0.0, 0.0], [0.51, 0.0, 0.0]])).tolist() == [True, False]


class TestRuling:
    """What a record needs to know of a batch."""

    CONSTRAINTS: tuple[Constraint, ...] = (
        Bounds(name="b", of="torque", high=1.0),
        Linear(name="l", coefficients={"grip": 1.0, "drift": 1.0}, at_most=1.0),
        Bounds(name="w", mode="warn", of="drift", low=0.0),
    )

    def test_it_says_which_constraints_forbid_an_action(self) -> None:
        """Of any rows, in any mode; what is no action none of them lets pass."""
        told = ruling(list(self.CONSTRAINTS), context_of([[0, 0, 0]] * 3))
        numbers = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, -0.5]])

        hits = {(name, mode): hit.tolist() for name, mode, hit in told.forbidding(np.array([0, 2]), numbers)}

        assert hits == {("b", "deny"): [True, False], ("l", "deny"): [False, True], ("w", "warn"): [False, True]}
        assert told.permits(np.array([0, 2]), numbers).tolist() == [False, False]
        assert told.reported(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 0.0, NAN]])).tolist() == [
            False,
            True,
            True,
        ]

    def test_what_was_done_against_a_prohibition_is_no_report(self) -> None:
        """That is a violation: reported is what only warns or is counted."""
        told = ruling(list(self.CONSTRAINTS), context_of([[0, 0, 0]]))

        assert told.reported(np.array([[2.0, 9.0, 0.0]])).tolist() == [False]

    def test_there_is_nothing_to_choose_from(self) -> None:
        """Bounds are what is left to draw from."""
        told = ruling([], context_of([[0, 0, 0]] * 2))

        assert told.allowed.shape == (2, 0)
        assert told.leaves.tolist() == [[list(ARM.low), list(ARM.high)]] * 2

    def test_ranges_that_say_nothing_are_not_taken_for_units(self) -> None:
        """None, one that is nothing, and one that is nearly everything."""
        fields = (
            Field(name="a", low=0, high=4),
            Field(name="b", low=0),
            Field(name="c", low=1, high=1),
            Field(name="d", low=-1e38, high=1e38),
            Field(name="e", low=-1.7e308, high=1.7e308),
            Field(name="f", low=0, high=1e6),
            Field(name="g", low=0, high=1.5e6),
            Field(name="h", low=-1e6, high=2e6),
            Field(name="i", low=0.25, high=0.5),
        )

        assert scale_of(Box(fields=fields)).tolist() == [4, 1, 1, 1, 1, 1e6, 1, 1, 0.25]


@pytest.mark.parametrize(
    ("constraint", "problem"),
    [
        (
            {"kind": "bounds", "of": "torques"},
            "the number 'torques' of the action is not known, expected one of torque",
        ),
        ({"kind": "bounds", "of": "torque", "effect": {"up": 1}}, "effect: is {'up': 1.0}, expected none"),
        ({"kind": "bounds", "of": "torque", "low": "torque"}, "low: expression 'torque', column 1: the name 'torque'"),
        (
            {"kind": "bounds", "of": "torque", "high": "step > 1"},
            "high: expression 'step > 1', column 1: is a condition",
        ),
        ({"kind": "linear", "coefficients": {"lift": 1}, "at_most": 1}, "the number 'lift' of the action is not known"),
        ({"kind": "linear", "coefficients": {"grip": "x"}, "at_most": 1}, "coefficients.grip: expression 'x'"),
        ({"kind": "linear", "coefficients": {"grip": 1}, "at_most": "y"}, "at_most: expression 'y'"),
        ({"kind": "rate_limit", "per_second": 1}, "the number None of the action is not known"),
        (
            {"kind": "rate_limit", "per_second": 1, "of": "grip", "levels": {"up": 1}},
            "levels and effect are for choices",
        ),
        (
            {"kind": "rate_limit", "per_second": 1, "of": "grip", "effect": {"up": 1}},
            "levels and effect are for choices",
        ),
        ({"kind": "rate_limit", "per_second": 1, "of": "grip", "assume": [2, 1]}, "assume: is from 2.0 to 1.0"),
        ({"kind": "cooldown", "actions": ["up"], "seconds": 1}, "is for actions to choose from, and a box action has"),
        (
            {"kind": "max_switches", "at_most": 1, "seconds": 1},
            "is for actions to choose from, and a box action has none",
        ),
    ],
)
def test_what_does_not_fit_a_box_is_refused_at_start(constraint: dict[str, Any], problem: str) -> None:
    """With the name of the constraint and the setting."""
    with pytest.raises(GuardMisconfigured) as refused:
        Shield([parsed({"name": "c", **constraint})], SPACE)

    assert str(refused.value).startswith(f"0, 'c': {problem}")


@pytest.mark.parametrize(
    ("constraint", "problem"),
    [
        (Linear(name="c", coefficients={"up": 1.0}, at_most=1.0), "is for the numbers of a box action, and a discrete"),
        (
            Bounds(name="c", of="pods", effect={"up": 1.0}, high="load"),
            "low and high are expressions, expected numbers",
        ),
        (Bounds(name="c", of="pods", effect={"up": 1.0}, low="load"), "low and high are expressions, expected numbers"),
        (RateLimit(name="c", of="pods", per_second=1), "of and assume are for the numbers of a box action"),
        (RateLimit(name="c", effect={"up": 1.0}, assume=(0, 1), per_second=1), "of and assume are for the numbers"),
    ],
)
def test_what_is_for_numbers_is_refused_of_choices(constraint: Constraint, problem: str) -> None:
    """At start as well."""
    with pytest.raises(GuardMisconfigured, match=problem):
        Shield([constraint], SCHEMA)


def test_kinds_that_cannot_move_leave_that_to_the_check() -> None:
    """They forbid, and confine nothing."""
    assert sides_of(Rule(name="r", forbid="torque > 1").term(SPACE)) == []
    with pytest.raises(GuardMisconfigured, match="a box action has none"):
        Cooldown(name="c", actions=("up",), seconds=1).term(SPACE)
    with pytest.raises(GuardMisconfigured, match="a box action has none"):
        MaxSwitches(name="m", at_most=1, seconds=1).term(SPACE)
    assert Shield([], Schema(OBSERVATION, SWITCHES)).domain.width == SWITCHES.width
