"""Boxes: what constraints leave of a Box as bounds and half-spaces, in plain numbers for one row."""

from collections.abc import Callable, Sequence
from math import inf, isfinite
from typing import NamedTuple

from export.spec import Box
from export.spec.nearest import DOZEN, one_of
from guards.errors import GuardMisconfigured
from guards.language.terms import Operation, Term, Within, number, operation, opposite, plain
from guards.records import Row, Schema

# A number, or an expression over fields and facts.
Amount = float | str
# A half-space is kept where it is exceeded by no more than this part of its scale: the greater of |most| and the sum of
# |slope| times the number, or times one where that is more.
EXACT = 1e-9
# Works out the coefficients of a side and its limit for a row; raises ArithmeticError.
Amounts = Callable[[Row], Sequence[float]]


class Confines(NamedTuple):
    """``low[D]`` and ``high[D]``, and half-spaces ``slopes[M][D]``, ``most[M]``; empty where a low is above a high."""

    low: list[float]
    high: list[float]
    slopes: list[list[float]]
    most: list[float]


def index_of(name: str | None, schema: Schema) -> int:
    """The index of a named number of a Box; raises GuardMisconfigured that names the known ones."""
    if not isinstance(schema.action, Box):
        msg = f"is for the numbers of a box action, and a {schema.action.kind} action has none"
        raise GuardMisconfigured(msg)
    names = [field.name for field in schema.action.fields]
    if name not in names:
        msg = f"the number {name!r} of the action is not known, expected {one_of(name, names, DOZEN)}"
        raise GuardMisconfigured(msg)
    return names.index(name)


def outside(index: int, low: Term, high: Term) -> Term:
    """Whether a number is not within its limits."""
    sides = ((number(1), high), (number(-1), plain("neg", low)))
    return operation("or", *[opposite(Within((index,), 0.0, parts=side)) for side in sides])


def sides_of(term: Term) -> list[Within]:
    """The half-spaces of which a term forbids what is in none or not in all; nothing where it is no such term."""
    parts = term.parts if isinstance(term, Operation) and term.op == "or" else (term,)
    inner = [part.parts[0] for part in parts if isinstance(part, Operation) and part.op == "not"]
    sides = [part for part in inner if isinstance(part, Within)]
    return sides if len(sides) == len(parts) else []


def confined(box: Box, constraints: Sequence[Sequence[tuple[Within, Amounts]]], row: Row) -> Confines:
    """What is left of a Box by constraints that each have some sides; nothing where one cannot be worked out."""
    low, high = list(box.low), list(box.high)
    slopes: list[list[float]] = []
    most: list[float] = []
    for sides in constraints:
        for side, amounts in sides:
            *slope, limit = _worked_out(amounts, row) or (*[0.0] * len(side.numbers), -inf)
            if not side.tolerance:
                (at,) = side.numbers
                if slope[0] < 0 or limit == -inf:
                    low[at] = max(low[at], -limit)
                if slope[0] > 0 or limit == -inf:
                    high[at] = min(high[at], limit)
                continue
            known = isfinite(limit) and all(map(isfinite, slope))
            whole = [0.0] * len(low)
            for at, one in zip(side.numbers, slope, strict=True):
                whole[at] = one if known else 0.0
            slopes.append(whole)
            most.append(limit if known else 0.0)
            if not known:
                low, high = [inf] * len(low), [-inf] * len(low)
    return Confines(low, high, slopes, most)


def _worked_out(amounts: Amounts, row: Row) -> Sequence[float] | None:
    try:
        found = amounts(row)
    except ArithmeticError:
        return None
    return None if any(one != one for one in found) else found
