"""Overflow: what cannot be too large within the declared ranges is not said to be."""

from random import Random

import numpy as np
import pytest

from guards.constraints import Bounds, Budget, Constraint, Cooldown, Linear, Rule
from guards.proof.overflow import may_overflow
from guards.records import Schema
from tests.guards.asked import compile_expression
from tests.guards.box_holes import HEATER
from tests.guards.factor_holes import ROOM
from tests.guards.holes import PLANT
from tests.guards.pairs import situation, together


@pytest.mark.parametrize(
    ("forbid", "over"),
    [
        ("cpu * 1e300 > 1", False),
        ("replicas * 1e307 > 1", True),
        ("temp + 1e308 - cpu > -1", False),
        ("1e308 + temp * 1e307 > 1", True),
        ("rate > 1e300", False),
        ("rate + 1 > 1", False),
        ("-rate * 2 > 1", True),
        ("rate - rate > 1", True),
        ("price * cpu > 1", False),
        ("price * 2 > 1 or cpu > 1", True),
        ("cpu / replicas > 1", False),
        ("replicas / cpu > 1", True),
        ("cpu / temp > 1", True),
        ("queue / queue > 1", False),
        ("cpu / (0 * cpu) > 1", False),
        ("cpu / 0 > 1", False),
        ("rate % 7 * 1e300 > 1", False),
        ("rate % rate * 2 > 1", True),
        ("min(rate, 5) * max(rate, 1) > 1", True),
        ("min(abs(rate), 5) * 1e300 > 1", False),
        ("max(-abs(rate), -5) * 1e300 > 1", False),
        ("(rate if cpu > 0.5 else 1) * 2 > 1", True),
        ("(temp if cpu > 0.5 else 1) * 2 > 1", False),
        ("step * step * 1e200 > 1 and seconds_since_change + 1e300 > 1", False),
        ("action == 'up' and not cpu > 0.5", False),
    ],
)
def test_what_may_overflow_is_found(forbid: str, over: bool) -> None:
    """By the ranges of what it is made of, and by nothing else."""
    assert may_overflow(Rule(name="rule", forbid=forbid), PLANT) is over


@pytest.mark.parametrize(
    ("constraint", "schema", "over"),
    [
        (Cooldown(name="c", actions=("up",), seconds=3), PLANT, False),
        (Bounds(name="b", of="rate * 2", effect={"up": 1}, high=3), PLANT, True),
        (Budget(name="b", cost="rate * 2", at_most=1, seconds=3), PLANT, True),
        (Budget(name="b", cost="heat * 1e307 * fan", at_most=1, seconds=3), ROOM, False),
        (Bounds(name="b", of="heat", low=3, high="rate * 2"), HEATER, True),
        (Linear(name="l", coefficients={"heat": 1, "fan": "rate * 2"}, at_most=3), HEATER, True),
        (Linear(name="l", coefficients={"heat": 1}, at_most="temp * 2"), HEATER, False),
        (Rule(name="r", forbid="heat * 1e306 > 1"), HEATER, False),
        (Rule(name="r", forbid="free * 2 > 1"), HEATER, True),
    ],
)
def test_every_expression_of_a_constraint_counts(constraint: Constraint, schema: Schema, over: bool) -> None:
    """And the numbers of an action have ranges too."""
    assert may_overflow(constraint, schema) is over


def test_what_may_not_overflow_does_not() -> None:
    """In doubles, at the ends of the ranges and anywhere between."""
    random = Random(9)  # noqa: S311 - a test that repeats itself
    context = together(PLANT, [situation(random, PLANT) for _ in range(200)])
    for _ in range(200):
        parts = [random.choice(("cpu", "temp", "queue", "replicas", "1e150", "2e-3")) for _ in range(4)]
        ops = [random.choice("+-*") for _ in range(3)]
        source = f"(({parts[0]} {ops[0]} {parts[1]}) {ops[1]} {parts[2]}) {ops[2]} {parts[3]} > 1"
        if not may_overflow(Rule(name="rule", forbid=source), PLANT):
            _, failed = compile_expression(source, PLANT, "truth").evaluate(context, None)
            assert failed is None or not np.any(failed), source
