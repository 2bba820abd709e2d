"""A batch: requests that one version decides together, what they are decided by, what is chosen, what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from msgspec import Struct

from guards.baselines import Propose, Remember
from guards.doubts import Doubts
from guards.errors import PolicyUnavailable
from guards.records import Actions, Booleans, Floats, Schema
from guards.shield import Shield, Violation
from service.decision.explore.draws import Draw
from service.decision.explore.explorers import Acting, Explorer
from service.decision.sessions import Report, Sessions, SessionState
from service.errors import RequestRefused
from service.log.ids import Key
from service.log.records import Decision, DecisionSource, Durability, Feedback, Measure, Packed, Refused, Track

Outcome = Decision | Refused | RequestRefused


class Waiter(Protocol):
    """Who waits for an outcome: a future, or a connection that writes the answer itself."""

    def done(self) -> bool:
        """Whether it has its outcome, or waits no longer."""

    def set_result(self, outcome: Outcome, /) -> None:
        """Take the outcome."""


class Request(Struct, kw_only=True):
    """What was asked, decoded and checked, and who waits for the answer.

    ``observation`` is one row; ``at`` and ``now`` in seconds since 1970, ``arrived``, ``read`` and ``deadline`` in
    seconds of the monotonic clock: ``arrived`` is when its first byte came, ``read`` when all of it was here and
    decoded, which is also ``at``. ``now`` is what the guards go by: ``at``, or the caller's ``observed_at`` where the
    configuration says so (``timed``). ``feedback`` still lacks its place in the log, and its decision where that is the
    one before; ``report`` is what is remembered of such. ``entry`` is found when its batch is made, ``after`` is where
    its decision left the session, once that is in the journal.
    """

    session: str
    observation: Sequence[float] | np.ndarray
    previous: str | None
    begins: bool
    feedback: Feedback | None
    facts: dict[str, float] | None
    mask: list[bool] | None
    explore: bool
    options: dict[str, bool | float | str] | None
    at: float
    now: float
    observed_at: float | None
    arrived: float
    read: float
    deadline: float
    answer: Waiter
    timed: bool = False
    report: Report | None = None
    entry: SessionState | None = None
    after: SessionState | None = None

    def enter(self, sessions: Sessions) -> SessionState:
        """Find what the request continues."""
        if self.begins:
            entry = sessions.begun(self.now)
        elif self.previous is not None:
            entry = sessions.following(self.session, self.previous, self.now)
        else:
            entry = sessions.remembered(self.session, self.now)
        told, before = self.feedback, entry.decision_id
        if told is not None and told.ends and before is not None and told.decision_id in ("", before):
            entry = sessions.begun(self.now, before)
        self.entry = entry
        return entry

    def settle(self, outcome: Outcome) -> None:
        """Give the answer to who waits for it; who has gone gets none."""
        if not self.answer.done():
            self.answer.set_result(outcome)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What all decisions of a process have in common, bound once at start.

    ``remember`` is what the ``baseline`` keeps in each session's history, where it has a memory.
    """

    schema: Schema
    shield: Shield
    explorer: Explorer
    acting: Acting
    baseline: Propose
    last_resort: Actions | None
    key: Key
    writer: bytes
    config: str
    durability: Durability
    mask_required: bool = False
    doubts: Doubts = field(default_factory=Doubts)
    remember: Remember | None = None


class Batch(Struct, frozen=True, kw_only=True):
    """Requests that one version decides together, and where their records will stand in the log.

    ``observation[N, ...]`` are their observations; ``departed`` (s, monotonic) is when inference began. ``spread`` and
    ``memory`` are a number and what the memory was before the step for each row, where the policy has them. Where the
    batch is ``unlogged`` it has no place in the log, and ``seq`` counts those that have none.
    """

    rows: Sequence[Request]
    observation: np.ndarray
    version: str
    digest: str
    track: Track
    track_probability: float
    seq: int
    ms: int
    generation: int
    may_explore: bool
    infer_began: float
    infer_us: int
    spread: Sequence[float | None] | None = None
    memory: Sequence[dict[str, Packed]] | None = None
    unlogged: bool = False


@dataclass(slots=True)
class Choice:
    """What is chosen for each of N rows.

    ``why`` has the rows that the policy could not decide, ``beyond`` those whose propensity no number can say,
    ``doubted`` what is to be said of the policy's answer to each row that was doubted or refused, ``unknown`` the rows
    whose propensity would need all whole actions to be listed.
    """

    proposed: Actions
    action: Actions
    propensity: Floats
    explored: Booleans
    measure: list[Measure]
    source: list[DecisionSource]
    why: dict[int, PolicyUnavailable]
    beyond: set[int]
    doubted: dict[int, list[Violation]] = field(default_factory=dict)
    unknown: set[int] = field(default_factory=set)

    @classmethod
    def drawn(cls, draw: Draw) -> "Choice":
        """What the policy's draw chose for every row."""
        n = len(draw.action)
        measure: list[Measure] = list(draw.measure) if draw.measure else ["mass"] * n
        beyond = set() if draw.beyond is None else set(np.flatnonzero(draw.beyond).tolist())
        return cls(draw.proposed, draw.action, draw.propensity, draw.explored, measure, ["policy"] * n, {}, beyond)

    @classmethod
    def nothing(cls, n: int, nothing: Actions, why: dict[int, PolicyUnavailable]) -> "Choice":
        """Nothing chosen yet: every row is the one that holds no action."""
        none = np.full((n, *nothing.shape), nothing)
        return cls(
            proposed=none,
            action=none.copy(),
            propensity=np.ones(n),
            explored=np.zeros(n, dtype=np.bool_),
            measure=["mass"] * n,
            source=["policy"] * n,
            why=why,
            beyond=set(),
        )

    def put(self, rows: list[int], part: "Choice") -> None:
        """Put the choice for some rows in place."""
        self.proposed[rows], self.action[rows] = part.proposed, part.action
        self.propensity[rows], self.explored[rows] = part.propensity, part.explored
        for row, measure in zip(rows, part.measure, strict=True):
            self.measure[row] = measure
        self.why.update((rows[i], failed) for i, failed in part.why.items())
        self.beyond.update(rows[i] for i in part.beyond)


class Committed(Struct, frozen=True, kw_only=True, eq=False):
    """A batch that was committed, for whoever counts: its records and requests, in the same order, and its feedback."""

    version: str
    records: Sequence[Decision | Refused]
    requests: Sequence[Request]
    feedback: Sequence[Feedback]
    observation: np.ndarray
    infer_began: float
    infer_us: int
    decide_us: int
    journal_us: int
