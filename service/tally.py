"""The tally: what has been decided, counted once from the records; the report and the metrics are readings of it."""

from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np

from export.spec import Fields
from guards.records import Schema
from service.errors import RequestRefused
from service.landing import Landed
from service.records import Decision
from service.sketch import Sketch

STAGES = ("wait", "infer", "decide", "journal", "total")


class Cell(NamedTuple):
    """The labels that decisions are counted by; all are from closed sets."""

    version: str
    track: str
    source: str
    reason: str | None
    action: int
    explored: bool
    propensity_ok: bool
    why_not_ok: str | None


class Tally:
    """Everything that is counted in a data plane."""

    def __init__(self, schema: Schema) -> None:
        self.decisions: Counter[Cell] = Counter()
        self.violations: Counter[tuple[str, str]] = Counter()
        self.refused: Counter[str] = Counter()
        self.feedback: Counter[str] = Counter()
        self.out_of_range: Counter[str] = Counter()
        self.flights = 0
        self.stages: defaultdict[tuple[str, str], Sketch] = defaultdict(Sketch)
        self._low, self._high, self._names = _bounds(schema)

    def landed(self, landed: Landed, now: float) -> None:
        """Count a flight whose answers are on their way; ``now`` in seconds, monotonic."""
        version, n = "", 0
        cells, total = self.decisions, None
        for request, record in zip(landed.requests, landed.records, strict=True):
            if not isinstance(record, Decision):
                self.refused["no_safe_action"] += 1
                continue
            if total is None:
                version = record.version
                total, wait = self.stages["total", version], self.stages["wait", version]
            cells[
                Cell(
                    version,
                    record.track,
                    record.source,
                    record.reason,
                    record.action,
                    record.explored,
                    record.propensity_ok,
                    record.why_not_ok,
                )
            ] += 1
            total.add(int((now - request.arrived) * 1e6))
            wait.add(record.durations["wait_us"])
            for violation in record.violations:
                self.violations[violation.constraint, violation.verdict] += 1
            n += 1
        if n:
            self.stages["infer", version].add(landed.infer_us, n)
            self.stages["decide", version].add(landed.decide_us, n)
            self.stages["journal", version].add(landed.journal_us, n)
        self.flights += 1
        for told in landed.feedback:
            self.feedback["late" if told.late else "accepted"] += 1
        if self._names:
            self._count_strays(landed.observation)

    def refuse(self, error: RequestRefused) -> None:
        """Count a request that was answered with an error."""
        self.refused[error.code] += 1

    def _count_strays(self, observation: np.ndarray) -> None:
        stray = (observation < self._low) | (observation > self._high)
        if stray.any():
            for name, count in zip(self._names, stray.sum(axis=0).tolist(), strict=True):
                if count:
                    self.out_of_range[name] += count

    def __repr__(self) -> str:
        return f"<Tally {sum(self.decisions.values())} decisions in {self.flights} flights>"


def _bounds(schema: Schema) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The declared range of each field; no names where nothing is declared and nothing has to be compared."""
    fields = schema.observation.fields if isinstance(schema.observation, Fields) else ()
    low = np.array([-np.inf if field.low is None else field.low for field in fields])
    high = np.array([np.inf if field.high is None else field.high for field in fields])
    bounded = bool(np.isfinite(low).any() or np.isfinite(high).any())
    return low, high, schema.fields if bounded else ()
