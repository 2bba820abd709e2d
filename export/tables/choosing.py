"""Which part of what a file holds is the Q-table: the whole, or one entry among settings."""

import re
from collections.abc import Iterable, Mapping

from export.errors import CheckpointRefused, NeedsUnpickling, OptionInvalid
from export.inert import Inert
from export.inert_arrays import array_in, is_array, kind_of, mapping_of
from export.spec.nearest import one_of
from export.tables.keys import numbers_in

# What people call the table among their settings, without case, dashes and underscores.
_CALLED = frozenset("qtable q qvalues qvalue qfunction table qdict".split())
_SHOWN = 8
_LENGTH = 40


def chosen(value: object, what: str, key: str) -> tuple[object, str, tuple[str, ...]]:
    """Give the part of a file that is the table, how messages name it, and the names of what lies beside it.

    ``key`` is where it is, dotted where it lies deeper; where nothing is said, the only table there is, or the one
    that is called so. Raises OptionInvalid for a ``key`` that is not there, CheckpointRefused where there is no table
    or are several, NeedsUnpickling where there is an object that says nothing.
    """
    place = what
    for step in key.split(".") if key else ():
        entries = entries_of(value)
        if entries is None or step not in entries:
            known = one_of(step, (_shown(name) for name in entries)) if entries else "a dict or an object by name"
            msg = f"--table-key is {key!r}, but {place} has no {step!r}, expected {known}"
            raise OptionInvalid(msg)
        value, place = entries[step], f"{place}: {step}"
    if is_array(value) or isinstance(value, (list, tuple)):
        return value, place, ()
    entries = entries_of(value)
    if entries is None:
        msg = f"{place} is {kind_of(value)}, expected a table: an array, or a dict from states to values"
        raise NeedsUnpickling(msg) if isinstance(value, Inert) else CheckpointRefused(msg)
    if not entries:
        msg = f"{place} is empty, expected values for every state"
        raise CheckpointRefused(msg)
    if not _by_name(entries):
        return value, place, ()
    name = _only(entries, place, plain=isinstance(value, dict))
    return entries[name], f"{place}: {name}", tuple(str(other) for other in entries if other != name)


def entries_of(value: object) -> Mapping[object, object] | None:
    """Give the entries of a dict of any class, or an object's attributes by name; None for anything else."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Inert) or is_array(value):
        return None
    try:
        return mapping_of(value, "")
    except CheckpointRefused:
        if value.entries:
            return value.entries
    return value.state if isinstance(value.state, dict) and value.state else None


def is_number(value: object) -> bool:
    """Say whether a value is one plain or NumPy number, and no truth."""
    if is_array(value):
        return array_in(value, "a value").ndim == 0
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_called_table(name: str) -> bool:
    """Say whether a name is one that people give their tables."""
    return re.sub(r"[-_ ]", "", name).lower() in _CALLED


def _by_name(entries: Mapping[object, object]) -> bool:
    """Say whether the keys are names, as of settings, and not states."""
    return all(isinstance(name, str) and numbers_in(name) is None for name in entries)


def _only(entries: Mapping[object, object], place: str, *, plain: bool) -> str:
    """Name the one table among settings, or the one that is called so."""
    tables = [str(name) for name, one in entries.items() if _like_a_table(one)]
    called = [name for name in tables if is_called_table(name)]
    found = called if len(called) == 1 else tables
    others = [str(name) for name, one in entries.items() if is_array(one) and str(name) not in tables and _is_row(one)]
    if len(found) == 1 and (called or not others):
        return found[0]
    if len(found) == 1:
        msg = (
            f"{place} has {_listed([found[0], *others])}, which may be a layer's weights: say --table-key {found[0]} "
            f"if that is a table, or declare the network with --declare FILE.toml"
        )
        raise CheckpointRefused(msg)
    if found:
        msg = f"{place} has several tables ({_listed(found)}): say which one with --table-key NAME"
        raise CheckpointRefused(msg)
    names = _listed(entries)
    if all(_is_row(one) for one in entries.values()):
        msg = (
            f"{place} has values by names ({names}), expected states that are whole numbers: number the states, and "
            f"save the values by these numbers"
        )
        raise CheckpointRefused(msg)
    msg = (
        f"{place} has no table among {names}, expected an array or a dict from states to values; one that lies deeper "
        f"is named with --table-key OUTER.INNER"
    )
    raise CheckpointRefused(msg) if plain else NeedsUnpickling(msg)


def _listed(names: Iterable[object]) -> str:
    """Name the first of them, cut short: they are the file's own texts."""
    return ", ".join(_shown(name) for name, _ in zip(names, range(_SHOWN), strict=False))


def _shown(name: object) -> str:
    return ascii(name)[:_LENGTH].strip("'")


def _like_a_table(value: object) -> bool:
    """Say whether an entry may be a table: rows in two axes or more, or values by states."""
    if is_array(value):
        return array_in(value, "an entry").ndim >= 2
    if isinstance(value, (list, tuple)):
        return bool(value) and all(_has_values(row) and not is_number(row) for row in value)
    entries = entries_of(value)
    return bool(entries) and not _by_name(entries or {}) and all(_has_values(one) for one in (entries or {}).values())


def _is_row(value: object) -> bool:
    if is_array(value):
        return array_in(value, "an entry").ndim == 1
    return isinstance(value, (list, tuple)) and bool(value) and all(is_number(one) for one in value)


def _has_values(value: object) -> bool:
    """Say whether something may be the values of a state: a number, a row, or values by action."""
    return is_number(value) or is_array(value) or isinstance(value, (list, tuple)) or bool(entries_of(value))
