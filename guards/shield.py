"""The shield: all constraints together, first as a mask over what may be chosen, then as a check of what was."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from export.spec import Discrete
from guards.constraints import Constraint, Forbids, Mode
from guards.domains import domain_of, every, some
from guards.errors import GuardMisconfigured
from guards.records import Actions, Booleans, Context, Integers, Schema

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
    """What a batch may do: ``allowed[N, W]``, and what each constraint forbids, broadcastable to [N, W].

    W is the width of the space's masks. Actions are asked about by their columns in them: [N], or [N, K] of several
    choices, of which one that is forbidden is enough.
    """

    allowed: Booleans
    forbidden: tuple[tuple[str, Mode, Booleans], ...]

    def permits(self, rows: Integers, columns: Integers) -> Booleans:
        """Whether some rows[M] may do the actions at these columns."""
        cells = self.allowed[_beside(rows, columns), columns]
        return cells if cells.ndim == 1 else every(cells)

    def forbidding(self, rows: Integers, columns: Integers) -> list[tuple[str, Mode, Booleans]]:
        """For each constraint, which of some rows[M] it forbids their actions."""
        shape, at = self.allowed.shape, _beside(rows, columns)
        return [(name, mode, _hit(np.broadcast_to(cells, shape)[at, columns])) for name, mode, cells in self.forbidden]

    def reported(self, columns: Integers) -> Booleans:
        """Rows[N] whose executed action a warning or auditing constraint forbids."""
        told = np.zeros(len(columns), dtype=np.bool_)
        at = _beside(np.arange(len(columns)), columns)
        for _, mode, cells in self.forbidden:
            if mode != "deny":
                told |= _hit(np.broadcast_to(cells, self.allowed.shape)[at, columns])
        return told


class Shield:
    """Constraints bound to a schema."""

    def __init__(self, constraints: Sequence[Constraint], schema: Schema) -> None:
        names = [MASK]
        self._bound: list[tuple[str, Mode, Forbids]] = []
        tracked: set[int] = set()
        if constraints and not isinstance(schema.action, Discrete):
            msg = (
                f"0, {constraints[0].name!r}: is over a {schema.action.kind} action, and constraints know only actions "
                "that are one of a list: expected none"
            )
            raise GuardMisconfigured(msg)
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
        self.domain = domain_of(schema.action)
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
        allowed = np.empty((len(context), self.domain.width), dtype=np.bool_)
        np.logical_not(denied, out=allowed)
        return Ruling(allowed=allowed, forbidden=tuple(forbidden))

    def check(self, context: Context, actions: Actions) -> Booleans:
        """Whether each row's final action passes, worked out anew from the context and not from the mask."""
        passes = self.domain.holds(actions, context.mask)
        if self._bound and np.count_nonzero(passes) < len(passes):
            actions = np.where(passes, actions, 0)
        for _, mode, forbids in self._bound:
            if mode == "deny":
                passes &= np.logical_not(forbids(context, actions))
        return passes

    def __repr__(self) -> str:
        return f"<Shield {len(self._bound)} constraints, {len(self.tracked)} tracked actions>"


def _beside(rows: Integers, columns: Integers) -> Integers:
    """Rows shaped to be looked up together with their columns."""
    return rows if columns.ndim == 1 else rows[:, None]


def _hit(cells: Booleans) -> Booleans:
    """Whether a row's one cell, or any of its several, is true."""
    return cells if cells.ndim == 1 else some(cells)
