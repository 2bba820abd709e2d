"""What of the streams may go, as pure decisions."""

import pytest

from service.agent.join import LAG_MS
from service.agent.joining import SKEW_MS
from service.agent.stores import START, TRANSITIONS, Capacity, Position, Stream, WriterState
from service.agent.trim import (
    DEFAULT_BYTES,
    FAR,
    FEWEST,
    LEAST_BYTES,
    MOST,
    bound_of,
    cut_of,
    excess,
    floors,
    forgettable,
    room_of,
)

MIB = 1024**2
W, X = "00000000000000aa", "00000000000000bb"
WRITERS = {W: WriterState(True, Position(100_000, 90)), X: WriterState(False, Position(90_000, 50))}


def test_what_is_still_to_be_joined_stays_with_what_is_read_again_for_it() -> None:
    """By the oldest record that waits, minus the clocks' skew, in every stream; and each writer's own position."""
    kept = floors(WRITERS, {W: Position(80_000, 70), X: Position(20_000, 10)}, 60_000, 10_000)

    assert kept.needed(W) == Position(60_000 - SKEW_MS, 0)
    assert kept.needed(X) == Position(20_000, 11)
    assert kept.useful(W) == Position(10_000, 0)
    assert kept.needed(TRANSITIONS) == FAR
    assert kept.needed("somebody's") == FAR


def test_where_nothing_waits_all_that_was_joined_may_go() -> None:
    """But for the last seconds, which other writers may still speak of."""
    kept = floors(WRITERS, {W: Position(100_000, 90), X: Position(90_000, 50)}, None, 1000)

    assert kept.needed(W) == Position(100_000 - LAG_MS - SKEW_MS, 0)
    assert kept.needed(X) == Position(100_000 - LAG_MS - SKEW_MS, 0)


def test_where_all_have_ended_all_that_was_joined_may_go() -> None:
    """Whoever comes next begins now."""
    closed = {W: WriterState(False, Position(100_000, 90)), X: WRITERS[X]}
    kept = floors(closed, {W: Position(100_000, 90), X: Position(90_000, 50)}, None, 1000)

    assert (kept.needed(W), kept.useful(X)) == (Position(100_000, 91), Position(90_000, 51))


def test_a_writer_of_whom_nothing_was_joined_or_that_is_new_keeps_all() -> None:
    """It may have come between two looks."""
    kept = floors(WRITERS, {W: Position(100_000, 90)}, 60_000, 10_000)

    assert kept.needed(X) == kept.useful(X) == kept.needed("00000000000000cc") == START


@pytest.mark.parametrize(
    ("told", "limit", "bound", "said"),
    [
        (None, 0, DEFAULT_BYTES, ""),
        (None, 512 * MIB, 256 * MIB, ""),
        (None, 1, LEAST_BYTES, ""),
        (100 * MIB, 0, 100 * MIB, ""),
        (100 * MIB, 512 * MIB, 100 * MIB, ""),
        (500 * MIB, 512 * MIB, 384 * MIB, "retention.stream_bytes: was 524288000"),
    ],
)
def test_the_bound_is_told_or_half_of_the_servers_memory(told: int | None, limit: int, bound: int, said: str) -> None:
    """And never so much that the server is full before."""
    found, warning = bound_of(told, Capacity(limit))

    assert found == bound
    assert warning.startswith(said)
    assert bool(warning) == bool(said)


def test_warnings_of_the_server_are_kept() -> None:
    """Beside our own."""
    assert bound_of(None, Capacity(10 * MIB, "evicts"))[1] == "evicts"
    assert bound_of(10 * MIB, Capacity(10 * MIB, "evicts"))[1].endswith("; evicts")


def test_others_may_have_taken_the_room() -> None:
    """Then less than the bound may be taken up, and some of the rest stays free for what is joined."""
    assert room_of(100, 50, Capacity()) == 100
    assert room_of(100, 50, Capacity(400, used=60)) == 100
    assert room_of(100, 50, Capacity(400, used=390)) == 54
    assert room_of(100, 50, Capacity(1, used=390)) == 0


def test_cutting_begins_before_the_bound_and_leaves_room() -> None:
    """So that not every round has something to cut; a store that says it is full is believed."""
    assert [excess(size, 1000) for size in (900, 950, 951, 2000)] == [0, 0, 101, 1150]
    assert [excess(size, 1000, full=True) for size in (900, 2000)] == [90, 1150]


def test_so_many_entries_are_cut_as_hold_what_has_to_go() -> None:
    """Within bounds, so that the store has time for others."""
    stream = Stream(W, 10_000, 10_000_000, START)

    assert [cut_of(stream, surplus) for surplus in (1, 500_000, 10**9)] == [FEWEST, 500, MOST]


def test_a_writer_is_forgotten_when_nothing_of_it_is_left_for_long() -> None:
    """Closed, trimmed to nothing, and long ago."""
    told = {
        "state": WRITERS[X],
        "joined": Position(90_000, 50),
        "empty": True,
        "now_ms": 200_000.0,
        "forget_ms": 100_000.0,
    }

    assert forgettable(**told)  # type: ignore[arg-type]  # as told
    for other in ({"state": WRITERS[W]}, {"empty": False}, {"now_ms": 190_000.0}):
        assert not forgettable(**{**told, **other})  # type: ignore[arg-type]  # as told
