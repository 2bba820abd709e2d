"""The verdict: what it comes to, and how it reads."""

from dataclasses import replace

import pytest

from guards.proof.scenario import Past, Scenario
from guards.proof.verdict import Answer, Closed, Counterexample, Finding, Outcome, Verdict

HOLE = Counterexample(
    Scenario({"cpu": 0.95}, {}, Past()),
    (Closed("hold", ("a",)), Closed("up", ("a", "b")), Closed("down", ("a",))),
)


@pytest.mark.parametrize(
    ("left", "last_resort", "outcome"),
    [
        ("proved", None, "proved"),
        ("proved", "proved", "proved"),
        ("undecided", "proved", "undecided"),
        ("undecided", "counterexample", "counterexample"),
    ],
)
def test_the_outcome_is_the_worst_of_the_answers(left: Outcome, last_resort: Outcome | None, outcome: Outcome) -> None:
    """The exit code says it."""
    other = None if last_resort is None else Answer("other", last_resort)

    assert Verdict(Answer("left", left), other).outcome == outcome


def test_a_verdict_reads_as_words() -> None:
    """The claim, where it fails, which constraints close which actions there, and what else was found."""
    verdict = Verdict(
        Answer("something is left", "counterexample", counterexample=HOLE),
        Answer("the last resort is", "counterexample", "not there either"),
        (Finding("never", ("b",), "'b' is never true"),),
    )

    assert str(verdict).splitlines() == [
        "counterexample: something is left",
        "  observation: cpu = 0.95",
        "  history: the first decision of an episode",
        "  hold, down: closed by 'a'",
        "  up: closed by 'a' and 'b'",
        "counterexample: the last resort is (not there either)",
        "note: 'b' is never true",
    ]


def test_what_was_tried_is_said_where_it_was_not_everything() -> None:
    """So that nobody takes it for more."""
    hole = replace(HOLE, tried="3 points were tried")

    assert list(hole.lines())[-1] == "3 points were tried"


def test_a_verdict_without_a_last_resort_is_one_answer() -> None:
    """There is nothing to say of what is not declared."""
    assert str(Verdict(Answer("something is left", "proved"))) == "proved: something is left"
