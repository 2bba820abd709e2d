"""Constraints with a history of their own: what each forbids after what was executed, and what is kept of that."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from export.spec import Box, Field, MultiDiscrete
from guards.abstention import AnyConstraint
from guards.batched import BoxRuling, Context, Shield
from guards.constraints import Budget, Constraint, MaxSwitches, RateLimit
from guards.errors import ExpressionInvalid, GuardMisconfigured
from guards.records import Action, History, Schema
from tests.acting import OBSERVATION, SWITCHES
from tests.fakes import NOW, SCHEMA, context_of, schema_of

FACTORED = Schema(observation=OBSERVATION, action=SWITCHES)
HOLD, UP, DOWN, JUMP, REST, DROP = SCHEMA.actions
FRESH = History(known=True, since=NOW)
STRANGE = History(known=False, since=NOW)
parsed = TypeAdapter[Constraint](AnyConstraint).validate_python


class Loop:
    """One session under one constraint, step by step, as the landing takes it."""

    def __init__(self, constraint: Constraint, schema: Schema = SCHEMA, history: History = FRESH) -> None:
        self.shield, self.schema, self.history = Shield([constraint], schema), schema, history
        self.name = constraint.name

    def context(self, at: float, load: float = 0.0) -> Context:
        return Context(
            observation=np.array([[load, 0.0, 3.0]]),
            facts=np.full((1, len(self.schema.facts)), np.nan),
            mask=None,
            now=np.array([NOW + at]),
            histories=[self.history],
        )

    def left(self, at: float, load: float = 0.0) -> list[Any]:
        """What may be done: names of actions, or whole actions of several factors."""
        context = self.context(at, load)
        if isinstance(self.schema.action, MultiDiscrete):
            return [a for a in np.ndindex(*self.schema.action.sizes) if self.shield.check(context, np.array([a]))[0]]
        return [self.schema.actions[i] for i in np.flatnonzero(self.shield.judge(context).allowed[0])]

    def does(self, action: "str | Action", at: float, load: float = 0.0) -> "Loop":
        """Execute something, allowed or not."""
        done = self.schema.actions.index(action) if isinstance(action, str) else action
        weights = self.shield.weights(self.context(at, load), np.array([done]))
        self.history = self.shield.advanced(self.history, done, NOW + at, weights[0])
        return self

    @property
    def kept(self) -> tuple[float, ...]:
        return self.history.kept.get(self.name, ())


class TestRateLimit:
    """A value that changes no faster than it may."""

    EFFECT = RateLimit(name="r", per_second=0.5, effect={UP: 1, DOWN: -1, JUMP: 3})
    LEVELS = RateLimit(name="r", per_second=10, levels=dict(zip(SCHEMA.actions, (0, 10, 20, 50, 10, 100), strict=True)))

    @pytest.mark.parametrize(
        ("at", "expected"),
        [(0, [HOLD, REST, DROP]), (1.9, [HOLD, REST, DROP]), (2, [HOLD, UP, DOWN, REST, DROP]), (6, [*SCHEMA.actions])],
    )
    def test_a_change_needs_its_seconds_since_the_last(self, at: float, expected: list[str]) -> None:
        """One in two seconds, three in six, either way; what changes nothing is no change."""
        assert Loop(self.EFFECT).does(UP, 0).left(at) == expected

    def test_what_changes_nothing_does_not_start_it_again(self) -> None:
        """Or a loop that holds every second could never change anything."""
        loop = Loop(self.EFFECT).does(UP, 0).does(HOLD, 1).does(REST, 1.9)

        assert (loop.kept, loop.left(2)) == ((NOW,), [HOLD, UP, DOWN, REST, DROP])

    def test_the_first_change_of_an_episode_is_free(self) -> None:
        """Nothing changed before it."""
        assert Loop(self.EFFECT).left(0) == [*SCHEMA.actions]
        assert Loop(self.LEVELS).left(0) == [*SCHEMA.actions]

    def test_it_is_free_however_slow_the_change(self) -> None:
        """There is nothing yet that could change."""
        assert Loop(self.LEVELS.model_copy(update={"per_second": 1e-12})).left(0) == [*SCHEMA.actions]

    def test_one_action_alone_never_changes_anything(self) -> None:
        """Not even where it is not known what was done."""
        schema = schema_of(("load",), ("only",))

        assert Loop(RateLimit(name="r", per_second=1, levels={"only": 3}), schema, STRANGE).left(0) == ["only"]

    @pytest.mark.parametrize(
        ("at", "expected"), [(0, [UP, REST]), (1, [HOLD, UP, DOWN, REST]), (4, [*SCHEMA.actions][:5])]
    )
    def test_a_level_is_reached_no_faster(self, at: float, expected: list[str]) -> None:
        """From the level of the action before; actions of the same level are no change."""
        assert Loop(self.LEVELS).does(DROP, -99).does(UP, 0).left(at) == expected

    def test_an_action_of_the_same_level_is_no_change(self) -> None:
        """The time of the last change stays."""
        loop = Loop(self.LEVELS).does(HOLD, 0).does(UP, 1).does(REST, 1.5)

        assert loop.kept == (NOW + 1,)

    def test_the_first_action_is_a_change_only_where_it_is_not_known_what_was_before(self) -> None:
        """And the next of a stranger is compared with it."""
        assert Loop(self.LEVELS).does(UP, 0).kept == ()
        assert Loop(self.LEVELS, history=STRANGE).does(UP, 0).does(REST, 1).kept == (NOW,)
        assert Loop(self.LEVELS, history=STRANGE).does(UP, 0).does(HOLD, 1).kept == (NOW + 1,)

    def test_unknown_history_changed_just_before_it_was_seen(self) -> None:
        """Until the longest change has had its time."""
        assert Loop(self.EFFECT, history=STRANGE).left(1) == [HOLD, REST, DROP]
        assert Loop(self.EFFECT, history=STRANGE).left(6) == [*SCHEMA.actions]

    def test_an_unknown_level_is_the_farthest(self) -> None:
        """It may have been at either end; from the first action here on it is known."""
        loop = Loop(self.LEVELS, history=STRANGE)

        assert loop.left(4) == []
        assert loop.left(5) == [JUMP]
        assert loop.left(10) == [*SCHEMA.actions]
        assert loop.does(JUMP, 5).left(5) == [JUMP]
        assert loop.kept == (NOW + 5,)
        assert loop.left(9) == [UP, DOWN, JUMP, REST]

    def test_a_clock_that_goes_back_stands_still(self) -> None:
        """What changes nothing is allowed even so."""
        loop = Loop(self.EFFECT).does(UP, 0).does(DOWN, -50)

        assert (loop.kept, loop.left(-50)) == ((NOW,), [HOLD, REST, DROP])

    def test_a_factor_has_levels(self) -> None:
        """The other factors are no matter."""
        levels = {"fan=still": 0.0, "fan=slow": 1.0, "fan=fast": 2.0, "fan=storm": 5.0}
        loop = Loop(RateLimit(name="r", per_second=1, levels=levels), FACTORED).does((0, 0, 0), -9)
        loop.does((0, 0, 1), 0)

        assert {action[2] for action in loop.left(0)} == {1}
        assert {action[2] for action in loop.left(1)} == {0, 1, 2}
        assert len(loop.left(1)) == 18
        assert loop.does((1, 2, 1), 1).kept == (NOW,)

    @pytest.mark.parametrize(
        ("told", "expected"),
        [
            ({}, "levels and effect are both here or both missing, expected one of them"),
            ({"levels": {UP: 1.0}, "effect": {UP: 1.0}}, "both here or both missing"),
            ({"levels": {UP: 1.0, DOWN: 2.0}}, "levels: has none for hold, jump, rest, drop, expected one for each"),
            ({"effect": {"fly": 1.0}}, "the action 'fly' is not known, expected one of hold"),
        ],
    )
    def test_what_limits_nothing_is_refused(self, told: dict[str, Any], expected: str) -> None:
        """When it is bound."""
        with pytest.raises(GuardMisconfigured, match=expected):
            Shield([RateLimit(name="r", per_second=1, **told)], SCHEMA)


class TestBudget:
    """What may be spent in a window."""

    BUDGET = Budget(name="b", cost="3 if action == 'jump' else 1 if action == 'up' else 0", at_most=4, seconds=60)

    def test_what_costs_more_than_is_left_is_forbidden(self) -> None:
        """What costs nothing never is."""
        loop = Loop(self.BUDGET).does(JUMP, 0)

        assert loop.left(1) == [HOLD, UP, DOWN, REST, DROP]
        assert loop.does(UP, 1).left(2) == [HOLD, DOWN, REST, DROP]
        assert loop.does(JUMP, 3).left(4) == [HOLD, DOWN, REST, DROP]

    def test_the_window_slides(self) -> None:
        """What was spent is left again when it was long enough ago, to the moment."""
        loop = Loop(self.BUDGET).does(JUMP, 0).does(UP, 10)

        assert loop.left(59.9) == [HOLD, DOWN, REST, DROP]
        assert loop.left(60) == [*SCHEMA.actions]
        assert loop.does(UP, 65).kept == (NOW + 10, 1.0, NOW + 65, 1.0)
        assert loop.left(69.9) == [HOLD, UP, DOWN, REST, DROP]
        assert loop.left(70) == [*SCHEMA.actions]

    def test_what_is_still_in_the_window_counts(self) -> None:
        """When what was spent before it is left again."""
        loop = Loop(self.BUDGET).does(UP, 0).does(JUMP, 10)

        assert loop.left(60) == [HOLD, UP, DOWN, REST, DROP]
        assert loop.left(70) == [*SCHEMA.actions]

    def test_what_costs_nothing_is_never_forbidden(self) -> None:
        """Though more was spent than there is."""
        loop = Loop(self.BUDGET).does(JUMP, 0).does(JUMP, 20)

        assert loop.left(21) == [HOLD, DOWN, REST, DROP]

    def test_what_has_left_the_window_is_not_kept(self) -> None:
        """To the moment."""
        loop = Loop(self.BUDGET).does(UP, 0).does(UP, 10)

        assert loop.does(HOLD, 59.9).kept == (NOW, 1.0, NOW + 10, 1.0)
        assert loop.does(HOLD, 60).kept == (NOW + 10, 1.0)

    def test_a_cost_may_use_the_observation(self) -> None:
        """What it costs is worked out when it is executed."""
        loop = Loop(Budget(name="b", cost="load if action == 'up' else 0", at_most=5, seconds=60))

        assert loop.does(UP, 0, load=4).left(1, load=1) == [*SCHEMA.actions]
        assert loop.left(1, load=2) == [HOLD, DOWN, JUMP, REST, DROP]

    def test_a_cost_below_zero_is_none(self) -> None:
        """Nobody earns."""
        loop = Loop(Budget(name="b", cost="load", at_most=5, seconds=60)).does(UP, 0, load=4).does(UP, 1, load=-9)

        assert loop.kept == (NOW, 4.0)
        assert loop.left(2, load=-1) == [*SCHEMA.actions]
        assert loop.left(2, load=2) == []

    def test_what_cannot_be_evaluated_is_too_dear(self) -> None:
        """It is forbidden, and where it was done all the same, everything was spent."""
        loop = Loop(Budget(name="b", cost="price if action == 'up' else 1", at_most=5, seconds=60))

        assert loop.left(0) == [HOLD, DOWN, JUMP, REST, DROP]
        assert loop.does(UP, 0).kept == (NOW, 5.0)
        assert loop.left(1) == []

    def test_unknown_history_has_spent_all(self) -> None:
        """Until the window has passed since the session was first seen; then what is known counts."""
        loop = Loop(self.BUDGET, history=STRANGE)

        assert loop.left(59) == [HOLD, DOWN, REST, DROP]
        assert loop.does(JUMP, 59).left(60) == [HOLD, UP, DOWN, REST, DROP]

    def test_what_is_kept_is_bounded(self) -> None:
        """One pair a bucket, whose time is the latest in it: never counted for less long than said."""
        loop = Loop(Budget(name="b", cost="1", at_most=1e6, seconds=16))
        for i in range(1000):
            loop.does(UP, i * 0.1)

        times, costs = loop.kept[::2], loop.kept[1::2]
        assert len(times) <= 10 + 1
        assert times[-1] == NOW + 99.9
        assert 160 <= sum(costs) <= 170

    def test_a_bucket_holds_no_more_than_there_is(self) -> None:
        """So the numbers stay numbers whatever is spent against the constraint."""
        budget = Budget(name="b", cost="load", at_most=5, seconds=60)

        assert Loop(budget).does(UP, 0, load=4).does(UP, 0, load=1e300).kept == (NOW, 5.0)
        assert Loop(budget).does(UP, 0, load=1e300).kept == (NOW, 5.0)

    def test_a_clock_that_goes_back_stands_still(self) -> None:
        """What is spent counts from the latest time that was told."""
        loop = Loop(self.BUDGET).does(UP, 50).does(UP, 0)

        assert loop.kept == (NOW + 50, 2.0)
        assert Loop(self.BUDGET).does(UP, 0).does(UP, 50).does(UP, 20).kept == (NOW, 1.0, NOW + 50, 2.0)

    def test_factors_have_a_cost(self) -> None:
        """Of whole actions."""
        loop = Loop(Budget(name="b", cost="fan + (9 if pump == 'on' else 0)", at_most=5, seconds=60), FACTORED)

        assert {action[0] for action in loop.left(0)} == {0}
        assert loop.does((0, 2, 3), 0).kept == (NOW, 3.0)
        assert {action[2] for action in loop.left(1)} == {0, 1, 2}

    def test_an_expression_that_is_no_cost_is_refused(self) -> None:
        """At start."""
        with pytest.raises(ExpressionInvalid, match="is a condition, expected a number"):
            Shield([Budget(name="b", cost="load > 1", at_most=1, seconds=1)], SCHEMA)


@pytest.mark.parametrize("kind", ["budget", "max_switches"])
def test_a_window_is_a_millisecond_or_more(kind: str) -> None:
    """So short that nothing fits into it, it would be divided into nothing."""
    told = {"kind": kind, "name": "short", "at_most": 1} | ({"cost": "1"} if kind == "budget" else {})

    assert parsed(told | {"seconds": 0.001}).name == "short"
    with pytest.raises(ValidationError, match=r"greater than or equal to 0\.001"):
        parsed(told | {"seconds": 1e-300})


class TestWhatElseMayHaveBeenDone:
    """The caller goes on from one decision, and a later one may have been carried out all the same."""

    def test_a_switch_from_either_counts(self) -> None:
        """A controller that never names its last decision may not go to and fro for that."""
        loop = Loop(MaxSwitches(name="calm", at_most=2, seconds=60)).does("hold", 0).does("up", 1)
        loop.history = replace(loop.history, action=0, other=1)

        assert loop.left(2) == list(SCHEMA.actions)
        loop.does("hold", 2)
        assert loop.kept == (NOW + 1, NOW + 2)
        assert loop.left(3) == ["hold"]
        loop.history = replace(loop.history, other=1)
        assert loop.left(3) == []
        assert loop.left(61.5) == list(SCHEMA.actions)

    def test_a_level_is_left_from_either(self) -> None:
        """What is near to one may be far from the other."""
        levels = {HOLD: 0.0, UP: 1.0, DOWN: 2.0, JUMP: 3.0, REST: 4.0, DROP: 5.0}
        loop = Loop(RateLimit(name="slow", per_second=1, levels=levels)).does("hold", 0)
        loop.does("down", 2)
        loop.history = replace(loop.history, action=0, other=2)

        assert loop.left(2.5) == []
        assert loop.left(3) == ["up"]
        assert loop.left(4) == ["hold", "up", "down"]
        loop.does("hold", 4)
        assert loop.kept == (NOW + 4,)

    def test_a_number_is_within_reach_of_both(self) -> None:
        """What is left of a Box is where both reaches meet."""
        box = Schema(observation=SCHEMA.observation, action=Box(fields=(Field(name="heat", low=0, high=100),)))
        shield = Shield([RateLimit(name="slow", per_second=10, of="heat")], box)
        history = shield.advanced(FRESH, (50.0,), NOW)
        either = replace(history, other=(80.0,))

        def left(history: History, at: float) -> list[float]:
            ruling = shield.judge(context_of([[0, 0, 0]], histories=[history], now=[NOW + at]))
            assert isinstance(ruling, BoxRuling)
            return [float(ruling.region.low[0, 0]), float(ruling.region.high[0, 0])]

        assert left(history, 2) == [30, 70]
        assert left(either, 2) == [60, 70]
        assert left(either, 1) == [70, 60]


class TestMaxSwitches:
    """How often the action may change."""

    TWICE = MaxSwitches(name="m", at_most=2, seconds=60)

    def test_only_the_action_before_is_left_when_they_are_used_up(self) -> None:
        """The first action of an episode is no switch."""
        loop = Loop(self.TWICE).does(UP, 0).does(DOWN, 1)

        assert loop.left(2) == [*SCHEMA.actions]
        assert loop.does(UP, 3).left(4) == [UP]
        assert loop.does(UP, 5).left(60.9) == [UP]
        assert loop.left(61) == [*SCHEMA.actions]

    def test_as_many_times_are_kept_as_there_may_be(self) -> None:
        """Those of the last switches within the window."""
        loop = Loop(self.TWICE)
        for i, action in enumerate((UP, DOWN, UP, UP, DOWN)):
            loop.does(action, i)

        assert loop.kept == (NOW + 2, NOW + 4)
        assert loop.does(DOWN, 62).kept == (NOW + 4,)

    def test_unknown_history_leaves_nothing_but_time(self) -> None:
        """It is not known what would be no switch."""
        loop = Loop(self.TWICE, history=STRANGE)

        assert loop.left(59) == []
        assert loop.left(60) == [*SCHEMA.actions]

    def test_what_was_done_here_is_known(self) -> None:
        """It may have been a switch; doing the same again is none."""
        loop = Loop(self.TWICE, history=STRANGE).does(UP, 10)

        assert (loop.kept, loop.left(11)) == ((NOW + 10,), [UP])
        assert loop.left(60) == [*SCHEMA.actions]
        assert loop.does(DOWN, 60).left(61) == [DOWN]
        assert loop.left(70) == [*SCHEMA.actions]

    def test_times_are_kept_in_order_whatever_the_clock_does(self) -> None:
        """The oldest of the last ones is the first to leave."""
        loop = Loop(self.TWICE).does(UP, 9).does(DOWN, 9).does(UP, 5)

        assert loop.kept == (NOW + 5, NOW + 9)

    def test_a_whole_action_is_another_when_any_factor_is(self) -> None:
        """Only the same again is left."""
        loop = Loop(MaxSwitches(name="m", at_most=1, seconds=60), FACTORED).does((0, 1, 2), 0).does((0, 1, 3), 1)

        assert loop.left(2) == [(0, 1, 3)]


@pytest.mark.parametrize(
    "mistake",
    [
        {"kind": "rate_limit", "per_second": 0},
        {"kind": "budget", "cost": "1", "at_most": 0, "seconds": 1},
        {"kind": "budget", "cost": "1", "at_most": 1.1e12, "seconds": 1},
        {"kind": "budget", "cost": "1", "at_most": 1, "seconds": 86400 * 366},
        {"kind": "max_switches", "at_most": 0, "seconds": 1},
        {"kind": "max_switches", "at_most": 101, "seconds": 1},
    ],
)
def test_what_is_no_limit_is_refused(mistake: dict[str, Any]) -> None:
    """No amount, no time, or more than can be kept."""
    with pytest.raises(ValidationError):
        parsed({"name": "x", **mistake})


def test_a_window_may_be_a_year() -> None:
    """And no longer."""
    assert Budget(name="x", cost="1", at_most=1e12, seconds=86400 * 365).seconds == 86400 * 365
    assert MaxSwitches(name="x", at_most=100, seconds=86400 * 365).at_most == 100


KINDS: Sequence[Constraint] = (TestRateLimit.EFFECT, TestRateLimit.LEVELS, TestBudget.BUDGET, TestMaxSwitches.TWICE)


@pytest.mark.parametrize("constraint", KINDS, ids=lambda one: str(one.kind))
@pytest.mark.parametrize("mode", ["warn", "audit"])
def test_what_only_reports_forbids_nothing(constraint: Constraint, mode: str) -> None:
    """And keeps its history all the same: it says what it would have done on what was."""
    loop = Loop(constraint.model_copy(update={"mode": mode}))
    for at, action in enumerate((UP, JUMP, UP, JUMP)):
        loop.does(action, at)

    assert loop.left(4) == [*SCHEMA.actions]
    assert loop.shield.judge(loop.context(4)).reported(np.array([1])).tolist() == [True]
    assert loop.kept


@pytest.mark.parametrize("constraint", KINDS, ids=lambda one: str(one.kind))
def test_a_batch_is_judged_row_by_row(constraint: Constraint) -> None:
    """Histories of all kinds side by side."""
    loop = Loop(constraint)
    histories = [FRESH, STRANGE, loop.does(UP, -3).history, loop.does(JUMP, -2).history, loop.does(UP, -1).history]
    context = context_of([[0, 0, 0]] * 5, histories=histories)

    together = loop.shield.judge(context).allowed

    for row in range(5):
        assert together[row].tolist() == loop.shield.judge(context.rows(np.array([row]))).allowed[0].tolist()
