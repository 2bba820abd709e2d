"""Breakers: one for each version, fed with what comes of its batches; while it is open, callers get the baseline."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guards.breaker import BUCKETS, Breaker, BreakerState, Event, event_of
from guards.errors import PolicyUnavailable

_log = logging.getLogger(__name__)
_REASONS = {reason.__name__: reason for reason in PolicyUnavailable.__subclasses__()}
# Why the policy did not decide each row of a batch; None where it did.
Reasons = Sequence[str | None]


@dataclass(slots=True)
class _Standing:
    """Where a version's breaker stands, and the good batches that it has not been told of yet."""

    state: BreakerState
    untold: int = 0
    openings: int = 0


class Breakers:
    """The breakers of all versions of a process. Times are in seconds of one monotonic clock."""

    def __init__(self, breaker: Breaker, versions: Iterable[str], uniform: Callable[[], float], now: float) -> None:
        """``uniform`` gives random numbers in [0, 1), which keep replicas from probing all together."""
        self._breaker = breaker
        self._uniform = uniform
        self._all = {version: _Standing(breaker.start(now)) for version in versions}
        # Batches that are good are told together, at least once in what the breaker counts together.
        self._patience = breaker.window_seconds / BUCKETS

    def closed(self, version: str) -> bool:
        """Whether callers may have the version's answers."""
        return self._all[version].state.phase == "closed"

    def answered(self, version: str, reasons: Reasons, now: float) -> None:
        """Take in what came of a batch of callers."""
        one = self._all[version]
        if one.state.phase == "closed" and now - one.state.at < self._patience and not any(reasons):
            one.untold += bool(reasons)
            return
        if one.untold:
            self._step(version, Event(good=1, flights=one.untold), now)
            one.untold = 0
        self._step(version, _event("answered", reasons), now)

    def waited(self, version: str, now: float) -> bool:
        """Let time pass while it is open; whether a probe is due now."""
        self._step(version, Event(), now)
        return self._all[version].state.probe_due

    def probing(self, version: str) -> bool:
        """Whether it is half open: the version is asked, in shadow."""
        return self._all[version].state.phase == "probing"

    def sent(self, version: str, now: float) -> None:
        """Take in that a probe is on its way."""
        self._step(version, Event("probe_sent"), now)

    def probed(self, version: str, reasons: Reasons, now: float) -> None:
        """Take in what came of a probe."""
        self._step(version, _event("probed", reasons), now)

    def to_json(self, now: float) -> dict[str, dict[str, Any]]:
        """Where each stands: for people."""
        told = {}
        for version, one in self._all.items():
            # Time passes for a breaker where somebody asks: what it would say now, nobody having asked.
            state = self._breaker.step(one.state, Event(), now, 0.0)
            told[version] = {
                "phase": state.phase,
                "for_s": round(now - state.since, 1),
                "openings": one.openings,
                "opened_by": state.opened_by,
                "fault": state.fault,
                "rest_s": round(state.rest_s, 3),
                "good_probes": state.good_probes,
            }
        return told

    def openings(self) -> Mapping[str, int]:
        """How often each opened."""
        return {version: one.openings for version, one in self._all.items()}

    def _step(self, version: str, event: Event, now: float) -> None:
        one = self._all[version]
        before, after = one.state, self._breaker.step(one.state, event, now, self._uniform())
        one.state = after
        if after.phase == "resting" and before.phase != "resting":
            one.openings += 1
            _log.warning(
                "%s: %s, the breaker opens (%s) and rests %.1f s", version, after.fault, after.opened_by, after.rest_s
            )
        elif after.phase == "closed" and before.phase != "closed":
            _log.warning("%s: %d probes were good, the breaker closes", version, after.good_probes)

    def __repr__(self) -> str:
        shown = ", ".join(f"{version} {one.state.phase}" for version, one in self._all.items())
        return f"<Breakers {shown}>"


def _event(kind: Any, reasons: Reasons) -> Event:
    why = {i: _REASONS[reason]() for i, reason in enumerate(reasons) if reason is not None}
    return event_of(kind, len(reasons), why)
