"""The walk over a term, which is what an expression means: the compiled functions give the same answers."""

from functools import lru_cache
from itertools import product
from random import Random

import numpy as np
import pytest

from export.spec import Box, MultiDiscrete
from guards.actions import Written, read
from guards.errors import EvaluationFailed
from guards.language import walk
from guards.language.syntax import _Reader, parsed
from guards.language.terms import Term, Value
from guards.proof.scenario import Before, Scenario
from guards.records import NO_ACTION, Schema
from tests.guards.asked import Result, Values, compile_expression
from tests.guards.pairs import DYADIC, FACTORED, NUMBERED, acted, condition, situation, together

PLAIN = Scenario({"load": 0.5, "lag": 0.0, "pods": 3.0, "jobs": 0.0}, {"budget": 2.0, "price": None})


@lru_cache(maxsize=64)
def term(source: str, schema: Schema) -> Term:
    """What an expression of any kind means."""
    return _Reader(source, schema, about_action=True).typed(parsed(source), 0).term


def value(source: str, of: Scenario = PLAIN, action: Written = "up", schema: Schema = DYADIC) -> Value:
    """The value of an expression."""
    return walk.value(term(source, schema), walk.Scene(of.row(schema), read(action, schema.action)))


def failure(source: str, of: Scenario = PLAIN) -> str:
    """Why an expression has no value."""
    with pytest.raises(EvaluationFailed) as failed:
        value(source, of)
    return str(failed.value)


def compare(seed: int, expressions: int, each: int, schema: Schema = DYADIC) -> int:
    """Compare the compiler with the interpreter; gives the number of pairs."""
    random = Random(seed)  # noqa: S311 - a test that repeats itself
    known = [situation(random, schema) for _ in range(400)]
    pairs = 0
    for _ in range(expressions):
        source = condition(random, 3, schema=schema)
        some = random.sample(known, each)
        expression, context = compile_expression(source, schema, "truth"), together(schema, some)
        actions = every_action(random, schema)
        if isinstance(schema.action, Box):
            asked = [np.tile(np.array(action), (each, 1)) for action in actions]
            found = np.stack([outcome(expression.evaluate(context, one), (each,)) for one in asked], axis=1)
        else:
            found = outcome(expression.evaluate(context, None), (each, len(actions)))
        said = [[interpreted(source, one, action, schema) for action in actions] for one in some]
        assert found.tolist() == said, source
        pairs += found.size
    return pairs


def every_action(random: Random, schema: Schema) -> list[Written]:
    """All actions, in the compiler's order; of a Box three."""
    if isinstance(schema.action, MultiDiscrete):
        return list(product(*[factor.names for factor in schema.action.factors]))
    return list(schema.actions) or [acted(random, schema) for _ in range(3)]


def outcome(result: Result, shape: tuple[int, ...]) -> Values:
    """0 for false, 1 for true, 2 where there is no value."""
    truth, failed = result
    return np.where(np.broadcast_to(False if failed is None else failed, shape), 2, np.broadcast_to(truth, shape))


def interpreted(source: str, of: Scenario, action: Written, schema: Schema) -> int:
    """0 for false, 1 for true, 2 where there is no value."""
    try:
        return int(bool(value(source, of, action, schema)))
    except EvaluationFailed:
        return 2


def test_the_compiler_and_the_interpreter_say_the_same() -> None:
    """On a hundred thousand random pairs of an expression and a state."""
    assert compare(seed=1, expressions=1000, each=25) == 100_000


@pytest.mark.parametrize("schema", [FACTORED, NUMBERED], ids=["factors", "numbers"])
def test_they_say_the_same_of_actions_that_are_several(schema: Schema) -> None:
    """Of a choice for each of several factors, which is a number too, and of the numbers of a Box."""
    assert compare(seed=11, expressions=280 if schema is NUMBERED else 140, each=6, schema=schema) >= 5000


@pytest.mark.soak
@pytest.mark.parametrize("schema", [FACTORED, NUMBERED], ids=["factors", "numbers"])
def test_they_say_the_same_of_actions_that_are_several_for_long(schema: Schema) -> None:
    """On more of them."""
    assert compare(seed=12, expressions=6000, each=20, schema=schema) >= 300_000


@pytest.mark.soak
def test_the_compiler_and_the_interpreter_say_the_same_for_long() -> None:
    """On a million of them."""
    assert compare(seed=2, expressions=10_000, each=25) == 1_000_000


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("load", 0.5),
        ("7", 7.0),
        ("True", True),
        ("-pods", -3.0),
        ("pods % -2", -1.0),
        ("abs(-pods) + min(load, lag) - max(load, lag, pods)", 0.0),
        ("action", 1),
        ("previous_action", NO_ACTION),
        ("seconds_since_change", 1e9),
        ("step", 0.0),
        ("action in ('up', 'down')", True),
        ("action not in ('up', 'down')", False),
        ("action == previous_action", False),
        ("0 < load < pods", True),
        ("lag != 0 and 1 / lag > 3", False),
        ("lag == 0 or 1 / lag > 3", True),
        ("not (budget > 3)", True),
    ],
)
def test_an_expression_means_what_python_means(source: str, expected: Value) -> None:
    """Numbers are doubles, and what is not reached is not evaluated."""
    assert value(source) == expected


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("1 / lag > 3", "1 / lag divides by zero"),
        ("pods % jobs", "pods % jobs divides by zero"),
        ("1e308 * (10 * pods)", "1e+308 * (10 * pods) is too large a number"),
        ("price > 1 or True", "the fact price was not given"),
    ],
)
def test_a_failure_says_what_failed(source: str, why: str) -> None:
    """In words that people can find again in the expression."""
    assert failure(source) == why


def test_a_history_that_is_not_here_has_no_step() -> None:
    """The previous action is known again after the first decision here, and the time since a change is the worst."""
    first, later = (Before(known=False), Before(known=False, step=1, previous="up"))

    assert failure("step > 1", Scenario(past=first)).startswith("step is not known")
    assert failure("step > 1", Scenario(past=later)).startswith("step is not known")
    assert failure("previous_action == 'up'", Scenario(past=first)).startswith("previous_action is not known")
    assert value("previous_action == 'up'", Scenario(past=later)) is True
    assert value("seconds_since_change", Scenario(past=first)) == 0
    assert value("seconds_since_change", Scenario(past=Before(step=2, previous="up", seconds_since_change=4))) == 4
