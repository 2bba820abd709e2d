r"""The journal: an append-only file of lines, one record a line, ``CRC32 CHAIN JSON\n``.

CRC32 (8 hex digits) covers the rest of the line after its space; CHAIN (32 hex digits) is BLAKE2b-128 over the whole
line before, so that no line can be taken out or changed unseen. A writer is a random id minted at each process start,
with a folder of its own and a sequence from 1: nothing is ever continued. Segments are named by their first sequence
number. Other processes read with ``read_segment``; they never write here.
"""

import errno
import fcntl
import os
import re
import secrets
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec

from service.records import AnyRecord, decode_record

CHAIN_START = b"0" * 32
SEGMENT_BYTES = 64 * 1024 * 1024
_PREFIX = 8 + 1 + 32 + 1
_START = re.compile(rb"[0-9a-f]{8} [0-9a-f]{32} \{")


class JournalUnavailable(Exception):
    """Records could not be made durable; ``kept`` says how many of them, the first ones, are in the journal anyway."""

    def __init__(self, message: str, kept: int = 0) -> None:
        super().__init__(message)
        self.kept = kept


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a segment: its record and its JSON as written, or why it is lost (record None)."""

    record: AnyRecord | None
    text: bytes
    chain: bytes
    end: int
    damage: str = ""


class Journal:
    """One writer's log: takes encoded records in sequence, appends them in one write."""

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        writer: bytes | None = None,
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        """Make the writer's folder under ``folder`` and lock it; raises JournalUnavailable."""
        self.writer = writer or secrets.token_bytes(8)
        self.folder = folder / self.writer.hex()
        self.next_seq = 1
        self.last_ms = 0
        self._segment_bytes = segment_bytes
        self._write = write
        self._chain = CHAIN_START
        self._file = -1
        self._size = 0
        self._torn = False
        self._turning = threading.Lock()  # a sync on another thread, or the change to another file
        # Made under another name, so that nobody finds the folder before its lock is held.
        draft = folder / f".{self.writer.hex()}"
        try:
            draft.mkdir(parents=True)
            # Held as long as this process lives, and let go by the kernel however it dies: how others know.
            self._lock = os.open(draft / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._open_segment(draft)
            draft.rename(self.folder)
            _sync_folder(folder)
        except OSError as error:
            msg = f"{self.folder}: the journal cannot be written ({error.strerror})"
            raise JournalUnavailable(msg) from error

    def append(self, texts: list[bytes], ms: int) -> None:
        """Append records of consecutive sequence numbers, the first of which is ``next_seq``.

        After it they survive any crash of this process. Raises JournalUnavailable; whole lines that had reached the
        file stay, because others may have read them, and the sequence goes on after them.
        """
        chain = self._chain
        lines = []
        for text in texts:
            line = b"%08x %b %b\n" % (zlib.crc32(text, zlib.crc32(chain + b" ")), chain, text)
            chain = chain_of(line)
            lines.append(line)
        data = b"".join(lines)
        written = 0
        try:
            if self._torn or (self._size and self._size + len(data) > self._segment_bytes):
                self._open_segment(self.folder)
            while written < len(data):
                written += _some(self._write(self._file, data[written:] if written else data))
        except OSError as error:
            kept = self._keep_whole(lines, written)
            self.last_ms = ms if kept else self.last_ms
            msg = f"{self.folder}: the journal cannot be written ({error.strerror})"
            raise JournalUnavailable(msg, kept) from error
        self._size += len(data)
        self._chain = chain
        self.next_seq += len(texts)
        self.last_ms = ms

    def sync(self) -> None:
        """Make what was appended survive a power loss; may be called from another thread."""
        try:
            with self._turning:
                _sync(self._file)
        except OSError as error:
            msg = f"{self.folder}: the journal cannot be synced ({error.strerror})"
            raise JournalUnavailable(msg) from error

    def close(self) -> None:
        """Let the writer go: what it wrote stays, nobody will continue it."""
        os.close(self._file)
        os.close(self._lock)

    def _open_segment(self, folder: Path) -> None:
        path = folder / f"{self.next_seq:020d}.log"
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with self._turning:
            if self._file >= 0:
                try:
                    _sync(self._file)
                    _sync_folder(folder)
                except OSError:
                    os.close(opened)
                    raise
                os.close(self._file)
            self._file, self._size, self._torn = opened, os.fstat(opened).st_size, False

    def _keep_whole(self, lines: list[bytes], written: int) -> int:
        """Keep the whole lines of what was written and cut the torn one away; how many stay."""
        kept = 0
        while kept < len(lines) and written >= len(lines[kept]):
            written -= len(lines[kept])
            self._size += len(lines[kept])
            kept += 1
        if kept:
            self._chain = chain_of(lines[kept - 1])
            self.next_seq += kept
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            # The torn line stays where it is and shows itself; what comes next begins a segment of its own.
            self._torn = True
        return kept

    def __repr__(self) -> str:
        return f"<Journal {self.writer.hex()} next {self.next_seq}, {self._size} bytes in segment>"


def _some(written: int) -> int:
    """What was written, which has to be something: a file that takes nothing is full, whatever it says."""
    if written <= 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return written


def _sync(descriptor: int) -> None:
    """fdatasync where there is one (macOS has none)."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file survive a power loss too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def segments(folder: Path) -> list[Path]:
    """A writer's segments in order."""
    return sorted(folder.glob("*.log"))


def alive(folder: Path) -> bool:
    """Whether the process that writes in a writer's folder still lives."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        # Shared: whoever else looks at this moment is no writer.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


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
    text = line[_PREFIX:-1]
    chain = line[9 : 9 + 32]
    if len(line) <= _PREFIX or line[:8] != b"%08x" % zlib.crc32(line[9:-1]):
        return Line(None, text, chain, end, damage="its checksum does not fit")
    try:
        return Line(decode_record(text), text, chain, end)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Line(None, text, chain, end, damage=f"it is not a record ({type(error).__name__})")
