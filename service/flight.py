"""A flight: requests that one version decides together, what they are decided by, and what was chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct

from guards.baselines import Propose
from guards.errors import PolicyUnavailable
from guards.records import NO_ACTION, Booleans, Floats, Integers, Schema
from guards.shield import Shield
from service.explore import Draw, Explorer
from service.ids import Key
from service.records import DecisionSource, Durability, Track
from service.requests import Request
from service.sessions import Moment


@dataclass(frozen=True, slots=True)
class Plane:
    """What all decisions of a process have in common, bound once at start."""

    schema: Schema
    shield: Shield
    explorer: Explorer
    baseline: Propose
    last_resort: int | None
    key: Key
    writer: bytes
    config: str
    durability: Durability


class Flight(Struct, frozen=True, kw_only=True):
    """Requests that one version decides together, and where their records will stand in the log.

    ``observation[N, F]`` are their observations; ``departed`` (s, monotonic) is when inference began.
    """

    rows: Sequence[Request]
    observation: Floats
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

    def before(self, row: int) -> Moment:
        """What a row continues."""
        entry = self.rows[row].entry
        assert entry is not None  # noqa: S101 - the turn finds it before the flight departs
        return entry


@dataclass(slots=True)
class Choice:
    """What is chosen for each of N rows; ``why`` has the rows that the policy could not decide."""

    proposed: Integers
    action: Integers
    propensity: Floats
    explored: Booleans
    source: list[DecisionSource]
    why: dict[int, PolicyUnavailable]

    @classmethod
    def drawn(cls, draw: Draw) -> "Choice":
        """What the policy's draw chose for every row."""
        return cls(draw.proposed, draw.action, draw.propensity, draw.explored, ["policy"] * len(draw.action), {})

    @classmethod
    def nothing(cls, n: int, why: dict[int, PolicyUnavailable]) -> "Choice":
        """Nothing chosen yet."""
        none = np.full(n, NO_ACTION, dtype=np.int64)
        return cls(none, none.copy(), np.ones(n), np.zeros(n, dtype=np.bool_), ["policy"] * n, why)
