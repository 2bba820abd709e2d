"""The keys of a table by state: whole numbers, several of them, and actions by name."""

import re

from export.errors import CheckpointRefused
from export.inert import Inert
from export.inert_arrays import array_in, is_array, kind_of

# A state's whole numbers, and behind them an action where the table has values one by one: its number, or its name.
Part = int | str
Path = tuple[Part, ...]

LARGEST = 2**53
_LENGTH = 40
# Whole numbers as text: "3", and "(0, 3)", "[0, 3]" or "0,3" for several.
_AS_TEXT = re.compile(r"([(\[]?)\s*(-?\d{1,15}(?:\s*,\s*-?\d{1,15})*)\s*,?\s*([)\]]?)")
# The same as NumPy writes an array: "[0 3]".
_AS_ARRAY = re.compile(r"\[\s*(-?\d{1,15}(?:\s+-?\d{1,15})*)\s*\]")


def parts_of(key: object, place: str) -> Path:
    """Give a key's whole numbers and names, those of tuples within tuples one after another.

    ``place`` names the table in messages. Raises CheckpointRefused for keys that are no whole numbers or texts.
    """
    if isinstance(key, tuple):
        return tuple(part for inner in key for part in parts_of(inner, place))
    if isinstance(key, bool):
        return (int(key),)
    if isinstance(key, int):
        return (_bounded(key, place),)
    if isinstance(key, str):
        return numbers_in(key) or (key,)
    if isinstance(key, Inert) and is_array(key):
        number = array_in(key, f"{place}: a state")
        if number.ndim == 0 and number.dtype.kind in "biu":
            return (_bounded(int(number), place),)
        if number.ndim == 0:
            key = float(number)
    if isinstance(key, float):
        msg = (
            f"{place} has the state {key!r}, a number that need not be whole, expected whole ones: number the bins "
            f"(with numpy.digitize, say), save the values by these numbers, and have callers send them"
        )
        raise CheckpointRefused(msg)
    msg = f"{place} has {_shown(key)} as a state, expected whole numbers or tuples of them: number the states"
    raise CheckpointRefused(msg)


def numbers_in(text: str) -> tuple[int, ...] | None:
    """Give the whole numbers that a text says, as of ``str(state)``; None where it says something else."""
    array = _AS_ARRAY.fullmatch(text)
    if array is not None:
        return tuple(int(part) for part in array[1].split())
    match = _AS_TEXT.fullmatch(text)
    if match is None or (match[1], match[3]) not in (("", ""), ("(", ")"), ("[", "]")):
        return None
    return tuple(int(part) for part in match[2].split(","))


def said(path: Path) -> str:
    """Name a state for people: ``3``, or ``(0, 3)``."""
    shown = [str(part) if isinstance(part, int) else ascii(part)[:_LENGTH] for part in path]
    return shown[0] if len(shown) == 1 else f"({', '.join(shown)})"


def _bounded(number: int, place: str) -> int:
    if abs(number) > LARGEST:
        msg = f"{place} has a state beyond 2^53, expected whole numbers that count states"
        raise CheckpointRefused(msg)
    return number


def _shown(key: object) -> str:
    return "None" if key is None else kind_of(key)
