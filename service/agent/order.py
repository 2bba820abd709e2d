"""One order for the records of all writers: by time, then writer, then sequence, however they were read.

A record may take its turn when every open writer has been read up to its time; idle writers say with heartbeats that
they have come so far. A writer that has fallen silent is not waited for, nor is one by whose clock nobody can tell
whether it has come so far; but it is known which they are. All times are the records' own, or passed here: no wall
clock has a say.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from service.agent.pace import Pace, apart
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
    pace: Pace
    ended: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """What there is to know by one writer's clock.

    All writers that go by the same have been read up to ``horizon`` (time in ms, writer), but for the ``silent`` ones,
    of which this is how far (ms) they were read. It is ``time_ms`` there, or later. ``astray`` says whether an open
    writer goes by another clock, and ``unsure`` whether one may, which shows before long.
    """

    horizon: tuple[float, str]
    silent: tuple[int, ...]
    time_ms: float
    astray: bool
    unsure: bool


class Order:
    """Takes each writer's records in its own order, gives them back in one order. ``now`` is in s, monotonic."""

    def __init__(self) -> None:
        self._marks: dict[str, Mark] = {}
        self._waiting: dict[str, deque[tuple[Key, AnyRecord]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def knows(self, writer: str, read: Position, last: Position, now: float) -> None:
        """A writer is there, was read up to ``read``, and its log goes to ``last``."""
        mark = self._marks.get(writer)
        if mark is None:
            self._marks[writer] = Mark(min(read, last).ms, last.ms, now, Pace.of(last.ms, now))
        elif last.ms > mark.known:
            mark.known = last.ms
            mark.pace.came(last.ms, now)

    def feed(self, writer: str, record: AnyRecord, now: float) -> None:
        """The next record of a writer that is known."""
        mark = self._marks[writer]
        if record.ms > mark.ms:
            mark.ms, mark.moved_at = record.ms, now
        self._waiting.setdefault(writer, deque()).append(((record.ms, writer, record.seq), record))

    def ended(self, writer: str) -> None:
        """A writer is closed, and was read to its end."""
        self._marks[writer].ended = True

    def lives(self, writer: str) -> None:
        """A writer is open, also where it was closed before."""
        self._marks[writer].ended = False

    def forget(self, writer: str) -> None:
        """A writer is gone for good, and all its records had their turn."""
        self._marks.pop(writer, None)
        self._waiting.pop(writer, None)

    def view(self, writer: str, bound_ms: float, now: float) -> View:
        """How things stand by a writer's clock.

        Silent are those that are open, more than ``bound_ms`` behind the others, and not coming closer.
        """
        verdicts = {name: self.apart(writer, name, now) for name in self._marks}
        near = {name: self._marks[name] for name, verdict in verdicts.items() if not verdict}
        newest = max((mark.known for mark in near.values()), default=0)
        still = {name: mark for name, mark in near.items() if not mark.ended}
        silent = {
            name: mark.ms
            for name, mark in still.items()
            if newest - mark.ms > bound_ms and now - mark.moved_at >= PATIENCE_S
        }
        return View(
            horizon=min(
                ((mark.ms, name) for name, mark in still.items() if name not in silent), default=(float("inf"), "")
            ),
            silent=tuple(silent.values()),
            time_ms=now * 1000 + max((mark.pace.ahead_ms for mark in near.values()), default=float("inf")),
            astray=any(verdict and not self._marks[name].ended for name, verdict in verdicts.items()),
            unsure=any(verdict is None for verdict in verdicts.values()),
        )

    def apart(self, one: str, other: str, now: float) -> bool | None:
        """Whether two writers' clocks tell different times, None where that shows before long; writers of which
        nothing is known go by the same clock as all."""
        first, second = self._marks.get(one), self._marks.get(other)
        if first is None or second is None or first is second:
            return False
        slower = min(first, second, key=lambda mark: mark.pace.ahead_ms)
        return apart(first.pace, second.pace, now, open_=not slower.ended)

    def horizon(self, writer: str, bound_ms: float, now: float) -> tuple[float, str]:
        """Everything at or before this (time in ms, writer) has been read of writers that go by the same clock, but
        for those silent beyond a bound."""
        return self.view(writer, bound_ms, now).horizon

    def released(self, bound_ms: float, now: float) -> Iterator[tuple[Key, AnyRecord]]:
        """The records whose turn has come."""
        there = [writer for writer, waiting in self._waiting.items() if waiting]
        horizons = {writer: self.horizon(writer, bound_ms, now) for writer in there}
        heads = [self._waiting[writer][0][0] for writer in there]
        heads = [key for key in heads if key[:2] <= horizons[key[1]]]
        heapq.heapify(heads)
        while heads:
            writer = heapq.heappop(heads)[1]
            waiting = self._waiting[writer]
            yield waiting.popleft()
            if waiting and waiting[0][0][:2] <= horizons[writer]:
                heapq.heappush(heads, waiting[0][0])

    def read_up_to(self, writer: str) -> int:
        """The time (ms) up to which a writer's records were fed."""
        return self._marks[writer].ms

    def has_ended(self, writer: str) -> bool:
        """Whether a writer is closed and was read to its end."""
        mark = self._marks.get(writer)
        return mark is not None and mark.ended

    def __repr__(self) -> str:
        return f"<Order of {len(self._marks)} writers, {len(self)} records waiting for their turn>"
