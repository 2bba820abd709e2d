"""The simplest baselines: always the same, or the first rule that holds."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from export.spec.spaces import Frozen
from guards.baselines.baseline import Baseline, Propose, Told, action_of
from guards.batched import Context, Domain, evaluated
from guards.errors import setting
from guards.language.syntax import term_of
from guards.records import Actions, Row, Schema


class Constant(Baseline):
    """Proposes the same action always."""

    kind: Literal["constant"] = "constant"
    action: Told

    def bind(self, schema: Schema) -> Propose:
        action = action_of("action", self.action, schema)
        return lambda context: np.full((len(context), *action.shape), action)


class When(Frozen):
    """One rule of a baseline: what to do while a condition holds."""

    when: str
    action: Told


class Rules(Baseline):
    """Proposes the action of the first rule whose condition holds.

    A condition that cannot be evaluated makes no proposal: what stands below it was written for when it is false.
    """

    kind: Literal["rules"] = "rules"
    rules: tuple[When, ...]
    otherwise: Told

    def bind(self, schema: Schema) -> Propose:
        conditions, actions = list[Callable[[Row], float | bool | None]](), list[Actions]()
        for i, rule in enumerate(self.rules):
            with setting(f"rules.{i}.when"):
                conditions.append(evaluated(term_of(rule.when, schema, "truth", about_action=False), schema))
            actions.append(action_of(f"rules.{i}.action", rule.action, schema))
        # What each rule does, what is done otherwise, and nothing.
        table = np.stack([*actions, action_of("otherwise", self.otherwise, schema), Domain(schema.action).nothing])
        otherwise, nothing = len(conditions), len(conditions) + 1

        def propose(context: Context) -> Actions:
            proposal: Actions = table[[pick(row) for row in context.each]]
            return proposal

        def pick(row: Row) -> int:
            for i, condition in enumerate(conditions):
                holds = condition(row)
                if holds is None or holds:
                    return nothing if holds is None else i
            return otherwise

        return propose
