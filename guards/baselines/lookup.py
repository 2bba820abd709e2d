"""Lookup: baselines that follow what was settled before: the last action, a table, an older policy.

Where something they go by is not known, they propose nothing, so that the ladder goes on.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from export.spec import Box, Discrete
from export.spec.spaces import Frozen
from guards.baselines.baseline import Baseline, Propose, Told, action_of, beside
from guards.batched import Context, Domain, Numbers, numbers_of
from guards.errors import GuardMisconfigured
from guards.projection import every
from guards.records import NO_ACTION, Actions, Floats, Schema


class Hold(Baseline):
    """Proposes what was executed before; ``first`` where that is nothing, or is not known here."""

    kind: Literal["hold"] = "hold"
    first: Told

    def bind(self, schema: Schema) -> Propose:
        first = action_of("first", self.first, schema)
        return lambda context: previous(context, first)


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
        size, axes = 1, list[tuple[Numbers, Floats]]()
        for i, axis in enumerate(self.axes):
            if list(axis.edges) != sorted(set(axis.edges)):
                msg = f"axes.{i}.edges: are {list(axis.edges)}, expected each to be greater than the one before"
                raise GuardMisconfigured(msg)
            axes.append((numbers_of(f"axes.{i}.of", axis.of, schema), np.array(axis.edges)))
            size *= len(axis.edges) + 1
        if len(self.actions) != size:
            bins = " x ".join(str(len(axis.edges) + 1) for axis in self.axes)
            msg = f"actions: are {len(self.actions)}, expected {size}, one for each of {bins} bins"
            raise GuardMisconfigured(msg)
        told = [action_of(f"actions.{i}", action, schema) for i, action in enumerate(self.actions)]
        table = np.stack([*told, Domain(schema.action).nothing])

        def propose(context: Context) -> Actions:
            at, unknown = np.zeros(len(context), dtype=np.int64), np.zeros(len(context), dtype=np.bool_)
            for number, edges in axes:
                value = number(context)
                at = at * (len(edges) + 1) + np.searchsorted(edges, value, side="right")
                unknown |= np.isnan(value)
            proposal: Actions = table[np.where(unknown, size, at)]
            return proposal

        return propose


class Policy(Baseline):
    """Proposes what an older, trusted policy thinks best: the greatest of its numbers in each choice, or its means.

    The service loads the artefact at ``path`` and gives ``bind`` its head[N, W]: a number for every choice, or for a
    Box the means in executed units; a row that is not finite where it could not be worked out.
    """

    kind: Literal["policy"] = "policy"
    path: Annotated[str, Field(min_length=1)]

    def bind(self, schema: Schema, head: Callable[[Context], Floats] | None = None) -> Propose:
        if head is None:
            msg = f"path: the policy {self.path!r} is not here, expected the service to have loaded it"
            raise GuardMisconfigured(msg)
        space, nothing = schema.action, Domain(schema.action).nothing

        def propose(context: Context) -> Actions:
            numbers = head(context)
            if isinstance(space, Box):
                best = np.clip(numbers, space.low, space.high)
            else:
                starts = np.cumsum((space.n,) if isinstance(space, Discrete) else space.sizes)[:-1]
                parts = [part.argmax(axis=1) for part in np.split(numbers, starts, axis=1)]
                best = np.stack(parts, axis=1).reshape(len(context), *nothing.shape)
            # Finite first: an arg-max over numbers with a NaN among them picks the NaN.
            return np.where(beside(every(np.isfinite(numbers)), nothing), best, nothing)

        return propose


def previous(context: Context, first: Actions) -> Actions:
    """What was executed before in each row, ``first`` where that is nothing or not known here."""
    held = [first if history.action == NO_ACTION else history.action for history in context.histories]
    return np.array(held, dtype=first.dtype).reshape(len(context), *first.shape)
