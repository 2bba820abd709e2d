"""The report: the statistics for people and scripts, as one JSON document."""

from collections import Counter, defaultdict
from typing import Any

from service.telemetry.stats import STAGES, Cell, Stats

QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def report(stats: Stats) -> dict[str, Any]:
    """What was decided since the process started: latencies in milliseconds, shares of decisions."""
    stats.catch_up()
    cells = {Cell(*labels): count for labels, count in stats.decisions.items()}
    total = sum(cells.values())
    explored = sum(count for cell, count in cells.items() if cell.explored)
    not_ok = _by(cells, "why_not_ok")
    return {
        "decisions": total,
        "mean_batch": round(total / stats.batches, 3) if stats.batches else None,
        "latency_ms": _latency(stats),
        "safety_violations": _violations(stats),
        "late_answers": dict(stats.late),
        "fallbacks": _by(cells, "reason"),
        "sources": _by(cells, "source"),
        "actions": stats.actions(),
        "exploration_rate": explored / total if total else None,
        "propensity_not_ok": {
            "share": sum(not_ok.values()) / total if total else None,
            "by_reason": not_ok,
            "action_space": stats.action_space,
            "strata": _strata(cells),
        },
        "not_replayable": stats.not_replayable,
        "out_of_range": dict(stats.out_of_range),
        "feedback": dict(stats.feedback),
        "refused": dict(stats.refused),
    }


def _by(cells: dict[Cell, int], label: str) -> dict[str, int]:
    """How many decisions have each value of a label; those that have none are left out."""
    counts: Counter[str] = Counter()
    for cell, count in cells.items():
        if (value := getattr(cell, label)) is not None:
            counts[value] += count
    return dict(counts)


def _strata(cells: dict[Cell, int]) -> list[dict[str, Any]]:
    """Where propensities are not ok: leaving such rows out of a dataset censors exactly these decisions.

    ``reason`` is why the policy did not decide; None where it did.
    """
    totals: Counter[tuple[str, ...]] = Counter()
    lost: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for cell, count in cells.items():
        stratum = (cell.version, cell.track, cell.source, cell.reason or "")
        totals[stratum] += count
        if cell.why_not_ok is not None:
            lost[stratum][cell.why_not_ok] += count
    return [
        {
            "version": version,
            "track": track,
            "source": source,
            "reason": reason or None,
            "decisions": total,
            "share": lost[stratum].total() / total,
            "by_reason": dict(lost[stratum]),
        }
        for stratum, total in sorted(totals.items())
        for version, track, source, reason in [stratum]
    ]


def _latency(stats: Stats) -> dict[str, dict[str, dict[str, float | None]]]:
    """By version and stage: quantiles in milliseconds, each within 1 %."""
    return {
        version: {
            stage: {
                name: None if (us := stats.stages[stage, version].quantile_us(q)) is None else round(us / 1000, 4)
                for name, q in QUANTILES.items()
            }
            for stage in STAGES
            if (stage, version) in stats.stages
        }
        for version in sorted({version for _, version in stats.stages})
    }


def _violations(stats: Stats) -> dict[str, Any]:
    """Proposals that were prevented, what was executed all the same, and what warnings and audits report."""
    by_verdict: dict[str, Counter[str]] = {"prevented": Counter(), "executed": Counter(), "reported": Counter()}
    for one, count in stats.violations.items():
        by_verdict[one.verdict][one.constraint] += count
    return {
        verdict: {"total": sum(counts.values()), "by_constraint": dict(counts)}
        for verdict, counts in by_verdict.items()
    }
