"""The batcher: requests that arrive in the same turn of the event loop are decided as one batch.

A batch has at most one row a session, so that the second row of a session sees the first in its history, and is of one
version. A fast version's batch is inferred and committed at once; a slow one's
goes to the pool, and its sessions' next rows wait for it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from guards.errors import BreakerOpen, DeadlineExceeded, HistoryUnknown, PolicyUnavailable
from guards.records import Booleans
from service.decision.batch import Request
from service.decision.commit import Committer
from service.decision.recurrent import split_by_state, stacked_states
from service.decision.runs import CommitRows, Runs
from service.decision.sessions import Report, Sessions
from service.errors import DoesNotFit, InternalFault
from service.log.ids import is_unlogged
from service.log.records import UNLOGGED_FEEDBACK, Feedback
from service.versions.breakers import Breakers, Reasons
from service.versions.engine import Engine, Inputs, ModelOutput
from service.versions.observations import Layout
from service.versions.router import Assignment, Router

_log = logging.getLogger(__name__)


class Batcher:
    """Collects the requests of a turn and sends them on their way."""

    def __init__(
        self,
        router: Router,
        engines: Mapping[str, Engine],
        sessions: Sessions,
        committer: Committer,
        layout: Layout,
        breakers: Breakers,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._router = router
        self._engines = engines
        self._sessions = sessions
        self._committer = committer
        self._layout = layout
        self._clock = clock
        self._breakers = breakers
        self._runs = Runs(committer.commit, self._free, self._answered, clock=clock)
        self._probes = Runs(committer.rehearse, lambda _: None, self._probed, clock=clock)
        self._shadows = Runs(committer.rehearse, lambda _: None, lambda *_: None, clock=clock)
        self._pending: list[Request] = []
        self._behind: dict[str, list[Request]] = {}

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

    def _route(self, batch: list[Request]) -> None:
        """Make one batch per version."""
        batches: dict[str, tuple[Assignment, list[Request]]] = {}
        for request in batch:
            if self._enter(request):
                assignment = self._router.route(request.session)
                batches.setdefault(assignment.version, (assignment, []))[1].append(request)
        for assignment, requests in batches.values():
            try:
                self._run(requests, assignment)
            except Exception:  # noqa: BLE001 - whatever it is, somebody waits for an answer
                _log.exception("a batch of %d requests could not be run", len(requests))
                for request in requests:
                    request.settle(InternalFault("the service has a fault, which is in its log"))
                self._free([request.session for request in requests])

    def _run(self, requests: list[Request], assignment: Assignment) -> None:
        """Ask the version, or have the baseline answer while its breaker is open, and probe it where that is due."""
        engine, version = self._engines[assignment.version], assignment.version
        if self._breakers.closed(version):
            self._ask(requests, assignment, engine)
            return
        observation, now = self._layout.rows([request.observation for request in requests]), self._clock()
        self._committer.commit(requests, assignment, engine, observation, BreakerOpen(), now)
        due = self._breakers.waited(version, now)
        if due or (engine.initial and self._breakers.probing(version)):
            self._probe(requests, assignment, engine, due=due)

    def _ask(self, requests: list[Request], assignment: Assignment, engine: Engine) -> None:
        """Infer here, or on the pool with the sessions busy until it is committed."""
        requests = self._in_time(requests, assignment, engine)
        if not requests:
            return
        if engine.initial:
            requests, lost = split_by_state(requests, engine)
            if lost:
                observation = self._layout.rows([request.observation for request in lost])
                self._committer.commit(lost, assignment, engine, observation, HistoryUnknown(), self._clock())
            if not requests:
                return
        observation, inputs = self._given(requests, engine)
        if engine.inline:
            reasons = self._infer(requests, assignment, engine, observation, inputs, self._committer.commit)
            self._breakers.answered(assignment.version, reasons, self._clock())
        else:
            self._behind.update((request.session, []) for request in requests)
            self._runs.start(requests, assignment, engine, observation, inputs, self._clock())

    def _in_time(self, requests: list[Request], assignment: Assignment, engine: Engine) -> list[Request]:
        """Give those whose deadline is over to the baseline, which needs no model; who is left."""
        now = self._clock()
        for request in requests:
            if request.deadline < now:
                break
        else:
            return requests
        late = [request for request in requests if request.deadline < now]
        observation = self._layout.rows([request.observation for request in late])
        self._committer.commit(late, assignment, engine, observation, DeadlineExceeded(), now)
        return [request for request in requests if request.deadline >= now]

    def _probe(self, requests: list[Request], assignment: Assignment, engine: Engine, *, due: bool) -> None:
        """Ask the version what was answered already, to see whether it can be trusted again.

        Where no probe is due it is asked for the memories alone, which have to see every step.
        """
        if engine.initial:
            requests, _ = split_by_state(requests, engine)
            if not requests:
                return
        observation, inputs = self._given(requests, engine)
        now = self._clock()
        if not due:
            self._shadows.start(requests, assignment, engine, observation, inputs, now)
            return
        self._breakers.sent(assignment.version, now)
        if engine.inline:
            reasons = self._infer(requests, assignment, engine, observation, inputs, self._committer.rehearse)
            self._breakers.probed(assignment.version, reasons, self._clock())
        else:
            self._probes.start(requests, assignment, engine, observation, inputs, now)

    def _given(self, requests: list[Request], engine: Engine) -> tuple[np.ndarray, Inputs]:
        """The requests' observation[N, ...], and what goes into the network."""
        observation = self._layout.rows([request.observation for request in requests])
        mask = _masks(requests, engine) if engine.masked else None
        return observation, engine.inputs(observation, mask, stacked_states(requests, engine) if engine.initial else ())

    def _enter(self, request: Request) -> bool:
        """Find the request's history; feedback that names no decision means the one before."""
        entry = request.enter(self._sessions)
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

    def _infer(
        self,
        requests: list[Request],
        assignment: Assignment,
        engine: Engine,
        observation: np.ndarray,
        inputs: Inputs,
        commit: CommitRows,
    ) -> Reasons:
        """Infer here and now, and commit; rows that are late by then take the baseline. Gives what came of the rows."""
        infer_began = self._clock()
        answer: ModelOutput | PolicyUnavailable
        try:
            answer = engine.infer(inputs)
        except PolicyUnavailable as why:
            answer = why
        done = self._clock()
        late = [i for i, request in enumerate(requests) if request.deadline < done]
        if not late:
            return commit(requests, assignment, engine, observation, answer, infer_began)
        reasons: list[str | None] = []
        on_time = [i for i in range(len(requests)) if i not in late]
        for rows, outcome in ((late, DeadlineExceeded()), (on_time, answer)):
            if rows:
                part = outcome if isinstance(outcome, PolicyUnavailable) else outcome.rows(rows)
                reasons += commit([requests[i] for i in rows], assignment, engine, observation[rows], part, infer_began)
        return reasons

    def _answered(self, version: str, reasons: Reasons) -> None:
        self._breakers.answered(version, reasons, self._clock())

    def _probed(self, version: str, reasons: Reasons) -> None:
        self._breakers.probed(version, reasons, self._clock())

    def _free(self, sessions: list[str]) -> None:
        """Sessions whose rows are committed: what came behind them is next."""
        waiting = [request for session in sessions for request in self._behind.pop(session, ())]
        if waiting:
            if not self._pending:
                asyncio.get_running_loop().call_soon(self.flush)
            self._pending[:0] = waiting

    def __repr__(self) -> str:
        return f"<Batcher {len(self._pending)} pending, {len(self._behind)} sessions wait for a run, {self._runs!r}>"


def _masks(requests: list[Request], engine: Engine) -> Booleans:
    """The requests' own masks[N, W]; who gave none allows everything."""
    everything = [True] * engine.manifest.action.width
    return np.array([everything if request.mask is None else request.mask for request in requests], dtype=np.bool_)
