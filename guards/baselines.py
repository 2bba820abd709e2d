"""Baselines: simple proposers that answer where the policy cannot, each a class of the union at the bottom."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from export.spec.spaces import Frozen
from guards.constraints import action_index
from guards.expressions import compile_expression
from guards.records import NO_ACTION, Context, Integers, Schema

# The proposed action of each row[N]; NO_ACTION where it could not be worked out.
Propose = Callable[[Context], Integers]


class Baseline(Frozen, ABC):
    """What every baseline has: the last resort, which is done where even the baseline is refused."""

    last_resort: str | None = None

    @abstractmethod
    def bind(self, schema: Schema) -> Propose:
        """The proposer under a schema; raises GuardMisconfigured."""

    def last(self, schema: Schema) -> int | None:
        """The index of the last resort; raises GuardMisconfigured for a name that is not an action."""
        return None if self.last_resort is None else action_index(self.last_resort, schema)


class Constant(Baseline):
    """Proposes the same action always."""

    kind: Literal["constant"] = "constant"
    action: str

    def bind(self, schema: Schema) -> Propose:
        index = action_index(self.action, schema)
        return lambda context: np.full(len(context), index, dtype=np.int64)


class When(Frozen):
    """One rule of a baseline: what to do while a condition holds."""

    when: str
    action: str


class Rules(Baseline):
    """Proposes the action of the first rule whose condition holds.

    A condition that cannot be evaluated makes no proposal: what stands below it was written for when it is false.
    """

    kind: Literal["rules"] = "rules"
    rules: tuple[When, ...]
    otherwise: str

    def bind(self, schema: Schema) -> Propose:
        compiled = [
            (compile_expression(rule.when, schema, "truth", about_action=False), action_index(rule.action, schema))
            for rule in self.rules
        ]
        otherwise = action_index(self.otherwise, schema)

        def propose(context: Context) -> Integers:
            none = np.full(len(context), NO_ACTION, dtype=np.int64)
            proposal = np.full(len(context), otherwise, dtype=np.int64)
            for condition, action in reversed(compiled):
                holds, failed = condition.evaluate(context, none)
                proposal = np.where(holds, action, proposal)
                if failed is not None:
                    proposal = np.where(failed, NO_ACTION, proposal)
            return proposal

        return propose


AnyBaseline = Annotated[Constant | Rules, Field(discriminator="kind")]
