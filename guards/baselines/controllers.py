"""Controllers: baselines that go by one measured number: a threshold, the autoscaler's proportion, a PID.

Where an expression of theirs cannot be evaluated, they propose nothing, so that the ladder goes on.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from math import ceil, copysign, inf, isfinite, nan
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from export.spec import Box, Discrete
from export.spec.spaces import Frozen
from guards.baselines.baseline import KEPT, Baseline, Propose, Remember, Told, action_of, number_of
from guards.baselines.lookup import previous
from guards.errors import GuardMisconfigured
from guards.language.walk import part_of
from guards.records import Action, Row, Schema

Above0 = Annotated[float, Field(gt=0)]
# What is a billionth above a whole number, or a limit, has been rounded there, and needs no replica of its own.
_ROUNDED = 1e-9


class Limit(Frozen):
    """What to do on the far side of a limit."""

    limit: float
    action: Told


class Threshold(Baseline):
    """Proposes one action below a limit and one above another, and between them what ``between`` says.

    That is always ``otherwise``, or what was executed before, as a thermostat does: then it is the hysteresis.
    """

    kind: Literal["threshold"] = "threshold"
    of: str
    below: Limit
    above: Limit
    otherwise: Told
    between: Literal["otherwise", "previous"] = "otherwise"

    def bind(self, schema: Schema) -> Propose:
        number, other = number_of("of", self.of, schema), action_of("otherwise", self.otherwise, schema)
        under = action_of("below.action", self.below.action, schema)
        over = action_of("above.action", self.above.action, schema)
        low, high = self.below.limit, self.above.limit
        _ordered("below.limit", low, "above.limit", high)

        def propose(row: Row) -> Action | None:
            value = number(row)
            if value != value:
                return None
            if low <= value <= high:
                return previous(row, other) if self.between == "previous" else other
            return under if value < low else over

        return propose


class Proportional(Baseline):
    """Proposes to scale ``current`` by ``metric / target``, rounded up: ceil(current * metric / target).

    No change where the two are as near as ``tolerance`` (a share of the target), and never beyond ``low`` and ``high``.
    That is the rule of Kubernetes' Horizontal Pod Autoscaler
    (https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/#algorithm-details). Of named
    actions it proposes the one whose ``effect`` on ``current`` comes nearest without overshooting; for a Box of one
    number the desired value.
    """

    kind: Literal["proportional"] = "proportional"
    current: str
    metric: str
    target: Above0
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.1
    low: float = 1.0
    high: float | None = None
    effect: dict[str, float] = Field(default_factory=dict)

    def bind(self, schema: Schema) -> Propose:
        current, metric = number_of("current", self.current, schema), number_of("metric", self.metric, schema)
        high = inf if self.high is None else self.high
        _ordered("low", self.low, "high", high)
        act, absolute = _actuator(self.effect, schema).act, isinstance(schema.action, Box)

        def propose(row: Row) -> Action | None:
            desired = now = current(row)
            ratio = metric(row) / self.target
            if not abs(ratio - 1) <= self.tolerance + _ROUNDED:
                desired = now * ratio - _ROUNDED
                # A limit would make a proposal of what is not finite.
                desired = copysign(ceil(desired), desired) if isfinite(desired) else nan
            if not isfinite(desired):
                return None
            desired = _within(desired, self.low, high)
            return act(desired if absolute else desired - now)

        return propose


class Pid(Baseline):
    """Proposes kp * error + ki * its integral - kd * the slope of ``of``; the error is ``target - of``.

    The integral part grows within the output's limits, and never drives the output beyond them (clamping); the
    derivative is of the measurement, so that a new target gives no kick. (K. J. Astrom and R. M. Murray, Feedback
    Systems, the chapter on PID control.) Of named actions it proposes the one whose ``effect`` comes nearest to the
    output without overshooting; for a Box of one number the output.
    """

    kind: Literal["pid"] = "pid"
    of: str
    target: float | str
    kp: float = 0.0
    ki: float = 0.0
    kd: float = 0.0
    low: float | None = None
    high: float | None = None
    effect: dict[str, float] = Field(default_factory=dict)
    # The integral part where it begins, and after how long what is remembered says nothing any more.
    start: float = 0.0
    forget_seconds: Above0 = 60.0

    def bind(self, schema: Schema) -> Propose:
        return _Loop(self, schema).propose

    def remembers(self, schema: Schema) -> Remember:
        """The memory after what was executed, whoever proposed it: the integral, the measurement, and when (s).

        Where that was the controller, a constraint that made another action of its output is a limit that it was at;
        that of named actions none is quite the output is none. Where it was somebody else, the integral follows
        (tracking, or back-calculation): it becomes what would have put out what was executed, so that the controller
        goes on from there when it takes over, without a jump. Without an integral gain nothing would ever lead it back
        from there, so it stays. What an action without an effect puts out nobody knows: then the integral waits.
        """
        return _Loop(self, schema).remember


class _Loop:
    """A PID under a schema, with what it measures and the limits of its output; raises GuardMisconfigured."""

    def __init__(self, pid: Pid, schema: Schema) -> None:
        self.pid = pid
        self.act, self.done, reach = _actuator(pid.effect, schema)
        self.measured, self.target = number_of("of", pid.of, schema), number_of("target", pid.target, schema)
        least, most = -inf if pid.low is None else pid.low, inf if pid.high is None else pid.high
        _ordered("low", least, "high", most)
        low, high = max(min(reach), least), min(max(reach), most)
        if low > high:
            told = f"{least} to {most}, expected some of what the actions do: {min(reach)} to {max(reach)}"
            msg = f"low, high: are {told}"
            raise GuardMisconfigured(msg)
        if not isfinite(high - low):
            msg = f"low, high: the output is not bounded ({low} to {high}), expected limits, which keep the integral"
            raise GuardMisconfigured(msg)
        self.low, self.high = low, high

    def propose(self, row: Row) -> Action | None:
        """The action that its output is; none where that is no finite number."""
        _, direct, before, more = self._step(row)
        output = direct + self._integral(direct, before, more, self.low, self.high)
        return self.act(_within(output, self.low, self.high)) if isfinite(output) else None

    def remember(self, row: Row, action: Action, own: bool) -> tuple[float, ...]:
        """See ``Pid.remembers``; the memory stays as it was where nothing was measured."""
        (value, direct, before, more), low, high = self._step(row), self.low, self.high
        executed, integral = self.done(action), self._integral(direct, before, more, low, high)
        wanted = _within(direct + integral, low, high)
        if own and executed != self.done(self.act(wanted)):
            low, high = executed if executed > wanted else low, executed if executed < wanted else high
            integral = self._integral(direct, before, more, low, high)
        elif not own and self.pid.ki != 0:
            integral = before if executed != executed else _within(executed, low, high) - direct
        return (integral, value, row.now) if isfinite(direct + integral) else _remembered(row) or ()

    def _step(self, row: Row) -> tuple[float, float, float, float]:
        """The measurement, the output without the integral, the integral before the step and how much that grows."""
        pid, value, memory = self.pid, self.measured(row), _remembered(row)
        if memory is None or abs(row.now - memory[2]) > pid.forget_seconds:
            memory = _within(pid.start, self.low, self.high), value, row.now
        before, last, at = memory
        error, passed = self.target(row) - value, row.now - at
        slope, more = ((value - last) / passed, pid.ki * error * passed) if passed > 0 else (0.0, 0.0)
        return value, pid.kp * error - pid.kd * slope, before, more

    def _integral(self, direct: float, before: float, more: float, low: float, high: float) -> float:
        """The integral after a step that leads the output not beyond ``low`` or ``high``, nor itself beyond its limits.

        Of equal zeros the order of arguments says which it is.
        """
        least, most = self.low, self.high
        # As far as the output and it go to their limits, and where one is beyond, only back.
        if more > 0:
            integral = max(min(most, high - direct, before + more), before)
        else:
            integral = min(max(least, low - direct, before + more), before)
        # It may have followed beyond: what the output does not need of that any more is let go.
        return min(max(most - direct, most), max(min(least - direct, least), integral))


def _remembered(row: Row) -> tuple[float, ...] | None:
    """What a PID left in a row's history; None where that is not three finite numbers."""
    kept = row.history.kept.get(KEPT, ())
    return kept if len(kept) == 3 and all(map(isfinite, kept)) else None


class _Actuator(NamedTuple):
    """How a wanted number becomes an action, what number an action is, or has the effect of (NaN where that is not
    said), and numbers between the least and the greatest of which all of them are."""

    act: Callable[[float], Action]
    done: Callable[[Action], float]
    reach: Sequence[float]


def _actuator(effect: dict[str, float], schema: Schema) -> _Actuator:
    """Of a Box its one number; of named actions the one whose effect is nearest to a wanted change without overshooting
    it, in direction or in size. Raises GuardMisconfigured.

    The one action that is not named changes nothing; of equal effects the schema's first is done.
    """
    space = schema.action
    if isinstance(space, Box) and space.width == 1 and not effect:
        (low,), (high,) = space.low, space.high
        return _Actuator(lambda wanted: (min(high, max(low, wanted)),), lambda action: part_of(action, 0), (low, high))
    if not isinstance(space, Discrete):
        msg = f"effect: is {effect} over {space.width} columns of a {space.kind} action, expected "
        raise GuardMisconfigured(msg + "named actions with effects, or a Box of one number without")
    for name in effect:
        action_of("effect", name, schema)
    idle = [name for name in space.names if effect.get(name) == 0]
    unnamed = [name for name in space.names if name not in effect]
    if not idle and len(unnamed) != 1:
        msg = f"effect: {', '.join(unnamed) or 'no action'} would change nothing, expected one that is named with 0"
        raise GuardMisconfigured(msg)
    nothing = (idle or unnamed)[0]
    effects = {nothing: 0.0, **effect}
    numbers: dict[Action, float] = {i: effects.get(name, nan) for i, name in enumerate(space.names)}
    actions = {0.0: space.names.index(nothing)}
    for i, name in enumerate(space.names):
        actions.setdefault(effects.get(name, 0.0), i)
    changes = sorted(actions)

    def act(wanted: float) -> Action:
        return actions[changes[bisect_left(changes, wanted) if wanted < 0 else bisect_right(changes, wanted) - 1]]

    return _Actuator(act, numbers.__getitem__, [0.0, *effect.values()])


def _within(number: float, low: float, high: float) -> float:
    """A number within limits; one that is none stays so."""
    return min(max(number, low), high)


def _ordered(least: str, low: float, most: str, high: float) -> None:
    if low > high:
        msg = f"{least}: is {low}, expected at most {most}, which is {high}"
        raise GuardMisconfigured(msg)
