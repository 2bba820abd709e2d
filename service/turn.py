"""The turn: requests that arrive in the same turn of the event loop are decided as one batch.

A turn is split into waves with at most one row a session, so that the second row of a session sees the first in its
history, and a wave into flights, one a version. A fast version's flight is inferred and landed at once; a slow one's
goes to the pool, and its sessions' next rows wait for it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from guards.errors import DeadlineExceeded, PolicyUnavailable
from service.engine import Engine
from service.errors import DoesNotFit, InternalFault
from service.flights import Flights
from service.landing import Landing
from service.requests import Request
from service.router import Assignment, Router
from service.sessions import Sessions

_log = logging.getLogger(__name__)


class Turn:
    """Collects the requests of a turn and sends them on their way."""

    def __init__(
        self,
        router: Router,
        engines: Mapping[str, Engine],
        sessions: Sessions,
        landing: Landing,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._router = router
        self._engines = engines
        self._sessions = sessions
        self._landing = landing
        self._clock = clock
        self._flights = Flights(landing.land, self._free, clock=clock)
        self._pending: list[Request] = []
        self._behind: dict[str, list[Request]] = {}

    def submit(self, request: Request) -> None:
        """Take a request; it is decided at the end of this turn of the loop."""
        if not self._pending:
            asyncio.get_running_loop().call_soon(self.flush)
        self._pending.append(request)

    def flush(self) -> None:
        """Decide what is pending, wave by wave."""
        rows, self._pending = self._pending, []
        while rows:
            wave: dict[str, Request] = {}
            later: list[Request] = []
            for request in rows:
                session = request.session
                if session in self._behind:
                    self._behind[session].append(request)
                elif session in wave:
                    later.append(request)
                else:
                    wave[session] = request
            self._depart(list(wave.values()))
            rows = later

    def _depart(self, wave: list[Request]) -> None:
        """One flight per version."""
        flights: dict[str, tuple[Assignment, list[Request]]] = {}
        for request in wave:
            if self._enter(request):
                assignment = self._router.route(request.session)
                flights.setdefault(assignment.version, (assignment, []))[1].append(request)
        for assignment, requests in flights.values():
            try:
                self._fly(requests, assignment)
            except Exception:  # noqa: BLE001 - whatever it is, somebody waits for an answer
                _log.exception("a flight of %d requests could not depart", len(requests))
                for request in requests:
                    request.settle(InternalFault("the service has a fault, which is in its log"))
                self._free([request.session for request in requests])

    def _fly(self, requests: list[Request], assignment: Assignment) -> None:
        """Infer here, or on the pool with the sessions busy until it lands."""
        engine = self._engines[assignment.version]
        observation = np.array([request.observation for request in requests], dtype=np.float64)
        if engine.inline:
            self._infer(requests, assignment, engine, observation)
        else:
            self._behind.update((request.session, []) for request in requests)
            self._flights.launch(requests, assignment, engine, observation, self._clock())

    def _enter(self, request: Request) -> bool:
        """Find the request's history; feedback that names no decision means the one before."""
        entry = request.enter(self._sessions)
        if request.feedback is not None and not request.feedback.decision_id:
            if entry.decision_id is None:
                msg = "names no decision, and the session has none before this one, expected a decision_id"
                request.settle(DoesNotFit(msg, "$.feedback"))
                return False
            request.feedback = msgspec.structs.replace(request.feedback, decision_id=entry.decision_id)
        return True

    def _infer(self, requests: list[Request], assignment: Assignment, engine: Engine, observation: np.ndarray) -> None:
        """Infer here and now, and land; rows that are late by then take the baseline."""
        departed = self._clock()
        head: np.ndarray | PolicyUnavailable
        try:
            head = engine.infer(engine.inputs(observation))
        except PolicyUnavailable as why:
            head = why
        done = self._clock()
        late = [i for i, request in enumerate(requests) if request.deadline < done]
        if not late:
            self._landing.land(requests, assignment, engine, observation, head, departed)
            return
        on_time = [i for i in range(len(requests)) if i not in late]
        for rows, answer in ((late, DeadlineExceeded()), (on_time, head)):
            if rows:
                part = answer if isinstance(answer, PolicyUnavailable) else answer[rows]
                self._landing.land([requests[i] for i in rows], assignment, engine, observation[rows], part, departed)

    def _free(self, sessions: list[str]) -> None:
        """Sessions whose rows have landed: what came behind them is next."""
        waiting = [request for session in sessions for request in self._behind.pop(session, ())]
        if waiting:
            if not self._pending:
                asyncio.get_running_loop().call_soon(self.flush)
            self._pending[:0] = waiting

    def __repr__(self) -> str:
        return f"<Turn {len(self._pending)} pending, {len(self._behind)} sessions in flight, {self._flights!r}>"
