"""Shipping: everything in order and once, and what is deleted when."""

import asyncio
import shutil
from pathlib import Path

import pytest

from service.agent.lane import Lane
from service.agent.ship import DEAD_AFTER_S, GONE_AFTER_S
from service.agent.stores import START, Entry, Position, Store, StoreUnavailable
from service.agent.stores.redis_streams import RedisStreams
from service.agent.stores.sqlite import SqliteStore
from service.agent.tail import Tail
from service.log.journal import segments
from tests.redis_server import RedisServer
from tests.service.agent.pens import Pen
from tests.service.agent.ships import Clock, accounted, settle, shipper, stream, texts


class TestPlan:
    """What is decided when the store says where it is."""

    def lane(self, tmp_path: Path) -> Lane:
        pen = Pen(1, tmp_path)
        for ms in range(1, 9):
            pen.beat(ms)
        pen.close()
        lane = Lane(pen.name, Tail(tmp_path / pen.name), shipped=Position(3, 3), registered=True, closed=True)
        lane.tail.read(3)
        lane.pending = lane.tail.read(3) or []
        return lane

    def test_where_it_was_believed_to_be_the_batch_is_sent_again(self, tmp_path: Path) -> None:
        """The same ids and bytes."""
        lane = self.lane(tmp_path)

        assert lane.align(Position(3, 3)) == ""
        assert [entry.seq for entry in lane.pending] == [4, 5, 6]

    def test_ahead_what_it_has_is_skipped(self, tmp_path: Path) -> None:
        """A reply was lost: the batch, or part of it, is there."""
        lane = self.lane(tmp_path)

        assert lane.align(Position(5, 5)) == "skipped ahead"
        assert [entry.seq for entry in lane.pending] == [6]
        assert [entry.seq for entry in lane.tail.read(9) or []] == [7, 8]
        assert lane.align(Position(8, 8)) == "skipped ahead"
        assert lane.pending == []
        assert lane.tail.read(9) is None

    def test_behind_what_it_lost_is_sent_again(self, tmp_path: Path) -> None:
        """And the writer is registered, and closed, again."""
        lane = self.lane(tmp_path)

        assert lane.align(Position(1, 1)) == "rewound"
        assert (lane.pending, lane.registered, lane.closed) == ([], False, False)
        assert [entry.seq for entry in lane.tail.read(9) or []] == [2, 3, 4, 5, 6, 7, 8]


class TestShipping:
    """The way to any store."""

    async def test_all_writers_arrive_byte_for_byte_in_order(self, store: Store, tmp_path: Path) -> None:
        """Over many batches and segments, while they are written."""
        clock = Clock()
        ship = shipper(store, tmp_path, clock)
        pens = [Pen(1, tmp_path, segment_bytes=20_000), Pen(2, tmp_path)]
        for round_ in range(3):
            for pen in pens:
                for ms in range(300):
                    pen.beat(round_ * 1000 + ms)
            await settle(ship)

        for pen in pens:
            assert await stream(store, pen.name) == texts(pen)
            pen.close()
        accounted(ship, delivered=1800)
        assert {state.open for state in (await store.writers()).values()} == {True}

    async def test_an_agent_that_starts_again_goes_on_where_the_store_is(self, store: Store, tmp_path: Path) -> None:
        """There is no cursor file: the store is asked."""
        pen = Pen(1, tmp_path)
        for ms in range(1, 400):
            pen.beat(ms)
        first = shipper(store, tmp_path, Clock())
        await first.step()
        assert 0 < (await store.position(pen.name)).seq < 399
        second = shipper(store, tmp_path, Clock())
        await settle(second)

        assert await stream(store, pen.name) == texts(pen)
        accounted(second, delivered=399)
        pen.close()

    async def test_two_agents_of_one_folder_do_no_harm(self, store: Store, tmp_path: Path) -> None:
        """One that is late to end and one that was started early: each record arrives once."""
        pen = Pen(1, tmp_path)
        for ms in range(1, 1500):
            pen.beat(ms)
        await asyncio.gather(*(settle(shipper(store, tmp_path, Clock())) for _ in range(2)))

        assert await stream(store, pen.name) == texts(pen)
        pen.close()

    async def test_a_damaged_line_is_counted_and_the_rest_arrives(self, sqlite: SqliteStore, tmp_path: Path) -> None:
        """The ledger says that one record is lost, and by what."""
        pen = Pen(1, tmp_path)
        for ms in range(1, 6):
            pen.beat(ms)
        path = segments(tmp_path / pen.name)[0]
        path.write_bytes(path.read_bytes().replace(b'"seq":3', b'"seq":9'))
        ship = shipper(sqlite, tmp_path, Clock())
        await settle(ship)

        assert [entry.seq for entry in await sqlite.read(pen.name, START, 9)] == [1, 2, 4, 5]
        accounted(ship, delivered=4, damage=1)
        pen.close()

    async def test_a_dead_writer_is_shipped_to_its_torn_end_and_closed(self, store: Store, tmp_path: Path) -> None:
        """Then no more will come of it, and joiners need not wait for it."""
        pen = Pen(1, tmp_path)
        pen.beat(1)
        pen.beat(2)
        clock = Clock()
        ship = shipper(store, tmp_path, clock)
        await settle(ship)
        pen.close()
        with segments(tmp_path / pen.name)[0].open("ab") as file:
            file.write(b"torn")
        await settle(ship)
        assert (await store.writers())[pen.name].open
        clock.now += DEAD_AFTER_S
        await settle(ship)

        assert not (await store.writers())[pen.name].open
        assert (ship.ledger().torn_tails, ship.ledger().lost) == (1, {})

    async def test_foreign_folders_and_writers_without_records_are_left_out(
        self, sqlite: SqliteStore, tmp_path: Path
    ) -> None:
        """A writer that died before its first record never was one, and its folder goes when it is old."""
        (tmp_path / "lost+found").mkdir()
        pen = Pen(1, tmp_path)
        pen.close()
        clock = Clock()
        ship = shipper(sqlite, tmp_path, clock)
        await settle(ship)
        clock.now += DEAD_AFTER_S
        await settle(ship)
        assert await sqlite.writers() == {}
        assert (tmp_path / pen.name).exists()

        clock.now = (tmp_path / pen.name).stat().st_mtime + 10_000
        await settle(ship)
        assert not (tmp_path / pen.name).exists()
        assert (tmp_path / "lost+found").exists()


class TestRetention:
    """What is deleted, and when."""

    async def test_old_shipped_segments_go_and_the_newest_stays(self, sqlite: SqliteStore, tmp_path: Path) -> None:
        """Nothing goes that the store has not said it has."""
        pen = Pen(1, tmp_path, segment_bytes=600)
        for ms in range(1, 21):
            pen.beat(ms)
        before = segments(tmp_path / pen.name)
        clock = Clock()
        clock.now = before[-1].stat().st_mtime + 50
        ship = shipper(sqlite, tmp_path, clock, retain_s=100.0)
        await settle(ship)
        clock.now += 10
        await settle(ship)
        assert segments(tmp_path / pen.name) == before

        clock.now += 100
        await settle(ship)
        assert segments(tmp_path / pen.name) == before[-1:]
        pen.beat(21)
        await settle(ship)
        assert await stream(sqlite, pen.name) == texts(pen)
        accounted(ship, delivered=21)
        pen.close()

    async def test_a_dead_folder_goes_when_shipped_and_old(self, sqlite: SqliteStore, tmp_path: Path) -> None:
        """And the ledger goes on counting what it held."""
        pen = Pen(1, tmp_path)
        pen.beat(1)
        pen.close()
        clock = Clock()
        clock.now = segments(tmp_path / pen.name)[0].stat().st_mtime
        ship = shipper(sqlite, tmp_path, clock, retain_s=100.0)
        for pause in (0, 1, 2, 90):
            clock.now += pause
            await settle(ship)
            assert (tmp_path / pen.name).exists()
        clock.now += 10
        await settle(ship)

        assert not (tmp_path / pen.name).exists()
        accounted(ship, delivered=1)

    async def test_a_folder_that_somebody_removed_ends_its_writer(self, sqlite: SqliteStore, tmp_path: Path) -> None:
        """Nothing waits for it, and the others are shipped."""
        pens = Pen(1, tmp_path), Pen(2, tmp_path)
        clock = Clock()
        ship = shipper(sqlite, tmp_path, clock)
        for pen in pens:
            pen.beat(1)
        await settle(ship)
        shutil.rmtree(tmp_path / pens[0].name)
        # A writer that lives would have put it back by then.
        for _ in range(2 + round(GONE_AFTER_S)):
            clock.now += 1.0
            await settle(ship)
        pens[1].beat(2)
        await settle(ship)

        assert {name: state.open for name, state in (await sqlite.writers()).items()} == {
            pens[0].name: False,
            pens[1].name: True,
        }
        accounted(ship, delivered=3)
        for pen in pens:
            pen.close()

    async def test_nothing_goes_while_the_store_is_away(self, redis_server: RedisServer, tmp_path: Path) -> None:
        """Data stays in the journal, however old."""
        pen = Pen(1, tmp_path, segment_bytes=600)
        for ms in range(1, 21):
            pen.beat(ms)
        pen.close()
        clock = Clock()
        clock.now += 10**9
        store = RedisStreams(redis_server.url, "away")
        redis_server.kill()
        ship = shipper(store, tmp_path, clock, retain_s=1.0)
        for _ in range(3):
            clock.now += 1
            with pytest.raises(StoreUnavailable):
                await ship.step()

        assert len(segments(tmp_path / pen.name)) > 2
        accounted(ship, delivered=0, journaled=20)
        await store.close()


def test_an_entry_names_its_place() -> None:
    """Its id in the stream is its time and sequence."""
    assert Entry(5, 2, b"{}").position == Position(5, 2)
