"""A situation: what people write down is what the guards see."""

import numpy as np
import pytest

from export.spec import Array, Discrete
from guards.proof.situation import Past, Situation, nearest, ranges, shown
from guards.records import NEVER, NO_ACTION, UNKNOWN_ACTION, Schema
from tests.guards.holes import PLANT


def test_the_context_has_what_is_said_where_the_schema_has_it() -> None:
    """A fact that is not given is no number, and a field that is not said is near zero within its range."""
    context = Situation({"temp": 7.5, "queue": 3}, {"budget": 2.0, "price": None}).context(PLANT)

    assert context.observation.tolist() == [[0, 1, 7.5, 0, 3]]
    assert np.isnan(context.facts[0, 0])
    assert context.facts[0, 1] == 2
    assert context.mask is None


def test_a_past_of_nothing_is_the_beginning_of_an_episode() -> None:
    """It is known that nothing was executed."""
    context = Situation().context(PLANT)

    assert context.previous_action().tolist() == [NO_ACTION]
    assert context.seconds_since_change().tolist() == [NEVER]
    assert context.step().tolist() == [0]
    assert context.seconds_since_use([1]).tolist() == [NEVER]


def test_a_known_past_is_the_history_as_it_was() -> None:
    """Seconds are exact."""
    past = Past(step=3, previous="up", seconds_since_change=0.1, used={"up": 0.3})

    context = Situation(past=past).context(PLANT)

    assert context.previous_action().tolist() == [1]
    assert context.seconds_since_change().tolist() == [0.1]
    assert context.step().tolist() == [3]
    assert context.seconds_since_use([1]).tolist() == [0.3]


def test_a_past_that_is_not_here_is_the_worst() -> None:
    """From the moment at which the session was first seen."""
    seen = Situation(past=Past(known=False, seconds_since_change=4)).context(PLANT)
    now = Situation(past=Past(known=False)).context(PLANT)

    assert seen.previous_action().tolist() == [UNKNOWN_ACTION]
    assert np.isnan(seen.step()).all()
    assert seen.seconds_since_change().tolist() == seen.seconds_since_use([1]).tolist() == [4]
    assert now.seconds_since_change().tolist() == [0]


@pytest.mark.parametrize(
    ("past", "words"),
    [
        (Past(), "the first decision of an episode"),
        (
            Past(known=False),
            (
                "the session's history is not known here (a restart, another replica, a session that is new); "
                "the first decision here"
            ),
        ),
        (Past(step=1, previous="up"), "after 1 decision, the last one 'up'"),
        (
            Past(step=4, previous="up", seconds_since_change=2.5, used={"up": 0.0, "down": 9}),
            (
                "after 4 decisions, the last one 'up'; the action changed 2.5 s ago; "
                "executed 'up' just now, 'down' 9 s ago"
            ),
        ),
        (
            Past(step=4, previous="up", switched=(3, 9.5), changed={"slowly": 2}, spent={"spend": 5}),
            (
                "after 4 decisions, the last one 'up'; before that it changed 3 s and 9.5 s ago; "
                "the value of 'slowly' changed 2 s ago; spent 5 of 'spend'"
            ),
        ),
        (
            Past(known=False, step=2, previous="up", seconds_since_change=3),
            (
                "the session's history is not known here (a restart, another replica, a session that is new); "
                "after 2 decisions, the last one 'up'; the session was first seen 3 s ago"
            ),
        ),
    ],
)
def test_a_past_reads_as_words(past: Past, words: str) -> None:
    """As one would tell it."""
    assert list(Situation(past=past).lines()) == [f"history: {words}"]


def test_what_constraints_keep_is_in_the_history() -> None:
    """And in the words."""
    past = Past(step=1, previous="up", kept={"spend": (0.0, 5.0)})

    assert past.history(PLANT).kept == {"spend": (0.0, 5.0)}
    assert list(past.lines())[-1] == "used up just now: 'spend'"


def test_a_situation_reads_as_words() -> None:
    """Numbers as people write them, and what was not given."""
    lines = list(Situation({"cpu": 0.25, "replicas": 3.0}, {"price": None, "budget": 1.5}).lines())

    assert lines[:2] == ["observation: cpu = 0.25, replicas = 3", "facts: price was not given, budget = 1.5"]


def test_numbers_of_an_array_have_no_names() -> None:
    """There is nothing to say of them."""
    schema = Schema(observation=Array(shape=(2, 2)), action=Discrete(names=("a", "b")))

    assert ranges(schema) == {}
    assert Situation().context(schema).observation.tolist() == [[0, 0, 0, 0]]


def test_the_nearest_number_is_within_the_range() -> None:
    """Where there is one."""
    fields = {name: field for name, (field, _) in ranges(PLANT).items()}

    assert [nearest(at, fields["cpu"]) for at in (-1.0, 0.5, 7.0)] == [0, 0.5, 1]
    assert nearest(-1e300, fields["rate"]) == -1e300


def test_a_number_is_shown_as_it_is() -> None:
    """To the last digit, whole ones without a point."""
    assert [shown(number) for number in (3.0, -2.0, 0.1, 1e300)] == ["3", "-2", "0.1", "1e+300"]
