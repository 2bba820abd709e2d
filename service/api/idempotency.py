"""Idempotency: one decision per request id for a minute, however often it is asked, also over a restart."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from service.decision.batch import Outcome
from service.errors import Conflict
from service.log.records import Decision

KEPT_S = 60.0
# What the option of a decision's record is called that tells one body of a request id from another.
DIGEST = "request_digest"
_LIMIT = 100_000

Answer = asyncio.Future[Outcome]
# Looks up a decision of a process before this one; None where it is not there any more.
Recall = Callable[[], Decision | None]


@dataclass(frozen=True, slots=True)
class _Asked:
    digest: str
    answer: Answer | Recall
    until: float


class Idempotency:
    """The request ids of the last minute, oldest first."""

    def __init__(self) -> None:
        self._asked: OrderedDict[tuple[str, str], _Asked] = OrderedDict()

    def earlier(self, session: str, request_id: str, digest: str, now: float) -> Answer | None:
        """The answer that the same request already has or waits for; raises Conflict for another body.

        ``digest`` is of the body, ``now`` in seconds, monotonic.
        """
        while self._asked and next(iter(self._asked.values())).until <= now:
            self._asked.popitem(last=False)
        asked = self._asked.get((session, request_id))
        if asked is None:
            return None
        if asked.digest != digest:
            raise Conflict("was used for another body within the last minute", "$.request_id")
        if isinstance(asked.answer, asyncio.Future):
            return asked.answer
        decision = asked.answer()
        if decision is None:
            return None
        answer: Answer = asyncio.get_running_loop().create_future()
        answer.set_result(decision)
        self._asked[session, request_id] = _Asked(digest, answer, asked.until)
        return answer

    def remember(self, session: str, request_id: str, digest: str, answer: Answer | Recall, until: float) -> None:
        """Keep a request's answer ``until`` (s, monotonic) for those who ask again."""
        self._asked[session, request_id] = _Asked(digest, answer, until)
        if len(self._asked) > _LIMIT:
            self._asked.popitem(last=False)

    def forget(self, session: str, request_id: str) -> None:
        """Let a request's answer go."""
        self._asked.pop((session, request_id), None)

    def __repr__(self) -> str:
        return f"<Idempotency {len(self._asked)} request ids>"


def digest_of(body: bytes) -> str:
    """What tells a body from others: short, because the log has it."""
    return hashlib.blake2b(body, digest_size=8).hexdigest()
