"""The shipper: moves what writers journalled to the store, in order, each record once.

What was shipped is asked of the store, each second and after every failure, and never assumed: where the store is
behind (it lost a suffix), the same records are sent again under the same names; where it is ahead (a reply was lost),
they are skipped.
"""

import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from service.agent.ledger import Journalled
from service.agent.stores import START, Entry, OutOfOrder, Position, Store, StoreUnavailable
from service.agent.tail import Tail, last_seq, spent
from service.journal import alive, segments

log = logging.getLogger("actd.agent.ship")

BATCH = 256
# How often the store is asked where it is, although nothing has failed.
ALIGN_EVERY_S = 1.0
# A writer's lock is there a moment after its folder: only a folder that stays without one has no writer.
DEAD_AFTER_S = 0.5
_WRITER = re.compile(r"[0-9a-f]{16}")


@dataclass(slots=True)
class Lane:
    """A writer's way to the store: up to where it is there, and what is being sent."""

    writer: str
    tail: Tail
    shipped: Position = START
    pending: list[Entry] = field(default_factory=list)
    aligned_at: float | None = None
    registered: bool = False
    lifeless_since: float | None = None
    closed: bool = False

    @property
    def folder(self) -> Path:
        return self.tail.folder

    def align(self, there: Position) -> str:
        """Go where the store is; what that was, for the log."""
        before, self.shipped = self.shipped, there
        if there == before:
            return ""
        self.pending = [entry for entry in self.pending if entry.seq > there.seq] if there > before else []
        if there < before:
            self.registered = self.closed = False
        if there < before or there.seq >= self.tail.next_seq:
            self.tail.seek(there.seq)
        return "rewound" if there < before else "skipped ahead"


class Shipper:
    """Moves records from the writers' folders to a store, oldest first, one batch at a time."""

    def __init__(
        self, store: Store, folder: Path, *, retain_s: float, wall: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        """``folder`` has a folder per writer; ``retain_s`` is how long what was shipped stays there."""
        self._store = store
        self._folder = folder
        self._retain_s = retain_s
        self._wall = wall
        self._monotonic = monotonic
        self._lanes: dict[str, Lane] = {}
        self._gone = Journalled()

    async def step(self) -> bool:
        """One round over all writers; whether there may be more to do at once. Raises StoreUnavailable."""
        self._find_writers()
        more = False
        try:
            for lane in list(self._lanes.values()):
                more |= await self._ship(lane)
        except StoreUnavailable:
            for lane in self._lanes.values():
                lane.aligned_at = None
            raise
        return more

    def ledger(self) -> Journalled:
        """What became of what was journalled."""
        lanes = self._lanes.values()
        return sum((_account(lane) for lane in lanes), self._gone)

    def _find_writers(self) -> None:
        for path in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            if path.name not in self._lanes and _WRITER.fullmatch(path.name):
                self._lanes[path.name] = Lane(path.name, Tail(path))

    async def _ship(self, lane: Lane) -> bool:
        """Send one batch of a writer; whether there may be another."""
        # Looked at before reading: what a writer that is dead now has written is all there will be.
        dead = self._is_dead(lane)
        if lane.aligned_at is None or self._monotonic() - lane.aligned_at >= ALIGN_EVERY_S:
            await self._align(lane, dead=dead)
        if lane.closed:
            return False
        read = None if lane.pending else lane.tail.read(BATCH)
        lane.pending = lane.pending or read or []
        if lane.pending:
            await self._send(lane)
        elif read is None and dead and lane.shipped != START:
            await self._close(lane)
            return False
        return bool(lane.pending) or read is not None

    async def _align(self, lane: Lane, *, dead: bool) -> None:
        there = await self._store.position(lane.writer)
        first = lane.shipped == START
        moved = lane.align(there)
        if moved and not first:
            log.warning("writer %s: %s to %s, where the store is", lane.writer, moved, there.seq)
        lane.aligned_at = self._monotonic()
        # Now is when the store itself has said what it has.
        self._retire(lane, dead=dead)

    async def _send(self, lane: Lane) -> None:
        if not lane.registered:
            await self._store.register(lane.writer)
            lane.registered = True
        try:
            await self._store.append(lane.writer, lane.shipped, lane.pending)
        except OutOfOrder as error:
            log.warning("%s", error)
            lane.aligned_at = None
            return
        lane.shipped = lane.pending[-1].position
        lane.pending = []

    async def _close(self, lane: Lane) -> None:
        lane.tail.end()
        await self._store.register(lane.writer)
        await self._store.close_writer(lane.writer)
        log.info("writer %s: has ended and is shipped, up to %s", lane.writer, lane.shipped.seq)
        lane.closed = True

    def _is_dead(self, lane: Lane) -> bool:
        if lane.closed:
            return True
        if alive(lane.folder):
            lane.lifeless_since = None
            return False
        now = self._monotonic()
        lane.lifeless_since = now if lane.lifeless_since is None else lane.lifeless_since
        return now - lane.lifeless_since >= DEAD_AFTER_S

    def _retire(self, lane: Lane, *, dead: bool) -> None:
        """Delete what was shipped long enough ago: old segments of the living, whole folders of the dead."""
        old = self._wall() - self._retain_s
        for path in spent(segments(lane.folder), lane.shipped.seq, old):
            path.unlink()
        # A writer that died before its first record never was one, for the store.
        done = lane.closed or (dead and lane.shipped == START and last_seq(lane.folder) == 0)
        written = [path.stat().st_mtime for path in (lane.folder, *segments(lane.folder)) if path.exists()]
        if done and max(written, default=old) <= old:
            self._gone += _account(lane)
            shutil.rmtree(lane.folder, ignore_errors=True)
            del self._lanes[lane.writer]

    def __repr__(self) -> str:
        return f"<Shipper {len(self._lanes)} writers, {self.ledger()}>"


def _account(lane: Lane) -> Journalled:
    """A writer's records: accepted = delivered + journaled + lost."""
    tail = lane.tail
    journaled = len(lane.pending) + tail.unread()
    lost = sum(tail.lost.values())
    accepted = max(lane.shipped.seq, tail.next_seq - 1) + tail.unread()
    return Journalled(
        accepted=accepted,
        delivered=accepted - journaled - lost,
        journaled=journaled,
        lost=Counter(tail.lost),
        damaged_lines=tail.damaged,
        torn_tails=tail.torn,
    )
