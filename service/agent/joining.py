"""The joiner's loop: reads the writers' streams, lets the joiner decide, commits what it emits.

Several agents may share a store. The first to move a writer's position goes on joining; the others find it moved,
stand by, and take over when it has not moved for a while.
"""

import logging
from collections.abc import Callable, Mapping
from random import Random

import msgspec

from service.agent.join import LAG_MS, Joiner
from service.agent.ledger import Joined
from service.agent.stores import START, Position, Store, StoreError, WriterState
from service.config import Rewards
from service.ids import Place
from service.records import decode_record

log = logging.getLogger("actd.agent.join")

READ = 512
# When reading again, how far (ms) before the oldest decision that waits: clocks of hosts differ.
SKEW_MS = 5_000
STANDBY_S = (6.0, 12.0)


class Joining:
    """Joins what is in a store; holds nothing that cannot be read again."""

    def __init__(
        self,
        store: Store,
        *,
        rewards: Rewards,
        place: Callable[[str], Place | None],
        wall: Callable[[], float],
        random: Random,
    ) -> None:
        """``place`` reads a decision id; ``random`` keeps agents that stand by from acting at once."""
        self._store = store
        self._rewards = rewards
        self._place = place
        self._wall = wall
        self._random = random
        self._joiner: Joiner | None = None
        self._read: dict[str, Position] = {}
        self._others: dict[str, Position] = {}
        self._standby_until = 0.0
        self._unreadable = 0
        self._past: list[Joined] = []

    async def step(self) -> bool:
        """Read, join and commit once; whether there may be more to do at once. Raises StoreUnavailable."""
        if self._wall() < self._standby_until:
            return False
        try:
            joiner = self._joiner or await self._begin()
            return joiner is not None and await self._join(joiner)
        except StoreError:
            # A commit may or may not have been done: the store knows, so begin again from what it says.
            self._end()
            raise

    def ledger(self) -> Joined:
        """What this agent's joiners did so far."""
        now = self._joiner.ledger() if self._joiner else Joined(standby=self._standby_until > 0)
        done = sum(self._past, now)
        return msgspec.structs.replace(done, unreadable=self._unreadable)

    async def _join(self, joiner: Joiner) -> bool:
        writers = await self._store.writers()
        joined = await self._store.joined()
        if (moved := _moved(joiner.joined, joined)) != "":
            self._step_back(moved, joined)
            return False
        more = await self._take(joiner, writers)
        joiner.advance(self._wall())
        encode = msgspec.json.encode
        for batch in joiner.batches():
            texts = [encode(transition) for transition in batch.transitions]
            if not await self._store.commit(batch.writer, batch.expected, batch.new, texts):
                self._step_back("ahead", await self._store.joined())
                return False
            joiner.committed(batch)
        return more

    async def _begin(self) -> Joiner | None:
        """A joiner that goes on where the store says; None while another agent's joins."""
        joined = await self._store.joined()
        if self._standby_until and joined != self._others:
            self._stand_by(joined)
            return None
        writers = await self._store.writers()
        since = await self._oldest_waiting(writers, joined)
        self._read = {writer: _reading_from(joined.get(writer, START), since) for writer in writers}
        self._joiner = Joiner(rewards=self._rewards, place=self._place, joined=joined)
        self._standby_until = 0.0
        return self._joiner

    async def _oldest_waiting(self, writers: Mapping[str, WriterState], joined: Mapping[str, Position]) -> int | None:
        """The time (ms) of the oldest record that was not emitted yet."""
        oldest: list[int] = []
        for writer, state in writers.items():
            at = joined.get(writer, START)
            if at < state.last:
                oldest += [entry.ms for entry in await self._store.read(writer, at, 1)]
        return min(oldest, default=None)

    async def _take(self, joiner: Joiner, writers: Mapping[str, WriterState]) -> bool:
        """Feed what the writers have, those behind first; whether there is more."""
        now, order = self._wall(), joiner.order
        there = {writer: state for writer, state in writers.items() if state.last != START}
        for writer, state in there.items():
            order.knows(writer, self._read.setdefault(writer, START), state.last, now)
        # What is read too far ahead of the slowest would only wait in memory.
        ahead_ms = self._rewards.wait_seconds * 1000
        horizon = order.horizon(LAG_MS, now)[0] + ahead_ms
        for writer, state in there.items():
            if self._read[writer] < state.last and order.read_up_to(writer) <= horizon:
                await self._feed(joiner, writer, now)
            if self._read[writer] >= state.last and not state.open:
                order.ended(writer)
        horizon = order.horizon(LAG_MS, now)[0] + ahead_ms
        unread = (writer for writer, state in there.items() if self._read[writer] < state.last)
        return any(order.read_up_to(writer) <= horizon for writer in unread)

    async def _feed(self, joiner: Joiner, writer: str, now: float) -> None:
        for entry in await self._store.read(writer, self._read[writer], READ):
            self._read[writer] = entry.position
            try:
                record = decode_record(entry.text)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self._unreadable += 1
                continue
            joiner.order.feed(writer, record, now)

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
        self._standby_until = self._wall() + self._random.uniform(*STANDBY_S)

    def _end(self) -> None:
        if self._joiner is not None:
            self._past.append(msgspec.structs.replace(self._joiner.ledger(), waiting=0))
            self._past = [sum(self._past, Joined())]
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
    return joined if since is None else min(joined, Position(max(0, since - SKEW_MS), 0))
