"""The commit: a batch is decided, journalled, remembered and answered, in this order, without a pause between.

The ids' sequence numbers are taken from the journal at the start and used by the append at the end; nothing else can
come between, because nothing here awaits. While nothing can be written, nothing is decided; or, where the configuration
says so, it is decided without exploration, answered as what is in no log, and counted.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import msgspec
import numpy as np

from guards.baselines import KEPT, Remember
from guards.errors import DeadlineExceeded, PolicyUnavailable
from guards.records import History
from service.decision.batch import Batch, Behaviour, Committed, Request
from service.decision.decide import context_of, decide, weights_of
from service.decision.durability import Retracted, SyncQueue
from service.decision.recurrent import logged_states, states_after
from service.decision.sessions import Owners, RecurrentState, Sessions, SessionState
from service.decision.unlogged import Unlogged
from service.errors import InternalFault, NotDurable
from service.log.durable import DurableJournal
from service.log.journal import Journal, JournalUnavailable
from service.log.records import UNLOGGED_FEEDBACK, Decision, Feedback, Refused, encode_record
from service.versions.breakers import Reasons
from service.versions.engine import Engine, ModelOutput, spread_of
from service.versions.lease import Lease
from service.versions.router import Assignment

__all__ = ["Committed", "Committer"]

_log = logging.getLogger(__name__)


class Committer:
    """Decides batches and makes them durable. One a process: it owns the journal."""

    def __init__(
        self,
        behaviour: Behaviour,
        journal: Journal,
        sessions: Sessions,
        lease: Lease,
        observe: Callable[[Committed], None],
        *,
        deadline_s: float = 0.0,
        unlogged: Literal["refuse", "serve"] = "refuse",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``deadline_s`` is how long a version may take at least: whoever waits less blames it for nothing.

        ``unlogged`` says whether stable goes on deciding while nothing can be written.
        """
        self.owners = Owners(journal.writer.hex())
        self._behaviour = behaviour
        self._journal = journal
        self._sessions = sessions
        self._lease = lease
        self._observe = observe
        self._deadline_s = deadline_s
        self._clock = clock
        self._failing = False
        self._sync_queue = SyncQueue(journal) if isinstance(journal, DurableJournal) else None
        self.unlogged = Unlogged(behaviour, sessions)
        self._serves_unlogged = unlogged == "serve"
        self._retracted = Retracted(sessions)

    def commit(
        self,
        requests: list[Request],
        assignment: Assignment,
        engine: Engine,
        observation: np.ndarray,
        answer: ModelOutput | PolicyUnavailable,
        infer_began: float,
    ) -> Reasons:
        """Decide requests whose answer is here, or will not come; settle them. Gives what came of the answer."""
        try:
            return self._commit(requests, assignment, engine, observation, answer, infer_began)
        except Exception:  # noqa: BLE001 - whatever it is, somebody waits for an answer
            # A fault of ours must not leave anybody waiting. What was answered before it stays answered.
            _log.exception("a batch of %d requests failed", len(requests))
            for request in requests:
                request.settle(InternalFault("the service has a fault, which is in its log"))
            return []

    def rehearse(
        self,
        requests: list[Request],
        assignment: Assignment,
        engine: Engine,
        observation: np.ndarray,
        answer: ModelOutput | PolicyUnavailable,
        infer_began: float,
    ) -> Reasons:
        """What would come of an answer; nothing of it is settled, journalled or counted.

        A step that was run is one that a memory has seen: its session goes on with it, if it has not gone on without.
        """
        began = self._clock()
        batch = self._batch(requests, assignment, engine, observation, answer, infer_began)
        for i, memory in states_after(answer, engine.digest).items() if engine.initial else ():
            state = requests[i].after
            if state is not None:
                self._sessions.learn(requests[i].session, state, memory)
        return self._reasons(requests, self._decided(batch, answer), infer_began, began)

    def _commit(
        self,
        requests: list[Request],
        assignment: Assignment,
        engine: Engine,
        observation: np.ndarray,
        answer: ModelOutput | PolicyUnavailable,
        infer_began: float,
    ) -> Reasons:
        began = self._clock()
        if self._retracted:
            requests, observation, answer = self._retracted.without(requests, observation, answer)
            if not requests:
                return []
        batch = self._batch(requests, assignment, engine, observation, answer, infer_began)
        feedback = self._feedback(requests, batch.ms)
        told = len(feedback)
        records = self._decided(batch, answer)
        decided = self._clock()
        kept = self._append(feedback, records, batch.ms)
        if kept or feedback:
            memories = states_after(answer, engine.digest) if engine.initial else {}
            self._remember(batch, requests[:kept], records[:kept], memories)
            committed = Committed(
                version=engine.label,
                records=records[:kept],
                requests=requests[:kept],
                feedback=feedback,
                observation=observation[:kept],
                infer_began=infer_began,
                infer_us=batch.infer_us,
                decide_us=round((decided - began) * 1e6),
                journal_us=round((self._clock() - decided) * 1e6),
            )
            self._queue(committed)
        if kept < len(records):
            self._answer_unlogged(batch, answer, kept, told - len(feedback))
        return self._reasons(requests, records, infer_began, began)

    def _batch(
        self,
        requests: list[Request],
        assignment: Assignment,
        engine: Engine,
        observation: np.ndarray,
        answer: ModelOutput | PolicyUnavailable,
        infer_began: float,
    ) -> Batch:
        """The requests as the next batch in the log, behind the feedback that came with them."""
        journal, began = self._journal, self._clock()
        return Batch(
            rows=requests,
            observation=observation,
            version=engine.label,
            digest=engine.digest,
            track=assignment.track,
            track_probability=assignment.probability,
            seq=journal.next_seq + sum(request.feedback is not None for request in requests),
            ms=max(journal.last_ms, int(requests[-1].at * 1000)),
            generation=self._lease.generation,
            may_explore=self._lease.holds(began),
            infer_began=infer_began,
            infer_us=round((began - infer_began) * 1e6),
            spread=spread_of(answer),
            memory=logged_states(requests, engine) if engine.initial and isinstance(answer, ModelOutput) else None,
        )

    def _decided(self, batch: Batch, answer: ModelOutput | PolicyUnavailable) -> list[Decision | Refused]:
        return decide(self._behaviour, batch, answer.head if isinstance(answer, ModelOutput) else answer)

    def _append(self, feedback: list[Feedback], records: list[Decision | Refused], ms: int) -> int:
        """Journal a batch; how many of its decisions are in the journal. Feedback that is not is taken out."""
        try:
            self._journal.append([encode_record(record) for record in (*feedback, *records)], ms)
        except JournalUnavailable as error:
            # What reached the journal was decided and is answered; the rest was not.
            kept = max(0, error.kept - len(feedback))
            if not self._failing:
                _log.error("%s", error)
            self._failing = True
            del feedback[error.kept :]
            self._sessions.end([told.decision_id for told in feedback if told.ends])
            return kept
        self._failing = False
        self._sessions.end([told.decision_id for told in feedback if told.ends])
        return len(records)

    def _answer_unlogged(self, batch: Batch, answer: ModelOutput | PolicyUnavailable, kept: int, untold: int) -> None:
        """Answer rows of a batch that are not in the journal, from ``kept`` on: that they were not decided, or by what
        is decided beside the log, without the ``untold`` feedback that came along."""
        requests = list(batch.rows[kept:])
        if not self._serves_unlogged or batch.track != "stable":
            for request in requests:
                request.settle(NotDurable("the journal cannot be written, so the decision was not made"))
            return
        part = answer.rows(list(range(kept, len(batch.rows)))) if isinstance(answer, ModelOutput) else answer
        rest = msgspec.structs.replace(batch, rows=requests, observation=batch.observation[kept:])
        records = self.unlogged.decide(rest, part, spread_of(part))
        self.unlogged.count(UNLOGGED_FEEDBACK, untold)
        us = round((self._clock() - rest.infer_began) * 1e6) - rest.infer_us
        committed = Committed(
            version=rest.version,
            records=records,
            requests=requests,
            feedback=[],
            observation=rest.observation,
            infer_began=rest.infer_began,
            infer_us=rest.infer_us,
            decide_us=us,
            journal_us=0,
        )
        self._answer(committed)

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
        first = self._journal.next_seq
        placed = [msgspec.structs.replace(told, seq=first + i, ms=ms) for i, told in enumerate(feedback)]
        self._journal.append([encode_record(told) for told in placed], ms)
        self._sessions.end([told.decision_id for told in placed if told.ends])
        if self._sync_queue is not None and not await self._sync_queue.kept():
            self._sessions.go_on([told.decision_id for told in placed if told.ends])
            raise JournalUnavailable("the journal cannot be synced, so the feedback was not taken")

    async def settled(self) -> None:
        """Wait until what was appended is as durable as promised."""
        if self._sync_queue is not None:
            await self._sync_queue.settled()

    def _feedback(self, requests: list[Request], ms: int) -> list[Feedback]:
        """The feedback that came with the requests, placed in the log before their decisions."""
        told = [request.feedback for request in requests if request.feedback is not None]
        first = self._journal.next_seq
        return [msgspec.structs.replace(one, seq=first + i, ms=ms) for i, one in enumerate(told)]

    def _remember(
        self,
        batch: Batch,
        requests: list[Request],
        records: list[Decision | Refused],
        memories: dict[int, RecurrentState],
    ) -> None:
        """Advance the sessions' histories, and the memories of those rows that have one: it is in the journal."""
        histories = advanced(self._behaviour, batch, records)
        for i, (request, record) in enumerate(zip(requests, records, strict=True)):
            if isinstance(record, Decision) and request.entry is not None:
                after = SessionState(
                    record.id, record.episode, histories[i], memories.get(i), request.timed, request.report
                )
                self._sessions.advance(request.session, request.entry, after)
                self.owners.note(record.seq, request.session)
                request.after = after

    def _queue(self, committed: Committed) -> None:
        """Answer a batch once it is as durable as it will be said to be."""
        if self._sync_queue is not None:
            self._sync_queue.add(
                partial(self._answer, committed),
                partial(self._retracted.take_back, committed.requests, committed.records, committed.feedback),
            )
        else:
            self._answer(committed)

    def _answer(self, committed: Committed) -> None:
        for request, record in zip(committed.requests, committed.records, strict=True):
            request.settle(record)
        self._observe(committed)

    def _reasons(
        self, requests: Sequence[Request], records: Sequence[Decision | Refused], infer_began: float, committed: float
    ) -> Reasons:
        """Why the policy did not decide each row, without those that were late and know no better.

        They were before it was asked, would not wait as long as it may take, or had spent half of that in the queue.
        """
        reasons = [record.reason for record in records]
        late = DeadlineExceeded.__name__
        if late not in reasons:
            return reasons
        may = self._deadline_s
        asked = [one.deadline >= infer_began and infer_began - one.arrived <= may / 2 for one in requests]
        blamed = [is_so and committed >= one.arrived + may for is_so, one in zip(asked, requests, strict=True)]
        return [reason for reason, is_so in zip(reasons, blamed, strict=True) if reason != late or is_so]


def advanced(behaviour: Behaviour, batch: Batch, records: Sequence[Decision | Refused]) -> dict[int, History]:
    """The history after each decision, by row; ``records`` are of the batch's first rows."""
    shield, histories = behaviour.shield, dict[int, History]()
    weights = weights_of(behaviour, batch, records) if shield.weighs else {}
    for i, (row, record) in enumerate(zip(batch.rows, records, strict=False)):
        if isinstance(record, Decision) and row.entry is not None:
            histories[i] = shield.advanced(row.entry.history, record.action, row.now, weights.get(i))
    if behaviour.remember is not None:
        made = {i: record for i, record in enumerate(records) if isinstance(record, Decision)}
        for i, kept in _kept(behaviour.remember, behaviour, batch, made).items():
            histories[i] = replace(histories[i], kept={**histories[i].kept, KEPT: kept})
    return histories


def _kept(
    remember: Remember, behaviour: Behaviour, batch: Batch, made: dict[int, Decision]
) -> dict[int, tuple[float, ...]]:
    """What the baseline remembers of each decision, by row, where there is something."""
    if not made:
        return {}
    there = context_of(behaviour, batch.rows, batch.observation).rows(np.array(list(made)))
    actions = np.array([record.action for record in made.values()])
    own = np.array([record.source == "baseline" for record in made.values()])
    told = zip(made, remember(there, actions, own), strict=True)
    return {i: kept for i, kept in told if kept}
