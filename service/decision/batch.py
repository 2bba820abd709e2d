"""A batch: requests that one version decides together, what they are decided by, what is chosen, what came of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import msgspec
import numpy as np
from msgspec import Struct

from export.spec import Box
from guards.abstention import Doubts
from guards.baselines import Propose, Remember
from guards.errors import InferenceFailed, PolicyUnavailable
from guards.records import Action, Row, Schema
from guards.shield import Shield
from service.decision.explore.choice import AnyActing
from service.decision.sessions import Report, SessionState
from service.errors import RequestRefused
from service.log.ids import Key, body_prefix
from service.log.records import Decision, Durability, Feedback, Packed, Refused
from service.versions.engine import Engine, ModelOutput
from service.versions.router import Assignment

Outcome = Decision | Refused | RequestRefused
# What a version is asked for: answers; a trial of whether it can be trusted again; its memories alone.
Purpose = Literal["answer", "probe", "shadow"]
# What came of a batch that its version was not asked about yet.
NOT_ASKED: Final = InferenceFailed("was not asked")


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
    previous: str | None = None
    begins: bool = False
    feedback: Feedback | None = None
    facts: dict[str, float] | None = None
    mask: list[bool] | None = None
    explore: bool = True
    options: dict[str, bool | float | str] | None = None
    at: float = 0.0
    now: float = 0.0
    observed_at: float | None = None
    arrived: float = 0.0
    read: float = 0.0
    deadline: float = 0.0
    answer: Waiter
    timed: bool = False
    report: Report | None = None
    entry: SessionState | None = None
    after: SessionState | None = None

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
    acting: AnyActing
    baseline: Propose
    last_resort: Action | None
    key: Key
    writer: bytes
    config: str
    durability: Durability
    mask_required: bool = False
    doubts: Doubts = field(default_factory=Doubts)
    remember: Remember | None = None
    # What is left of a row, and what all ids of this writer begin with.
    judge: Callable[[Row], Any] = field(init=False)
    prefix: bytes = field(init=False)

    def __post_init__(self) -> None:
        shield = self.shield
        object.__setattr__(self, "judge", shield.confines if isinstance(self.schema.action, Box) else shield.judge)
        object.__setattr__(self, "prefix", body_prefix(self.key, self.writer))


class Batch(Struct, kw_only=True, eq=False):
    """Requests that one version decides together, and all that is known of them: what goes down the path.

    The batcher makes it of ``requests``, their ``assignment``, ``engine`` and ``observation[N, ...]``.
    ``began`` (s, monotonic) is when inference began, ``output`` what came of it: a head, or why there is none. The
    commit gives it its place in the log: ``seq`` is that of its first decision, ``ms`` when, behind the ``feedback``
    that came along; then come ``rows``, which are the requests as the guards see them, ``records``, and how long (µs)
    each step took.
    ``spread`` and ``memory`` are a number and what the memory was before the step for each row, where the policy has
    them. Where it is ``unlogged`` it has no place in the log, and ``seq`` counts those that have none. ``purpose`` says
    whether it is answered, or only shows what the version would do.
    """

    requests: list[Request]
    assignment: Assignment
    engine: Engine
    observation: np.ndarray
    purpose: Purpose = "answer"
    began: float = 0.0
    output: ModelOutput | PolicyUnavailable = NOT_ASKED
    seq: int = 0
    ms: int = 0
    generation: int = 0
    may_explore: bool = False
    infer_us: int = 0
    decide_us: int = 0
    journal_us: int = 0
    spread: list[float | None] | None = None
    memory: list[dict[str, Packed]] | None = None
    feedback: list[Feedback] = []
    rows: list[Row] = []
    records: list[Decision | Refused] = []
    unlogged: bool = False

    def part(self, rows: Sequence[int]) -> "Batch":
        """Some of the rows, as a batch."""
        at = list(rows)
        return msgspec.structs.replace(
            self,
            requests=[self.requests[i] for i in at],
            observation=self.observation[at],
            output=self.output.rows(at) if isinstance(self.output, ModelOutput) else self.output,
            spread=None if self.spread is None else [self.spread[i] for i in at],
            memory=None if self.memory is None else [self.memory[i] for i in at],
            rows=[self.rows[i] for i in at] if self.rows else [],
            records=[self.records[i] for i in at] if self.records else [],
        )

    def answered(self, output: ModelOutput | PolicyUnavailable, began: float) -> "Batch":
        """The batch, inference of which ``began`` then, with what came of it."""
        self.output, self.began = output, began
        return self
