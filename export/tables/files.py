"""Files that hold a Q-table: NumPy's own, also those with a dict in them, and pickles; nothing is unpickled."""

import io
import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from export.archive import TENSOR_CAP, array_of, member_names, members_of
from export.errors import CheckpointRefused, NeedsUnpickling
from export.inert import Inert, read_inert
from export.inert_arrays import array_in, is_array
from export.tables.choosing import chosen, is_called_table
from export.tables.grid import Table, TableAsked, beside_said, of_array, of_states
from export.tables.keys import LARGEST
from export.tables.states import ByState, by_state, listed

# What numpy.savez is given a table as, where nobody says.
_MEMBERS = ("arr_0", "q_table", "qtable", "Q_table", "Q", "q", "q_values", "table")


def table_of_pickle(data: bytes, name: str, asked: TableAsked) -> Table:
    """Read a pickled table: an array, nested lists, a dict by state, or one of these among settings.

    ``name`` is the file's. Raises NeedsUnpickling where it holds objects that are no data, CheckpointRefused where the
    table is none of whole states and finite values, OptionInvalid where what was ``asked`` does not fit it.
    """
    return _table(value_of(data, name), name, asked)


def value_of(data: bytes, name: str) -> object:
    """Read a pickle as data; raises NeedsUnpickling where that cannot be done."""
    try:
        return read_inert(data, name)
    except CheckpointRefused as error:
        raise NeedsUnpickling(f"{error}".removesuffix("; nothing in it was run")) from error


def table_of_npy(data: bytes, name: str, asked: TableAsked) -> Table:
    """Read an array, or the dict that ``numpy.save`` pickled into one; see ``table_of_pickle``."""
    inside = _pickled_in(data)
    if inside is None:
        return of_array(array_of(data, name), name, asked)
    value = value_of(inside, name)
    match value.state if isinstance(value, Inert) else None:
        case (_, _, _, _, [one]):
            return _table(one, name, asked)
    msg = f"{name} holds objects, expected an array of numbers, or one dict from states to values"
    raise CheckpointRefused(msg)


def table_of_npz(data: bytes, name: str, asked: TableAsked) -> Table:
    """Read the one table in what ``numpy.savez`` wrote; ``asked.key`` names it. See ``table_of_npy``."""
    wanted = (asked.key,) if asked.key else _MEMBERS
    found = members_of(data, {f"{one}.npy": TENSOR_CAP for one in wanted})
    if len(found) != 1:
        had = ", ".join(sorted(found)) or "none of these"
        msg = f"{name} has {had}, expected one of {', '.join(f'{one}.npy' for one in wanted)}: say --table-key NAME"
        raise CheckpointRefused(msg)
    member, content = next(iter(found.items()))
    plain = TableAsked(axes=asked.axes, missing=asked.missing)
    table = table_of_npy(content, f"{name}: {member.removesuffix('.npy')}", plain)
    aside = tuple(one.removesuffix(".npy") for one in member_names(data) if one != member)
    return replace(table, told=(*table.told, *beside_said(aside)))


def table_among(arrays: Mapping[str, NDArray[np.generic]], name: str, asked: TableAsked) -> Table | None:
    """Find a table among the arrays that a confined process gave; None where none of them has two axes.

    Tables by state come as two arrays, ``q_states`` and ``q_table``, whatever stands before these names.
    """
    prefixes = [one.removesuffix("q_states") for one in arrays if one.endswith("q_states")]
    if len(prefixes) == 1 and f"{prefixes[0]}q_table" in arrays:
        states, rows = arrays[f"{prefixes[0]}q_states"], arrays[f"{prefixes[0]}q_table"]
        if not _fit(states, rows):
            msg = f"{name} gave states and rows that do not fit each other, expected whole states and finite values"
            raise CheckpointRefused(msg)
        return of_states(ByState([tuple(one) for one in states.tolist()], rows.astype(np.float64)), name, asked)
    # Several arrays may be the weights of a network: of these only one that is called a table is taken for one.
    names = [one for one, array in arrays.items() if array.ndim >= 2]
    called = [one for one in names if len(arrays) == 1 or is_called_table(one.rpartition(".")[2])]
    known = [one for one in names if one == asked.key] or called
    return of_array(arrays[known[0]], f"{name}: {known[0]}", asked) if len(known) == 1 else None


def _fit(states: NDArray[np.generic], rows: NDArray[np.generic]) -> bool:
    """Say whether states ``[S, K]`` and rows ``[S, A]`` are such; another process is believed no more than a file."""
    if states.ndim != 2 or rows.ndim != 2 or len(states) != len(rows) or 0 in (*states.shape, *rows.shape):
        return False
    whole = states.dtype.kind == "i" and bool((np.abs(states.astype(np.float64)) <= LARGEST).all())
    return whole and rows.dtype.kind in "iuf" and bool(np.isfinite(rows.astype(np.float64)).all())


def _table(value: object, name: str, asked: TableAsked) -> Table:
    found, place, aside = chosen(value, name, asked.key)
    if is_array(found):
        return of_array(array_in(found, place), place, asked, aside)
    if isinstance(found, (list, tuple)):
        _refuse_several(found, place)
        return of_array(listed(found, place), place, asked, aside)
    return of_states(by_state(found, place), place, asked, aside)


def _refuse_several(found: list[object] | tuple[object, ...], place: str) -> None:
    """Refuse a list of whole tables: those of double Q-learning are no axis of states."""
    if found and all(is_array(one) and array_in(one, place).ndim >= 2 for one in found):
        msg = (
            f"{place} is a list of {len(found)} arrays, each a table by itself: save the one that acts (of double "
            f"Q-learning their sum), or numpy.stack of them if the first axis is a number of the state"
        )
        raise CheckpointRefused(msg)


def _pickled_in(data: bytes) -> bytes | None:
    """Give the pickle in a ``.npy`` of objects; None for any other file, which array_of reads or refuses."""
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version = npy.read_magic(stream)
            reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            _, _, dtype = reader(stream)
    except Exception:  # noqa: BLE001 - a damaged header is array_of's to refuse, in its words
        return None
    return data[stream.tell() :] if dtype.kind == "O" else None
