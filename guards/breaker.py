"""The breaker: stops asking a version that keeps failing, and asks it again in shadow before it may answer once more.

A step is a pure function of the state, of what happened, of the clock and of a random number. While it is open,
callers get the baseline with the reason ``BreakerOpen``; after a rest, probes run in shadow.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from export.spec.spaces import Frozen
from guards.errors import CheckFailed, DeadlineExceeded, InferenceFailed, InvalidOutput, PolicyUnavailable

Cause = Literal["consecutive", "rate", "probe"]
# Faults of the version itself; what constraints, an operator or doubts about an observation prevent is not.
HARD = (CheckFailed, DeadlineExceeded, InferenceFailed, InvalidOutput)
BUCKETS = 10
_EMPTY = ((0, 0.0),) * BUCKETS
Seconds = Annotated[float, Field(gt=0, le=86400)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class Event:
    """What came of one flight: callers' (answered) or a probe's (probed); or that a probe has left (probe_sent).

    ``good`` and ``faults`` (by reason) count its decisions; ``Event()`` only lets time pass. ``flights`` alike, one
    after another, may be told as one.
    """

    kind: Literal["answered", "probe_sent", "probed"] = "answered"
    good: int = 0
    faults: Mapping[str, int] = field(default_factory=dict)
    flights: int = 1

    @property
    def share(self) -> float | None:
        """The share of faults; None where nothing speaks for or against the version."""
        faults = sum(self.faults.values())
        return faults / (faults + self.good) if faults + self.good else None


def event_of(
    kind: Literal["answered", "probed"], rows: int, why: Mapping[int, PolicyUnavailable], host: Container[int] = ()
) -> Event:
    """A flight of so many rows, why some are not the policy's, and which of them the host is to blame for."""
    faults = [failed.reason for row, failed in why.items() if isinstance(failed, HARD) and row not in host]
    return Event(kind, good=rows - len(why), faults={reason: faults.count(reason) for reason in sorted(set(faults))})


@dataclass(frozen=True, slots=True)
class BreakerState:
    """Where a breaker stands, and the record of why.

    ``since`` is when the phase began and ``at`` the last step, by the caller's clock (s). ``opened_by``, ``fault`` (the
    commonest reason) and ``rest_s`` are of the last opening. ``counted_s`` counts towards the end of the phase: rest,
    the wait for a probe, health. ``window`` has (flights, sum of their shares of faults) from the newest bucket on,
    which is ``bucket_s`` old.
    """

    at: float
    since: float
    next_rest_s: float
    phase: Literal["closed", "resting", "probing"] = "closed"
    opened_by: Cause | None = None
    fault: str | None = None
    rest_s: float = 0.0
    good_probes: int = 0
    sent: bool = False
    counted_s: float = 0.0
    in_a_row: int = 0
    window: tuple[tuple[int, float], ...] = _EMPTY
    bucket_s: float = 0.0

    @property
    def probe_due(self) -> bool:
        """Whether a flight should go to the version in shadow now: one at a time."""
        return self.phase == "probing" and not self.sent


class Breaker(Frozen):
    """When a version is not asked any more, and how it earns trust again.

    The unit is the flight, one run of the version: what fails in it together is one failure. ``consecutive`` flights
    of faults alone open it, and so does a mean share of faults of ``rate`` over at least ``minimum`` flights in the
    last ``window_seconds`` (in buckets: up to a tenth less). A rest is ``growth`` times the one before, less up to the
    share ``jitter``, lest replicas probe together; ``healthy_seconds`` of good answers take one such step back.
    """

    consecutive: Count = 5
    rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    minimum: Count = 20
    window_seconds: Seconds = 10.0
    rest_seconds: Seconds = 1.0
    longest_rest_seconds: Seconds = 30.0
    growth: Annotated[float, Field(ge=1, le=100)] = 2.0
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.5
    good_probes: Count = 3
    healthy_seconds: Seconds = 300.0

    @model_validator(mode="after")
    def _rests_are_ordered(self) -> "Breaker":
        if self.rest_seconds > self.longest_rest_seconds:
            msg = f"rest_seconds is {self.rest_seconds}, expected at most {self.longest_rest_seconds}, the longest"
            raise ValueError(msg)
        return self

    def start(self, now: float) -> BreakerState:
        """Closed, with nothing known."""
        return BreakerState(at=now, since=now, next_rest_s=self.rest_seconds)

    def step(self, state: BreakerState, event: Event, now: float, uniform: float) -> BreakerState:
        """The state after an event at ``now`` (s, any clock); ``uniform`` in [0, 1) is for the jitter.

        A clock that runs backwards counts as one that stands still, a leap as no longer than there is to wait for.
        """
        longest = max(self.longest_rest_seconds, self.window_seconds)
        passed = min(now - state.at, longest) if now > state.at else 0.0
        if state.phase == "closed":
            return self._answered(state, event, now, passed, uniform)
        state = replace(state, at=now, counted_s=state.counted_s + passed)
        if state.phase == "probing":
            return self._probed(state, event, uniform)
        return state if state.counted_s < state.rest_s else replace(state, phase="probing", since=now, counted_s=0.0)

    def _answered(self, state: BreakerState, event: Event, now: float, passed: float, uniform: float) -> BreakerState:
        """Closed: count a flight of callers, and the time to a good one as healthy."""
        turned, within = divmod(state.bucket_s + passed, self.window_seconds / BUCKETS)
        window, share = (_EMPTY[: int(turned)] + state.window)[:BUCKETS], event.share
        if event.kind != "answered" or share is None:
            return replace(state, at=now, window=window, bucket_s=within)
        window = ((window[0][0] + event.flights, window[0][1] + share * event.flights), *window[1:])
        in_a_row = state.in_a_row + event.flights if share == 1 else 0
        flights, faults = (sum(column) for column in zip(*window, strict=True)) if share else (0, 0.0)
        if in_a_row >= self.consecutive:
            return self._opened(state, "consecutive", event, now, uniform)
        if flights >= self.minimum and faults >= self.rate * flights:
            return self._opened(state, "rate", event, now, uniform)
        healthy, rest = state.counted_s + (0.0 if share else passed), state.next_rest_s
        if healthy >= self.healthy_seconds:
            healthy, rest = 0.0, max(rest / self.growth, self.rest_seconds)
        state = replace(state, at=now, window=window, bucket_s=within, in_a_row=in_a_row)
        return replace(state, counted_s=healthy, next_rest_s=rest)

    def _probed(self, state: BreakerState, event: Event, uniform: float) -> BreakerState:
        """Half open: only probes count, and one that does not come back is sent again."""
        if event.kind == "probe_sent":
            return replace(state, sent=True, counted_s=0.0)
        if event.kind == "answered":
            return replace(state, sent=state.sent and state.counted_s < self.longest_rest_seconds)
        if event.share:
            return self._opened(state, "probe", event, state.at, uniform)
        good = state.good_probes + (event.share is not None)
        closed = replace(state, phase="closed", since=state.at, counted_s=0.0)
        return replace(closed if good >= self.good_probes else state, sent=False, good_probes=good)

    def _opened(self, state: BreakerState, cause: Cause, event: Event, now: float, uniform: float) -> BreakerState:
        """Open for a rest, and the next one longer."""
        rest, fault = state.next_rest_s, max(sorted(event.faults), key=event.faults.__getitem__)
        after = min(rest * self.growth, self.longest_rest_seconds)
        rest *= 1 - self.jitter * uniform
        opened = replace(self.start(now), phase="resting", opened_by=cause, fault=fault)
        return replace(opened, rest_s=rest, next_rest_s=after)
