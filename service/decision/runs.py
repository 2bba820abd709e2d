"""Runs on the pool: a slow model's rows wait for it each until its own deadline, and no longer."""

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
    """Rows that wait for a run: ``waiting`` maps the row of the run to its request, ``reasons`` are of who left."""

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
        """``freed`` is told of sessions whose rows are committed, ``over`` of a version's run that all have left."""
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
        rows_waiting = _Waiting(dict(enumerate(requests)), assignment, engine, observation, infer_began)
        self._running += 1

        def done(_: object) -> None:
            loop.call_soon_threadsafe(self._finish, rows_waiting)

        rows_waiting.run = engine.start(inputs, done)
        self._watch(rows_waiting)

    def _watch(self, rows_waiting: _Waiting) -> None:
        """Wake at the earliest deadline of those who wait."""
        earliest = min(request.deadline for request in rows_waiting.waiting.values())
        delay = max(0.0, earliest - self._clock())
        rows_waiting.timer = asyncio.get_running_loop().call_later(delay, self._expire, rows_waiting)

    def _expire(self, rows_waiting: _Waiting) -> None:
        """Rows past their deadline take the baseline alone; with the last of them the run is stopped."""
        now = self._clock()
        late = [i for i, request in rows_waiting.waiting.items() if request.deadline <= now]
        if late:
            self._take(rows_waiting, late, DeadlineExceeded())
        if rows_waiting.waiting:
            self._watch(rows_waiting)
        elif rows_waiting.run is not None:
            rows_waiting.run.terminate()

    def _finish(self, rows_waiting: _Waiting) -> None:
        """The run ended, well or not: commit whoever still waits for it."""
        self._running -= 1
        if rows_waiting.timer is not None:
            rows_waiting.timer.cancel()
        if not rows_waiting.waiting or rows_waiting.run is None:
            return
        rows = list(rows_waiting.waiting)
        error = rows_waiting.run.future.exception()
        if error is None:
            self._take(rows_waiting, rows, rows_waiting.run.future.result().rows(rows))
        else:
            why = error if isinstance(error, PolicyUnavailable) else InferenceFailed(type(error).__name__)
            self._take(rows_waiting, rows, why)

    def _take(self, rows_waiting: _Waiting, rows: list[int], answer: ModelOutput | PolicyUnavailable) -> None:
        requests = [rows_waiting.waiting.pop(i) for i in rows]
        observation = rows_waiting.observation[rows]
        rows_waiting.reasons += self._commit(
            requests, rows_waiting.assignment, rows_waiting.engine, observation, answer, rows_waiting.infer_began
        )
        if not rows_waiting.waiting:
            self._over(rows_waiting.assignment.version, rows_waiting.reasons)
        self._freed([request.session for request in requests])

    def __repr__(self) -> str:
        return f"<Runs {self._running} on the pool>"
