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
from service.log.records import AnyRecord, Writer

# A writer that lags behind may be one whose records are being read right now: silence takes this long to be believed.
PATIENCE_S = 5.0
INFINITY = float("inf")

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
        # How clocks stand to each other, where writers say so: which belong together, and by how much (ms) each is
        # ahead of one that they have in common.
        self._clocks: dict[str, tuple[str, int]] = {}

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
        elif last.ms < mark.known:
            # It ended with what was not the writer's, or the store has lost some: that said nothing of its clock.
            mark.known = max(mark.ms, last.ms)
            mark.pace = Pace.of(mark.known, now)

    def introduce(self, record: Writer) -> None:
        """What a writer's first record says of the clocks of those before it."""
        told = record.ahead_ms
        known = next((other for other in told if other in self._clocks), None)
        group, own = (record.writer, 0) if known is None else self._clocks[known]
        own += 0 if known is None else told[known]
        for other, ahead in told.items():
            self._clocks.setdefault(other, (group, own - ahead))
        if told:
            self._clocks[record.writer] = group, own

    def ahead(self, one: str, other: str) -> int | None:
        """By how much (ms) one writer's clock is ahead of another's; None where neither says so."""
        here, there = self._clocks.get(one), self._clocks.get(other)
        if here is None or there is None or here[0] != there[0]:
            return 0 if one == other else None
        return here[1] - there[1]

    def feed(self, writer: str, record: AnyRecord, now: float) -> None:
        """The next record of a writer that is known."""
        if isinstance(record, Writer):
            self.introduce(record)
        mark = self._marks[writer]
        if record.ms > mark.ms:
            mark.ms, mark.moved_at = record.ms, now
        self._waiting.setdefault(writer, deque()).append(((record.ms, writer, record.seq), record))

    def ended(self, writer: str, *, has: bool = True) -> None:
        """Whether a writer is closed, and was read to its end: one that was closed by mistake goes on."""
        self._marks[writer].ended = has

    def forget(self, writer: str) -> None:
        """A writer is gone for good, and all its records had their turn."""
        self._marks.pop(writer, None)
        self._waiting.pop(writer, None)
        self._clocks.pop(writer, None)

    def view(self, writer: str, bound_ms: float, now: float) -> View:
        """How things stand by a writer's clock.

        Silent are those that are open, more than ``bound_ms`` behind the others, and not coming closer.
        """
        verdicts = {name: self.apart(writer, name, now) for name in self._marks}
        # Each with by how much its clock is ahead.
        near = {name: (self._marks[name], self.ahead(name, writer) or 0) for name in verdicts if not verdicts[name]}
        newest = max((mark.known - ahead for mark, ahead in near.values()), default=0)
        still = {name: (mark, mark.ms - ahead) for name, (mark, ahead) in near.items() if not mark.ended}
        silent = {
            name: ms
            for name, (mark, ms) in still.items()
            if newest - ms > bound_ms and now - mark.moved_at >= PATIENCE_S
        }
        paces = [mark.pace.ahead_ms - ahead for mark, ahead in near.values()]
        return View(
            horizon=min(((ms, name) for name, (_, ms) in still.items() if name not in silent), default=(INFINITY, "")),
            silent=tuple(silent.values()),
            time_ms=now * 1000 + max(paces, default=INFINITY),
            astray=any(verdict and not self._marks[name].ended for name, verdict in verdicts.items()),
            unsure=any(verdict is None for verdict in verdicts.values()),
        )

    def apart(self, one: str, other: str, now: float) -> bool | None:
        """Whether two writers' clocks tell different times, and nobody knows by how much; None where that shows before
        long. Writers of which nothing is known go by the same clock as all."""
        if self.ahead(one, other) is not None:
            return False
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
        heads = [self._by_one_clock(key) for key in heads if key[:2] <= horizons[key[1]]]
        heapq.heapify(heads)
        while heads:
            writer = heapq.heappop(heads)[1]
            waiting = self._waiting[writer]
            yield waiting.popleft()
            if waiting and waiting[0][0][:2] <= horizons[writer]:
                heapq.heappush(heads, self._by_one_clock(waiting[0][0]))

    def _by_one_clock(self, key: Key) -> Key:
        """A record's place in the one order, by the clock that its writer's is known to differ from."""
        _, ahead = self._clocks.get(key[1], ("", 0))
        return key[0] - ahead, key[1], key[2]

    def read_up_to(self, writer: str) -> int:
        """The time (ms) up to which a writer's records were fed."""
        return self._marks[writer].ms

    def has_ended(self, writer: str) -> bool:
        """Whether a writer is closed and was read to its end."""
        mark = self._marks.get(writer)
        return mark is not None and mark.ended

    def __repr__(self) -> str:
        return f"<Order of {len(self._marks)} writers, {len(self)} records waiting for their turn>"
