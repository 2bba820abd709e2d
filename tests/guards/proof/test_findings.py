"""Findings about rules: which never speak, which always do, and which another one makes superfluous."""

import pytest

from guards.constraints import Mode
from guards.proof.prove import prove
from tests.guards.holes import MANY, PLANT, bounds, cooldown, rules

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
