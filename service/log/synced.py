"""The synced mark: up to where a writer's log is on the disk, for those who read it; only where that is promised.

Readers see what is written before it is synced. Where a decision is answered only after that, and its sync fails, it
was never made; so nobody may read beyond the mark. The file ``synced`` is ``CRC32 SEQ BOOT\\n``, written in place after
each sync. After the machine has started again (BOOT is another) there is no more to be taken back: what the log then
has is on the disk, and the mark may be older than that.
"""

import os
import zlib
from functools import cache
from pathlib import Path

MARK = "synced"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
# It may be read while it is being written, which takes some microseconds.
_TRIES = 100


class Synced:
    """The mark as its writer keeps it."""

    def __init__(self) -> None:
        self._descriptor = -1

    def keep(self, folder: Path, seq: int) -> None:
        """Have a mark in a writer's folder, which says ``seq`` where it has none; raises OSError."""
        if self._descriptor >= 0 and (folder / MARK).exists():
            return
        self.close()
        self._descriptor = os.open(folder / MARK, os.O_WRONLY | os.O_CREAT, 0o600)
        self.move(seq)

    def move(self, seq: int) -> None:
        """Say that everything up to ``seq`` is on the disk; raises OSError."""
        text = b"%020d %b" % (seq, boot())
        os.pwrite(self._descriptor, b"%08x %b\n" % (zlib.crc32(text), text), 0)

    def close(self) -> None:
        """Leave the mark as it is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def __repr__(self) -> str:
        return f"<Synced {'open' if self._descriptor >= 0 else 'closed'}>"


def synced(folder: Path) -> int | None:
    """Up to which record a log may be read, None where it may be to its end: it has no mark that can be read."""
    for _ in range(_TRIES):
        try:
            line = (folder / MARK).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        text = line[9:-1]
        if line[:9] == b"%08x " % zlib.crc32(text):
            seq, _, told = text.partition(b" ")
            return int(seq) if told == boot() else None
    return None


@cache
def boot() -> bytes:
    """What tells this start of the machine from others; always the same where the system does not say."""
    try:
        return _BOOT.read_bytes().strip()
    except OSError:
        return b"-"
