"""Flights on the pool: a slow model's rows wait for it each until its own deadline, and no longer."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from guards.errors import DeadlineExceeded, InferenceFailed, PolicyUnavailable
from service.decision.batch import Request
from service.versions.breakers import Reasons
from service.versions.engine import Engine, Inputs, ModelOutput, Run
from service.versions.router import Assignment


class CommitRows(Protocol):
    """Decides requests whose answer is here, or will not come; gives what came of them."""

    def __call__(
        self,
        requests: list[Request],
        assignment: Assignment,
        engine: Engine,
        observation: np.ndarray,
        answer: ModelOutput | PolicyUnavailable,
        infer_began: float,
    ) -> Reasons: ...


@dataclass(slots=True)
class _Waiting:
    """Rows that wait for a run: ``waiting`` maps the row of the run to its request, ``fates`` are of who left."""

    waiting: dict[int, Request]
    assignment: Assignment
    engine: Engine
    observation: np.ndarray
    infer_began: float
    run: Run | None = None
    timer: asyncio.TimerHandle | None = None
    reasons: list[str | None] = field(default_factory=list)


class Runs:
    """All runs on the pool of a process."""

    def __init__(
        self,
        commit: CommitRows,
        freed: Callable[[list[str]], None],
        over: Callable[[str, Reasons], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``freed`` is told of the sessions whose rows have landed, ``over`` of a version's run that all have left."""
        self._commit = commit
        self._freed = freed
        self._over = over
        self._clock = clock
        self._running = 0

    def start(
        self,
        requests: list[Request],
        assignment: Assignment,
        engine: Engine,
        observation: np.ndarray,
        inputs: Inputs,
        infer_began: float,
    ) -> None:
        """Start a run for the requests."""
        loop = asyncio.get_running_loop()
        waiting_rows = _Waiting(dict(enumerate(requests)), assignment, engine, observation, infer_began)
        self._running += 1

        def done(_: object) -> None:
            loop.call_soon_threadsafe(self._finish, waiting_rows)

        waiting_rows.run = engine.start(inputs, done)
        self._watch(waiting_rows)

    def _watch(self, waiting_rows: _Waiting) -> None:
        """Wake at the earliest deadline of those who wait."""
        earliest = min(request.deadline for request in waiting_rows.waiting.values())
        delay = max(0.0, earliest - self._clock())
        waiting_rows.timer = asyncio.get_running_loop().call_later(delay, self._expire, waiting_rows)

    def _expire(self, waiting_rows: _Waiting) -> None:
        """Rows past their deadline take the baseline alone; with the last of them the run is stopped."""
        now = self._clock()
        late = [i for i, request in waiting_rows.waiting.items() if request.deadline <= now]
        if late:
            self._take(waiting_rows, late, DeadlineExceeded())
        if waiting_rows.waiting:
            self._watch(waiting_rows)
        elif waiting_rows.run is not None:
            waiting_rows.run.terminate()

    def _finish(self, waiting_rows: _Waiting) -> None:
        """The run ended, well or not: land whoever still waits for it."""
        self._running -= 1
        if waiting_rows.timer is not None:
            waiting_rows.timer.cancel()
        if not waiting_rows.waiting or waiting_rows.run is None:
            return
        rows = list(waiting_rows.waiting)
        error = waiting_rows.run.future.exception()
        if error is None:
            self._take(waiting_rows, rows, waiting_rows.run.future.result().rows(rows))
        else:
            why = error if isinstance(error, PolicyUnavailable) else InferenceFailed(type(error).__name__)
            self._take(waiting_rows, rows, why)

    def _take(self, waiting_rows: _Waiting, rows: list[int], answer: ModelOutput | PolicyUnavailable) -> None:
        requests = [waiting_rows.waiting.pop(i) for i in rows]
        observation = waiting_rows.observation[rows]
        waiting_rows.reasons += self._commit(
            requests, waiting_rows.assignment, waiting_rows.engine, observation, answer, waiting_rows.infer_began
        )
        if not waiting_rows.waiting:
            self._over(waiting_rows.assignment.version, waiting_rows.reasons)
        self._freed([request.session for request in requests])

    def __repr__(self) -> str:
        return f"<Runs {self._running} on the pool>"
