"""Breakers: fed with batches, they close a version off and let it back; what they say of it."""

import logging

import pytest

from guards.breaker import Breaker
from service.versions.breakers import Breakers

BREAKER = Breaker(consecutive=3, rate=0.5, minimum=20, window_seconds=10, rest_seconds=2, jitter=0.5, good_probes=2)
FAILED = ["InferenceFailed", "InferenceFailed"]


def breakers(uniform: float = 0.0) -> Breakers:
    """Breakers of two versions, both closed."""
    return Breakers(BREAKER, ["a-1", "b-1"], lambda: uniform, 100.0)


def opened() -> Breakers:
    """The first of them has just opened, at 100 s, for 2 s."""
    some = breakers()
    for _ in range(3):
        some.answered("a-1", FAILED, 100.0)
    return some


def test_a_version_that_keeps_failing_is_closed_off_alone(caplog: pytest.LogCaptureFixture) -> None:
    """After as many batches as are configured; the log says so once."""
    some, states = breakers(), []
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            states.append(some.closed("a-1"))
            some.answered("a-1", FAILED, 100.0)

    assert states == [True, True, True, False]
    assert some.closed("b-1")
    assert some.openings() == {"a-1": 1, "b-1": 0}
    assert caplog.messages == ["a-1: InferenceFailed, the breaker opens (consecutive) and rests 2.0 s"]
    assert repr(some) == "<Breakers a-1 resting, b-1 closed>"


@pytest.mark.parametrize("between", [[None, None], ["NoSafeAction"], ["LowConfidence", None], []])
def test_what_is_no_fault_of_the_version_opens_nothing(between: list[str | None]) -> None:
    """Doubts and constraints are not charged to it, and a good batch between breaks a row of bad ones."""
    some = breakers()
    for _ in range(2):
        some.answered("a-1", FAILED, 100.0)
    some.answered("a-1", between, 100.0)
    for _ in range(10):
        some.answered("a-1", ["NoSafeAction"], 100.0)
    some.answered("a-1", FAILED, 100.0)

    assert some.closed("a-1") is (None in between)


def test_batches_that_are_told_later_count_as_well() -> None:
    """Good ones are told together: a share of faults is one of all of them."""
    some, few = breakers(), breakers()
    for i in range(40):
        some.answered("a-1", [None], 100 + i / 50)
    for i in range(19):
        for one in (some, few):
            one.answered("a-1", FAILED, 101.0)
            one.answered("a-1", [None], 101.0) if i % 2 else None

    assert some.closed("a-1")
    assert not few.closed("a-1")


def test_good_batches_are_told_as_time_passes() -> None:
    """Or the window would hold what is long over."""
    some = breakers()
    for i in range(40):
        some.answered("a-1", [None], 100 + i)
    for i in range(20):
        some.answered("a-1", FAILED, 139.5)
        if i % 2 and i < 19:
            some.answered("a-1", [None], 139.5)

    assert not some.closed("a-1")


def test_it_is_probed_after_its_rest_and_let_back() -> None:
    """One probe at a time, as many good ones as are configured."""
    some = opened()
    asked = [some.waited("a-1", now) for now in (101.0, 102.0, 102.0)]
    some.sent("a-1", 102.0)
    asked.append(some.waited("a-1", 102.1))
    some.probed("a-1", [None, None], 102.1)
    asked.append(some.waited("a-1", 102.2))
    some.sent("a-1", 102.2)
    before = some.closed("a-1")
    some.probed("a-1", [None, None], 102.2)

    assert asked == [False, True, True, False, True]
    assert (before, some.closed("a-1")) == (False, True)
    assert some.openings()["a-1"] == 1


def test_a_bad_probe_opens_it_again_for_longer() -> None:
    """And is an opening of its own."""
    some = opened()
    some.waited("a-1", 102.0)
    some.sent("a-1", 102.0)
    some.probed("a-1", ["DeadlineExceeded", None], 102.0)
    told = some.to_json(103.0)["a-1"]

    assert (told["phase"], told["rest_s"], told["opened_by"], told["fault"]) == (
        "resting",
        4.0,
        "probe",
        "DeadlineExceeded",
    )
    assert told["openings"] == 2


def test_a_probe_that_says_nothing_is_sent_again() -> None:
    """All its rows were late before it left."""
    some = opened()
    some.waited("a-1", 102.0)
    some.sent("a-1", 102.0)
    some.probed("a-1", [], 102.0)

    assert some.waited("a-1", 102.0)


def test_replicas_do_not_rest_alike() -> None:
    """A random number takes up to the jitter's share off."""
    some = breakers(uniform=0.5)
    for _ in range(3):
        some.answered("a-1", FAILED, 100.0)

    assert some.to_json(100.0)["a-1"]["rest_s"] == 1.5


def test_where_it_stands_is_told_as_of_now() -> None:
    """Without changing anything."""
    some = opened()
    resting, probing, again = (some.to_json(now)["a-1"] for now in (101.5, 103.0, 101.5))

    assert resting == {
        "phase": "resting",
        "for_s": 1.5,
        "openings": 1,
        "opened_by": "consecutive",
        "fault": "InferenceFailed",
        "rest_s": 2.0,
        "good_probes": 0,
    }
    assert probing["phase"] == "probing"
    assert again == resting
