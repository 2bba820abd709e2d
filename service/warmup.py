"""The warm-up: decides rows that nobody asked for, so that the first caller does not pay for first calls."""

import asyncio

import numpy as np

from guards.errors import InferenceFailed
from guards.records import History
from service.decision.batch import Flight, Plane
from service.decision.decide import decide
from service.decision.requests import Request
from service.decision.sessions import Moment
from service.log.records import encode_record
from service.versions.answered import Answered
from service.versions.engine import Engine

_SIZES = (1, 2, 4, 8, 16)


def warm_up(plane: Plane, engine: Engine) -> None:
    """Decide the artefact's golden rows, by the policy and by the baseline; nothing is journalled or counted."""
    for n in _SIZES:
        observation, inputs, answer = engine.golden(n)
        if engine.inline:
            answer = engine.infer(inputs)
        flight = _flight(engine, observation, answer)
        for outcome in (answer.head, InferenceFailed()):
            for record in decide(plane, flight, outcome):
                encode_record(record)


def _flight(engine: Engine, observation: np.ndarray, answer: Answered) -> Flight:
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
            entry=Moment(None, None, History(known=True, since=0.0)),
        )
        for i in range(len(observation))
    ]
    return Flight(
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
        departed=0.0,
        infer_us=0,
        spread=None if answer.spread is None else answer.spread.tolist(),
    )


class _Nobody:
    """Waits for no outcome."""

    def done(self) -> bool:
        return True

    def set_result(self, outcome: object, /) -> None:
        raise asyncio.InvalidStateError(outcome)
