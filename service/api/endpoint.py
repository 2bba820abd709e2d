"""The endpoint: has a body decided, and says what the outcome is called on the wire."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import msgspec
from msgspec import UNSET

from service.api.action_json import Actions
from service.api.decoding import RequestDecoder
from service.api.idempotency import DIGEST, KEPT_S, Idempotency, digest_of
from service.api.schemas import Answer
from service.decision.batch import Outcome, Request, Waiter
from service.decision.batcher import Batcher
from service.errors import NoSafeActionLeft, RequestRefused, TooLarge, WrongMediaType
from service.log.records import Decision, DecisionSource, Refused

# HTTP status by error code: the one place that knows both.
STATUS = {
    "refused": 400,
    "not_json": 400,
    "too_slow": 408,
    "conflict": 409,
    "too_large": 413,
    "wrong_media_type": 415,
    "does_not_fit": 422,
    "internal": 500,
    "no_safe_action": 503,
    "journal_unavailable": 503,
}
_encode = msgspec.json.Encoder().encode
_LATE = b',"late":true}'
# So many actions are known as they are answered.
_SPOKEN = 1024


class PendingAnswer(NamedTuple):
    """What is to come of a body, and until when (s, monotonic) its answer is in time."""

    outcome: "asyncio.Future[Outcome]"
    deadline: float


class EncodedAnswer(NamedTuple):
    """An outcome as it is written, before it is known whether it leaves in time; who decided, if somebody did."""

    content: bytes
    source: DecisionSource | None
    deadline: float


class Endpoint:
    """Turns bodies into decisions and outcomes into answers.

    The deadline of an answer counts from the arrival of its request's first byte (``arrived``, in s, monotonic).
    """

    def __init__(
        self,
        decoder: RequestDecoder,
        batcher: Batcher,
        *,
        policy: str,
        actions: Actions,
        refused: Callable[[RequestRefused], None],
        late: Callable[[DecisionSource], None],
        idempotency: Idempotency | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._decoder = decoder
        self._batcher = batcher
        self._policy = policy
        # An action is answered as it was the last time.
        self._spoken = lru_cache(_SPOKEN)(actions.spoken)
        self._refused = refused
        self._late = late
        self._idempotency = idempotency or Idempotency()
        self._clock = clock

    def ask(self, body: bytes | msgspec.Raw, arrived: float) -> PendingAnswer:
        """Have one body decided; raises RequestRefused where it cannot be."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        return PendingAnswer(answer, self.take(body, answer, arrived))

    def take(self, body: bytes | msgspec.Raw, waiter: Waiter, arrived: float) -> float:
        """Have one body decided for somebody who waits, and say until when (s, monotonic) the answer is in time.

        Raises RequestRefused where it cannot be.
        """
        request = self._decoder.request(body, waiter, arrived)
        if request.options is not None and "request_id" in request.options:
            self._take_once(request, bytes(body), waiter)
        else:
            self._batcher.submit(request)
        return request.deadline

    def answer(self, outcome: Outcome, deadline: float) -> tuple[int, bytes]:
        """Status and body of an outcome that is answered now."""
        if not isinstance(outcome, Decision):
            return self.refusal(outcome)
        told = self.answer_of(outcome)
        if self._clock() > deadline:
            told.late = True
            self._late(outcome.source)
        return 200, _encode(told)

    def refusal(self, outcome: Refused | RequestRefused) -> tuple[int, bytes]:
        """Status and body of an error; one that no record tells of is counted here."""
        if isinstance(outcome, Refused):
            outcome = NoSafeActionLeft(f"no action is safe here: {outcome.reason}, and the baseline is refused too")
        else:
            self._refused(outcome)
        return STATUS[outcome.code], outcome.body()

    def written(self, outcome: Outcome, deadline: float) -> EncodedAnswer:
        """An outcome that will leave with others."""
        if isinstance(outcome, Decision):
            return EncodedAnswer(_encode(self.answer_of(outcome)), outcome.source, deadline)
        return EncodedAnswer(self.refusal(outcome)[1], None, deadline)

    def stamped(self, replies: Iterable[EncodedAnswer]) -> Iterator[bytes]:
        """The bodies of replies that leave together now: a decision that is late says so, and is counted."""
        now = self._clock()
        for content, source, deadline in replies:
            if now <= deadline or source is None:
                yield content
            else:
                self._late(source)
                yield content[:-1] + _LATE

    def answer_of(self, record: Decision) -> Answer:
        """What the caller is told of a decision's record."""
        action, name, names = self._spoken(record.action)
        return Answer(
            decision_id=record.id,
            action=action,
            action_name=name,
            action_names=names,
            propensity=record.propensity,
            measure=record.measure,
            propensity_ok=record.propensity_ok,
            policy=self._policy,
            version=record.version,
            track=record.track,
            source=record.source,
            violations=record.violations,
            durability=record.durability,
            reason=UNSET if record.reason is None else record.reason,
            moved=UNSET if record.moved is None else record.moved,
        )

    def _take_once(self, request: Request, body: bytes, waiter: Waiter) -> None:
        """Several may wait for one outcome: it is a future of its own, which none of them can cancel."""
        options, session, now = request.options or {}, request.session, self._clock()
        request_id, digest = str(options["request_id"]), digest_of(body)
        outcome = self._idempotency.earlier(session, request_id, digest, now)
        if outcome is None:
            outcome = asyncio.get_running_loop().create_future()
            request.answer = outcome
            # The log has it, so that it is known after a restart too.
            request.options = {**options, DIGEST: digest}
            self._idempotency.remember(session, request_id, digest, outcome, now + KEPT_S)
            # An error is no decision: who asks again may have one.
            outcome.add_done_callback(
                lambda done: (
                    None if isinstance(done.result(), Decision) else self._idempotency.forget(session, request_id)
                )
            )
            self._batcher.submit(request)
        outcome.add_done_callback(lambda done: None if waiter.done() else waiter.set_result(done.result()))


def check_headers(headers: Iterable[tuple[bytes, bytes]], cap: int) -> None:
    """Refuse a body by what is said of it: raises WrongMediaType or TooLarge."""
    typed = False
    for name, value in headers:
        if name == b"content-type":
            typed = value == b"application/json" or value.partition(b";")[0].strip().lower() == b"application/json"
        elif name == b"content-length" and (len(value) > 12 or (value.isdigit() and int(value) > cap)):
            raise TooLarge(f"is larger than expected: at most {cap} bytes")
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise WrongMediaType("is compressed, expected plain JSON", "content-encoding")
    if not typed:
        raise WrongMediaType("is not declared as JSON, expected application/json", "content-type")
