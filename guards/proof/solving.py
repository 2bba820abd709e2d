"""The solver behind the proof: one question about all constraints at a time, each within its time."""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeAlias

import numpy as np

from export.spec import Field
from guards.constraints import Constraint, Rule
from guards.proof.closing import executed_just_now, may_forbid, used_up
from guards.proof.situation import Past, Situation, ranges
from guards.proof.smt import Symbols, translate, z3
from guards.records import NEVER, NO_ACTION, Schema

_LARGEST = Fraction(np.finfo(np.float64).max)
# Numbers that people can read and doubles can hold: whole ones, or in a range narrower than this a part of one.
_NARROW, _PART = 8, 64

Formula: TypeAlias = z3.BoolRef
Model: TypeAlias = z3.ModelRef


class Reply(NamedTuple):
    """What a question came to: a model, no model (``why`` is empty), or no answer (``why`` says why)."""

    model: Model | None = None
    why: str = ""

    @property
    def impossible(self) -> bool:
        return self.model is None and not self.why


class Solving:
    """The constraints' formulas over one set of unknowns, and the questions asked of them."""

    def __init__(
        self,
        schema: Schema,
        constraints: Sequence[Constraint],
        last_resort: str | None,
        *,
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self.schema = schema
        self.symbols = Symbols(schema)
        self.last = None if last_resort is None else self.symbols.index(last_resort)
        self.constraints = list(constraints)
        # In the constraints' order: whether each may forbid the action asked about.
        self.forbids = [may_forbid(constraint, self.symbols) for constraint in constraints]
        self.actions = self.symbols.actions()
        self._domain = self.symbols.domain()
        self._seconds, self._clock = seconds, clock

    def __repr__(self) -> str:
        return f"<Solving {len(self.constraints)} constraints over {len(self.actions)} actions, {self.symbols!r}>"

    def denied(self) -> Formula:
        """Whether any constraint that denies may forbid the action asked about."""
        pairs = zip(self.constraints, self.forbids, strict=True)
        return z3.Or([forbids for constraint, forbids in pairs if constraint.mode == "deny"])

    def at(self, formula: Formula, action: int) -> Formula:
        """A formula about one certain action."""
        return z3.simplify(z3.substitute(formula, (self.symbols.action, z3.IntVal(action))))

    def nothing_allowed(self) -> Formula:
        """Whether every action may be forbidden at once."""
        denied = self.denied()
        return z3.And([self.at(denied, action) for action in self.actions])

    def true_somewhere(self, rule: Rule) -> Formula:
        """Whether a rule's condition is true, not only impossible to evaluate."""
        condition = translate(rule.forbid, self.symbols)
        return z3.And(condition.value, z3.Not(condition.failed))

    def until(self, questions: float = 1) -> float:
        """When a question that is asked now has had its time, or so many of them one after another."""
        return self._clock() + self._seconds * questions

    def both(self, formula: Formula, wish: Formula) -> Formula:
        """Two formulas at once."""
        return z3.And(formula, wish)

    def ask(self, formula: Formula, until: float) -> Reply:
        """Look for a state within the domain in which a formula holds."""
        left = until - self._clock()
        if left > 0:
            solver = z3.Solver()
            solver.set(timeout=max(1, int(left * 1000)))
            solver.add(*self._domain, formula)
            found = solver.check()
            if found == z3.sat:
                return Reply(model=solver.model())
            if found == z3.unsat:
                return Reply()
        return Reply(why=f"no answer within {self._seconds:g} s")

    def wishes(self) -> Iterator[Formula]:
        """What to ask of a state that is shown to people, the best first: an ordinary one in round numbers."""
        symbols, within = self.symbols, ranges(self.schema)
        remembered = len(executed_just_now(self.constraints, symbols))
        plain = z3.And(
            symbols.known,
            *[given for _, given in symbols.facts.values()],
            # Actions enough to have executed those that are remembered.
            z3.Or(symbols.step == 0, symbols.step > 1 + remembered),
        )
        parts = [(value, _part_of(within[name][0])) for name, value in symbols.fields.items()]
        parts += [(value, 1) for value in (symbols.since_change, *(value for value, _ in symbols.facts.values()))]
        round_ = z3.And([z3.IsInt(value * part) for value, part in parts if z3.is_real(value)])
        yield from (z3.And(plain, round_, symbols.step == 0), z3.And(plain, round_), plain, round_)

    def situation(self, model: Model) -> Situation:
        """The state of a model, its numbers the nearest doubles."""
        symbols = self.symbols
        facts = {
            name: _number(model, value) if z3.is_true(model.eval(given, model_completion=True)) else None
            for name, (value, given) in symbols.facts.items()
        }
        return Situation(
            observation={name: _number(model, value) for name, value in symbols.fields.items()},
            facts=facts,
            past=self._past(model),
        )

    def _past(self, model: Model) -> Past:
        symbols = self.symbols
        known = z3.is_true(model.eval(symbols.known, model_completion=True))
        ago = _number(model, symbols.since_change)
        step, previous = int(_number(model, symbols.step)), int(_number(model, symbols.previous))
        happened = step > 0 or not known
        used = executed_just_now(self.constraints, symbols) if happened else []
        return Past(
            known=known,
            step=step,
            previous=None if previous == NO_ACTION else symbols.schema.actions[previous],
            seconds_since_change=None if known and ago == NEVER else ago,
            used=dict.fromkeys(used, 0.0),
            kept=used_up(self.constraints) if happened else {},
        )


def _part_of(field: Field) -> int:
    """How many parts a whole is divided into, for round numbers within a field's range."""
    wide = field.low is None or field.high is None or field.high - field.low >= _NARROW
    return 1 if wide else _PART


def _number(model: Model, term: z3.ArithRef) -> float:
    """The double nearest to a term's value in a model."""
    value = model.eval(term, model_completion=True)
    if z3.is_algebraic_value(value):
        value = value.approx(30)
    fraction = Fraction(value.as_long()) if z3.is_int_value(value) else Fraction(value.as_fraction())
    return float(max(-_LARGEST, min(_LARGEST, fraction)))
