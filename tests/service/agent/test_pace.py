"""Paces: whether two writers' clocks tell different times, or one of them only comes late."""

import pytest

from service.agent.pace import APART_MS, GAIN_MS, STEADY_S, Pace, apart

HOUR_MS = 3_600_000


def kept(ahead_ms: int, *, since: int = 0, until: int = 60, every: int = 5) -> Pace:
    """The pace of a writer that beats, whose clock is so far ahead."""
    pace = Pace.of(since * 1000 + ahead_ms, since)
    for now in range(since + every, until + 1, every):
        pace.came(now * 1000 + ahead_ms, now)
    return pace


@pytest.mark.parametrize("ahead_ms", [HOUR_MS, -HOUR_MS, APART_MS + 1, -APART_MS - 1, 365 * 24 * HOUR_MS])
def test_writers_that_keep_different_times_are_apart(ahead_ms: int) -> None:
    """Whichever is asked about, and after one has died."""
    one, other = kept(0), kept(ahead_ms)

    assert apart(one, other, 61.0, open_=True) is True
    assert apart(other, one, 61.0, open_=False) is True
    assert one.ahead_ms == 0
    assert other.ahead_ms == ahead_ms


@pytest.mark.parametrize("ahead_ms", [0, 5_000, -5_000, APART_MS, -APART_MS])
def test_writers_whose_clocks_differ_by_little_are_not(ahead_ms: int) -> None:
    """What is behind by that may only be late."""
    assert apart(kept(0), kept(ahead_ms), 61.0, open_=True) is False


@pytest.mark.parametrize("every", [1, 2, 5])
def test_one_that_gains_comes_late(every: int) -> None:
    """It has an hour to come, of which two seconds come in each: until it is there, it goes by the same clock."""
    one, late = kept(0, until=120), Pace.of(-HOUR_MS, 0.0)
    verdicts = []
    for now in range(every, 100, every):
        late.came(-HOUR_MS + 2000 * now, now)
        verdicts.append(apart(one, late, now, open_=True))

    assert set(verdicts[8 * GAIN_MS // 7000 :]) == {False}
    assert True not in verdicts


def test_one_that_is_new_is_in_doubt_until_it_shows() -> None:
    """Then it keeps time; where it does not go on, it is silent, and no other clock."""
    one, new, still = kept(0), Pace.of(-HOUR_MS, 60.0), Pace.of(-HOUR_MS, 60.0)
    seen = []
    for now in range(61, 92):
        new.came(-HOUR_MS + (now - 60) * 1000, now)
        seen.append(apart(one, new, now, open_=True))

    known = int(STEADY_S) - 1
    assert seen == [None] * known + [True] * (len(seen) - known)
    assert [apart(one, still, 60 + wait, open_=True) for wait in (1, 29, 30, 1000)] == [None, None, False, False]


def test_the_dead_that_were_never_seen_alive_are_not_apart() -> None:
    """Their last record is as old as they say: nobody saw it come."""
    assert apart(kept(0), Pace.of(-24 * HOUR_MS, 0.0), 1.0, open_=False) is False


def test_one_that_catches_up_after_it_kept_its_distance_is_no_other_clock() -> None:
    """It was taken for one while it did not gain."""
    one, late = kept(0), kept(-HOUR_MS)
    assert apart(one, late, 61.0, open_=True) is True
    late.came(61_000 - HOUR_MS // 2, 61.0)

    assert apart(one, late, 62.0, open_=True) is False
