"""Histories: each decision's goes on by itself, with what a baseline remembers beside what constraints keep."""

from pathlib import Path
from typing import Any

import numpy as np

from export.spec import Box, Field
from guards.baselines import KEPT, Baseline, Constant
from guards.baselines.controllers import Pid
from guards.constraints import RateLimit, Rule
from guards.errors import InferenceFailed
from service.decision.commit import advanced
from service.log.records import Decision
from tests.acting import acting_behaviour
from tests.fakes import NOW, asked, batch_of, recorded
from tests.in_process import serving

VALVE = Box(fields=(Field(name="valve", low=-2, high=2),))
# It has no measurement where its fact is not told.
PID = Pid(of="load * fade", target=1.0, kp=0.5, ki=0.1)
HEADS = np.tile(np.array([0.25, 0.0], dtype=np.float32), (3, 1))


def after(baseline: Baseline, head: Any, *constraints: Any, told: tuple[bool, ...] = (True, True, True)) -> Any:
    """The histories after a batch of three, of which some tell what the baseline goes by."""
    behaviour = acting_behaviour(VALVE, baseline=baseline, facts=("fade",), constraints=list(constraints))
    batch = batch_of([asked(session=f"s{i}", facts={"fade": 1.0} if one else None) for i, one in enumerate(told)])
    records = recorded(behaviour, batch, head)
    return {i: advanced(behaviour, batch, i) for i, one in enumerate(records) if isinstance(one, Decision)}


def test_what_a_controller_remembers_stands_beside_what_constraints_keep() -> None:
    """Whoever decided."""
    limit = RateLimit(name="slow", of="valve", per_second=1.0)
    policy, itself = after(PID, HEADS, limit), after(PID, InferenceFailed(), limit)

    # The policy's 0.25 is the proportion, 0.5 * 0.5, and nothing; so is what it puts out itself.
    assert [policy[i].kept for i in range(3)] == [{"slow": (NOW,), KEPT: (0.0, 0.5, NOW)}] * 3
    assert itself == policy


def test_a_row_that_was_not_measured_keeps_nothing() -> None:
    """The others of its batch do."""
    histories = after(PID, HEADS, told=(True, False, True))

    assert [KEPT in histories[i].kept for i in range(3)] == [True, False, True]


def test_a_row_that_was_refused_has_no_history() -> None:
    """Nothing was executed: of one row, or of all."""
    never = Rule(name="never", forbid="valve < 9 and fade > 0")

    assert sorted(after(PID, HEADS, never, told=(False, True, False))) == []
    assert sorted(after(PID, HEADS, never.model_copy(update={"forbid": "fade > 1"}), told=(True, False, True))) == [
        0,
        2,
    ]
    assert sorted(after(Constant(action=(0.0,)), HEADS, never)) == []


def test_a_baseline_without_a_memory_keeps_nothing() -> None:
    """Nor is anything left there by another's name."""
    assert [history.kept for history in after(Constant(action=(0.0,)), HEADS).values()] == [{}] * 3


async def test_an_error_too_small_for_one_action_adds_up_to_one(tmp_path: Path) -> None:
    """In the service, as the documentation says: 5 too many, 0.05 a second, and every decision the baseline's."""
    pid = {"kind": "pid", "of": "queue", "target": 5.0, "ki": -0.01}
    pid["effect"] = {"scale_up": 1, "scale_down": -1, "hold": 0}
    seen = {"cpu": 0.5, "queue": 10.0, "replicas": 5.0}
    limits = {"deadline_ms": 20_000}
    with serving(tmp_path, baseline=pid, guard_clock="observed_at", limits=limits) as served:
        for second in range(30):
            begins: dict[str, Any] = {} if second else {"previous": None}
            await served.act(observation=seen, observed_at=1000.0 + second, deadline_ms=1e-6, **begins)
        decisions = served.decisions()

    scaled = [second for second, decision in enumerate(decisions) if decision.action == 2]
    assert {decision.source for decision in decisions} == {"baseline"}
    assert {decision.action for decision in decisions} == {1, 2}
    assert scaled in (list(range(20, 30)), list(range(21, 30)))
