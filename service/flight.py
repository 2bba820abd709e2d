"""A flight: requests that one version decides together, what they are decided by, and what was chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec import Struct

from guards.abstention import Doubts
from guards.baselines import Propose, Remember
from guards.batched import Shield
from guards.errors import PolicyUnavailable
from guards.records import Actions, Booleans, Floats, Schema
from guards.shield import Violation
from service.draws import Draw
from service.explore import Acting, Explorer
from service.ids import Key
from service.records import DecisionSource, Durability, Measure, Packed, Track
from service.requests import Request


@dataclass(frozen=True, slots=True)
class Plane:
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


class Flight(Struct, frozen=True, kw_only=True):
    """Requests that one version decides together, and where their records will stand in the log.

    ``observation[N, ...]`` are their observations; ``departed`` (s, monotonic) is when inference began. ``spread`` and
    ``memory`` are a number and what the memory was before the step for each row, where the policy has them. Where the
    flight is ``unlogged`` it has no place in the log, and ``seq`` counts those that have none.
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
    departed: float
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
