"""The journal where the disk is promised: what is appended counts, and may be read, once it is synced.

A file whose sync failed is never synced again, because the system may have dropped what it could not write. What was
not synced is written to another file, under the same numbers, and synced there; where that fails too it is taken back:
nobody was told of it, and nobody reads it, because the mark (``lines.py``) is before it, and the next segment, which
begins in its place, ends those before.
"""

import errno
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from service.log.journal import Journal
from service.log.lines import CHAIN_START, Synced, first_of, segments
from service.log.segment import Segment, Sync, SyncedTo, some

_log = logging.getLogger(__name__)


class DurableJournal(Journal):
    """One writer's log on the disk."""

    durable: ClassVar[bool] = True

    def __init__(self, folder: Path, **options: Any) -> None:
        """Takes what ``Journal`` takes; raises JournalUnavailable."""
        self._synced = Synced()
        self._mark = SyncedTo(0, CHAIN_START, folder, 0)
        # Whether what is not synced was written anew already.
        self._again = False
        super().__init__(folder, **options)
        self._mark = self._mark._replace(path=self._segment.path)

    def begin_sync(self, *, behind: bool = False) -> Sync:
        """What is to be synced now. One at a time: the next may begin when ``finish`` has had this one."""
        if self._astray:
            try:
                self._turn()
            except OSError as error:
                self._void(error)
        return super().begin_sync(behind=behind or self.suspended)

    def finish(self, sync: Sync, error: OSError | None = None) -> bool:
        """Take in what came of a sync; whether all that it was to keep is on the disk now.

        Where it is not, it was written to another file, and another sync may find it there; or it was taken back, which
        ``voids`` counts.
        """
        kept = super().finish(sync, error) and sync.epoch == self._epoch
        if kept:
            # What was taken away meanwhile is in no file, synced or not.
            with suppress(OSError):
                self._look()
            kept = not self._astray
        if kept:
            self._again = False
            self._move(sync.mark)
        elif error is not None and sync.epoch == self._epoch:
            self._write_anew(error)
        return kept

    def try_disk(self) -> None:
        """Write and sync a file beside, on any thread, to see whether the disk does that again; raises OSError."""
        path = self.folder / ".try"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._write(descriptor, b"sync\n")
            self._sync(descriptor)
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def resume(self) -> None:
        """Go on after the disk was seen to work again."""
        self.suspended = self._again = False
        self.trouble = ""

    def close(self) -> None:
        """Let the writer go: what it wrote stays, nobody will continue it."""
        super().close()
        self._synced.close()

    def _firm(self) -> int:
        return self._mark.seq

    def _hold(self, folder: Path) -> None:
        if not self.suspended:
            super()._hold(folder)
            self._synced.keep(folder, self._mark.seq)

    def _turn(self) -> None:
        if self.suspended:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._look()
        if not self._astray:
            super()._turn()
            return
        self._begin_anew()
        self._torn = self._astray = False

    def _begin_anew(self) -> None:
        """Write what is not synced to another segment, and to none that it was written to; raises OSError."""
        self._epoch += 1
        self._hold(self.folder)
        self._drop([*self._behind])
        self._cut_back()
        was, self._segment = self._segment, Segment(self.folder, self._mark.seq + 1, exclusive=True)
        self._drop([was])
        self._named = True
        data, written = b"".join(self._unsynced), 0
        while written < len(data):
            written += some(self._write(self._segment.descriptor, data[written:]))
        self._segment.size = written

    def _cut_back(self) -> None:
        """Leave of the files what is synced; raises OSError where a file that is not cannot be removed."""
        for path in segments(self.folder):
            if first_of(path) > self._mark.seq:
                path.unlink()
        # Where that cannot be done: whoever reads stops at the next segment's first record, and at the mark.
        with suppress(OSError):
            if self._mark.path.stat().st_size > self._mark.size:
                os.truncate(self._mark.path, self._mark.size)

    def _write_anew(self, error: OSError) -> None:
        """After a sync that failed: another file, once; then what is not synced is taken back."""
        if self._again:
            self._void(error)
            return
        self._again = True
        while True:
            try:
                self._begin_anew()
                break
            except OSError as failed:
                if not self._relieved(failed):
                    self._void(failed)
                    break

    def _void(self, error: OSError) -> None:
        """Take back what is not synced: nobody was told of it, and nobody may read it as made."""
        self._epoch += 1
        self.voids += 1
        self.trouble = f"unavailable: the journal cannot be synced ({error.strerror})"
        self.next_seq, self._chain = self._mark.seq + 1, self._mark.chain
        self._unsynced = []
        self._torn = self._astray = self.suspended = True
        try:
            self._cut_back()
        except OSError as failed:
            _log.error("%s: what was not synced cannot be removed (%s)", self.folder, failed.strerror)

    def _move(self, mark: SyncedTo) -> None:
        """Everything up to a mark is on the disk, and may be read."""
        del self._unsynced[: mark.seq - self._mark.seq]
        self._mark = mark
        try:
            self._synced.move(mark.seq)
        except OSError as error:
            _log.error("%s: readers cannot be told what is synced (%s)", self.folder, error.strerror)
