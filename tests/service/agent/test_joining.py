"""The joiner's loop on real stores: beginning anew, standing by, and several agents at once."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.agent.joining import STANDBY_S, Joining
from service.agent.stores import START, Entry, Position, Store, StoreFull, StoreUnavailable
from service.agent.stores.redis_streams import RedisStreams
from service.agent.stores.sqlite import SqliteStore
from service.config import Rewards
from service.log.records import Transition, encode_record
from tests.redis_server import RedisServer
from tests.service.agent.consumers import transitions
from tests.service.agent.desks import EVENTS, Desk, written
from tests.service.agent.pens import KEYRING, Pen
from tests.service.agent.proxies import Proxy

REWARDS = Rewards(wait_seconds=10.0)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def joining(store: Store, clock: Callable[[], float], rewards: Rewards = REWARDS) -> Joining:
    """A joiner of a store, that takes the test's clock."""
    return Joining(store, rewards=rewards, place=KEYRING.place, monotonic=clock, random=Random(1))  # noqa: S311 - jitter


class Shipped:
    """Ships what pens have written, a part at a time, as an agent would."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.at: dict[str, int] = defaultdict(int)

    async def ship(self, pen: Pen, count: int = 10**6, *, close: bool = False) -> None:
        """The next records of a pen."""
        first = self.at[pen.name]
        records = pen.records[first : first + count]
        await self.store.register(pen.name)
        if records:
            after = Position(pen.records[first - 1].ms, first) if first else START
            entries = [Entry(record.ms, record.seq, encode_record(record)) for record in records]
            await self.store.append(pen.name, after, entries)
            self.at[pen.name] += len(records)
        if close:
            await self.store.close_writer(pen.name)


async def settle(join: Joining) -> None:
    """Join until there is no more."""
    while await join.step():
        pass


async def emitted(store: Store) -> list[Transition]:
    """All transitions as a consumer reads them."""
    return [msgspec.json.decode(text, type=Transition) for text in await transitions(store)]


def told(pen: Pen, first: int, last: int) -> None:
    """Decisions that close at once, of sequence 2n and 2n+1 each."""
    for ms in range(first, last):
        pen.feedback(ms, pen.decision(ms, session=str(ms)), float(ms), terminated=True)


class TestJoining:
    """One joiner."""

    async def test_transitions_are_in_the_store_once(self, store: Store) -> None:
        """Over thousands of records of two writers, as they come."""
        pens = Pen(1), Pen(2)
        shipped, join = Shipped(store), joining(store, Clock())
        for round_ in range(2):
            for pen in pens:
                told(pen, 1000 + round_ * 1000, 1400 + round_ * 1000)
                await shipped.ship(pen)
            await settle(join)

        made = await emitted(store)
        for pen in pens:
            seqs = [t.seq for t in made if t.writer == pen.name]
            assert seqs == list(range(1, 1600, 2))[: len(seqs)]
            assert len(seqs) >= 799
        assert join.ledger().transitions == {"episode_end": len(made)}

    async def test_with_no_room_for_all_at_once_less_is_committed_at_a_time(self, redis_server: RedisServer) -> None:
        """Each transition once; and until it has worked, more records would be of no use to it."""
        store, pen, sizes = RedisStreams(redis_server.url, "tight"), Pen(1), []
        told(pen, 1000, 1400)
        await Shipped(store).ship(pen)
        join = joining(store, Clock())
        with redis_server.client() as client:
            client.config_set("maxmemory", client.info("memory")["used_memory"] + 100_000)
            for _ in range(8):
                try:
                    await join.step()
                except StoreFull:
                    assert join.busy
                    sizes.append(join._portion.size)
            assert sizes[:1] == [64]
            assert join._portion.size < 256
            client.config_set("maxmemory", "0")
            await settle(join)

        assert [t.seq for t in await emitted(store)] == list(range(1, 800, 2))
        await store.close()

    async def test_a_joiner_that_begins_anew_goes_on_where_the_store_is(self, store: Store) -> None:
        """What waits is read again, with what came of it in logs that were emitted to their end."""
        pens = Pen(1), Pen(2)
        shipped, clock = Shipped(store), Clock()
        one = pens[0].decision(1000, session="a")
        two = pens[0].decision(1000, session="b")
        pens[1].beat(900)
        pens[1].feedback(1500, two, 2.0, next_observation=[2.0])
        pens[1].beat(1600)
        pens[0].beat(1700)
        for pen in pens:
            await shipped.ship(pen, close=pen is pens[1])
        await settle(joining(store, clock))
        assert (await store.joined())[pens[1].name] == Position(1600, 3)
        assert await emitted(store) == []
        pens[0].feedback(1800, one, 1.0, next_observation=[1.0])
        await shipped.ship(pens[0])
        again = joining(store, clock)
        await settle(again)

        assert [(t.seq, t.reward) for t in await emitted(store)] == [(1, 1.0), (2, 2.0)]
        assert again.ledger().feedback == {"joined": 2}

    async def test_a_record_that_cannot_be_read_is_counted_and_passed(self, sqlite: SqliteStore) -> None:
        """One of a later version, for instance."""
        pen = Pen(1)
        pen.beat(1)
        told(pen, 1000, 1001)
        join = joining(sqlite, Clock())
        entries = [Entry(record.ms, record.seq, encode_record(record)) for record in pen.records]
        entries[0] = Entry(1, 1, b'{"kind":"dream","v":9,"seq":1,"ms":1}')
        await sqlite.append(pen.name, START, entries)
        await settle(join)

        assert join.ledger().unreadable == 1
        assert [t.reward for t in await emitted(sqlite)] == [1000.0]

    async def test_a_writer_far_behind_is_read_first(self, sqlite: SqliteStore) -> None:
        """What others have beyond it is left in the store instead of waiting in memory."""
        pens = Pen(1), Pen(2)
        for ms in range(0, 600_000, 100):
            pens[0].beat(1 + ms)
        for ms in range(0, 600_000, 1000):
            pens[1].beat(1 + ms)
        shipped = Shipped(sqlite)
        for pen in pens:
            await shipped.ship(pen)
        join = joining(sqlite, Clock())
        most = 0
        while await join.step():
            assert join._joiner is not None
            most = max(most, len(join._joiner.order))

        assert most < 2000
        assert (await sqlite.joined())[pens[0].name].seq > 5900


class TestSeveral:
    """Several joiners of one store."""

    async def test_one_joins_and_the_other_stands_by_and_takes_over(self, store: Store) -> None:
        """Each transition comes once, and none is left behind when the first agent is gone."""
        pen, shipped, clock = Pen(1), Shipped(store), Clock()
        first, second = joining(store, clock), joining(store, clock)
        for ms in (1000, 2000, 3000):
            told(pen, ms, ms + 10)
            await shipped.ship(pen)
            await first.step()
            await second.step()
        assert second.ledger().standby
        assert not first.ledger().standby
        assert len(await emitted(store)) == 30

        clock.now += STANDBY_S[1]
        await second.step()
        assert second.ledger().standby
        told(pen, 4000, 4010)
        await shipped.ship(pen)
        clock.now += STANDBY_S[1]
        await settle(second)
        assert not second.ledger().standby
        assert [t.seq for t in await emitted(store)] == list(range(1, 80, 2))

    async def test_one_that_joins_from_a_stale_place_is_fenced(self, store: Store) -> None:
        """It had decided before the other committed: its commit does nothing."""
        pen, shipped, clock = Pen(1), Shipped(store), Clock()
        told(pen, 1000, 1010)
        await shipped.ship(pen)
        slow = joining(store, clock)
        joiner = await slow._begin()
        assert joiner is not None
        await slow._take(joiner, await store.writers())
        joiner.advance(clock())
        stale = next(iter(joiner.batches()))
        await settle(joining(store, clock))

        assert not await store.commit(stale.writer, stale.expected, stale.new, [b"{}"])
        assert len(await emitted(store)) == 10


class TestFaults:
    """What happens to Redis."""

    async def test_transitions_that_redis_lost_are_joined_again(self, redis_server: RedisServer) -> None:
        """It came back empty; the journal is shipped again, and joined again."""
        store, pen, clock = RedisStreams(redis_server.url, "lost"), Pen(1), Clock()
        told(pen, 1000, 1100)
        await Shipped(store).ship(pen)
        join = joining(store, clock)
        await settle(join)
        redis_server.kill()
        with pytest.raises(StoreUnavailable):
            await join.step()
        redis_server.start()
        await settle(join)
        assert await emitted(store) == []
        await Shipped(store).ship(pen)
        await settle(join)

        assert [t.seq for t in await emitted(store)] == list(range(1, 200, 2))
        await store.close()

    async def test_a_commit_whose_answer_was_lost_is_not_repeated(self, redis_server: RedisServer) -> None:
        """The position in the store tells that it was done."""
        pen = Pen(1)
        told(pen, 1000, 1400)
        async with Proxy(redis_server.socket) as proxy:
            store = RedisStreams(proxy.url, "answer", timeout_s=0.5)
            await Shipped(store).ship(pen)
            join = joining(store, Clock())
            proxy.swallow = b"EXEC"
            with pytest.raises(StoreUnavailable):
                await settle(join)
            await settle(join)

            assert proxy.swallowed == 1
            assert [t.seq for t in await emitted(store)] == list(range(1, 800, 2))
            await store.close()


class TestRestarts:
    """Beginning anew at any moment."""

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        EVENTS,
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6), st.booleans()), max_size=30),
        st.sampled_from(["first", "sum", "last"]),
    )
    async def test_change_nothing(self, tmp_path: Path, events: Any, steps: Any, aggregation: Any) -> None:
        """However the logs come in, and however often the joiner is lost: the same transitions, each once, and the same
        ledger."""
        rewards = Rewards(wait_seconds=10.0, aggregation=aggregation)
        pens = written(events)
        expected = Desk(*pens, rewards=rewards)
        expected.join()
        path = tmp_path / "store.sqlite"
        for file in tmp_path.iterdir():  # noqa: ASYNC240 - a handful
            file.unlink()
        store, clock = SqliteStore(path), Clock()
        shipped, join = Shipped(store), joining(store, clock, rewards)
        for pen in pens:
            await shipped.ship(pen, 1)
        for who, count, lost in steps:
            await shipped.ship(pens[who], count)
            if lost:
                join = joining(store, clock, rewards)
            await settle(join)
        # Positions move past records that are no decisions with what comes later.
        for pen in pens:
            pen.beat(pen.records[-1].ms + 100_000)
            await shipped.ship(pen)
        await settle(join)
        expected.join()
        made = await emitted(store)
        ledgers = [
            msgspec.structs.replace(told, records=0, waiting=0) for told in (join.ledger(), expected.joiner.ledger())
        ]
        assert ledgers[0] == ledgers[1]
        await store.close()

        for pen in pens:
            assert [t for t in made if t.writer == pen.name] == [t for t in expected.made if t.writer == pen.name]
