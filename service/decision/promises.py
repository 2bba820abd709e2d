"""Promises: what waits to be on the disk before it is answered, where the disk is promised.

What comes while a sync runs is synced with the next one, all together. A sync runs on a thread of its own, and
everything else happens in the loop: what a sync failed to keep is written to another file and synced there, and where
that fails too, everything that waits is taken back.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from service.log.durable import DurableJournal
from service.log.sync import Sync


@dataclass(frozen=True, slots=True)
class _Queued:
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
