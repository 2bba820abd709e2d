"""The encoding: terms as SMT over exact reals, about a state and an action, for the proof alone.

Each term becomes its value and whether evaluating it fails where Python's own order of evaluation would have met the
failure. Numbers are reals, or integers where they can only be whole. What is known of each action, and what is
infinite, is told apart by cases, in doubles, as the shield has it. What a history is asked for is at its worst.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from guards.constraints import Constraint
from guards.errors import Untranslatable
from guards.language import terms
from guards.language.walk import ARITHMETIC, COMPARE
from guards.proof.symbols import NEVER_FAILS, Symbols, exact, z3

_TRUE = z3.BoolVal(True)
# So many cases are told apart.
_MOST_CASES = 4096


class Encoded(NamedTuple):
    """A term's value (a real, an integer, a Boolean, or numbers by cases) and whether evaluating it fails (Boolean)."""

    value: "z3.ExprRef | Cases"
    failed: z3.BoolRef = NEVER_FAILS


@dataclass(frozen=True, slots=True)
class Cases:
    """A number that is known by cases, of which one holds: doubles, and where it is more than that symbols."""

    known: Mapping[float, z3.BoolRef]
    others: tuple[tuple[z3.ArithRef, z3.BoolRef], ...] = ()

    @classmethod
    def of(cls, ways: Iterable[tuple[Any, z3.BoolRef]]) -> "Cases":
        """The cases of which each is a number, and when it is that."""
        known, others = dict[float, z3.BoolRef](), list[tuple[z3.ArithRef, z3.BoolRef]]()
        for value, when in ways:
            if not isinstance(value, float):
                others.append((value, when))
            else:
                known[value] = z3.Or(known[value], when) if value in known else when
        return cls(known, tuple(others))

    def each(self) -> Iterator[tuple[Any, z3.BoolRef]]:
        """All numbers, and when it is that."""
        yield from self.known.items()
        yield from self.others

    def symbol(self) -> z3.ArithRef:
        """The number as a symbol."""
        *some, (last, _) = ((_symbol(one), when) for one, when in self.each())
        for one, when in reversed(some):
            last = z3.If(when, *_alike(one, last))
        return last


def may_forbid(constraint: Constraint, symbols: Symbols) -> z3.BoolRef:
    """Whether a constraint that binds to the schema may forbid the action ``symbols.acted``."""
    try:
        value, failed = encoded(constraint.term(symbols.schema), symbols)
        assert isinstance(value, z3.BoolRef)  # noqa: S101 - it is a condition
        return z3.Or(value, failed) if not z3.is_false(failed) else value
    except Untranslatable as gap:
        symbols.mentioned.update(range(len(symbols.schema.choices) or len(symbols.acted)))
        return symbols.anything(z3.BoolSort(), f"{constraint.name!r}: {gap}")


def truth(condition: terms.Term, symbols: Symbols) -> z3.BoolRef:
    """Whether a condition is true, not only impossible to evaluate."""
    value, failed = encoded(condition, symbols)
    return z3.And(value, z3.Not(failed))


def encoded(term: terms.Term, symbols: Symbols) -> Encoded:
    """A term that was made for the symbols' schema; raises Untranslatable for what has no translation."""
    match term:
        case terms.Fixed(value=bool() as truth):
            return Encoded(z3.BoolVal(truth))
        case terms.Fixed():
            assert not isinstance(term.value, tuple)  # noqa: S101 - what is constant is no whole action
            return Encoded(Cases({float(term.value): _TRUE}))
        case terms.Observed():
            return Encoded(symbols.field(term.name))
        case terms.Fact():
            return Encoded(*symbols.fact(term.name))
        case terms.Past():
            return _past(term, symbols)
        case terms.Recall():
            return encoded(term.worst, symbols)
        case terms.Part():
            return Encoded(symbols.part(term.index, term.of))
        case terms.Among():
            return Encoded(z3.Or([symbols.choice(term.index, choice) for choice in sorted(term.choices)]))
        case terms.Table():
            return Encoded(Cases(symbols.totals(term)))
        case terms.Within():
            return _within(term, symbols)
        case terms.Compare(parts=(terms.Whole(), terms.Whole())):
            both = zip(symbols.acted, symbols.before, strict=True)
            return Encoded(z3.Or([now != before for now, before in both]))
        case terms.Compare():
            sides = [encoded(part, symbols) for part in term.parts]
            links = zip(term.ops, sides, sides[1:], strict=False)
            return _joined([_compared(op, a, b) for op, a, b in links], stop=False)
        case terms.Operation():
            return _operation(term, symbols)
    msg = f"{term} is not part of the translation"
    raise Untranslatable(msg)


def _past(term: terms.Past, symbols: Symbols) -> Encoded:
    return {
        "step": Encoded(symbols.step, z3.Not(symbols.known)),
        "seconds_since_change": Encoded(symbols.since_change),
        "previous_action": Encoded(symbols.before[0], symbols.forgotten()),
        "unknown": Encoded(symbols.forgotten()),
        "begins": Encoded(symbols.step == 0),
        "happened": Encoded(symbols.happened()),
    }[term.what]


def _operation(term: terms.Operation, symbols: Symbols) -> Encoded:
    parts = [encoded(part, symbols) for part in term.parts]
    match term.op:
        case "and" | "or":
            return _joined(parts, stop=term.op == "or")
        case "not":
            return Encoded(z3.Not(parts[0].value), parts[0].failed)
        case "if":
            return _chosen(*parts)
        case "fails":
            return Encoded(parts[0].failed)
        case "some":
            return parts[0]
    if term.checked:
        return _arithmetic(term, parts[0], parts[1], symbols)
    failed = _either(*[part.failed for part in parts])
    cases = [_cases(part.value) for part in parts]
    if len(cases) > 1 and (
        any(one.others for one in cases) or math.prod(len(one.known) for one in cases) > _MOST_CASES
    ):
        cases = [_cases(one.symbol()) for one in cases]
    ways = [zip(*way, strict=True) for way in product(*(one.each() for one in cases))]
    found = Cases.of((_worked_out(term.op, numbers), _all(*when)) for numbers, when in ways)
    return Encoded(found if found.known or len(found.others) > 1 else found.others[0][0], failed)


def _worked_out(op: str, numbers: Sequence[Any]) -> Any:
    """What kinds work out themselves: of doubles as the shield does, else exactly."""
    if all(isinstance(one, float) for one in numbers):
        return float(ARITHMETIC[op](*numbers))
    value = numbers[0]
    if op == "neg":
        return -value
    if op == "abs":
        return z3.If(value >= 0, value, -value)
    for other in numbers[1:]:
        a, b = _alike(value, other)
        value = z3.If(b < a if op == "min" else b > a, b, a) if op in ("min", "max") else ARITHMETIC[op](a, b)
    return value


def _arithmetic(term: terms.Operation, a: Encoded, b: Encoded, symbols: Symbols) -> Encoded:
    """Exact: only a division by zero fails. Of numbers that need not be whole, ``%`` is not translated."""
    (left, right), failed = _alike(_symbol(a.value), _symbol(b.value)), _either(a.failed, b.failed)
    if term.op in ("+", "-", "*"):
        return Encoded(ARITHMETIC[term.op](left, right), failed)
    if term.op == "/":
        value = _real(left) / _real(right)
    elif z3.is_int(left):
        # The sign of the result is that of the divisor; SMT's is never negative.
        value = z3.If(right > 0, left % right, -(-left % -right))
    else:
        value = symbols.anything(z3.RealSort(), f"{term.text} is a remainder of numbers that need not be whole")
    return Encoded(value, _either(failed, z3.simplify(right == 0)))


def _within(term: terms.Within, symbols: Symbols) -> Encoded:
    *slopes, most = (encoded(part, symbols) for part in term.parts)
    numbers = [symbols.part(i) for i in term.numbers]
    total = z3.Sum([_symbol(slope.value) * one for slope, one in zip(slopes, numbers, strict=True)])
    if term.tolerance:
        most = most._replace(value=_symbol(most.value) + symbols.slack)
    failed = _either(*[slope.failed for slope in slopes])
    return _compared("<=", Encoded(total, failed), most)


def _joined(parts: Sequence[Encoded], *, stop: bool) -> Encoded:
    """``and`` (stop at the first false) or ``or`` (stop at the first true), left to right."""
    value, failed = parts[0]
    for part in parts[1:]:
        reached = z3.Not(value) if stop else value
        failed = _either(failed, _all(reached, part.failed))
        value = z3.Or(value, part.value) if stop else z3.And(value, part.value)
    return Encoded(value, failed)


def _chosen(test: Encoded, body: Encoded, otherwise: Encoded) -> Encoded:
    """``body if test else otherwise``: only the branch taken can fail."""
    no, (a, b) = z3.Not(test.value), (body.value, otherwise.value)
    failed = _either(test.failed, _all(test.value, body.failed), _all(no, otherwise.failed))
    known = [one.known for one in (a, b) if isinstance(one, Cases)]
    if len(known) < 2 and not any(math.isinf(number) for one in known for number in one):
        return Encoded(z3.If(test.value, *_alike(_symbol(a), _symbol(b))), failed)
    sides = ((a, test.value), (b, no))
    ways = ((value, _all(taken, when)) for side, taken in sides for value, when in _cases(side).each())
    return Encoded(Cases.of(ways), failed)


def _cases(value: Any) -> Cases:
    """A number by cases, of which there may be one."""
    return value if isinstance(value, Cases) else Cases({}, ((value, _TRUE),))


def _compared(op: str, left: Encoded, right: Encoded) -> Encoded:
    """A comparison, of each case with each."""
    failed = _either(left.failed, right.failed)
    both = product(_cases(left.value).each(), _cases(right.value).each())
    ways = [_all(a_when, b_when, _link(op, a, b)) for (a, a_when), (b, b_when) in both]
    ways = [way for way in ways if not z3.is_false(way)]
    return Encoded(ways[0] if len(ways) == 1 else z3.Or(ways), failed)


def _link(op: str, a: Any, b: Any) -> z3.BoolRef:
    """Two numbers compared; all symbols stand for finite ones."""
    floats = [one for one in (a, b) if isinstance(one, float)]
    if len(floats) == 2 or any(map(math.isinf, floats)):
        return z3.BoolVal(COMPARE[op](*[one if isinstance(one, float) else 0.0 for one in (a, b)]))
    compared: z3.BoolRef = COMPARE[op](*_alike(_symbol(a), _symbol(b)))
    return compared


def _symbol(value: Any) -> z3.ArithRef:
    if isinstance(value, Cases):
        return value.symbol()
    return exact(value) if isinstance(value, float) else value


def _all(*conditions: z3.BoolRef) -> z3.BoolRef:
    """Whether all of these hold; kept small."""
    if any(map(z3.is_false, conditions)):
        return z3.BoolVal(False)
    some = [one for one in conditions if not z3.is_true(one)]
    return z3.And(some) if len(some) > 1 else some[0] if some else _TRUE


def _either(*failures: z3.BoolRef) -> z3.BoolRef:
    """Whether any of these fails; left out where it never does, to keep terms small."""
    some = [failed for failed in failures if not z3.is_false(failed)]
    return z3.Or(some) if some else NEVER_FAILS


def _alike(a: z3.ExprRef, b: z3.ExprRef) -> tuple[Any, Any]:
    """Two terms of one sort: both integers, both truths, or else both reals."""
    return (a, b) if a.sort() == b.sort() else (_real(a), _real(b))


def _real(value: z3.ExprRef) -> z3.ArithRef:
    return z3.ToReal(value) if z3.is_int(value) else value
