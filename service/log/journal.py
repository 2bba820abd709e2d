r"""The journal: an append-only file of lines, one record a line, ``CRC32 CHAIN JSON\n``.

CRC32 (8 hex digits) covers the rest of the line after its space; CHAIN (32 hex digits) is BLAKE2b-128 over the whole
line before, so that no line can be taken out or changed unseen. A writer is a random id minted at each process start,
with a folder of its own and a sequence from 1: nothing is ever continued. Readers have ``lines.py``.

What is taken away while it is written to is found, replaced, and told by a ``Loss``. A file whose sync failed is never
synced again, because the system may have dropped what it could not write.
"""

import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar
from zlib import crc32

from service.log.lines import CHAIN_START, NO_LINE, Line, chain_of, first_of, read_segment, segments
from service.log.lock import Lock, alive
from service.log.records import Writer, encode_record
from service.log.reserve import FULL, Reserve
from service.log.segment import Losses, Segment, Sync, SyncedTo, some, sync_data, sync_folder

__all__ = ["CHAIN_START", "Journal", "JournalUnavailable", "Line", "alive", "chain_of", "read_segment", "segments"]
SEGMENT_BYTES = 64 * 1024 * 1024
# Segments that wait to be synced by somebody who has the time, before they are synced by whoever begins another.
_BEHIND = 8
_log = logging.getLogger(__name__)


class JournalUnavailable(Exception):
    """Records could not be made durable; ``kept`` says how many of them, the first ones, are in the journal anyway."""

    def __init__(self, message: str, kept: int = 0) -> None:
        super().__init__(message)
        self.kept = kept


class Journal:
    """One writer's log: takes encoded records in sequence, appends them in one write."""

    # Whether what was appended counts only once it is synced.
    durable: ClassVar[bool] = False

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        writer: bytes | None = None,
        reserve: Reserve | None = None,
        write: Callable[[int, bytes], int] = os.write,
        sync: Callable[[int], None] | None = None,
    ) -> None:
        """Make the writer's folder under ``folder`` and lock it; ``reserve`` is let go when the disk is full. Raises
        JournalUnavailable."""
        self.writer = writer or secrets.token_bytes(8)
        self.folder = folder / self.writer.hex()
        self.next_seq = 1
        self.last_ms = 0
        # Why nothing can be written now, for people; empty where it can.
        self.trouble = ""
        self.failed_syncs = 0
        # How often what could not be synced was taken back; whether nothing may be appended since.
        self.voids = 0
        self.suspended = False
        self.losses = Losses()
        self.reserve = reserve
        self._segment_bytes = segment_bytes
        self._write = write
        self._sync = sync or sync_data
        self._chain = CHAIN_START
        self._lock = Lock()
        # Segments that are still to be synced, and those that are to be closed once no sync needs them.
        self._behind: list[Segment] = []
        self._stale: list[Segment] = []
        self._syncing = False
        # Another segment has to be begun; the one there is was taken away.
        self._torn = self._astray = False
        self._epoch = 0
        # What was appended since it was last synced, where that counts; whether there are names to be synced.
        self._unsynced: list[bytes] = []
        self._named = True
        # Nobody is to find the folder before its lock is held.
        draft = folder / f".{self.writer.hex()}"
        try:
            draft.mkdir(parents=True)
            self._hold(draft)
            self._segment = Segment(draft, 1)
            draft.rename(self.folder)
            self._segment.path = self.folder / self._segment.path.name
            sync_folder(folder)
        except OSError as error:
            raise JournalUnavailable(f"{self.folder}: the journal cannot be written ({error.strerror})") from error

    def introduce(self, writer: Writer) -> None:
        """Append the first record, which is written anew where it is taken away; raises JournalUnavailable."""
        self.losses.introduction = writer
        self.append([encode_record(writer)], writer.ms)

    def append(self, texts: list[bytes], ms: int) -> None:
        """Append records of consecutive sequence numbers, the first of which is ``next_seq``.

        After it they survive any crash of this process. Raises JournalUnavailable; whole lines that had reached the
        file stay, because others may have read them, and the sequence goes on after them.
        """
        chain = self._chain
        lines = []
        for text in texts:
            line = b"%08x %b %b\n" % (crc32(text, crc32(chain + b" ")), chain, text)
            # As ``chain_of`` has it.
            hashed = NO_LINE.copy()
            hashed.update(line)
            chain = hashed.hexdigest().encode()
            lines.append(line)
        data = b"".join(lines)
        written = 0
        while True:
            try:
                size = self._segment.size
                if self._torn or (size and size + len(data) > self._segment_bytes):
                    self._turn()
                while written < len(data):
                    size = self._write(self._segment.descriptor, data[written:] if written else data)
                    written += size if size > 0 else some(size)
                break
            except OSError as error:
                if not self._relieved(error):
                    kept = self._keep_whole(lines, written)
                    self.last_ms = ms if kept else self.last_ms
                    raise self._failed(error, kept) from error
        self._segment.size += len(data)
        self._chain = chain
        self.next_seq += len(texts)
        self.last_ms = ms
        if self.durable:
            self._unsynced += lines
        if self.trouble or self.losses.owed:
            self._recovered()

    def check(self) -> None:
        """See whether what was written is where it was put, and replace what is not: file, folder and lock.

        What was in it is told by a ``Loss``. To be called each second; raises JournalUnavailable where it cannot be
        replaced, and then nothing can be appended until it can.
        """
        while True:
            try:
                self._look()
                if self._astray:
                    self._turn()
                else:
                    self._hold(self.folder)
                break
            except OSError as error:
                if not self._relieved(error):
                    raise self._failed(error, 0) from error
        self._tell()

    def state(self) -> str:
        """How it is, for people: ``works``, ``low: ...`` while the reserve is used, or why it cannot be written."""
        if self.trouble:
            return self.trouble
        if self.reserve is not None and not self.reserve.held:
            return "low: there is no room for the reserve"
        return "works"

    def sync(self) -> None:
        """Make what was appended survive a power loss, here and now; raises JournalUnavailable, and then what was not
        synced was taken back, where the disk is promised."""
        while True:
            sync = self.begin_sync()
            error = sync.attempt()
            if self.finish(sync, error):
                return
            if self.suspended or not self.durable:
                raise JournalUnavailable(f"{self.folder}: the journal cannot be synced ({error and error.strerror})")

    def begin_sync(self, *, behind: bool = False) -> Sync:
        """What is to be synced now: all of it, or (``behind``) the segments that are no longer written to.

        One at a time: the next may begin when ``finish`` has had this one.
        """
        self._syncing = True
        files = [*self._behind] if behind else [*self._behind, self._segment]
        mark = SyncedTo(self.next_seq - 1, self._chain, self._segment.path, self._segment.size)
        folders = (self.folder, self.folder.parent) if self._named else ()
        self._named = False
        return Sync(files, folders, mark, self._epoch, self._sync)

    def finish(self, sync: Sync, error: OSError | None = None) -> bool:
        """Take in what came of a sync; whether it did what it should. Where not, no file of it is synced again."""
        self._syncing = False
        if error is not None:
            self.failed_syncs += 1
            self._named |= bool(sync.folders)
            _log.error("%s: the journal cannot be synced (%s)", self.folder, error.strerror)
        self._drop([one for one in self._behind if one in sync.files])
        return error is None

    def has_behind(self) -> bool:
        """Whether segments that are no longer written to are still to be synced, and nobody will."""
        return bool(self._behind) and not self.durable

    def close(self) -> None:
        """Let the writer go: what it wrote stays, nobody will continue it."""
        self._syncing = False
        self._drop([*self._behind, self._segment])
        self._lock.close()

    def _failed(self, error: OSError, kept: int) -> JournalUnavailable:
        kind = "full" if error.errno in FULL else "unavailable"
        if not self.suspended:
            self.trouble = f"{kind}: the journal cannot be written ({error.strerror})"
        return JournalUnavailable(f"{self.folder}: the journal cannot be written ({error.strerror})", kept)

    def _relieved(self, error: OSError) -> bool:
        """Whether there is room now where there was none: the reserve was let go."""
        return self.reserve is not None and self.reserve.relieves(error)

    def _recovered(self) -> None:
        """It could be written to: what is to be told is told."""
        self.trouble = ""
        try:
            self._tell()
        except JournalUnavailable as error:
            _log.error("%s", error)

    def _look(self) -> None:
        """See whether the segment is where it was put; what was in one that is not is lost."""
        if self._astray:
            return
        gone = self._segment.missing(self._firm())
        if gone is not None:
            self._torn = self._astray = True
            self._epoch += 1
            self.losses.found(self._segment.path, gone)

    def _firm(self) -> int:
        """The last record that counts."""
        return self.next_seq - 1

    def _turn(self) -> None:
        """Begin another segment; raises OSError."""
        self._look()
        self._hold(self.folder)
        old, empty = self._segment, self._segment.first == self.next_seq
        if empty and not self._astray:
            # It has nothing whole in it.
            old.path.unlink(missing_ok=True)
        self._segment = Segment(self.folder, self.next_seq, exclusive=self.durable)
        self._named = True
        if self._astray or empty:
            self._drop([old])
        else:
            self._behind.append(old)
            if len(self._behind) > _BEHIND and not self.durable and not self._syncing:
                sync = self.begin_sync(behind=True)
                self.finish(sync, sync.attempt())
        self._torn = self._astray = False

    def _drop(self, files: list[Segment]) -> None:
        """Close files, once no sync needs them."""
        self._behind = [one for one in self._behind if one not in files]
        self._stale += files
        while self._stale and not self._syncing:
            self._stale.pop().close()

    def _tell(self) -> None:
        """Append what was lost, behind who the writer is where that is gone too; raises JournalUnavailable."""
        losses = self.losses
        if not losses.owed:
            return
        records = losses.records_owed(self.next_seq, self.last_ms, anew=first_of(segments(self.folder)[0]) > 1)
        owed, losses.owed = losses.owed, []
        try:
            self.append([encode_record(record) for record in records], records[-1].ms)
        except JournalUnavailable as error:
            losses.owed = owed[max(0, error.kept - len(records) + len(owed)) :]
            raise

    def _hold(self, folder: Path) -> None:
        """Have the folder and its lock; raises OSError."""
        self._lock.hold(folder)

    def _keep_whole(self, lines: list[bytes], written: int) -> int:
        """Keep the whole lines of what was written and cut the torn one away; how many stay."""
        kept = 0
        while kept < len(lines) and written >= len(lines[kept]):
            written -= len(lines[kept])
            self._segment.size += len(lines[kept])
            kept += 1
        if kept:
            self._chain = chain_of(lines[kept - 1])
            self.next_seq += kept
            self._unsynced += lines[:kept] if self.durable else []
        try:
            os.ftruncate(self._segment.descriptor, self._segment.size)
        except OSError:
            # The torn line stays where it is and shows itself; what comes next begins a segment of its own.
            self._torn = True
        return kept

    def __repr__(self) -> str:
        return f"<Journal {self.writer.hex()} next {self.next_seq}, {self._segment.size} bytes in segment>"
