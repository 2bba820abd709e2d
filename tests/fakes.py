"""Fakes: small stand-ins for what stands around a decision, and short ways to make what it is made from."""

import sys
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from export.spec import Discrete, Field, Fields, Golden, Manifest, Parity, Source, Squash
from guards.abstention import Doubts
from guards.baselines import Baseline, Constant
from guards.batched import Context
from guards.constraints import Constraint
from guards.errors import PolicyUnavailable
from guards.language.terms import Among, Recall, Term, compare, number, operation
from guards.records import History, Schema
from guards.shield import Shield
from service.decision.batch import Batch, Behaviour, Outcome, Request
from service.decision.decide import decide
from service.decision.explore.acting import acting_of
from service.decision.explore.choice import Explorer
from service.decision.explore.explorers import Greedy
from service.decision.sessions import SessionState
from service.log.ids import Key
from service.log.records import Decision, Refused
from service.versions.engine import Inputs, ModelOutput, rows_of
from service.versions.router import Assignment

NOW = 1_700_000_000.0
KEY = Key(1, b"fakes" * 8)
WRITER = bytes(range(8))
STABLE = Assignment(track="stable", probability=1.0, version="fake-1")


def schema_of(fields: Sequence[str], actions: Sequence[str], facts: Sequence[str] = ()) -> Schema:
    """A schema of these names."""
    space = Fields(fields=tuple(Field(name=name) for name in fields))
    return Schema(observation=space, action=Discrete(names=tuple(actions)), facts=tuple(facts))


SCHEMA = schema_of(
    fields=("load", "lag", "pods"),
    actions=("hold", "up", "down", "jump", "rest", "drop"),
    facts=("budget", "price"),
)


def context_of(
    observation: Sequence[Sequence[float]],
    *,
    facts: Sequence[Sequence[float]] | None = None,
    mask: Sequence[Sequence[bool]] | None = None,
    now: Sequence[float] | None = None,
    histories: Sequence[History] | None = None,
) -> Context:
    """A batch under ``SCHEMA`` whose rows begin an episode with no facts told, unless something else is said."""
    n = len(observation)
    return Context(
        observation=np.array(observation, dtype=np.float64).reshape(n, -1),
        facts=np.full((n, 2), np.nan) if facts is None else np.array(facts, dtype=np.float64),
        mask=None if mask is None else np.array(mask, dtype=np.bool_),
        now=np.full(n, NOW) if now is None else np.array(now),
        histories=[History(known=True, since=NOW)] * n if histories is None else histories,
    )


class Answer:
    """Who waits for an outcome, and keeps it."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None

    def done(self) -> bool:
        return self.outcome is not None

    def set_result(self, outcome: Outcome, /) -> None:
        self.outcome = outcome


def asked(**changes: Any) -> Request:
    """A request that begins an episode and may explore, with some of it changed; what it continues is found."""
    plain: dict[str, Any] = {
        "session": "s",
        "observation": (0.5, 0.0, 3.0),
        "previous": None,
        "begins": True,
        "feedback": None,
        "facts": None,
        "mask": None,
        "explore": True,
        "options": None,
        "at": NOW,
        "now": NOW,
        "observed_at": None,
        "arrived": 10.0,
        "read": 10.0,
        "deadline": 11.0,
        "answer": Answer(),
        "entry": SessionState(None, None, History(known=True, since=NOW)),
    }
    return Request(**(plain | changes))


def batch_of(requests: Sequence[Request], **changes: Any) -> Batch:
    """A batch of these requests that may explore, placed in the log, with some of it changed."""
    engine: Any = FakeEngine([0.0])
    plain: dict[str, Any] = {
        "requests": list(requests),
        "assignment": STABLE,
        "engine": engine,
        "observation": np.array([row.observation for row in requests], dtype=np.float64),
        "seq": 1,
        "ms": int(NOW * 1000),
        "generation": 7,
        "may_explore": True,
        "began": 10.001,
        "infer_us": 42,
    }
    return Batch(**(plain | changes))


def recorded(
    behaviour: Behaviour, batch: Batch, output: np.ndarray | ModelOutput | PolicyUnavailable
) -> list[Decision | Refused]:
    """The records of a batch that its version gave this for: heads[N, W], or why there are none."""
    batch.output = ModelOutput(output) if isinstance(output, np.ndarray) else output
    decide(behaviour, batch)
    return batch.records


def behaviour_of(
    constraints: Sequence[Constraint] = (),
    *,
    explorer: Explorer | None = None,
    baseline: Baseline | None = None,
    schema: Schema = SCHEMA,
    key: Key = KEY,
    squash: Squash = "none",
    manifest: Manifest | None = None,
    scores: bool = True,
) -> Behaviour:
    """A plane that is greedy and holds where the policy cannot decide, unless something else is said.

    Without a ``manifest`` of a policy nothing of its answers is doubted.
    """
    proposer = baseline or Constant(action=schema.actions[0])
    shield = Shield(constraints, schema)
    return Behaviour(
        schema=schema,
        shield=shield,
        acting=acting_of(explorer or Greedy(), schema.action, squash, joint=shield.joins, scores=scores),
        baseline=proposer.bind(schema),
        last_resort=proposer.last(schema),
        key=key,
        writer=WRITER,
        config="c" * 64,
        durability="journal",
        doubts=Doubts() if manifest is None else Doubts.of(constraints, schema, manifest),
        remember=proposer.remembers(schema),
    )


def manifest_of(*, scale: float = 1.0, **told: Any) -> Manifest:
    """What an artefact over ``SCHEMA`` says of itself, with some of it changed."""
    parity = Parity(reference="r", observations=1, max_abs_error=0, action_agreement=1, tolerance=1e-4, scale=scale)
    plain: dict[str, Any] = {
        "name": "fake",
        "version": "1",
        "family": "dqn",
        "head": "q_values",
        "observation": SCHEMA.observation,
        "action": SCHEMA.action,
        "golden": Golden(inputs={}, outputs={}),
        "parity": parity,
        "opset": 17,
        "source": Source(library="fakes", algorithm="none"),
    }
    return Manifest(**(plain | told))


class Fickle(Constraint):
    """A constraint with a fault: it forbids an action only when asked about it alone, so the mask lets it through."""

    kind: Literal["fickle"] = "fickle"
    action: int

    def term(self, schema: Schema) -> Term:  # noqa: ARG002 - it knows its action by index
        # The proof does not know what asks, and takes it for a remainder of what need not be whole.
        anything = operation("%", number(0.5), number(0.25), text="a fault")
        alone = Recall("fickle", lambda *_: float(sys._getframe(1).f_code.co_name != "judge"), anything)
        return operation("and", Among(0, frozenset({self.action})), compare(alone, ">", number(0)))


class FakeEngine:
    """An engine that runs inline and answers every row with the same head; it has no mask and no memory."""

    label = "fake-1"
    digest = "d" * 64
    inline = True
    masked = False
    initial: tuple[np.ndarray, ...] = ()

    def __init__(self, head: Sequence[float]) -> None:
        self._head = np.array(head, dtype=np.float32)
        self.batches: list[int] = []

    def inputs(self, observation: np.ndarray, mask: None, memory: tuple[()]) -> Inputs:
        assert mask is None
        assert memory == ()
        return {"obs": observation.astype(np.float32)}

    def infer(self, inputs: Inputs) -> ModelOutput:
        count = rows_of(inputs)
        self.batches.append(count)
        return ModelOutput(np.tile(self._head, (count, 1)))
