"""The ledger is what one counts from the data: after lost replies, restarts, lost suffixes and damaged logs."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from service.agent.joining import Joining
from service.agent.ship import DEAD_AFTER_S, Shipper
from service.agent.stores import Store, StoreError
from service.agent.stores.redis_streams import RedisStreams
from service.agent.stores.sqlite import SqliteStore
from service.config import Rewards
from service.log.journal import segments
from tests.redis_server import RedisServer
from tests.service.agent import recount
from tests.service.agent.pens import Pen
from tests.service.agent.proxies import Proxy
from tests.service.agent.ships import Clock, shipper
from tests.service.agent.test_joining import joining

REWARDS = Rewards(wait_seconds=2.0)
START_MS = 1_000_000_000
# What an agent says to Redis, each of which may be done without a reply.
SAID = [b"EXEC", b"XINFO", b"HSETNX", b"HGETALL", b"XRANGE", b"WATCH", b"HGET\r", b"TYPE"]


class Life:
    """Two writers whose records an agent ships and joins, a few at a time, through whatever happens."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.clock = Clock()
        self.pens = Pen(1, folder), Pen(2, folder, segment_bytes=20_000)
        self.ms = START_MS
        self.agent: tuple[Shipper, Joining]
        self.restart()

    def restart(self) -> None:
        """Another agent takes over, which knows nothing."""
        # The journal is what is counted: however long it takes, nothing of it is deleted.
        ship = shipper(self.store, self.folder, self.clock, retain_s=10**6)
        self.agent = (ship, joining(self.store, self.clock, REWARDS))

    def goes_on(self) -> None:
        """Each writer writes feedback of every class, about its own decisions and the other's."""
        for pen, other in (self.pens, self.pens[::-1]):
            self.ms += 400
            one, two = pen.decision(self.ms, session="a"), other.decision(self.ms, session="b")
            pen.feedback(self.ms + 1, one, 1.0, next_observation=[1.0])
            pen.feedback(self.ms + 2, one, 1.0)
            other.feedback(self.ms + 3, one, 2.0)
            pen.feedback(self.ms + 4, two, 3.0)
            three = pen.decision(self.ms + 5, session="a", previous=one)
            other.feedback(self.ms + 6, three, activated=False)
            pen.feedback(self.ms + 7, Pen(3).decision(self.ms), 1.0)

    async def step(self) -> bool:
        """A round of the agent; whether it may have more to do, as far as it could tell."""
        more = False
        self.clock.now = max(self.clock.now + 0.1, self.ms / 1000 + 3)
        for part in self.agent:
            try:
                more |= await part.step()
            except StoreError:
                more = True
                await asyncio.sleep(0.01)
        return more

    async def round(self) -> None:
        """A few rounds of the agent, so that no writer falls so far behind that it is not waited for."""
        for _ in range(4):
            await self.step()

    async def to_the_end(self) -> None:
        """All that was written is joined, long after."""
        self.ms += 100_000
        for pen in self.pens:
            pen.beat(self.ms)
        self.clock.now = self.ms / 1000 + 1000
        await self.to_the_same()
        for pen in self.pens:
            pen.close()
        await self.to_the_same()

    async def to_the_same(self) -> None:
        """An agent that comes later finds nothing to do."""
        for _ in range(4):
            self.clock.now += 1.0
            while await self.step():
                pass

    async def is_counted(self) -> None:
        """What the agent says is what is so."""
        ship, join = self.agent
        assert ship.ledger() == await recount.journalled(self.store, self.folder, dead=True)
        assert recount.at_rest(join.ledger()) == await recount.joined(self.store, REWARDS)
        assert join.ledger().feedback.keys() >= {"joined", "duplicate", "conflict", "unmatched"}


@pytest.mark.parametrize("said", SAID, ids=lambda said: said.decode().strip().lower())
async def test_a_reply_that_is_lost_at_any_step_counts_nothing_twice(
    servers: dict[str, RedisServer], tmp_path: Path, said: bytes
) -> None:
    """The store did it, the agent never heard; and it goes on from what the store says."""
    server = next(iter(servers.values()))
    async with Proxy(server.socket) as proxy:
        store = RedisStreams(proxy.url, f"reply-{tmp_path.name}", timeout_s=0.5)
        life = Life(store, tmp_path / "journal")
        for round_ in range(16):
            life.goes_on()
            if round_ % 2:
                proxy.swallow = said
            await life.round()
        await life.to_the_end()

        assert proxy.swallowed >= 4
        await life.is_counted()
        await store.close()


async def test_agents_that_begin_anew_count_nothing_twice(store: Store, tmp_path: Path) -> None:
    """After each of many rounds, and in the middle of shipping and joining."""
    life = Life(store, tmp_path / "journal")
    for round_ in range(16):
        life.goes_on()
        await life.agent[round_ % 2].step()
        life.restart()
        await life.round()
    await life.to_the_end()
    life.restart()
    await life.to_the_same()

    await life.is_counted()


async def test_a_store_that_lost_its_newest_counts_what_it_has(tmp_path: Path) -> None:
    """It was restarted from an older copy of itself: what is joined again is counted again, as it is there."""
    with RedisServer() as server:
        store = RedisStreams(server.url, "older")
        life = Life(store, tmp_path / "journal")
        for round_ in range(16):
            life.goes_on()
            await life.round()
            if round_ % 4 == 1:
                with server.client() as client:
                    client.save()
            if round_ % 4 == 3:
                server.kill()
                await life.step()
                server.start()
        await life.to_the_end()

        await life.is_counted()
        await store.close()


def flipped(data: bytes, lines: range) -> bytes:
    """Some lines with a byte in them that is another."""
    all_of = data.splitlines(keepends=True)
    for at in lines:
        all_of[at] = all_of[at][:60] + bytes([all_of[at][60] ^ 1]) + all_of[at][61:]
    return b"".join(all_of)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "three whole lines at the end": lambda data: flipped(data, range(-3, 0)),
    "two whole lines and a torn one": lambda data: flipped(data, range(-3, -1))[:-9],
    "a torn line": lambda data: data[:-9],
    "lines in the middle": lambda data: flipped(data, range(5, 8)),
    "the first line and the last": lambda data: flipped(flipped(data, range(1)), range(-1, 0)),
    "all of it": lambda data: flipped(data, range(data.count(b"\n"))),
}


@pytest.mark.parametrize("segment", [0, -1])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_damaged_lines_are_counted_as_what_they_are(
    sqlite: SqliteStore, tmp_path: Path, damage: Callable[[bytes], bytes], segment: int
) -> None:
    """In the first segment of a log and in its last, and again by an agent that begins anew."""
    pen, clock = Pen(1, tmp_path, segment_bytes=2_000), Clock()
    for ms in range(1, 61):
        pen.beat(ms)
    pen.close()
    path = segments(tmp_path / pen.name)[segment]
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        ship = shipper(sqlite, tmp_path, clock)
        for _ in range(4):
            while await ship.step():
                pass
            clock.now += DEAD_AFTER_S

        told = ship.ledger()
        assert told == await recount.journalled(sqlite, tmp_path, dead=True)
        assert told.accepted == told.delivered + sum(told.lost.values())


async def test_whole_damaged_lines_are_not_one_torn_tail(sqlite: SqliteStore, tmp_path: Path) -> None:
    """Three at the end of a dead writer's log are three that were accepted and lost."""
    pen, clock = Pen(1, tmp_path), Clock()
    for ms in range(1, 11):
        pen.beat(ms)
    pen.close()
    path = segments(tmp_path / pen.name)[0]
    path.write_bytes(flipped(path.read_bytes(), range(-3, 0)) + b"0123")
    ship = shipper(sqlite, tmp_path, clock)
    for _ in range(4):
        await ship.step()
        clock.now += DEAD_AFTER_S

    told = ship.ledger()
    assert (told.accepted, told.delivered, told.lost) == (10, 7, {"damage": 3})
    assert (told.damaged_lines, told.torn_tails) == (3, 1)
