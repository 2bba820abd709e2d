"""A hold on a data folder: a lock file that says who has it, kept by a process as long as it lives.

The standard library alone is imported here, because the supervisor needs it all the time.

    FolderRefused
    ├── FolderTaken     a running service owns it
    └── FolderForeign   it holds what another service, or another keyring, left there (``log/ownership.py``)
"""

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

OWNER = "owner"
_WAIT_S = 0.05


class FolderRefused(Exception):
    """The data folder cannot be used by this service."""


class FolderTaken(FolderRefused):
    """A running service owns the data folder."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has a folder: a service's name, its keyring's fingerprint, its process id, and since when (s, wall clock)."""

    service: str
    key_fingerprint: str
    process: int
    since: float

    def __str__(self) -> str:
        return f"the running service {self.service!r} (process {self.process})"


class FolderHold:
    """A lock file as its owner holds it: where others look, though it was taken away or replaced meanwhile."""

    def __init__(self, path: Path, descriptor: int, owner: Owner) -> None:
        """``descriptor`` is of the file, and locked."""
        self._path = path
        self._descriptor = descriptor
        self._owner = owner
        self._said = ""
        sign(descriptor, owner)

    def keep(self) -> str:
        """Hold the file that is there now; what is wrong, where that was not said before: somebody else holds it, or
        it cannot be made."""
        try:
            if not _leads_to(self._path, self._descriptor):
                self._anew()
            problem = ""
        except FolderTaken as error:
            problem = str(error)
        except OSError as error:
            problem = f"{self._path} cannot be held ({error.strerror}): a second service would not be refused"
        said, self._said = self._said, problem
        return problem if problem != said else ""

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)

    def _anew(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = lock(
            self._path, lambda other: f"{self._path} was taken away, and is held by {other}: end one of the two"
        )
        sign(descriptor, self._owner)
        os.close(self._descriptor)
        self._descriptor = descriptor

    def __repr__(self) -> str:
        return f"<FolderHold of {self._path} by {self._owner.service!r}>"


def _leads_to(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False


def lock(path: Path, taken: Callable[[str], str], *, wait_s: float = 0.0) -> int:
    """Lock a file, waiting for who holds it at most so long; gives the open descriptor.

    Raises FolderTaken with the sentence that ``taken`` makes of who holds it, and OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(_WAIT_S)
                continue
            os.close(descriptor)
            raise FolderTaken(taken(str(owner_of(path) or "a running service"))) from None
        except OSError as error:
            os.close(descriptor)
            error.filename = str(path)
            raise
        return descriptor


def owner_of(path: Path) -> Owner | None:
    """What a lock file says of who holds it, or held it last; None where it says nothing."""
    try:
        told = json.loads(path.read_text("utf-8"))
        return Owner(**told)
    except (OSError, ValueError, TypeError):
        return None


def sign(descriptor: int, owner: Owner) -> None:
    """Write into a lock file who holds it."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(owner)).encode(), 0)
