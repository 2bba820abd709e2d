"""A walk: one session that goes back and forth between processes, under constraints that have a history.

To a session a replica and a worker of one are alike: each is a process that knows only what it decided itself.
"""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, Protocol

from guards.abstention import AnyConstraint
from guards.records import Schema
from tests.fakes import NOW
from tests.judge import Judge, Session

CONSTRAINTS: list[dict[str, Any]] = [
    {"kind": "cooldown", "name": "rests", "actions": ["scale_down"], "seconds": 4},
    {"kind": "budget", "name": "spent", "cost": "cpu if action == 'scale_up' else 0", "at_most": 2, "seconds": 6},
    {"kind": "max_switches", "name": "switched", "at_most": 3, "seconds": 8},
    {"kind": "rate_limit", "name": "moved", "per_second": 0.5, "effect": {"scale_up": 1.0, "scale_down": -1.0}},
]


class Asked(Protocol):
    """A process that can be asked."""

    async def act(self, session: str = ..., observation: object = ..., **told: object) -> "Told":
        """POST to ``/act``."""


class Told(Protocol):
    """An answer."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    def json(self) -> Any:
        """What it says."""


class Walk:
    """One session, step by step, at any process; the judge sees all that is executed, wherever it was decided."""

    def __init__(
        self, processes: Sequence[Asked], constraints: Sequence[AnyConstraint], schema: Schema, seed: int
    ) -> None:
        self.processes = processes
        self.random = Random(seed)  # noqa: S311 - a test that repeats itself
        self.judge, self.actions = Judge(constraints, schema), schema.actions
        self.session, self.previous = Session(), None
        self.now, self.found = NOW, Counter[str]()

    async def step(self, process: Asked) -> None:
        """Ask, and do what is answered: 503 is nothing. Now and then an episode begins."""
        if self.random.random() < 0.01:
            self.session, self.previous = Session(), None
        self.now += self.random.choice((0.25, 0.5, 1.0, 2.0))
        seen = {"cpu": self.random.random(), "queue": self.random.random(), "replicas": 3.0}
        reply = await process.act(observation=seen, observed_at=self.now, previous=self.previous)
        if reply.status == 503:
            self.found["nothing"] += 1
            return
        told = reply.json()
        action = self.actions.index(told["action_name"])
        assert self.judge.unsafe(self.session, self.now, seen, action) == []
        self.judge.did(self.session, self.now, seen, action)
        # Nothing looks further back.
        del self.session.events[:-60]
        self.previous = told["decision_id"]
        self.found.update([told["action_name"], *(one["constraint"] for one in told["violations"])])

    async def go(self, count: int) -> None:
        """Stay a while at one process, then at another."""
        steps = 0
        while steps < count:
            process = self.random.choice(self.processes)
            for _ in range(min(self.random.choice((1, 1, 2, 5, 25)), count - steps)):
                await self.step(process)
                steps += 1
