"""The records of the journal, and the few things that travel on the way of a decision.

Every record carries ``v`` (the format), ``seq`` (its place in its writer's log, from 1 without gaps) and ``ms`` (when,
never running backwards within a writer). Arrays of more than 64 elements are written as ``Packed``.
"""

from base64 import b64decode, b64encode
from hashlib import blake2b
from typing import Literal

import msgspec
import numpy as np

from export.spec import Squash
from guards.records import Action, History
from guards.shield import Violation

V = 1
Track = Literal["stable", "canary", "shadow"]
DecisionSource = Literal["policy", "baseline", "last_resort"]
Durability = Literal["none", "memory", "journal", "disk"]
# What a propensity is of: points (discrete actions, numbers on their bounds), a density, or both in different numbers.
Measure = Literal["mass", "density", "mixed"]
LIST_LIMIT = 64
# Heads of more actions than this are not logged; such a decision cannot be replayed, and says so.
HEAD_LIMIT = 4096
# Nor are memories of more numbers than this: such a decision can be replayed from its head on, but not its head.
MEMORY_LIMIT = 4096


class Packed(msgspec.Struct, frozen=True):
    """An array as base64 of its little-endian bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: str

    @classmethod
    def of(cls, array: np.ndarray) -> "Packed":
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        return cls(array.dtype.name, array.shape, b64encode(little.tobytes()).decode("ascii"))

    def array(self) -> np.ndarray:
        """The array again, in native byte order."""
        dtype = np.dtype(self.dtype)
        raw = np.frombuffer(b64decode(self.data), dtype=dtype.newbyteorder("<"))
        return raw.astype(dtype).reshape(self.shape)


Numbers = list[float] | Packed
Bits = list[bool] | Packed


def listed(array: np.ndarray) -> Numbers:
    """An array of numbers as a list, or packed where it is long or has more than one axis."""
    if array.ndim == 1 and array.size <= LIST_LIMIT:
        numbers: list[float] = array.tolist()
        return numbers
    return Packed.of(array)


def unlisted(numbers: Numbers | Bits, dtype: str) -> np.ndarray:
    """What ``listed`` wrote, as an array."""
    return numbers.array() if isinstance(numbers, Packed) else np.array(numbers, dtype=dtype)


class Record(msgspec.Struct, frozen=True, tag_field="kind", tag=str.lower, kw_only=True):
    """What every line of the journal says."""

    # Made by a call, so that no record leaves it out: what is left out has its default.
    v: int = msgspec.field(default_factory=lambda: V)
    seq: int
    ms: int


class Writer(Record, frozen=True, omit_defaults=True):
    """The first record of a writer: who it is, and everything its later records refer to by digest.

    ``ahead_ms`` is by how much its clock is ahead of that of each writer before it in its folder, where that is known:
    the wall clock may have been set between them. ``numerics`` is which arithmetic its draws are made with,
    ``fingerprint`` what that gives on its machine. Logs from before these were told have none of them.
    """

    writer: str
    service: str
    config_digest: str
    config: msgspec.Raw
    versions: dict[str, str]
    key_fingerprint: str
    wait_s: float
    ahead_ms: dict[str, int] = {}
    numerics: int = 0
    fingerprint: str = ""


class Heartbeat(Record, frozen=True):
    """An idle writer is alive, and its log is complete up to here."""


class Decision(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One decision: what was seen, what could have been done, what was done and with which probability.

    What is null, empty or false by default is left out of the line. ``config`` is the first 16 digits of the
    configuration's digest, which the writer's first record has whole. ``memory`` is what a policy's memory was before
    the step, by name; empty where it is too large to be logged. ``moved`` is how far the constraints moved what was
    proposed in a Box, in units of the numbers' ranges.
    """

    id: str
    session: str
    episode: str | None
    step: int | None
    at: float
    observed_at: float | None = None
    previous: str | None
    track: Track
    track_probability: float
    version: str
    digest: str
    observation: Numbers
    facts: dict[str, float] | None = None
    mask: Bits | None = None
    options: dict[str, bool | float | str] | None = None
    head: Packed | None
    spread: float | None = None
    memory: dict[str, Packed] | None = None
    allowed: Bits
    state: History
    config: str
    explorer: str
    key: int
    proposed: Action | None
    action: Action
    propensity: float
    measure: Measure
    squash: Squash = "none"
    propensity_ok: bool
    why_not_ok: str | None = None
    source: DecisionSource
    reason: str | None = None
    violations: list[Violation] = []
    explored: bool = False
    moved: float | None = None
    generation: int
    durations: dict[str, int]
    durability: Durability


class Refused(Record, frozen=True):
    """A request that no action could be found for: answered 503, and on the record all the same."""

    session: str
    at: float
    observation: Numbers
    reason: str
    violations: list[Violation]


class Feedback(Record, frozen=True, omit_defaults=True):
    """What came of a decision, as it was told.

    What is null or false by default is left out of the line. ``feedback_id`` names the report among those about its
    decision: one that is told again is the same. ``session`` is that of the ``/act`` that it came with.
    """

    decision_id: str
    at: float
    feedback_id: str | None = None
    session: str | None = None
    reward: float | None = None
    next_observation: Numbers | None = None
    terminated: bool = False
    truncated: bool = False
    executed_action: Action | None = None
    activated: bool | None = None
    late: bool = False

    @property
    def ends(self) -> bool:
        """Whether the decision was the last of its episode."""
        return self.terminated or self.truncated

    def said(self) -> bytes:
        """What it says as 16 bytes, the same however often, when and on which way it is told."""
        told = msgspec.structs.replace(
            self, seq=0, ms=0, at=0.0, decision_id="", feedback_id=None, session=None, late=False
        )
        return blake2b(encode_record(told), digest_size=16).digest()


# Why there is something that the log does not have: a segment was taken away or cut, with ``first`` to ``last`` in it;
# decisions were answered while nothing could be written, and have no place in the log; so was feedback with them.
SEGMENT_LOST, UNLOGGED, UNLOGGED_FEEDBACK = "segment_lost", "unlogged", "unlogged_feedback"


class Loss(Record, frozen=True, kw_only=True):
    """What could not be kept: how much of it, why, and where that had places in this log, from which to which."""

    count: int
    cause: str
    first: int = 0
    last: int = 0


AnyRecord = Writer | Heartbeat | Decision | Refused | Feedback | Loss

encode_record = msgspec.json.Encoder().encode
decode_record = msgspec.json.Decoder(AnyRecord).decode


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """What a trainer reads: a decision with what came of it."""

    v: int = V
    decision_id: str
    writer: str
    seq: int
    session: str
    episode: str | None
    step: int | None
    at: float
    observation: Numbers
    action: Action
    reward: float
    reward_ok: bool
    next_observation: Numbers | None
    terminated: bool
    truncated: bool
    closed_by: Literal["feedback", "next_act", "timeout", "episode_end"]
    propensity: float
    propensity_ok: bool
    why_not_ok: str | None
    measure: Measure
    track: Track
    track_probability: float
    version: str
    digest: str
    source: DecisionSource
    reason: str | None
    explored: bool
    executed_action: Action | None
    allowed: Bits
    proposed: Action | None
