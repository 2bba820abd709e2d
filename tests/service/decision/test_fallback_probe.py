"""Rungs: what is below the policy is tried beside live traffic, reproducibly, and told stale when it is."""

import logging
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from guards.baselines import Constant, Rules
from guards.baselines.lookup import When
from guards.constraints import Rule
from guards.errors import InferenceFailed, PolicyUnavailable
from guards.records import Action, Row
from service.decision.batch import Batch, Behaviour
from service.decision.fallback_probe import EVERY, FallbackProbe
from service.log.ids import Key
from tests.fakes import asked, batch_of, behaviour_of, recorded

HEAD = np.array([0, 5, 3, 4, 2, 1], dtype=np.float32)
BOTH = Constant(action="hold", last_resort="drop")


def committed(
    behaviour: Behaviour, seq: int = 1, count: int = 1, head: PolicyUnavailable | None = None, **changes: Any
) -> Batch:
    """A batch that was committed, from a place in the log on."""
    batch = batch_of([asked(**changes) for _ in range(count)], seq=seq)
    recorded(behaviour, batch, head or np.tile(HEAD, (count, 1)))
    return batch


def test_nothing_is_known_and_nothing_is_stale_before_the_first_decision() -> None:
    """Nobody waits for a rung that nobody needs."""
    assert FallbackProbe(behaviour_of(baseline=BOTH), 60).to_json(1000.0) == {
        "baseline": {"last_success_s_ago": None, "stale": False},
        "last_resort": {"last_success_s_ago": None, "stale": False},
    }
    assert list(FallbackProbe(behaviour_of(), 60).to_json(0.0)) == ["baseline"]


def test_the_first_decision_tries_every_rung() -> None:
    """So that it is known from the start whether they work."""
    behaviour = behaviour_of(baseline=BOTH)
    fallback_probe = FallbackProbe(behaviour, 60)
    fallback_probe.committed(committed(behaviour), 100.0)

    assert fallback_probe.to_json(101.5) == {
        "baseline": {"last_success_s_ago": 1.5, "stale": False},
        "last_resort": {"last_success_s_ago": 1.5, "stale": False},
    }


def test_one_place_of_every_thousand_is_drawn_by_the_key() -> None:
    """The same one every time, by whoever has the key, wherever the batches begin and end."""
    fallback_probe, again = FallbackProbe(behaviour_of(), 60), FallbackProbe(behaviour_of(), 60)
    other = FallbackProbe(behaviour_of(key=Key(1, b"other" * 8)), 60)
    places = range(20 * EVERY)

    drawn = [place for place in places if fallback_probe.rows(place, 1)]
    together = [first + row for first in places[::64] for row in again.rows(first, 64)]
    others = [place for place in places if other.rows(place, 1)]

    assert [place // EVERY for place in drawn] == list(range(20))
    assert [place for place in together if place in places] == drawn
    assert len({place % EVERY for place in drawn}) > 15
    assert len(set(drawn) & set(others)) < 3


def test_a_slow_loop_tries_them_by_the_clock() -> None:
    """Where one in a thousand is too seldom, half the time in which a rung grows stale is long enough."""
    behaviour = behaviour_of()
    fallback_probe, asked_at = FallbackProbe(behaviour, 60), []
    (place,) = fallback_probe.rows(0, EVERY)
    for second in range(0, 100, 7):
        before = fallback_probe.last_success["baseline"]
        fallback_probe.committed(committed(behaviour, seq=place + 1), float(second))
        if fallback_probe.last_success["baseline"] != before:
            asked_at.append(second)

    assert asked_at == [0, 35, 70]


def test_the_drawn_decision_tries_them_whenever_it_comes() -> None:
    """Also right after another try, and in a batch over the end of a thousand."""
    behaviour, times = behaviour_of(), []
    fallback_probe = FallbackProbe(behaviour, 60)
    for i, first in enumerate(range(1, 5000, 24)):
        fallback_probe.committed(committed(behaviour, seq=first, count=24), i / 100)
        times.append(fallback_probe.last_success["baseline"])
    tried = [i for i, at in enumerate(times) if at == i / 100]

    assert tried == sorted({0, *(row // 24 for row in fallback_probe.rows(1, 4999))})


def test_a_rung_that_is_refused_had_no_success_and_grows_stale() -> None:
    """With its own context: what the baseline wants is forbidden here, the last resort is not."""
    behaviour = behaviour_of([Rule(name="r", forbid="action == 'hold' and load > 1")], baseline=BOTH)
    fallback_probe = FallbackProbe(behaviour, 60)
    fallback_probe.committed(committed(behaviour, observation=(0.5, 0, 0)), 0.0)
    for second in range(1, 80):
        fallback_probe.committed(committed(behaviour, seq=second + 1, observation=(2.0, 0, 0)), float(second))
    told = fallback_probe.to_json(80.0)

    assert told["baseline"] == {"last_success_s_ago": 80.0, "stale": True}
    assert told["last_resort"]["stale"] is False


def test_a_rung_without_traffic_is_not_stale() -> None:
    """It is as good as when it was last tried."""
    behaviour = behaviour_of()
    fallback_probe = FallbackProbe(behaviour, 60)
    fallback_probe.committed(committed(behaviour), 0.0)

    assert fallback_probe.to_json(5000.0) == {"baseline": {"last_success_s_ago": 5000.0, "stale": False}}


def test_a_live_fallback_is_a_success_too() -> None:
    """A policy that is off shows with every decision that its baseline works."""
    behaviour = behaviour_of(baseline=BOTH)
    fallback_probe = FallbackProbe(behaviour, 60)
    fallback_probe.committed(committed(behaviour), 0.0)
    (place,) = fallback_probe.rows(0, EVERY)
    fallback_probe.committed(committed(behaviour, seq=place + 1, head=InferenceFailed()), 5.0)

    assert fallback_probe.last_success == {"baseline": 5.0, "last_resort": 0.0}


def test_a_last_resort_that_a_constraint_forbade_is_no_success() -> None:
    """It left all the same, and is counted as an executed violation."""
    behaviour = behaviour_of([Rule(name="r", forbid="True")], baseline=BOTH)
    fallback_probe = FallbackProbe(behaviour, 60)
    fallback_probe.committed(committed(behaviour, head=InferenceFailed()), 0.0)

    assert fallback_probe.last_success == {"baseline": None, "last_resort": None}
    assert fallback_probe.to_json(1.0)["baseline"] == {"last_success_s_ago": None, "stale": True}


def test_a_batch_that_reached_no_journal_says_nothing() -> None:
    """Feedback may have, and is committed alone."""
    behaviour = behaviour_of()
    fallback_probe = FallbackProbe(behaviour, 60)
    fallback_probe.committed(structs.replace(committed(behaviour), records=[], requests=[]), 0.0)

    assert fallback_probe.last_success == {"baseline": None}


def test_a_refused_request_is_traffic() -> None:
    """Nothing was left to do: the rungs below are what failed."""
    behaviour = behaviour_of([Rule(name="r", forbid="True")])
    fallback_probe = FallbackProbe(behaviour, 60)
    fallback_probe.committed(committed(behaviour), 0.0)

    assert fallback_probe.to_json(0.0) == {"baseline": {"last_success_s_ago": None, "stale": True}}


def test_a_fault_in_one_rung_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """It is in the log, the other rung is tried, and the rung itself grows stale."""

    class Broken(Constant):
        def bind(self, schema: Any) -> Any:  # noqa: ARG002 - it is broken
            def propose(row: Row) -> Action:
                raise ZeroDivisionError(row)

            return propose

    behaviour = behaviour_of(baseline=Broken(action="hold", last_resort="drop"))
    fallback_probe = FallbackProbe(behaviour, 60)
    with caplog.at_level(logging.ERROR):
        fallback_probe.committed(committed(behaviour), 0.0)

    assert fallback_probe.last_success == {"baseline": None, "last_resort": 0.0}
    assert caplog.messages == ["the rung baseline was tried and has a fault"]


def test_what_is_tried_sees_what_the_decision_saw() -> None:
    """Facts, mask and observation of the row that is drawn, and of no other."""
    rule = Rules(rules=(When(when="price > 2 and load > 1", action="up"),), otherwise="hold")
    behaviour = behaviour_of([Rule(name="r", forbid="action == 'hold'")], baseline=rule)
    fallback_probe = FallbackProbe(behaviour, 60)
    (place,) = fallback_probe.rows(0, EVERY)
    fallback_probe.committed(committed(behaviour, seq=1), 0.0)
    before = fallback_probe.last_success["baseline"]
    told = committed(behaviour, seq=place, facts={"price": 3.0}, observation=(2.0, 0.0, 0.0))
    fallback_probe.committed(told, 1.0)

    assert (before, fallback_probe.last_success["baseline"]) == (None, 1.0)
    assert "baseline" in repr(fallback_probe)
