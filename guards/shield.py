"""The shield: all constraints together, first as a mask over what may be chosen, then as a check of what was."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from math import prod
from typing import Any, Literal

import numpy as np

from export.spec import Box, MultiDiscrete
from guards.boxes import Asked, BoxRuling, scale_of
from guards.choices import listed
from guards.constraint import Confine, Constraint, Forbids, Keeper, Mode
from guards.domains import Domain, JointDomain, MultiDiscreteDomain, domain_of, every, some
from guards.errors import GuardMisconfigured, setting
from guards.projection import Region
from guards.records import Action, Actions, Allowed, Booleans, Context, History, Integers, Schema

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

    W is the size of the domain's shape. Actions are asked about by their columns in them: [N], or [N, K] of several
    choices, of which one that is forbidden is enough. ``unlisted`` says what the constraints forbid that no mask can be
    made of.
    """

    allowed: Booleans
    forbidden: tuple[tuple[str, Mode, Booleans], ...]
    unlisted: Asked | None = None

    @property
    def leaves(self) -> Allowed:
        """What is left to draw from."""
        return self.allowed

    def rows(self, index: Integers) -> "Ruling":
        """What some of the rows may do: which constraint it is that forbids the rest is not asked of them."""
        return Ruling(self.allowed[index], ())

    def nearest(self, proposed: Actions, drawn: Actions) -> Actions:  # noqa: ARG002 - what was drawn is allowed
        """What to do for each proposal: choices are not moved."""
        return drawn

    def permits(self, rows: Integers, columns: Integers) -> Booleans:
        """Whether some rows[M] may do the actions at these columns."""
        cells = self.allowed[_beside(rows, columns), columns]
        return cells if cells.ndim == 1 else every(cells)

    def forbidding(self, rows: Integers, columns: Integers) -> list[tuple[str, Mode, Booleans]]:
        """For each constraint, which of some rows[M] it forbids their actions."""
        shape, at = self.allowed.shape, _beside(rows, columns)
        masked = [(name, mode, _hit(_like(cells, shape)[at, columns])) for name, mode, cells in self.forbidden]
        return masked if self.unlisted is None else masked + self.unlisted.forbidding(rows, columns)

    def reported(self, columns: Integers) -> Booleans:
        """Rows[N] whose executed action a warning or auditing constraint forbids."""
        told = np.zeros(len(columns), dtype=np.bool_) if self.unlisted is None else self.unlisted.reported(columns)
        at = _beside(np.arange(len(columns)), columns)
        for _, mode, cells in self.forbidden:
            if mode != "deny":
                told |= _hit(_like(cells, self.allowed.shape)[at, columns])
        return told


AnyRuling = Ruling | BoxRuling


class Shield:
    """Constraints bound to a schema.

    Of several factors, a constraint about one masks its choices. Where any joins factors, all are asked about every
    whole action (``joins``); or, where those are too many for a list, it is asked about what was drawn (``refuses``).
    So is a constraint over a Box that leaves no region.
    """

    def __init__(self, constraints: Sequence[Constraint], schema: Schema) -> None:
        names = [MASK]
        self._masks: list[tuple[str, Mode, Forbids]] = []
        self._unlisted: list[tuple[str, Mode, Forbids]] = []
        self._keepers: dict[str, Keeper] = {}
        self._confines: list[Confine] = []
        self._box = schema.action if isinstance(schema.action, Box) else None
        tracked: set[int] = set()
        for i, constraint in enumerate(constraints):
            if constraint.name in names:
                msg = f"{i}.name: {constraint.name!r} is taken, expected a name of its own for each constraint"
                raise GuardMisconfigured(msg)
            names.append(constraint.name)
            with setting(f"{i}, {constraint.name!r}"):
                constraint.bind(schema)  # what is wrong with it is wrong whatever it is asked about
                tracked |= constraint.tracks(schema)
        self.tracked = frozenset(tracked)
        # A doubt is about the policy's answer, and bound with its artefact.
        guards = [one for one in constraints if one.judges == "actions"]
        space, factors = schema.action, [_factor_of(one, schema) for one in guards]
        self.joins = isinstance(space, MultiDiscrete) and None in factors and listed(space)
        self.domain = domain_of(space, joined=self.joins)
        for constraint, factor in zip(guards, factors, strict=True):
            self._bind(constraint, schema, None if self.joins else factor)
        self._bound = self._masks + self._unlisted
        self.weighs = any(keeper.weigh for keeper in self._keepers.values())
        self.refuses = any(mode == "deny" for _, mode, _ in self._unlisted)
        # Whether any only warns or audits.
        self.reports = any(mode != "deny" for _, mode, _ in self._bound)

    def _bind(self, constraint: Constraint, schema: Schema, factor: int | None) -> None:
        """Bind a constraint that is about the choices of a factor, or where there is none about whole actions."""
        schema, among = replace(schema, factor=factor), partial(_among, self.domain, factor)
        confine = constraint.confine(schema) if self._box and constraint.mode == "deny" else None
        if confine is not None:
            self._confines.append(confine)
        asked = confine is None if self._box else factor is None and type(self.domain) is MultiDiscreteDomain
        bound = self._unlisted if asked else self._masks
        bound.append((constraint.name, constraint.mode, among(constraint.bind(schema))))
        excused, keeper = constraint.excuses(schema), constraint.keeper(schema)
        if excused is not None:
            bound.append((constraint.name, "warn" if constraint.mode == "deny" else constraint.mode, among(excused)))
        if keeper is not None:
            weigh = None if keeper.weigh is None else among(keeper.weigh)
            self._keepers[constraint.name] = replace(keeper, weigh=weigh)

    def judge(self, context: Context) -> AnyRuling:
        """What the batch may do, all constraints and the requests' masks together."""
        if self._box is not None:
            return self._confined(self._box, context)
        forbidden: list[tuple[str, Mode, Booleans]] = []
        denied = _NONE
        if context.mask is not None:
            mask = self.domain.spread(context.mask) if isinstance(self.domain, JointDomain) else context.mask
            denied = ~mask
            forbidden.append((MASK, "deny", denied))
        for name, mode, forbids in self._masks:
            cells = forbids(context, None)
            forbidden.append((name, mode, cells))
            if mode == "deny":
                denied = denied | cells
        allowed = np.empty((len(context), prod(self.domain.shape)), dtype=np.bool_)
        np.logical_not(denied, out=allowed)
        return Ruling(allowed, tuple(forbidden), self._asked(context))

    def _confined(self, box: Box, context: Context) -> BoxRuling:
        """What the batch may do in a Box."""
        low, high = (np.tile(np.array(bounds), (len(context), 1)) for bounds in (box.low, box.high))
        region = Region.within(low, high)
        for confine in self._confines:
            region = region.meet(confine(context))
        return BoxRuling(context, self._bound, region, scale_of(box), self._asked(context))

    def _asked(self, context: Context) -> Asked | None:
        """The constraints that are only asked about what was drawn."""
        return Asked(context, self._unlisted) if self._unlisted else None

    def check(self, context: Context, actions: Actions) -> Booleans:
        """Whether each row's final action passes, worked out anew from the context and not from the mask."""
        passes = self.domain.holds(actions, context.mask)
        if self._bound and np.count_nonzero(passes) < len(passes):
            actions = np.where(passes.reshape(-1, *[1] * (actions.ndim - 1)), actions, 0)
        if not self._bound:
            return passes
        choice, denied = self.domain.columns(actions), np.zeros(len(context), dtype=np.bool_)
        for _, mode, forbids in self._bound:
            if mode == "deny":
                denied |= forbids(context, choice)
        return passes & ~denied

    def weights(self, context: Context, actions: Actions) -> list[list[float]]:
        """What each row's executed action counts for, for each constraint that keeps numbers."""
        choice, nothing = self.domain.columns(actions), [0.0] * len(context)
        keepers = self._keepers.values()
        weights = [nothing if one.weigh is None else one.weigh(context, choice).tolist() for one in keepers]
        return list(map(list, zip(*weights, strict=True)))

    def advanced(self, history: History, action: Action, at: float, weights: Sequence[float] | None = None) -> History:
        """The history after an action was executed at ``at`` (s); ``weights`` are the row's own, where it weighs."""
        choices = self.domain.chosen(action) if self.tracked else ()
        if not self._keepers:
            return history.advanced(action, at, self.tracked, choices)
        kept, both = {}, zip(self._keepers.items(), weights or [0.0] * len(self._keepers), strict=True)
        for (name, keeper), weight in both:
            if numbers := keeper.after(history, action, at, weight):
                kept[name] = numbers
        return history.advanced(action, at, self.tracked, choices, kept)

    def shifted(self, history: History, by: float) -> History:
        """The history by a clock that is ``by`` (s) ahead; of what is kept, only what is kept for a constraint here."""
        both = ((name, keeper, history.kept.get(name)) for name, keeper in self._keepers.items())
        return history.shifted(by, {name: keeper.shifted(kept, by) for name, keeper, kept in both if kept})

    def __repr__(self) -> str:
        return f"<Shield {len(self._bound)} constraints, {len(self.tracked)} tracked actions>"


def _factor_of(constraint: Constraint, schema: Schema) -> int | None:
    """The first factor whose choices are all that a constraint has to be asked about; None where it joins several."""
    for i in range(len(schema.action.factors)) if isinstance(schema.action, MultiDiscrete) else ():
        with suppress(GuardMisconfigured):
            constraint.bind(replace(schema, factor=i))
            return i
    return None


def _among(domain: Domain, factor: int | None, ask: Callable[..., Any]) -> Callable[..., Any]:
    """What is asked about the choices of one factor, asked about those of all."""
    if factor is None or not isinstance(domain, MultiDiscreteDomain):
        return ask
    start, end = domain.starts[factor], domain.starts[factor] + domain.sizes[factor]

    def asked(context: Context, choice: Integers | None) -> Any:
        if choice is not None:
            return ask(context, choice[:, factor] - start)
        cells = np.zeros((len(context), domain.width), dtype=np.bool_)
        cells[:, start:end] = ask(context, None)
        return cells

    return asked


def _like(cells: Booleans, shape: tuple[int, ...]) -> Booleans:
    """Cells in a shape; most have it, and asking costs more than knowing."""
    return cells if cells.shape == shape else np.broadcast_to(cells, shape)


def _beside(rows: Integers, columns: Integers) -> Integers:
    """Rows shaped to be looked up together with their columns."""
    return rows if columns.ndim == 1 else rows[:, None]


def _hit(cells: Booleans) -> Booleans:
    """Whether a row's one cell, or any of its several, is true."""
    return cells if cells.ndim == 1 else some(cells)
