"""The lock of a writer's folder: how others know that its writer lives.

It is held as long as the process lives, and let go by the kernel however it dies.
"""

import errno
import fcntl
import os
import stat
from pathlib import Path

from service.log.segment import is_at


class Lock:
    """One folder's lock, as its writer holds it."""

    def __init__(self) -> None:
        self._descriptor = -1

    def hold(self, folder: Path) -> None:
        """Hold the lock that the folder shows; both are made where they are gone. Raises OSError."""
        path = folder / "lock"
        if self._descriptor >= 0 and is_at(self._descriptor, path):
            return
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Nobody may find a lock that is not held.
        draft = folder / ".lock"
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(path)
        except OSError:
            os.close(descriptor)
            raise
        self.close()
        self._descriptor = descriptor

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def __repr__(self) -> str:
        return f"<Lock {'held' if self._descriptor >= 0 else 'let go'}>"


def alive(folder: Path) -> bool:
    """Whether the process that writes in a writer's folder still lives; raises OSError where that cannot be seen."""
    try:
        # To look is not to write: a disk that has become read-only has records that are still to be shipped.
        lock = os.open(folder / "lock", os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        if not stat.S_ISREG(os.fstat(lock).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / "lock"))
        # Shared: whoever else looks at this moment is no writer.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
