"""What others leave in our streams and registers: it is named, counted and passed over, and ours goes on."""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import redis

from service.agent.foreign import NAMED_AGAIN_S, NAMED_AT_ONCE, Notes, Stranger, record_of
from service.agent.lane import Lane
from service.agent.ship import SOON_S, Shipper
from service.agent.stores import START, Entry, Position, StoreError
from service.agent.stores.redis_streams import RedisStreams
from service.agent.stores.sqlite import SqliteStore
from service.log.ids import Key, Keyring
from service.log.records import Heartbeat, encode_record
from tests.redis_server import RedisServer, binaries
from tests.service.agent.consumers import transitions
from tests.service.agent.pens import KEYRING, Pen
from tests.service.agent.ships import Clock, accounted, settle, shipper, stream, texts
from tests.service.agent.test_joining import emitted, joining, told
from tests.service.agent.test_joining import settle as join_all

OTHERS = Keyring({1: Key(1, b"o" * 32)})


def entry_of(pen: Pen) -> Entry:
    """A pen's last record as it would be shipped."""
    record = pen.records[-1]
    return Entry(record.ms, record.seq, encode_record(record))


class TestRecords:
    """What is a writer's record."""

    def test_ours_are_taken(self) -> None:
        """Every kind that a writer writes."""
        pen = Pen(1)
        pen.introduce(5)
        first = entry_of(pen)
        decision = pen.decision(6)
        second = entry_of(pen)
        pen.feedback(7, decision, 1.0)

        for entry in (first, second, entry_of(pen)):
            assert encode_record(record_of(pen.name, entry, KEYRING.place)) == entry.text

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (b"", "no record"),
            (b"x", "not a record"),
            (b"[" * 5000, "not a record"),
            (b'{"kind":"heartbeat","v":1,"seq":2,"ms":5}', "5-2"),
            (b'{"kind":"heartbeat","v":1,"seq":1,"ms":4}', "4-1"),
            (b'{"kind":"dream","v":1,"seq":1,"ms":5}', "not a record"),
            (b"\xff\xfe", "not a record"),
        ],
    )
    def test_what_does_not_fit_its_place_is_not(self, text: bytes, why: str) -> None:
        """Not JSON, of no known kind, or of another place than its id says."""
        with pytest.raises(Stranger, match=why):
            record_of(Pen(1).name, Entry(5, 1, text), KEYRING.place)

    def test_decisions_of_others_are_not(self) -> None:
        """Of another writer, of another place of this one, and of another deployment's keys."""
        pen, other = Pen(1), Pen(2)
        other.decision(5)
        with pytest.raises(Stranger, match=f"of writer {other.name}"):
            record_of(pen.name, entry_of(other), KEYRING.place)
        pen.decision(5)
        with pytest.raises(Stranger, match="keys"):
            record_of(pen.name, entry_of(pen), OTHERS.place)
        pen.decision(6, id=pen.decision(6).id)
        with pytest.raises(Stranger, match="6-2"):
            record_of(pen.name, entry_of(pen), KEYRING.place)
        other.introduce(7)
        with pytest.raises(Stranger, match="another writer"):
            record_of(pen.name, entry_of(other), KEYRING.place)

    def test_a_flood_of_them_is_named_in_part(self, caplog: pytest.LogCaptureFixture) -> None:
        """A few at once, then how many more there were."""
        now = [0.0]
        notes = Notes(logging.getLogger("x"), lambda: now[0])
        for count in range(NAMED_AT_ONCE + 7):
            notes.name(f"entry {count}", "no record")
        now[0] = NAMED_AGAIN_S
        notes.name("another", "no record")

        said = [record.message for record in caplog.records]
        assert len(said) == NAMED_AT_ONCE + 2
        assert said[-2].startswith("7 more")


def left(client: "redis.Redis", key: str) -> list[str]:
    """The ids of a stream."""
    found = client.xrange(key)
    assert isinstance(found, list)
    return [bytes(name).decode() for name, _ in found]  # type: ignore[arg-type]  # redis-py may answer text too


FOREIGN: dict[str, Callable[["redis.Redis", str, Pen], object]] = {
    "XADD * x y": lambda client, key, _: client.xadd(key, {"x": "y"}),
    "a record of another's writer": lambda client, key, _: client.xadd(
        key, {"record": encode_record(Pen(9).decision(77))}, id="9999999999999-77"
    ),
    "not JSON under a later id": lambda client, key, _: client.xadd(key, {"record": "{"}, id="9999999999999-0"),
    "two fields": lambda client, key, pen: client.xadd(
        key, {"record": texts(pen)[0], "more": "y"}, id="9999999999999-1"
    ),
    "under the highest id there is": lambda client, key, _: client.xadd(key, {"x": "y"}, id=f"{2**64 - 1}-{2**64 - 1}"),
    "deleted again": lambda client, key, _: client.xdel(key, client.xadd(key, {"x": "y"})),
}


@pytest.fixture(params=binaries())
def any_server(request: pytest.FixtureRequest, servers: dict[str, RedisServer]) -> RedisServer:
    """A running server of each kind: they differ in what they allow."""
    return servers[request.param]


class TestStreams:
    """An entry that is not ours at the end of a writer's stream, in Redis."""

    @pytest.mark.parametrize("left_there", FOREIGN.values(), ids=FOREIGN)
    async def test_it_is_taken_out_and_ours_goes_on(
        self, any_server: RedisServer, tmp_path: Path, left_there: Callable[["redis.Redis", str, Pen], object]
    ) -> None:
        """Nothing of ours is lost or twice there, under the same ids, whether it comes in the middle or is there when
        an agent begins; a consumer group reads on where it was and has to acknowledge what it had to."""
        service = f"foreign-{tmp_path.name}"
        store, pen, clock = RedisStreams(any_server.url, service), Pen(1, tmp_path), Clock()
        key = f"actd:{{{service}}}:w:{pen.name}"
        ship = shipper(store, tmp_path, clock)
        for ms in range(1, 6):
            pen.beat(ms)
        await settle(ship)
        with any_server.client() as client:
            client.xgroup_create(key, "trainers", "0")
            client.xreadgroup("trainers", "one", {key: ">"}, count=3)
            client.xack(key, "trainers", "2-2")
            left_there(client, key, pen)
            client.xreadgroup("trainers", "one", {key: ">"})
            pen.beat(6)
            clock.now += 1.0
            await settle(ship)
            for agent in (ship, shipper(store, tmp_path, clock)):
                left_there(client, key, pen)
                pen.beat(pen.count + 1)
                clock.now += 1.0
                await settle(agent)

            assert await stream(store, pen.name) == texts(pen)
            found = client.xreadgroup("trainers", "one", {key: ">"})
            assert isinstance(found, list)
            assert [name for name, _ in found[0][1]] == [b"6-6", b"7-7", b"8-8"]
            waiting = client.xpending_range(key, "trainers", "-", "+", 100)
            assert [one["message_id"] for one in waiting] == [b"%d-%d" % (n, n) for n in (1, 3, 4, 5, 6, 7, 8)]
        accounted(ship, delivered=pen.count - 1, journaled=1)
        pen.close()
        await store.close()

    async def test_it_is_kept_to_be_looked_at_and_counted(self, any_server: RedisServer, tmp_path: Path) -> None:
        """With where it was and what it held; also where all of ours was trimmed away."""
        service = f"kept-{tmp_path.name}"
        store, pen, clock = RedisStreams(any_server.url, service), Pen(1, tmp_path), Clock()
        key = f"actd:{{{service}}}:w:{pen.name}"
        ship = shipper(store, tmp_path, clock)
        pen.beat(1)
        pen.beat(2)
        await settle(ship)
        with any_server.client() as client:
            client.xtrim(key, maxlen=0, approximate=False)
            client.xadd(key, {"x": "y"})
            client.xadd(key, {"x": "z"})
            pen.beat(3)
            await settle(ship)
            kept = client.xrange(f"actd:{{{service}}}:aside")
            assert left(client, key) == ["3-3"]

        assert isinstance(kept, list)
        assert [fields[b"held"] for _, fields in kept] == [b"{b'x': b'y'}", b"{b'x': b'z'}"]
        assert (await store.counts())["aside"] == 2
        accounted(ship, delivered=3)
        pen.close()
        await store.close()

    async def test_f20_a_key_of_another_type_is_moved_aside(self, any_server: RedisServer, tmp_path: Path) -> None:
        """Of a writer, of the transitions, of the ledger and of the writers: each is made anew."""
        service = f"types-{tmp_path.name}"
        store, pen, clock = RedisStreams(any_server.url, service), Pen(1, tmp_path), Clock()
        ship, join = shipper(store, tmp_path, clock), joining(store, clock)
        told(pen, 1000, 1003)
        await settle(ship)
        await join_all(join)
        with any_server.client() as client:
            for name in ("transitions", "ledger", "writers", f"w:{pen.name}"):
                client.set(f"actd:{{{service}}}:{name}", "x")
            told(pen, 1003, 1006)
            clock.now += 1.0
            await settle(ship)
            for _ in range(4):
                try:
                    await join_all(join)
                except StoreError:
                    continue
            clock.now += 1.0
            await settle(ship)
            await join_all(join)
            aside = list(client.scan_iter(f"actd:{{{service}}}:*:aside:*"))

        assert await stream(store, pen.name) == texts(pen)
        assert [t.seq for t in await emitted(store)] == [7, 9, 11]
        assert len(aside) == 4
        pen.close()
        await store.close()

    @pytest.mark.parametrize("left_there", FOREIGN.values(), ids=FOREIGN)
    async def test_what_comes_behind_it_is_joined(
        self, any_server: RedisServer, tmp_path: Path, left_there: Callable[["redis.Redis", str, Pen], object]
    ) -> None:
        """Also what is of an earlier time than its id, which takes its place once it was taken out."""
        service = f"behind-{tmp_path.name}"
        store, pen, clock = RedisStreams(any_server.url, service), Pen(1, tmp_path), Clock()
        ship, join = shipper(store, tmp_path, clock), joining(store, clock)
        told(pen, 1000, 1003)
        await settle(ship)
        await join_all(join)
        for first in (1003, 1006):
            with any_server.client() as client:
                left_there(client, f"actd:{{{service}}}:w:{pen.name}", pen)
            await join_all(join)
            told(pen, first, first + 3)
            clock.now += 1.0
            await settle(ship)
            await join_all(join)
        pen.beat(20_000)
        clock.now += 1.0
        await settle(ship)
        await join_all(join)

        assert [t.reward for t in await emitted(store)] == [float(ms) for ms in range(1000, 1009)]
        assert all(t.reward_ok for t in await emitted(store))
        assert (join.ledger().missing, join.ledger().unreadable) == (0, 0)
        pen.close()
        await store.close()

    @pytest.mark.parametrize("said", ["closed 1-1", "closed 9999999999999-9", "nonsense", "closed"])
    async def test_what_is_said_of_a_writer_that_lives_is_set_right(
        self, any_server: RedisServer, tmp_path: Path, said: str
    ) -> None:
        """Whoever has its folder knows better; a writer that was called closed was joined no more, without a word."""
        service = f"said-{tmp_path.name}"
        store, pen, clock = RedisStreams(any_server.url, service), Pen(1, tmp_path), Clock()
        ship, join = shipper(store, tmp_path, clock), joining(store, clock)
        told(pen, 1000, 1003)
        await settle(ship)
        await join_all(join)
        with any_server.client() as client:
            client.hset(f"actd:{{{service}}}:writers", pen.name, said)
            await join_all(join)
            told(pen, 1003, 1006)
            clock.now += 1.0
            await settle(ship)
            await join_all(join)
            assert client.hget(f"actd:{{{service}}}:writers", pen.name) == b"open"
        pen.beat(20_000)
        clock.now += 1.0
        await settle(ship)
        await join_all(join)

        assert [t.reward for t in await emitted(store)] == [float(ms) for ms in range(1000, 1006)]
        assert (join.ledger().missing, store.strange) == (0, {})
        pen.close()
        await store.close()

    async def test_it_is_shipped_within_seconds_after_a_register_is_set_right(
        self, redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """However long that took: what is wrong in the store is over for a writer when it is over, and is said once."""
        service = f"rests-{tmp_path.name}"
        store, pen, clock = RedisStreams(redis_server.url, service), Pen(1, tmp_path), Clock()
        ship, key = shipper(store, tmp_path, clock), f"actd:{{{service}}}"
        pen.beat(1)
        await settle(ship)
        with redis_server.client() as client:
            client.set(f"{key}:joined", "x")
            client.xadd(f"{key}:w:{pen.name}", {"x": "y"})
            pen.beat(2)
            for _ in range(100):
                clock.now += 1.0
                await settle(ship)
            assert "joined" in caplog.text
            assert sum("not shipped for" in record.message for record in caplog.records) == 1
            assert ship.failing()
            client.delete(f"{key}:joined")
        clock.now += SOON_S
        await settle(ship)

        assert await stream(store, pen.name) == texts(pen)
        assert ship.failing() == ""
        pen.close()
        await store.close()

    @pytest.mark.parametrize("text", ["abc", str(2**63 - 1), "-9223372036854775808", "1e5", ""])
    async def test_a_count_that_is_none_begins_anew(self, any_server: RedisServer, tmp_path: Path, text: str) -> None:
        """It is said and counted, and nothing is committed in part: each decision becomes one transition."""
        service = f"counts-{tmp_path.name}"
        store, pen, clock = RedisStreams(any_server.url, service), Pen(1, tmp_path), Clock()
        ship, join = shipper(store, tmp_path, clock), joining(store, clock)
        told(pen, 1000, 1003)
        await settle(ship)
        await join_all(join)
        before = await store.counts()
        with any_server.client() as client:
            client.hset(f"actd:{{{service}}}:ledger", "feedback.joined", text)
        told(pen, 1003, 1006)
        clock.now += 1.0
        await settle(ship)
        with pytest.raises(StoreError, match=r"ledger: feedback\.joined was .*, expected a count"):
            await join_all(join)
        assert len(await emitted(store)) == 3
        await join_all(join)

        counts = await store.counts()
        assert [t.reward for t in await emitted(store)] == [float(ms) for ms in range(1000, 1006)]
        assert counts["feedback.joined"] == 3
        assert counts["records"] == before["records"] + 6
        assert counts["aside"] == before.get("aside", 0) + 1
        pen.close()
        await store.close()

    @pytest.mark.parametrize("room", [0, 1])
    async def test_transitions_that_would_find_no_id_are_not_lost(
        self, any_server: RedisServer, tmp_path: Path, room: int
    ) -> None:
        """Somebody leaves an entry with the highest id among them, or one before it: the stream is moved aside."""
        service = f"room-{tmp_path.name}"
        store, pen, clock = RedisStreams(any_server.url, service), Pen(1, tmp_path), Clock()
        ship, join = shipper(store, tmp_path, clock), joining(store, clock)
        key = f"actd:{{{service}}}:transitions"
        with any_server.client() as client:
            client.xadd(key, {"x": "y"}, id=f"{2**64 - 1}-{2**64 - 1 - room}")
        told(pen, 1000, 1003)
        await settle(ship)
        with pytest.raises(StoreError, match=f"highest id there is.*{key}:aside:".replace("{", r"\{")):
            await join_all(join)
        await join_all(join)

        assert [t.reward for t in await emitted(store)] == [1000.0, 1001.0, 1002.0]
        assert (await store.counts())["transitions.episode_end"] == 3
        pen.close()
        await store.close()

    async def test_lost_positions_are_said_and_nothing_is_joined_twice(
        self, any_server: RedisServer, tmp_path: Path
    ) -> None:
        """``joined`` as a string, or one writer's position as nonsense: that is for a person to set right."""
        service = f"joined-{tmp_path.name}"
        store, clock = RedisStreams(any_server.url, service), Clock()
        pens = Pen(1, tmp_path), Pen(2, tmp_path)
        ship, join = shipper(store, tmp_path, clock), joining(store, clock)
        for pen in pens:
            told(pen, 1000, 1003)
        await settle(ship)
        await join_all(join)
        key = f"actd:{{{service}}}:joined"
        with any_server.client() as client:
            before = client.hgetall(key)
            client.hset(key, pens[0].name, "nonsense")
            client.hset(key, "not a writer", "1-1")
            client.hset(f"actd:{{{service}}}:writers", "deadbeef", "open")
            for pen in pens:
                told(pen, 10_000, 10_003)
            await settle(ship)
            join = joining(store, clock)
            await join_all(join)
            assert {where.split(" ")[0] for where in store.strange} == {"joined", "writers"}
            assert [t.writer for t in await emitted(store)].count(pens[0].name) == 3
            kept = {**client.hgetall(key), pens[0].name.encode(): before[pens[0].name.encode()]}
            client.set(key, "x")
            with pytest.raises(StoreError, match="put it back"):
                await join_all(join)
            client.delete(key)
            client.hset(key, mapping=kept)
            await join_all(joining(store, clock))

        made = await emitted(store)
        assert len({(t.writer, t.seq) for t in made}) == len(made) >= 9
        for pen in pens:
            pen.close()
        await store.close()


class TestSqlite:
    """The same in the embedded store, where rows may stand anywhere."""

    async def test_rows_of_others_are_passed_over(self, tmp_path: Path) -> None:
        """Beyond the end, under the very ids that come next, of no type, and under writers that are none."""
        store, pen, clock = SqliteStore(tmp_path / "store.sqlite"), Pen(1, tmp_path / "journal"), Clock()
        ship, join = shipper(store, tmp_path / "journal", clock), joining(store, clock)
        told(pen, 1000, 1003)
        await settle(ship)
        await join_all(join)
        with closing(sqlite3.connect(tmp_path / "store.sqlite")) as db, db:
            rows = [(pen.name, 7, 1003, '"x"'), (pen.name, 9, 9_000_000_000_000, "{}"), (pen.name, 8, "later", "{}")]
            db.executemany(
                "INSERT INTO records (writer, seq, ms, record) VALUES (?, ?, ?, ?)", [*rows, ("x", 1, 1, "{}")]
            )
            db.execute("INSERT INTO writers VALUES ('nobody', 1, 5, 5)")
            db.execute("INSERT INTO joined VALUES ('nobody', 'x', 5)")
            db.execute("INSERT INTO transitions (writer, seq, transition) VALUES (?, 7, '7')", (pen.name,))
        told(pen, 1003, 1006)
        for agent in (ship, shipper(store, tmp_path / "journal", clock)):
            clock.now += 1.0
            await settle(agent)
        await join_all(join)

        assert await stream(store, pen.name) == texts(pen)
        with closing(sqlite3.connect(tmp_path / "store.sqlite")) as db:
            made = [row[0] for row in db.execute("SELECT seq FROM transitions ORDER BY id")]
        assert made == [1, 3, 5, 7, 9, 11]
        assert set(store.strange) == {"writers nobody", "joined nobody"}
        assert (await store.counts())["aside"] >= 3
        accounted(ship, delivered=12)
        pen.close()
        await store.close()


class TestJoining:
    """What the joiner meets in a stream."""

    async def test_what_is_not_ours_is_passed_over_and_counted_once(self, store: "RedisStreams | SqliteStore") -> None:
        """However often the joiner begins anew; and what it would have spoken of is not touched."""
        pen, other = Pen(1), Pen(1)
        pen.beat(1000)
        told(pen, 1001, 1003)
        forged = other.decision(2000)
        entries = [Entry(record.ms, record.seq, encode_record(record)) for record in pen.records]
        strange = [
            Entry(2000, 6, encode_record(forged)),
            Entry(2000, 7, b'{"kind":"heartbeat","v":1,"seq":1,"ms":5}'),
            Entry(2000, 8, b"[]"),
        ]
        ours = Entry(3000, 9, encode_record(Heartbeat(seq=9, ms=3000)))
        await store.register(pen.name)
        await store.append(pen.name, START, [*entries, *strange, ours])
        for _ in range(3):
            join = joining(store, Clock())
            await join_all(join)
        later = Entry(20_000, 10, encode_record(Heartbeat(seq=10, ms=20_000)))
        await store.append(pen.name, Position(3000, 9), [later])
        await join_all(join)
        await join_all(join := joining(store, Clock()))

        assert len(await transitions(store)) == 2
        assert (join.ledger().unreadable, join.ledger().missing, join.ledger().records) == (3, 3, 7)


class TestIsolation:
    """A mistake nobody has thought of, with one writer."""

    async def test_the_others_are_shipped_and_it_is_tried_again(
        self, sqlite: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is named, rests longer each time, and goes on when it is over."""
        pens, clock = (Pen(1, tmp_path), Pen(2, tmp_path)), Clock()
        ship = shipper(sqlite, tmp_path, clock)
        for pen in pens:
            pen.beat(1)
        goes = Shipper._ship

        async def breaks(self: Shipper, lane: Lane, *, dead: bool) -> bool:
            if lane.writer == pens[0].name:
                raise KeyError("x")
            return await goes(self, lane, dead=dead)

        monkeypatch.setattr(Shipper, "_ship", breaks)
        for _ in range(5):
            await settle(ship)
            clock.now += 1.0
        assert await stream(sqlite, pens[1].name) == texts(pens[1])
        assert pens[0].name in ship.failing()
        assert sum(pens[0].name in record.message for record in caplog.records) == 3
        monkeypatch.undo()
        clock.now += 60.0
        await settle(ship)

        assert await stream(sqlite, pens[0].name) == texts(pens[0])
        assert ship.failing() == ""
        for pen in pens:
            pen.close()
