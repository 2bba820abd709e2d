"""The autoscaler with a policy that always does the worst: behind the shield it breaks no constraint."""

import sys
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from examples.autoscaler.dynamics import ACTION_NAMES, ACTIONS, FIELDS, STEP_SECONDS, Service, observation, step
from examples.autoscaler.episode import Totals, first_state
from examples.autoscaler.traces import read_csv
from export.spec import Field, Fields
from tests import artefacts
from tests.in_process import serving

ROOT = Path(__file__).resolve().parents[2]
TRACE = ROOT.parent / "shared" / "traces" / "worldcup98.csv"
SPACE = Fields(fields=tuple(Field(name=field.name, unit=field.unit) for field in FIELDS))
_DOWN = ("scale_down_1", "scale_down_2")


def harmful() -> bytes:
    """A policy that scales down while the load rises, and up while it falls."""
    weights = np.zeros((len(FIELDS), len(ACTIONS)))
    trend = [field.name for field in FIELDS].index("load_trend")
    weights[trend] = [1.0, 0.5, 0.0, -0.5, -1.0]
    return artefacts.linear(weights, observation=SPACE, actions=ACTION_NAMES)


def broken(seen: dict[str, float], action: str, at: float, downs: list[float]) -> list[str]:
    """The constraints of policy.toml that an action breaks, read off them by hand."""
    change = ACTIONS[ACTION_NAMES.index(action)]
    found = []
    if (change > 0 and seen["replicas"] + change > 30) or (change < 0 and seen["replicas"] + change < 2):
        found.append("2 to 30 replicas")
    if action in _DOWN and downs and at - downs[-1] < 150:
        found.append("scale-down cooldown")
    if action in _DOWN and seen["cpu"] > 0.9:
        found.append("no scale-down under load")
    return found


async def played(folder: Path, steps: int, *, shielded: bool) -> tuple[Totals, Counter[str]]:
    """Play the real trace over and over; what it came to, and what was broken on the way."""
    if not TRACE.exists():
        pytest.skip(f"the real trace is not there: {TRACE}")
    service = Service()
    trace = read_csv(TRACE, replica_rps=service.replica_rps)
    settings = tomllib.loads((ROOT / "policy.toml").read_text())
    constraints = settings["constraints"] if shielded else []
    state, totals = first_state(trace, service), Totals()
    broke: Counter[str] = Counter()
    downs: list[float] = []
    previous = None
    told = {"constraints": constraints, "guard_clock": "observed_at", "baseline": settings["baseline"]}
    with serving(folder, harmful(), **told) as plane:
        for minute in range(steps):
            seen, at = observation(state, service), minute * STEP_SECONDS
            reply = (await plane.act("web", seen, previous=previous, observed_at=at)).json()
            previous, action = reply["decision_id"], reply["action_name"]
            broke.update(broken(seen, action, at, downs))
            if action in _DOWN:
                downs.append(at)
            arrivals = float(trace.requests[minute % len(trace.requests)])
            state, outcome = step(state, ACTIONS[ACTION_NAMES.index(action)], arrivals, service)
            totals = totals.with_minute(state, outcome)
    return totals, broke


async def compare(folder: Path, steps: int) -> None:
    """Hold the shielded run to no broken constraint, and say what both came to."""
    shielded, broke = await played(folder / "shielded", steps, shielded=True)
    bare, bare_broke = await played(folder / "bare", steps, shielded=False)

    for name, totals, found in (("shielded", shielded, broke), ("unshielded", bare, bare_broke)):
        sys.stdout.write(
            f"{name}: cost {totals.cost:.0f}, {totals.breach_minutes} of {steps} minutes in breach, return "
            f"{totals.reward:.0f}, broke {dict(found) or 'nothing'}\n"
        )
    assert broke.total() == 0
    assert bare_broke.total() > steps / 10


async def test_a_harmful_policy_breaks_no_constraint(tmp_path: Path) -> None:
    """Over a part of the real trace, with the constraints of the bundled policy.toml."""
    await compare(tmp_path, 2_000)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_harmful_policy_breaks_no_constraint_in_100_000_steps(tmp_path: Path) -> None:
    """The same over 100,000 minutes of the real trace."""
    await compare(tmp_path, 100_000)
