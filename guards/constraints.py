"""Constraints: what may not be done, each a class of the union at the bottom of this file.

The configuration class is the object: what is parsed from ``policy.toml`` binds itself to the schema and from then on
says which actions it forbids, for a whole batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from export.spec.spaces import Frozen
from guards.errors import GuardMisconfigured
from guards.expressions import compile_expression
from guards.records import Booleans, Context, Integers, Schema
from guards.terms import Scene

Mode = Literal["deny", "warn", "audit"]
# Says what is forbidden: for all actions (choice None), broadcastable to [N, A]; for one action a row, to [N].
Forbids = Callable[[Context, Integers | None], Booleans]


class Constraint(Frozen, ABC):
    """What every constraint has: a name, and whether it masks (deny), is told (warn) or only counted (audit)."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    mode: Mode = "deny"

    @abstractmethod
    def bind(self, schema: Schema) -> Forbids:
        """What it forbids under a schema; raises GuardMisconfigured."""

    def tracks(self, schema: Schema) -> frozenset[int]:  # noqa: ARG002 - most constraints need no history of uses
        """The actions whose last use has to be remembered."""
        return frozenset()


class Rule(Constraint):
    """Forbids every action for which an expression is true, or cannot be evaluated."""

    kind: Literal["rule"] = "rule"
    forbid: str

    def bind(self, schema: Schema) -> Forbids:
        expression = compile_expression(self.forbid, schema, "truth")

        def forbids(context: Context, choice: Integers | None) -> Booleans:
            value, failed = expression.evaluate(context, choice)
            forbidden: Booleans = value if failed is None else value | failed
            return forbidden

        return forbids


class Cooldown(Constraint):
    """Forbids its actions for some seconds after any of them was executed in the session.

    Where the session's history is not known, one of them is taken to have been executed just before it was first seen.
    """

    kind: Literal["cooldown"] = "cooldown"
    actions: Annotated[tuple[str, ...], Field(min_length=1)]
    seconds: Annotated[float, Field(gt=0, le=86400 * 365)]

    def bind(self, schema: Schema) -> Forbids:
        indices = sorted(self.tracks(schema))
        table = np.zeros(len(schema.actions), dtype=np.bool_)
        table[indices] = True

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

    ``of`` is the quantity now, ``effect`` what each named action adds to it (others: nothing). An action that adds may
    not end above ``high``, one that takes away not below ``low``; one that does neither is no move, wherever it stands.
    """

    kind: Literal["bounds"] = "bounds"
    of: str
    effect: dict[str, float]
    low: float | None = None
    high: float | None = None

    def bind(self, schema: Schema) -> Forbids:
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        if low > high:
            msg = f"low is {low}, expected at most high, which is {high}"
            raise GuardMisconfigured(msg)
        effect = np.zeros(len(schema.actions))
        for name, change in self.effect.items():
            effect[action_index(name, schema)] = change
        most = np.where(effect > 0, high - effect, np.inf)
        least = np.where(effect < 0, low - effect, -np.inf)
        quantity = compile_expression(self.of, schema, "number")

        def forbids(context: Context, choice: Integers | None) -> Booleans:
            scene = Scene(context, choice)
            now, failed = quantity.evaluate(context, choice)
            forbidden: Booleans = (now > scene.per_action(most)) | (now < scene.per_action(least))
            return forbidden if failed is None else forbidden | failed

        return forbids


def action_index(name: str, schema: Schema) -> int:
    """The index of a named action; raises GuardMisconfigured that names the known ones."""
    if name not in schema.actions:
        msg = f"the action {name!r} is not known, expected one of {', '.join(schema.actions)}"
        raise GuardMisconfigured(msg)
    return schema.actions.index(name)


AnyConstraint = Annotated[Rule | Cooldown | Bounds, Field(discriminator="kind")]
