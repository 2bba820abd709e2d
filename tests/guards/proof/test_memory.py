"""Memory: what people say becomes the numbers that constraints keep."""

from dataclasses import replace

from guards.histories import Budget, MaxSwitches, RateLimit
from guards.proof.memory import remembered, spent, switched
from guards.proof.situation import Past

UP = Past(step=5, previous="up", seconds_since_change=4, used={"up": 2, "down": 8})
SPENDS = Budget(name="spends", cost="1", at_most=10, seconds=60)
CALM = MaxSwitches(name="calm", at_most=2, seconds=60)
MOVES = RateLimit(name="moves", per_second=1, effect={"down": -1, "hold": 0})
LEVELS = RateLimit(name="levels", per_second=1, levels={"up": 1, "down": 0, "hold": 0})


def test_a_value_changed_when_what_changes_it_was_executed() -> None:
    """Of levels when the action changed; and when it is said, then."""
    said = replace(UP, changed={"moves": 3, "levels": 9})

    assert remembered([MOVES, LEVELS], UP) == {"moves": (-8,), "levels": (-4,)}
    assert remembered([MOVES, LEVELS], said) == {"moves": (-3,), "levels": (-9,)}
    assert remembered([LEVELS], replace(UP, known=False)) == {}


def test_switches_are_in_order() -> None:
    """The oldest first, the last one among them, and each once."""
    past = replace(UP, switched=(4, 70, 9))

    kept = remembered([CALM], past)

    assert kept == {"calm": (-70, -9, -4)}
    assert switched(CALM, replace(past, kept=kept)) == 2


def test_what_was_spent_counts_within_its_seconds() -> None:
    """It is taken to have been spent just now; what a past keeps already stands."""
    past = replace(UP, spent={"spends": 3})

    kept = remembered([SPENDS], past)

    assert kept == {"spends": (0, 3)}
    assert spent(SPENDS, replace(past, kept={"spends": (-60, 2, -59, 5)})) == 5
    assert remembered([SPENDS], replace(past, kept={"spends": (-1, 5)})) == {"spends": (-1, 5)}
