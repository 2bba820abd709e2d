"""The wall clock is set while the service serves: cooldowns, ids, waits and transitions go on as if it were not."""

import json
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from service.log.ids import load_keyring
from tests.system.serving import Client, Service, demo, eventually, rows_of
from tests.system.shifted import WallClock

REST_S = 2.0
WAIT_S = 2.0
BUSY = [1.0, 0.0, 3.0]
CONFIG = f"""\
name = "test"
policy = "demo-1.onnx"

[[constraints]]
kind = "cooldown"
name = "rest"
actions = ["scale_up"]
seconds = {REST_S}

[baseline]
kind = "constant"
action = "hold"

[rewards]
wait_seconds = {WAIT_S}
default = -7.0
"""
# By how much a cooldown may differ from what it is: the clock is set a moment after it began.
SLACK_S = 0.3
# After the wait: for writers that are not in the store yet (2 s), heartbeats, and a machine on which agents wait long.
CLOSES_WITHIN_S = WAIT_S + 40.0

# What is done to the clock while a cooldown and a wait go on, and again before the next.
STEPS = {
    "an hour ahead and back": ("+3600", "+0"),
    "an hour back and ahead": ("-3600", "+0"),
    "a year ahead, and there it stays": ("+31536000", "+31536000"),
    "it stands still, then is right": ("2026-11-01 00:00:00", "+0"),
}


class Loop:
    """A controller that always wants to scale up."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.answers: list[dict[str, Any]] = []

    def act(self, session: str = "s", **told: object) -> dict[str, Any]:
        """One decision."""
        status, answer = self._client.post("/act", {"session": session, "observation": BUSY, **told})
        assert status == 200, answer
        self.answers.append(answer)
        assert isinstance(answer, dict)
        return answer

    def tell(self, answer: dict[str, Any], reward: float) -> None:
        """What came of it."""
        one = {"decision_id": answer["decision_id"], "reward": reward, "terminated": True}
        status, told = self._client.post("/feedback", [one])
        assert status == 200, told

    def rest(self) -> tuple[float, float]:
        """How long (s) from now on it may not scale up: when it was last asked and did not, and when it first did."""
        began = asked = last = time.monotonic()
        while self.act()["action_name"] != "scale_up":
            last = asked
            assert asked - began < REST_S + 60, "it never may again"
            time.sleep(0.02)
            asked = time.monotonic()
        return last - began, time.monotonic() - began


@pytest.fixture(params=list(STEPS.values()), ids=list(STEPS))
def stepped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Service, WallClock, tuple[str, str]]]:
    """A service whose clock can be set, and what is to be done to it."""
    wall = WallClock(tmp_path)
    with Service(demo(tmp_path, CONFIG), tmp_path / "data", environment=wall.environment) as service:
        yield service, wall, request.param


def closed(service: Service) -> dict[str, dict[str, Any]]:
    """The transitions that a trainer reads, by decision."""
    rows = rows_of(service.data / "store.sqlite", "SELECT transition FROM transitions")
    found = [json.loads(text) for (text,) in rows]
    return {transition["decision_id"]: transition for transition in found}


def is_closed(service: Service, decision_id: str) -> bool:
    """Whether a decision became a transition."""
    return decision_id in closed(service)


def test_f99_a_clock_that_is_set_while_serving_moves_nothing(
    stepped: tuple[Service, WallClock, tuple[str, str]],
) -> None:
    """Each cooldown takes what it takes, ids stay in order, feedback in time is in time, and transitions go on."""
    service, wall, steps = stepped
    with Client(service.port) as client:
        loop = Loop(client)
        told: list[dict[str, Any]] = []
        for i, step in enumerate(steps):
            began = loop.act(f"before-{i}", previous=None)
            loop.act("s", previous=None)
            wall.set(step)
            last, first = loop.rest()
            # The wait has gone on for about as long as the cooldown; what is told now is told in time.
            told.append(loop.act(f"after-{i}", previous=None))
            loop.tell(told[-1], 2.5)

            assert last <= REST_S + SLACK_S
            assert first >= REST_S - SLACK_S
            waited = began["decision_id"]
            eventually(partial(is_closed, service, waited), within_s=CLOSES_WITHIN_S, what=service.output)
        everything = {answer["decision_id"] for answer in loop.answers}
        eventually(lambda: closed(service).keys() == everything, within_s=CLOSES_WITHIN_S, what=service.output)

    transitions = closed(service)
    heard = [transitions[one["decision_id"]] for one in told]
    assert [(one["reward"], one["closed_by"]) for one in heard] == [(2.5, "episode_end")] * len(told)
    assert {transition["reward_ok"] for transition in transitions.values()} == {True}
    keyring = load_keyring(service.data / "keyring.json")
    places = [keyring.place(answer["decision_id"]) for answer in loop.answers]
    marks = [(place.ms, place.seq) for place in places if place is not None]
    assert len(marks) == len(loop.answers)
    assert all(before < after and before[0] <= after[0] for before, after in pairwise(marks))
    # And they go on: they do not stand still until the clock is past where it was.
    assert marks[-1][0] - marks[0][0] >= 2 * (REST_S - SLACK_S) * 1000


@pytest.mark.parametrize("step", ["+86400", "-86400"], ids=["a day ahead", "a day back"])
def test_f99_feedback_after_a_restart_by_another_clock_is_as_if_it_was_not_set(tmp_path: Path, step: str) -> None:
    """The data plane dies moments after it began, and goes on by what the wall clock says then."""
    wall = WallClock(tmp_path)
    config = demo(tmp_path, CONFIG.replace(f"wait_seconds = {WAIT_S}", "wait_seconds = 20.0"))
    with Service(config, tmp_path / "data", environment=wall.environment) as service:
        with Client(service.port) as client:
            told, silent = (Loop(client).act(session, previous=None) for session in ("told", "silent"))
        wall.set(step)
        service.kill_plane(service.plane())
        with Client(service.plane(2).port) as client:
            Loop(client).act("told", feedback={"reward": 1.5, "terminated": True})
            Loop(client).act("silent", previous=None)
        both = {told["decision_id"], silent["decision_id"]}
        eventually(lambda: both <= closed(service).keys(), within_s=20.0 + CLOSES_WITHIN_S, what=service.output)

    transitions = closed(service)
    made = [transitions[one["decision_id"]] for one in (told, silent)]
    assert [(one["reward"], one["closed_by"], one["reward_ok"]) for one in made] == [
        (1.5, "episode_end", True),
        (-7.0, "timeout", True),
    ]


@pytest.mark.parametrize("step", ["+3600", "-3600", "2026-11-01 00:00:00"])
def test_f90_feedback_near_the_end_of_the_wait_is_in_time_whatever_the_clock_says(tmp_path: Path, step: str) -> None:
    """A wait neither ends early, with a default for a fact, nor late."""
    wall = WallClock(tmp_path)
    started = Service(demo(tmp_path, CONFIG), tmp_path / "data", environment=wall.environment)
    with started as service, Client(service.port) as client:
        loop = Loop(client)
        decision, silent = loop.act("told", previous=None), loop.act("silent", previous=None)
        began = time.monotonic()
        wall.set(step)
        eventually(lambda: time.monotonic() - began >= WAIT_S - 1.0)
        loop.tell(decision, 1.5)

        assert not is_closed(service, silent["decision_id"])
        both = {decision["decision_id"], silent["decision_id"]}
        eventually(lambda: closed(service).keys() == both, within_s=CLOSES_WITHIN_S, what=service.output)

    transitions = closed(service)
    assert [transitions[one["decision_id"]]["reward"] for one in (decision, silent)] == [1.5, -7.0]
    assert [transitions[one["decision_id"]]["reward_ok"] for one in (decision, silent)] == [True, True]
    assert "the clock was set" in service.output()
