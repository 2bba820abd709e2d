"""Reading back: a writer's log from its end towards its beginning, as far as it is whole.

Of each line only a glimpse is taken, and where it stands: most of what a log has is never asked for.
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from service.log.lines import PREFIX, readable

CHUNK = 1024 * 1024
# A segment of at most so many bytes is kept in memory, a larger one open.
_SMALL = 1024 * 1024
# A line is named by one number, which costs least: segment, offset and length.
_OFFSET_BITS, _LENGTH_BITS = 48, 32


class _State(msgspec.Struct, frozen=True, gc=False):
    known: bool
    step: int


class _Options(msgspec.Struct, frozen=True, gc=False):
    request_id: str | None = None
    request_digest: str | None = None


class Glimpse(msgspec.Struct, frozen=True, gc=False):
    """What has to be known of each record to find the ones that are wanted."""

    kind: str
    seq: int
    ms: int
    id: str = ""
    session: str = ""
    previous: str | None = None
    state: _State | None = None
    options: _Options | None = None
    decision_id: str = ""
    terminated: bool = False
    truncated: bool = False

    @property
    def fresh(self) -> bool:
        """Whether a decision continues none, or begins an episode: what came before is never gone back to."""
        return self.previous is None or (self.state is not None and self.state.known and self.state.step == 0)


_glimpse = msgspec.json.Decoder(Glimpse).decode


class Archive:
    """The segments that were read back, from which a line can be read once more, also when they are deleted."""

    def __init__(self) -> None:
        self._segments: list[int | bytes] = []  # open, or in memory

    def open(self, path: Path) -> tuple[int, int]:
        """Take a segment in: its number here, and its size; raises OSError."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(descriptor).st_size
        if size > _SMALL:
            self._segments.append(descriptor)
        else:
            try:
                self._segments.append(os.pread(descriptor, size, 0))
            finally:
                os.close(descriptor)
        return len(self._segments) - 1, size

    def read(self, segment: int, start: int, stop: int) -> bytes:
        """The bytes of a segment, fewer where it has become shorter; raises OSError."""
        held = self._segments[segment]
        return held[start:stop] if isinstance(held, bytes) else os.pread(held, stop - start, start)

    def text(self, name: int) -> bytes | None:
        """The JSON of a line; None where it is not any more what it was."""
        length, place = name & ((1 << _LENGTH_BITS) - 1), name >> _LENGTH_BITS
        start = place & ((1 << _OFFSET_BITS) - 1)
        if place >> _OFFSET_BITS >= len(self._segments):
            return None
        try:
            line = self.read(place >> _OFFSET_BITS, start, start + length)
        except OSError:
            return None
        return line[PREFIX:] if len(line) == length and _sound(line) else None

    def close(self) -> None:
        """Let go of all that is open."""
        for held in self._segments:
            if not isinstance(held, bytes):
                os.close(held)
        self._segments = []

    def __repr__(self) -> str:
        return f"<Archive of {len(self._segments)} segments>"


class Readback:
    """One writer's log, read from its end.

    ``trouble`` says why it could not be read to its beginning, empty where it could; ``records`` and ``read_bytes``
    count what was.
    """

    def __init__(self, folder: Path, archive: Archive) -> None:
        self.folder = folder
        self._archive = archive
        self.trouble = ""
        self.records = self.read_bytes = 0

    def glimpses(self) -> Iterator[tuple[int, Glimpse]]:
        """Each record with the name of its line, the last first.

        An unfinished last line was never promised to anybody, nor was what is beyond the mark of what is synced. What
        is damaged or missing ends it, and so does a record that tells of a loss: whose decisions these were nobody
        knows.
        """
        expected: int | None = None
        for path, below in reversed(readable(self.folder)):
            try:
                segment, size = self._archive.open(path)
            except OSError as error:
                self.trouble = f"{path.name} cannot be read ({error.strerror})"
                return
            for start, line in self._lines(segment, size):
                seen = _look(line)
                if seen is not None and seen.seq >= below:
                    # It was taken back, or is not on the disk yet: it was never made.
                    continue
                if seen is None:
                    self.trouble = f"{path.name} is damaged before byte {start + len(line) + 1}"
                elif expected is not None and seen.seq != expected:
                    self.trouble = f"records {seen.seq + 1} to {expected} are missing"
                elif seen.kind == "loss":
                    self.trouble = f"record {seen.seq} tells of a loss"
                if seen is None or self.trouble:
                    return
                expected = seen.seq - 1
                self.records += 1
                yield (segment << _OFFSET_BITS | start) << _LENGTH_BITS | len(line), seen
        if expected:
            self.trouble = f"records 1 to {expected} are not there any more"

    def _lines(self, segment: int, size: int) -> Iterator[tuple[int, bytes]]:
        """The whole lines of a segment, each with its offset and without its newline, the last first."""
        rest, whole = b"", False
        while size > 0:
            start = max(0, size - CHUNK)
            with suppress(OSError):
                self.read_bytes += size - start
                rest = self._archive.read(segment, start, size) + rest
            size = start
            if not whole:
                # What follows the last newline is unfinished.
                end = rest.rfind(b"\n") + 1
                rest, whole = rest[:end], end > 0
                if not whole:
                    rest = b""
                    continue
            cut = rest.find(b"\n", 0, -1) + 1 if start else 0
            if not rest or (start and not cut):
                continue
            at = start + len(rest)
            for line in reversed(rest[cut:-1].split(b"\n")):
                at -= len(line) + 1
                yield at, line
            rest = rest[:cut]


def _look(line: bytes) -> Glimpse | None:
    """What a line says, None where it is damaged."""
    if not _sound(line):
        return None
    try:
        return _glimpse(memoryview(line)[PREFIX:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _sound(line: bytes) -> bool:
    return len(line) > PREFIX and line[:9] == b"%08x " % zlib.crc32(memoryview(line)[9:])
