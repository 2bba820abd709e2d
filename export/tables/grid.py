"""A Q-table laid out: one row for every state of a grid, its axes one after another, and the actions behind them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from export.errors import CheckpointRefused, OptionInvalid
from export.tables.keys import said
from export.tables.states import ByState

_CELLS_CAP = 2**26
_ACTIONS_CAP = 65536
_SHOWN = 4
_BESIDE = 12
State = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TableAsked:
    """What was said about a table: the sizes of its state axes, where it is in the file, what missing values are."""

    axes: tuple[int, ...] = ()
    key: str = ""
    missing: float | None = None


NO_TABLE = TableAsked()


@dataclass(frozen=True, slots=True)
class Table:
    """Values ``[*sizes, A]``; ``lows`` is the first state of each axis.

    ``actions`` are their names, where the file has them. ``by_state`` are the rows as they stood in the file, by state,
    and ``other`` is what a state has that is not among them: to be compared with. ``told`` says how the table was
    read, line by line, and ``missing`` what was filled in.
    """

    values: NDArray[np.generic]
    lows: State
    actions: tuple[str, ...] = ()
    by_state: Mapping[State, NDArray[np.float64]] | None = None
    other: NDArray[np.float64] | None = None
    told: tuple[str, ...] = ()
    missing: str = ""

    @property
    def sizes(self) -> State:
        """How many states each axis has."""
        return tuple(self.values.shape[:-1])


def of_array(array: NDArray[np.generic], place: str, asked: TableAsked, aside: tuple[str, ...] = ()) -> Table:
    """Take an array of one or more axes of states, and the actions last; ``asked.axes`` cuts its states anew.

    Raises CheckpointRefused where it is no table, OptionInvalid where the axes asked for do not hold its states.
    """
    if array.ndim < 2 or 0 in array.shape or array.dtype.kind not in "iuf":
        msg = f"{place} is {array.dtype}{list(array.shape)}, expected numbers [states, actions]"
        raise CheckpointRefused(msg)
    if asked.missing is not None:
        msg = f"--table-missing is {asked.missing:g}, but {place} is an array, which has a value in every place"
        raise OptionInvalid(msg)
    if asked.axes:
        states, actions = math.prod(array.shape[:-1]), array.shape[-1]
        _refuse_other_count(asked.axes, states, place)
        array = array.reshape(*asked.axes, actions)
    return _checked(Table(array, (0,) * (array.ndim - 1)), place, aside)


def of_states(found: ByState, place: str, asked: TableAsked, aside: tuple[str, ...] = ()) -> Table:
    """Lay out the rows of a dict by state.

    Each axis goes from its least state to its largest, or over as many from 0 on as ``asked.axes`` says. States and
    values that are not there get what ``asked`` says, else what the defaultdict of the file would have given. Raises
    CheckpointRefused where neither says anything, OptionInvalid where the axes asked for do not hold the states.
    """
    states = np.array(found.states, dtype=np.int64)
    lows, sizes = states.min(axis=0), states.max(axis=0) - states.min(axis=0) + 1
    if asked.axes:
        states = _within(states, asked.axes, place)
        lows, sizes = np.zeros(len(asked.axes), dtype=np.int64), np.array(asked.axes)
    actions = found.rows.shape[1]
    if math.prod(sizes.tolist()) * actions > _CELLS_CAP:
        shape = " x ".join(map(str, sizes.tolist()))
        msg = f"{place} has {len(states)} states within {shape}, expected at most {_CELLS_CAP} values in all of them"
        raise CheckpointRefused(msg)
    values = np.full((*sizes.tolist(), actions), np.nan)
    values[tuple((states - lows).T)] = found.rows
    other = _other(found, asked, actions, place)
    missing = _fill(values, lows, other, place)
    rows = found.rows if other is None else np.where(np.isnan(found.rows), other, found.rows)
    by_state = dict(zip(map(tuple, states.tolist()), rows, strict=True))
    told = ("the last number of each key is taken for the action: are these no values of states?",) * found.guessed
    table = Table(values, tuple(lows.tolist()), found.actions, by_state, other, told, missing)
    return _checked(table, place, aside)


def _other(found: ByState, asked: TableAsked, actions: int, place: str) -> NDArray[np.float64] | None:
    """Give the row of what is missing, where somebody says it."""
    given = found.default if asked.missing is None else np.array([asked.missing])
    if given is not None and len(given) not in (1, actions):
        msg = f"{place} gives {len(given)} values to a state that it does not have, expected {actions} as in the others"
        raise CheckpointRefused(msg)
    return None if given is None else np.broadcast_to(given, (actions,)).astype(np.float64)


def _fill(values: NDArray[np.float64], lows: NDArray[np.int64], other: NDArray[np.float64] | None, place: str) -> str:
    """Put in what is missing, and say so; refuse it where nothing says what it is."""
    lost = np.isnan(values)
    if not lost.any():
        return ""
    states = np.argwhere(lost.any(axis=-1)) + lows
    whole = int(lost.all(axis=-1).sum())
    few = ", ".join(said(tuple(state)) for state in states[:_SHOWN].tolist())
    more = ", ..." if len(states) > _SHOWN else ""
    which = f"{whole} of {lost[..., 0].size} states" if whole == len(states) else f"all values of {len(states)} states"
    if other is None:
        msg = (
            f"{place} does not have {which} ({few}{more}), and nothing says what they are: say --table-missing 0 where "
            f"training took every value that was not there for 0"
        )
        raise CheckpointRefused(msg)
    values[lost] = np.broadcast_to(other, values.shape)[lost]
    alike = len(set(other.tolist())) == 1
    shown = f"{other[0]:g}, so that the first action is best" if alike else str(other[:_SHOWN].tolist())
    return f"missing from the file: {which} ({few}{more}); they get {shown}"


def _checked(table: Table, place: str, aside: tuple[str, ...]) -> Table:
    """Refuse values that say nothing, and say how the table was read."""
    values, actions = table.values, table.values.shape[-1]
    if actions > _ACTIONS_CAP:
        msg = f"{place} has {actions} actions, expected at most {_ACTIONS_CAP}: are its axes in another order?"
        raise CheckpointRefused(msg)
    if actions == 1 and bool(np.isfinite(values).all()):
        shape = " x ".join(map(str, values.shape))
        msg = (
            f"{place} has one action for each state ({shape}), in which there is nothing to choose: expected two or "
            f"more on the last axis; is an axis of length 1 behind them?"
        )
        raise CheckpointRefused(msg)
    if bool((values == values.flat[0]).all()):
        msg = (
            f"{place} has the value {float(values.flat[0]):g} everywhere, in which no action is better than another: "
            f"expected the table after training"
        )
        raise CheckpointRefused(msg)
    sizes = " x ".join(map(str, table.sizes))
    first = f" (from {said(table.lows)} on)" if any(table.lows) else ""
    names = f" ({', '.join(table.actions[:_SHOWN])}{', ...' if actions > _SHOWN else ''})" if table.actions else ""
    turned = "; states go by rows: is it turned?" if math.prod(table.sizes) < actions else ""
    told = [f"table: {sizes} states{first} x {actions} actions{names}{turned}", *table.told]
    told += [table.missing] if table.missing else []
    return replace(table, told=(*told, *beside_said(aside)))


def beside_said(aside: Sequence[str]) -> tuple[str, ...]:
    """Say what lies beside a table in its file, cut short; nothing where there is nothing."""
    if not aside:
        return ()
    more = f" and {len(aside) - _BESIDE} more" if len(aside) > _BESIDE else ""
    return (f"beside the table, and not used: {', '.join(name[:40] for name in aside[:_BESIDE])}{more}",)


def _refuse_other_count(axes: Sequence[int], states: int, place: str) -> None:
    if math.prod(axes) != states:
        told = ",".join(map(str, axes))
        msg = f"--table-axes is {told}, which is {math.prod(axes)} states, but {place} has {states}"
        raise OptionInvalid(msg)


def _within(states: NDArray[np.int64], axes: Sequence[int], place: str) -> NDArray[np.int64]:
    """Give the states by the axes asked for: one number that counts all of them is cut into its axes, row-major."""
    told = ",".join(map(str, axes))
    flat = states.shape[1] == 1
    if not flat and states.shape[1] != len(axes):
        msg = f"--table-axes is {told}, but the states of {place} have {states.shape[1]} numbers each"
        raise OptionInvalid(msg)
    most = np.array([math.prod(axes)] if flat else axes)
    outside = states[((states < 0) | (states >= most)).any(axis=1)]
    if len(outside):
        msg = f"--table-axes is {told}, but {place} has the state {said(tuple(outside[0].tolist()))}"
        raise OptionInvalid(msg)
    return np.stack(np.unravel_index(states[:, 0], tuple(axes)), axis=1) if flat else states
