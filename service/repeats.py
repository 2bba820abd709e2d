"""Repeats: one decision per request id and process for a minute, however often it is asked."""

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from service.errors import Conflict
from service.requests import Outcome

KEPT_S = 60.0
_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class _Asked:
    body: bytes
    answer: "asyncio.Future[Outcome]"
    until: float


class Repeats:
    """The request ids of the last minute, oldest first."""

    def __init__(self) -> None:
        self._asked: OrderedDict[tuple[str, str], _Asked] = OrderedDict()

    def earlier(self, session: str, request_id: str, body: bytes, now: float) -> "asyncio.Future[Outcome] | None":
        """The answer that the same request already has or waits for; raises Conflict for another body.

        ``now`` in seconds, monotonic.
        """
        self._expire(now)
        asked = self._asked.get((session, request_id))
        if asked is None:
            return None
        if asked.body != _digest(body):
            raise Conflict("was used for another body within the last minute", "$.request_id")
        return asked.answer

    def remember(
        self, session: str, request_id: str, body: bytes, answer: "asyncio.Future[Outcome]", now: float
    ) -> None:
        """Keep a request's answer for those who ask again."""
        self._asked[session, request_id] = _Asked(_digest(body), answer, now + KEPT_S)
        if len(self._asked) > _LIMIT:
            self._asked.popitem(last=False)

    def forget(self, session: str, request_id: str) -> None:
        """Let a request's answer go."""
        self._asked.pop((session, request_id), None)

    def _expire(self, now: float) -> None:
        while self._asked:
            key, asked = next(iter(self._asked.items()))
            if asked.until > now:
                return
            del self._asked[key]

    def __repr__(self) -> str:
        return f"<Repeats {len(self._asked)} request ids>"


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
