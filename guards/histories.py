"""Constraints with a history of their own: how fast a value may change, what may be spent, how often to switch.

What each keeps of a session is a few numbers, which go on when a decision is in the journal and are logged with the
next. Where the history is not here, all that is possible was done just before the session was first seen.
"""

from collections.abc import Callable
from math import floor, fsum
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from export.spec import Box
from guards.boxes import limited, number_index, outside
from guards.choices import Choices, choices_of
from guards.constraint import Confine, Constraint, Forbids, Keeper
from guards.errors import GuardMisconfigured
from guards.expressions import compile_expression
from guards.records import NEVER, NO_ACTION, Action, Booleans, Context, Floats, History, Integers, Schema
from guards.terms import Scene, looked_up

Seconds = Annotated[float, Field(ge=0.001, le=86400 * 365)]
# A budget's window is divided into so many: what is spent within one of them is kept as spent at its last time.
BUCKETS = 10


class RateLimit(Constraint):
    """Forbids every action that would change a value faster than ``per_second``, over the time since it last changed.

    ``levels`` says which value each choice stands for (all actions, or all choices of a factor); or ``effect``, what
    each named choice adds to it. Where the history is not here, it changed just before the session was first seen, and
    may stand at the level that is farthest away.

    Of a Box it is the number ``of``, whose change is limited over the time since the last decision. Where it is not
    known how it stands, nothing is left; or, with ``assume``, what is within reach of every number from the first to
    the second.
    """

    kind: Literal["rate_limit"] = "rate_limit"
    per_second: Annotated[float, Field(gt=0)]
    levels: dict[str, float] = Field(default_factory=dict)
    effect: dict[str, float] = Field(default_factory=dict)
    of: str | None = None
    assume: tuple[float, float] | None = None

    def bind(self, schema: Schema) -> Forbids:
        if isinstance(schema.action, Box):
            return outside(self.confine(schema))
        _, change = self._changes(schema)

        def forbids(context: Context, choice: Integers | None) -> Booleans:
            scene = Scene(context, choice)
            most = np.maximum(context.recalled(self.name, self._seconds), 0.0) * self.per_second
            return np.asarray(change(scene) > scene.per_row(most))

        return forbids

    def confine(self, schema: Schema) -> Confine:
        if self.levels or self.effect:
            msg = "levels and effect are for choices, expected neither: a Box's number is limited itself"
            raise GuardMisconfigured(msg)
        least, most = self.assume or (-np.inf, np.inf)
        if least > most:
            msg = f"assume: is from {least} to {most}, expected the smaller number first"
            raise GuardMisconfigured(msg)
        index = number_index(self.of, schema)

        def reach(history: History, now: float) -> tuple[float, float]:
            """The least and the most that the number may be."""
            kept = history.kept.get(self.name)
            if history.known and history.step == 0:
                return -np.inf, np.inf
            last = [action[index] for action in history.last if isinstance(action, tuple)]
            if kept and last:
                low, high, then = min(last), max(last), kept[0]
            else:
                low, high, then = least, most, history.since
            change = max(now - then, 0.0) * self.per_second
            return high - change, low + change

        def limits(context: Context) -> tuple[Floats, Floats]:
            told = zip(context.histories, context.now.tolist(), strict=True)
            both = np.array([reach(history, now) for history, now in told]).reshape(-1, 2)
            return both[:, 0], both[:, 1]

        return limited(self.of, schema, limits)

    def keeper(self, schema: Schema) -> Keeper:
        if isinstance(schema.action, Box):
            # A clock that runs backwards stands still.
            return Keeper(lambda history, _, at, __: (max(at, *history.kept.get(self.name, (at,))),))
        choices, _ = self._changes(schema)
        value_of = choices.valued(self.levels or self.effect)

        def after(history: History, action: Action, at: float, _: float) -> tuple[float, ...]:
            kept, value = history.kept.get(self.name, ()), value_of(action)
            changed = not history.known and history.step == 0
            if self.effect or history.action == NO_ACTION:
                changed |= bool(self.effect) and value != 0
            else:
                changed |= any(value_of(last) != value for last in history.last)
            return ((max(at, *kept),) if kept else (at,)) if changed else kept

        return Keeper(after)

    def _seconds(self, history: History, now: float) -> float:
        """Seconds since the value last changed."""
        kept = history.kept.get(self.name)
        last = kept[0] if kept else -NEVER
        return now - (last if history.known else max(last, history.since))

    def _changes(self, schema: Schema) -> tuple[Choices, Callable[[Scene], Floats]]:
        """How much each action would change the value."""
        choices = choices_of(schema)
        if self.of is not None or self.assume is not None:
            msg = "of and assume are for the numbers of a box action, expected levels or effect"
            raise GuardMisconfigured(msg)
        if bool(self.levels) == bool(self.effect):
            msg = "levels and effect are both here or both missing, expected one of them"
            raise GuardMisconfigured(msg)
        if self.effect:
            moves = choices.total(self.effect, np.abs)
            return choices, lambda scene: scene.per_action(moves)
        named = {choices.index(name) for name in self.levels}
        partly = [set(part) for part in choices.factors.values() if set(part) & named and not set(part) <= named]
        if partly:
            missing = sorted(partly[0] - named)
            msg = f"levels: has none for {', '.join(schema.choices[i] for i in missing)}, expected one for each"
            raise GuardMisconfigured(msg)
        levels = choices.total(self.levels)
        low, high = (levels.min(), levels.max()) if isinstance(levels, np.ndarray) else choices.span(self.levels)
        farthest = choices.total(self.levels, lambda level: np.maximum(high - level, level - low))

        def change(scene: Scene) -> Floats:
            previous, other = choices.previous(scene.context)
            here = scene.per_action(levels)
            moves = np.abs(here - scene.per_row(looked_up(levels, np.maximum(previous, 0))))
            if other is not previous:
                moves = np.maximum(moves, np.abs(here - scene.per_row(looked_up(levels, np.maximum(other, 0)))))
            first = previous.reshape(len(previous), -1)[:, 0]
            begins, known = scene.per_row(first == NO_ACTION), scene.per_row(first >= NO_ACTION)
            return np.where(known, np.where(begins, 0.0, moves), scene.per_action(farthest))

        return choices, change


class Budget(Constraint):
    """Forbids every action that costs more than is left of ``at_most`` in the last ``seconds`` of the session.

    What cannot be evaluated is too dear; a cost below zero is none. Costs are counted for up to a tenth of
    ``seconds`` longer. Where the history is not here, all was spent just before the session was first seen.
    """

    kind: Literal["budget"] = "budget"
    cost: str
    at_most: Annotated[float, Field(gt=0, le=1e12)]
    seconds: Seconds

    def bind(self, schema: Schema) -> Forbids:
        expression = compile_expression(self.cost, schema, "number")

        def forbids(context: Context, choice: Integers | None) -> Booleans:
            cost, failed = expression.evaluate(context, choice)
            left = Scene(context, choice).per_row(context.recalled(self.name, self._left))
            forbidden: Booleans = (cost > 0) & (cost > left)
            return forbidden if failed is None else forbidden | failed

        return forbids

    def keeper(self, schema: Schema) -> Keeper:
        expression = compile_expression(self.cost, schema, "number")

        def weigh(context: Context, choice: Integers | None) -> Floats:
            cost, failed = expression.evaluate(context, choice)
            dear = cost if failed is None else np.where(failed, self.at_most, cost)
            return np.broadcast_to(np.clip(dear, 0.0, self.at_most), (len(context),))

        return Keeper(self._after, weigh, stride=2)

    def _left(self, history: History, now: float) -> float:
        """What is left of the budget."""
        if not history.known and now - history.since < self.seconds:
            return 0.0
        kept = history.kept.get(self.name)
        if not kept:
            return self.at_most
        if now - kept[0] < self.seconds:
            return self.at_most - fsum(kept[1::2])
        pairs = zip(kept[::2], kept[1::2], strict=True)
        return self.at_most - fsum([cost for at, cost in pairs if now - at < self.seconds])

    def _after(self, history: History, _: Action, at: float, cost: float) -> tuple[float, ...]:
        """Pairs of a time and what was spent until then, one for each bucket of the window; the oldest first."""
        kept = history.kept.get(self.name, ())
        while kept and at - kept[0] >= self.seconds:
            kept = kept[2:]
        if cost <= 0:
            return kept
        width = self.seconds / BUCKETS
        # A clock that runs backwards stands still.
        at = max(at, kept[-2]) if kept else at
        if kept and floor(kept[-2] / width) == floor(at / width):
            return (*kept[:-2], at, min(kept[-1] + cost, self.at_most))
        return (*kept, at, cost)


class MaxSwitches(Constraint):
    """Forbids every action but the one before when the last ``seconds`` have ``at_most`` changes of action in them.

    Where the history is not here, so many were made just before the session was first seen; and while it is not known
    what was done last, that leaves nothing. Where either of two actions may have been, a change from either is one.
    """

    kind: Literal["max_switches"] = "max_switches"
    at_most: Annotated[int, Field(ge=1, le=100)]
    seconds: Seconds

    def bind(self, schema: Schema) -> Forbids:
        choices = choices_of(schema, whole=True)
        columns = choices.table(lambda parts: parts if choices.parts is None else np.arange(len(parts)))

        def forbids(context: Context, choice: Integers | None) -> Booleans:
            used_up = context.recalled(self.name, self._ago) < self.seconds
            if not np.count_nonzero(used_up):
                return used_up[:1]
            scene = Scene(context, choice)
            here, (previous, other) = scene.per_action(columns), choices.previous(context)
            changed = (here != scene.per_row(previous)) | (here != scene.per_row(other))
            return np.asarray(scene.per_row(used_up) & (changed.any(axis=1) if choices.parts is None else changed))

        return forbids

    def keeper(self, schema: Schema) -> Keeper:  # noqa: ARG002 - actions differ or not, whatever they are
        return Keeper(self._after)

    def _ago(self, history: History, now: float) -> float:
        """Seconds since the first of the last so many changes."""
        kept = history.kept.get(self.name, ())
        first = kept[-self.at_most] if len(kept) >= self.at_most else -NEVER
        return now - (first if history.known else max(first, history.since))

    def _after(self, history: History, action: Action, at: float, _: float) -> tuple[float, ...]:
        """The times of the last so many changes, in order."""
        kept = tuple(time for time in history.kept.get(self.name, ()) if at - time < self.seconds)
        begins = history.known and history.step == 0
        if begins or (action, action) == history.last:
            return kept
        return tuple(sorted((*kept, at)))[-self.at_most :]
