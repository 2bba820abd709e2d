"""A writer's way from its folder to its stream in the store: where it is, and what came of its records."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from service.agent.foreign import Placing, Stranger, record_of
from service.agent.ledger import Journalled
from service.agent.stores import START, Entry, Position
from service.agent.tail import Tail, last_seq, time_of
from service.log.lines import segments


@dataclass(slots=True)
class Lane:
    """A writer's way to the store: up to where it is there, and what is being sent.

    ``ours`` is whether its folder is a writer's of this service, None while that is not known; ``failures`` counts
    mistakes in a row, after which it is left alone until ``rests_until`` (s, monotonic), and ``failing`` says of which
    one the log tells.
    """

    writer: str
    tail: Tail
    shipped: Position = START
    pending: list[Entry] = field(default_factory=list)
    aligned_at: float | None = None
    registered: bool = False
    lifeless_since: float | None = None
    closed: bool = False
    closed_size: int | None = None
    ours: bool | None = None
    judged_at: float | None = None
    heard: bool = False
    failures: int = 0
    failing: str = ""
    rests_until: float = float("-inf")

    @property
    def folder(self) -> Path:
        return self.tail.folder

    def size(self) -> int:
        """The bytes of its log."""
        total = 0
        for path in segments(self.folder):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def goes_on(self) -> bool:
        """Whether more has come of a writer that was said to have ended: it was taken for dead, or frozen, and its lock
        was not to be seen."""
        size = self.size()
        if size == self.closed_size:
            return False
        self.closed_size = size
        return self.tail.unread() > 0

    def align(self, there: Position) -> str:
        """Go where the store is; what that was, for the log."""
        if not self.heard:
            self.tail.account.store_had(there.seq)
        self.heard = True
        before, self.shipped = self.shipped, there
        if there == before:
            return ""
        self.pending = [entry for entry in self.pending if entry.seq > there.seq] if there > before else []
        if there < before:
            self.registered = self.closed = False
        if there < before or there.seq >= self.tail.next_seq:
            self.tail.seek(there.seq)
        return "rewound" if there < before else "skipped ahead"

    def misfit(self, there: Position, last: Entry | None, place: Placing, *, dead: bool) -> str:
        """Why the end of its stream is not this writer's: ``last`` is the last entry there is. Empty where it is."""
        if there in (START, self.shipped):
            return ""
        if last is not None and last.position == there:
            try:
                record_of(self.writer, last, place)
            except Stranger as error:
                return str(error)
            return ""
        # The entry is not there any more: the log may tell.
        ms = time_of(self.folder, there.seq)
        known = ms == there.ms if ms is not None else there.seq <= last_seq(self.folder) or dead
        return "" if known and there.seq > 0 else "its last id is of no record"

    def is_ours(self, entry: Entry, place: Placing) -> bool:
        """Whether an entry of its stream is a record of this writer."""
        try:
            record_of(self.writer, entry, place)
        except Stranger:
            return False
        return True

    def journalled(self) -> Journalled:
        """A writer's records: accepted = delivered + journaled + lost."""
        tail = self.tail
        journaled = len(self.pending) + tail.unread()
        lost = tail.account.lost
        accepted = max(self.shipped.seq, tail.next_seq - 1) + tail.unread() + tail.account.lost_from(tail.next_seq)
        return Journalled(
            accepted=accepted,
            delivered=accepted - journaled - sum(lost.values()),
            journaled=journaled,
            lost=lost,
            damaged_lines=tail.account.damaged,
            torn_tails=tail.account.torn,
        )
