"""Shipping through faults: whatever Redis loses or does not answer, 0 lost, 0 duplicated, in order."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from service.agent.ship import SOON_S
from service.agent.stores import Entry, StoreUnavailable
from service.agent.stores.redis_streams import RedisStreams
from service.agent.stores.sqlite import SqliteStore
from service.agent.tail import Tail
from service.log.journal import segments
from tests.redis_server import RedisServer
from tests.service.agent.pens import Pen
from tests.service.agent.proxies import Proxy
from tests.service.agent.ships import Clock, accounted, settle, shipper, stream, texts


class TestFaults:
    """What happens to Redis and to replies."""

    async def test_a_redis_that_comes_back_empty_gets_all_of_it_again(
        self, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        """0 lost, 0 duplicated, in order."""
        pen = Pen(1, tmp_path)
        clock = Clock()
        store = RedisStreams(redis_server.url, "empty")
        ship = shipper(store, tmp_path, clock)
        for ms in range(1, 600):
            pen.beat(ms)
        await settle(ship)
        redis_server.kill()
        for ms in range(600, 700):
            pen.beat(ms)
        with pytest.raises(StoreUnavailable):
            await ship.step()
        redis_server.start()
        await settle(ship)

        assert await stream(store, pen.name) == texts(pen)
        accounted(ship, delivered=699)
        await store.close()
        pen.close()

    async def test_a_redis_that_lost_a_suffix_unseen_is_rewound(
        self, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        """Even with no failure between, as behind a proxy that fails over, and with nothing new to send."""
        pen = Pen(1, tmp_path)
        clock = Clock()
        store = RedisStreams(redis_server.url, "suffix")
        ship = shipper(store, tmp_path, clock)
        for ms in range(1, 11):
            pen.beat(ms)
        await settle(ship)
        with redis_server.client() as client:
            key = f"actd:{{suffix}}:w:{pen.name}"
            client.delete(key)
            client.xadd(key, {"record": texts(pen)[0]}, id="1-1")
        pen.beat(11)
        await settle(ship)
        assert await stream(store, pen.name) == texts(pen)
        with redis_server.client() as client:
            client.delete(key)
        clock.now += 1.0
        await settle(ship)

        assert await stream(store, pen.name) == texts(pen)
        await store.close()
        pen.close()

    @pytest.mark.parametrize("lost", [b"EXEC", b"XINFO", b"HSETNX"])
    async def test_a_lost_acknowledgement_neither_loses_nor_repeats(
        self, redis_server: RedisServer, tmp_path: Path, lost: bytes
    ) -> None:
        """The server did it, the agent never heard: it asks, and skips ahead."""
        pen = Pen(1, tmp_path)
        for ms in range(1, 600):
            pen.beat(ms)
        async with Proxy(redis_server.socket) as proxy:
            store = RedisStreams(proxy.url, "lost", timeout_s=0.5)
            ship = shipper(store, tmp_path, Clock())
            proxy.swallow = lost
            await settle(ship)
            pen.beat(600)
            await settle(ship)

            assert proxy.swallowed == 1
            assert await stream(store, pen.name) == texts(pen)
            accounted(ship, delivered=600)
            await store.close()
        pen.close()

    async def test_kills_at_random_moments_lose_and_repeat_nothing(self, tmp_path: Path) -> None:
        """A server with an append-only file is killed again and again while the journal grows."""
        pen = Pen(1, tmp_path)
        with RedisServer(None, "--appendonly", "yes", "--appendfsync", "everysec") as server:
            store = RedisStreams(server.url, "kills")
            ship = shipper(store, tmp_path, Clock())
            for round_ in range(5):
                for ms in range(200):
                    pen.beat(round_ * 1000 + ms)
                working = asyncio.create_task(settle(ship))
                await asyncio.sleep(0.002 * round_)
                server.kill()
                await asyncio.to_thread(server.start)
                await working
            await settle(ship)

            assert await stream(store, pen.name) == texts(pen)
            await store.close()
        pen.close()

    async def test_a_disk_that_cannot_be_read_is_said_once_and_tried_soon(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Each try was a line in the log, and the last wait was a minute, however soon the disk was well again."""
        pen, clock = Pen(1, tmp_path), Clock()
        for ms in range(1, 11):
            pen.beat(ms)
        store = SqliteStore(tmp_path / "store.sqlite")
        ship = shipper(store, tmp_path, clock)
        read = Tail.read

        def failing(tail: Tail, _: int) -> list[Entry] | None:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(tail.folder))

        monkeypatch.setattr(Tail, "read", failing)
        for _ in range(200):
            await ship.step()
            clock.now += 0.5
        trouble, said = ship.failing(), [record.message for record in caplog.records if "not shipped" in record.message]
        monkeypatch.setattr(Tail, "read", read)
        clock.now += SOON_S
        await settle(ship)

        assert pen.name in trouble
        assert len(said) == 1
        assert "Input/output error" in said[0]
        assert await stream(store, pen.name) == texts(pen)
        assert ship.failing() == ""
        await store.close()
        pen.close()

    async def test_an_account_that_cannot_be_kept_is_said_once(
        self, sqlite: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is tried again with each round, and counts all the same."""
        pen, clock = Pen(1, tmp_path), Clock()
        for ms in range(1, 6):
            pen.beat(ms)
        path = segments(tmp_path / pen.name)[0]
        path.write_bytes(path.read_bytes().replace(b'"seq":3', b'"seq":9'))
        (tmp_path / pen.name / "account").mkdir()
        ship = shipper(sqlite, tmp_path, clock)
        for _ in range(20):
            await ship.step()
            clock.now += 1.0
        said = [record.message for record in caplog.records if "cannot be written" in record.message]
        (tmp_path / pen.name / "account").rmdir()
        await ship.step()

        assert len(said) == 1
        assert (tmp_path / pen.name / "account").is_file()
        accounted(ship, delivered=4, damage=1)
        pen.close()
