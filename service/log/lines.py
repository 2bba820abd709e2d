"""The lines of a journal as its readers see them: ``CRC32 CHAIN JSON\n``, in segments that are named by their first
record. Readers never write there.

A segment has the records before the first of the next one: what it has beyond was taken back by its writer.

The synced mark says up to where a log is on the disk, where that is promised. What is beyond may be read before it is
synced; where that fails it was never made, so nobody may. The file ``synced`` is ``CRC32 SEQ BOOT\n``, written in place
after each sync. After the machine has started again (BOOT is another) there is no more to be taken back: what the log
then has is on the disk, and the mark may be older than that.
"""

import os
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path

import msgspec

from service.log.records import AnyRecord, decode_record

CHAIN_START = b"0" * 32
# What a line's hash begins as: to copy it costs less than to make it.
NO_LINE = blake2b(digest_size=16)
MARK = "synced"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
# The mark may be read while it is being written, which takes some microseconds.
_TRIES = 100
PREFIX = 8 + 1 + 32 + 1
_SEGMENT = re.compile(r"[0-9]{20}\.log")
# More than any record has.
_HEAD = 64 * 1024 * 1024
_START = re.compile(rb"[0-9a-f]{8} [0-9a-f]{32} \{")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a segment: its record and its JSON as written, or why it is lost (record None)."""

    record: AnyRecord | None
    text: bytes
    chain: bytes
    end: int
    damage: str = ""


def sealed(text: bytes) -> bytes:
    """A text as a line that shows whether it is as it was written: ``CRC32 TEXT\\n``."""
    return b"%08x %b\n" % (zlib.crc32(text), text)


def unsealed(line: bytes) -> bytes | None:
    """The text of such a line; None where it is not as it was written."""
    text = line[9:-1]
    return text if line[:9] == b"%08x " % zlib.crc32(text) else None


def publish(path: Path, text: bytes, *, sync: bool = False) -> None:
    """Put a sealed text, and nothing else, into a file: whoever reads sees it whole, or the one before.

    Raises OSError, and leaves nothing beside then.
    """
    # The folder may have been taken away.
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(sealed(text))
            if sync:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        # A full disk has room for no half file either.
        with suppress(OSError):
            draft.unlink()
        raise


def first_of(segment: Path) -> int:
    """The sequence number of a segment's first record, which is its name."""
    return int(segment.stem)


def segments(folder: Path) -> list[Path]:
    """A writer's segments in order; what else is in its folder, under whatever name, is none. Raises OSError.

    A copy of one under another number is none either: it would seem to follow the one that is still written to. It
    begins with an earlier record than its name says, or with that of a segment that is there.
    """
    try:
        with os.scandir(folder) as found:
            here = [one for one in found if _SEGMENT.fullmatch(one.name) and one.is_file()]
            begins = {folder / one.name: _begin(folder / one.name, one.inode()) for one in here}
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = {first_of(path) for path in begins}
    return sorted(
        path
        for path, seq in begins.items()
        if seq is None or seq == first_of(path) or (seq > first_of(path) and seq not in names)
    )


# What segments were seen to begin with, by path and inode.
_begun: dict[tuple[Path, int], int | None] = {}
_REMEMBERED = 10_000


def _begin(path: Path, inode: int) -> int | None:
    """The sequence number of the first record of a file; None where it does not tell: it has nothing yet, or its first
    line is damaged."""
    if (path, inode) in _begun:
        return _begun[path, inode]
    try:
        with path.open("rb") as file:
            line = next(read_segment(file.readline(_HEAD)), None)
    except FileNotFoundError:
        return None
    if line is None:
        return None
    if len(_begun) >= _REMEMBERED:
        _begun.clear()
    seq = _begun[path, inode] = None if line.record is None else line.record.seq
    return seq


def readable(folder: Path) -> list[tuple[Path, int]]:
    """A writer's segments in order, each with the sequence number that its records are below.

    It is that of the next segment, or of what is not synced yet where that is promised: what is beyond may still be
    taken back, or was, and must not be read as made.
    """
    # Before the folder is listed: what is behind the mark now has the segments that it will ever have.
    mark = synced(folder)
    bound = sys.maxsize if mark is None else mark + 1
    here = segments(folder)
    behind = [*map(first_of, here[1:]), sys.maxsize]
    return [(path, min(stop, bound)) for path, stop in zip(here, behind, strict=False)]


def read_segment(data: bytes, start: int = 0) -> Iterator[Line]:
    """The whole lines of a segment from the offset ``start`` on; a torn last line is not there yet.

    A damaged line loses itself and nothing after it. Whether lines are missing shows in ``seq`` and in the chain:
    ``chain_of`` a line is the ``chain`` of the next.
    """
    while True:
        stop = data.find(b"\n", start)
        if stop < 0:
            return
        yield from _lines(data[start : stop + 1], stop + 1)
        start = stop + 1


def chain_of(line: bytes) -> bytes:
    """What the line after this one says as its CHAIN."""
    return blake2b(line, digest_size=16).hexdigest().encode()


def _lines(line: bytes, end: int) -> Iterator[Line]:
    """The record of a line; where a damaged newline joined two, the bad one and what is whole after it."""
    first = _line(line, end)
    yield first
    if first.record is None:
        for match in _START.finditer(line, 1):
            rest = _line(line[match.start() :], end)
            if rest.record is not None:
                yield rest
                return


def _line(line: bytes, end: int) -> Line:
    text = line[PREFIX:-1]
    chain = line[9 : 9 + 32]
    if len(line) <= PREFIX or line[:8] != b"%08x" % zlib.crc32(line[9:-1]):
        return Line(None, text, chain, end, damage="its checksum does not fit")
    try:
        return Line(decode_record(text), text, chain, end)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Line(None, text, chain, end, damage=f"it is not a record ({type(error).__name__})")


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
        os.pwrite(self._descriptor, sealed(b"%020d %b" % (seq, boot())), 0)

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
            text = unsealed((folder / MARK).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        if text is not None:
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
