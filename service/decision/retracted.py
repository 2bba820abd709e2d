"""Retracted: decisions that could not be synced, which were never made; their sessions are where they were before."""

from collections.abc import Sequence

import numpy as np

from guards.errors import PolicyUnavailable
from service.decision.requests import Request
from service.decision.sessions import Sessions
from service.errors import NotDurable
from service.log.records import Decision, Feedback, Refused
from service.versions.answered import ModelOutput

# So many are known, for those who were about to go on from them.
_KNOWN = 10_000


class Retracted:
    """Those of one process."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._known: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def take_back(
        self, requests: Sequence[Request], records: Sequence[Decision | Refused], feedback: Sequence[Feedback]
    ) -> None:
        """Take back a flight, with the feedback that came along, and answer that it was not made."""
        for request, record in zip(requests, records, strict=True):
            if isinstance(record, Decision):
                self._sessions.take_back(request.session, record.id)
                self._known[record.id] = None
            request.settle(NotDurable("the journal cannot be synced, so the decision was not made"))
        for decision_id in list(self._known)[:-_KNOWN]:
            del self._known[decision_id]
        self._sessions.go_on([told.decision_id for told in feedback if told.ends])

    def without(
        self, requests: list[Request], observation: np.ndarray, answer: ModelOutput | PolicyUnavailable
    ) -> tuple[list[Request], np.ndarray, ModelOutput | PolicyUnavailable]:
        """A flight without the rows that would go on from one of them, because they were being inferred meanwhile."""
        left = []
        for i, request in enumerate(requests):
            if request.entry is not None and request.entry.decision_id in self._known:
                request.settle(NotDurable("the decision before it was not made, so neither was this one"))
            else:
                left.append(i)
        if len(left) == len(requests):
            return requests, observation, answer
        part = answer.rows(left) if isinstance(answer, ModelOutput) else answer
        return [requests[i] for i in left], observation[left], part

    def __repr__(self) -> str:
        return f"<Retracted {len(self._known)} decisions>"
