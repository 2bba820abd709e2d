"""The solver behind the proof: one question about all constraints at a time, each within its time."""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeAlias

import numpy as np

from export.spec import Box, Discrete, Field, MultiDiscrete
from guards.constraints import Constraint
from guards.language.terms import Within, every
from guards.proof.encoding import may_forbid, truth
from guards.proof.scenario import Before, Scenario, ranges
from guards.proof.symbols import Symbols, exact, z3
from guards.records import NEVER, NO_ACTION, Action, Schema

_LARGEST = Fraction(np.finfo(np.float64).max)
# Numbers that people can read and doubles can hold: whole ones, or in a range narrower than this a part of one.
_NARROW, _PART = 8, 64
# A half-space that is exceeded by so much is exceeded in doubles, where numbers are not large.
_CLEAR = 2**-10
_RECENT = 3600
# A situation that people can read is worth this share of a question's time.
_PATIENCE = 0.1

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
        last_resort: Action,
        *,
        seconds: float,
        clock: Callable[[], float],
        known_history: bool = False,
    ) -> None:
        self.schema = schema
        self.symbols = Symbols(schema)
        # The parts of it; none where there is none.
        self.last = last_resort if isinstance(last_resort, tuple) else (last_resort,)
        if isinstance(schema.action, Discrete):
            self.symbols.mentioned.update(map(int, self.last))
        self.constraints = list(constraints)
        # Whether each may forbid the action asked about.
        self._forbids = [(constraint, may_forbid(constraint, self.symbols)) for constraint in constraints]
        self._domain = [*self.symbols.domain(), self.symbols.whole()]
        if known_history:
            self._domain.append(self.symbols.known)
        self._seconds, self._clock = seconds, clock

    def __repr__(self) -> str:
        return f"<Solving {len(self.constraints)} constraints over {self.schema.action.kind} actions, {self.symbols!r}>"

    def denied(self) -> Formula:
        """Whether any constraint that denies may forbid the action asked about."""
        return z3.Or([forbids for constraint, forbids in self._forbids if constraint.mode == "deny"])

    def at(self, formula: Formula, action: Sequence[float]) -> Formula:
        """A formula about one certain action."""
        pairs = [(part, constant(one, part)) for part, one in zip(self.symbols.acted, action, strict=True)]
        return z3.simplify(z3.substitute(formula, *pairs))

    def nothing_allowed(self) -> Formula:
        """Whether every action may be forbidden at once."""
        denied = self.denied()
        if isinstance(self.schema.action, Discrete):
            return z3.And([self.at(denied, [action]) for action in self.symbols.actions()])
        return z3.ForAll(list(self.symbols.acted), z3.Implies(self.symbols.whole(), denied))

    def conditions(self) -> list[tuple[Constraint, Formula, Formula]]:
        """Constraints that are a condition, whether it is true (not only without a value), and what they forbid."""
        each = [(one, one.condition(self.schema), forbids) for one, forbids in self._forbids]
        return [(one, truth(term, self.symbols), forbids) for one, term, forbids in each if term is not None]

    def models(self, formula: Formula, model: Model, until: float) -> Iterator[Model]:
        """States in which a formula holds, of which one is known, the best for people first."""
        for wish in self.wishes():
            wished = self.ask(formula & wish, min(until, self.until(_PATIENCE))).model
            if wished is not None:
                yield wished
        yield model

    def until(self, questions: float = 1) -> float:
        """When a question that is asked now has had its time, or so many of them one after another."""
        return self._clock() + self._seconds * questions

    def ask(self, formula: Formula, until: float) -> Reply:
        """Look for a state within the domain in which a formula holds."""
        for start in _solvers_for(formula):
            left = until - self._clock()
            if left <= 0:
                break
            solver = start()
            # The last of them may use up the time; one before it leaves half.
            solver.set(timeout=max(1, int(left * (1000 if start is z3.Solver else 500))))
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
        remembered = len(executed_just_now(self.constraints, self.schema))
        plain = z3.And(
            symbols.known,
            *[given for _, given in symbols.facts.values()],
            # Actions enough to have executed those that are remembered.
            z3.Or(symbols.step == 0, symbols.step > 1 + remembered),
            z3.Or(symbols.since_change <= _RECENT, symbols.since_change == exact(NEVER)),
        )
        parts = [(value, _part_of(within[name][0])) for name, value in symbols.fields.items()]
        if isinstance(self.schema.action, Box):
            parts += [
                (one, _part_of(field)) for one, field in zip(symbols.before, self.schema.action.fields, strict=True)
            ]
        parts += [(value, 1) for value in (symbols.since_change, *(value for value, _ in symbols.facts.values()))]
        round_ = z3.And([z3.IsInt(value * part) for value, part in parts if z3.is_real(value)])
        some = (z3.And(plain, round_, symbols.step == 0), z3.And(plain, round_), plain, round_)
        terms = [term for one in self.constraints for term in every(one.term(self.schema))]
        if any(isinstance(term, Within) and term.tolerance for term in terms):
            yield from (z3.And(one, symbols.slack == exact(_CLEAR)) for one in some)
        yield from some

    def way_out(self, situation: Scenario, until: float) -> Action | None:
        """An action that no constraint may forbid in a situation, its numbers the nearest doubles."""
        model = self.ask(z3.And(*self._given(situation), z3.Not(self.denied())), until).model
        if model is None:
            return None
        parts, action = [_number(model, part) for part in self.symbols.acted], self.schema.action
        # A number that no constraint names may be anything in the Box, of which the solver was told nothing.
        whole = np.clip(parts, action.low, action.high).tolist() if isinstance(action, Box) else map(int, parts)
        return tuple(whole)

    def causes(self, situation: Scenario, until: float) -> tuple[str, ...]:
        """Constraints that together leave nothing in a situation, and would without any one of them."""
        denying = [(one.name, forbids) for one, forbids in self._forbids if one.mode == "deny"]
        left = {name: forbids for name, forbids in denying if not z3.is_false(forbids)}
        state = z3.And(self._given(situation))
        for name in tuple(left):
            others = [forbids for other, forbids in left.items() if other != name]
            if self.ask(z3.And(state, z3.Not(z3.Or(others))), until).impossible:
                del left[name]
        return tuple(left)

    def _given(self, situation: Scenario) -> list[Formula]:
        """That the state is a situation's."""
        symbols, past, facts = self.symbols, situation.past, situation.facts
        ago = (NEVER if past.known else 0.0) if past.seconds_since_change is None else past.seconds_since_change
        given = [
            symbols.slack == 0,
            symbols.known == past.known,
            symbols.step == past.step,
            symbols.since_change == exact(ago),
        ]
        given += [value == exact(situation.observation[name]) for name, value in symbols.fields.items()]
        for name, (value, told) in symbols.facts.items():
            fact = facts[name]
            given.append(z3.Not(told) if fact is None else z3.And(told, value == exact(fact)))
        before = past.history(self.schema).action
        if before != NO_ACTION:
            parts = before if isinstance(before, tuple) else (before,)
            given += [part == exact(one) for part, one in zip(symbols.before, parts, strict=True)]
        return given

    def situation(self, model: Model) -> Scenario:
        """The state of a model, its numbers the nearest doubles."""
        told = {name: z3.is_true(model.eval(given, True)) for name, (_, given) in self.symbols.facts.items()}
        return Scenario(
            observation={name: _number(model, value) for name, value in self.symbols.fields.items()},
            facts={n: _number(model, value) if told[n] else None for n, (value, _) in self.symbols.facts.items()},
            past=self._past(model),
        )

    def _past(self, model: Model) -> Before:
        symbols = self.symbols
        known = z3.is_true(model.eval(symbols.known, True))
        ago, step = _number(model, symbols.since_change), int(_number(model, symbols.step))
        happened = step > 0 or not known
        used = executed_just_now(self.constraints, self.schema) if happened else []
        return Before(
            known=known,
            step=step,
            previous=self._previous(model) if step > 0 else None,
            seconds_since_change=None if known and ago == NEVER else ago,
            used=dict.fromkeys(used, 0.0),
            kept=used_up(self.constraints, self.schema) if happened else {},
        )

    def _previous(self, model: Model) -> str | tuple[str | float, ...]:
        """The action before, as people write it."""
        parts, action = [_number(model, part) for part in self.symbols.before], self.schema.action
        if isinstance(action, MultiDiscrete):
            both = zip(action.factors, parts, strict=True)
            return tuple(factor.names[int(part)] for factor, part in both)
        return action.names[int(parts[0])] if isinstance(action, Discrete) else tuple(parts)


def executed_just_now(constraints: Sequence[Constraint], schema: Schema) -> list[str]:
    """The choices whose uses close most: those that constraints remember, executed just now."""
    tracked = sorted({index for constraint in constraints for index in constraint.tracks(schema)})
    return [schema.choices[index] for index in tracked]


def used_up(constraints: Sequence[Constraint], schema: Schema) -> dict[str, tuple[float, ...]]:
    """What constraints keep when all that they allow was done just now, at the time 0."""
    keepers = [(constraint.name, constraint.keeper(schema)) for constraint in constraints]
    return {name: keeper.used_up for name, keeper in keepers if keeper is not None}


def constant(number: float, like: z3.ArithRef) -> z3.ArithRef:
    """A number as a constant of an unknown's sort."""
    value = exact(number)
    return z3.simplify(z3.ToReal(value)) if z3.is_real(like) and z3.is_int(value) else value


def _solvers_for(formula: Formula) -> Sequence[Callable[[], z3.Solver]]:
    """What to ask, one after another: of a claim about all actions first what is made for it."""
    for_all = any(map(z3.is_quantifier, (formula, *formula.children())))
    return (z3.Tactic("qsat").solver, z3.Solver) if for_all else (z3.Solver,)


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
