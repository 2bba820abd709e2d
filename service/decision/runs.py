"""Flights on the pool: a slow model's rows wait for it each until its own deadline, and no longer."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from guards.errors import DeadlineExceeded, InferenceFailed, PolicyUnavailable
from service.decision.requests import Request
from service.versions.answered import Answered
from service.versions.breakers import Fates
from service.versions.engine import Engine, Inputs, Run
from service.versions.router import Assignment


class Land(Protocol):
    """Decides requests whose answer is here, or will not come; gives what came of them."""

    def __call__(
        self,
        requests: list[Request],
        assignment: Assignment,
        engine: Engine,
        observation: np.ndarray,
        answer: Answered | PolicyUnavailable,
        departed: float,
    ) -> Fates: ...


@dataclass(slots=True)
class _Flying:
    """Rows that wait for a run: ``waiting`` maps the row of the run to its request, ``fates`` are of who left."""

    waiting: dict[int, Request]
    assignment: Assignment
    engine: Engine
    observation: np.ndarray
    departed: float
    run: Run | None = None
    timer: asyncio.TimerHandle | None = None
    fates: list[str | None] = field(default_factory=list)


class Flights:
    """All runs on the pool of a process."""

    def __init__(
        self,
        land: Land,
        freed: Callable[[list[str]], None],
        over: Callable[[str, Fates], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``freed`` is told of the sessions whose rows have landed, ``over`` of a version's run that all have left."""
        self._land = land
        self._freed = freed
        self._over = over
        self._clock = clock
        self._flying = 0

    def launch(
        self,
        requests: list[Request],
        assignment: Assignment,
        engine: Engine,
        observation: np.ndarray,
        inputs: Inputs,
        departed: float,
    ) -> None:
        """Start a run for the requests."""
        loop = asyncio.get_running_loop()
        flying = _Flying(dict(enumerate(requests)), assignment, engine, observation, departed)
        self._flying += 1

        def done(_: object) -> None:
            loop.call_soon_threadsafe(self._arrive, flying)

        flying.run = engine.start(inputs, done)
        self._watch(flying)

    def _watch(self, flying: _Flying) -> None:
        """Wake at the earliest deadline of those who wait."""
        earliest = min(request.deadline for request in flying.waiting.values())
        delay = max(0.0, earliest - self._clock())
        flying.timer = asyncio.get_running_loop().call_later(delay, self._expire, flying)

    def _expire(self, flying: _Flying) -> None:
        """Rows past their deadline take the baseline alone; with the last of them the run is stopped."""
        now = self._clock()
        late = [i for i, request in flying.waiting.items() if request.deadline <= now]
        if late:
            self._take(flying, late, DeadlineExceeded())
        if flying.waiting:
            self._watch(flying)
        elif flying.run is not None:
            flying.run.terminate()

    def _arrive(self, flying: _Flying) -> None:
        """The run ended, well or not: land whoever still waits for it."""
        self._flying -= 1
        if flying.timer is not None:
            flying.timer.cancel()
        if not flying.waiting or flying.run is None:
            return
        rows = list(flying.waiting)
        error = flying.run.future.exception()
        if error is None:
            self._take(flying, rows, flying.run.future.result().rows(rows))
        else:
            why = error if isinstance(error, PolicyUnavailable) else InferenceFailed(type(error).__name__)
            self._take(flying, rows, why)

    def _take(self, flying: _Flying, rows: list[int], answer: Answered | PolicyUnavailable) -> None:
        requests = [flying.waiting.pop(i) for i in rows]
        observation = flying.observation[rows]
        flying.fates += self._land(requests, flying.assignment, flying.engine, observation, answer, flying.departed)
        if not flying.waiting:
            self._over(flying.assignment.version, flying.fates)
        self._freed([request.session for request in requests])

    def __repr__(self) -> str:
        return f"<Flights {self._flying} on the pool>"
