"""Overflow: which expressions may come to a number that no double holds, which is an error that the proof leaves out.

It is worked out of the declared ranges alone: an interval for each part. What cannot overflow there never does; what
may, need not, for the interval of a part knows nothing of conditions on it.
"""

import ast
import math
import sys
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from export.spec import Box, MultiDiscrete
from guards.boxes import Linear
from guards.constraints import Bounds, Constraint, Rule
from guards.histories import Budget
from guards.proof.situation import ranges
from guards.records import Schema
from guards.syntax import parsed

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
    return any(_interval(parsed(source), known).over for source in _expressions(constraint))


def _expressions(constraint: Constraint) -> Iterator[str]:
    if isinstance(constraint, Rule):
        yield constraint.forbid
    elif isinstance(constraint, Budget):
        yield constraint.cost
    elif isinstance(constraint, Bounds):
        # Of a Box it is a name, which is no matter.
        yield constraint.of
        yield from (limit for limit in (constraint.low, constraint.high) if isinstance(limit, str))
    elif isinstance(constraint, Linear):
        yield from (
            amount for amount in (*constraint.coefficients.values(), constraint.at_most) if isinstance(amount, str)
        )


def _known(schema: Schema) -> dict[str, Interval]:
    """What each name may be."""
    counted = {"step": Interval(0, _COUNTED, whole=True), "seconds_since_change": Interval(0, _COUNTED)}
    known = {**counted, **dict.fromkeys(schema.facts, Interval(-_MOST, _MOST))}
    action = schema.action
    if isinstance(action, MultiDiscrete):
        known |= {one.name: Interval(0, len(one.names) - 1, whole=True) for one in action.factors}
    parts = {one.name: (one, "float64") for one in action.fields} if isinstance(action, Box) else {}
    for name, (field, dtype) in (parts | ranges(schema)).items():
        low, high = (-_MOST if field.low is None else field.low), (_MOST if field.high is None else field.high)
        known[name] = Interval(low, high, whole=dtype in ("int64", "uint8"))
    return known


def _interval(node: ast.expr, known: dict[str, Interval]) -> Interval:
    """What a part may be; of a condition or an action only whether anything in it overflows."""
    parts = [_interval(part, known) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
    over = any(part.over for part in parts)
    low, high, whole = 0.0, 0.0, False
    match node:
        case ast.Constant(value=float() | int() as number):
            low = high = float(number)
            whole = low.is_integer()
        case ast.Name(id=name):
            return known.get(name, Interval(0, 0))
        case ast.UnaryOp(op=ast.USub()):
            low, high, whole = -parts[0].high, -parts[0].low, parts[0].whole
        case ast.BinOp(op=op):
            one = _arithmetic(op, *parts)
            return one._replace(over=over or one.over)
        case ast.IfExp():
            low, high = min(part.low for part in parts[1:]), max(part.high for part in parts[1:])
            whole = all(part.whole for part in parts[1:])
        case ast.Call(func=ast.Name(id=name)):
            low, high = _called(name, parts[1:])
            whole = all(part.whole for part in parts[1:])
    return Interval(low, high, whole, over)


def _called(name: str, args: list[Interval]) -> tuple[float, float]:
    if name == "abs":
        (one,) = args
        return max(one.low, -one.high, 0.0), max(-one.low, one.high)
    best = min if name == "min" else max
    return best(one.low for one in args), best(one.high for one in args)


def _arithmetic(op: ast.operator, a: Interval, b: Interval) -> Interval:
    whole = a.whole and b.whole
    if isinstance(op, ast.Mod):
        # Its sign is the divisor's.
        return Interval(min(b.low, 0.0), max(b.high, 0.0), whole)
    if isinstance(op, ast.Add | ast.Sub):
        high, low = (b.high, b.low) if isinstance(op, ast.Add) else (-b.low, -b.high)
        return _within([a.low + low, a.high + high], whole)
    if isinstance(op, ast.Mult):
        return _within([x * y for x, y in product(a[:2], b[:2])], whole)
    # A division by zero is an error that the proof knows; by what is nearly zero it overflows.
    least = 1.0 if b.whole else sys.float_info.min * sys.float_info.epsilon
    sides = [side for side in (b.low, b.high, -least, least) if b.low <= side <= b.high and side]
    return _within([x / y for x, y in product(a[:2], sides)] or [0.0])


def _within(ends: list[float], whole: bool = False) -> Interval:
    """The interval of some ends, which may be beyond all doubles."""
    low, high = max(min(ends), -_MOST), min(max(ends), _MOST)
    return Interval(low, high, whole, not all(map(math.isfinite, ends)))
