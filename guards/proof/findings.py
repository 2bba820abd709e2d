"""Findings: what is to be said beside the answers, of rules that never speak, that always do, or that say the same as
another; of the last resort; and of what the proof leaves out.

It leaves out that a number is too large for a double, which is an error. Which expressions may come to one is worked
out of the declared ranges alone: an interval for each part. What cannot overflow there never does; what may, need not,
for the interval of a part knows nothing of conditions on it.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from itertools import chain, permutations, product
from typing import NamedTuple

from export.spec import Box
from guards.actions import Written
from guards.constraints import Constraint
from guards.language.terms import Fact, Fixed, Observed, Operation, Part, Past, Term
from guards.language.walk import ARITHMETIC
from guards.proof.scenario import ranges, written
from guards.proof.solving import Formula, Model, Solving
from guards.proof.symbols import z3
from guards.proof.verdict import Finding, Statement
from guards.proof.witness import Witness
from guards.records import Action, Schema

# All questions about rules together may take as long as so many questions of the proof.
_SHARE = 5
_MOST = sys.float_info.max
# Steps and seconds are below it.
_COUNTED = 2.0**53


class _Claims:
    """Claims that something holds in every state, and the states seen so far: most false claims fail in one of them."""

    def __init__(self, solving: Solving) -> None:
        self._solving = solving
        self._seen: list[Model] = []
        self._enough = solving.until(_SHARE)
        self.unanswered = 0

    def hold(self, claim: Formula) -> bool:
        """Whether a claim is known to hold everywhere."""
        if any(z3.is_false(model.eval(claim, model_completion=True)) for model in self._seen):
            return False
        reply = self._solving.ask(z3.Not(claim), min(self._enough, self._solving.until()))
        if reply.model is not None:
            self._seen.append(reply.model)
        self.unanswered += bool(reply.why)
        return reply.impossible


def findings(
    solving: Solving, witness: Witness, left: Statement, last_resort: Written | None, last: Action
) -> Iterator[Finding]:
    """What is to be said beside an answer."""
    if left.counterexample is not None and not left.counterexample.situation.past.known:
        yield from _where_known(solving)
    if left.outcome == "proved":
        yield from _not_covered(solving)
    yield from _of_rules(solving)
    if left.outcome == "proved" and last_resort is not None:
        yield from _where_forbidden(solving, witness, last, written(last_resort))


def _where_known(solving: Solving) -> Iterator[Finding]:
    """Whether it is only after a restart that nothing is left."""
    if solving.ask(solving.nothing_allowed() & solving.symbols.known, solving.until()).impossible:
        text = "where the session's history is known, at least one action is always allowed (proved)"
        yield Finding("history", (), text)


def _not_covered(solving: Solving) -> Iterator[Finding]:
    """Which constraints may speak where exact numbers do not: what is too large for a double is an error."""
    denying = [one for one in solving.constraints if one.mode == "deny"]
    if large := tuple(one.name for one in denying if may_overflow(one, solving.schema)):
        text = (
            f"numbers so large, or divisors so small, that an expression overflows are not covered: the ranges allow "
            f"them in {' and '.join(map(repr, large))}"
        )
        yield Finding("overflow", large, text)


def _where_forbidden(solving: Solving, witness: Witness, last: Action, told: str) -> Iterator[Finding]:
    """Where the last resort is itself forbidden, although something else is allowed."""
    formula, until = solving.at(solving.denied(), solving.last), solving.until()
    reply = solving.ask(formula, until)
    for model in () if reply.model is None else solving.models(formula, reply.model, until):
        situation = solving.situation(model)
        if by := witness.against(situation, last):
            text = (
                f"the last resort {told} is itself forbidden in some situations, and where the baseline's proposal is "
                f"too it leaves as an executed violation: by {' and '.join(map(repr, by))} with "
            )
            yield Finding("last_resort", by, text + "; ".join(situation.lines()))
            return


def _of_rules(solving: Solving) -> Iterator[Finding]:
    """What is to be said of the rules, of whatever mode."""
    claims = _Claims(solving)
    left: list[tuple[Constraint, Formula]] = []
    for rule, true, forbids in solving.conditions():
        if claims.hold(z3.Not(true)):
            yield Finding("never", (rule.name,), f"the condition of {rule.name!r} is never true")
            continue
        if claims.hold(forbids):
            yield Finding("always", (rule.name,), f"{rule.name!r} forbids every action, whatever is observed")
            continue
        left.append((rule, forbids))
        if always := _always(solving, forbids, claims):
            named = ", ".join(map(repr, always))
            yield Finding("always", (rule.name,), f"{rule.name!r} forbids {named} whatever is observed")
    yield from _implications(left, claims)
    if claims.unanswered:
        text = f"{claims.unanswered} questions about single rules and pairs of rules had no answer in their time"
        yield Finding("undecided", (), text)


def _always(solving: Solving, forbids: Formula, claims: _Claims) -> list[str]:
    """The choices that a rule forbids in every state; of those that no constraint tells apart one is asked about."""
    symbols, names = solving.symbols, solving.schema.choices
    closed = [group for group in symbols.alike() if claims.hold(z3.Implies(symbols.chosen(group[0]), forbids))]
    return [names[choice] for choice in sorted(chain(*closed))]


def _implications(rules: list[tuple[Constraint, Formula]], claims: _Claims) -> Iterator[Finding]:
    """Which rules forbid only what another one forbids too."""
    implied = {
        (a.name, b.name) for (a, forbids), (b, too) in permutations(rules, 2) if claims.hold(z3.Implies(forbids, too))
    }
    names = [rule.name for rule, _ in rules]
    for a, b in permutations(names, 2):
        if (a, b) not in implied:
            continue
        if (b, a) not in implied:
            yield Finding("implies", (a, b), f"whatever {a!r} forbids, {b!r} forbids too")
        elif names.index(a) < names.index(b):
            yield Finding("same", (a, b), f"{a!r} and {b!r} forbid the same")


class Interval(NamedTuple):
    """The least and the greatest that a part may be, whether it is whole, and whether it or a part of it overflows."""

    low: float
    high: float
    whole: bool = False
    over: bool = False


def may_overflow(constraint: Constraint, schema: Schema) -> bool:
    """Whether any expression of a constraint may overflow."""
    return _interval(constraint.term(schema), _known(schema)).over


def _known(schema: Schema) -> dict[str | int, Interval]:
    """What each name, and each part of the action, may be."""
    known: dict[str | int, Interval] = dict.fromkeys(schema.facts, Interval(-_MOST, _MOST))
    known |= {i: Interval(0, size - 1, whole=True) for i, size in enumerate(schema.action.sizes)}
    parts = schema.action.fields if isinstance(schema.action, Box) else ()
    fields = {i: (field, "float64") for i, field in enumerate(parts)} | ranges(schema)
    for name, (field, dtype) in fields.items():
        low, high = (-_MOST if field.low is None else field.low), (_MOST if field.high is None else field.high)
        known[name] = Interval(low, high, whole=dtype in ("int64", "uint8"))
    return known


def _interval(term: Term, known: Mapping[str | int, Interval]) -> Interval:
    """What a term may be; of a condition or an action only whether anything in it overflows."""
    parts = [_interval(part, known) for part in term.parts]
    over, numbers = any(part.over for part in parts), parts
    match term:
        case Fixed(value=float() as value):
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
        case Operation(op="abs"):
            low, high = max(parts[0].low, -parts[0].high, 0.0), max(-parts[0].low, parts[0].high)
        case Operation(op="min" | "max"):
            low, high = (
                ARITHMETIC[term.op](*ends) for ends in ([one.low for one in parts], [one.high for one in parts])
            )
        case _:
            return Interval(0, 0, over=over)
    return Interval(low, high, all(part.whole for part in numbers), over)


def _arithmetic(op: str, a: Interval, b: Interval) -> Interval:
    whole = a.whole and b.whole
    if op == "%":
        # Its sign is the divisor's.
        return Interval(min(b.low, 0.0), max(b.high, 0.0), whole)
    if op != "/":
        return _within([ARITHMETIC[op](x, y) for x, y in product(a[:2], b[:2])], whole)
    # A division by zero is an error that the proof knows; by what is nearly zero it overflows.
    least = 1.0 if b.whole else sys.float_info.min * sys.float_info.epsilon
    sides = [side for side in (b.low, b.high, -least, least) if b.low <= side <= b.high and side]
    return _within([x / y for x, y in product(a[:2], sides)] or [0.0])


def _within(ends: list[float], whole: bool = False) -> Interval:
    """The interval of some ends, which may be beyond all doubles."""
    low, high = max(min(ends), -_MOST), min(max(ends), _MOST)
    return Interval(low, high, whole, not all(map(math.isfinite, ends)))
