"""The shipper: moves what writers journalled to the store, in order, each record once.

What was shipped is asked of the store, each second and after every failure, and never assumed: where the store is
behind (it lost a suffix), the same records are sent again under the same names; where it is ahead (a reply was lost),
they are skipped; where it ends with something that is not ours, that is taken out first.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from service.agent.ages import Ages
from service.agent.backoff import Portion
from service.agent.counting import Retired
from service.agent.folders import FolderVerdict, SizedSegment, aside_in, set_aside, sized, to_give_up
from service.agent.foreign import Placing
from service.agent.lane import Lane
from service.agent.ledger import Journalled
from service.agent.stores import START, WRITER, NotOurs, OutOfOrder, Position, Store, StoreFull, StoreUnavailable
from service.agent.tail import Tail, last_seq, spent
from service.config import Retention
from service.log.lines import first_of, segments
from service.log.lock import alive

log = logging.getLogger("actd.agent.ship")

BATCH = 256
# How often the store is asked where it is, although nothing has failed; and the folders, how large they are.
ALIGN_EVERY_S = 1.0
# A folder that has too little in it to tell whose it is, is looked at again so often.
JUDGE_EVERY_S = 0.1
# A writer's lock is there a moment after its folder: only a folder that stays without one has no writer.
DEAD_AFTER_S = 0.5
# One that was taken away is put back by a writer that lives, which looks each second.
GONE_AFTER_S = 5.0
# A writer with whom something is wrong that nobody has thought of is left alone longer each time, up to this; where it
# is with its files or with the store, that may be over at any time.
REST_S = 60.0
SOON_S = 2.0
# What the streams forget, and folders that are kept longer must not bring back: with so much to spare.
EARLY_S = 60.0


class Shipper:
    """Moves records from the writers' folders to a store, oldest first, one batch at a time."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        *,
        retention: Retention,
        place: Placing,
        judge: Callable[[Path], FolderVerdict],
        wall: Callable[[], float],
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """``folder`` has a folder per writer, of which ``judge`` says whether it is ours; ``retention`` is how long
        what was shipped stays there, and how large it may get; ``place`` reads a decision id.

        ``wall`` (s since 1970) is the one that the files' times are by; records' times are held against ``now``.
        """
        self._store = store
        self._folder = folder
        self._retention = retention
        self._place = place
        self._judge = judge
        self._ages = Ages(wall=wall, monotonic=monotonic)
        self._now = now
        self._monotonic = monotonic
        self._lanes: dict[str, Lane] = {}
        self._retired = Retired(folder)
        self._sized_at = float("-inf")
        self._portion = Portion(BATCH)

    async def step(self) -> bool:
        """One round over all writers; whether there may be more to do at once. Raises StoreUnavailable."""
        self._find_writers()
        more = False
        try:
            for lane in list(self._lanes.values()):
                more |= await self._try(lane)
        except StoreUnavailable:
            for lane in self._lanes.values():
                lane.aligned_at = None
            raise
        finally:
            # Above all while the store is away.
            self._make_room()
        return more

    def keep_room(self) -> None:
        """Keep the journal within its bytes although nothing can be shipped yet."""
        self._find_writers()
        self._make_room()

    def ledger(self) -> Journalled:
        """What became of what was journalled."""
        lanes = self._lanes.values()
        aside = aside_in(self._folder) + sum(lane.ours is False for lane in lanes)
        told = sum((lane.journalled() for lane in lanes if lane.ours is not False), self._retired.totals)
        return told + Journalled(set_aside=aside)

    def failing(self) -> str:
        """Whose records are not shipped because something unforeseen is wrong with them, empty where all are."""
        resting = [lane.writer for lane in self._lanes.values() if lane.failures]
        return f"writer {', '.join(resting[:3])}: cannot be shipped, the log says why" if resting else ""

    def _find_writers(self) -> None:
        for path in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            if path.name not in self._lanes and WRITER.fullmatch(path.name) and path.is_dir():
                self._lanes[path.name] = Lane(path.name, Tail(path, self._place))

    async def _try(self, lane: Lane) -> bool:
        """Send one batch of a writer; one with whom something is wrong does not keep the others."""
        if self._monotonic() < lane.rests_until:
            return False
        try:
            # Looked at before reading: what a writer that is dead now has written is all there will be.
            dead = self._is_dead(lane)
            more = self._is_ours(lane, dead=dead) and await self._ship(lane, dead=dead)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are shipped
            known = isinstance(error, (OSError, NotOurs))
            rest_s = min(SOON_S if known else REST_S, 2.0**lane.failures)
            lane.rests_until, lane.failures, lane.aligned_at = self._monotonic() + rest_s, lane.failures + 1, None
            if not known or lane.failing != str(error):
                say = log.error if known else log.exception
                say("writer %s: not shipped for %g s (%s)", lane.writer, rest_s, error)
            lane.failing = str(error)
            return False
        lane.failures, lane.failing = 0, ""
        return more

    def _is_ours(self, lane: Lane, *, dead: bool) -> bool:
        """Whether a folder is a writer's of this service; one that is not is set aside once nobody writes in it."""
        now = self._monotonic()
        if lane.ours is None and (dead or lane.judged_at is None or now - lane.judged_at >= JUDGE_EVERY_S):
            lane.judged_at = now
            verdict = self._judge(lane.folder)
            lane.ours = verdict.ours
            if verdict.ours is None and dead:
                # Without any record it never was one.
                lane.ours = last_seq(lane.folder) == 0
            if lane.ours is False:
                log.warning(
                    "folder %s: is not shipped, since it is not a writer's of this service: %s",
                    lane.folder,
                    verdict.why,
                )
        if lane.ours is False and dead:
            there = set_aside(lane.folder)
            del self._lanes[lane.writer]
            log.warning("folder %s: was set aside as %s", lane.folder, there)
        return lane.ours is True

    async def _ship(self, lane: Lane, *, dead: bool) -> bool:
        """Send one batch of a writer; whether there may be another."""
        due = lane.aligned_at is None or self._monotonic() - lane.aligned_at >= ALIGN_EVERY_S
        if due and not await self._align(lane, dead=dead):
            return False
        if lane.closed:
            return False
        read = None if lane.pending else lane.tail.read(BATCH)
        lane.pending = lane.pending or read or []
        lane.tail.account.save()
        if lane.pending:
            await self._send(lane)
            return True
        if read is None and dead and lane.shipped != START:
            await self._close(lane)
            return False
        return read is not None

    async def _align(self, lane: Lane, *, dead: bool) -> bool:
        """Ask the store where it is, and go there; False where that has to be asked again."""
        there = await self._there(lane, dead=dead)
        if there is None:
            return False
        first = lane.shipped == START
        if there == START and (closed := self._closed_before(lane)):
            # It was shipped to its end, and so long ago that the store has forgotten it.
            lane.align(closed)
            lane.closed = True
        elif (moved := lane.align(there)) and not first:
            log.warning("writer %s: %s to %s, where the store is", lane.writer, moved, there.seq)
        lives = not dead and not lane.closed
        known = there != START and (lives or not self._is_past(lane.shipped))
        if known and await self._store.register(lane.writer, lives=lives):
            lane.closed = False
        if there != START and not lane.closed and not dead and await self._store.reopen(lane.writer):
            log.warning("writer %s: was closed in the store, though it lives: its folder was copied", lane.writer)
        lane.aligned_at = self._monotonic()
        # Now is when the store itself has said what it has.
        await self._retire(lane, dead=dead)
        return True

    async def _there(self, lane: Lane, *, dead: bool, again: bool = True) -> Position | None:
        """Where the store is, once its end is ours; None where it is not, though it was set right."""
        try:
            there, last = await self._store.end(lane.writer)
            why = lane.misfit(there, last, self._place, dead=dead)
        except NotOurs as error:
            why = str(error)
        if not why:
            return there
        known = max(lane.shipped, (await self._store.joined()).get(lane.writer, START))
        count = await self._store.put_aside(lane.writer, lambda entry: lane.is_ours(entry, self._place), known)
        log.warning("writer %s: its stream did not end with a record of it (%s): %s put aside", lane.writer, why, count)
        return await self._there(lane, dead=dead, again=False) if again else None

    def _closed_before(self, lane: Lane) -> Position | None:
        closed = lane.tail.account.closed
        return Position(*closed) if closed is not None and self._is_past(Position(*closed)) else None

    def _is_past(self, at: Position) -> bool:
        """Whether the store may have forgotten a writer that ended there, or does so soon."""
        return at.ms / 1000 < self._now() - self._retention.forget_seconds + EARLY_S

    async def _send(self, lane: Lane) -> None:
        if not lane.registered:
            await self._store.register(lane.writer)
            lane.registered = True
        sent = lane.pending[: self._portion.size]
        try:
            await self._store.append(lane.writer, lane.shipped, sent)
        except StoreFull:
            self._portion.refused()
            raise
        except (OutOfOrder, NotOurs) as error:
            # Trimmed a moment ago, for one: where it has gone, if anywhere, is said when it is asked.
            log.info("%s", error)
            lane.aligned_at = None
            return
        self._portion.taken()
        lane.shipped = sent[-1].position
        lane.pending = lane.pending[len(sent) :]

    async def _close(self, lane: Lane) -> None:
        lane.closed_size = lane.size()
        if lane.tail.unread() > 0:
            return
        lane.tail.end()
        await self._store.register(lane.writer)
        await self._store.close_writer(lane.writer)
        log.info("writer %s: has ended and is shipped, up to %s", lane.writer, lane.shipped.seq)
        lane.closed = True
        lane.tail.account.close(lane.shipped)
        lane.tail.account.save()

    def _is_dead(self, lane: Lane) -> bool:
        if lane.closed:
            return True
        try:
            lives = alive(lane.folder)
        except OSError:
            # Nobody can tell: of one that may live nothing is given up, and what is there is shipped.
            lives = True
        if lives:
            lane.lifeless_since = None
            return False
        now = self._monotonic()
        lane.lifeless_since = now if lane.lifeless_since is None else lane.lifeless_since
        bound = DEAD_AFTER_S if (lane.folder / "lock").exists() else GONE_AFTER_S
        return now - lane.lifeless_since >= bound

    async def _retire(self, lane: Lane, *, dead: bool) -> None:
        """Delete what was shipped long enough ago: old segments of the living, whole folders of the dead."""
        if lane.closed and lane.goes_on():
            log.warning("writer %s: was said to have ended, and goes on: what has come since is shipped", lane.writer)
            await self._store.reopen(lane.writer)
            lane.closed, lane.lifeless_since = False, None
            return
        here = segments(lane.folder)
        # All are looked at each time: what was last written when shows only to who looks.
        kept_s = self._retention.journal_seconds
        old = {path for path in (lane.folder, *here) if self._ages.of(path) >= kept_s}
        for path in spent(here, lane.shipped.seq, old):
            path.unlink()
            self._ages.forget(path)
        # A writer that died before its first record never was one, for the store.
        done = lane.closed or (dead and lane.shipped == START and last_seq(lane.folder) == 0)
        if done and old.issuperset({lane.folder, *here} if lane.folder.exists() else ()):
            self._retired.retire(lane.folder, lane.journalled())
            if not lane.folder.exists():
                self._ages.forget(lane.folder)
                del self._lanes[lane.writer]

    def _make_room(self) -> None:
        """Keep the journal within its bytes: what was shipped goes first, then records are lost, and counted."""
        now = self._monotonic()
        if now - self._sized_at < ALIGN_EVERY_S:
            return
        self._sized_at = now
        lanes = {lane.folder: lane for lane in self._lanes.values() if lane.ours is not False}
        here = [segment for lane in lanes.values() for segment in _sized(lane)]
        for segment in to_give_up(here, self._retention.journal_bytes):
            lane = lanes[segment.path.parent]
            self._ages.forget(segment.path)
            if segment.shipped:
                segment.path.unlink(missing_ok=True)
                continue
            lost = lane.tail.give_up(segment.path, sure=lane.heard)
            lane.tail.account.save()
            log.error(
                "writer %s: %s was deleted before it was shipped, %s records are lost: the journal is larger than "
                "retention.journal_bytes = %s", lane.writer, segment.path.name, lost, self._retention.journal_bytes,
            )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Shipper {len(self._lanes)} writers, {self.ledger()}>"


def _sized(lane: Lane) -> list[SizedSegment]:
    """A writer's segments, in order; what is being written may not go."""
    paths = segments(lane.folder)
    living = not lane.closed and lane.lifeless_since is None
    shipped = [first_of(following) <= lane.shipped.seq + 1 for _, following in pairwise(paths)] + [lane.closed]
    here = [sized(path, shipped=done) for path, done in zip(paths, shipped, strict=False)]
    found = [segment for segment in here if segment is not None]
    if living and found:
        found[-1] = replace(found[-1], written=True)
    # However a copy was made, the first goes first.
    for at in range(len(found) - 2, -1, -1):
        found[at] = replace(found[at], written_at=min(found[at].written_at, found[at + 1].written_at))
    return found
