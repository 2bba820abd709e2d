"""The simplest baselines: always the same, or the first rule that holds."""

from typing import Literal

import numpy as np

from export.spec.spaces import Frozen
from guards.baselines.baseline import Baseline, Propose, Told, action_of
from guards.domains import domain_of
from guards.errors import setting
from guards.expressions import Expression, compile_expression
from guards.records import NO_ACTION, Actions, Context, Schema


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
        conditions, actions = list[Expression](), list[Actions]()
        for i, rule in enumerate(self.rules):
            with setting(f"rules.{i}.when"):
                conditions.append(compile_expression(rule.when, schema, "truth", about_action=False))
            actions.append(action_of(f"rules.{i}.action", rule.action, schema))
        # What each rule does, what is done otherwise, and nothing.
        table = np.stack([*actions, action_of("otherwise", self.otherwise, schema), domain_of(schema.action).nothing])
        otherwise, nothing = len(conditions), len(conditions) + 1

        def propose(context: Context) -> Actions:
            none = np.full(len(context), NO_ACTION, dtype=np.int64)
            pick = np.full(len(context), otherwise)
            for i in reversed(range(len(conditions))):
                holds, failed = conditions[i].evaluate(context, none)
                pick = np.where(holds, i, pick)
                if failed is not None:
                    pick = np.where(failed, nothing, pick)
            proposal: Actions = table[pick]
            return proposal

        return propose
