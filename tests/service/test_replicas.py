"""Replicas: one session that goes back and forth between two processes breaks no constraint that has a history."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest

from service.ids import make_keyring
from tests.fakes import NOW
from tests.in_process import Serving, serving
from tests.judge import Judge, Session

CONSTRAINTS: list[dict[str, Any]] = [
    {"kind": "cooldown", "name": "rests", "actions": ["scale_down"], "seconds": 4},
    {"kind": "budget", "name": "spent", "cost": "cpu if action == 'scale_up' else 0", "at_most": 2, "seconds": 6},
    {"kind": "max_switches", "name": "switched", "at_most": 3, "seconds": 8},
    {"kind": "rate_limit", "name": "moved", "per_second": 0.5, "effect": {"scale_up": 1.0, "scale_down": -1.0}},
]


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What replicas share, so that each knows the other's decisions for the deployment's own."""
    path = tmp_path / "keyring.json"
    make_keyring(path)
    monkeypatch.setenv("ACTD_KEYRING", str(path))


class Walk:
    """One session, step by step, at either replica; the judge sees all that is executed, wherever it was decided."""

    def __init__(self, replicas: list[Serving], seed: int) -> None:
        self.replicas = replicas
        self.random = Random(seed)  # noqa: S311 - a test that repeats itself
        plane = replicas[0].plane
        self.judge, self.actions = Judge(plane.config.constraints, plane.schema), plane.schema.actions
        self.session, self.previous = Session(), None
        self.now, self.found = NOW, Counter[str]()

    async def step(self, replica: Serving) -> None:
        """Ask, and do what is answered: 503 is nothing. Now and then an episode begins."""
        if self.random.random() < 0.01:
            self.session, self.previous = Session(), None
        self.now += self.random.choice((0.25, 0.5, 1.0, 2.0))
        seen = {"cpu": self.random.random(), "queue": self.random.random(), "replicas": 3.0}
        reply = await replica.act(observation=seen, observed_at=self.now, previous=self.previous)
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
        """Stay a while at one replica, then at the other."""
        steps = 0
        while steps < count:
            replica = self.replicas[self.random.randrange(2)]
            for _ in range(min(self.random.choice((1, 1, 2, 5, 25)), count - steps)):
                await self.step(replica)
                steps += 1


@pytest.mark.usefixtures("keyring")
@pytest.mark.parametrize("kinds", [("cooldown",), ("budget",), ("max_switches",), ("rate_limit",), ()])
async def test_a_session_at_two_replicas_breaks_nothing(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    """2,000 steps under all of them, and some under each, with the decision before echoed."""
    steps = 500 if kinds else 2000
    constraints = [one for one in CONSTRAINTS if not kinds or one["kind"] in kinds]
    settings: dict[str, Any] = {"constraints": constraints, "guard_clock": "observed_at"}
    with ExitStack() as stack:
        replicas = [stack.enter_context(serving(tmp_path / name, **settings)) for name in "ab"]
        walk = Walk(replicas, len(constraints) + len(kinds))
        await walk.go(steps)
        decisions = [decision for replica in replicas for decision in replica.decisions()]

    assert len(decisions) == steps - walk.found["nothing"] > steps / 4
    assert min(walk.found[name] for name in ("hold", "scale_up", "scale_down")) > 10
    assert min(walk.found[one["name"]] for one in constraints) > 10
    assert 10 < sum(decision.state.known for decision in decisions) < len(decisions)
