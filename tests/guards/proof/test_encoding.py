"""What a constraint may forbid: the same as what the bound constraint forbids, its history at its worst."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import z3

from export.spec import Factor, MultiDiscrete
from guards.abstention import Fresh
from guards.actions import read
from guards.constraints import Bounds, Budget, Constraint, Cooldown, Linear, MaxSwitches, OverActions, RateLimit, Rule
from guards.errors import GuardMisconfigured
from guards.language.terms import Term
from guards.proof.encoding import may_forbid
from guards.proof.solving import constant, executed_just_now, used_up
from guards.proof.symbols import Symbols
from guards.records import Schema
from tests.fakes import Fickle
from tests.guards.asked import binding
from tests.guards.batched import Shield
from tests.guards.language.test_walk import every_action
from tests.guards.pairs import DYADIC, FACTORED, NUMBERED, situation, together
from tests.guards.proof.test_smt import bindings

ONES: list[Constraint] = [
    Rule(name="rule", forbid="action == 'up' and load / lag > 2"),
    Rule(name="fact", forbid="action != 'hold' and price > pods"),
    Rule(name="history", forbid="action == previous_action and step > 1"),
    Bounds(name="bounds", of="pods", effect={"up": 2, "down": -1, "jump": 0}, low=-3, high=5),
    Bounds(name="half", of="pods", effect={"up": 2, "down": -1}),
    Bounds(name="vast", of="pods", effect={"up": 1.7e308, "jump": 1, "down": -2}, low=-1.7e308, high=-1.7e308),
    Bounds(name="deep", of="pods", effect={"up": 2, "jump": -1.7e308, "down": -1}, low=1.7e308, high=1.7e308),
    Bounds(name="fails", of="pods / lag", effect={"up": 0.25}, high=2),
    Rule(name="lenient", forbid="action != 'hold' and price > pods", on_error="allow"),
    Fresh(name="fresh", max_age_seconds=3),
]
LEVELS = {"hold": 0.0, "up": 2.0, "down": -2.0, "jump": 2.0}
REMEMBERING: list[Constraint] = [
    Cooldown(name="rest", actions=("up", "jump"), seconds=5),
    RateLimit(name="moves", per_second=0.5, effect={"up": 1, "down": -1, "hold": 0}),
    RateLimit(name="steep", per_second=1e-9, effect={"up": 1, "down": -2}),
    RateLimit(name="vast", per_second=1.7e308, effect={"up": 1.7e308, "down": -1.7e308}),
    RateLimit(name="apart", per_second=1.7e308, levels={"hold": 1.7e308, "up": -1.7e308, "down": 0.0, "jump": 0.0}),
    RateLimit(name="levels", per_second=0.5, levels=LEVELS),
    RateLimit(name="one level", per_second=0.5, levels=dict.fromkeys(DYADIC.actions, 1.0)),
    Budget(name="spend", cost="(2 if action == 'up' else 0) + lag", at_most=3, seconds=60),
    Budget(name="dear", cost="pods / lag", at_most=3, seconds=60),
    MaxSwitches(name="calm", at_most=2, seconds=60),
]


FACTORS: list[Constraint] = [
    Rule(name="rule", forbid="fan == 'off' and load / heat > 2 or 'on' != heat and pods > fan"),
    Rule(name="lenient", forbid="fan in ('low', 'high') and price > pods", on_error="allow"),
    Bounds(name="bounds", of="pods", effect={"fan=low": 2, "fan=high": 4, "heat=on": -3}, low=-3, high=5),
    Cooldown(name="rest", actions=("fan=high", "heat=on"), seconds=5),
    RateLimit(name="moves", per_second=0.5, effect={"fan=low": 1, "fan=high": -1, "heat=on": 1}),
    RateLimit(name="steep", per_second=1e-9, effect={"fan=low": 1, "heat=on": 1}),
    RateLimit(name="levels", per_second=0.5, levels={"fan=off": 0.0, "fan=low": 2.0, "fan=high": 2.0}),
    RateLimit(
        name="sums",
        per_second=0.5,
        levels={"fan=off": 0.0, "fan=low": 2.0, "fan=high": 4.0, "heat=off": 0.0, "heat=on": -2.0},
    ),
    Budget(name="spend", cost="fan * 2 - heat + lag", at_most=3, seconds=60),
    MaxSwitches(name="calm", at_most=2, seconds=60),
]
NUMBERS: list[Constraint] = [
    Rule(name="rule", forbid="power > 2 and load / tilt > 2 or tilt < pods"),
    Bounds(name="bounds", of="power", low="load / lag", high=5),
    Bounds(name="half", of="tilt", low=-0.5),
    Bounds(name="whole", of="tilt", high="pods"),
    Linear(name="plane", coefficients={"power": 2, "tilt": "lag - 1"}, at_most="load"),
    Linear(name="fails", coefficients={"power": "price"}, at_most=3),
    RateLimit(name="moves", of="power", per_second=0.5),
    RateLimit(name="assumed", of="tilt", per_second=0.5, assume=(-1, 1)),
    RateLimit(name="certain", of="tilt", per_second=0.5, assume=(0.5, 0.5)),
    Budget(name="spend", cost="abs(power) - 1", at_most=3, seconds=60),
    Fresh(name="fresh", max_age_seconds=3),
]


@pytest.mark.parametrize("constraint", FACTORS, ids=lambda one: one.name)
def test_over_factors_it_may_forbid_what_it_forbids_at_its_worst(constraint: Constraint) -> None:
    """Neither more nor less than with all used up, of any whole action."""
    held_to_the_shield(constraint, FACTORED)


@pytest.mark.parametrize("constraint", NUMBERS, ids=lambda one: one.name)
def test_over_a_box_it_may_forbid_what_it_forbids_at_its_worst(constraint: Constraint) -> None:
    """Of any point, as far as doubles do not round."""
    held_to_the_shield(constraint, NUMBERED)


def held_to_the_shield(constraint: Constraint, schema: Schema) -> None:
    """Compare what a formula says with the shield, in random situations at their worst."""
    random = Random(8)  # noqa: S311 - a test that repeats itself
    symbols, shield = Symbols(schema), Shield([constraint], schema)
    formula = may_forbid(constraint, symbols)

    for one in (situation(random, schema) for _ in range(120)):
        happened = one.past.step > 0 or not one.past.known
        worst = (
            dict.fromkeys(executed_just_now([constraint], symbols.schema), 0.0),
            used_up([constraint], symbols.schema),
        )
        used, kept = worst if happened else ({}, {})
        at_worst = replace(one, past=replace(one.past, used=used, kept=kept))
        again = [] if one.past.previous is None else [one.past.previous]
        for action in [*every_action(random, schema), *again]:
            done = read(action, schema.action)
            parts = zip(symbols.acted, done if isinstance(done, tuple) else [done], strict=True)
            bound = [*bindings(symbols, one), *[(symbol, constant(part, symbol)) for symbol, part in parts]]
            may = z3.is_true(z3.simplify(z3.substitute(formula, *bound)))
            assert may is not bool(shield.check(together(schema, [at_worst]), np.array([done]))[0]), (one, action)


def test_sums_that_are_too_many_have_no_translation() -> None:
    """The formula would be too large."""
    factors = tuple(Factor(name=f"f{i}", names=("off", "on")) for i in range(11))
    schema = replace(FACTORED, action=MultiDiscrete(factors=factors))
    symbols, effect = Symbols(schema), {f"f{i}=on": 2.0**i for i in range(11)}

    may_forbid(RateLimit(name="moves", per_second=1, effect=effect), symbols)

    assert symbols.gaps == ["'moves': its effects have more than 1024 different sums"]


def test_sums_that_no_double_holds_have_no_translation() -> None:
    """In whatever order they are added."""
    symbols, effect = Symbols(FACTORED), {"fan=low": 1.7e308, "heat=on": -1.7e308}

    may_forbid(Bounds(name="far", of="pods", effect=effect, high=3), symbols)

    assert symbols.gaps == ["'far': its effects have sums that may be too large for a double"]


@pytest.mark.parametrize("constraint", ONES, ids=lambda one: one.name)
def test_what_has_no_history_of_its_own_may_forbid_what_it_forbids(constraint: Constraint) -> None:
    """In any situation, for any action, neither more nor less."""
    random = Random(6)  # noqa: S311 - a test that repeats itself
    some = [situation(random) for _ in range(60)]
    symbols = Symbols(DYADIC)
    formula = may_forbid(constraint, symbols)

    with np.errstate(over="ignore"):
        cells = np.broadcast_to(binding(constraint, DYADIC)(together(DYADIC, some), None), (60, 4))

    for i, one in enumerate(some):
        for action in range(4):
            bound = [*bindings(symbols, one), (symbols.acted[0], z3.IntVal(action))]
            assert z3.is_true(z3.simplify(z3.substitute(formula, *bound))) is bool(cells[i, action])


@pytest.mark.parametrize("constraint", REMEMBERING, ids=lambda one: one.name)
def test_what_has_a_history_may_forbid_what_it_forbids_at_its_worst(constraint: Constraint) -> None:
    """Never less than it forbids, whatever it remembers; and no more than where all that it allows was just done."""
    random = Random(7)  # noqa: S311 - a test that repeats itself
    symbols = Symbols(DYADIC)
    with np.errstate(over="ignore"):
        formula, forbids = may_forbid(constraint, symbols), binding(constraint, DYADIC)

    for one in (situation(random) for _ in range(150)):
        happened = one.past.step > 0 or not one.past.known
        worst = (
            dict.fromkeys(executed_just_now([constraint], symbols.schema), 0.0),
            used_up([constraint], symbols.schema),
        )
        used, kept = worst if happened else ({}, {})
        at_worst = replace(one, past=replace(one.past, used=used, kept=kept))
        with np.errstate(over="ignore"):
            now, then = (
                np.broadcast_to(forbids(together(DYADIC, [each]), None), (1, 4))[0].tolist() for each in (one, at_worst)
            )
        bound = bindings(symbols, one)
        formulas = [z3.substitute(formula, *bound, (symbols.acted[0], z3.IntVal(action))) for action in range(4)]
        may = [z3.is_true(z3.simplify(one)) for one in formulas]
        assert may == then, one
        assert all(may[action] or not now[action] for action in range(4)), one


def test_the_worst_of_all_is_told_by_name() -> None:
    """What was executed, and what was used up."""
    assert executed_just_now(REMEMBERING, DYADIC) == ["up", "jump"]
    assert used_up(REMEMBERING, DYADIC) == {
        **dict.fromkeys(("moves", "steep", "vast", "apart", "levels", "one level"), (0.0,)),
        **dict.fromkeys(("spend", "dear"), (0.0, 3.0)),
        "calm": (0.0, 0.0),
    }


def test_every_kind_has_a_translation() -> None:
    """Or a configuration that has it is hardly ever proved."""
    held = {type(one) for one in (*ONES, *REMEMBERING, *FACTORS, *NUMBERS)}
    union = OverActions.__args__

    assert set(union) <= held
    for one in (*ONES, *REMEMBERING):
        symbols = Symbols(DYADIC)
        may_forbid(one, symbols)
        assert symbols.gaps == []


def test_bounds_that_are_expressions_are_for_a_box() -> None:
    """They do not bind here."""
    with pytest.raises(GuardMisconfigured, match="low and high are expressions, expected numbers"):
        may_forbid(Bounds(name="b", of="load", high="lag"), Symbols(DYADIC))


def test_what_has_no_translation_may_be_anything() -> None:
    """Of any action, each for itself, and says so."""
    symbols, fault = Symbols(DYADIC), "a fault is a remainder of numbers that need not be whole"

    formula = may_forbid(Fickle(name="fickle", action=1), symbols)

    here, there = (z3.substitute(formula, (symbols.acted[0], z3.IntVal(i))) for i in (1, 0))
    solver = z3.Solver()
    solver.add(here, z3.Not(there))
    assert solver.check() == z3.sat
    assert symbols.gaps == [fault]


def test_a_constraint_that_has_no_translation_may_forbid_anything() -> None:
    """All actions are told apart."""
    symbols = Symbols(DYADIC)

    may_forbid(Unheard(name="unheard"), symbols)

    assert symbols.actions() == [0, 1, 2, 3]
    assert symbols.gaps == ["'unheard': Term(parts=()) is not part of the translation"]


class Unheard(Constraint):
    """A constraint of a term that nobody knows."""

    def term(self, schema: Schema) -> Term:  # noqa: ARG002 - it has no meaning
        return Term()
