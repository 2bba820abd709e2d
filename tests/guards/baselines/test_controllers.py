"""Controllers: thresholds, proportions and PIDs."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from export.spec import Box, Field
from guards.baselines.baseline import KEPT, Baseline
from guards.baselines.controllers import Limit, Pid, Proportional, Threshold
from guards.errors import GuardMisconfigured
from guards.records import Action, History, Row, Schema
from tests.acting import ARM, BOUNDED, OBSERVATION, SWITCHES
from tests.fakes import NOW, SCHEMA, context_of
from tests.guards.batched import Context

Memory = tuple[float, ...]
STEPS = {"hold": 0.0, "up": 1.0, "jump": 3.0, "down": -1.0, "drop": -3.0}


def box(low: float | None = None, high: float | None = None) -> Schema:
    """A schema whose action is one number within bounds."""
    return Schema(observation=OBSERVATION, action=Box(fields=(Field(name="valve", low=low, high=high),)))


def proposals(baseline: Baseline, context: Context) -> list[str | None]:
    """What is proposed in each row, by name."""
    proposed = map(baseline.bind(SCHEMA), context.each)
    return [SCHEMA.actions[action] if isinstance(action, int) else None for action in proposed]


def numbers(baseline: Baseline, context: Context, schema: Schema | None = None) -> list[float | None]:
    """The one number that is proposed in each row of a Box."""
    proposed = map(baseline.bind(schema or box()), context.each)
    return [action[0] if isinstance(action, tuple) else None for action in proposed]


class TestThreshold:
    """One action below, another above."""

    PLAIN = Threshold(
        of="load / lag",
        below=Limit(limit=0.5, action="down"),
        above=Limit(limit=1.5, action="up"),
        otherwise="rest",
    )

    def test_it_compares_with_its_limits(self) -> None:
        """A number on a limit is on neither far side; one that cannot be worked out makes no proposal."""
        context = context_of([[0.4, 1, 0], [0.5, 1, 0], [1, 1, 0], [1.5, 1, 0], [1.6, 1, 0], [1, 0, 0]])

        assert proposals(self.PLAIN, context) == ["down", "rest", "rest", "rest", "up", None]

    def test_between_them_what_was_done_before_may_go_on(self) -> None:
        """Where nothing was, or it is not known, what is otherwise done."""
        thermostat = self.PLAIN.model_copy(update={"between": "previous"})
        fresh, strange = History(known=True, since=NOW), History(known=False, since=NOW)
        heating = fresh.advanced(1, NOW - 1, frozenset())
        context = context_of([[1, 1, 0]] * 3 + [[0, 1, 0]], histories=[heating, fresh, strange, heating])

        assert proposals(thermostat, context) == ["up", "rest", "rest", "down"]

    def test_between_them_what_was_done_before_is_no_matter_unless_it_is_asked_for(self) -> None:
        """It is the same for every session."""
        heating = History(known=True, since=NOW).advanced(1, NOW - 1, frozenset())

        assert self.PLAIN.between == "otherwise"
        assert proposals(self.PLAIN, context_of([[1, 1, 0]], histories=[heating])) == ["rest"]

    @pytest.mark.parametrize(
        ("space", "low", "middle", "high"),
        [(SWITCHES, (0, 0, 0), (0, 1, 1), (1, 2, 3)), (ARM, (-2, 0, 0), (0, 0, 0), (2, 0, 1))],
    )
    @pytest.mark.parametrize("between", ["otherwise", "previous"])
    def test_it_proposes_whole_actions(self, space: Any, low: Any, middle: Any, high: Any, between: Any) -> None:
        """And none where nothing is known."""
        schema = Schema(observation=OBSERVATION, action=space, facts=("budget",))
        under, over = Limit(limit=0, action=low), Limit(limit=1, action=high)
        threshold = Threshold(of="budget", below=under, above=over, otherwise=middle, between=between)
        context = replace(context_of([[0, 0, 0]] * 4), facts=np.array([[-1.0], [0.5], [2.0], [np.nan]]))

        assert list(map(threshold.bind(schema), context.each)) == [low, middle, high, None]

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"of": "cpu"}, "^of: expression 'cpu'"),
            ({"below": Limit(limit=0, action="fly")}, "^below.action: the action 'fly'"),
            ({"above": Limit(limit=9, action="fly")}, "^above.action: the action 'fly'"),
            ({"above": Limit(limit=0.4, action="up")}, "^below.limit: is 0.5, expected at most above.limit, which is"),
            ({"otherwise": "fly"}, "^otherwise: the action 'fly'"),
        ],
    )
    def test_a_mistake_is_refused_by_name(self, changes: dict[str, Any], problem: str) -> None:
        """Before the first request."""
        with pytest.raises(GuardMisconfigured, match=problem):
            self.PLAIN.model_copy(update=changes).bind(SCHEMA)


AUTOSCALER = Proportional(current="pods", metric="load", target=0.5, high=20, effect=STEPS)


class TestProportional:
    """The rule of the Horizontal Pod Autoscaler."""

    @pytest.mark.parametrize(
        ("pods", "load", "action"),
        [
            (4, 0.5, "hold"),
            (4, 0.55, "hold"),  # 10 % above the target is tolerated
            (4, 0.6, "up"),  # ceil(4.8) = 5
            (4, 0.75, "up"),  # 6: 2 more, and 3 would be too many
            (4, 0.9, "jump"),  # ceil(7.2) = 8: 4 more
            (10, 0.42, "down"),  # ceil(8.4) = 9
            (10, 0.4, "down"),  # 8: 2 fewer, and 3 would be too many
            (10, 0.1, "drop"),  # 2
            (1, 0.0, "hold"),  # never below 1
            (20, 0.9, "hold"),  # never above 20
            (25, 0.5, "drop"),  # and back to 20, though the load is as it should be
            (10, 0.5501, "up"),  # ceil(11.002) = 12: 2 more
        ],
    )
    def test_it_scales_in_proportion(self, pods: float, load: float, action: str) -> None:
        """ceil(current * metric / target), within limits, by the nearest effect that does not overshoot."""
        assert proposals(AUTOSCALER, context_of([[load, 0, pods]])) == [action]

    def test_a_rounding_error_is_no_replica(self) -> None:
        """7 * 0.8 / 0.7 is 8.000000000000002 in doubles, and 8; so it is on the edge of the tolerance."""
        scaler = Proportional(current="pods", metric="load", target=0.7, tolerance=0)
        edge = Proportional(current="pods", metric="load", target=0.5, tolerance=0.1)

        assert math.ceil(7 * (0.8 / 0.7)) == 9
        assert numbers(scaler, context_of([[0.8, 0, 7]])) == [8]
        assert abs(0.55 / 0.5 - 1) > 0.1
        assert numbers(edge, context_of([[0.55, 0, 7]])) == [7]

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(st.integers(1, 40), st.integers(0, 300), st.sampled_from((25, 50, 80)))
    def test_it_agrees_with_the_formula(self, pods: int, load: int, target: int) -> None:
        """In whole numbers, where there is nothing to round: of all effects on the way the greatest."""
        scaler = Proportional(current="pods", metric="load", target=target, tolerance=0.1, high=30, effect=STEPS)
        near = abs(load - target) * 10 <= target
        wanted = min(max(pods if near else -(-pods * load // target), 1), 30) - pods
        on_the_way = {name: e for name, e in STEPS.items() if e * wanted >= 0 and abs(e) <= abs(wanted)}

        assert proposals(scaler, context_of([[load, 0, pods]])) == [max(on_the_way, key=lambda n: abs(on_the_way[n]))]

    def test_what_cannot_be_worked_out_makes_no_proposal(self) -> None:
        """Nor does what is beyond all numbers: a limit would make an action of it."""
        odd = AUTOSCALER.model_copy(update={"metric": "budget", "current": "price"})
        facts: list[list[float]] = [[np.nan, 4], [0.5, np.nan], [1e300, 1e300], [1, 4]]

        assert proposals(odd, context_of([[0, 0, 0]] * 4, facts=facts)) == [None, None, None, "jump"]

    def test_one_number_is_the_desired_value_itself(self) -> None:
        """Within the limits, and within the action's bounds."""
        scaler = Proportional(current="pods", metric="load", target=0.5, high=30)
        context = context_of([[1, 0, 4], [1, 0, 12], [0, 0, 4], [1, 0, 50]])

        assert numbers(scaler, context, box(2, 20)) == [8, 20, 2, 20]
        assert numbers(scaler, context) == [8, 24, 1, 30]

    def test_actions_that_are_not_named_are_not_proposed(self) -> None:
        """Of equal effects the schema's first; nothing is done by the one that is left over or named with 0."""
        metric: list[list[float]] = [[1, 0, 1], [0.5, 0, 1], [0, 0, 2]]
        equal = AUTOSCALER.model_copy(update={"effect": {"drop": 1.0, "up": 1, "rest": 0}})
        left_over = AUTOSCALER.model_copy(
            update={"effect": {"jump": 1.0, "down": -1, "hold": 9, "up": 9, "drop": 9}},
        )

        assert proposals(equal, context_of(metric)) == ["up", "rest", "rest"]
        assert proposals(left_over, context_of(metric)) == ["jump", "rest", "down"]

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"current": "cpu"}, "^current: expression 'cpu'"),
            ({"metric": "cpu"}, "^metric: expression 'cpu'"),
            ({"low": 21.0}, "^low: is 21.0, expected at most high, which is 20"),
            ({"effect": {"fly": 1}}, "^effect: the action 'fly'"),
            ({"effect": {"up": 1}}, "^effect: hold, down, jump, rest, drop would change nothing, expected one"),
            ({"effect": dict.fromkeys(SCHEMA.actions, 2.0)}, "^effect: no action would change nothing"),
        ],
    )
    def test_a_mistake_is_refused_by_name(self, changes: dict[str, Any], problem: str) -> None:
        """Before the first request."""
        with pytest.raises(GuardMisconfigured, match=problem):
            AUTOSCALER.model_copy(update=changes).bind(SCHEMA)

    @pytest.mark.parametrize("changes", [{"target": 0}, {"target": -1}, {"tolerance": -0.1}, {"tolerance": 1}])
    def test_what_makes_no_sense_is_refused(self, changes: dict[str, float]) -> None:
        """Whatever the schema is."""
        with pytest.raises(ValidationError):
            Proportional.model_validate({"current": "pods", "metric": "load", "target": 1} | changes)

    @pytest.mark.parametrize(
        ("space", "effect"),
        [(SWITCHES, {}), (BOUNDED, {}), (ARM, {}), (box().action, {"up": 1.0})],
        ids=["factors", "two", "three", "effect"],
    )
    def test_other_actions_are_refused(self, space: Any, effect: Any) -> None:
        """One number says nothing about several."""
        scaler = AUTOSCALER.model_copy(update={"effect": effect})

        with pytest.raises(
            GuardMisconfigured, match=r"^effect: .* expected named actions with effects, or a Box of one"
        ):
            scaler.bind(Schema(observation=OBSERVATION, action=space))


def valve(**gains: Any) -> Pid:
    """A controller of one number between -10 and 10."""
    return Pid(of="load", target=gains.pop("target", 0.0), low=-10, high=10, **gains)


def seen(
    measured: float, memory: Memory = (), *, now: float = NOW, lag: float = 0.0, facts: list[float] | None = None
) -> Row:
    """A row in whose history the controller left this."""
    history, told = [history_of(memory)], None if facts is None else [facts]
    return context_of([[measured, lag, 0]], now=[now], histories=history, facts=told).each[0]


def step(pid: Pid, row: Row, schema: Schema | None = None) -> tuple[float, Memory]:
    """What one controller of one number proposes (NaN: nothing), and what it keeps once that is executed."""
    proposed = pid.bind(schema or box())(row)
    kept = pid.remembers(schema or box())(row, (0.0,) if proposed is None else proposed, True)
    return proposed[0] if isinstance(proposed, tuple) else math.nan, kept


def run(pid: Pid, measured: list[float], *, every_s: float = 1.0, memory: Memory = ()) -> list[tuple[float, Memory]]:
    """One session's steps, one after another."""
    steps = list[tuple[float, Memory]]()
    for i, value in enumerate(measured):
        steps.append(step(pid, seen(value, memory, now=NOW + i * every_s)))
        memory = steps[-1][1]
    return steps


def outputs(steps: list[tuple[float, Memory]]) -> list[float]:
    """What was proposed, step by step."""
    return [proposed for proposed, _ in steps]


class TestPid:
    """The controller with a memory."""

    def test_the_error_is_answered_in_proportion(self) -> None:
        """And within the limits."""
        assert outputs(run(valve(target=5.0, kp=2.0), [5, 4, 6, -90, 90])) == [0, 2, -2, 10, -10]

    def test_the_integral_grows_with_time(self) -> None:
        """The first step only starts the clock: how long the error was there before is not known."""
        assert outputs(run(valve(target=1.0, ki=0.5), [0, 0, 0, 1, 1], every_s=2)) == [0, 1, 2, 2, 2]

    def test_the_integral_begins_where_it_is_told_to(self) -> None:
        """As what is put out where nothing is wrong."""
        assert outputs(run(valve(target=1.0, ki=1.0, start=3.0), [1, 0])) == [3, 4]

    def test_the_derivative_is_of_the_measurement(self) -> None:
        """Against its slope, nothing at the first step; a new target gives no kick."""
        pid, memory, found = valve(target="lag", kd=2.0), Memory(), []
        for i, (measured, lag) in enumerate(((3.0, 0), (5.0, 0), (5.0, 9))):
            proposed, memory = step(pid, seen(measured, memory, now=NOW + i * 2, lag=lag))
            found.append(proposed)

        assert found == [0, -2, 0]

    def test_the_integral_does_not_wind_up(self) -> None:
        """After a long time beyond the limit the output comes back as soon as the error turns."""
        long = [-1.0] * 500 + [1.0] * 3

        beyond = outputs(run(valve(kp=8.0, ki=1.0), long))

        assert beyond[499] == 10
        # The integral stopped at 2, where 8 + 2 is the limit: with 500 it would have stayed there.
        assert beyond[500:] == [-7, -8, -9]

    def test_the_integral_keeps_falling_where_it_leads_back(self) -> None:
        """Beyond the limit it stands still only in the direction that leads further out."""
        proposed, memory = step(valve(kp=-2.0, ki=1.0), seen(3.0, (9.0, -5.0, NOW - 1)))

        # The error is -3: 6 + 9 is beyond 10, and the integral falls to 6.
        assert memory[0] == 6
        assert proposed == 10

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(
        st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
        *[st.floats(-50, 50)] * 4,
        st.floats(-30, 30),
        st.sampled_from((-5.0, 0.0, 0.1, 3.0, 100.0)),
    )
    def test_nothing_leaves_the_limits(
        self, measured: list[float], kp: float, ki: float, kd: float, target: float, start: float, every_s: float
    ) -> None:
        """Neither the output nor the integral, whatever is measured and whatever the clock does."""
        pid = valve(target=target, kp=kp, ki=ki, kd=kd, start=start)

        steps = run(pid, measured, every_s=every_s)

        assert all(-10 <= output <= 10 for output in outputs(steps))
        assert all(-10 <= memory[0] <= 10 for _, memory in steps)

    @pytest.mark.parametrize(
        ("memory", "anew"),
        [
            ((1.0, 0, NOW - 10), False),
            ((1.0, 0, NOW - 11), True),
            ((1.0, 0, NOW + 11), True),
            ((1.0, np.nan, NOW), True),
            ((np.nan, np.nan, np.nan), True),
            ((), True),
        ],
    )
    def test_it_begins_anew_where_nothing_is_remembered(self, memory: Memory, anew: bool) -> None:
        """Without a memory, with a damaged one, and after a gap in which it says nothing any more."""
        proposed, kept = step(valve(ki=1.0, forget_seconds=10), seen(-1, memory))

        assert proposed == (0 if anew else 10)
        assert kept == (proposed, -1, NOW)

    @pytest.mark.parametrize("back", [0.0, 3.0])
    def test_a_clock_that_stands_still_or_runs_back_moves_nothing(self, back: float) -> None:
        """Neither integral nor derivative; the proportional part goes on."""
        proposed, kept = step(valve(kp=1.0, ki=1.0, kd=1.0), seen(-2, (1.0, 5.0, NOW + back)))

        assert proposed == 3
        assert kept == (1, -2, NOW)

    @pytest.mark.parametrize("memory", [(1.0, 2.0, NOW - 1), ()])
    def test_what_cannot_be_measured_makes_no_proposal(self, memory: Memory) -> None:
        """The memory stays as it was, so the next step spans the gap; what is too large for numbers is alike."""
        pid = Pid(of="budget", target=0, kp=1e300, ki=1, low=-10, high=10, effect={})
        schema = Schema(observation=OBSERVATION, action=box().action, facts=("budget", "price"))

        steps = [step(pid, seen(0, memory, facts=[budget, 0]), schema) for budget in (np.nan, 1e300, -1)]

        np.testing.assert_array_equal(outputs(steps), [np.nan, np.nan, 10])
        assert [kept for _, kept in steps[:2]] == [memory] * 2
        assert steps[2][1][2] == NOW

    def test_without_a_memory_every_decision_begins_anew(self) -> None:
        """It is the part in proportion, and the integral where it begins."""
        pid = valve(kp=2.0, ki=5.0, kd=5.0, start=1.0)

        assert numbers(pid, context_of([[-1, 0, 0], [2, 0, 0]])) == [3, -3]

    def test_what_histories_keep_is_its_memory(self) -> None:
        """In each row its own; what something else left there is none."""
        pid = valve(kp=2.0, ki=1.0)
        told = (4.0, 0.0, NOW - 2)
        kept: list[dict[str, tuple[float, ...]]] = [{}, {KEPT: told}, {KEPT: told[:2]}, {"pid": told}]
        context = context_of([[-1, 0, 0]] * 4, histories=[History(known=True, since=NOW, kept=one) for one in kept])

        assert numbers(pid, context) == [2, 8, 2, 2]

    def test_named_actions_are_done_by_their_effect(self) -> None:
        """The nearest that does not overshoot the output."""
        pid = Pid(of="load", target=0, kp=-1.0, effect=STEPS)
        measured = [0, 0.9, 1, 2.9, 3, 99, -0.9, -1, -2.9, -3, -99]

        assert proposals(pid, context_of([[value, 0, 0] for value in measured])) == [
            "hold", *("hold", "up", "up", "jump", "jump"), *("hold", "down", "down", "drop", "drop")
        ]  # fmt: skip

    def test_limits_are_those_of_the_actions_where_none_are_set(self) -> None:
        """And never beyond them where some are."""
        far = context_of([[99, 0, 0], [-99, 0, 0]])

        assert numbers(Pid(of="load", target=0, kp=1.0), far, box(-2, 5)) == [-2, 5]
        assert numbers(Pid(of="load", target=0, kp=1.0, low=-9, high=3), far, box(-2, 5)) == [-2, 3]
        assert proposals(Pid(of="load", target=0, kp=-1.0, high=1, effect=STEPS), far) == ["up", "drop"]

    def test_the_least_change_is_none(self) -> None:
        """Where the action that changes nothing is the one that is not named, too."""
        pid = Pid(of="load", target=0, effect={"up": 2, "down": 3, "jump": 4, "rest": 5, "drop": 6}, start=-9)

        assert pid.bind(SCHEMA)(seen(0)) == 0
        assert pid.remembers(SCHEMA)(seen(0), 0, True)[0] == 0

    @pytest.mark.parametrize(
        ("low", "high", "problem"),
        [
            (5, 6, "^low, high: are 5.0 to 6.0, expected some of what the actions do: -1.0 to 1.0$"),
            (5, None, "^low, high: are 5.0 to inf, expected some of"),
            (None, -2, "^low, high: are -inf to -2.0, expected some of"),
        ],
    )
    def test_limits_that_the_actions_do_not_reach_are_refused(
        self, low: float | None, high: float | None, problem: str
    ) -> None:
        """With what the file says, and what there is."""
        with pytest.raises(GuardMisconfigured, match=problem):
            Pid(of="load", target=0, low=low, high=high, effect={"up": 1, "down": -1, "hold": 0}).bind(SCHEMA)
        with pytest.raises(GuardMisconfigured, match=problem):
            Pid(of="load", target=0, low=low, high=high).bind(box(-1, 1))

    def test_a_start_beyond_its_limits_is_the_limit(self) -> None:
        """Whatever the part in proportion is."""
        assert outputs(run(valve(kp=2.0, start=50.0), [8, 8])) == [-6, -6]

    def test_limits_may_be_the_same(self) -> None:
        """Then they are the output."""
        assert numbers(Pid(of="load", target=0, kp=1, low=4, high=4), context_of([[9, 0, 0]])) == [4]

    def test_a_minute_is_remembered(self) -> None:
        """Unless another time is set."""
        integral = [step(valve(), seen(0, (1.0, 0, NOW - ago)))[1][0] for ago in (60, 60.5)]

        assert integral == [1, 0]

    @pytest.mark.parametrize(
        ("pid", "problem"),
        [
            (Pid(of="cpu", target=0), "^of: expression 'cpu'"),
            (Pid(of="load", target="cpu"), "^target: expression 'cpu'"),
            (Pid(of="load", target=0), "^low, high: the output is not bounded .0.0 to inf., expected limits"),
            (Pid(of="load", target=0, low=5, high=4), "^low: is 5.0, expected at most high, which is 4.0"),
        ],
    )
    def test_a_mistake_is_refused_by_name(self, pid: Pid, problem: str) -> None:
        """Before the first request."""
        with pytest.raises(GuardMisconfigured, match=problem):
            pid.bind(box(0))

    def test_it_settles_on_its_target(self) -> None:
        """A tank that leaks is filled to its level and kept there, which proportion alone does not do."""
        pid, level, memory = Pid(of="load", target=3.0, kp=0.8, ki=0.2, kd=0.1), 0.0, Memory()
        for second in range(200):
            proposed, memory = step(pid, seen(level, memory, now=NOW + second), box(0, 5))
            level += 0.3 * proposed - 0.2 * level

        assert math.isclose(level, 3.0, abs_tol=1e-3)


def after(
    pid: Pid,
    measured: float,
    executed: float | int,
    memory: Memory = (),
    *,
    own: bool = False,
    schema: Schema | None = None,
) -> tuple[float, ...]:
    """What one session keeps once an action was executed."""
    action: Action = int(executed) if schema is not None else (float(executed),)
    return pid.remembers(schema or box())(seen(measured, memory), action, own)


class TestPidInTheService:
    """How its memory goes on, whoever decides."""

    def test_only_it_has_a_memory(self) -> None:
        """Others keep nothing in a history."""
        assert TestThreshold.PLAIN.remembers(SCHEMA) is None

    def test_while_it_acts_its_memory_is_that_of_its_steps(self) -> None:
        """What it kept of each is what the next goes by: worked out here by the formula alone."""
        kp, ki, kd = 1.0, 0.5, 0.25
        steps = run(valve(kp=kp, ki=ki, kd=kd), [-3.0, -2.0, 1.0, -4.0, -1.0])
        integral, last = 0.0, -3.0
        for i, ((proposed, kept), value) in enumerate(zip(steps, [-3.0, -2.0, 1.0, -4.0, -1.0], strict=True)):
            integral += ki * -value if i else 0.0

            assert kept == (integral, value, NOW + i)
            assert proposed == kp * -value + integral - kd * (value - last)
            last = value

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(*[st.floats(-5, 5)] * 4, st.floats(0.1, 3), st.floats(-3, 3), st.floats(-3, 3))
    def test_it_takes_over_without_a_jump(
        self, executed: float, before: float, value: float, last: float, ki: float, kp: float, kd: float
    ) -> None:
        """After somebody else's action it goes on from there: by what has changed since, and by its integral."""
        pid = Pid(of="load", target=1.0, low=-100, high=100, kp=kp, ki=ki, kd=kd)
        there = box(-100, 100)
        kept = pid.remembers(there)(seen(value, (before, last, NOW - 1)), (executed,), False)
        proposed, _ = step(pid, seen(value, kept, now=NOW + 0.5), there)

        # Half a second later with the measurement as it was: the slope is gone, and the error was there so long.
        assert math.isclose(proposed, executed + kd * (value - last) + ki * (1 - value) * 0.5, abs_tol=1e-9)

    def test_it_takes_over_as_the_documentation_says(self) -> None:
        """A heater at 55 % by somebody else."""
        pid, there = Pid(of="load", target=21, kp=8, ki=0.05, kd=20, start=30), box(0, 100)
        kept = pid.remembers(there)(seen(20.5), (55.0,), False)

        assert kept[0] == 51
        assert step(pid, seen(20.5, kept, now=NOW + 1), there)[0] == pytest.approx(55.025)

    def test_it_follows_from_the_first_decision_on(self) -> None:
        """Also where nothing is remembered, or what is has grown too old."""
        pid = valve(kp=2.0, ki=1.0, start=3.0)

        assert after(pid, 1.0, 7.0) == (9.0, 1.0, NOW)
        assert after(pid, 1.0, 7.0, (5.0, 1.0, NOW - 61)) == (9.0, 1.0, NOW)

    def test_what_it_follows_is_an_output_within_its_limits(self) -> None:
        """It could not have put out more, and does not have to come back from there."""
        pid = Pid(of="load", target=0, ki=1.0, kp=-1.0, low=-4, high=4)

        # The part in proportion is 1, so the integral puts out 4, -4 and 4.
        assert [after(pid, 1.0, executed)[0] for executed in (9, -9, 4.5)] == [3, -5, 3]

    @pytest.mark.parametrize("executed", [-10.0, -3.0, 7.0, 10.0])
    @pytest.mark.parametrize("measured", [-40.0, -8.0, 8.0, 40.0])
    def test_it_takes_over_without_a_jump_from_far_off(self, executed: float, measured: float) -> None:
        """Also where the part in proportion is far beyond the limits, and the integral has to make up for it."""
        pid = valve(kp=2.0, ki=1e-9)
        kept = after(pid, measured, executed)

        assert kept[0] == executed + 2 * measured
        assert step(pid, seen(measured, kept, now=NOW + 1))[0] == pytest.approx(executed, abs=1e-6)

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_what_it_followed_far_out_does_not_wind_it_up(self, sign: float) -> None:
        """Once it decides itself, the output comes back from its limit as soon as the error turns."""
        pid = valve(kp=2.0, ki=1.0)
        (_, *rest) = run(
            pid,
            [sign * one for one in (40.0, -5.0, -5.0, 1.0, 2.0)],
            memory=after(pid, sign * 40.0, sign * 7.0),
        )

        assert after(pid, sign * 40.0, sign * 7.0)[0] == sign * 87
        # The part in proportion is 10, so 87 is let go down to the limit of 10; then -2 - 1, and -4 - 2 - 1.
        assert [sign * one for one in outputs(rest)] == [10, 10, 7, 3]

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(st.floats(-1e300, 1e300), st.floats(-10, 10), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
    def test_however_far_it_followed_its_memory_stays_finite(
        self, first: float, executed: float, measured: list[float]
    ) -> None:
        """And is back within the limits as soon as the part in proportion is."""
        pid = valve(kp=2.0, ki=1.0)

        steps = run(pid, [first, *measured, 0.0], memory=after(pid, first, executed))

        assert all(all(map(math.isfinite, memory)) for _, memory in steps)
        assert all(-10 <= output <= 10 for output in outputs(steps))
        assert abs(steps[-1][1][0]) <= 10

    def test_without_an_integral_gain_it_follows_nothing(self) -> None:
        """It would never come back to what its part in proportion says."""
        assert after(valve(kp=2.0, start=3.0), 1.0, 7.0, (3.0, 1.0, NOW - 1)) == (3.0, 1.0, NOW)

    @pytest.mark.parametrize(
        ("executed", "integral"),
        [(6.0, 4.0), (5.5, 3.5), (3.5, 3.0), (2.0, 3.0), (9.0, 4.0)],
        ids=["as it was", "held back a little", "held back", "far back", "driven further"],
    )
    def test_a_constraint_that_moves_its_output_is_a_limit(self, executed: float, integral: float) -> None:
        """The integral does not wind up against it, and is not thrown back by it either."""
        pid = valve(target=1.0, kp=2.0, ki=1.0)

        # The error is 1: 2 + 3 + 1 is wanted.
        assert after(pid, 0.0, executed, (3.0, 0.0, NOW - 1), own=True)[0] == integral

    def test_a_constraint_below_its_output_is_a_limit_too(self) -> None:
        """To the other side: of -6, only down to -5.5, and to -1 nothing."""
        pid, memory = valve(target=-1.0, kp=2.0, ki=1.0), (-3.0, 0.0, NOW - 1)

        assert [after(pid, 0.0, done, memory, own=True)[0] for done in (-6.0, -5.5, -1.0)] == [-4, -3.5, -3]

    def test_of_named_actions_rounding_is_no_constraint(self) -> None:
        """What the nearest effect leaves of the output is integrated on; another action than that is a limit."""
        pid, memory = Pid(of="load", target=0, kp=-1.0, ki=-0.5, effect=STEPS), (0.25, 1.0, NOW - 1)
        done = {
            name: after(pid, 1.0, SCHEMA.actions.index(name), memory, own=True, schema=SCHEMA)[0]
            for name in ("up", "hold", "down", "jump", "rest")
        }
        falls = {
            name: after(pid, -1.0, SCHEMA.actions.index(name), (-0.25, -1.0, NOW - 1), own=True, schema=SCHEMA)[0]
            for name in ("down", "hold", "up")
        }

        # 1 + 0.25 + 0.5 is wanted, and the nearest is up.
        assert done == {"up": 0.75, "hold": 0.25, "down": 0.25, "jump": 0.75, "rest": 0.75}
        assert falls == {"down": -0.75, "hold": -0.25, "up": -0.25}

    def test_named_actions_lead_to_the_target(self) -> None:
        """A queue that needs 15 workers gets them, though its error alone asks for less than one more."""
        pid = Pid(of="load", target=0.6, kp=-5.0, ki=-0.05, effect={"up": 1, "down": -1, "hold": 0})
        propose, remember = pid.bind(SCHEMA), pid.remembers(SCHEMA)
        workers, kept = 10, Memory()
        for second in range(400):
            row = seen(9 / workers, kept, now=NOW + second)
            action = propose(row)
            assert isinstance(action, int)
            kept = remember(row, action, True)
            workers += {0: 0, 1: 1, 2: -1}[action]

        assert workers == 15

    def test_of_named_actions_it_follows_the_effect(self) -> None:
        """Of the one that changes nothing too; where an action has none, the integral waits."""
        pid = Pid(of="load", target=0, kp=-1.0, ki=0.5, effect=STEPS)
        memory = (0.25, 1.0, NOW - 1)
        done = {name: after(pid, 1.0, SCHEMA.actions.index(name), memory, schema=SCHEMA) for name in SCHEMA.actions}

        # The error is -1, and the part in proportion 1.
        assert {name: kept[0] for name, kept in done.items()} == {
            "hold": -1.0, "up": 0.0, "jump": 2.0, "down": -2.0, "drop": -4.0, "rest": 0.25
        }  # fmt: skip
        unnamed = Pid(
            of="load", target=0, ki=1.0, effect={"up": 2, "down": 3, "jump": 4, "rest": 5, "drop": 6}, start=9
        )
        assert after(unnamed, 0.0, 0, schema=SCHEMA)[0] == 0
        assert after(Pid(of="load", target=0, ki=1.0, effect=STEPS, start=9), 0.0, 4, schema=SCHEMA)[0] == 3

    def test_what_was_not_measured_is_not_remembered(self) -> None:
        """What was remembered before stays."""
        pid = Pid(of="budget", target=0, kp=1, ki=1, low=-10, high=10)
        schema = Schema(observation=OBSERVATION, action=box().action, facts=("budget", "price"))
        remember, told = pid.remembers(schema), (1, 2, NOW - 1)
        kept = [remember(seen(0, memory), (5.0,), own) for memory, own in (((), False), (told, False), ((), True))]

        assert kept == [(), told, ()]


def history_of(kept: Memory) -> History:
    """A history in which the controller left this, if it is anything."""
    return History(known=True, since=NOW, kept={KEPT: kept} if kept else {})
