"""The mix: what was executed, counted so that a space of any size stays small."""

import pytest

from export.spec import ActionSpace, Discrete
from guards.records import Schema
from service.telemetry.stats import BoxActionStats, Cell, MultiDiscreteActionStats, Stats
from tests.acting import BOUNDED, SWITCHES
from tests.fakes import SCHEMA


def stats_over(space: ActionSpace) -> Stats:
    """Statistics of a space of actions, of which nothing was done yet."""
    return Stats(Schema(SCHEMA.observation, space))


def test_named_actions_are_what_the_labels_say() -> None:
    """Every name is there, also of what was never done."""
    stats = stats_over(Discrete(names=("hold", "up")))
    stats.decisions[tuple(Cell("v-1", "stable", "policy", None, 1, False, True, None))] = 2
    stats.decisions[tuple(Cell("v-1", "stable", "baseline", None, 1, False, True, None))] = 1

    assert (stats.label(0), stats.label(1)) == ("hold", "up")
    assert stats.actions() == {"hold": 0, "up": 3}


def test_choices_are_counted_factor_by_factor() -> None:
    """Batch after batch; all decisions have one label."""
    action_stats = MultiDiscreteActionStats(SWITCHES)
    action_stats.count([(0, 0, 0), (1, 2, 0)])
    action_stats.count([(1, 2, 3)])

    told = action_stats.to_json()

    assert stats_over(SWITCHES).label(None) == "multi_discrete"
    assert stats_over(SWITCHES).actions() == dict.fromkeys(told, 0)
    assert len(told) == SWITCHES.width
    assert {name: count for name, count in told.items() if count} == {
        "pump=off": 1,
        "pump=on": 2,
        "valve=closed": 1,
        "valve=open": 2,
        "fan=still": 2,
        "fan=storm": 1,
    }


def test_numbers_have_their_least_mean_and_most() -> None:
    """Over all batches, each number by its name; nothing where nothing was done."""
    action_stats = BoxActionStats(BOUNDED)
    before = action_stats.to_json()
    action_stats.count([(-1.0, 4.0), (0.0, 5.0)])
    action_stats.count([(2.5, 0.0)])

    assert stats_over(BOUNDED).label(None) == "box"
    assert before == stats_over(BOUNDED).actions() == {}
    assert action_stats.to_json() == {
        "left": {"min": -1.0, "mean": pytest.approx(0.5), "max": 2.5},
        "right": {"min": 0.0, "mean": pytest.approx(3.0), "max": 5.0},
    }


def test_the_mean_of_large_numbers_is_no_infinity() -> None:
    """They are weighted before they are added."""
    action_stats = BoxActionStats(BOUNDED)
    for _ in range(3):
        action_stats.count([(1.7e308, -1.7e308)] * 2)

    assert action_stats.to_json()["left"]["mean"] == pytest.approx(1.7e308)
