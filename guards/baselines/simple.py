"""The simplest baselines: always the same, or the first rule that holds."""

from typing import Literal

from export.spec.spaces import Frozen
from guards.baselines.baseline import Baseline, Propose, Told, action_of
from guards.errors import setting
from guards.language.python import evaluated
from guards.language.syntax import term_of
from guards.records import Action, Row, Schema


class Constant(Baseline):
    """Proposes the same action always."""

    kind: Literal["constant"] = "constant"
    action: Told

    def bind(self, schema: Schema) -> Propose:
        action = action_of("action", self.action, schema)
        return lambda _: action


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
        rules = []
        for i, rule in enumerate(self.rules):
            with setting(f"rules.{i}.when"):
                condition = evaluated(term_of(rule.when, schema, "truth", about_action=False), schema)
            rules.append((condition, action_of(f"rules.{i}.action", rule.action, schema)))
        otherwise = action_of("otherwise", self.otherwise, schema)

        def propose(row: Row) -> Action | None:
            for condition, action in rules:
                holds = condition(row)
                if holds is None or holds:
                    return None if holds is None else action
            return otherwise

        return propose
