"""Replicas and their workers: a session that wanders between them breaks no constraint that has a history."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from service.log.ids import make_keyring
from tests.in_process import serving
from tests.walk import CONSTRAINTS, Walk


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What replicas share, so that each knows the other's decisions for the deployment's own."""
    path = tmp_path / "keyring.json"
    make_keyring(path)
    monkeypatch.setenv("ACTD_KEYRING", str(path))


@pytest.mark.usefixtures("keyring")
@pytest.mark.parametrize("processes", ["ab", "abcd"], ids=["two replicas", "two workers at each of two replicas"])
@pytest.mark.parametrize("kinds", [("cooldown",), ("budget",), ("max_switches",), ("rate_limit",), ()])
async def test_a_session_that_wanders_breaks_nothing(tmp_path: Path, kinds: tuple[str, ...], processes: str) -> None:
    """2,000 steps under all of them, and some under each, with the decision before echoed."""
    steps = 500 if kinds else 2000
    constraints = [one for one in CONSTRAINTS if not kinds or one["kind"] in kinds]
    settings: dict[str, Any] = {"constraints": constraints, "guard_clock": "observed_at"}
    with ExitStack() as stack:
        served = [stack.enter_context(serving(tmp_path / name, **settings)) for name in processes]
        application = served[0].application
        walk = Walk(served, application.config.constraints, application.schema, len(constraints) + len(kinds))
        await walk.go(steps)
        decisions = [decision for one in served for decision in one.decisions()]

    assert len(decisions) == steps - walk.found["nothing"] > steps / 4
    assert min(walk.found[name] for name in ("hold", "scale_up", "scale_down")) > 5
    assert min(walk.found[one["name"]] for one in constraints) > 10
    assert 10 < sum(decision.state.known for decision in decisions) < len(decisions)


async def test_a_session_that_goes_by_the_callers_clock_goes_on_by_it(tmp_path: Path) -> None:
    """A request without the time would be one by another clock, by which every cooldown is over."""
    settings: dict[str, Any] = {"constraints": CONSTRAINTS[:1], "guard_clock": "observed_at"}
    quiet = {"cpu": 0.0, "queue": 0.0, "replicas": 3.0}
    with serving(tmp_path, **settings) as served:
        first = await served.act(observation=quiet, observed_at=100.0, previous=None)
        second = await served.act(observation=quiet, observed_at=101.0)
        without = await served.act(observation=quiet)
        third = await served.act(observation=quiet, observed_at=102.0)
        anew = await served.act(observation=quiet, previous=None)
        other = [await served.act("other", quiet, previous=None), await served.act("other", quiet)]

    assert [reply.json()["action_name"] for reply in (first, second, third)] == ["scale_down", "hold", "hold"]
    assert (without.status, without.error["path"]) == (422, "$.observed_at")
    assert without.error["message"].startswith("is missing, expected it as in the session's request before")
    # An episode that begins, and a session that never had it, go by the service's clock.
    assert [reply.json()["action_name"] for reply in (anew, *other)] == ["scale_down", "scale_down", "hold"]
