"""Controllers: baselines that go by one measured number: a threshold, the autoscaler's proportion, a PID.

Where an expression of theirs cannot be evaluated, they propose nothing, so that the ladder goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from export.spec import Box, Discrete
from export.spec.spaces import Frozen
from guards.baselines.baseline import KEPT, Baseline, Propose, Remember, Told, action_of, beside
from guards.baselines.lookup import previous
from guards.batched import Context, Domain, numbers_of
from guards.errors import GuardMisconfigured
from guards.projection import every
from guards.records import NO_ACTION, Actions, Booleans, Floats, Schema

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
        number, other = numbers_of("of", self.of, schema), action_of("otherwise", self.otherwise, schema)
        under = action_of("below.action", self.below.action, schema)
        over = action_of("above.action", self.above.action, schema)
        low, high = self.below.limit, self.above.limit
        _ordered("below.limit", low, "above.limit", high)
        nothing = Domain(schema.action).nothing

        def propose(context: Context) -> Actions:
            value = beside(number(context), nothing)
            middle = previous(context, other) if self.between == "previous" else other
            proposal = np.where(value < low, under, np.where(value > high, over, middle))
            return np.where(np.isnan(value), nothing, proposal)

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
        current, metric = numbers_of("current", self.current, schema), numbers_of("metric", self.metric, schema)
        high = np.inf if self.high is None else self.high
        _ordered("low", self.low, "high", high)
        output, absolute = _output(self.effect, schema), isinstance(schema.action, Box)

        def propose(context: Context) -> Actions:
            now = current(context)
            with np.errstate(all="ignore"):
                ratio = metric(context) / self.target
                scaled = np.ceil(now * ratio - _ROUNDED)
            desired = np.where(np.abs(ratio - 1) <= self.tolerance + _ROUNDED, now, scaled)
            # A limit would make a proposal of what is not finite.
            desired = np.where(np.isfinite(desired), np.clip(desired, self.low, high), np.nan)
            return output(desired if absolute else desired - now)

        return propose


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step of a baseline with a memory: what it proposes[N], the memory[N, M] after it, and which rows began anew."""

    proposed: Actions
    memory: Floats
    fresh: Booleans


class _Parts(NamedTuple):
    """A PID's output[N] in parts: the part without memory, the integral before the step and after it; what it is of."""

    direct: Floats
    before: Floats
    integral: Floats
    value: Floats
    fresh: Booleans


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
        step = self.remembering(schema)
        return lambda context: step(context, remembered(context)).proposed

    def remembering(self, schema: Schema) -> Callable[[Context, Floats], Stepped]:
        """The step with what is ``remembered``: the integral part, the measurement, and when (s).

        Raises GuardMisconfigured.
        """
        output, work, (low, high) = _output(self.effect, schema), self._work(schema), self._limits(schema)

        def step(context: Context, memory: Floats) -> Stepped:
            parts = work(context, memory, low, high)
            whole = parts.direct + parts.integral
            proposed = output(np.where(np.isfinite(whole), np.clip(whole, low, high), np.nan))
            return Stepped(proposed, _after(context, memory, parts, parts.integral), parts.fresh)

        return step

    def remembers(self, schema: Schema) -> Remember:
        """The memory after what was executed, whoever proposed it.

        Where that was the controller, a constraint that made another action of its output is a limit that it was at;
        that of named actions none is quite the output is none. Where it was somebody else, the integral follows
        (tracking, or back-calculation): it becomes what would have put out what was executed, so that the controller
        goes on from there when it takes over, without a jump. Without an integral gain nothing would ever lead it back
        from there, so it stays. What an action without an effect puts out nobody knows: then the integral waits.
        """
        work, done, (low, high) = self._work(schema), _done(self.effect, schema), self._limits(schema)
        output = _output(self.effect, schema)

        def remember(context: Context, actions: Actions, own: Booleans) -> list[tuple[float, ...]]:
            memory, executed = remembered(context), done(actions)
            free = work(context, memory, low, high)
            wanted = np.clip(free.direct + free.integral, low, high)
            moved = own & (executed != done(output(wanted)))
            least = np.where(moved & (executed > wanted), executed, low)
            held = work(context, memory, least, np.where(moved & (executed < wanted), executed, high))
            with np.errstate(all="ignore"):
                follows = np.where(np.isnan(executed), held.before, np.clip(executed, low, high) - held.direct)
            integral = np.where(own | (self.ki == 0), held.integral, follows)
            after = _after(context, memory, held, integral)
            sound = every(np.isfinite(after)).tolist()
            return [tuple(row) if is_so else () for row, is_so in zip(after.tolist(), sound, strict=True)]

        return remember

    def _work(self, schema: Schema) -> Callable[[Context, Floats, Floats | float, Floats | float], _Parts]:
        """The output in parts, and an integral that leads it beyond neither a ``low`` nor a ``high`` of each row."""
        measured, target = numbers_of("of", self.of, schema), numbers_of("target", self.target, schema)
        least, most = self._limits(schema)

        def work(context: Context, memory: Floats, low: Floats | float, high: Floats | float) -> _Parts:
            value, (integral, last, at) = measured(context), memory.T
            with np.errstate(all="ignore"):
                error, passed = target(context) - value, context.now - at
                known = every(np.isfinite(memory)) & (np.abs(passed) <= self.forget_seconds)
                moves = known & (passed > 0)
                slope = np.where(moves, (value - last) / passed, 0.0)
                more = np.where(moves, self.ki * error * passed, 0.0)
                direct = self.kp * error - self.kd * slope
                before = np.where(known, integral, np.clip(self.start, least, most))
                # As far as the output and it go to their limits, and where one is beyond, only back.
                up = np.maximum(before, np.minimum(before + more, np.minimum(high - direct, most)))
                down = np.minimum(before, np.maximum(before + more, np.maximum(low - direct, least)))
                # It may have followed beyond: what the output does not need of that any more is let go.
                ends = np.minimum(least, least - direct), np.maximum(most, most - direct)
                integral = np.clip(np.where(more > 0, up, down), *ends)
            return _Parts(direct, before, integral, value, ~known)

        return work

    def _limits(self, schema: Schema) -> tuple[float, float]:
        """The least and the greatest output: those that are set, within what the actions can do."""
        space = schema.action
        reach = [*space.low, *space.high] if isinstance(space, Box) else [0.0, *self.effect.values()]
        least, most = -np.inf if self.low is None else self.low, np.inf if self.high is None else self.high
        _ordered("low", least, "high", most)
        low, high = max(min(reach), least), min(max(reach), most)
        if low > high:
            told = f"{least} to {most}, expected some of what the actions do: {min(reach)} to {max(reach)}"
            msg = f"low, high: are {told}"
            raise GuardMisconfigured(msg)
        if not np.isfinite(high - low):
            msg = f"low, high: the output is not bounded ({low} to {high}), expected limits, which keep the integral"
            raise GuardMisconfigured(msg)
        return low, high


def _after(context: Context, memory: Floats, parts: _Parts, integral: Floats) -> Floats:
    """The memory[N, 3] after a step with this integral; as it was where nothing was measured."""
    sound = np.isfinite(parts.direct + parts.integral)
    return np.where(sound[:, None], np.stack([integral, parts.value, context.now], axis=1), memory)


def remembered(context: Context) -> Floats:
    """What a PID left in each history[N, 3]; a row of NaN where nothing is there."""
    kept = [history.kept.get(KEPT, ()) for history in context.histories]
    return np.array([one if len(one) == 3 else (np.nan,) * 3 for one in kept]).reshape(-1, 3)


def _output(effect: dict[str, float], schema: Schema) -> Callable[[Floats], Actions]:
    """How a wanted number a row (NaN: none) becomes an action; raises GuardMisconfigured."""
    space = schema.action
    if isinstance(space, Discrete):
        return _by_effect(effect, schema)
    if not isinstance(space, Box) or space.width > 1 or effect:
        msg = f"effect: is {effect} over {space.width} columns of a {space.kind} action, expected "
        raise GuardMisconfigured(msg + "named actions with effects, or a Box of one number without")
    return lambda wanted: np.clip(wanted, space.low, space.high)[:, None]


def _done(effect: dict[str, float], schema: Schema) -> Callable[[Actions], Floats]:
    """The number[N] that each row's action is, or has the effect of; NaN where that is not said."""
    if isinstance(schema.action, Box):
        return lambda actions: actions[:, 0]
    effects = {_idle(effect, schema): 0.0, **effect}
    numbers = np.array([effects.get(name, np.nan) for name in schema.actions])
    return lambda actions: numbers[actions]


def _by_effect(effect: dict[str, float], schema: Schema) -> Callable[[Floats], Actions]:
    """The action whose effect is nearest to a wanted change without overshooting it, in direction or in size.

    The one action that is not named changes nothing; of equal effects the schema's first is done.
    """
    index = {name: int(action_of("effect", name, schema)) for name in effect}
    actions: dict[float, int] = {0.0: schema.actions.index(_idle(effect, schema))}
    for name in sorted(effect, key=index.__getitem__):
        actions.setdefault(effect[name], index[name])
    changes = np.array(sorted(actions))
    table = np.array([actions[change] for change in sorted(actions)])

    def act(wanted: Floats) -> Actions:
        upward, downward = np.searchsorted(changes, wanted, side="right") - 1, np.searchsorted(changes, wanted)
        return np.where(np.isnan(wanted), NO_ACTION, table[np.where(wanted < 0, downward, upward)])

    return act


def _idle(effect: dict[str, float], schema: Schema) -> str:
    """The action that changes nothing; raises GuardMisconfigured."""
    idle = [name for name in schema.actions if effect.get(name) == 0]
    unnamed = [name for name in schema.actions if name not in effect]
    if not idle and len(unnamed) != 1:
        msg = f"effect: {', '.join(unnamed) or 'no action'} would change nothing, expected one that is named with 0"
        raise GuardMisconfigured(msg)
    return (idle or unnamed)[0]


def _ordered(least: str, low: float, most: str, high: float) -> None:
    if low > high:
        msg = f"{least}: is {low}, expected at most {most}, which is {high}"
        raise GuardMisconfigured(msg)
