"""The streams stay within their bytes while an agent ships, joins and trims; who keeps up with them loses nothing."""

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.agent.agent import Agent
from service.agent.stores.redis_streams import RedisStreams
from service.agent.stores.sqlite import SqliteStore
from service.log.records import Packed
from tests.redis_server import RedisServer
from tests.service.agent.agents import CONFIG, running, seen
from tests.service.agent.pens import Pen

log = logging.getLogger(__name__)

MIB = 1024 * 1024
# Records are so far apart (ms) that what is in its wait, and what a joiner that begins anew reads, fits many times.
APART_MS = 50
# The writer waits while the agent has more than this to do: only so is there a moment at which all is looked at.
LAG = 3000
ALLOWED = 1.25
HEAD = Packed.of(np.linspace(0.0, 1.0, 16))
REALISTIC: dict[str, Any] = {
    "observation": [0.123456789 * n for n in range(20)],
    "head": HEAD,
    "durations": dict.fromkeys(("decode", "queue", "infer", "guard", "explore", "check", "log"), 12345),
    "facts": {"price": 0.25, "weather": 12.5},
}


async def drive(one: Agent, pen: Pen, decisions: int, measure: Callable[[], Awaitable[int]], bound: int) -> int:
    """Write so many decisions, each with its feedback, as fast as the agent goes; the most that was measured."""
    most, now = 0, int(time.time() * 1000) - decisions * APART_MS
    pen.introduce(now)
    for count in range(decisions):
        now += APART_MS
        pen.feedback(now, pen.decision(now, session=f"s{count % 500}", **REALISTIC), 1.0, terminated=True)
        if count % 200 == 0:
            most = max(most, await measure())
            assert most <= ALLOWED * bound, f"{most} of {bound} bytes after {count} decisions"
            await seen(lambda: pen.count - one.ledger().joiner.records < LAG, 60)
    return most


def exact(one: Agent, decisions: int) -> None:
    """Every record is accounted for, once."""
    told = one.ledger()
    assert told.journal.accepted == told.journal.delivered == 2 * decisions + 1
    assert told.joiner.transitions == {"episode_end": decisions}
    assert told.joiner.feedback == {"joined": decisions}
    assert (told.joiner.missing, told.joiner.unreadable, told.streams.lost) == (0, 0, {})


async def bounded_in_redis(folder: Path, decisions: int, bound: int) -> None:
    """With a consumer group that reads and acknowledges all the while."""
    read: list[int] = []
    done: list[bool] = []
    with RedisServer() as server, server.client() as client:
        store, key = RedisStreams(server.url, "svc"), "actd:{svc}:transitions"
        client.xgroup_create(key, "trainers", "0", mkstream=True)

        def consume() -> None:
            with server.client() as own:
                while found := own.xreadgroup("trainers", "one", {key: ">"}, count=1000, block=500) or not done:
                    for name, fields in found[0][1] if isinstance(found, list) and found else ():
                        read.append(json.loads(fields[b"transition"])["seq"])
                        own.xack(key, "trainers", name)

        async def measure() -> int:
            return sum(client.memory_usage(name, samples=0) or 0 for name in client.scan_iter("actd:{svc}:*"))

        consuming = asyncio.create_task(asyncio.to_thread(consume))
        async with running(store, folder, CONFIG + f"[retention]\nstream_bytes = {bound}\n") as one:
            pen = Pen(1, folder / "journal", keep=False)
            most = await drive(one, pen, decisions, measure, bound)
            await seen(lambda: sum(one.ledger().joiner.transitions.values()) == decisions, 60)
            exact(one, decisions)
            done.append(True)
            await consuming
            log.warning("redis: %s decisions, at most %.3f of the bound", decisions, most / bound)
        pen.close()
        await store.close()
    assert read == list(range(2, 2 * decisions + 2, 2))


async def bounded_in_sqlite(folder: Path, decisions: int, bound: int) -> None:
    """With a reader that polls, as SQLite has no consumer groups."""
    path, read, last = folder / "store.sqlite", [], 0
    store = SqliteStore(path)

    def consume() -> int:
        nonlocal last
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            for at, seq in db.execute("SELECT id, seq FROM transitions WHERE id > ? ORDER BY id", (last,)):
                last = at
                read.append(seq)
        return path.stat().st_size

    async def measure() -> int:
        return await asyncio.to_thread(consume) if path.exists() else 0

    async with running(store, folder, CONFIG + f"[retention]\nstream_bytes = {bound}\n") as one:
        await seen(lambda: one.ledger().reachable)
        pen = Pen(1, folder / "journal", keep=False)
        most = await drive(one, pen, decisions, measure, bound)
        await seen(lambda: sum(one.ledger().joiner.transitions.values()) == decisions, 60)
        exact(one, decisions)
        consume()
        log.warning("sqlite: %s decisions, at most %.3f of the bound", decisions, most / bound)
    pen.close()
    await store.close()
    assert read == list(range(2, 2 * decisions + 2, 2))


STORES = pytest.mark.parametrize("bounded", [bounded_in_redis, bounded_in_sqlite], ids=["redis", "sqlite"])


@STORES
async def test_streams_stay_within_their_bytes(tmp_path: Path, bounded: Callable[..., Awaitable[None]]) -> None:
    """A few thousand decisions, several times what fits: a batch is a tenth of it in SQLite."""
    await bounded(tmp_path, 8_000, 8 * MIB)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@STORES
async def test_300_000_decisions_stay_within_32_mib(tmp_path: Path, bounded: Callable[..., Awaitable[None]]) -> None:
    """The same for as long as a day of a small service."""
    await bounded(tmp_path, 300_000, 32 * MIB)
