"""Boxes: what constraints leave of a Box, as regions that an action can be moved into, and how a batch is ruled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from export.spec import Box
from export.spec.nearest import DOZEN, one_of
from guards.constraint import Confine, Constraint, Forbids, Mode
from guards.domains import every, some
from guards.errors import GuardMisconfigured
from guards.expressions import numbers_of
from guards.projection import Region
from guards.records import Actions, Allowed, Booleans, Context, Floats, Integers, Schema

# A number, or an expression over fields and facts.
Amount = float | str
# The least and the most[N] that a number may be; NaN where that could not be worked out.
Limits = Callable[[Context], tuple[Floats, Floats]]
# Beyond this a declared range says nothing of what is near.
WIDEST = 1e6
# So near to a half-space's edge, as a share of what its numbers may add up to, is on it.
_EDGE = 1e-9


class Linear(Constraint):
    """Forbids what is beyond a half-space: the sum of each coefficient times its number is to be ``at_most``.

    What cannot be evaluated leaves nothing.
    """

    kind: Literal["linear"] = "linear"
    coefficients: Annotated[dict[str, Amount], Field(min_length=1)]
    at_most: Amount

    def bind(self, schema: Schema) -> Forbids:
        return outside(self.confine(schema))

    def confine(self, schema: Schema) -> Confine:
        numbers = {number_index(name, schema): name for name in self.coefficients}
        slopes = [numbers_of(f"coefficients.{name}", self.coefficients[name], schema) for name in numbers.values()]
        at_most, width = numbers_of("at_most", self.at_most, schema), schema.action.width

        def confine(context: Context) -> Region:
            sides = np.zeros((len(context), 1, width))
            sides[:, 0, list(numbers)] = np.stack([slope(context) for slope in slopes], axis=1)
            most = at_most(context)[:, None]
            known = every(np.isfinite(sides[:, 0])) & np.isfinite(most[:, 0])
            edge = np.where(known[:, None], np.inf, -np.inf).repeat(width, axis=1)
            return Region(-edge, edge, np.where(known[:, None, None], sides, 0.0), np.where(known[:, None], most, 0.0))

        return confine


def number_index(name: str | None, schema: Schema) -> int:
    """The index of a named number of a Box; raises GuardMisconfigured that names the known ones."""
    if not isinstance(schema.action, Box):
        msg = f"is for the numbers of a box action, and a {schema.action.kind} action has none"
        raise GuardMisconfigured(msg)
    names = [field.name for field in schema.action.fields]
    if name not in names:
        msg = f"the number {name!r} of the action is not known, expected {one_of(name, names, DOZEN)}"
        raise GuardMisconfigured(msg)
    return names.index(name)


def amount_of(name: str, written: Amount | None, schema: Schema, none: float) -> Callable[[Context], Floats]:
    """What a setting says for each row[N]; ``none`` where nothing is written."""
    return (lambda context: np.full(len(context), none)) if written is None else numbers_of(name, written, schema)


def limited(name: str | None, schema: Schema, limits: Limits) -> Confine:
    """The region in which one number is within its limits; empty where they could not be worked out."""
    index, width = number_index(name, schema), schema.action.width

    def confine(context: Context) -> Region:
        low, high = np.full((len(context), width), -np.inf), np.full((len(context), width), np.inf)
        least, most = limits(context)
        known = ~(np.isnan(least) | np.isnan(most))
        low[:, index], high[:, index] = np.where(known, least, np.inf), np.where(known, most, -np.inf)
        return Region.within(low, high)

    return confine


def outside(confine: Confine) -> Forbids:
    """Forbids what is not in a region, whose action is asked about one a row."""
    return lambda context, action: ~confine(context).holds(np.asarray(action))


@dataclass(frozen=True, slots=True)
class Asked:
    """The constraints that a batch's actions are asked about, one a row: there is no list of all to make a mask of."""

    context: Context
    bound: Sequence[tuple[str, Mode, Forbids]]

    def forbidding(self, rows: Integers, actions: Actions) -> list[tuple[str, Mode, Booleans]]:
        """For each constraint, which of some rows[M] it forbids their actions."""
        there = self.context.rows(rows)
        return [(name, mode, forbids(there, actions)) for name, mode, forbids in self.bound]

    def reported(self, actions: Actions) -> Booleans:
        """Rows[N] whose executed action a warning or auditing constraint forbids."""
        told = np.zeros(len(actions), dtype=np.bool_)
        for _, mode, forbids in self.bound:
            if mode != "deny":
                told |= forbids(self.context, actions)
        return told


@dataclass(frozen=True, slots=True)
class BoxRuling(Asked):
    """What a batch may do in a Box: the region that it is moved into, and the constraints that it is asked about.

    Beside what ``guards.shield.Ruling`` says: actions are their numbers[N, D], and stand in no mask; ``unlisted`` are
    the constraints that leave no region, and can only refuse.
    """

    region: Region
    scale: Floats
    unlisted: Asked | None = None

    @property
    def allowed(self) -> Booleans:
        """There is nothing to choose from: [N, 0]."""
        return np.empty((len(self.context), 0), dtype=np.bool_)

    @property
    def leaves(self) -> Allowed:
        """What is left to draw from: the bounds[N, 2, D] of each row, with no regard to half-spaces."""
        return np.stack([self.region.low, self.region.high], axis=1)

    def rows(self, index: Integers) -> "BoxRuling":
        """The ruling of some rows."""
        return BoxRuling(self.context.rows(index), self.bound, self.region.rows(index), self.scale)

    def nearest(self, proposed: Actions, drawn: Actions) -> Actions:  # noqa: ARG002 - a draw knows no half-spaces
        """The allowed action[N, D] that is nearest to each row's proposal; none where there is none."""
        return self.region.nearest(proposed, self.scale)

    def moved(self, proposed: Actions, action: Actions) -> tuple[Floats, Booleans]:
        """How far[N] each proposal was moved, in units of the ranges, and whether that was by more than a clip."""
        with np.errstate(all="ignore"):  # of what is no action it is NaN
            far = np.hypot.reduce((action - proposed) / self.scale, axis=1)
        clipped = every(action == np.clip(proposed, self.region.low, self.region.high))
        return np.minimum(far, np.finfo(np.float64).max), ~clipped

    def edges(self, numbers: Actions, box: Box) -> Booleans:
        """Rows[N] whose action lies on the edge of a half-space to which what is beyond it in the Box is moved.

        Nothing in the Box is beyond it there where it leans out of the Box at a bound that the action stands on.
        """
        slopes, most = self.region.slopes, self.region.most
        here = numbers[:, None, :]
        with np.errstate(all="ignore"):  # of what is no action it is NaN
            beyond = np.add.reduce(slopes * here, axis=2) - most
            near = _EDGE * (np.add.reduce(np.abs(slopes) * self.scale, axis=2) + np.abs(most))
            tight = (np.abs(beyond) <= near) & (slopes != 0).any(axis=2)
        out = ((slopes > 0) & (here == np.array(box.high))) | ((slopes < 0) & (here == np.array(box.low)))
        # Where several meet, they may move what one of them would not.
        return np.asarray(some(tight & ~out.any(axis=2)) | (np.count_nonzero(tight, axis=1) > 1))

    def permits(self, rows: Integers, numbers: Actions) -> Booleans:
        """Whether some rows[M] may do these actions[M, D]."""
        return self.region.rows(rows).holds(numbers)


def scale_of(space: Box) -> Floats:
    """What a distance of one is for each number[D]: its range; one where it has none, or none that says anything."""
    low, high = np.array(space.low), np.array(space.high)
    spread = high / 2 - low / 2
    return np.where((spread > 0) & (spread <= WIDEST / 2), 2 * np.minimum(spread, WIDEST), 1.0)
