"""Runs on the pool: each row waits until its own deadline, and a run ends with the last who waits for it."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from guards.errors import DeadlineExceeded, InferenceFailed, InvalidOutput, PolicyUnavailable
from service.decision.batch import Batch
from service.decision.runs import Runs
from service.versions.breakers import Reasons
from service.versions.engine import Inputs, ModelOutput
from service.versions.router import Assignment
from tests.fakes import asked, batch_of

STABLE = Assignment(track="stable", probability=1.0, version="slow-1")


class Run:
    """A run that ends when the test says so."""

    def __init__(self, inputs: Inputs, done: Callable[[Any], None]) -> None:
        self.inputs = inputs
        self.terminated = False
        self.future: Future[ModelOutput] = Future()
        self.future.set_running_or_notify_cancel()
        self.future.add_done_callback(done)

    def terminate(self) -> None:
        self.terminated = True
        self.future.set_exception(InferenceFailed("terminated"))

    def end(self) -> None:
        """The head of each row is its own observation, three times."""
        self.future.set_result(ModelOutput(np.repeat(self.inputs["obs"], 3, axis=1).astype(np.float32)))


class SlowEngine:
    """An engine whose runs end when the test says so."""

    label, digest, inline = "slow-1", "d" * 64, False

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def start(self, inputs: Inputs, done: Callable[[Any], None]) -> Run:
        self.runs.append(Run(inputs, done))
        return self.runs[-1]


@dataclass
class Field:
    """Where rows are committed: what was, with which head."""

    committed: list[tuple[list[str], ModelOutput | PolicyUnavailable, np.ndarray]] = field(default_factory=list)
    touched: asyncio.Event = field(default_factory=asyncio.Event)
    flown: tuple[str, str, float] | None = None
    ended: list[tuple[str, list[str | None]]] = field(default_factory=list)

    def take(self, batch: Batch) -> list[str | None]:
        sessions, output = [request.session for request in batch.requests], batch.output
        self.committed.append((sessions, output, batch.observation))
        self.flown = (batch.assignment.version, batch.engine.label, batch.began)
        self.touched.set()
        return [output.reason if isinstance(output, PolicyUnavailable) else None] * len(sessions)

    def over(self, batch: Batch, reasons: Reasons) -> None:
        self.ended.append((batch.assignment.version, list(reasons)))

    async def next(self) -> None:
        """Wait until something is committed."""
        async with asyncio.timeout(10):
            await self.touched.wait()
        self.touched.clear()


class Scene:
    """Runs over a slow engine, with rows ``a``, ``b`` ... that observe 0, 1 ... and have these deadlines (s)."""

    def __init__(self, *deadlines: float) -> None:
        self.field, self.engine = Field(), SlowEngine()
        self.runs = Runs(self.field.take, self.field.over)
        self.infer_began = now = time.monotonic()
        self.requests = [asked(session="abcdefgh"[i], deadline=now + wait) for i, wait in enumerate(deadlines)]
        observation = np.arange(len(deadlines), dtype=np.float64)[:, None]
        batch = batch_of(
            self.requests, assignment=STABLE, engine=self.engine, observation=observation, began=self.infer_began
        )
        self.runs.start(batch, {"obs": observation})
        self.run = self.engine.runs[0]


async def test_rows_in_time_be_committed_together_with_their_head() -> None:
    """The run ended before any deadline: one commit for all."""
    scene = Scene(60, 60, 60)
    scene.run.end()
    await scene.field.next()
    sessions, answer, observation = scene.field.committed[0]

    assert sessions == ["a", "b", "c"]
    assert isinstance(answer, ModelOutput)
    assert answer.head[:, 0].tolist() == observation[:, 0].tolist() == [0, 1, 2]
    assert scene.field.flown == ("slow-1", "slow-1", scene.infer_began)
    assert not scene.run.terminated
    assert repr(scene.runs) == "<Runs 0 on the pool>"


async def test_a_row_past_its_deadline_leaves_alone() -> None:
    """The others go on waiting, and get the head that is theirs."""
    scene = Scene(60, 0.02, 60)
    await scene.field.next()
    first = scene.field.committed[0]
    scene.run.end()
    await scene.field.next()
    second = scene.field.committed[1]

    assert first[0] == ["b"]
    assert isinstance(first[1], DeadlineExceeded)
    assert first[2].tolist() == [[1]]
    assert second[0] == ["a", "c"]
    assert isinstance(second[1], ModelOutput)
    assert second[1].head[:, 0].tolist() == [0, 2]
    assert not scene.run.terminated
    assert scene.field.ended == [("slow-1", ["DeadlineExceeded", None, None])]


async def test_a_run_is_terminated_when_its_last_row_has_left() -> None:
    """Deadline by deadline; only with the last of them nobody waits any more, and it is told once what came of it."""
    scene = Scene(0.01, 0.05)
    await scene.field.next()
    waited_for = not scene.run.terminated
    await scene.field.next()
    await asyncio.sleep(0)

    assert waited_for
    assert scene.run.terminated
    assert scene.field.ended == [("slow-1", ["DeadlineExceeded"] * 2)]
    assert [sessions for sessions, _, _ in scene.field.committed] == [["a"], ["b"]]
    assert repr(scene.runs) == "<Runs 0 on the pool>"


async def test_a_deadline_that_is_over_is_over_at_once() -> None:
    """A row that waited its turn for too long does not wait for a run."""
    scene = Scene(-1)
    await scene.field.next()

    assert isinstance(scene.field.committed[0][1], DeadlineExceeded)
    assert scene.run.terminated


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InferenceFailed("no"), "InferenceFailed"),
        (InvalidOutput(), "InvalidOutput"),
        (MemoryError(), "InferenceFailed"),
    ],
)
async def test_a_run_that_fails_is_a_reason_for_all_who_wait(error: Exception, reason: str) -> None:
    """Whatever it raised, the rows are committed without a head."""
    scene = Scene(60, 60)
    scene.run.future.set_exception(error)
    await scene.field.next()
    sessions, answer, _ = scene.field.committed[0]

    assert sessions == ["a", "b"]
    assert isinstance(answer, PolicyUnavailable)
    assert answer.reason == reason


async def test_nobody_is_committed_twice() -> None:
    """A run that ends after its rows have left is no news."""
    scene = Scene(0.01)
    await scene.field.next()
    for _ in range(3):
        await asyncio.sleep(0)

    assert len(scene.field.committed) == len(scene.field.ended) == 1
