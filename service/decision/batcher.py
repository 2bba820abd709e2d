"""The batcher: requests that arrive in the same turn of the event loop are decided as one batch.

A batch has at most one row a session, so that the second row of a session sees the first in its history, and is of one
version. A fast version's batch is inferred and committed at once; a slow one's
goes to the pool, and its sessions' next rows wait for it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from guards.errors import BreakerOpen, DeadlineExceeded, HistoryUnknown, PolicyUnavailable
from guards.records import Booleans
from service.decision.batch import Batch, Request
from service.decision.commit import Committer
from service.decision.recurrent import lost_rows, stacked_states
from service.decision.runs import Runs
from service.decision.sessions import Report, Sessions, SessionState
from service.errors import DoesNotFit, InternalFault
from service.log.ids import is_unlogged
from service.log.records import UNLOGGED_FEEDBACK, Feedback
from service.versions.breakers import Breakers, Reasons
from service.versions.engine import Engine, Inputs
from service.versions.observations import Layout
from service.versions.router import Assignment, Router

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Batcher:
    """Collects the requests of a turn and sends them on their way."""

    _router: Router
    _engines: Mapping[str, Engine]
    _sessions: Sessions
    _committer: Committer
    _layout: Layout
    _breakers: Breakers
    clock: Callable[[], float] = time.monotonic
    _runs: Runs = field(init=False)
    _pending: list[Request] = field(default_factory=list)
    _behind: dict[str, list[Request]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._runs = Runs(self._take, self._over, self.clock)

    def submit(self, request: Request) -> None:
        """Take a request; it is decided at the end of this turn of the loop."""
        if not self._pending:
            asyncio.get_running_loop().call_soon(self.flush)
        self._pending.append(request)

    def flush(self) -> None:
        """Decide what is pending, at most one row a session at a time."""
        rows, self._pending = self._pending, []
        while rows:
            batch: dict[str, Request] = {}
            later: list[Request] = []
            for request in rows:
                session = request.session
                if session in self._behind:
                    self._behind[session].append(request)
                elif session in batch:
                    later.append(request)
                else:
                    batch[session] = request
            self._route(list(batch.values()))
            rows = later

    def _route(self, requests: list[Request]) -> None:
        """Make one batch per version."""
        batches: dict[str, tuple[Assignment, list[Request]]] = {}
        for request in requests:
            if self._enter(request):
                assignment = self._router.route(request.session)
                batches.setdefault(assignment.version, (assignment, []))[1].append(request)
        for assignment, rows in batches.values():
            try:
                observation = np.array([request.observation for request in rows], dtype=self._layout.dtype)
                engine = self._engines[assignment.version]
                self._run(Batch(requests=rows, assignment=assignment, engine=engine, observation=observation))
            except Exception:  # noqa: BLE001 - whatever it is, somebody waits for an answer
                _log.exception("a batch of %d requests could not be run", len(rows))
                for request in rows:
                    request.settle(InternalFault("the service has a fault, which is in its log"))
                self._free(rows)

    def _run(self, batch: Batch) -> None:
        """Ask the version, or have the baseline answer while its breaker is open, and probe it where that is due."""
        version = batch.assignment.version
        if self._breakers.closed(version):
            self._ask(batch)
            return
        now = self.clock()
        self._committer.commit(batch.answered(BreakerOpen(), now))
        due = self._breakers.waited(version, now)
        if due or (batch.engine.initial and self._breakers.probing(version)):
            self._probe(batch, due=due)

    def _ask(self, batch: Batch) -> None:
        """Infer here, or on the pool with the sessions busy until it is committed."""
        now, engine = self.clock(), batch.engine
        late = [i for i, request in enumerate(batch.requests) if request.deadline < now]
        # Those whose deadline is over need no model, and those whose memory is not here must not have one.
        lost = lost_rows(batch) if engine.initial else ()
        for rows, why in ((late, DeadlineExceeded()), ([i for i in lost if i not in late], HistoryUnknown())):
            if rows:
                self._committer.commit(batch.part(rows).answered(why, now))
        if late or lost:
            batch = batch.part([i for i in range(len(batch.requests)) if i not in late and i not in lost])
        if not batch.requests:
            return
        inputs = self._inputs(batch)
        if engine.inline:
            self._over(batch, self._infer(batch, inputs))
        else:
            batch.began = self.clock()
            self._behind.update((request.session, []) for request in batch.requests)
            self._runs.start(batch, inputs)

    def _probe(self, batch: Batch, *, due: bool) -> None:
        """Ask the version what was answered already, to see whether it can be trusted again.

        Where no probe is due it is asked for the memories alone, which have to see every step.
        """
        lost = lost_rows(batch) if batch.engine.initial else ()
        batch = batch.part([i for i in range(len(batch.requests)) if i not in lost])
        if not batch.requests:
            return
        batch.purpose = "probe" if due else "shadow"
        inputs, batch.began = self._inputs(batch), self.clock()
        if due:
            self._breakers.sent(batch.assignment.version, batch.began)
        if due and batch.engine.inline:
            self._over(batch, self._infer(batch, inputs))
        else:
            self._runs.start(batch, inputs)

    def _inputs(self, batch: Batch) -> Inputs:
        engine = batch.engine
        mask = _masks(batch) if engine.masked else None
        return engine.inputs(batch.observation, mask, stacked_states(batch) if engine.initial else ())

    def _enter(self, request: Request) -> bool:
        """Find the request's history; feedback that names no decision means the one before."""
        entry = enter(request, self._sessions)
        if entry.timed and not request.timed:
            # The times of the history are the caller's: by another clock a cooldown would be over at once.
            msg = "is missing, expected it as in the session's request before: the guards go by it"
            request.settle(DoesNotFit(msg, "$.observed_at"))
            return False
        if request.feedback is not None and not request.feedback.decision_id:
            if entry.decision_id is None:
                msg = "names no decision, and the session has none before this one, expected a decision_id"
                request.settle(DoesNotFit(msg, "$.feedback"))
                return False
            request.feedback = self._meant(request, request.feedback, entry.decision_id)
        if request.feedback is not None and is_unlogged(request.feedback.decision_id):
            # There is nothing in the log that it could be joined to.
            request.feedback = None
            self._committer.unlogged.count(UNLOGGED_FEEDBACK)
        return True

    def _meant(self, request: Request, told: Feedback, before: str) -> Feedback:
        """Feedback with the decision that it is about: the one ``before``, unless it is told for a second time.

        That only shows where the caller names what it means. A request id sees to it by itself, and may be used again
        for another request after its minute.
        """
        once = request.options is not None and "request_id" in request.options
        if told.feedback_id is not None and request.previous is None and not once:
            report = Report(told.feedback_id, told.said(), before)
            request.report = self._sessions.told_before(request.session, report)
            before = request.report.decision_id
        return msgspec.structs.replace(told, decision_id=before)

    def _infer(self, batch: Batch, inputs: Inputs) -> Reasons:
        """Infer here and now, and decide; rows that are late by then take the baseline. Gives what came of the rows."""
        batch.began = self.clock()
        try:
            batch.output = batch.engine.infer(inputs)
        except PolicyUnavailable as why:
            batch.output = why
        done = self.clock()
        late = [i for i, request in enumerate(batch.requests) if request.deadline < done]
        if not late:
            return self._decide(batch)
        reasons = [*self._decide(batch.part(late).answered(DeadlineExceeded(), batch.began))]
        on_time = [i for i in range(len(batch.requests)) if i not in late]
        return [*reasons, *self._decide(batch.part(on_time))] if on_time else reasons

    def _decide(self, batch: Batch) -> Reasons:
        """Decide rows whose output is here, or will not come, for callers or to see what would come of it."""
        return (self._committer.commit if batch.purpose == "answer" else self._committer.rehearse)(batch)

    def _take(self, batch: Batch) -> Reasons:
        """Decide rows that leave the pool; what came behind them is next."""
        reasons = self._decide(batch)
        if batch.purpose == "answer":
            self._free(batch.requests)
        return reasons

    def _over(self, batch: Batch, reasons: Reasons) -> None:
        """All rows of a batch are decided: its version's breaker learns what came of them."""
        if batch.purpose != "shadow":
            tell = self._breakers.answered if batch.purpose == "answer" else self._breakers.probed
            tell(batch.assignment.version, reasons, self.clock())

    def _free(self, requests: list[Request]) -> None:
        """These are decided: what came behind them in their sessions is next."""
        waiting = [behind for request in requests for behind in self._behind.pop(request.session, ())]
        if waiting:
            if not self._pending:
                asyncio.get_running_loop().call_soon(self.flush)
            self._pending[:0] = waiting

    def __repr__(self) -> str:
        return f"<Batcher {len(self._pending)} pending, {len(self._behind)} sessions wait for a run, {self._runs!r}>"


def _masks(batch: Batch) -> Booleans:
    """The requests' own masks[N, W]; who gave none allows everything."""
    everything = [True] * batch.engine.manifest.action.width
    return np.array([everything if one.mask is None else one.mask for one in batch.requests], dtype=np.bool_)


def enter(request: Request, sessions: Sessions) -> SessionState:
    """Find what a request continues."""
    if request.begins:
        entry = sessions.begun(request.now)
    elif request.previous is not None:
        entry = sessions.following(request.session, request.previous, request.now)
    else:
        entry = sessions.remembered(request.session, request.now)
    told, before = request.feedback, entry.decision_id
    if told is not None and told.ends and before is not None and told.decision_id in ("", before):
        entry = sessions.begun(request.now, before)
    request.entry = entry
    return entry
