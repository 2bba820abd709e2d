"""Durability: what waits to be on the disk before it is answered, where the disk is promised, or is taken back.

What comes while a sync runs is synced with the next one, all together. A sync runs on a thread of its own, and
everything else happens in the loop: what a sync failed to keep is written to another file and synced there, and where
that fails too, everything that waits is taken back.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from service.decision.batch import Batch
from service.decision.sessions import Sessions
from service.errors import NotDurable
from service.log.durable import DurableJournal
from service.log.records import Decision
from service.log.segment import Sync


class _Queued(NamedTuple):
    """What is done once it is on the disk, or is taken back; ``voids`` tells which."""

    voids: int
    keep: Callable[[], None]
    take_back: Callable[[], None]


class SyncQueue:
    """Those of one journal."""

    def __init__(self, journal: DurableJournal) -> None:
        self._journal = journal
        self._waiting: list[_Queued] = []
        self._running: asyncio.Future[OSError | None] | None = None
        self._more = False

    def add(self, keep: Callable[[], None], take_back: Callable[[], None]) -> None:
        """Have what was just appended synced; one of the two is called in the loop when it is known how that went."""
        self._waiting.append(_Queued(self._journal.voids, keep, take_back))
        self.harden()

    def kept(self) -> "asyncio.Future[bool]":
        """Have what was just appended synced; whether it was, or was taken back."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def tell(*, kept: bool) -> None:
            if not answer.done():
                answer.set_result(kept)

        self.add(partial(tell, kept=True), partial(tell, kept=False))
        return answer

    def harden(self) -> None:
        """Have what was appended synced, though nobody waits for it."""
        if self._running is None:
            self._start()
        else:
            self._more = True

    async def settled(self) -> None:
        """Wait until nothing waits any more."""
        while self._running is not None:
            await asyncio.wait([self._running])

    def _start(self) -> None:
        group, self._waiting = self._waiting, []
        self._more = False
        sync = self._journal.begin_sync()
        self._running = asyncio.get_running_loop().run_in_executor(None, sync.attempt)
        self._running.add_done_callback(lambda done: self._finished(group, sync, done.result()))

    def _finished(self, group: list[_Queued], sync: Sync, error: OSError | None) -> None:
        self._running = None
        journal = self._journal
        kept = journal.finish(sync, error)
        if not kept:
            group, waiting = [], [*group, *self._waiting]
            self._waiting = [one for one in waiting if one.voids == journal.voids]
            for one in reversed(waiting):
                if one.voids != journal.voids:
                    one.take_back()
        for one in group:
            one.keep()
        if self._waiting or ((self._more or not kept) and not journal.suspended):
            self._start()

    def __repr__(self) -> str:
        return f"<SyncQueue {len(self._waiting)} wait, {'a' if self._running else 'no'} sync runs>"


# So many are known, for those who were about to go on from them.
_KNOWN = 10_000


@dataclass(slots=True, eq=False)
class Retracted:
    """Those of one process."""

    _sessions: Sessions
    known: dict[str, None] = field(default_factory=dict)

    def take_back(self, batch: Batch) -> None:
        """Take back a batch, with the feedback that came along, and answer that it was not made."""
        for request, record in zip(batch.requests, batch.records, strict=True):
            if isinstance(record, Decision):
                self._sessions.take_back(request.session, record.id)
                self.known[record.id] = None
            request.settle(NotDurable("the journal cannot be synced, so the decision was not made"))
        for decision_id in list(self.known)[:-_KNOWN]:
            del self.known[decision_id]
        self._sessions.go_on([told.decision_id for told in batch.feedback if told.ends])

    def without(self, batch: Batch) -> Batch:
        """A batch without the rows that would go on from one of them, because they were being inferred meanwhile."""
        left = []
        for i, request in enumerate(batch.requests):
            if request.entry is not None and request.entry.decision_id in self.known:
                request.settle(NotDurable("the decision before it was not made, so neither was this one"))
            else:
                left.append(i)
        return batch if len(left) == len(batch.requests) else batch.part(left)

    def __repr__(self) -> str:
        return f"<Retracted {len(self.known)} decisions>"
