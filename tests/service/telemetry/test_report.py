"""The report: shares and quantiles that people and scripts can trust."""

import json
from collections import Counter

import numpy as np
import pytest

from guards.shield import Violation
from service.telemetry.report import report
from service.telemetry.stats import Cell, Stats
from tests.fakes import SCHEMA

POLICY = Cell("v-1", "stable", "policy", None, 1, False, True, None)
EXPLORED = POLICY._replace(action=2, explored=True)
LATE = "DeadlineExceeded"
FAILED = POLICY._replace(source="baseline", reason=LATE, action=0, propensity_ok=False, why_not_ok=LATE)
UNSAFE = POLICY._replace(source="last_resort", reason="NoSafeAction", action=0)


def stats_of(cells: dict[Cell, int]) -> Stats:
    """Statistics of these decisions."""
    stats = Stats(SCHEMA)
    stats.decisions = Counter({tuple(cell): count for cell, count in cells.items()})
    stats.batches = 4
    return stats


def test_shares_are_of_all_decisions() -> None:
    """Exploration, sources, fallbacks and propensities that are not known, each as counted."""
    told = report(stats_of({POLICY: 5, EXPLORED: 3, FAILED: 1, UNSAFE: 1}))

    assert (told["decisions"], told["mean_batch"], told["exploration_rate"]) == (10, 2.5, 0.3)
    assert told["sources"] == {"policy": 8, "baseline": 1, "last_resort": 1}
    assert told["fallbacks"] == {"DeadlineExceeded": 1, "NoSafeAction": 1}
    assert (told["propensity_not_ok"]["share"], told["propensity_not_ok"]["by_reason"]) == (0.1, {LATE: 1})
    assert told["actions"] == {"hold": 2, "up": 5, "down": 3, "jump": 0, "rest": 0, "drop": 0}


def test_propensities_that_are_not_known_are_told_by_stratum() -> None:
    """What a dataset without them would lack: by version, track, source and reason, each with its own share."""
    moved = POLICY._replace(version="v-2", track="canary", propensity_ok=False, why_not_ok="Projected")
    whole = POLICY._replace(version="v-2", track="canary")
    told = report(stats_of({POLICY: 5, EXPLORED: 3, FAILED: 2, moved: 1, whole: 3}))["propensity_not_ok"]

    assert told["action_space"] == "discrete"
    assert [tuple(stratum.values()) for stratum in told["strata"]] == [
        ("v-1", "stable", "baseline", LATE, 2, 1.0, {LATE: 2}),
        ("v-1", "stable", "policy", None, 8, 0.0, {}),
        ("v-2", "canary", "policy", None, 4, 0.25, {"Projected": 1}),
    ]
    assert list(told["strata"][0]) == ["version", "track", "source", "reason", "decisions", "share", "by_reason"]
    assert sum(stratum["decisions"] for stratum in told["strata"]) == 14


def test_violations_are_by_verdict() -> None:
    """What was prevented, what was executed all the same, and what is only reported."""
    stats = stats_of({POLICY: 1})
    stats.violations = Counter(
        {Violation("a", "prevented"): 2, Violation("b", "prevented"): 1, Violation("a", "executed"): 4}
    )
    told = report(stats)["safety_violations"]

    assert told["prevented"] == {"total": 3, "by_constraint": {"a": 2, "b": 1}}
    assert told["executed"] == {"total": 4, "by_constraint": {"a": 4}}
    assert told["reported"] == {"total": 0, "by_constraint": {}}


@pytest.mark.parametrize(("name", "q"), [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)])
def test_quantiles_are_in_milliseconds_within_two_percent(name: str, q: float) -> None:
    """Each version's own."""
    stats = stats_of({POLICY: 1})
    generator = np.random.default_rng(5)
    durations = {version: generator.lognormal(np.log(us), 0.8, 20_000) for version, us in (("v-1", 300), ("v-2", 9000))}
    for version, us in durations.items():
        stats.stages["total", version].add_all(us)
    told = report(stats)["latency_ms"]

    assert list(told) == ["v-1", "v-2"]
    for version, us in durations.items():
        assert told[version]["total"][name] == pytest.approx(np.quantile(us, q) / 1000, rel=0.02)


def test_nothing_decided_yet_has_no_shares() -> None:
    """Null, and no division by nothing."""
    told = report(Stats(SCHEMA))

    assert (told["decisions"], told["mean_batch"], told["exploration_rate"]) == (0, None, None)
    assert told["propensity_not_ok"]["share"] is None
    assert told["latency_ms"] == {}
    assert json.loads(json.dumps(told, allow_nan=False)) == told
