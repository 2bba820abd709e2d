"""The files of a journal: what was written, whether it is where it was put, what is to be synced, what was lost."""

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from service.log.lines import read_segment
from service.log.records import SEGMENT_LOST, Loss, Writer

Range = tuple[int, int]
_log = logging.getLogger(__name__)


class Segment:
    """An open file of a writer's folder, named by its first record; ``size`` is what was written to it."""

    __slots__ = ("descriptor", "first", "path", "size")

    def __init__(self, folder: Path, first: int, *, exclusive: bool = False) -> None:
        """Open it, or make it; raises OSError, where it is ``exclusive`` also because it is there."""
        self.first = first
        self.path = folder / f"{first:020d}.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_EXCL if exclusive else 0)
        self.descriptor = os.open(self.path, flags, 0o600)
        self.size = os.fstat(self.descriptor).st_size

    def missing(self, last: int) -> list[Range] | None:
        """Which of its records up to ``last`` are not where they were put, None where all is as it was left.

        A file is not where it was put when its name is gone, or leads to another file; when it is shorter than what was
        written, what is left in it tells. Raises OSError.
        """
        if not is_at(self.descriptor, self.path):
            return _ranges(set(range(self.first, last + 1)))
        if os.fstat(self.descriptor).st_size >= self.size:
            return None
        found = (line.record.seq for line in read_segment(self.path.read_bytes()) if line.record is not None)
        return _ranges(set(range(self.first, last + 1)).difference(found))

    def close(self) -> None:
        """Let the file go."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def __repr__(self) -> str:
        return f"<Segment {self.path.name}, {self.size} bytes>"


def some(written: int) -> int:
    """What was written, which has to be something: a file that takes nothing is full, whatever it says."""
    if written <= 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return written


def is_at(descriptor: int, path: Path) -> bool:
    """Whether a path leads to an open file; raises OSError where that cannot be seen."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _ranges(seqs: set[int]) -> list[Range]:
    found: list[Range] = []
    for seq in sorted(seqs):
        if found and found[-1][1] == seq - 1:
            found[-1] = (found[-1][0], seq)
        else:
            found.append((seq, seq))
    return found


class SyncedTo(NamedTuple):
    """Up to where the log is on the disk: the last record, its chain, and the file and size that it ends in."""

    seq: int
    chain: bytes
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """Files and folders to be synced, on any thread; up to ``mark`` the log is on the disk then."""

    files: list[Segment]
    folders: tuple[Path, ...]
    mark: SyncedTo
    epoch: int
    sync: Callable[[int], None]

    def attempt(self) -> OSError | None:
        """Sync; what failed, None where nothing did."""
        try:
            for file in self.files:
                if file.descriptor < 0:
                    return OSError(errno.EBADF, os.strerror(errno.EBADF))
                self.sync(file.descriptor)
            for folder in self.folders:
                sync_folder(folder)
        except OSError as error:
            return error
        return None


def sync_data(descriptor: int) -> None:
    """fdatasync where there is one (macOS has none)."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the name of a new file survive a power loss too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Losses:
    """Those of one writer; ``segments`` and ``records`` count what was in them."""

    def __init__(self) -> None:
        self.segments = 0
        self.records = 0
        # What the journal has still to be told of, and who its writer is, to be told again where that is taken away.
        self.owed: list[Range] = []
        self.introduction: Writer | None = None

    def found(self, path: Path, gone: list[Range]) -> None:
        """A segment was taken away, and these of its records with it."""
        self.segments += 1
        self.owed += gone
        for first, last in gone:
            self.records += last - first + 1
            _log.error("%s: records %s to %s were taken away while it was written to", path, first, last)

    def records_owed(self, seq: int, ms: int, *, anew: bool) -> list[Writer | Loss]:
        """The records that tell what is owed, from ``seq`` on; who the writer is comes first where that is told
        ``anew``."""
        told: list[Writer | Loss] = []
        if anew and self.introduction is not None:
            ms = max(ms, self.introduction.ms)
            told.append(msgspec.structs.replace(self.introduction, seq=seq, ms=ms))
        for first, last in self.owed:
            place, count = seq + len(told), last - first + 1
            told.append(Loss(seq=place, ms=ms, count=count, cause=SEGMENT_LOST, first=first, last=last))
        return told

    def __repr__(self) -> str:
        return f"<Losses {self.records} records in {self.segments} segments, {len(self.owed)} to be told>"
