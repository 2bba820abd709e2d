"""Lookup: baselines that follow what was settled before: one action, rules, the last action, a table, an older policy.

Where something they go by is not known, they propose nothing, so that the ladder goes on.
"""

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from math import prod
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from export.spec import Box, Discrete
from export.spec.spaces import Frozen
from guards.baselines.baseline import Baseline, Propose, Told, action_of, number_of
from guards.errors import GuardMisconfigured, setting
from guards.language.python import evaluated
from guards.language.syntax import term_of
from guards.records import NO_ACTION, Action, Floats, Row, Schema


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
                if holds != 0:  # it is NaN where it has no value
                    return action if holds == 1 else None
            return otherwise

        return propose


class Hold(Baseline):
    """Proposes what was executed before; ``first`` where that is nothing, or is not known here."""

    kind: Literal["hold"] = "hold"
    first: Told

    def bind(self, schema: Schema) -> Propose:
        first = action_of("first", self.first, schema)
        return lambda row: previous(row, first)


class Axis(Frozen):
    """One direction of a table: a number, and the edges between its bins; a number on an edge is in the bin above."""

    of: str
    edges: Annotated[tuple[float, ...], Field(min_length=1)]


class Lookup(Baseline):
    """Proposes what a table says: an action for each bin of the first axis, in it each of the second, and so on."""

    kind: Literal["lookup"] = "lookup"
    axes: Annotated[tuple[Axis, ...], Field(min_length=1)]
    actions: tuple[Told, ...]

    def bind(self, schema: Schema) -> Propose:
        axes = []
        for i, axis in enumerate(self.axes):
            if list(axis.edges) != sorted(set(axis.edges)):
                msg = f"axes.{i}.edges: are {list(axis.edges)}, expected each to be greater than the one before"
                raise GuardMisconfigured(msg)
            axes.append((number_of(f"axes.{i}.of", axis.of, schema), axis.edges))
        bins = [len(axis.edges) + 1 for axis in self.axes]
        if len(self.actions) != prod(bins):
            told = " x ".join(map(str, bins))
            msg = f"actions: are {len(self.actions)}, expected {prod(bins)}, one for each of {told} bins"
            raise GuardMisconfigured(msg)
        table = [action_of(f"actions.{i}", action, schema) for i, action in enumerate(self.actions)]

        def propose(row: Row) -> Action | None:
            at = 0
            for number, edges in axes:
                value = number(row)
                if value != value:
                    return None
                at = at * (len(edges) + 1) + bisect_right(edges, value)
            return table[at]

        return propose


class Policy(Baseline):
    """Proposes what an older, trusted policy thinks best: the greatest of its numbers in each choice, or its means.

    The service loads the artefact at ``path`` and gives ``bind`` its head[W] of a row: a number for every choice, or
    for a Box the means in executed units; what is not finite where it could not be worked out.
    """

    kind: Literal["policy"] = "policy"
    path: Annotated[str, Field(min_length=1)]

    def bind(self, schema: Schema, head: Callable[[Row], Floats] | None = None) -> Propose:
        if head is None:
            msg = f"path: the policy {self.path!r} is not here, expected the service to have loaded it"
            raise GuardMisconfigured(msg)
        space, starts = schema.action, list(accumulate(schema.action.sizes))[:-1]

        def propose(row: Row) -> Action | None:
            numbers = head(row)
            # Finite first: an arg-max over numbers with a NaN among them picks the NaN.
            if not np.isfinite(numbers).all():
                return None
            if isinstance(space, Box):
                return tuple(np.clip(numbers[None], space.low, space.high)[0].tolist())
            best = tuple(int(part.argmax()) for part in np.split(numbers, starts))
            return best[0] if isinstance(space, Discrete) else best

        return propose


def previous(row: Row, first: Action) -> Action:
    """What was executed before, ``first`` where that is nothing or not known here."""
    return first if row.history.action == NO_ACTION else row.history.action
