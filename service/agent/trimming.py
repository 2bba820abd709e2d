"""Keeps the streams within their hours and bytes, and forgets writers of which nothing is left.

Any agent of a store may do it, and several may at once: what is cut is decided anew each time from what is there.
"""

import heapq
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from service.agent.joining import oldest_waiting, reading_since
from service.agent.ledger import Streams
from service.agent.stores import START, TRANSITIONS, Position, Store, Stream, WriterState
from service.agent.trim import HIGH, Floors, bound_of, cut_of, excess, floors, forgettable, room_of
from service.config import Retention, Rewards

log = logging.getLogger("actd.agent.trim")

EVERY_S = 5.0
# Sooner where so large a part of the bound was written since, or more than that is there already; not sooner than this.
SOON = 1 / 20
SOON_S = 0.1
# How much has to be written to learn from it what it takes up, and what that is at most.
WEIGHED = 64 * 1024
HEAVIEST = 8.0
# So far beyond the bound an operator has to know.
MUCH = 1.1
# Space that SQLite keeps for what comes next.
SPARE = 1 / 10


@dataclass(slots=True)
class _Look:
    """What there is, at one moment."""

    writers: dict[str, WriterState]
    joined: dict[str, Position]
    floors: Floors
    streams: list[Stream]
    unread: dict[str, Position] = field(default_factory=dict)


class Trimming:
    """Cuts the streams of a store."""

    def __init__(
        self,
        store: Store,
        *,
        retention: Retention,
        rewards: Rewards,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        busy: Callable[[], bool],
    ) -> None:
        """``now`` (s since 1970) is what records' times are held against, and nobody sets; ``busy`` says whether the
        joiner gets on at the moment: then more of what is needed soon is not."""
        self._store = store
        self._busy = busy
        self._retention = retention
        self._rewards = rewards
        self._now = now
        self._monotonic = monotonic
        self._looked_at = float("-inf")
        self._failed = False
        self._behind = float("-inf")
        self._size = 0
        self._written = 0
        self._weight = 2.0
        self._bound = 0
        self._room = 0
        self._warning = ""
        self._over = ""
        self._stuck = False
        self._lost = 0
        self._aside = 0
        # Set where the store says that it has no memory left.
        self.full = False

    @property
    def pressed(self) -> bool:
        """Whether the streams take up more than they may: what can wait in the journal should."""
        return self._bound > 0 and self._room * HIGH < self._now_taken()

    def lets_ship(self) -> bool:
        """Whether more may be shipped now. Where the streams take up too much, only what the joiner may need to get
        on where it does not, a batch each time that nothing more could be cut."""
        if not self.pressed:
            return True
        if self._busy() or not self._stuck:
            return False
        self._stuck = False
        return True

    @property
    def warning(self) -> str:
        """What an operator should set right, empty where there is nothing."""
        return "; ".join(filter(None, (self._warning, self._over)))

    def ledger(self) -> Streams:
        """What the streams take up, and what was lost for that."""
        return Streams(
            size=self._now_taken(),
            bound=self._bound,
            lost={"unread": self._lost} if self._lost else {},
            aside=self._aside,
            strange=dict(self._store.strange),
            warning=self.warning,
        )

    async def step(self) -> bool:
        """Look, where it is time to, and cut what has to go; never more to do at once. Raises StoreError."""
        # What has failed works again only once it was done.
        if self._failed or self._is_due():
            self._looked_at, self._failed = self._monotonic(), True
            await self._round()
            self._failed = False
        return False

    def _now_taken(self) -> int:
        return self._size + round((self._store.written - self._written) * self._weight)

    def _weigh(self, size: int, written: int) -> None:
        """Learn how much a byte that is written takes up, by how much the store has grown since it was last cut."""
        if written >= WEIGHED:
            weight = min(HEAVIEST, max(1.0, (size - self._size) / written))
            self._weight = (self._weight + weight) / 2

    def _is_due(self) -> bool:
        since = self._monotonic() - self._looked_at
        written = (self._store.written - self._written) * self._weight
        soon = self.full or self.pressed or written > self._bound * SOON
        return since >= EVERY_S or (soon and since >= SOON_S)

    async def _round(self) -> None:
        capacity = await self._store.capacity()
        self._bound, warning = bound_of(self._retention.stream_bytes, capacity)
        if warning not in ("", self._warning):
            log.warning("%s", warning)
        self._warning = warning
        look = await self._look()
        self._room = room_of(self._bound, self._size, capacity)
        full, self.full = self.full, False
        await self._trim_old(look)
        await self._trim_surplus(look, excess(self._size, self._room, full=full))
        self._stuck = self.pressed
        await self._forget(look)
        await self._store.compact(int(self._bound * SPARE))
        counts = await self._store.counts()
        self._lost, self._aside = counts.get("lost.unread", 0), counts.get("aside", 0)

    async def _look(self) -> _Look:
        writers, joined = await self._store.writers(), await self._store.joined()
        oldest = await oldest_waiting(self._store, writers, joined)
        kept = floors(writers, joined, oldest, reading_since(writers, oldest, self._rewards))
        # Taken before the size is: what is written meanwhile is counted twice rather than not at all.
        written = self._store.written
        size, streams = await self._store.streams(list(writers))
        self._weigh(size, written - self._written)
        self._size, self._written = size, written
        look = _Look(writers, joined, kept, streams)
        for stream in look.streams:
            if stream.groups and (at := await self._store.unread(stream.name)) is not None:
                look.unread[stream.name] = at
        return look

    async def _trim_old(self, look: _Look) -> None:
        """What is older than ``stream_hours`` and of no use to anyone."""
        since, left = self._now() - self._retention.stream_hours * 3600, []
        behind = await self._store_behind()
        for stream in look.streams:
            cutoff = since - behind if stream.name == TRANSITIONS else since
            before = min(Position(max(0, int(cutoff * 1000)), 0), look.floors.useful(stream.name))
            before = min(before, look.unread.get(stream.name, before))
            cut = 0
            while stream.first is not None and stream.first < before:
                cut += (now := await self._store.trim(stream.name, before, cut_of(stream, stream.size)))
                if not now:
                    break
            left.append(await self._after(stream, cut) if cut else stream)
        look.streams = left

    async def _store_behind(self) -> float:
        """How far (s) the clock that transitions are named by is behind ours, at the most that it ever was: a store's
        host may have another time, and somebody may set it, and neither makes a transition old."""
        there = await self._store.time()
        if there is not None:
            self._behind = max(self._behind, self._now() - there)
        return self._behind if self._behind > float("-inf") else 0.0

    async def _trim_surplus(self, look: _Look, surplus: float) -> None:
        """The oldest, over all streams, until what is left fits: first what only a joiner that begins anew would use,
        then what consumer groups have not read, never what is still to be joined."""
        await self._cut(look, self._size - surplus, forced=False)
        if self._size > self._bound * (MUCH if self._busy() else 1):
            await self._cut(look, self._bound, forced=True)
        over = self._size > self._bound * MUCH
        msg = (
            f"the streams take up {self._size} bytes and may {self._bound}, and the rest is still to be joined: "
            "retention.stream_bytes is too small for so many decisions in rewards.wait_seconds"
        )
        if over and not self._over:
            log.warning("%s", msg)
        self._over = msg if over else ""

    async def _cut(self, look: _Look, target: float, *, forced: bool) -> None:
        """Cut the oldest of all streams in turn; ``forced`` also what consumer groups have still to read."""
        oldest = [
            (s.first, s.name, s) for s in look.streams if s.first is not None and (s.name in look.unread or not forced)
        ]
        heapq.heapify(oldest)
        while oldest and self._size > target:
            _, name, stream = heapq.heappop(oldest)
            before, most = look.floors.needed(name), cut_of(stream, self._size - target)
            if forced:
                cut, lost = await self._store.trim_unread(name, before, most)
                if lost:
                    log.error(
                        "stream %s: %s entries were deleted unread, since retention.stream_bytes are full", name, lost
                    )
            else:
                cut = await self._store.trim(name, min(before, look.unread.get(name, before)), most)
            if cut:
                stream = await self._after(stream, cut)
                look.streams = [stream if one.name == name else one for one in look.streams]
                if stream.first is not None:
                    heapq.heappush(oldest, (stream.first, name, stream))

    async def _after(self, stream: Stream, cut: int) -> Stream:
        """A stream after so many entries were cut."""
        freed = round(stream.size * min(1.0, cut / max(1, stream.entries)))
        self._size -= freed
        first = await self._store.first(stream.name)
        left = max(0, stream.entries - cut) if first is not None else 0
        return replace(stream, entries=left, size=stream.size - freed, first=first)

    async def _forget(self, look: _Look) -> None:
        """Writers of which nothing is left."""
        there = {stream.name for stream in look.streams if stream.first is not None}
        now_ms, forget_ms = self._now() * 1000, self._retention.forget_seconds * 1000
        for writer, state in look.writers.items():
            joined = look.joined.get(writer, START)
            if forgettable(state, joined, empty=writer not in there, now_ms=now_ms, forget_ms=forget_ms):
                missing = max(0, state.last.seq - joined.seq)
                if await self._store.forget(writer, joined, missing):
                    log.info("writer %s: is forgotten, nothing is left of it", writer)

    def __repr__(self) -> str:
        return f"<Trimming {self._now_taken()} of {self._bound} bytes>"
