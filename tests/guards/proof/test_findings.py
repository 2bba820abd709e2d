"""Findings: rules that never speak, always do, or are superfluous; and what cannot be too large is not said to be."""

from random import Random

import numpy as np
import pytest

from guards.constraints import Bounds, Budget, Constraint, Cooldown, Linear, Mode, Rule
from guards.proof.findings import may_overflow
from guards.proof.prove import prove
from guards.records import Schema
from tests.guards.asked import compile_expression
from tests.guards.box_holes import HEATER
from tests.guards.factor_holes import ROOM
from tests.guards.holes import MANY, PLANT, bounds, cooldown, rules
from tests.guards.pairs import situation, together

Told = list[tuple[str, tuple[str, ...]]]


def told(*forbid: str, mode: Mode = "deny") -> Told:
    """Kind and constraints of each finding about some rules."""
    return [(one.kind, one.constraints) for one in prove(PLANT, rules(*forbid, mode=mode), None).findings]


@pytest.mark.parametrize(
    "forbid",
    [
        "cpu > 1",
        "action == 'up' and action == 'down'",
        "cpu > 0.5 and not cpu > 0.4",
        "replicas * replicas > 900",
        "action == 'up' and step < 0",
        "cpu == 2 and price > 3",
        "1 < queue < 2",
    ],
)
def test_a_rule_whose_condition_is_never_true_is_found(forbid: str) -> None:
    """Within the declared ranges; that it may not be evaluated somewhere does not make it true."""
    assert told(forbid) == [("never", ("rule 0",))]


@pytest.mark.parametrize("forbid", ["True", "cpu >= 0", "step >= 0", "price > 3 or price <= 3"])
def test_a_rule_that_forbids_everything_everywhere_is_found(forbid: str) -> None:
    """Where it cannot be evaluated it forbids too."""
    assert told(forbid, mode="warn") == [("always", ("rule 0",))]


def test_a_rule_that_always_forbids_one_action_is_found() -> None:
    """The action is named."""
    verdict = prove(PLANT, rules("action == 'up' or action == 'down' and cpu > 0.5"), None)

    assert [one.text for one in verdict.findings] == ["'rule 0' forbids 'up' whatever is observed"]


def test_actions_that_nobody_names_are_told_together() -> None:
    """They are all alike."""
    verdict = prove(MANY, rules("action != 'a3'"), None)

    assert verdict.findings[0].text.startswith("'rule 0' forbids 'a0', 'a1', 'a2', 'a4', 'a5'")
    assert verdict.findings[0].text.endswith("'a998', 'a999' whatever is observed")


def test_a_rule_that_another_one_contains_is_found() -> None:
    """Whatever their modes: one of the two may be what was meant."""
    narrow, wide = "action == 'up' and cpu > 0.9", "action in ('up', 'down') and cpu > 0.5"

    assert told(narrow, wide) == [("implies", ("rule 0", "rule 1"))]
    assert told(wide, narrow, mode="audit") == [("implies", ("rule 1", "rule 0"))]


def test_two_rules_that_say_the_same_are_found() -> None:
    """Once, however differently they are written."""
    assert told("action == 'up' and cpu > 0.5", "not (cpu <= 0.5 or action != 'up')") == [
        ("same", ("rule 0", "rule 1"))
    ]


def test_rules_that_have_nothing_to_do_with_each_other_are_not_found() -> None:
    """Nor is anything said of constraints that are no rules."""
    constraints = (
        *rules("action == 'up' and cpu > 0.5", "action == 'up' and temp > 5", "action == 'down' and price > 3"),
        bounds({"up": 1}, high=1),
        cooldown("up"),
    )

    assert prove(PLANT, constraints, None).findings == ()


def test_questions_without_time_are_counted() -> None:
    """So that silence is not taken for an answer; all together have the time of five."""
    times = iter([0.0, 0.0, 0.0, *[100.0] * 1000])

    verdict = prove(PLANT, rules("action == 'up' and cpu > 0.5"), None, clock=lambda: next(times))

    assert [one.kind for one in verdict.findings] == ["undecided"]
    assert verdict.findings[0].text == "4 questions about single rules and pairs of rules had no answer in their time"


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
