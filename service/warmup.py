"""The warm-up: decides rows that nobody asked for, so that the first caller does not pay for first calls."""

import asyncio

import numpy as np

from guards.errors import InferenceFailed
from guards.records import History
from service.decision.batch import Batch, Behaviour
from service.decision.decide import decide
from service.decision.requests import Request
from service.decision.sessions import SessionState
from service.log.records import encode_record
from service.versions.answered import ModelOutput
from service.versions.engine import Engine

_SIZES = (1, 2, 4, 8, 16)


def warm_up(behaviour: Behaviour, engine: Engine) -> None:
    """Decide the artefact's golden rows, by the policy and by the baseline; nothing is journalled or counted."""
    for n in _SIZES:
        observation, inputs, answer = engine.golden(n)
        if engine.inline:
            answer = engine.infer(inputs)
        batch = _batch(engine, observation, answer)
        for outcome in (answer.head, InferenceFailed()):
            for record in decide(behaviour, batch, outcome):
                encode_record(record)


def _batch(engine: Engine, observation: np.ndarray, answer: ModelOutput) -> Batch:
    rows = [
        Request(
            session=f"warm-up {i}",
            observation=[],
            previous=None,
            begins=True,
            feedback=None,
            facts=None,
            mask=None,
            explore=True,
            options=None,
            at=0.0,
            now=0.0,
            observed_at=None,
            arrived=0.0,
            read=0.0,
            deadline=0.0,
            answer=_Nobody(),
            entry=SessionState(None, None, History(known=True, since=0.0)),
        )
        for i in range(len(observation))
    ]
    return Batch(
        rows=rows,
        observation=observation,
        version=engine.label,
        digest=engine.digest,
        track="stable",
        track_probability=1.0,
        seq=1,
        ms=0,
        generation=0,
        may_explore=True,
        infer_began=0.0,
        infer_us=0,
        spread=None if answer.spread is None else answer.spread.tolist(),
    )


class _Nobody:
    """Waits for no outcome."""

    def done(self) -> bool:
        return True

    def set_result(self, outcome: object, /) -> None:
        raise asyncio.InvalidStateError(outcome)
