"""The solver: a model becomes a situation of doubles, and time is kept."""

import time
from collections.abc import Callable

import pytest
import z3

from guards.errors import Untranslatable
from guards.proof.scenario import Scenario
from guards.proof.solving import Solving
from guards.proof.symbols import exact
from tests.guards.holes import PLANT, cooldown, rules


def solving(*forbid: str, clock: Callable[[], float] = lambda: 0.0) -> Solving:
    """A solver over the plant, a cooldown and some rules."""
    return Solving(PLANT, [cooldown("up"), *rules(*forbid)], 0, seconds=2.0, clock=clock)


def found(about: Solving, formula: z3.BoolRef) -> Scenario:
    """A situation in which a formula holds."""
    model = about.ask(formula, about.until()).model
    assert model is not None
    return about.situation(model)


def test_a_number_is_the_nearest_double() -> None:
    """Of a root, of a third, and of what is larger than any double."""
    about = solving("cpu > 0", "rate > 0")
    cpu, rate = about.symbols.field("cpu"), about.symbols.field("rate")

    assert found(about, cpu * cpu * 2 == 1).observation["cpu"] == 0.5**0.5
    assert found(about, cpu * 3 == 1).observation["cpu"] == 1 / 3
    assert found(about, rate == exact(1e300) * exact(1e300)).observation["rate"] == 1.7976931348623157e308


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_what_is_no_number_has_no_translation(number: float) -> None:
    """It is undecided, and no fault."""
    with pytest.raises(Untranslatable, match=f"{number} is no number"):
        exact(number)


def test_only_what_constraints_name_is_in_a_situation() -> None:
    """The rest matters to nobody."""
    situation = found(solving("cpu > price"), z3.BoolVal(True))

    assert list(situation.observation) == ["cpu"]
    assert list(situation.facts) == ["price"]


def test_a_past_is_one_that_can_be() -> None:
    """Nothing is executed before the first decision; what was executed later was so just now."""
    about = solving()
    symbols = about.symbols

    first = found(about, z3.And(symbols.known, symbols.step == 0)).past
    later = found(about, z3.And(symbols.known, symbols.step == 5, symbols.since_change == exact(1e9))).past
    lost = found(about, z3.And(z3.Not(symbols.known), symbols.step == 0, symbols.since_change == 3)).past

    assert (first.previous, first.seconds_since_change, first.used) == (None, None, {})
    assert later.previous in PLANT.actions
    assert (later.seconds_since_change, later.used) == (None, {"up": 0.0})
    assert (lost.known, lost.previous, lost.seconds_since_change, lost.used) == (False, None, 3.0, {"up": 0.0})


def test_an_impossible_formula_has_no_model_and_no_reason() -> None:
    """It is the answer that proves."""
    about = solving("cpu > 0")

    reply = about.ask(about.symbols.field("cpu") == 2, about.until())

    assert reply.impossible
    assert reply == (None, "")


def test_a_question_whose_time_has_passed_is_not_asked() -> None:
    """The clock is the caller's."""
    about = solving(clock=iter([0.0, 5.0]).__next__)

    reply = about.ask(z3.BoolVal(True), about.until())

    assert not reply.impossible
    assert reply.why == "no answer within 2 s"


def test_it_reads_like_a_status_line() -> None:
    """What is asked about."""
    assert repr(solving("cpu > 0.5")) == (
        "<Solving 2 constraints over discrete actions, <Symbols 1 fields, 0 facts, 2 named actions>>"
    )


def test_a_question_that_is_too_hard_has_no_answer() -> None:
    """The solver stops in time: nobody knows a small sum of three cubes that is 114."""
    about = Solving(PLANT, [], (), seconds=0.1, clock=time.monotonic)
    x, y, z = z3.Ints("x y z")

    reply = about.ask(x * x * x + y * y * y + z * z * z == 114, about.until())

    assert not reply.impossible
    assert reply.why == "no answer within 0.1 s"
