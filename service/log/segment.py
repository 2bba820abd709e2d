"""A segment: the file of a journal that is written to, and whether what was written is still where it was put."""

import errno
import os
from pathlib import Path

from service.log.lines import read_segment

Range = tuple[int, int]


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
    ours = os.fstat(descriptor)
    try:
        there = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _ranges(seqs: set[int]) -> list[Range]:
    """Sequence numbers as ranges, first and last."""
    found: list[Range] = []
    for seq in sorted(seqs):
        if found and found[-1][1] == seq - 1:
            found[-1] = (found[-1][0], seq)
        else:
            found.append((seq, seq))
    return found
