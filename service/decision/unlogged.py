"""Unlogged: what stable decides while nothing can be written, where the configuration says that it serves on.

It is decided without exploration, answered with ``durability: "none"`` and an id that is not of the log, and counted.
Once something can be written again the log is told how much there was.
"""

from collections import Counter
from dataclasses import replace

import msgspec

from guards.records import History
from service.decision.batch import Batch, Behaviour
from service.decision.decide import decide
from service.decision.sessions import Sessions, SessionState
from service.log.journal import Journal, JournalUnavailable
from service.log.records import UNLOGGED, UNLOGGED_FEEDBACK, Decision, Loss, encode_record


class Unlogged:
    """What a process decided, and was told, that is in no log."""

    def __init__(self, behaviour: Behaviour, sessions: Sessions) -> None:
        self.counts: Counter[str] = Counter()
        # What of it the log has still to be told.
        self._untold: Counter[str] = Counter()
        self._behaviour = replace(behaviour, durability="none")
        self._sessions = sessions
        self._places = 0

    def decide(self, batch: Batch) -> None:
        """Decide a batch beside the log.

        What a session's history is after that nobody can work out from the log: it is not known, nor is its memory.
        """
        batch.seq, batch.may_explore, batch.memory, batch.unlogged = self._places + 1, False, None, True
        self._places += len(batch.requests)
        decide(self._behaviour, batch)
        batch.records = [
            msgspec.structs.replace(one, propensity_ok=False, why_not_ok=UNLOGGED) if isinstance(one, Decision) else one
            for one in batch.records
        ]
        for row, record in zip(batch.requests, batch.records, strict=True):
            if isinstance(record, Decision) and row.entry is not None:
                self.count(UNLOGGED)
                after = SessionState(
                    record.id, record.episode, History(known=False, since=row.now), None, row.timed, row.report
                )
                self._sessions.advance(row.session, row.entry, after)

    def count(self, what: str, count: int = 1) -> None:
        """Count decisions or feedback that are in no log."""
        if count:
            self.counts[what] += count
            self._untold[what] += count

    def is_told(self) -> bool:
        """Whether the log knows of all of it."""
        return not self._untold

    def tell(self, journal: Journal, ms: int) -> Counter[str]:
        """Tell the log; what it was told. Raises JournalUnavailable."""
        told, self._untold = self._untold, Counter()
        causes = sorted(told)
        losses = [
            Loss(seq=journal.next_seq + i, ms=ms, count=told[cause], cause=cause) for i, cause in enumerate(causes)
        ]
        try:
            journal.append([encode_record(loss) for loss in losses], ms)
        except JournalUnavailable as error:
            self.take_back(Counter({loss.cause: loss.count for loss in losses[error.kept :]}))
            raise
        return told

    def take_back(self, told: Counter[str]) -> None:
        """The log was not told after all."""
        self._untold += told

    def __repr__(self) -> str:
        return f"<Unlogged {self.counts[UNLOGGED]} decisions, {self.counts[UNLOGGED_FEEDBACK]} items of feedback>"
