"""One writer's log as the agent reads it: forward from anywhere, while the writer still writes."""

import os
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path

from service.agent.counting import Account
from service.agent.foreign import Placing, Stranger, check_place
from service.agent.stores import Entry
from service.log.lines import Line, chain_of, first_of, read_segment, readable, segments
from service.log.records import Loss

CHUNK = 256 * 1024


class Tail:
    """A place in a writer's log; nothing of it is kept on disk, since the store says what it has.

    Its account counts records that are not in the log any more, lines that are not records, and unfinished last lines
    (which nobody was ever promised anything about).
    """

    def __init__(self, folder: Path, place: Placing | None = None) -> None:
        """With ``place``, which reads a decision id, decisions that the writer did not make are as good as damaged."""
        self.folder = folder
        self._place = place
        self.next_seq = 1
        self.account = Account(folder)
        self._segment: Path | None = None
        self._offset = 0
        # Whole lines since the last record that are none.
        self._bad = 0
        # What the next line says of the one before, where that is known; and where it did not, before.
        self._chain = b""
        self._again: tuple[Path | None, int] = (None, 0)

    def seek(self, seq: int) -> None:
        """Go on with the record after ``seq``, forward or back."""
        here = segments(self.folder)
        at = segment_of(here, seq + 1)
        if at != self._segment or seq + 1 < self.next_seq:
            self._segment, self._offset, self._chain, self._bad = at, 0, b"", 0
        self.next_seq = seq + 1
        if at is not None and first_of(at) > seq + 1:
            self._count_missing(seq + 1, first_of(at), "retention")
            self.next_seq = first_of(at)

    def read(self, limit: int) -> list[Entry] | None:
        """At most ``limit`` records that follow, fewer where a chunk of the file had no more; None at the end.

        An empty list says that there is more to read, but nothing new in what was read.
        """
        # Listed before reading: whatever is not the last of these now gets no more lines, so its end is its end.
        below = dict(readable(self.folder))
        here = list(below)
        if self._segment not in here:
            self.seek(self.next_seq - 1)
        if self._segment is None:
            return None
        if self._segment not in below:
            # It has come since.
            return []
        data = self._chunk(self._segment)
        entries = self._take(data, limit, below[self._segment]) if data else None
        if entries is None:
            return None if self._is_last(here) or self._has_more_to_come(below) else self._go_on(here)
        return entries

    def end(self) -> None:
        """No more will be written to this segment, and all its lines were read: what is left of the last is torn.

        Whole lines at its end that are no records were some, once.
        """
        if self._has_rest() and self._segment is not None:
            self.account.tear(self._segment.name, self._offset)
        if self._bad:
            self.account.gap(self.next_seq, self.next_seq + self._bad, "damage")
            self.next_seq += self._bad
            self._bad = 0

    def give_up(self, segment: Path, *, sure: bool) -> int:
        """Delete a segment, the oldest, though the store may not have it; how many records were lost with it.

        ``sure`` says whether the store was heard of up to where it is.
        """
        following = [first_of(path) for path in segments(self.folder) if path > segment]
        stop = following[0] if following else last_seq(self.folder) + 1
        segment.unlink()
        lost = self.account.gap(self.next_seq, stop, "retention", sure=sure)
        if stop > self.next_seq:
            self.seek(stop - 1)
        return lost

    def unread(self) -> int:
        """How many records follow, judged by the last whole line of the log."""
        return max(0, last_seq(self.folder) - self.next_seq + 1 - self.account.lost_from(self.next_seq))

    def _chunk(self, segment: Path) -> bytes:
        """What follows in a segment: whole lines, unless the last is unfinished."""
        try:
            with segment.open("rb") as file:
                if self._offset > os.fstat(file.fileno()).st_size:
                    # Somebody has cut it: what is written to it now is written where we have been.
                    self._offset, self._chain, self._bad = 0, b"", 0
                file.seek(self._offset)
                data = file.read(CHUNK)
                while data and b"\n" not in data and (more := file.read(CHUNK)):
                    data += more
        except FileNotFoundError:
            return b""
        return data

    def _take(self, data: bytes, limit: int, below: int) -> list[Entry] | None:
        """The new records among the whole lines of ``data``, up to one that is not to be read (yet); None where there
        is no whole line."""
        entries: list[Entry] = []
        start, before = self._offset, 0
        for line in read_segment(data):
            if line.record is not None and line.record.seq >= below:
                break
            if not before and self._is_elsewhere(line):
                return []
            self._offset = start + line.end
            # Where a damaged newline joined two lines, the second has the end of both.
            whole = line.record is not None and line.end > before
            self._chain, before = chain_of(data[before : line.end]) if whole else b"", line.end
            if line.record is None:
                self.account.damage(self._name(), self._offset)
                self._bad += 1
                continue
            self._bad = 0
            if line.record.seq >= self.next_seq:
                self._count_missing(self.next_seq, line.record.seq, "damage")
                if self._fits(line):
                    entries.append(Entry(line.record.ms, line.record.seq, line.text))
                else:
                    self.account.disown(line.record.seq)
                self.next_seq = line.record.seq + 1
            if len(entries) == limit:
                break
        return entries if self._offset > start else None

    def _fits(self, line: Line) -> bool:
        if self._place is None or line.record is None:
            return True
        try:
            check_place(self.folder.name, Entry(line.record.ms, line.record.seq, b""), line.record, self._place)
        except Stranger:
            return False
        return True

    def _is_elsewhere(self, line: Line) -> bool:
        """Whether a line does not follow what was read before: then somebody has cut the file, and it has grown since.

        It is read again from its beginning, once for each place: a line may also be damaged.
        """
        place = (self._segment, self._offset)
        if self._chain in (b"", line.chain) or self._again == place:
            return False
        self._again, self._offset, self._chain, self._bad = place, 0, b"", 0
        return True

    def _has_more_to_come(self, below: dict[Path, int]) -> bool:
        """Whether the segment has records that are not synced yet."""
        following = min((path for path in below if self._segment is None or path > self._segment), default=None)
        return following is not None and self._segment is not None and below[self._segment] < first_of(following)

    def _is_last(self, here: list[Path]) -> bool:
        """Whether no segment follows that has anything: one that is empty may be nobody's, while this one goes on."""
        return not any(path > self._segment and _begun(path) for path in here if self._segment is not None)

    def _go_on(self, here: list[Path]) -> list[Entry]:
        following = [path for path in here if self._segment is None or (path > self._segment and _begun(path))]
        # A segment is named by its first record: what is missing before it was at the end of this one.
        self._bad = min(self._bad, max(0, first_of(following[0]) - self.next_seq))
        self.end()
        self._segment, self._offset, self._chain = following[0], 0, b""
        return []

    def _has_rest(self) -> bool:
        return self._segment is not None and self._segment.exists() and self._segment.stat().st_size > self._offset

    def _name(self) -> str:
        return self._segment.name if self._segment else ""

    def _count_missing(self, start: int, stop: int, cause: str) -> None:
        """Records from ``start`` to before ``stop`` are not there, for the reason that the segment after them tells, or
        else for ``cause``."""
        if stop <= start or self._segment is None:
            return
        for first, behind, told in told_lost(self._segment):
            if start < behind and first < stop:
                self.account.gap(start, max(start, first), cause)
                self.account.gap(max(start, first), min(behind, stop), told)
                start = min(behind, stop)
        self.account.gap(start, stop, cause)

    def __repr__(self) -> str:
        at = self._segment.name if self._segment else "the start"
        return f"<Tail of {self.folder.name} at {at} + {self._offset}, next {self.next_seq}>"


def _begun(segment: Path) -> bool:
    """Whether a segment has a whole line."""
    try:
        with segment.open("rb") as file:
            while data := file.read(CHUNK):
                if b"\n" in data:
                    return True
    except FileNotFoundError:
        return False
    return False


def segment_of(here: list[Path], seq: int) -> Path | None:
    """The segment that has a record: the last that begins at or before it, else the first there is."""
    before = [path for path in here if first_of(path) <= seq]
    return before[-1] if before else next(iter(here), None)


def spent(here: list[Path], shipped: int, old: Collection[Path]) -> list[Path]:
    """Segments to delete: shipped whole, and ``old``, oldest first, never the newest."""
    found = []
    for path, following in pairwise(here):
        if first_of(following) > shipped + 1 or path not in old:
            break
        found.append(path)
    return found


def time_of(folder: Path, seq: int) -> int | None:
    """The time (ms) of a record of a log, None where the log does not have it (any more)."""
    path = segment_of(segments(folder), seq)
    if path is None:
        return None
    with path.open("rb") as file:
        rest = b""
        while data := file.read(CHUNK):
            whole, newline, rest = (rest + data).rpartition(b"\n")
            for line in read_segment(whole + newline):
                if line.record is not None and line.record.seq == seq:
                    return line.record.ms
    return None


def last_seq(folder: Path) -> int:
    """The sequence number of the last whole record of a log that may be read, 0 where it has none."""
    for path, below in reversed(readable(folder)):
        size = path.stat().st_size
        for back in (CHUNK, size):
            with path.open("rb") as file:
                file.seek(max(0, size - back))
                records = [line.record for line in read_segment(file.read()) if line.record is not None]
            found = [record.seq for record in records if record.seq < below]
            if found:
                return found[-1]
    return 0


def told_lost(segment: Path) -> list[tuple[int, int, str]]:
    """Ranges of records that were lost as a segment tells where it begins: first, behind the last, and why."""
    try:
        with segment.open("rb") as file:
            records = [line.record for line in read_segment(file.read(CHUNK))]
    except FileNotFoundError:
        return []
    return sorted((one.first, one.last + 1, one.cause) for one in records if isinstance(one, Loss) and one.first)
