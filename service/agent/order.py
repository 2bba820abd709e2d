"""One order for the records of all writers: by time, then writer, then sequence, however they were read.

A record may take its turn when every open writer has been read up to its time; idle writers say with heartbeats that
they have come so far. A writer that has fallen silent is not waited for, but it is known which they are.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from service.agent.stores import Position
from service.records import AnyRecord

# A writer that lags behind may be one whose records are being read right now: silence takes this long to be believed.
PATIENCE_S = 5.0

Key = tuple[int, str, int]


@dataclass(slots=True)
class Mark:
    """How far a writer has been read (``ms``) and is known to go (``known``), and when (s) it last came further."""

    ms: int
    known: int
    moved_at: float
    ended: bool = False


class Order:
    """Takes each writer's records in its own order, gives them back in one order."""

    def __init__(self) -> None:
        self._marks: dict[str, Mark] = {}
        self._heap: list[tuple[Key, AnyRecord]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def knows(self, writer: str, read: Position, last: Position, now: float) -> None:
        """A writer is there, was read up to ``read``, and its log goes to ``last``."""
        mark = self._marks.setdefault(writer, Mark(min(read, last).ms, last.ms, now))
        mark.known = max(mark.known, last.ms)

    def feed(self, writer: str, record: AnyRecord, now: float) -> None:
        """The next record of a writer that is known."""
        mark = self._marks[writer]
        if record.ms > mark.ms:
            mark.ms, mark.moved_at = record.ms, now
        heapq.heappush(self._heap, ((record.ms, writer, record.seq), record))

    def ended(self, writer: str) -> None:
        """A writer is closed, and was read to its end."""
        self._marks[writer].ended = True

    def forget(self, writer: str) -> None:
        """A writer is gone for good, and all its records had their turn."""
        self._marks.pop(writer, None)

    def silent(self, bound_ms: float, now: float) -> dict[str, int]:
        """Writers that are open, more than ``bound_ms`` behind the others, and not coming closer: their last ms."""
        newest = max((mark.known for mark in self._marks.values()), default=0)
        return {
            writer: mark.ms
            for writer, mark in self._marks.items()
            if not mark.ended and newest - mark.ms > bound_ms and now - mark.moved_at >= PATIENCE_S
        }

    def horizon(self, bound_ms: float, now: float) -> tuple[float, str]:
        """Everything at or before this (time in ms, writer) has been read, but for writers silent beyond a bound."""
        silent = self.silent(bound_ms, now)
        return min(
            ((mark.ms, writer) for writer, mark in self._marks.items() if not mark.ended and writer not in silent),
            default=(float("inf"), ""),
        )

    def released(self, bound_ms: float, now: float) -> Iterator[tuple[Key, AnyRecord]]:
        """The records whose turn has come."""
        horizon = self.horizon(bound_ms, now)
        while self._heap and self._heap[0][0][:2] <= horizon:
            yield heapq.heappop(self._heap)

    def read_up_to(self, writer: str) -> int:
        """The time (ms) up to which a writer's records were fed."""
        return self._marks[writer].ms

    def has_ended(self, writer: str) -> bool:
        """Whether a writer is closed and was read to its end."""
        mark = self._marks.get(writer)
        return mark is not None and mark.ended

    def __repr__(self) -> str:
        return f"<Order of {len(self._marks)} writers, {len(self._heap)} records waiting for their turn>"
