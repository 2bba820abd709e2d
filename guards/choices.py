"""Choices: the actions that constraints ask about, one a column, and how they name what is chosen.

Of a Discrete space the columns are its actions. Of a MultiDiscrete space they are the choices of one factor, where the
schema says which; or all whole actions, in the order in which the last factor's choice changes fastest. What is named
is one choice of a factor: ``fan=on``. Whole actions that are too many for a list have no columns: they are asked about
one a row, each by the K choices that it is made of.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import fsum, prod

import numpy as np

from export.spec import MultiDiscrete
from export.spec.nearest import DOZEN, one_of
from guards.errors import GuardMisconfigured
from guards.records import UNKNOWN_ACTION, Action, Context, Floats, Integers, Schema
from guards.terms import Table, Values, looked_up

JOINT_LIMIT = 4096
# NumPy has no arrays of more axes.
_AXES = 32


@dataclass(frozen=True, slots=True)
class Choices:
    """``names`` of what can be chosen (None: not asked about), where each factor's stand, and what A actions are made
    of: ``parts[A, K]``, or None where they are too many for a list."""

    names: tuple[str | None, ...]
    factors: Mapping[str, range]
    parts: Integers | None
    strides: tuple[int, ...] = ()

    def index(self, name: str) -> int:
        """The index of a name; raises GuardMisconfigured that names the known ones."""
        if name not in self.names:
            msg = f"the action {name!r} is not known, expected {one_of(name, filter(None, self.names), DOZEN)}"
            raise GuardMisconfigured(msg)
        return self.names.index(name)

    def table(self, of: Callable[[Integers], Values]) -> Table:
        """What a function of the choices[..., K] that actions are made of says of each of them."""
        return of if self.parts is None else of(self.parts)

    def total(self, amounts: Mapping[str, float], then: Callable[[Floats], Floats] = np.asarray) -> Table:
        """The sum for each action of the amounts of what it is made of; nothing for what is not named."""
        each = np.zeros(len(self.names))
        for name, amount in amounts.items():
            each[self.index(name)] = amount
        return self.table(lambda parts: then(each[parts].sum(axis=-1)))

    def valued(self, amounts: Mapping[str, float]) -> Callable[[Action], float]:
        """The same sum, of one action at a time."""
        total = self.total(amounts)
        each = total.tolist() if isinstance(total, np.ndarray) else None
        return lambda action: each[self.column(action)] if each else float(looked_up(total, self.column(action)))

    def span(self, amounts: Mapping[str, float]) -> tuple[float, float]:
        """The least and the greatest of such sums."""
        each = [[amounts.get(self.names[i] or "", 0.0) for i in part] for part in self.factors.values()]
        return fsum(map(min, each)), fsum(map(max, each))

    def chosen(self, factor: str) -> Table:
        """Which choice of a factor each action is made of."""
        place, start = list(self.factors).index(factor), self.factors[factor].start
        return self.table(lambda parts: (parts[..., place] - start).astype(np.float64))

    def column(self, action: Action) -> int | list[int]:
        """Where an action stands, or what it is made of where it has no column; NO_ACTION is nowhere."""
        if isinstance(action, int):
            return action if self.parts is not None else [action] * len(self.factors)
        if self.parts is None:
            return [int(c) + part.start for c, part in zip(action, self.factors.values(), strict=True)]
        return sum(int(c) * s for c, s in zip(action, self.strides, strict=True))

    def previous(self, context: Context) -> tuple[Integers, Integers]:
        """Where the last executed action of each row[N] stands, NO_ACTION or UNKNOWN_ACTION; and the other one."""
        here = [h.action if h.known or h.step else UNKNOWN_ACTION for h in context.histories]
        first = np.array([self.column(action) for action in here])
        if not any(h.other is not None for h in context.histories):
            return first, first
        both = zip(here, context.histories, strict=True)
        return first, np.array([self.column(a if h.other is None else h.other) for a, h in both])


def listed(space: MultiDiscrete) -> bool:
    """Whether there are few enough whole actions for a list of all."""
    return prod(space.sizes) <= JOINT_LIMIT and len(space.sizes) <= _AXES


def choices_of(schema: Schema, *, whole: bool = False) -> Choices:
    """The choices of a schema; raises GuardMisconfigured where there are none, or only parts of ``whole`` ones."""
    space, names = schema.action, schema.choices
    if not names or (whole and schema.factor is not None):
        msg = f"is for actions to choose from, and a {space.kind} action has none"
        raise GuardMisconfigured(msg)
    if not isinstance(space, MultiDiscrete):
        return Choices(names, {"action": range(len(names))}, np.arange(len(names))[:, None])
    asked = range(len(space.sizes)) if schema.factor is None else (schema.factor,)
    stands = [range(end - n, end) for end, n in zip(np.cumsum(space.sizes).tolist(), space.sizes, strict=True)]
    factors = {space.factors[i].name: stands[i] for i in asked}
    if schema.factor is None and not listed(space):
        return Choices(names, factors, None)
    own = tuple(name if any(i in part for part in factors.values()) else None for i, name in enumerate(names))
    strides = tuple(prod(space.sizes[j] for j in asked if j > i) if i in asked else 0 for i in range(len(stands)))
    parts = np.array(np.meshgrid(*factors.values(), indexing="ij")).reshape(len(factors), -1).T
    return Choices(own, factors, parts, strides)
