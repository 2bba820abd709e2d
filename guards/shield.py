"""The shield: all constraints together, first as a mask over what may be chosen, then as a check of what was."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from guards.constraints import Constraint, Forbids, Mode
from guards.errors import GuardMisconfigured
from guards.records import Booleans, Context, Integers, Schema

_NONE = np.zeros((1, 1), dtype=np.bool_)
# What a request's own mask is called among the constraints.
MASK = "allowed"
Verdict = Literal["prevented", "executed", "reported"]


@dataclass(frozen=True, slots=True)
class Violation:
    """A constraint that spoke: it prevented the proposal, was executed against, or only reports (warn, audit)."""

    constraint: str
    verdict: Verdict
    mode: Mode = "deny"


# One object for each that can be: they are the same in every record.
violation = cache(Violation)


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a batch may do: ``allowed[N, A]``, and what each constraint forbids, broadcastable to [N, A]."""

    allowed: Booleans
    forbidden: tuple[tuple[str, Mode, Booleans], ...]

    def forbidding(self, rows: Integers, actions: Integers) -> list[tuple[str, Mode, Booleans]]:
        """For each constraint, which of some rows[M] it forbids their actions[M]."""
        shape = self.allowed.shape
        return [(name, mode, np.broadcast_to(cells, shape)[rows, actions]) for name, mode, cells in self.forbidden]

    def reported(self, actions: Integers) -> Booleans:
        """Rows[N] whose executed action a warning or auditing constraint forbids."""
        told = np.zeros(len(actions), dtype=np.bool_)
        rows = np.arange(len(actions))
        for _, mode, cells in self.forbidden:
            if mode != "deny":
                told |= np.broadcast_to(cells, self.allowed.shape)[rows, actions]
        return told


class Shield:
    """Constraints bound to a schema."""

    def __init__(self, constraints: Sequence[Constraint], schema: Schema) -> None:
        names = [MASK]
        self._bound: list[tuple[str, Mode, Forbids]] = []
        tracked: set[int] = set()
        for i, constraint in enumerate(constraints):
            if constraint.name in names:
                msg = f"{i}.name: {constraint.name!r} is taken, expected a name of its own for each constraint"
                raise GuardMisconfigured(msg)
            names.append(constraint.name)
            try:
                forbids = constraint.bind(schema)
            except GuardMisconfigured as error:
                msg = f"{i}, {constraint.name!r}: {error}"
                raise type(error)(msg) from error
            self._bound.append((constraint.name, constraint.mode, forbids))
            tracked |= constraint.tracks(schema)
        self.tracked = frozenset(tracked)
        self._actions = len(schema.actions)
        self._reports = any(mode != "deny" for _, mode, _ in self._bound)

    @property
    def reports(self) -> bool:
        """Whether any constraint only warns or audits."""
        return self._reports

    def judge(self, context: Context) -> Ruling:
        """What the batch may do, all constraints and the requests' masks together."""
        forbidden: list[tuple[str, Mode, Booleans]] = []
        denied = _NONE
        if context.mask is not None:
            denied = ~context.mask
            forbidden.append((MASK, "deny", denied))
        for name, mode, forbids in self._bound:
            cells = forbids(context, None)
            forbidden.append((name, mode, cells))
            if mode == "deny":
                denied = denied | cells
        allowed = np.empty((len(context), self._actions), dtype=np.bool_)
        np.logical_not(denied, out=allowed)
        return Ruling(allowed=allowed, forbidden=tuple(forbidden))

    def check(self, context: Context, actions: Integers) -> Booleans:
        """Whether each row's final action[N] passes, worked out anew from the context and not from the mask."""
        # Read as unsigned, a negative index is beyond every action too.
        passes: Booleans = actions.view(np.uint64) < self._actions
        if np.count_nonzero(passes) < len(passes):
            actions = np.where(passes, actions, 0)
        if context.mask is not None:
            passes &= context.mask[np.arange(len(actions)), actions]
        for _, mode, forbids in self._bound:
            if mode == "deny":
                passes &= np.logical_not(forbids(context, actions))
        return passes

    def __repr__(self) -> str:
        return f"<Shield {len(self._bound)} constraints, {len(self.tracked)} tracked actions>"
