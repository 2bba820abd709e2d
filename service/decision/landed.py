"""Landed: what became of a flight, for whoever counts."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from service.decision.requests import Request
from service.log.records import Decision, Feedback, Refused


class Committed(Struct, frozen=True, kw_only=True, eq=False):
    """A decided flight for whoever counts: its records and requests, in the same order, and its feedback."""

    version: str
    records: Sequence[Decision | Refused]
    requests: Sequence[Request]
    feedback: Sequence[Feedback]
    observation: np.ndarray
    infer_began: float
    infer_us: int
    decide_us: int
    journal_us: int
