"""One writer's log as the agent reads it: forward from anywhere, while the writer still writes."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

from service.agent.stores import Entry
from service.journal import read_segment, segments

CHUNK = 256 * 1024


class Tail:
    """A place in a writer's log; nothing of it is kept on disk, since the store says what it has.

    ``lost`` counts records by cause that are not in the log any more, ``damaged`` lines that are not records, ``torn``
    unfinished last lines (which nobody was ever promised anything about).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.next_seq = 1
        self.lost: Counter[str] = Counter()
        self.damaged = 0
        self.torn = 0
        self._segment: Path | None = None
        self._offset = 0
        # What lies before these was counted: going back to read again does not count it again.
        self._counted: Counter[str] = Counter()
        self._counted_place = ("", 0)

    def seek(self, seq: int) -> None:
        """Go on with the record after ``seq``, forward or back."""
        here = segments(self.folder)
        at = segment_of(here, seq + 1)
        if at != self._segment or seq + 1 < self.next_seq:
            self._segment, self._offset = at, 0
        if at is not None and _first(at) > seq + 1:
            self._count_gap(seq + 1, _first(at), "retention")
        self.next_seq = seq + 1

    def read(self, limit: int) -> list[Entry] | None:
        """At most ``limit`` records that follow, fewer where a chunk of the file had no more; None at the end.

        An empty list says that there is more to read, but nothing new in what was read.
        """
        # Listed before reading: whatever is not the last of these now gets no more lines, so its end is its end.
        here = segments(self.folder)
        if self._segment not in here:
            self.seek(self.next_seq - 1)
        if self._segment is None:
            return None
        data = self._chunk(self._segment)
        if not data:
            return None if self._is_last(here) else self._go_on(here)
        entries = self._take(data, limit)
        if entries is None:
            return None if self._is_last(here) else self._go_on(here)
        return entries

    def end(self) -> None:
        """No more will be written to this segment, and all its lines were read: what is left of the last is torn."""
        if self._has_rest():
            self._count_torn()

    def unread(self) -> int:
        """How many records follow, judged by the last whole line of the log."""
        return max(0, last_seq(self.folder) - self.next_seq + 1)

    def _chunk(self, segment: Path) -> bytes:
        """What follows in a segment: whole lines, unless the last is unfinished."""
        try:
            with segment.open("rb") as file:
                file.seek(self._offset)
                data = file.read(CHUNK)
                while data and b"\n" not in data and (more := file.read(CHUNK)):
                    data += more
        except FileNotFoundError:
            return b""
        return data

    def _take(self, data: bytes, limit: int) -> list[Entry] | None:
        """The new records among the whole lines of ``data``; None where there is no whole line."""
        entries: list[Entry] = []
        start = self._offset
        for line in read_segment(data):
            self._offset = start + line.end
            if line.record is None:
                self._count_damage()
            elif line.record.seq >= self.next_seq:
                self._count_gap(self.next_seq, line.record.seq, "damage")
                entries.append(Entry(line.record.ms, line.record.seq, line.text))
                self.next_seq = line.record.seq + 1
                self._counted["damage"] = max(self._counted["damage"], line.record.seq)
            if len(entries) == limit:
                break
        return entries if self._offset > start else None

    def _is_last(self, here: list[Path]) -> bool:
        return not here or here[-1] == self._segment

    def _go_on(self, here: list[Path]) -> list[Entry]:
        self.end()
        following = [path for path in here if self._segment is None or path > self._segment]
        self._segment, self._offset = following[0], 0
        return []

    def _has_rest(self) -> bool:
        return self._segment is not None and self._segment.exists() and self._segment.stat().st_size > self._offset

    def _count_gap(self, expected: int, found: int, cause: str) -> None:
        start = max(expected, self._counted[cause] + 1)
        if found > start:
            self.lost[cause] += found - start
            self._counted[cause] = found - 1

    def _count_damage(self) -> None:
        if self._is_new_place(self._offset):
            self.damaged += 1

    def _count_torn(self) -> None:
        if self._is_new_place(self._offset + 1):
            self.torn += 1

    def _is_new_place(self, offset: int) -> bool:
        place = (self._segment.name if self._segment else "", offset)
        if place <= self._counted_place:
            return False
        self._counted_place = place
        return True

    def __repr__(self) -> str:
        at = self._segment.name if self._segment else "the start"
        return f"<Tail of {self.folder.name} at {at} + {self._offset}, next {self.next_seq}>"


def segment_of(here: list[Path], seq: int) -> Path | None:
    """The segment that has a record: the last that begins at or before it, else the first there is."""
    before = [path for path in here if _first(path) <= seq]
    return before[-1] if before else next(iter(here), None)


def spent(here: list[Path], shipped: int, old: float) -> list[Path]:
    """Segments to delete: shipped whole and last written before ``old`` (s, wall clock), oldest first, never the
    newest."""
    found = []
    for path, following in pairwise(here):
        if _first(following) > shipped + 1 or path.stat().st_mtime > old:
            break
        found.append(path)
    return found


def last_seq(folder: Path) -> int:
    """The sequence number of the last whole record of a log, 0 where it has none."""
    for path in reversed(segments(folder)):
        size = path.stat().st_size
        for back in (CHUNK, size):
            with path.open("rb") as file:
                file.seek(max(0, size - back))
                found = [line.record.seq for line in read_segment(file.read()) if line.record is not None]
            if found:
                return found[-1]
    return 0


def _first(segment: Path) -> int:
    return int(segment.stem)
