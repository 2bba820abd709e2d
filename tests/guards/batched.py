"""Batched: the guards asked about N rows at once, for tests that compare many. It adds no meaning of its own.

Actions are rows of an array (``guards.records.Actions``); a row that holds no action says so by NO_ACTION, or by NaN
among numbers. A mask[N, W] has a column for every choice: every action, every choice of every factor, none for a Box.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.spec import ActionSpace, Box, Discrete, MultiDiscrete
from guards import shield
from guards.constraints.constraint import Constraint, Mode
from guards.projection import Region, scale_of
from guards.records import NO_ACTION, Action, Actions, Booleans, Floats, History, Row, Schema
from guards.shield import MASK

Integers = NDArray[np.int64]
# What constraints leave of N rows: truths[N, W], one for each choice; of a Box bounds[N, 2, D], or nothing[N, 0].
Allowed = NDArray[Any]
Forbids = Callable[[Row, Action], bool]


@dataclass(frozen=True, slots=True)
class Context:
    """A batch of N decisions as the guards see it.

    ``observation[N, ...]`` and ``facts[N, K]`` in the schema's order (a fact that was not given is NaN), ``mask[N, W]``
    from the requests or None, ``now[N]`` (s) and the N histories.
    """

    observation: Floats
    facts: Floats
    mask: Booleans | None
    now: Floats
    histories: Sequence[History]
    _rows: list[Row] = field(default_factory=list, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.histories)

    def rows(self, index: Integers) -> "Context":
        """The context of some of the rows."""
        return Context(
            observation=self.observation[index],
            facts=self.facts[index],
            mask=None if self.mask is None else self.mask[index],
            now=self.now[index],
            histories=[self.histories[i] for i in index],
        )

    @property
    def each(self) -> list[Row]:
        """Each row on its own; of an observation that is not one row of numbers nothing has a name."""
        if not self._rows:
            named = self.observation.ndim == 2
            # Numbers are doubles before anything is worked out of them.
            observation = self.observation.astype(np.float64).tolist() if named else [()] * len(self)
            masks: Sequence[int | None] = [None] * len(self)
            if self.mask is not None:
                packed = np.packbits(self.mask, axis=1, bitorder="little")
                masks = [int.from_bytes(one.tobytes(), "little") for one in packed]
            told = zip(
                observation,
                self.facts.tolist(),
                masks,
                self.now.tolist(),
                self.histories,
                self.observation,
                strict=True,
            )
            self._rows.extend(Row(*one) for one in told)
        return self._rows


class Domain:
    """All actions of a space; ``width`` is that of a request's mask, ``shape`` that of what constraints leave.

    Of whole actions (``joined``) what is left has a column for each, of a Discrete space for each action, of several
    factors for each of their choices, of a Box its bounds [N, 2, D], or [N, 0] of nothing.
    """

    def __init__(self, space: ActionSpace, *, joined: bool = False) -> None:
        self.space, self.joined = space, joined
        self.sizes = np.array(space.sizes, dtype=np.int64)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.width = int(self.sizes.sum())
        self.shape: tuple[int, ...] = tuple(self.sizes.tolist()) if joined else (self.width,)
        nothing = [NO_ACTION] * len(self.sizes) if len(self.sizes) else [np.nan] * space.width
        self.nothing: Actions = np.array(nothing[0] if isinstance(space, Discrete) else nothing)

    def columns(self, actions: Actions) -> Actions:
        """Where each row's choices stand in what is left: [N], or [N, K] of several; any where there is no action.

        The numbers of a Box stand for themselves.
        """
        if isinstance(self.space, Box):
            return actions
        if self.joined:
            return np.asarray(np.ravel_multi_index(np.clip(actions, 0, self.sizes - 1).T, self.shape))
        return np.asarray(np.maximum(actions, 0) if actions.ndim == 1 else self.starts + np.maximum(actions, 0))

    def at(self, columns: Actions) -> list[Action]:
        """The actions that stand at some columns[M]."""
        if self.joined:
            columns = np.stack(np.unravel_index(columns, self.shape), axis=1)
        elif columns.ndim > 1 and len(self.sizes):
            columns = columns - self.starts
        return _each(columns)

    def choosable(self, allowed: Allowed) -> Booleans:
        """Whether what is allowed leaves each row an action."""
        if isinstance(self.space, MultiDiscrete) and not self.joined:
            return _every(np.logical_or.reduceat(allowed, self.starts, axis=1))
        if allowed.ndim > 2:
            return _every(allowed[:, 0] <= allowed[:, 1])
        return _some(allowed) if self.width else np.ones(len(allowed), dtype=np.bool_)

    def told(self, actions: Actions) -> list[Action | None]:
        """Each row as a value on its own; None where there is no action."""
        return [None if np.isnan(one).any() or np.equal(one, self.nothing).all() else one for one in _each(actions)]


def _each(actions: Actions) -> list[Action]:
    """Actions of an array as values."""
    return [tuple(one) if isinstance(one, list) else one for one in actions.tolist()]


@dataclass(frozen=True, slots=True)
class Asked:
    """Constraints that actions are asked about, one a row, by their columns."""

    seen: Sequence[Row]
    bound: Sequence[tuple[str, Mode, Forbids]]
    domain: Domain

    def forbidding(self, rows: Integers, columns: Actions) -> list[tuple[str, Mode, Booleans]]:
        """For each constraint, which of some rows[M] it forbids their actions."""
        asked = list(zip([self.seen[i] for i in rows.tolist()], self.domain.at(columns), strict=True))
        return [(name, mode, np.array([no(*one) for one in asked], dtype=np.bool_)) for name, mode, no in self.bound]

    def reported(self, columns: Actions) -> Booleans:
        """Rows[N] whose executed action a warning or auditing constraint forbids."""
        telling = [no for _, mode, no in self.bound if mode != "deny"]
        asked = zip(self.seen, self.domain.at(columns), strict=True)
        return np.array([any(no(*one) for no in telling) for one in asked], dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Ruling(Asked):
    """What a batch may do: ``allowed[N, W]``, and the constraints to ask which of them forbids an action.

    W is the size of the domain's shape. Of several choices one that is forbidden is enough. ``unlisted`` are the
    constraints that no mask can be made of.
    """

    allowed: Booleans
    unlisted: Asked | None = None

    @property
    def leaves(self) -> Allowed:
        """What is left to draw from."""
        return self.allowed

    def nearest(self, proposed: Actions, drawn: Actions) -> Actions:  # noqa: ARG002 - what was drawn is allowed
        """What to do for each proposal: choices are not moved."""
        return drawn

    def permits(self, rows: Integers, columns: Integers) -> Booleans:
        """Whether some rows[M] may do the actions at these columns."""
        cells = self.allowed[rows if columns.ndim == 1 else rows[:, None], columns]
        return cells if cells.ndim == 1 else _every(cells)


@dataclass(frozen=True, slots=True)
class BoxRuling(Asked):
    """What a batch may do in a Box: the regions that rows are moved into, and the constraints that it is asked about.

    Beside what ``Ruling`` says: actions are their numbers[N, D], and stand in no mask; ``unlisted`` are the constraints
    that leave no region, and can only refuse.
    """

    regions: Sequence[Region]
    scale: Floats
    unlisted: Asked | None = None

    @property
    def allowed(self) -> Booleans:
        """There is nothing to choose from: [N, 0]."""
        return np.empty((len(self.seen), 0), dtype=np.bool_)

    @property
    def leaves(self) -> Allowed:
        """What is left to draw from: the bounds[N, 2, D] of each row, with no regard to half-spaces."""
        return np.array([[one.low, one.high] for one in self.regions])

    def nearest(self, proposed: Actions, drawn: Actions) -> Actions:  # noqa: ARG002 - a draw knows no half-spaces
        """The allowed action[N, D] that is nearest to each row's proposal; none where there is none."""
        both = zip(self.regions, proposed.tolist(), strict=True)
        found = [region.nearest(point, self.scale) for region, point in both]
        return np.array([self.domain.nothing if one is None else one for one in found])

    def permits(self, rows: Integers, numbers: Actions) -> Booleans:
        """Whether some rows[M] may do these actions[M, D]."""
        both = zip(rows.tolist(), numbers.tolist(), strict=True)
        return np.array([self.regions[i].holds(one) for i, one in both], dtype=np.bool_)


AnyRuling = Ruling | BoxRuling


class Shield:
    """A shield that is asked about batches: see ``guards.shield.Shield``."""

    def __init__(self, constraints: Sequence[Constraint], schema: Schema) -> None:
        self.one = one = shield.Shield(constraints, schema)
        self.joins, self.refuses, self.reports = one.joins, one.refuses, one.reports
        self.weighs, self.tracked = one.weighs, one.tracked
        self.domain = Domain(schema.action, joined=one.joins)
        self._box = schema.action if isinstance(schema.action, Box) else None
        self._bound = [(bound.name, bound.mode, self._forbids(i)) for i, bound in enumerate(one.bound)]
        self._unlisted = self._bound[len(one.masking) :]
        self.advanced, self.shifted = one.advanced, one.shifted

    def _forbids(self, place: int) -> Forbids:
        """Whether one of the constraints forbids an action."""
        return lambda row, action: place in self.one.against(row, action)

    def judge(self, context: Context) -> AnyRuling:
        """What the batch may do, all constraints and the requests' masks together."""
        seen, unlisted = context.each, None
        if self._unlisted:
            unlisted = Asked(seen, self._unlisted, self.domain)
        bound = self._bound
        if self._box is not None:
            return BoxRuling(
                seen, bound, self.domain, list(map(self.one.confines, seen)), scale_of(self._box), unlisted
            )
        width = prod(self.domain.shape)
        size = -(-width // 8)
        forbidden = b"".join([self.one.judge(row).to_bytes(size, "little") for row in seen])
        packed = np.frombuffer(forbidden, dtype=np.uint8).reshape(len(seen), size)
        allowed = np.unpackbits(packed, axis=1, count=width, bitorder="little") == 0
        masked: list[tuple[str, Mode, Forbids]] = [(MASK, "deny", self.one.masks)] if context.mask is not None else []
        return Ruling(seen, masked + bound, self.domain, allowed, unlisted)

    def check(self, context: Context, actions: Actions) -> Booleans:
        """Whether each row's final action passes, worked out anew from the context and not from the ruling."""
        told = zip(context.each, _each(actions), strict=True)
        return np.array([self.one.check(row, action) for row, action in told], dtype=np.bool_)

    def weights(self, context: Context, actions: Actions) -> list[list[float]]:
        """What each row's executed action counts for, for each constraint that keeps numbers."""
        told = zip(context.each, _each(actions), strict=True)
        return [self.one.weights(row, action) for row, action in told]

    def __repr__(self) -> str:
        return repr(self.one)


def _every(cells: Booleans) -> Booleans:
    """Whether all of each row's cells[N, ...] are true."""
    return np.asarray(np.logical_and.reduce(cells, axis=1))


def _some(cells: Booleans) -> Booleans:
    """Whether any of each row's cells[N, ...] is true."""
    return np.asarray(np.logical_or.reduce(cells, axis=1))
