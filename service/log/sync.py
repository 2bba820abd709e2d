"""A sync: what has to reach the disk, and up to where the log is there then."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from service.log.segment import Segment


class Mark(NamedTuple):
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
    mark: Mark
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
