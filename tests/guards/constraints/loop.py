"""A loop: one session under one constraint, step by step, and what a constraint forbids by name."""

from typing import Any

import numpy as np
from pydantic import TypeAdapter

from export.spec import MultiDiscrete
from guards.abstention import AnyConstraint
from guards.constraints import Budget, Constraint, MaxSwitches, RateLimit
from guards.records import Action, History, Schema
from tests.acting import OBSERVATION, SWITCHES
from tests.fakes import NOW, SCHEMA
from tests.guards.asked import binding
from tests.guards.batched import Context, Shield

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


def forbidden(constraint: Constraint, context: Context) -> list[list[str]]:
    """The names of the forbidden actions of each row."""
    cells = np.broadcast_to(binding(constraint, SCHEMA)(context, None), (len(context), len(SCHEMA.actions)))
    return [[name for name, no in zip(SCHEMA.actions, row, strict=True) if no] for row in cells]


EFFECT = RateLimit(name="r", per_second=0.5, effect={UP: 1, DOWN: -1, JUMP: 3})
LEVELS = RateLimit(name="r", per_second=10, levels=dict(zip(SCHEMA.actions, (0, 10, 20, 50, 10, 100), strict=True)))
SPENDS = Budget(name="b", cost="3 if action == 'jump' else 1 if action == 'up' else 0", at_most=4, seconds=60)
TWICE = MaxSwitches(name="m", at_most=2, seconds=60)
