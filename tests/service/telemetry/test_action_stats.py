"""The mix: what was executed, counted so that a space of any size stays small."""

import pytest

from export.spec import Discrete
from service.telemetry.stats import action_stats_of
from tests.acting import BOUNDED, SWITCHES


def test_named_actions_are_what_the_labels_say() -> None:
    """Every name is there, also of what was never done."""
    action_stats = action_stats_of(Discrete(names=("hold", "up")))
    action_stats.count([1, 1])

    assert (action_stats.label(0), action_stats.label(1)) == ("hold", "up")
    assert action_stats.to_json({"up": 3}) == {"hold": 0, "up": 3}


def test_choices_are_counted_factor_by_factor() -> None:
    """Batch after batch; all decisions have one label."""
    action_stats = action_stats_of(SWITCHES)
    action_stats.count([(0, 0, 0), (1, 2, 0)])
    action_stats.count([(1, 2, 3)])

    told = action_stats.to_json({"multi_discrete": 3})

    assert action_stats.label(None) == "multi_discrete"
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
    action_stats = action_stats_of(BOUNDED)
    before = action_stats.to_json({})
    action_stats.count([(-1.0, 4.0), (0.0, 5.0)])
    action_stats.count([(2.5, 0.0)])

    assert action_stats.label(None) == "box"
    assert before == {}
    assert action_stats.to_json({"box": 3}) == {
        "left": {"min": -1.0, "mean": pytest.approx(0.5), "max": 2.5},
        "right": {"min": 0.0, "mean": pytest.approx(3.0), "max": 5.0},
    }


def test_the_mean_of_large_numbers_is_no_infinity() -> None:
    """They are weighted before they are added."""
    action_stats = action_stats_of(BOUNDED)
    for _ in range(3):
        action_stats.count([(1.7e308, -1.7e308)] * 2)

    assert action_stats.to_json({})["left"]["mean"] == pytest.approx(1.7e308)
