"""The commit: a batch is decided, journalled, remembered and answered, in this order, without a pause between.

The ids' sequence numbers are taken from the journal at the start and used by the append at the end; nothing else can
come between, because nothing here awaits. While nothing can be written, nothing is decided; or, where the configuration
says so, it is decided without exploration, answered as what is in no log, and counted.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import msgspec

from guards.baselines import KEPT
from guards.errors import DeadlineExceeded
from guards.records import History, Row
from service.decision.batch import Batch, Behaviour
from service.decision.decide import decide
from service.decision.durability import Retracted, SyncQueue
from service.decision.fallback_probe import FallbackProbe
from service.decision.recurrent import logged_states, states_after
from service.decision.sessions import Owners, Sessions, SessionState
from service.decision.unlogged import Unlogged
from service.errors import InternalFault, NotDurable
from service.log.durable import DurableJournal
from service.log.journal import Journal, JournalUnavailable
from service.log.records import UNLOGGED_FEEDBACK, Decision, Feedback, encode_record
from service.versions.breakers import Reasons
from service.versions.engine import ModelOutput, spread_of
from service.versions.lease import Lease

_log = logging.getLogger(__name__)


class Committer:
    """Decides batches and makes them durable. One a process: it owns the journal."""

    def __init__(
        self,
        behaviour: Behaviour,
        journal: Journal,
        sessions: Sessions,
        lease: Lease,
        observe: Callable[[Batch, float], None],
        *,
        probe: FallbackProbe | None = None,
        deadline_s: float = 0.0,
        unlogged: Literal["refuse", "serve"] = "refuse",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``observe`` and ``probe`` are told of what was answered, and when (s, monotonic); ``deadline_s`` is how long
        a version may take at least: whoever waits less blames it for nothing; ``unlogged`` says whether stable goes on
        deciding while nothing can be written."""
        self.owners = Owners(journal.writer.hex())
        self._behaviour = behaviour
        self._journal = journal
        self._sessions = sessions
        self._lease = lease
        self._observe = observe
        self._probe = probe
        self._deadline_s = deadline_s
        self._clock = clock
        self._failing = False
        self._sync_queue = SyncQueue(journal) if isinstance(journal, DurableJournal) else None
        self.unlogged = Unlogged(behaviour, sessions)
        self._serves_unlogged = unlogged == "serve"
        self._retracted = Retracted(sessions)

    def commit(self, batch: Batch) -> Reasons:
        """Decide requests whose output is here, or will not come; settle them. Gives what came of the output."""
        try:
            return self._commit(self._retracted.without(batch) if self._retracted.known else batch)
        except Exception:  # noqa: BLE001 - whatever it is, somebody waits for an answer
            # A fault of ours must not leave anybody waiting. What was answered before it stays answered.
            _log.exception("a batch of %d requests failed", len(batch.requests))
            for request in batch.requests:
                request.settle(InternalFault("the service has a fault, which is in its log"))
            return []

    def rehearse(self, batch: Batch) -> Reasons:
        """What would come of an output; nothing of it is settled, journalled or counted.

        A step that was run is one that a memory has seen: its session goes on with it, if it has not gone on without.
        """
        began = self._clock()
        self._place(batch, began)
        for i, memory in states_after(batch.output, batch.engine.digest).items():
            state = batch.requests[i].after
            if state is not None:
                self._sessions.learn(batch.requests[i].session, state, memory)
        decide(self._behaviour, batch)
        return self._reasons(batch, began)

    def _commit(self, batch: Batch) -> Reasons:
        if not batch.requests:
            return []
        began = self._clock()
        self._place(batch, began)
        told = len(batch.feedback)
        decide(self._behaviour, batch)
        decided = self._clock()
        batch.decide_us = round((decided - began) * 1e6)
        kept = self._append(batch)
        made = batch if kept == len(batch.requests) else batch.part(range(kept))
        if kept or made.feedback:
            self._remember(made)
            made.journal_us = round((self._clock() - decided) * 1e6)
            if self._sync_queue is None:
                self._answer(made)
            else:
                self._sync_queue.add(partial(self._answer, made), partial(self._retracted.take_back, made))
        if made is not batch:
            self._answer_unlogged(batch.part(range(kept, len(batch.requests))), told - len(made.feedback))
        return self._reasons(batch, began)

    def _place(self, batch: Batch, began: float) -> None:
        """Make it the next batch in the log, behind the feedback that came with it."""
        journal, requests, output = self._journal, batch.requests, batch.output
        told = [one.feedback for one in requests if one.feedback is not None]
        batch.seq, batch.ms = journal.next_seq + len(told), max(journal.last_ms, int(requests[-1].at * 1000))
        batch.feedback = self._placed(told, batch.ms) if told else []
        batch.generation = self._lease.generation
        batch.may_explore = began < self._lease.until
        batch.infer_us = round((began - batch.began) * 1e6)
        batch.spread = spread_of(output) if isinstance(output, ModelOutput) and output.spread is not None else None
        batch.memory = logged_states(batch) if batch.engine.initial else None

    def _append(self, batch: Batch) -> int:
        """Journal a batch; how many of its decisions are in the journal. Feedback that is not is taken out."""
        feedback, records = batch.feedback, batch.records
        try:
            self._journal.append([encode_record(record) for record in (*feedback, *records)], batch.ms)
        except JournalUnavailable as error:
            # What reached the journal was decided and is answered; the rest was not.
            kept = max(0, error.kept - len(feedback))
            if not self._failing:
                _log.error("%s", error)
            self._failing = True
            del feedback[error.kept :]
        else:
            self._failing, kept = False, len(records)
        if feedback:
            self._sessions.end([told.decision_id for told in feedback if told.ends])
        return kept

    def _answer_unlogged(self, batch: Batch, untold: int) -> None:
        """Answer rows that are not in the journal: that they were not decided, or by what is decided beside the log,
        without the ``untold`` feedback that came along."""
        if not self._serves_unlogged or batch.assignment.track != "stable":
            for request in batch.requests:
                request.settle(NotDurable("the journal cannot be written, so the decision was not made"))
            return
        self.unlogged.decide(batch)
        self.unlogged.count(UNLOGGED_FEEDBACK, untold)
        batch.feedback, batch.journal_us = [], 0
        batch.decide_us = round((self._clock() - batch.began) * 1e6) - batch.infer_us
        self._answer(batch)

    def tell(self, at: float) -> None:
        """Tell the log how much was decided while nothing could be written; raises JournalUnavailable."""
        told = self.unlogged.tell(self._journal, max(self._journal.last_ms, int(at * 1000)))
        if self._sync_queue is not None:
            self._sync_queue.add(lambda: None, partial(self.unlogged.take_back, told))

    def harden(self) -> None:
        """Have what was appended synced, where that is promised."""
        if self._sync_queue is not None:
            self._sync_queue.harden()

    async def note(self, feedback: Sequence[Feedback], at: float) -> None:
        """Journal feedback that came alone, as durably as decisions; raises JournalUnavailable."""
        if not feedback:
            return
        ms = max(self._journal.last_ms, int(at * 1000))
        placed = self._placed(feedback, ms)
        self._journal.append([encode_record(told) for told in placed], ms)
        self._sessions.end([told.decision_id for told in placed if told.ends])
        if self._sync_queue is not None and not await self._sync_queue.kept():
            self._sessions.go_on([told.decision_id for told in placed if told.ends])
            raise JournalUnavailable("the journal cannot be synced, so the feedback was not taken")

    async def settled(self) -> None:
        """Wait until what was appended is as durable as promised."""
        if self._sync_queue is not None:
            await self._sync_queue.settled()

    def _placed(self, feedback: Sequence[Feedback], ms: int) -> list[Feedback]:
        """Feedback with its place, which is the next in the log."""
        first = self._journal.next_seq
        return [msgspec.structs.replace(one, seq=first + i, ms=ms) for i, one in enumerate(feedback)]

    def _remember(self, batch: Batch) -> None:
        """Advance the sessions' histories, and the memories of those rows that have one: it is in the journal."""
        memories = states_after(batch.output, batch.engine.digest) if batch.engine.initial else {}
        for i, (request, record) in enumerate(zip(batch.requests, batch.records, strict=True)):
            if isinstance(record, Decision) and request.entry is not None:
                history = advanced(self._behaviour, batch, i)
                after = SessionState(record.id, record.episode, history, memories.get(i), request.timed, request.report)
                self._sessions.advance(request.session, request.entry, after)
                self.owners.note(record.seq, request.session)
                request.after = after

    def _answer(self, batch: Batch) -> None:
        for request, record in zip(batch.requests, batch.records, strict=True):
            answer = request.answer
            if not answer.done():
                answer.set_result(record)
        now = self._clock()
        self._observe(batch, now)
        if self._probe is not None:
            self._probe.committed(batch, now)

    def _reasons(self, batch: Batch, committed: float) -> Reasons:
        """Why the policy did not decide each row, without those that were late and know no better.

        They were before it was asked, would not wait as long as it may take, or had spent half of that in the queue.
        """
        reasons = [record.reason for record in batch.records]
        late = DeadlineExceeded.__name__
        if late not in reasons:
            return reasons
        may, began = self._deadline_s, batch.began
        asked = [one.deadline >= began and began - one.arrived <= may / 2 for one in batch.requests]
        blamed = [is_so and committed >= one.arrived + may for is_so, one in zip(asked, batch.requests, strict=True)]
        return [reason for reason, is_so in zip(reasons, blamed, strict=True) if reason != late or is_so]


def advanced(behaviour: Behaviour, batch: Batch, i: int) -> History:
    """The history after the decision of a row."""
    row, record = batch.rows[i], batch.records[i]
    assert isinstance(record, Decision)  # noqa: S101 - nothing else has one
    return continued(behaviour, row, record)


def continued(behaviour: Behaviour, row: Row, record: Decision) -> History:
    """The history after a decision, made of what the guards saw of it."""
    shield, action = behaviour.shield, record.action
    history = shield.advanced(row.history, action, row.now, shield.weights(row, action) if shield.weighs else None)
    kept = None if behaviour.remember is None else behaviour.remember(row, action, record.source == "baseline")
    return msgspec.structs.replace(history, kept={**history.kept, KEPT: kept}) if kept else history
