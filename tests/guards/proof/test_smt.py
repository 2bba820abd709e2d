"""The translation to SMT: the same verdict as the compiler and the interpreter where doubles are exact."""

from random import Random

import numpy as np
import pytest
import z3

from guards.actions import read
from guards.errors import Untranslatable
from guards.language.syntax import term_of
from guards.language.terms import Term
from guards.proof.encoding import Encoded, encoded
from guards.proof.scenario import Before, Scenario
from guards.proof.solving import constant
from guards.proof.symbols import Symbols, exact
from guards.records import NEVER, Schema
from tests.guards.holes import PLANT
from tests.guards.language.test_walk import every_action, interpreted
from tests.guards.pairs import DYADIC, FACTORED, NUMBERED, condition, situation


def translate(source: str, symbols: Symbols) -> Encoded:
    """A condition as SMT."""
    return encoded(term_of(source, symbols.schema, "truth"), symbols)


Bindings = list[tuple[z3.ExprRef, z3.ExprRef]]


def bindings(symbols: Symbols, of: Scenario) -> Bindings:
    """The values of the symbols in a situation, the action left open."""
    past, ago, before = of.past, of.past.seconds_since_change, of.past.history(symbols.schema).action
    parts = before if isinstance(before, tuple) else [before] * len(symbols.before)
    bound: Bindings = [
        *[(symbol, constant(part, symbol)) for symbol, part in zip(symbols.before, parts, strict=True)],
        (symbols.step, z3.IntVal(past.step)),
        (symbols.known, z3.BoolVal(past.known)),
        (symbols.slack, real(0)),
        (symbols.since_change, real((NEVER if past.known else 0) if ago is None else ago)),
    ]
    for name, value in symbols.fields.items():
        number = of.observation[name]
        bound.append((value, z3.IntVal(int(number)) if z3.is_int(value) else real(number)))
    for name, (value, given) in symbols.facts.items():
        fact = of.facts[name]
        bound += [(value, real(0 if fact is None else fact)), (given, z3.BoolVal(fact is not None))]
    return bound


def real(number: float) -> z3.ArithRef:
    """A real constant."""
    value = exact(number)
    return z3.simplify(z3.ToReal(value)) if z3.is_int(value) else value


def compare(seed: int, expressions: int, each: int, schema: Schema = DYADIC) -> int:
    """Compare the interpreter with the translation; gives the number of pairs."""
    random = Random(seed)  # noqa: S311 - a test that repeats itself
    symbols = everything(schema)
    known = [(one, bindings(symbols, one)) for one in (situation(random, schema) for _ in range(400))]
    pairs = 0
    for _ in range(expressions):
        source, actions = condition(random, 3, remainders=False, schema=schema), every_action(random, schema)
        value, failed = translate(source, symbols)
        outcome = z3.If(failed, z3.IntVal(2), z3.If(value, z3.IntVal(1), z3.IntVal(0)))
        # One number with a digit for each action: a substitution costs more than what it substitutes.
        asked = [
            zip(symbols.acted, np.atleast_1d(read(action, schema.action)).tolist(), strict=True) for action in actions
        ]
        parts = [[(symbol, constant(part, symbol)) for symbol, part in one] for one in asked]
        told = z3.Sum([z3.substitute(outcome, *bound) * 10**i for i, bound in enumerate(parts)])
        for one, bound in random.sample(known, each):
            said = z3.simplify(z3.substitute(told, *bound))
            assert z3.is_int_value(said), source
            expected = [interpreted(source, one, action, schema) for action in actions]
            assert said.as_long() == sum(digit * 10**i for i, digit in enumerate(expected)), source
            pairs += len(actions)
    assert symbols.gaps == []
    return pairs


def everything(schema: Schema) -> Symbols:
    """The symbols of a schema, all of which have been asked for."""
    symbols = Symbols(schema)
    for name in DYADIC.fields:
        symbols.field(name)
    for name in DYADIC.facts:
        symbols.fact(name)
    return symbols


def test_the_translation_and_the_interpreter_say_the_same() -> None:
    """On dyadic numbers, where doubles do not round: the interpreter in turn is held to the compiler."""
    assert compare(seed=3, expressions=1000, each=6) == 24_000


@pytest.mark.parametrize("schema", [FACTORED, NUMBERED], ids=["factors", "numbers"])
def test_they_say_the_same_of_actions_that_are_several(schema: Schema) -> None:
    """Of a choice for each of several factors, which is a number too, and of the numbers of a Box."""
    assert compare(seed=13, expressions=280 if schema is NUMBERED else 140, each=6, schema=schema) >= 5000


@pytest.mark.soak
@pytest.mark.parametrize("schema", [FACTORED, NUMBERED], ids=["factors", "numbers"])
def test_they_say_the_same_of_actions_that_are_several_for_long(schema: Schema) -> None:
    """On more of them."""
    assert compare(seed=14, expressions=2000, each=12, schema=schema) >= 70_000


@pytest.mark.soak
def test_the_translation_and_the_interpreter_say_the_same_for_long() -> None:
    """On more of them."""
    assert compare(seed=4, expressions=4000, each=12) == 192_000


def test_histories_that_happen_are_in_the_domain() -> None:
    """Whatever is executed, and however one steps back: what the proof says covers it."""
    random = Random(5)  # noqa: S311 - a test that repeats itself
    symbols = Symbols(DYADIC)
    symbols.mentioned.update(range(4))
    pasts = [
        Before(),
        Before(known=False),
        Before(known=False, seconds_since_change=3),
        Before(step=1, previous="up"),
        Before(step=1, previous="up", seconds_since_change=2),
        Before(known=False, step=1, previous="up", seconds_since_change=2),
        *[situation(random).past for _ in range(100)],
    ]

    for past in pasts:
        action = (symbols.acted[0], z3.IntVal(0))
        held = z3.substitute(z3.And(symbols.domain()), *bindings(symbols, Scenario(past=past)), action)
        assert z3.is_true(z3.simplify(held)), past


@pytest.mark.parametrize(
    ("name", "inside", "outside"), [("cpu", 1, 1.5), ("temp", -20, -20.5), ("queue", 1000, 1001), ("rate", 1e300, None)]
)
def test_a_field_is_within_its_range(name: str, inside: float, outside: float | None) -> None:
    """As the artefact declares it; without a range it is anything."""
    symbols = Symbols(PLANT)
    field = symbols.field(name)

    assert solvable(symbols, field == exact(inside))
    assert outside is None or not solvable(symbols, field == exact(outside))


def test_a_whole_field_is_never_a_half() -> None:
    """Integers are integers."""
    symbols = Symbols(PLANT)
    queue = symbols.field("queue")

    assert not solvable(symbols, z3.ToReal(queue) == real(1.5))
    assert not solvable(Symbols(DYADIC), Symbols(DYADIC).field("pods") * 2 == 3)


def test_a_constant_is_the_double_that_the_shield_compares_with() -> None:
    """Not the decimal that people wrote for it."""
    symbols = Symbols(PLANT)
    cpu = symbols.field("cpu")

    assert not solvable(symbols, z3.And(translate("cpu == 0.3", symbols).value, cpu == z3.RealVal("3/10")))
    assert solvable(symbols, z3.And(translate("cpu == 0.3", symbols).value, cpu == exact(0.3)))


def test_a_remainder_of_numbers_that_are_not_whole_may_be_anything() -> None:
    """It is told as a gap, and the value may be another one for each action; by zero it fails."""
    symbols = Symbols(PLANT)

    value, failed = translate("(temp if action == 'up' else 1) % cpu > 3", symbols)

    assert symbols.gaps == ["(temp if action == 'up' else 1) % cpu is a remainder of numbers that need not be whole"]
    here, there = (z3.substitute(value, (symbols.acted[0], z3.IntVal(i))) for i in (0, 1))
    assert solvable(symbols, z3.And(here, z3.Not(there)))
    assert not solvable(symbols, z3.And(symbols.field("cpu") == 0, z3.Not(failed)))


def test_what_is_no_part_of_the_language_has_no_translation() -> None:
    """It is not guessed at."""
    with pytest.raises(Untranslatable, match="is not part of the translation"):
        encoded(Term(), Symbols(PLANT))


def test_actions_that_nobody_names_are_looked_at_in_pairs() -> None:
    """One that may be the previous one, and one that is not."""
    symbols = Symbols(DYADIC)

    translate("action == 'down'", symbols)

    assert symbols.actions() == [0, 1, 2]
    assert repr(symbols) == "<Symbols 0 fields, 0 facts, 1 named actions>"


def solvable(symbols: Symbols, formula: z3.BoolRef) -> bool:
    """Whether a formula holds somewhere in the domain."""
    solver = z3.Solver()
    solver.add(*symbols.domain(), symbols.whole(), formula)
    return bool(solver.check() == z3.sat)
