"""Tables by state: the values and rows of a dict, nested as it may be, as one list of states with a row each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from export.errors import CheckpointRefused, NeedsUnpickling
from export.inert import Inert
from export.inert_arrays import array_in, is_array, kind_of, number_of
from export.tables.choosing import entries_of, is_number
from export.tables.defaults import default_of
from export.tables.keys import Path, parts_of, said

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class ByState:
    """States ``[S]``, each of K whole numbers, with a row ``[S, A]``; NaN where a state has no value for an action.

    ``actions`` are their names, where the table has them by name; ``default`` is what a missing one has, where known.
    ``guessed`` says that nothing but their place tells the actions from the states: the last number of a key is one.
    """

    states: Sequence[tuple[int, ...]]
    rows: NDArray[np.float64]
    actions: tuple[str, ...] = ()
    default: NDArray[np.float64] | None = None
    guessed: bool = False


@dataclass(slots=True)
class _Leaves:
    """What a table by state holds at the end of its paths of keys: single values, or rows."""

    values: dict[Path, float] = field(default_factory=dict)
    rows: dict[Path, NDArray[np.generic]] = field(default_factory=dict)
    default: NDArray[np.float64] | None = None
    # Whether a value stood under one key of several numbers, and not under an action by itself.
    flat: bool = False


def by_state(value: object, place: str) -> ByState:
    """Read a dict from states to rows, to values by action, or from states with their action to values.

    Raises CheckpointRefused where states, rows or actions do not fit each other, NeedsUnpickling where it has objects.
    """
    leaves = _Leaves()
    _collect(value, (), leaves, place)
    if leaves.values and leaves.rows:
        msg = f"{place} has rows for some states and single values for others, expected one or the other"
        raise CheckpointRefused(msg)
    found = _of_rows(leaves, place) if leaves.rows else _of_values(leaves, place)
    for state in found.states:
        if len(state) != len(found.states[0]):
            few = f"{said(found.states[0])} and {said(state)}"
            msg = f"{place} has states of different lengths, {few}, expected as many numbers in each"
            raise CheckpointRefused(msg)
    return found


def listed(rows: Sequence[object], place: str) -> NDArray[np.generic]:
    """Make an array of nested lists of numbers and rows; raises CheckpointRefused for ragged ones."""
    parts: list[NDArray[np.generic]] = []
    for row in rows:
        if isinstance(row, (list, tuple)):
            parts.append(listed(row, place))
        else:
            parts.append(array_in(row, place) if is_array(row) else np.asarray(number_of(row, f"{place}: a value")))
    shapes = sorted({part.shape for part in parts})
    if len(shapes) > 1:
        few = " and ".join(str(list(shape)) if shape else "a number" for shape in shapes[:2])
        msg = f"{place} is ragged, it has {few} side by side, expected as many values in each row"
        raise CheckpointRefused(msg)
    return np.stack(parts) if parts else np.zeros(0)


def _collect(value: object, path: Path, leaves: _Leaves, place: str) -> None:
    """Gather what a dict holds at the end of each path of keys."""
    entries = entries_of(value)
    if entries is None:
        msg = f"{place} has {kind_of(value)} at {said(path)}, expected a row of values, or values by action"
        raise NeedsUnpickling(msg) if isinstance(value, Inert) else CheckpointRefused(msg)
    default = default_of(value)
    leaves.default = leaves.default if default is None else default
    for key, inner in entries.items():
        here = (*path, *parts_of(key, place))
        if here in leaves.values or here in leaves.rows:
            msg = f"{place} has the state {said(here)} twice, expected it once"
            raise CheckpointRefused(msg)
        if is_number(inner):
            nested = isinstance(key, tuple) and any(isinstance(one, tuple) for one in key)
            leaves.flat |= len(here) - len(path) > 1 and not nested
            leaves.values[here] = _finite(number_of(inner, f"{place}: {said(here)}"), here, place)
        elif isinstance(inner, (list, tuple)):
            leaves.rows[here] = listed(inner, f"{place}: {said(here)}")
        elif is_array(inner):
            leaves.rows[here] = array_in(inner, f"{place}: {said(here)}")
        else:
            _collect(inner, here, leaves, place)


def _of_rows(leaves: _Leaves, place: str) -> ByState:
    first, model = next(iter(leaves.rows.items()))
    for path, row in leaves.rows.items():
        if row.ndim != 1 or not len(row) or row.dtype.kind not in "iuf":
            kind = f"{row.dtype}{list(row.shape)}"
            msg = f"{place} has {kind} for the state {said(path)}, expected a row of numbers, one for each action"
            raise CheckpointRefused(msg)
        if len(row) != len(model):
            msg = (
                f"{place} is ragged: the state {said(first)} has {len(model)} actions and {said(path)} has {len(row)}, "
                f"expected a value for every action in every state"
            )
            raise CheckpointRefused(msg)
    states = [_whole(path, place) for path in leaves.rows]
    rows = np.array(list(leaves.rows.values()), dtype=np.float64)
    for path, most in zip(leaves.rows, np.abs(rows).max(axis=1).tolist(), strict=True):
        _finite(most, path, place)
    return ByState(states, rows, default=leaves.default)


def _of_values(leaves: _Leaves, place: str) -> ByState:
    """Sort single values by state and action: the last key is the action."""
    if not leaves.values or any(len(path) < 2 for path in leaves.values):
        msg = f"{place} has one number for a state, expected one for each of its actions: these are values of states"
        raise CheckpointRefused(msg)
    actions = list(dict.fromkeys(path[-1] for path in leaves.values))
    numbered = [action for action in actions if isinstance(action, int)]
    if numbered and sorted(numbered) != list(range(len(actions))):
        shown = ", ".join(str(action) for action in actions[:_SHOWN])
        msg = f"{place} has the actions {shown}, expected 0, 1, 2, ... without a gap, or all of them by name"
        raise CheckpointRefused(msg)
    ordered = sorted(numbered) or actions
    place_of = {action: at for at, action in enumerate(ordered)}
    rows: dict[Path, NDArray[np.float64]] = {}
    for path, number in leaves.values.items():
        rows.setdefault(path[:-1], np.full(len(ordered), np.nan))[place_of[path[-1]]] = number
    states = [_whole(path, place) for path in rows]
    names = () if numbered else tuple(str(action) for action in ordered)
    return ByState(states, np.array(list(rows.values())), names, leaves.default, guessed=bool(numbered and leaves.flat))


def _finite(number: float, path: Path, place: str) -> float:
    if not math.isfinite(number):
        msg = f"{place} has a value that is NaN or infinite for {said(path)}, expected finite numbers"
        raise CheckpointRefused(msg)
    return number


def _whole(path: Path, place: str) -> tuple[int, ...]:
    numbers = tuple(part for part in path if isinstance(part, int))
    if len(numbers) != len(path) or not path:
        msg = f"{place} has the state {said(path)}, expected states of whole numbers: number them, and save it by those"
        raise CheckpointRefused(msg)
    return numbers
