"""Statistics: what has been decided, counted once from the records; the report and the metrics are readings of them.

Named actions are counted by the cells. Of other spaces there are too many actions for that: the choices of each factor
are counted by themselves, and of each number of a Box the smallest, the mean and the largest are kept.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from export.spec import Box, Dict, Fields, MultiDiscrete
from guards.records import Action, Schema
from guards.shield import Violation
from service.decision.batch import Batch
from service.errors import RequestRefused
from service.log.records import Decision, DecisionSource
from service.telemetry.histogram import Histogram

STAGES = ("wait", "infer", "decide", "journal", "total")


class MultiDiscreteActionStats:
    """How often each choice of each factor was made."""

    def __init__(self, space: MultiDiscrete) -> None:
        self._names = [[f"{factor.name}={name}" for name in factor.names] for factor in space.factors]
        self._counts: Counter[str] = Counter()

    def count(self, actions: Sequence[Action]) -> None:
        """Count executed actions."""
        for names, choices in zip(self._names, np.array(actions, dtype=np.int64).T, strict=True):
            self._counts.update(dict(zip(names, np.bincount(choices, minlength=len(names)).tolist(), strict=True)))

    def to_json(self) -> dict[str, int]:
        """What was executed."""
        return {name: self._counts[name] for names in self._names for name in names}


class BoxActionStats:
    """The least, the mean and the most of each number."""

    def __init__(self, space: Box) -> None:
        self._names = [field.name for field in space.fields]
        self._least, self._most = np.full(space.width, np.inf), np.full(space.width, -np.inf)
        self._mean, self._seen = np.zeros(space.width), 0

    def count(self, actions: Sequence[Action]) -> None:
        """Count executed actions."""
        numbers = np.array(actions, dtype=np.float64)
        self._least = np.minimum(self._least, numbers.min(axis=0))
        self._most = np.maximum(self._most, numbers.max(axis=0))
        self._seen += len(numbers)
        # Weighted before they are added: a sum of large numbers may be more than a double can hold.
        share = len(numbers) / self._seen
        self._mean = self._mean * (1 - share) + (numbers / len(numbers)).sum(axis=0) * share

    def to_json(self) -> dict[str, dict[str, float]]:
        """What was executed; nothing of none."""
        if not self._seen:
            return {}
        rows = zip(self._names, self._least.tolist(), self._mean.tolist(), self._most.tolist(), strict=True)
        return {name: {"min": least, "mean": mean, "max": most} for name, least, mean, most in rows}


class Cell(NamedTuple):
    """The labels that decisions are counted by; all are from closed sets.

    ``action`` is None where actions are not one of a list: there are too many of them to count each.
    """

    version: str
    track: str
    source: str
    reason: str | None
    action: int | None
    explored: bool
    propensity_ok: bool
    why_not_ok: str | None


# Attributes of a decision in the order of a cell's labels.
_labels = attrgetter(*Cell._fields)
_labels_but_action = attrgetter(*(name for name in Cell._fields if name != "action"))
# Batches that are counted together: counting one at a time, between socket calls, costs several times as much, and
# keeping many more would push what decisions need out of the processor's cache.
_BACKLOG = 32


class Stats:
    """Everything that is counted in a data plane; read it after ``catch_up``."""

    def __init__(self, schema: Schema) -> None:
        self.decisions: Counter[tuple[Any, ...]] = Counter()
        self.violations: Counter[Violation] = Counter()
        self.refused: Counter[str] = Counter()
        self.feedback: Counter[str] = Counter()
        self.late: Counter[str] = Counter()
        self.out_of_range: Counter[str] = Counter()
        self.not_replayable = 0
        self.batches = 0
        self.stages: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)
        space = schema.action
        self.action_space = space.kind
        self._action_names = schema.actions
        # Of actions that the cells do not tell apart.
        self._action_stats: MultiDiscreteActionStats | BoxActionStats | None = None
        if isinstance(space, MultiDiscrete):
            self._action_stats = MultiDiscreteActionStats(space)
        elif isinstance(space, Box):
            self._action_stats = BoxActionStats(space)
        self._low, self._high, self._names = _bounds(schema)
        # Of a Dict, named numbers are some of a row's only.
        named = isinstance(schema.observation, Fields)
        self._columns = slice(None) if named else list(schema.columns.values())
        self._backlog: list[tuple[Batch, float]] = []

    def committed(self, batch: Batch, now: float) -> None:
        """Count a batch whose answers are on their way, soon; ``now`` in seconds, monotonic."""
        self._backlog.append((batch, now))
        if len(self._backlog) >= _BACKLOG:
            self.catch_up()

    def refuse(self, error: RequestRefused) -> None:
        """Count a request that was answered with an error."""
        self.refused[error.code] += 1

    def answer_late(self, source: DecisionSource) -> None:
        """Count a decision whose answer left after its deadline, by who decided."""
        self.late[source] += 1

    def catch_up(self) -> None:
        """Count what was committed since the last time."""
        backlog, self._backlog = self._backlog, []
        self.batches += len(backlog)
        by_version: defaultdict[str, list[tuple[Batch, float]]] = defaultdict(list)
        for batch, now in backlog:
            by_version[batch.engine.label].append((batch, now))
        for version, batches in by_version.items():
            self._count(version, batches)
        if self._names and backlog:
            self._count_strays(np.concatenate([batch.observation for batch, _ in backlog]))

    def label(self, action: int | None) -> str:
        """What decisions that were counted by this action, or by none, are called: a name out of few."""
        return self.action_space if action is None else self._action_names[action]

    def actions(self) -> dict[str, Any]:
        """What was executed."""
        if self._action_stats is not None:
            return self._action_stats.to_json()
        done = dict.fromkeys(self._action_names, 0)
        for labels, count in self.decisions.items():
            done[self.label(Cell(*labels).action)] += count
        return done

    def _count(self, version: str, batches: list[tuple[Batch, float]]) -> None:
        """Count batches of one version."""
        records = [record for batch, _ in batches for record in batch.records]
        is_made = np.array([type(record) is Decision for record in records], dtype=np.bool_)
        made = [record for record in records if isinstance(record, Decision)]
        if len(made) < len(records):
            self.refused["no_safe_action"] += len(records) - len(made)
        if self._action_stats is None:
            self.decisions.update(map(_labels, made))
        elif made:
            self.decisions.update((*labels[:4], None, *labels[4:]) for labels in map(_labels_but_action, made))
            self._action_stats.count([record.action for record in made])
        # What is empty where there was something is too large to be logged.
        self.not_replayable += sum(r.memory == {} or (r.head is None and r.reason is None) for r in made)
        self.violations.update(chain.from_iterable([record.violations for record in made]))
        self.feedback.update("late" if told.late else "accepted" for batch, _ in batches for told in batch.feedback)
        counts = [len(batch.records) for batch, _ in batches]
        arrived = np.array([request.arrived for batch, _ in batches for request in batch.requests])
        for stage, us in (
            ("total", (np.repeat([now for _, now in batches], counts) - arrived) * 1e6),
            ("wait", (np.repeat([batch.began for batch, _ in batches], counts) - arrived) * 1e6),
            ("infer", np.repeat([batch.infer_us for batch, _ in batches], counts)),
            ("decide", np.repeat([batch.decide_us for batch, _ in batches], counts)),
            ("journal", np.repeat([batch.journal_us for batch, _ in batches], counts)),
        ):
            self.stages[stage, version].add_all(us[is_made])

    def _count_strays(self, observation: np.ndarray) -> None:
        """Count numbers outside their declared range: they are answered, but somebody should look."""
        told = observation[:, self._columns]
        stray = (told < self._low) | (told > self._high)
        for name, count in zip(self._names, stray.sum(axis=0).tolist(), strict=True):
            if count:
                self.out_of_range[name] += count

    def __repr__(self) -> str:
        return f"<Stats {self.decisions.total()} decisions in {self.batches} batches, {len(self._backlog)} to count>"


def _bounds(schema: Schema) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The declared range of each field; no names where nothing is declared and nothing has to be compared."""
    space = schema.observation
    parts = [entry.space for entry in space.entries] if isinstance(space, Dict) else [space]
    fields = [field for part in parts if isinstance(part, Fields) for field in part.fields]
    low = np.array([-np.inf if field.low is None else field.low for field in fields])
    high = np.array([np.inf if field.high is None else field.high for field in fields])
    bounded = bool(np.isfinite(low).any() or np.isfinite(high).any())
    return low, high, schema.fields if bounded else ()
