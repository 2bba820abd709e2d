"""The joiner's loop: reads the writers' streams, lets the joiner decide, commits what it emits.

Several agents may share a store. The first to move a writer's position goes on joining; the others find it moved,
stand by, and take over when it has not moved for a while.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from random import Random

import msgspec

from service.agent.backoff import Portion
from service.agent.foreign import Notes, Stranger, record_of
from service.agent.join import LAG_MS, SILENCE_MS, JoinedBatch, Joiner
from service.agent.ledger import Joined
from service.agent.order import Order
from service.agent.stores import START, Entry, NotOurs, Position, Store, StoreError, StoreFull, WriterState
from service.config import Rewards
from service.log.ids import Place
from service.log.records import Writer

log = logging.getLogger("actd.agent.join")

READ = 512
# Records whose outcome is committed at once.
COMMITTED = 256
# When reading again, how far (ms) before the oldest decision that waits: clocks of hosts differ.
SKEW_MS = 5_000
STANDBY_S = (6.0, 12.0)
# A writer whose entries cannot be read is left alone so long.
REST_S = 5.0


class Joining:
    """Joins what is in a store; holds nothing that cannot be read again."""

    def __init__(
        self,
        store: Store,
        *,
        rewards: Rewards,
        place: Callable[[str], Place | None],
        monotonic: Callable[[], float],
        random: Random,
    ) -> None:
        """``place`` reads a decision id; ``random`` keeps agents that stand by from acting at once."""
        self._store = store
        self._rewards = rewards
        self._place = place
        self._monotonic = monotonic
        self._random = random
        self._joiner: Joiner | None = None
        # The last record of each writer that was fed, and how far its stream went when there was no more of it.
        self._read: dict[str, Position] = {}
        self._seen: dict[str, WriterState] = {}
        self._others: dict[str, Position] = {}
        self._standby_until = 0.0
        self._counted: Counter[str] = Counter()
        # What was being committed when the store failed: it may or may not have been done.
        self._doubt: JoinedBatch | None = None
        self._portion = Portion(COMMITTED)
        self._resting: dict[str, float] = {}
        self._notes = Notes(log, time.monotonic)
        self._named: set[str] = set()
        self._done = 0
        # Whether the last step got on, or would have with room in the store: more records would be no help to it, and
        # more of what is in the streams may soon be done with.
        self.busy = False

    async def step(self) -> bool:
        """Read, join and commit once; whether there may be more to do at once. Raises StoreError."""
        busy, self._done = False, 0
        try:
            if self._monotonic() < self._standby_until:
                return False
            joiner = self._joiner or await self._begin()
            more = joiner is not None and await self._join(joiner)
            busy = more or self._done > 0
            return more
        except StoreFull:
            busy = True
            raise
        finally:
            # It stays what it was while a step goes on.
            self.busy = busy

    def ledger(self) -> Joined:
        """What became of the records in the store, as the store last told."""
        waiting = self._joiner.waiting() if self._joiner else 0
        return Joined.of(self._counted, waiting=waiting, standby=self._joiner is None and self._standby_until > 0)

    async def _join(self, joiner: Joiner) -> bool:
        writers, joined = await self._registers()
        self._resolve(joiner, joined)
        self._forget(joiner, writers, joined)
        if (moved := _moved(joiner.joined, joined)) != "":
            self._step_back(moved, joined)
            return False
        more = await self._take(joiner, writers)
        joiner.advance(self._monotonic())
        encode = msgspec.json.encode
        for batch in joiner.batches(self._portion.size):
            texts = [encode(transition) for transition in batch.transitions]
            self._doubt = batch
            try:
                done = await self._store.commit(batch.writer, batch.expected, batch.new, texts, batch.counts)
            except StoreFull:
                self._portion.refused()
                raise
            self._doubt = None
            self._portion.taken()
            if not done:
                self._step_back("ahead", await self._store.joined())
                return False
            self._commit(joiner, batch)
            self._done += batch.items
        return more

    def _commit(self, joiner: Joiner, batch: JoinedBatch) -> None:
        joiner.committed(batch)
        self._counted.update(batch.counts)

    def _resolve(self, joiner: Joiner, joined: Mapping[str, Position]) -> None:
        """The store says whether what was being committed when it failed was done."""
        batch, self._doubt = self._doubt, None
        if batch is not None and joined.get(batch.writer, START) == batch.new:
            self._commit(joiner, batch)

    async def _registers(self) -> tuple[dict[str, WriterState], dict[str, Position]]:
        """The store's writers and positions, without writers of whom it is not known up to where they were joined."""
        writers = await self._store.writers()
        joined = await self._store.joined()
        for where, why in self._store.strange.items():
            if where not in self._named:
                self._notes.name(where, why)
        self._named = set(self._store.strange)
        lost = {where.removeprefix("joined ") for where in self._named if where.startswith("joined ")}
        return {writer: state for writer, state in writers.items() if writer not in lost}, joined

    async def _begin(self) -> Joiner | None:
        """A joiner that goes on where the store says; None while another agent's joins."""
        writers, joined = await self._registers()
        self._counted = Counter(await self._store.counts())
        if self._standby_until and joined != self._others:
            self._stand_by(joined)
            return None
        since = reading_since(writers, await oldest_waiting(self._store, writers, joined), self._rewards)
        self._read = {writer: _reading_from(joined.get(writer, START), since) for writer in writers}
        self._seen = {}
        joiner = Joiner(rewards=self._rewards, place=self._place, joined=joined)
        for writer in writers:
            await self._introduce(joiner, writer)
        self._joiner = joiner
        self._standby_until = 0.0
        self._doubt = None
        return self._joiner

    async def _introduce(self, joiner: Joiner, writer: str) -> None:
        """Read what a writer said first, which may be before all that is still to be joined: how clocks stand."""
        with suppress(Stranger, NotOurs):
            for entry in await self._store.read(writer, START, 1):
                record = record_of(writer, entry, self._place)
                if isinstance(record, Writer):
                    joiner.order.introduce(record)

    def _forget(self, joiner: Joiner, writers: Mapping[str, WriterState], joined: Mapping[str, Position]) -> None:
        """Writers that the store has forgotten, which it does long after all that came of them."""
        for writer in [w for w in joiner.joined if w not in writers and w not in joined]:
            if joiner.is_over(writer):
                joiner.forget(writer)
                self._read.pop(writer, None)
                self._seen.pop(writer, None)

    async def _take(self, joiner: Joiner, writers: Mapping[str, WriterState]) -> bool:
        """Feed what the writers have, those behind first; whether there is more."""
        now, order = self._monotonic(), joiner.order
        there = {writer: state for writer, state in writers.items() if state.last != START}
        for writer, state in there.items():
            order.knows(writer, self._read.setdefault(writer, START), state.last, now)
        for writer, state in there.items():
            if self._has_more(writer, state) and self._may_read(order, writer, now):
                await self._feed(joiner, writer, state, now)
            order.ended(writer, has=not state.open and not self._has_more(writer, state))
        unread = (writer for writer, state in there.items() if self._has_more(writer, state))
        return any(self._may_read(order, writer, now) for writer in unread)

    def _has_more(self, writer: str, state: WriterState) -> bool:
        """Whether there may be records of a writer that were not fed."""
        return self._read[writer] < state.last and self._seen.get(writer) != state

    def _may_read(self, order: Order, writer: str, now: float) -> bool:
        """Whether more is to be read of a writer: what is too far ahead of the slowest would only wait in memory."""
        ahead_ms = self._rewards.wait_seconds * 1000
        return order.read_up_to(writer) <= order.horizon(writer, LAG_MS, now)[0] + ahead_ms

    async def _feed(self, joiner: Joiner, writer: str, state: WriterState, now: float) -> None:
        """Feed the next records of a writer: where it is read from does not go past what is not ours, since that may
        be taken out again, with ours in its place."""
        if self._monotonic() < self._resting.get(writer, 0.0):
            return
        before = at = self._read[writer]
        strange: list[Position] = []
        try:
            while self._read[writer] == before and (entries := await self._store.read(writer, at, READ)):
                for entry in entries:
                    self._feed_one(joiner, writer, entry, strange, now)
                at = entries[-1].position
        except StoreError:
            raise
        except Exception:
            log.exception("writer %s: cannot be read beyond %s, the others are", writer, self._read[writer].seq)
            self._resting[writer] = self._monotonic() + REST_S
            return
        if self._read[writer] == before:
            # Whatever else there was up to its end is not there any more, or is not ours.
            self._seen[writer] = state

    def _feed_one(self, joiner: Joiner, writer: str, entry: Entry, strange: list[Position], now: float) -> None:
        """Feed one entry; those that are not ours count once ours come behind them: then they stay."""
        try:
            record = record_of(writer, entry, self._place)
        except Stranger as error:
            self._notes.name(f"stream of writer {writer}, entry {entry.ms}-{entry.seq}", str(error))
            strange.append(entry.position)
            return
        for passed in strange:
            joiner.pass_over(writer, passed)
        strange.clear()
        joiner.order.feed(writer, record, now)
        self._read[writer] = entry.position

    def _step_back(self, moved: str, joined: dict[str, Position]) -> None:
        """The store's positions are not ours: begin again, at once where it lost some, later where another joins."""
        self._end()
        if moved == "ahead":
            log.info("another agent joins: standing by")
            self._stand_by(joined)
        else:
            log.warning("the store has lost transitions: joining again from where it is")

    def _stand_by(self, joined: dict[str, Position]) -> None:
        self._others = joined
        self._standby_until = self._monotonic() + self._random.uniform(*STANDBY_S)

    def _end(self) -> None:
        self._joiner = None

    def __repr__(self) -> str:
        return f"<Joining {self._joiner or 'stands by'}>"


def _moved(ours: Mapping[str, Position], theirs: Mapping[str, Position]) -> str:
    """How the store's positions differ from ours: ``ahead``, ``behind`` or not."""
    changed = [
        (ours.get(writer, START), theirs.get(writer, START))
        for writer in {*ours, *theirs}
        if ours.get(writer, START) != theirs.get(writer, START)
    ]
    if not changed:
        return ""
    return "ahead" if all(there > here for here, there in changed) else "behind"


def _reading_from(joined: Position, since: int | None) -> Position:
    """Where to read a writer from: what was not emitted, and what may have come of decisions of other writers."""
    return joined if since is None else min(joined, Position(max(0, since), 0))


async def oldest_waiting(
    store: Store, writers: Mapping[str, WriterState], joined: Mapping[str, Position]
) -> int | None:
    """The time (ms) of the oldest record that was not emitted yet, None where all were."""
    oldest: list[int] = []
    for writer, state in writers.items():
        at = joined.get(writer, START)
        if at < state.last:
            oldest += [entry.ms for entry in await store.read(writer, at, 1)]
    return min(oldest, default=None)


def reading_since(writers: Mapping[str, WriterState], oldest: int | None, rewards: Rewards) -> int | None:
    """The time (ms) from which on streams are read by a joiner that begins anew, None where there is nothing.

    From there on it sees every decision that what is still to be emitted may speak of, and everything that was held
    for a decision of a writer that is late: so the class of feedback is the same as without beginning anew.
    """
    newest = max((state.last.ms for state in writers.values()), default=0)
    if newest == 0:
        return None
    since = min(newest - LAG_MS, newest if oldest is None else oldest)
    return since - round(rewards.wait_seconds * 1000) - SILENCE_MS - SKEW_MS
