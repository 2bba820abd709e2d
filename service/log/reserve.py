"""The reserve: a file that takes up space, so that a disk that is full has some left for what has to be written.

It is let go when the disk is full: then the decisions under way, the signs of life, the account of what was lost and
the small files of shared state can be written for a while. It is made again once there is room for twice as much.
"""

import errno
import logging
import os
from contextlib import suppress
from pathlib import Path

RESERVE_BYTES = 4 * 1024 * 1024
_log = logging.getLogger(__name__)
# What a disk says that has no room for us, whoever else it may have some for.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Reserve:
    """A file of ``size`` bytes, held or let go."""

    def __init__(self, path: Path, size: int = RESERVE_BYTES) -> None:
        self._path = path
        self._size = size
        self.held = False

    def hold(self) -> bool:
        """Take the space, where there is twice as much; whether it is held now."""
        if not (self.held and self._path.exists()):
            self.held = False
            with suppress(OSError):
                self.held = self._take()
        return self.held

    def release(self) -> bool:
        """Give the space back; whether there was any."""
        if not self.held:
            return False
        self.held = False
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def relieves(self, error: OSError) -> bool:
        """Whether there is room now after an error that says there was none."""
        if error.errno not in FULL or not self.release():
            return False
        _log.error("%s: the disk is full, the reserve is being used", self._path.parent)
        return True

    def _take(self) -> bool:
        """Raises OSError where the space is not there, and leaves nothing behind then."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # One that a process before this one has left counts as room.
        self._path.unlink(missing_ok=True)
        room = os.statvfs(self._path.parent)
        if room.f_bavail * room.f_frsize < 2 * self._size:
            return False
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _allocate(descriptor, self._size)
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return True

    def __repr__(self) -> str:
        return f"<Reserve of {self._size} bytes, {'held' if self.held else 'let go'}>"


def _allocate(descriptor: int, size: int) -> None:
    """Take up space for a file; where a system has no call for it (macOS), by writing it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    block = bytes(64 * 1024)
    for at in range(0, size, len(block)):
        os.pwrite(descriptor, block[: size - at], at)
