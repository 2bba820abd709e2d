"""The watch over the journal: each second, what was taken away is replaced, and what is wrong is tried again."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from service.decision.commit import Committer
from service.log.durable import DurableJournal
from service.log.journal import Journal, JournalUnavailable
from service.log.records import Heartbeat, encode_record

PERIOD_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Watch:
    """Looks after one journal; ``now`` is the wall clock (s since 1970)."""

    _journal: Journal
    _committer: Committer
    now: Callable[[], float]
    _said: str = ""

    async def keep(self) -> None:
        """Look each second, for ever."""
        while True:
            await asyncio.sleep(PERIOD_S)
            await self.look()

    async def look(self) -> None:
        """Look once."""
        journal = self._journal
        if not isinstance(journal, DurableJournal) or not journal.suspended or await self._try_disk(journal):
            self._check(journal)
        if journal.reserve is not None:
            journal.reserve.hold()
        if journal.has_behind():
            sync = journal.begin_sync(behind=True)
            journal.finish(sync, await asyncio.to_thread(sync.attempt))

    def _check(self, journal: Journal) -> None:
        """Replace what was taken away, and tell what is to be told, or try whether there is room."""
        before = journal.next_seq
        try:
            journal.check()
            if journal.next_seq > before:
                # What was lost is told, and nobody waits for that.
                self._committer.harden()
            if not self._committer.unlogged.is_told():
                self._committer.tell(self.now())
            elif journal.trouble and not journal.suspended:
                # Nothing else tells whether there is room again.
                self.beat()
        except JournalUnavailable as error:
            self._say(str(error))
        else:
            if self._said and not journal.trouble:
                self._say("")

    def beat(self) -> None:
        """Append a sign of life; raises JournalUnavailable."""
        journal = self._journal
        ms = max(journal.last_ms, int(self.now() * 1000))
        journal.append([encode_record(Heartbeat(seq=journal.next_seq, ms=ms))], ms)
        self._committer.harden()

    def tell_rest(self) -> bool:
        """At the end: say what is not in the log, and sync all of it; whether that was done."""
        try:
            if not self._committer.unlogged.is_told():
                self._committer.tell(self.now())
            self._journal.sync()
        except JournalUnavailable as error:
            self._say(str(error))
            return False
        return True

    async def _try_disk(self, journal: DurableJournal) -> bool:
        """Whether the disk syncs again, so that the journal goes on; nothing else is tried before it does."""
        try:
            await asyncio.to_thread(journal.try_disk)
        except OSError as error:
            self._say(f"{journal.folder}: the disk does not sync yet ({error.strerror})")
            return False
        journal.resume()
        return True

    def _say(self, problem: str) -> None:
        """Log what is wrong once, and that it is over."""
        if problem and problem != self._said:
            _log.error("%s", problem)
        elif not problem:
            _log.info("the journal can be written again")
        self._said = problem

    def __repr__(self) -> str:
        return f"<Watch over {self._journal}, {self._said or 'all is well'}>"
