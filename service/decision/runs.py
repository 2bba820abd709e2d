"""Runs on the pool: a slow model's rows wait for it each until its own deadline, and no longer."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from guards.errors import DeadlineExceeded, InferenceFailed, PolicyUnavailable
from service.decision.batch import Batch
from service.versions.breakers import Reasons
from service.versions.engine import Inputs, ModelOutput


@dataclass(slots=True, eq=False)
class Runs:
    """All runs on the pool of a process.

    ``take`` decides rows whose output is here, or will not come, and gives what came of them; ``over`` is told of a
    batch that all rows have left, and what came of them all.
    """

    take: Callable[[Batch], Reasons]
    over: Callable[[Batch, Reasons], None]
    clock: Callable[[], float] = time.monotonic
    running: int = 0

    def start(self, batch: Batch, inputs: Inputs) -> None:
        """Start a run for a batch."""
        PooledBatch(self, batch, inputs)

    def __repr__(self) -> str:
        return f"<Runs {self.running} on the pool>"


class PooledBatch:
    """One batch on the pool: its rows leave it as they are answered, and with the last of them it is over."""

    def __init__(self, runs: Runs, batch: Batch, inputs: Inputs) -> None:
        self._runs = runs
        self._batch = batch
        self._waiting = dict(enumerate(batch.requests))
        self._reasons: list[str | None] = []
        self._loop = asyncio.get_running_loop()
        runs.running += 1
        # The run ends on a thread of the pool.
        self._run = batch.engine.start(inputs, lambda _: self._loop.call_soon_threadsafe(self._finish))
        self._timer = self._watched()

    def _watched(self) -> asyncio.TimerHandle:
        """Wake at the earliest deadline of those who wait."""
        earliest = min(request.deadline for request in self._waiting.values())
        return self._loop.call_later(max(0.0, earliest - self._runs.clock()), self._expire)

    def _expire(self) -> None:
        """Rows past their deadline take the baseline alone; with the last of them the run is stopped."""
        now = self._runs.clock()
        late = [i for i, request in self._waiting.items() if request.deadline <= now]
        if late:
            self._leave(late, DeadlineExceeded())
        if self._waiting:
            self._timer = self._watched()
        else:
            self._run.terminate()

    def _finish(self) -> None:
        """The run ended, well or not: whoever still waits for it is answered."""
        self._runs.running -= 1
        self._timer.cancel()
        if not self._waiting:
            return
        rows, error = list(self._waiting), self._run.future.exception()
        if error is None:
            self._leave(rows, self._run.future.result().rows(rows))
        else:
            self._leave(rows, error if isinstance(error, PolicyUnavailable) else InferenceFailed(type(error).__name__))

    def _leave(self, rows: list[int], output: ModelOutput | PolicyUnavailable) -> None:
        for i in rows:
            del self._waiting[i]
        self._reasons += self._runs.take(self._batch.part(rows).answered(output, self._batch.began))
        if not self._waiting:
            self._runs.over(self._batch, self._reasons)
