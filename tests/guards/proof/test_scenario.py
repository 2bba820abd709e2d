"""A situation: what people write down is what the guards see."""

from dataclasses import replace

import numpy as np
import pytest

from export.spec import Array, Discrete
from guards.constraints import Budget, MaxSwitches, RateLimit
from guards.proof.scenario import Before, Scenario, nearest, ranges, shown
from guards.records import NEVER, NO_ACTION, Schema
from tests.guards.holes import PLANT
from tests.guards.pairs import together


def test_the_context_has_what_is_said_where_the_schema_has_it() -> None:
    """A fact that is not given is no number, and a field that is not said is near zero within its range."""
    context = together(PLANT, [Scenario({"temp": 7.5, "queue": 3}, {"budget": 2.0, "price": None})])

    assert context.observation.tolist() == [[0, 1, 7.5, 0, 3]]
    assert np.isnan(context.facts[0, 0])
    assert context.facts[0, 1] == 2
    assert context.mask is None


def test_a_past_of_nothing_is_the_beginning_of_an_episode() -> None:
    """It is known that nothing was executed."""
    history = Scenario().row(PLANT).history

    assert (history.known, history.action, history.step) == (True, NO_ACTION, 0)
    assert history.since_change(0.0) == history.since_use(0.0, [1]) == NEVER


def test_a_known_past_is_the_history_as_it_was() -> None:
    """Seconds are exact."""
    past = Before(step=3, previous="up", seconds_since_change=0.1, used={"up": 0.3})

    history = Scenario(past=past).row(PLANT).history

    assert (history.known, history.action, history.step) == (True, 1, 3)
    assert (history.since_change(0.0), history.since_use(0.0, [1])) == (0.1, 0.3)


def test_a_past_that_is_not_here_is_the_worst() -> None:
    """From the moment at which the session was first seen."""
    seen = Scenario(past=Before(known=False, seconds_since_change=4)).row(PLANT).history
    now = Scenario(past=Before(known=False)).row(PLANT).history

    assert (seen.known, seen.step, seen.action) == (False, 0, NO_ACTION)
    assert seen.since_change(0.0) == seen.since_use(0.0, [1]) == 4
    assert now.since_change(0.0) == 0


@pytest.mark.parametrize(
    ("past", "words"),
    [
        (Before(), "the first decision of an episode"),
        (
            Before(known=False),
            (
                "the session's history is not known here (a restart, another replica, a session that is new); "
                "the first decision here"
            ),
        ),
        (Before(step=1, previous="up"), "after 1 decision, the last one 'up'"),
        (
            Before(step=4, previous="up", seconds_since_change=2.5, used={"up": 0.0, "down": 9}),
            (
                "after 4 decisions, the last one 'up'; the action changed 2.5 s ago; "
                "executed 'up' just now, 'down' 9 s ago"
            ),
        ),
        (
            Before(step=4, previous="up", switched=(3, 9.5), changed={"slowly": 2}, spent={"spend": 5}),
            (
                "after 4 decisions, the last one 'up'; before that it changed 3 s and 9.5 s ago; "
                "the value of 'slowly' changed 2 s ago; spent 5 of 'spend'"
            ),
        ),
        (
            Before(known=False, step=2, previous="up", seconds_since_change=3),
            (
                "the session's history is not known here (a restart, another replica, a session that is new); "
                "after 2 decisions, the last one 'up'; the session was first seen 3 s ago"
            ),
        ),
    ],
)
def test_a_past_reads_as_words(past: Before, words: str) -> None:
    """As one would tell it."""
    assert list(Scenario(past=past).lines()) == [f"history: {words}"]


def test_what_constraints_keep_is_in_the_history() -> None:
    """And in the words."""
    past = Before(step=1, previous="up", kept={"spend": (0.0, 5.0)})

    assert past.history(PLANT).kept == {"spend": (0.0, 5.0)}
    assert list(past.lines())[-1] == "used up just now: 'spend'"


def test_a_situation_reads_as_words() -> None:
    """Numbers as people write them, and what was not given."""
    lines = list(Scenario({"cpu": 0.25, "replicas": 3.0}, {"price": None, "budget": 1.5}).lines())

    assert lines[:2] == ["observation: cpu = 0.25, replicas = 3", "facts: price was not given, budget = 1.5"]


def test_numbers_of_an_array_have_no_names() -> None:
    """There is nothing to say of them."""
    schema = Schema(observation=Array(shape=(2, 2)), action=Discrete(names=("a", "b")))

    assert ranges(schema) == {}
    assert together(schema, [Scenario()]).observation.tolist() == [[0, 0, 0, 0]]


def test_the_nearest_number_is_within_the_range() -> None:
    """Where there is one."""
    fields = {name: field for name, (field, _) in ranges(PLANT).items()}

    assert [nearest(at, fields["cpu"]) for at in (-1.0, 0.5, 7.0)] == [0, 0.5, 1]
    assert nearest(-1e300, fields["rate"]) == -1e300


def test_a_number_is_shown_as_it_is() -> None:
    """To the last digit, whole ones without a point."""
    assert [shown(number) for number in (3.0, -2.0, 0.1, 1e300)] == ["3", "-2", "0.1", "1e+300"]


UP = Before(step=5, previous="up", seconds_since_change=4, used={"up": 2, "down": 8})
SPENDS = Budget(name="spends", cost="1", at_most=10, seconds=60)
CALM = MaxSwitches(name="calm", at_most=2, seconds=60)
MOVES = RateLimit(name="moves", per_second=1, effect={"down": -1, "hold": 0})
LEVELS = RateLimit(name="levels", per_second=1, levels={"up": 1, "down": 0, "hold": 0})


def test_a_value_changed_when_what_changes_it_was_executed() -> None:
    """Of levels when the action changed; and when it is said, then."""
    said = replace(UP, changed={"moves": 3, "levels": 9})

    assert UP.remembered([MOVES, LEVELS]) == {"moves": (-8,), "levels": (-4,)}
    assert said.remembered([MOVES, LEVELS]) == {"moves": (-3,), "levels": (-9,)}
    assert replace(UP, known=False).remembered([LEVELS]) == {}


def test_switches_are_in_order() -> None:
    """The oldest first, the last one among them, and each once."""
    assert replace(UP, switched=(4, 70, 9)).remembered([CALM]) == {"calm": (-70, -9, -4)}


def test_what_was_spent_is_taken_to_have_been_spent_just_now() -> None:
    """What a past keeps already stands."""
    past = replace(UP, spent={"spends": 3})

    assert past.remembered([SPENDS]) == {"spends": (0, 3)}
    assert replace(past, kept={"spends": (-1, 5)}).remembered([SPENDS]) == {"spends": (-1, 5)}
