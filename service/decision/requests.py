"""A request on its way through the data plane."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from msgspec import Struct

from service.decision.sessions import Report, Sessions, SessionState
from service.errors import RequestRefused
from service.log.records import Decision, Feedback, Refused

Outcome = Decision | Refused | RequestRefused


class Waiter(Protocol):
    """Who waits for an outcome: a future, or a connection that writes the answer itself."""

    def done(self) -> bool:
        """Whether it has its outcome, or waits no longer."""

    def set_result(self, outcome: Outcome, /) -> None:
        """Take the outcome."""


class Request(Struct, kw_only=True):
    """What was asked, decoded and checked, and who waits for the answer.

    ``observation`` is one row; ``at`` and ``now`` in seconds since 1970, ``arrived``, ``read`` and ``deadline`` in
    seconds of the monotonic clock: ``arrived`` is when its first byte came, ``read`` when all of it was here and
    decoded, which is also ``at``. ``now`` is what the guards go by: ``at``, or the caller's ``observed_at`` where the
    configuration says so (``timed``). ``feedback`` still lacks its place in the log, and its decision where that is the
    one before; ``report`` is what is remembered of such. ``entry`` is found when its wave departs, ``left`` is where
    its decision left the session, once that is in the journal.
    """

    session: str
    observation: Sequence[float] | np.ndarray
    previous: str | None
    begins: bool
    feedback: Feedback | None
    facts: dict[str, float] | None
    mask: list[bool] | None
    explore: bool
    options: dict[str, bool | float | str] | None
    at: float
    now: float
    observed_at: float | None
    arrived: float
    read: float
    deadline: float
    answer: Waiter
    timed: bool = False
    report: Report | None = None
    entry: SessionState | None = None
    after: SessionState | None = None

    def enter(self, sessions: Sessions) -> SessionState:
        """Find what the request continues."""
        if self.begins:
            entry = sessions.begun(self.now)
        elif self.previous is not None:
            entry = sessions.following(self.session, self.previous, self.now)
        else:
            entry = sessions.remembered(self.session, self.now)
        told, before = self.feedback, entry.decision_id
        if told is not None and told.ends and before is not None and told.decision_id in ("", before):
            entry = sessions.begun(self.now, before)
        self.entry = entry
        return entry

    def settle(self, outcome: Outcome) -> None:
        """Give the answer to who waits for it; who has gone gets none."""
        if not self.answer.done():
            self.answer.set_result(outcome)
