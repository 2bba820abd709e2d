"""The desk: has a body decided, and says what the outcome is called on the wire."""

import asyncio
import time
from collections.abc import Callable

import msgspec

from service.actions import Actions
from service.errors import NoSafeActionLeft, RequestRefused
from service.intake import Intake
from service.records import Decision, Refused
from service.repeats import DIGEST, KEPT_S, Repeats, digest_of
from service.requests import Outcome, Request, Waiter
from service.schemas import Answer
from service.turn import Turn

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


class Desk:
    """Turns bodies into decisions and outcomes into answers."""

    def __init__(
        self,
        intake: Intake,
        turn: Turn,
        *,
        policy: str,
        actions: Actions,
        refused: Callable[[RequestRefused], None],
        repeats: Repeats | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._intake = intake
        self._turn = turn
        self._policy = policy
        self._actions = actions
        self._refused = refused
        self._repeats = repeats or Repeats()
        self._clock = clock

    def ask(self, body: bytes | msgspec.Raw) -> "asyncio.Future[Outcome]":
        """Have one body decided; raises RequestRefused where it cannot be."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.take(body, answer)
        return answer

    def take(self, body: bytes | msgspec.Raw, waiter: Waiter) -> None:
        """Have one body decided for somebody who waits; raises RequestRefused where it cannot be."""
        request = self._intake.request(body, waiter)
        if request.options is not None and "request_id" in request.options:
            self._take_once(request, bytes(body), waiter)
        else:
            self._turn.submit(request)

    def answer(self, outcome: Outcome) -> tuple[int, bytes]:
        """Status and body of an outcome that is answered now; errors that no record tells of are counted here."""
        if isinstance(outcome, Decision):
            return 200, _encode(self.told(outcome))
        if isinstance(outcome, Refused):
            outcome = NoSafeActionLeft(f"no action is safe here: {outcome.reason}, and the baseline is refused too")
        else:
            self._refused(outcome)
        return STATUS[outcome.code], outcome.body()

    def told(self, record: Decision) -> Answer:
        """What the caller is told of a decision's record."""
        action, name, names = self._actions.spoken(record.action)
        answer = Answer(
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
        )
        if record.reason is not None:
            answer.reason = record.reason
        if record.moved is not None:
            answer.moved = record.moved
        return answer

    def _take_once(self, request: Request, body: bytes, waiter: Waiter) -> None:
        """Several may wait for one outcome: it is a future of its own, which none of them can cancel."""
        options, session, now = request.options or {}, request.session, self._clock()
        request_id, digest = str(options["request_id"]), digest_of(body)
        outcome = self._repeats.earlier(session, request_id, digest, now)
        if outcome is None:
            outcome = asyncio.get_running_loop().create_future()
            request.answer = outcome
            # The log has it, so that it is known after a restart too.
            request.options = {**options, DIGEST: digest}
            self._repeats.remember(session, request_id, digest, outcome, now + KEPT_S)
            # An error is no decision: who asks again may have one.
            outcome.add_done_callback(
                lambda done: None if isinstance(done.result(), Decision) else self._repeats.forget(session, request_id)
            )
            self._turn.submit(request)
        outcome.add_done_callback(lambda done: None if waiter.done() else waiter.set_result(done.result()))
