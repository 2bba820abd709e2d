"""Constraints: what may not be done, each a class of the union in ``guards.kinds``.

The configuration class is the object: what is parsed from ``policy.toml`` binds itself to the schema and from then on
says which actions it forbids, for a whole batch.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from export.spec import Box
from guards.boxes import Amount, amount_of, limited, outside
from guards.choices import choices_of
from guards.constraint import Confine
from guards.constraint import Constraint as Constraint
from guards.constraint import Forbids as Forbids
from guards.constraint import Mode as Mode
from guards.errors import GuardMisconfigured
from guards.expressions import compile_expression
from guards.records import Booleans, Context, Integers, Schema
from guards.terms import Scene


class Rule(Constraint):
    """Forbids every action for which an expression is true, or cannot be evaluated.

    With ``on_error = "allow"`` an action for which it cannot be evaluated is let pass, and reported.
    """

    kind: Literal["rule"] = "rule"
    forbid: str
    on_error: Literal["deny", "allow"] = "deny"

    def bind(self, schema: Schema) -> Forbids:
        expression = compile_expression(self.forbid, schema, "truth")
        lenient = self.on_error == "allow"

        def forbids(context: Context, choice: Integers | None) -> Booleans:
            value, failed = expression.evaluate(context, choice)
            if failed is None:
                return np.asarray(value)
            return np.asarray(value & ~failed if lenient else value | failed)

        return forbids

    def excuses(self, schema: Schema) -> Forbids | None:
        if self.on_error == "deny":
            return None
        expression = compile_expression(self.forbid, schema, "truth")

        def excused(context: Context, choice: Integers | None) -> Booleans:
            _, failed = expression.evaluate(context, choice)
            return np.zeros((1,), dtype=np.bool_) if failed is None else failed

        return excused


class Cooldown(Constraint):
    """Forbids its actions for some seconds after any of them was executed in the session.

    Where the session's history is not known, one of them is taken to have been executed just before it was first seen.
    """

    kind: Literal["cooldown"] = "cooldown"
    actions: Annotated[tuple[str, ...], Field(min_length=1)]
    seconds: Annotated[float, Field(gt=0, le=86400 * 365)]

    def bind(self, schema: Schema) -> Forbids:
        indices = sorted(self.tracks(schema))
        table = choices_of(schema).table(lambda parts: np.asarray(np.isin(parts, indices).any(axis=-1)))

        def forbids(context: Context, choice: Integers | None) -> Booleans:
            scene = Scene(context, choice)
            resting = context.seconds_since_use(indices) < self.seconds
            forbidden: Booleans = scene.per_row(resting) & scene.per_action(table)
            return forbidden

        return forbids

    def tracks(self, schema: Schema) -> frozenset[int]:
        return frozenset(action_index(name, schema) for name in self.actions)


class Bounds(Constraint):
    """Forbids every action that would move a quantity out of its bounds.

    ``of`` is the quantity now, ``effect`` what each named choice adds to it (others: nothing). An action that adds may
    not end above ``high``, one that takes away not below ``low``; one that does neither is no move, wherever it stands.

    Of a Box ``of`` is one of its numbers, there is no ``effect``, and bounds may be expressions over fields and facts.
    """

    kind: Literal["bounds"] = "bounds"
    of: str
    effect: dict[str, float] = Field(default_factory=dict)
    low: Amount | None = None
    high: Amount | None = None

    def bind(self, schema: Schema) -> Forbids:
        if isinstance(schema.action, Box):
            return outside(self.confine(schema))
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        if isinstance(low, str) or isinstance(high, str):
            msg = "low and high are expressions, expected numbers: only the bounds of a Box's number may change"
            raise GuardMisconfigured(msg)
        if low > high:
            msg = f"low is {low}, expected at most high, which is {high}"
            raise GuardMisconfigured(msg)
        choices = choices_of(schema)
        most = choices.total(self.effect, lambda effect: np.where(effect > 0, high - effect, np.inf))
        least = choices.total(self.effect, lambda effect: np.where(effect < 0, low - effect, -np.inf))
        quantity = compile_expression(self.of, schema, "number")

        def forbids(context: Context, choice: Integers | None) -> Booleans:
            scene = Scene(context, choice)
            now, failed = quantity.evaluate(context, choice)
            forbidden: Booleans = (now > scene.per_action(most)) | (now < scene.per_action(least))
            return forbidden if failed is None else forbidden | failed

        return forbids

    def confine(self, schema: Schema) -> Confine:
        if self.effect:
            msg = f"effect: is {self.effect}, expected none: a Box's number is bounded itself"
            raise GuardMisconfigured(msg)
        low, high = amount_of("low", self.low, schema, -np.inf), amount_of("high", self.high, schema, np.inf)
        return limited(self.of, schema, lambda context: (low(context), high(context)))


def action_index(name: str, schema: Schema) -> int:
    """The index of a named action, or of a factor's choice; raises GuardMisconfigured that names the known ones."""
    return choices_of(schema).index(name)
