"""Overflow: which expressions may come to a number that no double holds, which is an error that the proof leaves out.

It is worked out of the declared ranges alone: an interval for each part. What cannot overflow there never does; what
may, need not, for the interval of a part knows nothing of conditions on it.
"""

import math
import sys
from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

from export.spec import Box
from guards.constraints import Constraint
from guards.language.terms import Constant, Fact, Observed, Operation, Part, Past, Term
from guards.proof.scenario import ranges
from guards.records import Schema

_MOST = sys.float_info.max
# Steps and seconds are below it.
_COUNTED = 2.0**53


class Interval(NamedTuple):
    """The least and the greatest that a part may be, whether it is whole, and whether it or a part of it overflows."""

    low: float
    high: float
    whole: bool = False
    over: bool = False


def may_overflow(constraint: Constraint, schema: Schema) -> bool:
    """Whether any expression of a constraint may overflow."""
    known = _known(schema)
    return _interval(constraint.term(schema), known).over


def _known(schema: Schema) -> dict[str | int, Interval]:
    """What each name, and each part of the action, may be."""
    known: dict[str | int, Interval] = dict.fromkeys(schema.facts, Interval(-_MOST, _MOST))
    known |= {i: Interval(0, size - 1, whole=True) for i, size in enumerate(schema.action.sizes)}
    parts = dict(enumerate(schema.action.fields)) if isinstance(schema.action, Box) else {}
    fields = {i: (field, "float64") for i, field in parts.items()} | ranges(schema)
    for name, (field, dtype) in fields.items():
        low, high = (-_MOST if field.low is None else field.low), (_MOST if field.high is None else field.high)
        known[name] = Interval(low, high, whole=dtype in ("int64", "uint8"))
    return known


def _interval(term: Term, known: Mapping[str | int, Interval]) -> Interval:
    """What a term may be; of a condition or an action only whether anything in it overflows."""
    parts = [_interval(part, known) for part in term.parts]
    over, numbers = any(part.over for part in parts), parts
    match term:
        case Constant(value=float() as value):
            return Interval(value, value, value.is_integer())
        case Observed(name=name) | Fact(name=name) | Part(index=name):
            return known[name]
        case Past():
            return Interval(0, _COUNTED, whole=term.what == "step")
        case Operation(op="+" | "-" | "*" | "/" | "%", checked=True):
            one = _arithmetic(term.op, *parts)
            return one._replace(over=over or one.over)
        case Operation(op="neg"):
            return Interval(-parts[0].high, -parts[0].low, parts[0].whole, over)
        case Operation(op="if"):
            numbers = parts[1:]
            low, high = min(part.low for part in numbers), max(part.high for part in numbers)
        case Operation(op="abs" | "min" | "max"):
            low, high = _called(term.op, parts)
        case _:
            return Interval(0, 0, over=over)
    return Interval(low, high, all(part.whole for part in numbers), over)


def _called(name: str, args: list[Interval]) -> tuple[float, float]:
    if name == "abs":
        (one,) = args
        return max(one.low, -one.high, 0.0), max(-one.low, one.high)
    best = min if name == "min" else max
    return best(one.low for one in args), best(one.high for one in args)


def _arithmetic(op: str, a: Interval, b: Interval) -> Interval:
    whole = a.whole and b.whole
    if op == "%":
        # Its sign is the divisor's.
        return Interval(min(b.low, 0.0), max(b.high, 0.0), whole)
    if op in ("+", "-"):
        high, low = (b.high, b.low) if op == "+" else (-b.low, -b.high)
        return _within([a.low + low, a.high + high], whole)
    if op == "*":
        return _within([x * y for x, y in product(a[:2], b[:2])], whole)
    # A division by zero is an error that the proof knows; by what is nearly zero it overflows.
    least = 1.0 if b.whole else sys.float_info.min * sys.float_info.epsilon
    sides = [side for side in (b.low, b.high, -least, least) if b.low <= side <= b.high and side]
    return _within([x / y for x, y in product(a[:2], sides)] or [0.0])


def _within(ends: list[float], whole: bool = False) -> Interval:
    """The interval of some ends, which may be beyond all doubles."""
    low, high = max(min(ends), -_MOST), min(max(ends), _MOST)
    return Interval(low, high, whole, not all(map(math.isfinite, ends)))
