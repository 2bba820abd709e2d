"""One trace played from its first minute to its last under one controller, and what it came to."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil
from typing import TypeAlias

from examples.autoscaler.dynamics import STEP_SECONDS, Outcome, Service, State, start, step
from examples.autoscaler.traces import Trace

Controller: TypeAlias = Callable[[State], int]  # how many replicas to add for the next minute


@dataclass(frozen=True, slots=True)
class Totals:
    """What some minutes came to."""

    minutes: int = 0
    cost: float = 0.0
    breach_minutes: int = 0
    replica_minutes: int = 0
    dropped: float = 0.0
    reward: float = 0.0

    @property
    def mean_replicas(self) -> float:
        """Replicas asked for, averaged over the minutes."""
        return self.replica_minutes / max(self.minutes, 1)

    def with_minute(self, state: State, outcome: Outcome) -> "Totals":
        """These totals and one more minute, which ended in `state`."""
        return Totals(
            self.minutes + 1,
            self.cost + outcome.cost,
            self.breach_minutes + outcome.breached,
            self.replica_minutes + state.replicas,
            self.dropped + outcome.dropped,
            self.reward + outcome.reward,
        )

    def as_json(self) -> dict[str, float]:
        """The totals by name, with the mean, rounded for people."""
        named = {name: round(value, 3) for name, value in asdict(self).items()}
        return {**named, "mean_replicas": round(self.mean_replicas, 3)}


def total(parts: list[Totals]) -> Totals:
    """Several episodes added up."""
    return Totals(*(sum(column) for column in zip(*(tuple(asdict(part).values()) for part in parts), strict=True)))


def first_state(trace: Trace, service: Service) -> State:
    """The service just before the trace: quiet, at 70 % utilisation, whoever controls it."""
    rps = float(trace.requests[0]) / STEP_SECONDS
    replicas = min(max(ceil(rps / service.replica_rps / 0.7), service.min_replicas), service.max_replicas)
    return start(rps, replicas)


def minute(
    state: State, controller: Controller, arrivals: float, service: Service, looks: int = 1
) -> tuple[State, Outcome]:
    """Play one minute in which the controller looks at the state, and may change it, so many times."""
    parts = []
    for _ in range(looks):
        state, part = step(state, controller(state), arrivals / looks, service, STEP_SECONDS / looks)
        parts.append(part)
    cost, breached = sum(part.cost for part in parts), any(part.breached for part in parts)
    served, dropped = sum(part.served for part in parts), sum(part.dropped for part in parts)
    return state, Outcome(arrivals, served, dropped, cost, breached, -cost - service.penalty * breached)


def play(trace: Trace, controller: Controller, service: Service, *, looks: int = 1) -> Totals:
    """Let the controller steer the service to the end of the trace, with so many looks a minute."""
    state, totals = first_state(trace, service), Totals()
    for arrivals in trace.requests.tolist():
        state, outcome = minute(state, controller, arrivals, service, looks)
        totals = totals.with_minute(state, outcome)
    return totals
