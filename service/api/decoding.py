"""Decoding: bytes of a request's body in, a checked request or one clear error out. Nothing is echoed."""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET
from msgspec.structs import astuple

from service.api.schemas import Codec
from service.clock import Clock
from service.config import Config
from service.decision.batch import Request, Waiter
from service.errors import Conflict, DoesNotFit, NotJson, RequestRefused
from service.log.ids import Keyring, Place
from service.log.records import Feedback, Numbers, listed

_AT = re.compile(r"\A(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?\Z", re.DOTALL)

# Where objects stand in a body.
_OBJECTS = frozenset(
    f"$.{outer}{inner}".rstrip(".")
    for outer in ("", "feedback.")
    for inner in ("", "observation", "next_observation", "final_observation")
)


class RequestDecoder:
    """Decodes and checks against one pinned schema."""

    def __init__(
        self,
        codec: Codec,
        config: Config,
        keyring: Keyring,
        *,
        owner: Callable[[Place], str | None] = lambda _: None,
        ahead_s: Mapping[str, float] = {},
        clock: Callable[[], float] = time.monotonic,
        now: Clock | Callable[[], float] | None = None,
    ) -> None:
        """``clock`` (s, monotonic) is what deadlines go by; ``now`` (s since 1970) what is logged and the guards go by.

        That is a ``Clock``'s, which nobody sets: elapsed times can be worked out again from the log. ``owner`` says of
        which session the decision at a place in the log is, None where it does not know. ``ahead_s`` is by how much
        that clock is ahead of the one by which a writer before this one gave its ids.
        """
        self._codec = codec
        self._named = codec.named
        self._facts = frozenset(codec.schema.facts)
        self._actions = codec.actions
        self._deadline_s = config.limits.deadline_ms / 1000
        self._wait_s = config.rewards.wait_seconds
        self._by_observed_at = config.guard_clock == "observed_at"
        self._keyring = keyring
        self._owner = owner
        self._ahead_s = ahead_s
        self._clock = clock
        now = now or Clock()
        # A clock is read here where requests are: a call less.
        self._passed, self._shift = (now.passed, now.shift) if isinstance(now, Clock) else (now, 0.0)
        self.now = now.now if isinstance(now, Clock) else now

    def request(self, body: bytes | msgspec.Raw, answer: Waiter, arrived: float) -> Request:
        """The request in a body, whose outcome ``answer`` waits for; raises NotJson, DoesNotFit or Conflict.

        ``arrived`` (s, monotonic) is when its first byte came: from then on the deadline counts.
        """
        try:
            act: Any = self._codec.decode_act(body)
        except Exception as error:  # noqa: BLE001 - it is told what it was, or raised again
            raise refusal_of(error) from None
        read, seen = self._clock(), act.observation
        at = self._shift + self._passed()
        facts, mask, options, deadline_s = act.facts, None, None, self._deadline_s
        if facts is not None and not self._facts.issuperset(facts):
            raise DoesNotFit(f"is not a fact that is declared, expected {sorted(self._facts)}", "$.facts")
        if act.allowed is not None:
            mask = self._actions.mask(act.allowed)
        previous = act.previous
        if type(previous) is str:
            self._place(previous, act.session, "$.previous")
        if act.deadline_ms is not None or act.request_id is not None or not act.explore:
            options = _options(act)
            deadline_s = deadline_s if act.deadline_ms is None else act.deadline_ms / 1000
        observed_at = act.observed_at
        timed = self._by_observed_at and observed_at is not None
        return Request(
            session=act.session,
            observation=astuple(seen) if type(seen) is self._named else self._codec.numbers(seen),
            previous=None if previous is UNSET else previous,
            begins=previous is None,
            feedback=None if act.feedback is UNSET else self._feedback_of(act, at),
            facts=facts,
            mask=mask,
            explore=act.explore,
            options=options,
            at=at,
            now=at if observed_at is None or not timed else observed_at,
            observed_at=observed_at,
            arrived=arrived,
            read=read,
            deadline=arrived + deadline_s,
            answer=answer,
            timed=timed,
        )

    def feedback(self, body: bytes | msgspec.Raw) -> Feedback | None:
        """One item of ``/feedback``; None where its decision is forged. Raises NotJson or DoesNotFit."""
        outcome = decoded(self._codec.decode_outcome, body)
        if outcome.decision_id is UNSET:
            raise DoesNotFit("is missing, expected the id of a decision", "$.decision_id")
        if self._keyring.place(outcome.decision_id) is None:
            return None
        return self._feedback(outcome, self.now(), "$")

    def _place(self, token: str, session: str | None, path: str) -> Place:
        """Where the decision stands that a token names, which has to be the session's if one is given."""
        place = self._keyring.place(token)
        if place is None:
            raise DoesNotFit("is not a decision of this deployment", path)
        if session is not None and self._owner(place) not in (None, session):
            msg = "is a decision of another session, expected one of this session's"
            raise Conflict(msg if path == "$.previous" else f"{msg}: tell what came of others by POST /feedback", path)
        return place

    def _feedback_of(self, act: Any, at: float) -> Feedback:
        """The feedback that comes with a request, named after it where it has no name of its own.

        Where the request is asked again because its first answer was an error, or was lost with this process, the
        feedback may be in the log already.
        """
        told = self._feedback(act.feedback, at, "$.feedback", act.session)
        if told.feedback_id is not None or act.request_id is None:
            return told
        name = "request:" + hashlib.blake2b(act.request_id.encode(), digest_size=16).hexdigest()
        return msgspec.structs.replace(told, feedback_id=name)

    def _feedback(self, outcome: Any, at: float, path: str, session: str | None = None) -> Feedback:
        """A feedback record that still lacks its place in the log, and its decision where that is ``previous``."""
        late, token = False, ""
        if outcome.decision_id is not UNSET:
            token = outcome.decision_id
            place = self._place(token, session, f"{path}.decision_id")
            late = place.ms / 1000 + self._wait_s < at - self._ahead_s.get(place.writer, 0.0)
        seen = [one for one in (outcome.next_observation, outcome.final_observation) if one is not None]
        if len(seen) == 2:
            raise DoesNotFit("has next_observation and final_observation, expected one of them", path)
        executed = outcome.executed_action
        if executed is not None:
            executed = self._actions.executed(executed, f"{path}.executed_action")
        if not (seen or outcome.terminated or outcome.truncated) and (
            outcome.reward is None and executed is None and outcome.activated is None
        ):
            raise DoesNotFit("says nothing, expected a reward or another outcome", path)
        return Feedback(
            seq=0,
            ms=0,
            decision_id=token,
            at=at,
            feedback_id=outcome.feedback_id,
            session=session,
            reward=outcome.reward,
            next_observation=self._numbers(outcome, path) if seen else None,
            terminated=outcome.terminated,
            truncated=outcome.truncated,
            executed_action=executed,
            activated=outcome.activated,
            late=late,
        )

    def _numbers(self, outcome: Any, path: str) -> Numbers:
        """What was observed next, as one row."""
        name = "final_observation" if outcome.next_observation is None else "next_observation"
        row = self._codec.numbers(getattr(outcome, name), f"{path}.{name}")
        return listed(np.asarray(row, dtype=self._codec.layout.dtype))


def decoded(decode: Callable[[Any], Any], body: bytes | msgspec.Raw) -> Any:
    """Decode, with every way in which a decoder can fail turned into NotJson or DoesNotFit."""
    try:
        return decode(body)
    except Exception as error:  # noqa: BLE001 - it is told what it was, or raised again
        raise refusal_of(error) from None


def refusal_of(error: Exception) -> RequestRefused:
    """What is wrong with a body that a decoder failed on; raises the error where the body is not to blame."""
    if isinstance(error, msgspec.ValidationError):
        return _misfit(str(error))
    if isinstance(error, msgspec.DecodeError):
        return NotJson("is not JSON: " + _AT.sub(r"\g<what>", str(error)))
    if isinstance(error, UnicodeError):
        return NotJson("is not UTF-8")
    if isinstance(error, RecursionError):
        return NotJson("is nested too deeply")
    raise error


def _misfit(message: str) -> RequestRefused:
    match = _AT.match(message)
    what, path = (match["what"], match["path"] or "$") if match else (message, "$")
    if "unknown field" in what:
        # msgspec quotes the field, whose name is the caller's text: it stays out, and so does any path made of it.
        what = "has a field that is not known here"
        path = path if path in _OBJECTS else "$"
    what = what.replace("`float` that's a multiple of 1.0", "a whole number")
    return DoesNotFit(what[:1].lower() + what[1:], path)


def _options(act: Any) -> dict[str, bool | float | str]:
    """What a request says of how it is decided, where it says so."""
    told = {"deadline_ms": act.deadline_ms, "request_id": act.request_id, "explore": None if act.explore else False}
    return {key: value for key, value in told.items() if value is not None}
