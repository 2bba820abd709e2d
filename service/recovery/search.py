"""The search: reading back through the logs of processes before this one for the last decisions of each session.

The logs are read from the last line on, writer by writer in the order of the lineage, as far as all of it is there.
Behind what is damaged or missing there may have been a decision of any session: of sessions that were not seen after it
the history is not known. Nor is it of those whose last decision was made under constraints that remember other things.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from service.api.idempotency import KEPT_S
from service.decision.sessions import KEPT
from service.log.ids import Place
from service.log.journal import alive, segments
from service.log.readback import Archive, Glimpse, Readback
from service.recovery.lineage import Ancestor, Lineage
from service.recovery.retained import Kin, Refs

# What it may take, because the process has to be ready again soon, whatever there is to read: so much work (s); so much
# time (s), on a machine that is busy with other things or has a slow disk; and so many bytes.
WORK_S = 1.2
READ_S = 3.0
READ_BYTES = 512 * 1024 * 1024
# A record is in its file so soon (s) after it was made.
BEHIND_S = 5.0
_WRITER = re.compile(r"[0-9a-f]{16}")
_CHECK_EVERY = 256


class KnownRequest(NamedTuple):
    """A request id with a digest of its body, where its decision stands, and how long ago (s) that was made."""

    session: str
    request_id: str
    digest: str
    ref: int
    ago: float


@dataclass(slots=True)
class Index:
    """Where the last decisions of each session stand, filled from the last record on.

    ``deeper`` are sessions of which decisions before those that were found are wanted too.
    """

    limit: int
    found: dict[str, Refs] = field(default_factory=dict)
    deeper: set[str] = field(default_factory=set)
    ended: list[str] = field(default_factory=list)
    asked: list[KnownRequest] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return len(self.found) >= self.limit and not self.deeper

    def decided(self, ref: int, seen: Glimpse) -> None:
        """Take in a decision that is gone on from."""
        session, refs = seen.session, self.found.get(seen.session)
        if refs is None:
            if len(self.found) < self.limit:
                self.found[session] = (ref,)
                if not seen.fresh:
                    self.deeper.add(session)
        elif session in self.deeper:
            self.found[session] = refs = (*refs, ref)
            if seen.fresh or len(refs) == KEPT:
                self.deeper.discard(session)

    def asked_for(self, ref: int, seen: Glimpse, ago: float) -> None:
        """Take in a request id of a decision that was made so long ago (s)."""
        options = seen.options
        if options is not None and options.request_id and options.request_digest and ago < KEPT_S:
            self.asked.append(KnownRequest(seen.session, options.request_id, options.request_digest, ref, ago))

    def block(self, session: str) -> None:
        """A decision that is not gone on from: what the session was before it does not count any more."""
        self.deeper.discard(session)
        if len(self.found) < self.limit:
            self.found.setdefault(session, ())


class Search:
    """One reading back through all logs, within bounds of time and size."""

    def __init__(
        self,
        folder: Path,
        own: Ancestor,
        archive: Archive,
        place: Callable[[str], Place | None],
        *,
        limit: int,
        clock: Callable[[], float] = time.monotonic,
        work: Callable[[], float] = time.thread_time,
    ) -> None:
        """``folder`` has a folder for each writer; ``place`` reads a decision's id; ``work`` is time (s) at work."""
        self._folder = folder
        self._place = place
        self._own = own
        self._archive = archive
        self._clock, self._work = clock, work
        self._until, self._worked = clock() + READ_S, work() + WORK_S
        self._bytes = READ_BYTES
        self._spent = False
        self.index = Index(limit)
        self.records = 0

    def through(self, lineage: Lineage, know: Callable[[Kin], None]) -> str:
        """Read the writers of a lineage; why it ended before all was read, empty where it did not."""
        try:
            return self._through(lineage, know)
        except OSError as error:
            return f"{error.filename or self._folder} cannot be read ({error.strerror})"

    def _through(self, lineage: Lineage, know: Callable[[Kin], None]) -> str:
        named = {one.writer for one in lineage.ancestors}
        others = self._others(named)
        if not named:
            return "the order of its writers is not known" if others else ""
        for writer in others:
            # Nobody knows when it decided.
            if why := self._blocked(writer):
                return f"writer {writer} has no place among the others, and {why}"
        for ancestor in lineage.ancestors:
            folder = self._folder / ancestor.writer
            if not folder.is_dir():
                return f"the log of writer {ancestor.writer} is not there any more"
            why = self._blocked(ancestor.writer) if alive(folder) else self._read(ancestor, know)
            if why:
                return f"of writer {ancestor.writer}, {why}"
            if self.index.full:
                return ""
        return ""

    def _others(self, named: set[str]) -> list[str]:
        """Writers that have left something, and that the lineage does not name."""
        if not self._folder.is_dir():
            return []
        here = [path for path in self._folder.iterdir() if _WRITER.fullmatch(path.name) and path.name not in named]
        return sorted(path.name for path in here if segments(path))

    def _read(self, ancestor: Ancestor, know: Callable[[Kin], None]) -> str:
        """Read one writer's log; why not to its beginning."""
        ahead = self._own.began.ahead_of(ancestor.began)
        fits, index, first = self._own.understands(ancestor), self.index, True
        timed, same = ancestor.guard_clock == "observed_at", self._own.baseline == ancestor.baseline
        same_schema = self._own.schema == ancestor.schema
        know(Kin(ancestor.writer, ahead or 0.0, timed, same))
        readback = Readback(self._folder / ancestor.writer, self._archive)
        for ref, seen in self._bounded(readback):
            if first:
                written = segments(readback.folder)[-1].stat().st_mtime if ahead is None else None
                if why := _untold(ancestor, seen, self._own.began.at, written):
                    return why
            first = False
            if seen.kind == "decision":
                if fits:
                    index.decided(ref, seen)
                else:
                    index.block(seen.session)
                if same_schema:
                    index.asked_for(ref, seen, max(0.0, self._own.began.at - seen.ms / 1000 - (ahead or 0.0)))
            elif seen.terminated or seen.truncated:
                index.ended.append(seen.decision_id)
            if index.full:
                return ""
        return self._why(readback) or ("its log is empty" if first else "")

    def _blocked(self, writer: str) -> str:
        """Read a log whose decisions are not gone on from; why not to its beginning.

        What has no decision that this writer made is no log of ours, and says nothing.
        """
        readback, genuine = Readback(self._folder / writer, self._archive), False
        for _, seen in self._bounded(readback):
            place = self._place(seen.id) if seen.kind == "decision" else None
            if place is not None and place.writer == writer:
                self.index.block(seen.session)
                genuine = True
        return self._why(readback) if genuine or self._spent else ""

    def _bounded(self, readback: Readback) -> Iterator[tuple[int, Glimpse]]:
        try:
            for count, found in enumerate(readback.glimpses()):
                if count % _CHECK_EVERY == 0:
                    late = self._work() > self._worked or self._clock() > self._until
                    self._spent = late or readback.read_bytes > self._bytes
                    if self._spent:
                        return
                yield found
        finally:
            self._bytes -= readback.read_bytes
            self.records += readback.records

    def _why(self, readback: Readback) -> str:
        if self._spent:
            return f"there was no time for more than {self.records} records"
        return readback.trouble


def _untold(ancestor: Ancestor, last: Glimpse, now: float, written: float | None) -> str:
    """Why a log may lack its end although nothing is damaged, ``last`` being its last record, or why nobody knows how
    long ago that was; empty where all is known.

    A process that dies loses nothing of what it answered; a machine may. ``written`` (s since 1970) is when that was by
    the machine's clock, None where the machine was not down since: then nobody needs it.
    """
    if ancestor.ended > last.seq:
        return f"records {last.seq + 1} to {ancestor.ended} are missing"
    if written is None:
        return ""
    if ancestor.durability != "disk" and not ancestor.ended:
        return "its end may be missing: the machine went down while it served"
    if last.ms / 1000 > now:
        return "it is of a time to come: the clock was set back while the machine was down"
    if written - last.ms / 1000 > BEHIND_S:
        # By the machine's clock all of it would seem longer ago than it is, and cooldowns over.
        return "its time was behind the machine's, whose clock was set while it served"
    return ""
