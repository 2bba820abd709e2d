"""The witness: what the real shield, in doubles, leaves in a situation that the solver says it closes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from export.spec import Box, Discrete, MultiDiscrete
from guards.constraints import Constraint
from guards.projection import scale_of
from guards.proof.scenario import Scenario
from guards.proof.verdict import Closed, Counterexample
from guards.records import Action, Actions, Booleans, Floats, Row, Schema
from guards.shield import Shield

# So many whole actions are all tried; of more, and of the points of a Box, so many.
_ALL, _SOME = 65_536, 1024
_CORNERS, _FEW, _FAR = 8, 16, 1e6
_SEED = 1
# So many factors of a whole action are shown.
_WORDS = 8


@dataclass(frozen=True, slots=True)
class Tried:
    """Some actions, of which each constraint that denies says whether it denies them; ``which`` says what they are."""

    actions: Actions
    passes: Booleans
    denied: tuple[tuple[str, Booleans], ...]
    which: str = ""


class Witness:
    """The shield over a schema."""

    def __init__(self, schema: Schema, constraints: Sequence[Constraint]) -> None:
        self.schema, self.shield = schema, Shield(constraints, schema)
        self._denying = {i: one.name for i, one in enumerate(self.shield.bound) if one.mode == "deny"}

    def closing(self, situation: Scenario) -> Counterexample | None:
        """What is closed in a situation by which constraints, if the shield leaves nothing there."""
        tried = self.tried(situation)
        if tried.passes.any():
            return None
        return Counterexample(situation, tuple(self._told(tried)), tried.which)

    def tried(self, situation: Scenario) -> Tried:
        """All actions, or those that there is time for."""
        space, row = self.schema.action, situation.row(self.schema)
        if isinstance(space, Box):
            return self._points(space, row)
        sizes = space.sizes
        if prod(sizes) <= _ALL:
            whole = np.indices(sizes).reshape(len(sizes), -1).T
            return self._asked(row, whole[:, 0] if isinstance(space, Discrete) else whole)
        some = np.random.default_rng(_SEED).integers(0, sizes, (_SOME, len(sizes)))
        before = row.history.action
        if isinstance(before, tuple):
            some[0] = before
        which = f"{_SOME} of the {prod(sizes)} whole actions were tried with the shield, and none passed"
        return self._asked(row, some, which)

    def passes(self, situation: Scenario, action: Action) -> bool:
        """Whether the shield lets one action pass."""
        return self.shield.check(situation.row(self.schema), action)

    def against(self, situation: Scenario, action: Action) -> tuple[str, ...]:
        """The constraints that deny one action."""
        found = self.shield.against(situation.row(self.schema), action)
        return tuple(self._denying[i] for i in found if i in self._denying)

    def _asked(self, row: Row, actions: Actions, which: str = "") -> Tried:
        asked = [tuple(one) if isinstance(one, list) else one for one in actions.tolist()]
        against = [set(self.shield.against(row, one)) for one in asked]
        denied = [(name, np.array([i in found for found in against])) for i, name in self._denying.items()]
        return Tried(actions, np.array([self.shield.check(row, one) for one in asked]), tuple(denied), which)

    def _points(self, box: Box, row: Row) -> Tried:
        """Where proposals all over the Box are moved to."""
        left, scale, proposed = self.shield.confines(row), scale_of(box), _proposals(box, row)

        def moved_to(points: Floats) -> Floats:
            found = [left.nearest(point, scale) for point in points.tolist()]
            return np.array([one for one in found if one is not None]).reshape(-1, len(scale))

        # What has no nearest point to some has none to any: to find that out takes its time.
        moved = moved_to(proposed) if len(moved_to(proposed[:_FEW])) else proposed[:0]
        which = f"{len(proposed) + len(moved)} points were tried with the shield, and none passed"
        none = "the shield finds no point that an action could be moved to"
        return self._asked(row, np.concatenate([proposed, moved]), which if len(moved) else none)

    def _told(self, tried: Tried) -> Iterator[Closed]:
        """What is closed by which constraints: of a list each action, else few lines that take many together."""
        space = self.schema.action
        if isinstance(space, Discrete):
            for i, name in enumerate(space.names):
                yield Closed(name, tuple(by for by, cells in tried.denied if cells[i]))
        elif isinstance(space, MultiDiscrete):
            for by, cells in _cover(tried):
                yield Closed("every whole action" if cells.all() else _together(space, tried.actions[cells]), (by,))
        else:
            yield Closed("every action", tuple(by for by, cells in tried.denied if cells.any()))


def _cover(tried: Tried) -> Iterator[tuple[str, Booleans]]:
    """Few constraints that deny all, and which of what is left each of them denies."""
    left = np.ones(len(tried.actions), dtype=np.bool_)
    for _ in tried.denied:
        by, cells = max(tried.denied, key=lambda one: np.count_nonzero(one[1] & left))
        if np.any(cells & left):
            yield by, cells & left
        left = left & ~cells


def _together(space: MultiDiscrete, actions: Actions) -> str:
    """Whole actions in words: the choices that they are made of, if they are all that can be made of those."""
    used = [np.unique(column).tolist() for column in actions.T]
    if prod(map(len, used)) != len(actions):
        return f"{len(actions)} whole actions, as {_words(space, actions[0][:, None].tolist())}"
    return _words(space, used)


def _words(space: MultiDiscrete, used: Sequence[Sequence[int]]) -> str:
    """The choices of each factor, where they are not all."""
    both = zip(space.factors, used, strict=True)
    some = [(factor, choices) for factor, choices in both if len(choices) < len(factor.names)]
    words = [f"{factor.name}={'|'.join(factor.names[i] for i in choices)}" for factor, choices in some]
    more = [f"and {len(words) - _WORDS} more factors"] if len(words) > _WORDS else []
    return ", ".join([*words[:_WORDS], *more])


def _proposals(box: Box, row: Row) -> Floats:
    """Points all over a Box: its corners, the last action, what is near zero, and any."""
    low, high = np.array(box.low), np.array(box.high)
    # Where there is no bound, far out.
    low, high = (
        np.where(np.isfinite(low), low, np.minimum(high, 0.0) - _FAR),
        np.where(np.isfinite(high), high, np.maximum(low, 0.0) + _FAR),
    )
    sides = np.array(list(product((0.0, 1.0), repeat=min(len(low), _CORNERS))))
    corners = np.resize(sides, (len(sides), len(low))) if len(low) > _CORNERS else sides
    shares = np.concatenate([corners, np.random.default_rng(_SEED).random((_SOME - len(corners), len(low)))])
    before = row.history.action
    known = [np.clip(np.zeros(len(low)), low, high), *([before] if isinstance(before, tuple) else [])]
    return np.concatenate([known, low * (1 - shares) + high * shares])
