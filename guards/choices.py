"""Choices: the actions that constraints ask about, one a column, and how they name what is chosen.

Of a Discrete space the columns are its actions. Of a MultiDiscrete space they are all whole actions, in the order in
which the last factor's choice changes fastest, and what is named is one choice of a factor: ``fan=on``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from export.spec import MultiDiscrete
from guards.errors import GuardMisconfigured
from guards.records import UNKNOWN_ACTION, Action, Booleans, Context, Floats, Integers, Schema

JOINT_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Choices:
    """``names`` of what can be chosen, and for each of A actions the K of them that it is made of: ``parts[A, K]``."""

    names: tuple[str, ...]
    parts: Integers
    strides: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.parts)

    def index(self, name: str) -> int:
        """The index of a name; raises GuardMisconfigured that names the known ones."""
        if name not in self.names:
            msg = f"the action {name!r} is not known, expected one of {', '.join(self.names)}"
            raise GuardMisconfigured(msg)
        return self.names.index(name)

    def having(self, indices: Iterable[int]) -> Booleans:
        """Whether each action[A] is made of any of these."""
        return np.asarray(np.isin(self.parts, list(indices)).any(axis=1))

    def total(self, amounts: Mapping[str, float]) -> Floats:
        """The sum for each action[A] of the amounts of what it is made of; nothing for what is not named."""
        table = np.zeros(len(self.names))
        for name, amount in amounts.items():
            table[self.index(name)] = amount
        total: Floats = table[self.parts].sum(axis=1)
        return total

    def column(self, action: Action) -> int:
        """Where an action stands; NO_ACTION is nowhere."""
        return action if isinstance(action, int) else sum(int(c) * s for c, s in zip(action, self.strides, strict=True))

    def previous(self, context: Context) -> Integers:
        """Where the last executed action of each row[N] stands, NO_ACTION or UNKNOWN_ACTION."""
        known = [self.column(h.action) if h.known or h.step else UNKNOWN_ACTION for h in context.histories]
        return np.array(known, dtype=np.int64)


def choices_of(schema: Schema) -> Choices:
    """The choices of a schema; raises GuardMisconfigured where there is no list of them, or one that is too long."""
    space, names = schema.action, schema.choices
    if not isinstance(space, MultiDiscrete):
        if not names:
            msg = f"is for actions to choose from, and a {space.kind} action has none"
            raise GuardMisconfigured(msg)
        return Choices(names, np.arange(len(names))[:, None])
    sizes = space.sizes
    if prod(sizes) > JOINT_LIMIT:
        msg = (
            f"there are {' x '.join(map(str, sizes))} = {prod(sizes)} whole actions, expected at most {JOINT_LIMIT}: "
            "a constraint over several factors is asked about each of them"
        )
        raise GuardMisconfigured(msg)
    indices = np.indices(sizes).reshape(len(sizes), -1).T
    starts = np.cumsum((0, *sizes[:-1]))
    strides = tuple(prod(sizes[i + 1 :]) for i in range(len(sizes)))
    return Choices(names, indices + starts, strides)
