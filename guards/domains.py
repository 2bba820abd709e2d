"""Domains: what an action is in each kind of space, for a whole batch: checked, found in a mask, read and told.

Actions are rows of an array (``guards.records.Actions``); a row that holds no action says so by NO_ACTION, or by NaN
among numbers. A mask[N, W] has a column for every choice: every action, every choice of every factor, none for a Box.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from export.spec import ActionSpace, Box, Discrete, MultiDiscrete
from export.spec.nearest import DOZEN, one_of
from guards.errors import GuardMisconfigured
from guards.records import NO_ACTION, Action, Actions, Allowed, Booleans, Integers

# An action as people write it: its name; a name or an index for each factor; the numbers of a Box.
Written = str | tuple[str | int | float, ...]


class Domain(Protocol):
    """All actions of a space; ``width`` is that of a request's mask, ``shape`` that of what constraints leave."""

    width: int
    shape: tuple[int, ...]
    nothing: Actions

    def read(self, written: Written) -> Actions:
        """The one action that somebody wrote; raises GuardMisconfigured."""

    def holds(self, actions: Actions, mask: Booleans | None) -> Booleans:
        """Whether each row[N] is an action of the space that the requests' masks[N, W] leave."""

    def columns(self, actions: Actions) -> Integers:
        """Where each row's choices stand in a mask: [N], or [N, K] of several; any where there is no action.

        The numbers of a Box stand for themselves.
        """

    def chosen(self, action: Action) -> Sequence[int]:
        """Which of a mask's columns one action stands in."""

    def choosable(self, allowed: Allowed) -> Booleans:
        """Whether what is allowed leaves each row an action."""

    def differ(self, a: Actions, b: Actions) -> Booleans:
        """Whether two actions a row are not the same."""
        return some(a != b)

    def there(self, actions: Actions) -> Booleans:
        """Whether each row holds an action."""

    def told(self, actions: Actions) -> list[Action | None]:
        """Each row as a value on its own; None where there is no action."""


class DiscreteDomain:
    """Indices[N] of named actions."""

    def __init__(self, space: Discrete) -> None:
        self.width: int = space.n
        self.shape: tuple[int, ...] = (space.n,)
        self.nothing: Actions = np.array(NO_ACTION)
        self._names = space.names

    def read(self, written: Written) -> Actions:
        if not isinstance(written, str):
            msg = f"the action {list(written)} is a list, expected {one_of(None, self._names)}"
            raise GuardMisconfigured(msg)
        return np.array(_index(written, self._names, "action"))

    def holds(self, actions: Actions, mask: Booleans | None) -> Booleans:
        # Read as unsigned, a negative index is beyond every action too.
        passes: Booleans = actions.view(np.uint64) < self.width
        if mask is not None:
            passes &= mask[np.arange(len(actions)), np.where(passes, actions, 0)]
        return passes

    def columns(self, actions: Actions) -> Integers:
        return np.maximum(actions, 0)

    def chosen(self, action: Action) -> Sequence[int]:
        return (action,) if isinstance(action, int) else ()

    def choosable(self, allowed: Allowed) -> Booleans:
        return some(allowed)

    def differ(self, a: Actions, b: Actions) -> Booleans:
        return np.asarray(a != b)

    def there(self, actions: Actions) -> Booleans:
        return np.asarray(actions != NO_ACTION)

    def told(self, actions: Actions) -> list[Action | None]:
        told: list[Action | None] = actions.tolist()
        return [None if one == NO_ACTION else one for one in told] if NO_ACTION in told else told


class MultiDiscreteDomain(Domain):
    """Indices[N, K], one for each of the factors, whose choices stand one after another in a mask."""

    def __init__(self, space: MultiDiscrete) -> None:
        self.width: int = space.width
        self.shape: tuple[int, ...] = (space.width,)
        self.sizes = np.array(space.sizes)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.nothing: Actions = np.full(len(self.sizes), NO_ACTION)
        self._factors = space.factors

    def read(self, written: Written) -> Actions:
        names = [factor.name for factor in self._factors]
        if isinstance(written, str) or len(written) != len(names):
            msg = f"the action {_shown(written)} is not known, expected a list of a choice for each of {names}"
            raise GuardMisconfigured(msg)
        chosen = zip(written, self._factors, strict=True)
        return np.array([_index(one, factor.names, f"choice of {factor.name!r}") for one, factor in chosen])

    def holds(self, actions: Actions, mask: Booleans | None) -> Booleans:
        within: Booleans = actions.view(np.uint64) < self.sizes.view(np.uint64)
        passes = every(within)
        if mask is not None:
            passes &= every(mask[np.arange(len(actions))[:, None], self.starts + np.where(within, actions, 0)])
        return passes

    def columns(self, actions: Actions) -> Integers:
        return np.asarray(self.starts + np.maximum(actions, 0))

    def chosen(self, action: Action) -> Sequence[int]:
        parts: list[int] = (self.starts + np.array(action)).tolist()
        return parts

    def choosable(self, allowed: Allowed) -> Booleans:
        return every(np.logical_or.reduceat(allowed, self.starts, axis=1))

    def there(self, actions: Actions) -> Booleans:
        return every(actions != NO_ACTION)

    def told(self, actions: Actions) -> list[Action | None]:
        return [None if NO_ACTION in one else tuple(one) for one in actions.tolist()]


class JointDomain(MultiDiscreteDomain):
    """The same actions where constraints join the factors: what is allowed has a column for every whole action.

    ``width`` is still that of a request's mask, which leaves the factors' choices one by one.
    """

    def __init__(self, space: MultiDiscrete) -> None:
        super().__init__(space)
        self.strides = np.cumprod((1, *space.sizes[:0:-1]))[::-1]
        self.shape = space.sizes

    def columns(self, actions: Actions) -> Integers:
        return np.asarray(np.clip(actions, 0, self.sizes - 1) @ self.strides)

    def choosable(self, allowed: Allowed) -> Booleans:
        return some(allowed)

    def spread(self, mask: Booleans) -> Booleans:
        """Masks[N, W] of the factors' choices as [N, J] of whole actions."""
        whole = mask[:, : self.sizes[0]]
        for start, size in zip(self.starts[1:], self.sizes[1:], strict=True):
            whole = (whole[:, :, None] & mask[:, None, start : start + size]).reshape(len(mask), -1)
        return whole


class BoxDomain(Domain):
    """Numbers[N, D], each finite and within its bounds; there is nothing to choose from, so masks have no columns."""

    def __init__(self, space: Box) -> None:
        self.width: int = 0
        self.shape: tuple[int, ...] = (0,)
        self.low, self.high = np.array(space.low), np.array(space.high)
        self.nothing: Actions = np.full(space.width, np.nan)
        self._names = [field.name for field in space.fields]

    def read(self, written: Written) -> Actions:
        numbers = [one for one in written if isinstance(one, int | float)]
        if isinstance(written, str) or not len(numbers) == len(written) == len(self._names):
            msg = f"the action {_shown(written)} is not known, expected a list of a number for each of {self._names}"
            raise GuardMisconfigured(msg)
        action = np.array(numbers, dtype=np.float64)
        if not self.holds(action[None, :], None)[0]:
            bounds = list(zip(self.low.tolist(), self.high.tolist(), strict=True))
            msg = f"the action {numbers} is out of bounds, expected numbers within {bounds}"
            raise GuardMisconfigured(msg)
        return action

    def holds(self, actions: Actions, mask: Booleans | None) -> Booleans:  # noqa: ARG002 - no request has one
        return every(np.isfinite(actions) & (actions >= self.low) & (actions <= self.high))

    def columns(self, actions: Actions) -> Actions:
        return actions

    def chosen(self, action: Action) -> Sequence[int]:  # noqa: ARG002 - there is nothing to choose from
        return ()

    def choosable(self, allowed: Allowed) -> Booleans:
        return every(allowed[:, 0] <= allowed[:, 1]) if allowed.ndim > 2 else np.ones(len(allowed), dtype=np.bool_)

    def there(self, actions: Actions) -> Booleans:
        return every(np.isfinite(actions))

    def told(self, actions: Actions) -> list[Action | None]:
        there = self.there(actions).tolist()
        return [tuple(one) if here else None for one, here in zip(actions.tolist(), there, strict=True)]


def domain_of(space: ActionSpace, *, joined: bool = False) -> Domain:
    """The domain of an action space; ``joined`` where constraints join the factors."""
    if isinstance(space, Discrete):
        return DiscreteDomain(space)
    if isinstance(space, MultiDiscrete):
        return JointDomain(space) if joined else MultiDiscreteDomain(space)
    return BoxDomain(space)


def every(cells: Booleans) -> Booleans:
    """Whether all of each row's cells[N, ...] are true."""
    return np.asarray(np.logical_and.reduce(cells, axis=1))


def some(cells: Booleans) -> Booleans:
    """Whether any of each row's cells[N, ...] is true."""
    return np.asarray(np.logical_or.reduce(cells, axis=1))


def _index(written: str | float, names: Sequence[str], what: str) -> int:
    """The index of a name, or an index that exists."""
    if isinstance(written, str) and written in names:
        return names.index(written)
    if isinstance(written, int) and not isinstance(written, bool) and 0 <= written < len(names):
        return written
    msg = f"the {what} {written!r} is not known, expected {one_of(written, names, DOZEN)}"
    raise GuardMisconfigured(msg)


def _shown(written: Written) -> str:
    return repr(written) if isinstance(written, str) else repr(list(written))
