"""Bounds: a quantity that actions move, or a number of a Box, between a low and a high."""

from math import inf
from typing import Literal

from pydantic import Field

from export.spec import Box
from guards.actions import Choices
from guards.boxes import Amount, index_of, outside
from guards.constraints.constraint import Constraint, name_of, shown, valued
from guards.errors import GuardMisconfigured
from guards.language.syntax import amount_of, term_of
from guards.language.terms import Term, compare, number, operation, plain
from guards.language.walk import Scene
from guards.records import Schema


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

    def term(self, schema: Schema) -> Term:
        if isinstance(schema.action, Box):
            return self._outside(schema)
        low, high = -inf if self.low is None else self.low, inf if self.high is None else self.high
        if isinstance(low, str) or isinstance(high, str):
            msg = "low and high are expressions, expected numbers: only the bounds of a Box's number may change"
            raise GuardMisconfigured(msg)
        if low > high:
            msg = f"low is {low}, expected at most high, which is {high}"
            raise GuardMisconfigured(msg)
        effect, now = Choices(schema).table(self.effect), term_of(self.of, schema, "number")
        # What the quantity may be now, lest it ends beyond a limit.
        most = operation("if", compare(effect, ">", number(0)), plain("-", number(high), effect), number(inf))
        least = operation("if", compare(effect, "<", number(0)), plain("-", number(low), effect), number(-inf))
        return operation("or", compare(now, ">", most), compare(now, "<", least))

    def _outside(self, schema: Schema) -> Term:
        if self.effect:
            msg = f"effect: is {self.effect}, expected none: a Box's number is bounded itself"
            raise GuardMisconfigured(msg)
        index = index_of(self.of, schema)
        low = number(-inf) if self.low is None else amount_of("low", self.low, schema)
        return outside(index, low, number(inf) if self.high is None else amount_of("high", self.high, schema))

    def why(self, scene: Scene, schema: Schema) -> str:
        now = valued(self.of, term_of(self.of, schema, "number"), scene)
        change = self.effect.get(name_of(scene.action, schema), 0.0)
        if "cannot be evaluated" in now:
            return now
        if change == 0:
            return f"{now}, which this action does not move"
        side, limit = ("at most", self.high) if change > 0 else ("at least", self.low)
        expected = "anything" if limit is None else f"{side} {shown(float(limit))}"
        return f"{now}, and this action adds {shown(change)}: expected {expected}"
