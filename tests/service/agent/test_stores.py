"""The contract of a store: the same tests on SQLite, Redis and Valkey, and what is particular to each."""

import asyncio
import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from service.agent.stores import (
    START,
    TRANSITIONS,
    Entry,
    OutOfOrder,
    Position,
    Store,
    StoreInvalid,
    StoreUnavailable,
    WriterState,
)
from service.agent.stores.redis_streams import RedisStreams
from service.agent.stores.sqlite import SqliteStore
from tests.redis_server import RedisServer
from tests.service.agent.consumers import transitions

W, X = "00000000000000aa", "00000000000000bb"


def entries(first: int, last: int) -> list[Entry]:
    """Entries of consecutive sequence numbers, two to a millisecond."""
    return [
        Entry(1000 + seq // 2, seq, b'{"kind":"heartbeat","seq":%d,"x":"\xc3\xa9"}' % seq)
        for seq in range(first, last + 1)
    ]


class TestStreams:
    """Records by writer."""

    async def test_an_unknown_writer_is_at_the_start(self, store: Store) -> None:
        """Where nothing was appended, the position is START and nothing can be read."""
        assert await store.position(W) == START
        assert await store.read(W, START, 10) == []
        assert await store.writers() == {}

    async def test_what_was_appended_is_read_byte_for_byte_in_order(self, store: Store) -> None:
        """Reading goes on after a position, at most so many, with the very bytes that were appended."""
        await store.register(W)
        await store.append(W, START, entries(1, 5))
        await store.append(W, Position(1002, 5), entries(6, 7))

        assert await store.read(W, START, 100) == entries(1, 7)
        assert await store.read(W, Position(1001, 2), 3) == entries(3, 5)
        assert await store.read(W, Position(1001, 0), 2) == entries(2, 3)
        assert await store.position(W) == Position(1003, 7)
        assert await store.position(X) == START

    async def test_an_append_elsewhere_than_at_the_end_does_nothing(self, store: Store) -> None:
        """Neither a repeated batch nor one that leaves a gap changes the stream."""
        await store.append(W, START, entries(1, 3))

        for after, batch in (
            (START, entries(1, 5)),
            (Position(1001, 2), entries(3, 4)),
            (Position(1003, 6), entries(7, 8)),
        ):
            with pytest.raises(OutOfOrder, match=W):
                await store.append(W, after, batch)
        assert await store.read(W, START, 100) == entries(1, 3)

    async def test_of_two_that_append_at_once_one_is_refused(self, store: Store) -> None:
        """Two agents of one folder never interleave: one batch is in, the other is out of order."""
        results = await asyncio.gather(*(store.append(W, START, entries(1, n)) for n in (2, 3)), return_exceptions=True)

        assert [type(result) for result in results if result is not None] == [OutOfOrder]
        assert await store.read(W, START, 9) in (entries(1, 2), entries(1, 3))

    async def test_writers_are_open_until_closed(self, store: Store) -> None:
        """A writer is known with its last entry, and stays closed though it is registered again."""
        await store.register(W)
        await store.register(X)
        await store.append(W, START, entries(1, 3))
        await store.close_writer(W)
        await store.register(W)

        assert await store.writers() == {W: WriterState(False, Position(1001, 3)), X: WriterState(True, START)}

    async def test_a_writer_that_was_closed_may_be_opened_again(self, store: Store) -> None:
        """Where more comes of it after all; it is then where its stream ends."""
        await store.register(W)
        await store.append(W, START, entries(1, 3))
        assert not await store.reopen(W)
        await store.close_writer(W)
        await store.append(W, Position(1001, 3), entries(4, 5))

        assert await store.reopen(W)
        assert not await store.reopen(W)
        assert not await store.reopen(X)
        assert await store.writers() == {W: WriterState(True, Position(1002, 5))}


class TestTransitions:
    """What the joiner commits."""

    async def test_a_commit_moves_the_position_with_its_output(self, store: Store) -> None:
        """Output and position are moved together; a writer nothing was committed of is not there."""
        assert await store.joined() == {}
        assert await store.commit(W, START, Position(5, 2), [b'{"seq":1}', b'{"seq":2}'])
        assert await store.commit(W, Position(5, 2), Position(9, 4), [])

        assert await store.joined() == {W: Position(9, 4)}
        assert await transitions(store) == [b'{"seq":1}', b'{"seq":2}']

    async def test_a_second_joiner_is_fenced(self, store: Store) -> None:
        """Whoever expects another position than there is changes nothing."""
        await store.commit(W, START, Position(5, 2), [b'{"seq":2}'])

        assert not await store.commit(W, START, Position(5, 2), [b'{"seq":2}'])
        assert not await store.commit(W, Position(6, 3), Position(7, 4), [b'{"seq":4}'])
        assert await transitions(store) == [b'{"seq":2}']

    async def test_of_two_joiners_at_once_one_is_fenced(self, store: Store) -> None:
        """Each transition comes once, however two joiners race."""
        results = await asyncio.gather(*(store.commit(W, START, Position(1, 1), [b'{"seq":1}']) for _ in range(2)))

        assert sorted(results) == [False, True]
        assert await transitions(store) == [b'{"seq":1}']

    async def test_what_others_do_with_other_writers_and_with_the_stream_fences_nobody(self, store: Store) -> None:
        """Positions of others are moved and forgotten, and transitions trimmed, all the while."""

        async def others() -> None:
            for n in range(100):
                await store.commit(X, Position(n, n) if n else START, Position(n + 1, n + 1), [b'{"seq":%d}' % n])
                await store.trim(TRANSITIONS, Position(2**62, 0), 200)

        busy = asyncio.create_task(others())
        done = [
            await store.commit(W, Position(n, n) if n else START, Position(n + 1, n + 1), [b'{"seq":%d}' % n])
            for n in range(100)
        ]
        await busy

        assert done == [True] * 100
        assert await store.joined() == {W: Position(100, 100), X: Position(100, 100)}

    async def test_counts_are_committed_with_the_position(self, store: Store) -> None:
        """And are not where that is not."""
        assert await store.counts() == {}
        await store.commit(W, START, Position(1, 1), [], {"records": 2, "feedback.joined": 1})
        await store.commit(W, START, Position(2, 2), [], {"records": 5})
        await store.commit(W, Position(1, 1), Position(2, 2), [], {"records": 1})

        assert await store.counts() == {"records": 3, "feedback.joined": 1}


class TestSpace:
    """What streams take up, and how they are cut."""

    async def test_streams_say_what_they_take_up(self, store: Store) -> None:
        """Writers' streams and the transitions, those that have entries."""
        await store.register(W)
        await store.register(X)
        await store.append(W, START, entries(1, 50))
        await store.commit(W, START, Position(1005, 10), [b'{"seq":%d}' % n for n in range(1, 6)])
        size, found = await store.streams([W, X])

        assert {(one.name, one.entries) for one in found} == {(W, 50), (TRANSITIONS, 5)}
        assert next(one.first for one in found if one.name == W) == await store.first(W) == Position(1000, 1)
        assert await store.first(X) is None
        assert size >= sum(one.size for one in found) - 2 > 0
        assert not any(one.groups for one in found)
        assert store.written > 50 * 20

    async def test_the_oldest_are_cut_and_the_position_stays(self, store: Store) -> None:
        """Before a place, about so many at most; an empty stream goes on where it was."""
        await store.append(W, START, entries(1, 1000))

        assert await store.trim(W, START, 500) == 0
        assert 0 < (cut := await store.trim(W, Position(1300, 0), 300)) <= 300
        assert (await store.read(W, START, 1))[0].seq == cut + 1
        while await store.trim(W, Position(1400, 0), 300):
            pass
        left = (await store.read(W, START, 1))[0]
        assert 600 <= left.seq <= 800
        while await store.trim(W, Position(9999, 0), 300):
            pass
        assert await store.read(W, START, 9) == []
        assert await store.position(W) == (await store.end(W))[0] == Position(1500, 1000)
        assert (await store.end(W))[1] is None
        await store.append(W, Position(1500, 1000), entries(1001, 1002))
        assert [entry.seq for entry in await store.read(W, START, 9)] == [1001, 1002]

    async def test_a_writer_is_forgotten_only_where_nothing_of_it_is_left(self, store: Store) -> None:
        """Closed, empty, and joined up to where the caller believes; what was missing is counted."""
        await store.register(W)
        await store.append(W, START, entries(1, 3))
        await store.commit(W, START, Position(1001, 2), [])
        assert not await store.forget(W, Position(1001, 2), 1)
        await store.close_writer(W)
        assert not await store.forget(W, Position(1001, 2), 1)
        await store.trim(W, Position(9999, 0), 500)
        assert not await store.forget(W, Position(1001, 3), 1)
        assert await store.forget(W, Position(1001, 2), 1)

        assert (await store.writers(), await store.joined(), await store.position(W)) == ({}, {}, START)
        assert await store.counts() == {"missing": 1}
        assert await store.register(W)
        assert not await store.register(W)


class TestKey:
    """Whose store it is."""

    async def test_the_first_fingerprint_stays(self, store: Store) -> None:
        """The deployment's fingerprint is the first one that was claimed."""
        assert await store.claim_key("aaaa") == "aaaa"
        assert await store.claim_key("bbbb") == "aaaa"


class TestRedis:
    """What is particular to Redis."""

    async def test_a_server_that_lost_a_suffix_between_two_batches_gets_no_gap(self, redis_server: RedisServer) -> None:
        """The client reconnects in silence, so each append compares: what follows a lost record is refused."""
        store = RedisStreams(redis_server.url, "lost")
        await store.append(W, START, entries(1, 3))
        redis_server.kill()
        redis_server.start()

        with pytest.raises((OutOfOrder, StoreUnavailable)):
            await store.append(W, Position(1001, 3), entries(4, 5))
        assert await store.position(W) == START
        await store.close()

    async def test_a_server_that_is_away_or_stalled_is_unavailable_within_a_second_or_two(
        self, redis_server: RedisServer
    ) -> None:
        """No call hangs, and none is repeated by the client."""
        store = RedisStreams(redis_server.url, "away", timeout_s=0.3)
        await store.append(W, START, entries(1, 1))
        begun = time.monotonic()
        redis_server.stall()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.append(W, Position(1000, 1), entries(2, 2))
        redis_server.kill()
        with pytest.raises(StoreUnavailable):
            await store.joined()

        assert time.monotonic() - begun < 2
        await store.close()

    async def test_a_server_that_is_full_takes_all_of_a_batch_or_nothing(self, redis_server: RedisServer) -> None:
        """OOM under noeviction is StoreUnavailable, with the server's words, and leaves no part of the batch."""
        store = RedisStreams(redis_server.url, "full")
        await store.append(W, START, entries(1, 1))
        with redis_server.client() as client:
            client.config_set("maxmemory", "1")
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                await store.append(W, Position(1000, 1), entries(2, 9))
            client.config_set("maxmemory", "0")

        assert await store.position(W) == Position(1000, 1)
        await store.close()

    async def test_a_trimmed_stream_keeps_its_position(self, redis_server: RedisServer) -> None:
        """The cursor is the last id there ever was, not the last entry that is left."""
        store = RedisStreams(redis_server.url, "trim")
        await store.append(W, START, entries(1, 4))
        with redis_server.client() as client:
            client.xtrim(f"actd:{{trim}}:w:{W}", maxlen=0)

        assert await store.position(W) == Position(1002, 4)
        await store.close()

    @pytest.mark.parametrize(
        "url",
        ["redis://user:s3cret@host:port/0", "http://:s3cret@host", "s3cret", "redis://h:1/x?socket_timeout=s3cret"],
    )
    def test_a_bad_address_is_refused_without_quoting_it(self, url: str) -> None:
        """What is wrong is said, and the password is not."""
        with pytest.raises(StoreInvalid) as caught:
            RedisStreams(url, "x")

        assert "REDIS_URL" in str(caught.value)
        assert "s3cret" not in str(caught.value)

    def test_a_store_shows_where_it_is_without_its_password(self) -> None:
        """The repr is safe to log."""
        store = RedisStreams("rediss://user:s3cret@redis.example:7000/1", "x")

        assert repr(store) == "<RedisStreams actd:{x}:* at rediss://redis.example:7000>"


class TestSqlite:
    """What is particular to the embedded store."""

    async def test_one_query_reads_transitions_with_plain_columns(self, sqlite: SqliteStore, tmp_path: Path) -> None:
        """Members of a transition are columns: numbers and truth values as such, arrays as JSON, null as NULL."""
        told = {
            "seq": 3,
            "decision_id": "abc",
            "observation": [0.5, 1.0],
            "action": 2,
            "reward": -1.5,
            "next_observation": None,
            "terminated": True,
        }
        await sqlite.commit(W, START, Position(1, 3), [json.dumps(told).encode()])
        db = sqlite3.connect(tmp_path / "store.sqlite")
        row = db.execute(
            "SELECT writer, seq, decision_id, observation, action, reward, next_observation, terminated "
            "FROM transitions"
        ).fetchone()
        db.close()

        assert row == (W, 3, "abc", "[0.5,1.0]", 2, -1.5, None, 1)

    async def test_records_have_their_kind_as_a_column(self, sqlite: SqliteStore, tmp_path: Path) -> None:
        """Streams are readable with any SQLite tool."""
        await sqlite.append(W, START, entries(1, 2))
        db = sqlite3.connect(tmp_path / "store.sqlite")
        rows = db.execute("SELECT writer, seq, kind FROM records").fetchall()
        db.close()

        assert rows == [(W, 1, "heartbeat"), (W, 2, "heartbeat")]

    async def test_a_locked_file_is_unavailable_and_comes_back(self, tmp_path: Path) -> None:
        """Another process's lock is waited for, then said to be one; after it the store works again."""
        store = SqliteStore(tmp_path / "store.sqlite", timeout_s=0.05)
        await store.append(W, START, entries(1, 1))
        db = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.append(W, Position(1000, 1), entries(2, 2))
        db.execute("ROLLBACK")
        db.close()

        await store.append(W, Position(1000, 1), entries(2, 2))
        assert await store.position(W) == Position(1001, 2)
        await store.close()

    async def test_a_file_that_is_no_database_is_unavailable(self, tmp_path: Path) -> None:
        """It is said which file, and nothing of it is changed."""
        (tmp_path / "store.sqlite").write_bytes(b"not a database" * 100)
        store = SqliteStore(tmp_path / "store.sqlite")

        with pytest.raises(StoreUnavailable, match=r"store\.sqlite.*not a database \(move it away"):
            await store.position(W)
        (tmp_path / "store.sqlite").rename(tmp_path / "damaged.sqlite")
        assert await store.position(W) == START
        assert (tmp_path / "damaged.sqlite").read_bytes() == b"not a database" * 100
        await store.close()


def taken_away(path: Path) -> None:
    """The file alone; its write-ahead log stays where it was."""
    path.unlink()


def moved(path: Path) -> None:
    """Somewhere else, for a backup."""
    path.rename(path.with_name("elsewhere.sqlite"))


def replaced(path: Path) -> None:
    """By a file of the same name that holds less."""
    other = path.with_name("other.sqlite")
    with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(other)) as copy:
        db.backup(copy)
        copy.execute("DELETE FROM records WHERE seq > 2")
        copy.execute("UPDATE writers SET ms = 1001, seq = 2")
        copy.commit()
    other.replace(path)


class TestTakenAway:
    """A file that is taken away while it is open: what is written to it then would be nowhere."""

    @pytest.mark.parametrize(
        ("take", "left"),
        [(taken_away, START), (moved, START), (replaced, Position(1001, 2))],
        ids=["taken away", "moved", "replaced"],
    )
    async def test_it_is_said_and_another_is_opened(
        self, tmp_path: Path, take: Callable[[Path], None], left: Position
    ) -> None:
        """The call fails, so that everybody asks anew what there is; the next one finds what is there now."""
        path = tmp_path / "store.sqlite"
        store = SqliteStore(path)
        await store.append(W, START, entries(1, 5))
        take(path)
        with pytest.raises(StoreUnavailable, match="taken away or replaced"):
            await store.append(W, Position(1002, 5), entries(6, 7))

        assert await store.position(W) == left
        await store.append(W, left, entries(left.seq + 1, 7))
        assert await store.read(W, START, 100) == entries(1, 7)
        await store.close()
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT seq FROM records ORDER BY seq").fetchall() == [(seq,) for seq in range(1, 8)]

    async def test_its_log_alone_is_missed_too(self, tmp_path: Path) -> None:
        """What was in it goes into the file, where others see it."""
        path = tmp_path / "store.sqlite"
        store = SqliteStore(path)
        await store.append(W, START, entries(1, 5))
        path.with_name("store.sqlite-wal").unlink()
        with pytest.raises(StoreUnavailable, match="taken away or replaced"):
            await store.append(W, Position(1002, 5), entries(6, 7))

        await store.append(W, Position(1002, 5), entries(6, 7))
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT seq FROM records ORDER BY seq").fetchall() == [(seq,) for seq in range(1, 8)]
        await store.close()

    async def test_its_folder_is_made_again(self, tmp_path: Path) -> None:
        """As after ``rm -r data``."""
        store = SqliteStore(tmp_path / "data" / "store.sqlite")
        await store.append(W, START, entries(1, 5))
        shutil.rmtree(tmp_path / "data")
        with pytest.raises(StoreUnavailable, match="taken away or replaced"):
            await store.position(W)

        await store.append(W, START, entries(1, 2))
        assert (tmp_path / "data" / "store.sqlite").exists()
        await store.close()
