"""Trimming real stores: by age, by bytes, around consumer groups, out of memory, and what is forgotten."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from service.agent.joining import Joining
from service.agent.stores import START, Entry, Position, Store, StoreError, StoreFull
from service.agent.stores.redis_streams import RedisStreams
from service.agent.stores.sqlite import SqliteStore
from service.agent.trimming import EVERY_S, Trimming
from service.clock import Clock as Time
from service.config import Retention, Rewards
from tests.redis_server import RedisServer
from tests.service.agent.agents import CONFIG, page_after, running, seen
from tests.service.agent.consumers import transitions
from tests.service.agent.pens import KEYRING, Pen
from tests.service.agent.ships import settle as ship_all
from tests.service.agent.ships import shipper
from tests.service.agent.test_joining import Shipped, emitted, settle, told

HOUR_MS = 3_600_000
REWARDS = Rewards(wait_seconds=10.0)


class Clock:
    """The time of day, moved on by a test: transitions are made in the store's own time."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def trimming(
    store: Store, clock: Callable[[], float], busy: Callable[[], bool] = lambda: False, **told: Any
) -> Trimming:
    """A trimmer whose every step is due, of a store whose time goes on with the test's."""

    async def there() -> float:
        return clock()

    store.time = there  # type: ignore[method-assign]  # a server's own time cannot be moved on
    ticks = iter(range(0, 10**9, int(EVERY_S)))
    return Trimming(
        store,
        retention=Retention().model_copy(update=told),
        rewards=REWARDS,
        now=clock,
        monotonic=lambda: float(next(ticks)),
        busy=busy,
    )


def joining(store: Store, clock: Callable[[], float]) -> Joining:
    """A joiner on the same clock."""
    return Joining(store, rewards=REWARDS, place=KEYRING.place, monotonic=clock, random=Random(1))  # noqa: S311 - jitter


async def lived(store: Store, pen: Pen, clock: Clock, first: int, last: int) -> None:
    """A writer's decisions, shipped and joined, and minutes in which nothing happened."""
    told(pen, first, last)
    pen.beat(last + 200_000)
    await Shipped(store).ship(pen)
    await settle(joining(store, clock))


def ago(hours: float) -> int:
    """So long ago (ms)."""
    return int(time.time() * 1000 - hours * HOUR_MS)


def span(hours: float, count: int) -> tuple[int, int]:
    """So many milliseconds, the first of which was so long ago."""
    first = ago(hours)
    return first, first + count


class TestAge:
    """``stream_hours``."""

    async def test_what_is_old_and_was_used_goes_and_what_waits_stays(self, store: Store) -> None:
        """With what a joiner that begins anew would read for it; and transitions of the last hours."""
        clock, pens = Clock(), (Pen(1), Pen(2))
        shipped, old = Shipped(store), ago(30)
        told(pens[0], old, old + 300)
        waits = pens[0].decision(old + 400_000)
        told(pens[1], old, old + 300)
        for pen in pens:
            pen.beat(old + 405_000)
            await shipped.ship(pen)
        await settle(joining(store, clock))
        await trimming(store, clock).step()

        left = {pen.name: [entry.seq for entry in await store.read(pen.name, START, 10**6)] for pen in pens}
        assert left[pens[0].name][-2:] == [601, 602]
        # Redis cuts whole nodes.
        assert len(left[pens[0].name]) <= 102
        assert left[pens[1].name][-1] == 601
        assert len(left[pens[1].name]) <= 101
        assert len(await transitions(store)) == 600
        pens[0].feedback(old + 406_000, waits, 7.0, terminated=True)
        pens[0].beat(old + 500_000)
        pens[1].beat(old + 500_000)
        for pen in pens:
            await shipped.ship(pen)
        await settle(joining(store, clock))
        assert (await emitted(store))[-1].reward == 7.0

    async def test_transitions_go_by_when_they_were_made(self, store: Store) -> None:
        """A backlog of days that was joined a moment ago is not thrown away unread; a day later it is."""
        clock, pen = Clock(), Pen(1)
        await lived(store, pen, clock, *span(60, 300))
        await trimming(store, clock).step()
        assert len(await transitions(store)) == 300
        clock.ahead = 24.1 * 3600
        trim = trimming(store, clock)
        await trim.step()

        assert len(await transitions(store)) == 0
        assert trim.ledger().lost == {}

    @pytest.mark.parametrize("there_h", [-25.0, 0.0, 25.0, -24.0 * 365])
    async def test_f99_a_store_whose_host_has_another_time_makes_no_transition_old(
        self, redis_server: RedisServer, there_h: float
    ) -> None:
        """They have their ids by it: they are kept as long as it says, and no longer, however far it is off."""
        store, pen, passed_h = RedisStreams(redis_server.url, "skewed"), Pen(1), [0.0]
        monotonic = iter(range(0, 10**6, 10))

        # Of this machine, where Redis runs; the agent's host has another time, and time passes for both.
        async def there() -> float:
            return time.time() + passed_h[0] * 3600

        store.time = there  # type: ignore[method-assign]  # a server's own time cannot be moved on
        trim = Trimming(
            store, retention=Retention(), rewards=REWARDS, now=lambda: time.time() + (passed_h[0] - there_h) * 3600,
            monotonic=lambda: float(next(monotonic)), busy=lambda: False,
        )  # fmt: skip
        began = ago(1 + there_h)
        told(pen, began, began + 200)
        pen.beat(began + 200_000)
        await Shipped(store).ship(pen)
        await settle(joining(store, time.time))
        kept = []
        for hours in (0.0, 23.9, 0.2):
            passed_h[0] += hours
            await trim.step()
            kept.append(len(await transitions(store)))

        assert kept == [200, 200, 0]
        await store.close()

    @pytest.mark.parametrize("set_h", [-30.0, 30.0])
    async def test_f99_a_store_whose_clock_is_set_makes_no_transition_old(
        self, redis_server: RedisServer, set_h: float
    ) -> None:
        """While the agent works: what was made before it was set is kept as long as it says, or longer."""
        store, pen, passed_h = RedisStreams(redis_server.url, "set"), Pen(1), [0.0, 0.0]
        monotonic = iter(range(0, 10**6, 10))

        async def there() -> float:
            return time.time() + sum(passed_h) * 3600

        store.time = there  # type: ignore[method-assign]  # a server's own time cannot be moved on
        trim = Trimming(
            store, retention=Retention(), rewards=REWARDS, now=lambda: time.time() + passed_h[0] * 3600,
            monotonic=lambda: float(next(monotonic)), busy=lambda: False,
        )  # fmt: skip
        began = ago(1)
        await lived(store, pen, Clock(), began, began + 200)
        await trim.step()
        passed_h[1] = set_h
        await trim.step()
        passed_h[0] = 23.9
        await trim.step()
        assert len(await transitions(store)) == 200
        passed_h[0] = 24.1 + max(0.0, -set_h)
        await trim.step()

        assert len(await transitions(store)) == 0
        await store.close()

    @pytest.mark.parametrize("step", [-30.0, -24.0 * 365, 30.0])
    async def test_f99_a_clock_that_is_set_makes_no_transition_old(self, tmp_path: Path, step: float) -> None:
        """By hours, after the agent has begun: what is joined then is kept as long as it says, and no longer."""
        passed = [100.0]
        # The machine's clock was right, and its agent begun by it, before it was set to what it says here.
        now = Time(lambda: time.time() - step * 3600, lambda: passed[0]).now
        store, pen, clock = SqliteStore(tmp_path / "store.sqlite", now=now), Pen(1), Clock()
        await lived(store, pen, clock, *span(1, 200))
        kept = []
        for hours in (23.9, 0.2):
            passed[0] += hours * 3600
            await trimming(store, now).step()
            kept.append(len(await transitions(store)))

        assert kept == [200, 0]
        await store.close()

    async def test_positions_outlive_what_is_trimmed(self, store: Store) -> None:
        """A stream that is empty goes on where it was, for agents that begin anew too."""
        clock, pen, shipped = Clock(), Pen(1), None
        await lived(store, pen, clock, *span(30, 200))
        clock.ahead = 30 * 3600
        end = await store.position(pen.name)
        await trimming(store, clock).step()
        assert len(await store.read(pen.name, START, 10**6)) <= 101
        assert await store.position(pen.name) == end
        shipped = Shipped(store)
        shipped.at[pen.name] = pen.count
        first, last = span(0, 10)
        told(pen, first, last)
        pen.beat(last + 90)
        await shipped.ship(pen)
        join = joining(store, clock)
        await settle(join)

        assert [t.seq for t in await emitted(store)][-10:] == list(range(402, 422, 2))
        assert join.ledger().missing == 0


class TestGroups:
    """Consumer groups of Redis."""

    async def test_what_a_group_has_to_read_or_to_acknowledge_is_not_old(self, redis_server: RedisServer) -> None:
        """Of transitions and of a writer's records; once it was, it goes."""
        store, clock, pen = RedisStreams(redis_server.url, "groups"), Clock(), Pen(1)
        await lived(store, pen, clock, *span(30, 300))
        clock.ahead = 48 * 3600
        keys = ["actd:{groups}:transitions", f"actd:{{groups}}:w:{pen.name}"]
        with redis_server.client() as client:
            for key in keys:
                client.xgroup_create(key, "read", "0")
                client.xgroup_create(key, "half", "0")
                client.xreadgroup("read", "one", {key: ">"}, noack=True)
                client.xreadgroup("half", "one", {key: ">"}, count=150)
            await trimming(store, clock).step()
            assert [client.xlen(key) for key in keys] == [300, 601]
            for key in keys:
                found = client.xpending_range(key, "half", "-", "+", 150)
                client.xack(key, "half", *[one["message_id"] for one in found[:140]])
            trim = trimming(store, clock)
            await trim.step()
            left = [client.xlen(key) for key in keys]
            assert 160 <= left[0] <= 260
            assert 460 <= left[1] <= 560
            assert [len(client.xpending_range(key, "half", "-", "+", 150)) for key in keys] == [10, 10]

        assert trim.ledger().lost == {}
        await store.close()

    async def test_bytes_force_it_and_then_it_is_counted(
        self, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Exactly as many as were not read or not acknowledged; the newest stay."""
        store, clock, pen = RedisStreams(redis_server.url, "forced"), Clock(), Pen(1)
        key = "actd:{forced}:transitions"
        await lived(store, pen, clock, *span(1, 4000))
        with redis_server.client() as client:
            client.xgroup_create(key, "slow", "0")
            found: Any = client.xreadgroup("slow", "one", {key: ">"}, count=500)
            acked = [name for name, _ in found[0][1]][::2]
            client.xack(key, "slow", *acked)
            names = [name for name, _ in client.xrange(key)]
            size = client.memory_usage(key, samples=0)
            trim = trimming(store, clock, stream_bytes=int(size * 0.5))
            await trim.step()
            left = {name for name, _ in client.xrange(key)}
            total = sum(client.memory_usage(one, samples=0) or 0 for one in client.scan_iter("*"))

        gone = [name for name in names if name not in left]
        assert len(gone) > 1000
        assert names[-len(left) :] == sorted(left, key=names.index)
        assert trim.ledger().lost == {"unread": len(set(gone) - set(acked))}
        assert total <= size * 0.5 * 1.25
        assert "deleted unread" in caplog.text
        again = trimming(store, clock)
        await again.step()
        assert again.ledger().lost == trim.ledger().lost
        await store.close()

    async def test_what_is_still_to_be_joined_is_never_forced_out(self, store: Store) -> None:
        """The bound is broken instead, and said; the shipper holds back while the joiner gets on."""
        clock, pen, busy = Clock(), Pen(1), [True]
        for ms in range(*span(1, 3000)):
            pen.decision(ms)
        await Shipped(store).ship(pen)
        trim = trimming(store, clock, lambda: busy[0], stream_bytes=100_000)
        await trim.step()
        await trim.step()

        assert len(await store.read(pen.name, START, 10**6)) == 3000
        assert "too small" in trim.warning
        assert trim.pressed
        assert not trim.lets_ship()
        busy[0] = False
        assert trim.lets_ship()
        assert not trim.lets_ship()


class TestForgetting:
    """Writers that are no more."""

    async def test_a_thousand_restarts_leave_nothing(self, store: Store) -> None:
        """Closed, joined and trimmed away: no stream, no register; and another agent's joiner goes on."""
        clock, other = Clock(), Pen(1)
        join = joining(store, clock)
        for name in range(2, 42):
            pen, shipped = Pen(name), Shipped(store)
            at = ago(30) + name * 1000
            told(pen, at, at + 2)
            await shipped.ship(pen, close=True)
        now = ago(0)
        told(other, now, now + 2)
        other.beat(now + 60_000)
        await Shipped(store).ship(other)
        await settle(join)
        assert len(await store.joined()) == 41
        await trimming(store, clock).step()
        assert set(await store.writers()) == set(await store.joined()) == {other.name}
        if isinstance(store, RedisStreams):
            keys = [key async for key in store._client.scan_iter(f"{store._prefix}w:*")]
            assert len(keys) == 1
        shipped = Shipped(store)
        shipped.at[other.name] = other.count
        late = Pen(5).decision(ago(30) + 5000)
        other.feedback(now + 61_000, late, 1.0)
        told(other, now + 61_001, now + 61_003)
        other.beat(now + 80_000)
        await shipped.ship(other)
        await settle(join)

        again = joining(store, clock)
        await settle(again)
        for one in (join, again):
            assert one.ledger().feedback == {"joined": 84, "late": 1}
            assert not one.ledger().standby
        made = await emitted(store)
        assert len({(t.writer, t.seq) for t in made}) == len(made) == 84

    async def test_a_writer_that_is_open_or_young_or_not_joined_is_kept(self, store: Store) -> None:
        """Whatever is trimmed of it."""
        clock, young, opened, unjoined = Clock(), Pen(1), Pen(2), Pen(3)
        told(young, *span(1, 2))
        told(opened, *span(30, 2))
        unjoined.decision(ago(29))
        for pen in (young, opened):
            await Shipped(store).ship(pen, close=pen is young)
        await settle(joining(store, clock))
        await Shipped(store).ship(unjoined, close=True)
        for _ in range(2):
            await trimming(store, clock).step()

        assert set(await store.writers()) == {pen.name for pen in (young, opened, unjoined)}

    async def test_a_folder_that_is_kept_longer_is_not_shipped_anew(self, store: Store, tmp_path: Path) -> None:
        """What the store has forgotten was shipped once, to its end; what it lost before that is shipped again."""
        clock, pen = Clock(), Pen(1, tmp_path)
        told(pen, *span(2, 5))
        pen.close()

        def ship() -> Any:
            return shipper(store, tmp_path, clock, retain_s=10**6, stream_hours=1.5)

        first = ship()
        for _ in range(4):
            await ship_all(first)
            clock.ahead += 1.0
        await settle(joining(store, clock))
        clock.ahead = 0.0
        await trimming(store, clock, stream_hours=1.5).step()
        assert await store.writers() == {}
        for one in (first, ship()):
            for _ in range(3):
                clock.ahead += 1.0
                await ship_all(one)
            assert one.ledger().delivered == 10

        assert await store.writers() == {}
        assert len(await transitions(store)) == 5


class TestFull:
    """A Redis whose memory is used up."""

    @pytest.mark.parametrize("room", [700_000, 350_000])
    async def test_the_agent_says_so_trims_and_goes_on(
        self, redis_server: RedisServer, tmp_path: Path, room: int
    ) -> None:
        """All that had to wait in the journal arrives, in order and once, and nobody's unread entries went for it.

        Also where there is less room than a batch takes up while it is on its way.
        """
        store, now = RedisStreams(redis_server.url, "svc"), ago(1)
        pen = Pen(1, tmp_path / "journal", keep=False)
        pen.introduce(now)

        def live(count: int) -> None:
            nonlocal now
            for one in range(count):
                now += 50
                pen.feedback(now, pen.decision(now, session=f"s{one % 9}"), 1.0, terminated=True)

        with redis_server.client() as client:
            async with running(store, tmp_path, CONFIG) as one:
                live(3000)
                await seen(lambda: one.ledger().joiner.transitions.get("episode_end", 0) >= 2990, 60)
                client.config_set("maxmemory", "1")
                live(1500)
                assert "maxmemory" in await seen(lambda: _failing_page(tmp_path))
                assert "maxmemory" in one.failing()["ship"]
                client.config_set("maxmemory", client.info("memory")["used_memory"] + room)
                await seen(lambda: one.ledger().joiner.transitions.get("episode_end", 0) >= 4490, 60)
                await seen(lambda: (found := page_after(tmp_path, 0)) is not None and found.failing == "")
                await seen(lambda: one.ledger().journal.delivered == 9001)
                assert one.ledger().streams.lost == {}
        pen.close()
        await store.close()

    async def test_an_agent_that_begins_with_a_full_server_makes_room(
        self, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        """Though it can register nothing and count nothing before; what is lost unread is counted once it can."""
        store, pen = RedisStreams(redis_server.url, "svc"), Pen(1)
        await store.claim_key(KEYRING.fingerprint)
        await lived(store, pen, Clock(), *span(1, 4000))
        key = "actd:{svc}:transitions"
        with redis_server.client() as client:
            client.xgroup_create(key, "slow", "0")
            before = client.xlen(key)
            client.config_set("maxmemory", client.info("memory")["used_memory"] - 1_000_000)
            (tmp_path / "journal").mkdir()
            async with running(store, tmp_path, CONFIG + "[retention]\nstream_bytes = 1048576\n") as one:
                await seen(lambda: one.ledger().streams.lost)
                await seen(lambda: one.ledger().reachable and not one._trimming.pressed)
                assert one.ledger().streams.lost == {"unread": before - client.xlen(key)}
        await store.close()

    async def test_oom_is_told_from_other_refusals(self, redis_server: RedisServer) -> None:
        """By the server's own error, in a transaction too."""
        store = RedisStreams(redis_server.url, "full")
        with redis_server.client() as client:
            client.config_set("maxmemory", "1")
            with pytest.raises(StoreFull):
                await store.append(Pen(1).name, START, [Entry(1, 1, b"{}")])
            with pytest.raises(StoreFull):
                await store.commit(Pen(1).name, START, Position(1, 1), [b"{}"])
            client.config_set("maxmemory", "0")
            client.set("actd:{full}:w:x", "x")
        with pytest.raises(StoreError) as caught:
            await store.append("x", START, [Entry(1, 1, b"{}")])
        assert not isinstance(caught.value, StoreFull)
        await store.close()

    @pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru"])
    async def test_f09_a_server_that_evicts_is_warned_about(
        self, redis_server: RedisServer, policy: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Once in the log, and in the ledger while it is so."""
        store = RedisStreams(redis_server.url, "evicts")
        with redis_server.client() as client:
            client.config_set("maxmemory", "100mb")
            client.config_set("maxmemory-policy", policy)
            trim = trimming(store, Clock())
            await trim.step()
            await trim.step()
            assert policy in trim.ledger().warning
            assert trim.ledger().bound == 50 * 1024 * 1024
            client.config_set("maxmemory-policy", "noeviction")
            await trim.step()

        assert trim.ledger().warning == ""
        assert caplog.text.count(policy) == 1
        await store.close()


def _failing_page(data: Path) -> str:
    page = page_after(data, 0)
    return page.failing if page is not None else ""


class TestSqlite:
    """A file gets smaller again."""

    async def test_space_is_given_back(self, sqlite: SqliteStore, tmp_path: Path) -> None:
        """What was trimmed by age; but for a little that is used again."""
        clock, path = Clock(), tmp_path / "store.sqlite"
        await lived(sqlite, Pen(1), clock, *span(30, 3000))
        before = path.stat().st_size
        clock.ahead = 48 * 3600
        await trimming(sqlite, clock, stream_bytes=1024 * 1024).step()
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

        assert before > 3_000_000
        assert path.stat().st_size < 500_000

    async def test_a_file_of_an_earlier_version_can_too(self, tmp_path: Path) -> None:
        """It is written anew once, with all that is in it; transitions without a time are the oldest."""
        path = tmp_path / "store.sqlite"
        store = SqliteStore(path)
        await lived(store, Pen(1), Clock(), *span(1, 2000))
        await store.close()
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("ALTER TABLE transitions DROP COLUMN made_ms")
            db.execute("DROP TABLE ledger")
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("PRAGMA auto_vacuum = NONE")
            db.execute("VACUUM")
            assert db.execute("PRAGMA auto_vacuum").fetchone() == (0,)
        store = SqliteStore(path)
        assert len((await store.streams([]))[1]) == 2
        assert len(await emitted(store)) == 2000
        trim = trimming(store, Clock(), stream_bytes=1024 * 1024)
        await trim.step()
        await store.close()

        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert path.stat().st_size < 1.25 * 1024 * 1024


async def test_a_ledger_says_what_there_is(store: Store) -> None:
    """Bytes, bound and what others left."""
    clock, pen = Clock(), Pen(1)
    trim = trimming(store, clock, stream_bytes=10**9)
    await lived(store, pen, clock, *span(1, 300))
    await trim.step()

    told = trim.ledger()
    assert 100_000 < told.size < 10_000_000
    assert (told.bound, told.lost, told.aside, told.strange, told.warning) == (10**9, {}, 0, {}, "")


async def test_what_has_failed_works_again_only_once_it_was_done(redis_server: RedisServer) -> None:
    """Also where it is not time to look: else it was said to work again, and to fail, each second."""
    store, now = RedisStreams(redis_server.url, "failed"), [0.0]
    trim = Trimming(
        store, retention=Retention(), rewards=REWARDS, now=time.time, monotonic=lambda: now[0], busy=lambda: False
    )
    with redis_server.client() as client:
        client.set("actd:{failed}:joined", "x")
        for _ in range(3):
            with pytest.raises(StoreError, match="joined"):
                await trim.step()
        client.delete("actd:{failed}:joined")
    await trim.step()
    redis_server.kill()
    await trim.step()
    now[0] += EVERY_S
    with pytest.raises(StoreError):
        await trim.step()
    await store.close()
