"""The simulated service, one minute at a time: replicas that take time to start, a queue, CPU and P95 latency.

Everything here is a pure function of its arguments: the same state, change and arrivals always give the same minute.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import pow as power
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

STEP_SECONDS: Final = 60.0
ACTIONS: Final = (-2, -1, 0, 1, 2)
ACTION_NAMES: Final = ("scale_down_2", "scale_down_1", "hold", "scale_up_1", "scale_up_2")
HISTORY: Final = 10  # minutes of arrival rates that a state remembers, for the trend and the peak


@dataclass(frozen=True, slots=True)
class Service:
    """What the simulated service is made of; the defaults are the ones that the bundled policy was trained on."""

    min_replicas: int = 2
    max_replicas: int = 30
    workers: int = 4  # requests that one replica works on at once
    service_seconds: float = 0.08  # mean time of one request without waiting
    startup_seconds: float = 150.0  # from asking for a replica until it serves
    queue_seconds: float = 10.0  # work that may wait, in seconds of capacity; more is shed
    slo_ms: float = 500.0
    price: float = 0.02  # per replica and minute, started or starting
    penalty: float = 2.0  # per minute that breaches the objective
    substep_seconds: float = 5.0

    @property
    def replica_rps(self) -> float:
        """Requests per second that one busy replica serves."""
        return self.workers / self.service_seconds


@dataclass(frozen=True, slots=True)
class State:
    """The service between two minutes, as the controller finds it."""

    ready: int
    starting: tuple[float, ...] = ()  # seconds left until each pending replica serves, oldest first
    queue: float = 0.0
    cpu: float = 0.0
    p95_ms: float = 0.0
    rates: tuple[float, ...] = ()  # requests per second of the last minutes, newest last

    @property
    def replicas(self) -> int:
        """Replicas asked for: those that serve and those that start."""
        return self.ready + len(self.starting)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one minute brought."""

    arrivals: float
    served: float
    dropped: float
    cost: float
    breached: bool
    reward: float


@dataclass(frozen=True, slots=True)
class Field:
    """One named number of the observation."""

    name: str
    unit: str
    low: float
    high: float


FIELDS: Final = (
    Field("rps", "requests/s", 0.0, 1500.0),
    Field("load", "ratio", 0.0, 15.0),
    Field("load_mean", "ratio", 0.0, 15.0),
    Field("load_trend", "ratio per min", -5.0, 5.0),
    Field("load_peak", "ratio", 0.0, 15.0),
    Field("load_down_1", "ratio", 0.0, 30.0),
    Field("cpu", "ratio", 0.0, 1.0),
    Field("p95_ms", "ms", 0.0, 12500.0),
    Field("replicas", "count", 2.0, 30.0),
    Field("pending", "count", 0.0, 28.0),
)


def start(rps: float, replicas: int) -> State:
    """A quiet service that has seen `rps` requests per second for a while and serves them with `replicas`."""
    service = Service()
    cpu = min(1.0, rps / (replicas * service.replica_rps))
    return State(ready=replicas, cpu=cpu, p95_ms=latency_ms(cpu, service), rates=(rps,) * HISTORY)


def latency_ms(load: float, service: Service) -> float:
    """The 95th percentile of response time, in ms, at an offered load per worker; a backlog's wait comes on top.

    Each replica is an M/M/c queue of its own (requests are spread blindly), with Sakasegawa's approximation of the mean
    wait (Sakasegawa 1977); the 95th percentile of an exponential is three times its mean. The load is capped at 0.97:
    beyond it the steady state of the formula takes longer to arrive than the minute lasts, and the backlog speaks.
    """
    busy = min(load, 0.97)
    wait = service.service_seconds * power(busy, sqrt(2 * (service.workers + 1)) - 1) / (service.workers * (1 - busy))
    return 1000 * (3 * service.service_seconds + 3 * wait)


def scale(state: State, change: int, service: Service) -> State:
    """Ask for `change` replicas more or less, within the limits; replicas that still start are given up first."""
    target = min(max(state.replicas + change, service.min_replicas), service.max_replicas)
    ready = min(state.ready, target)
    starting = state.starting[: target - ready]
    starting += (service.startup_seconds,) * (target - ready - len(starting))
    return State(ready, starting, state.queue, state.cpu, state.p95_ms, state.rates)


def step(
    state: State, change: int, arrivals: float, service: Service, seconds: float = STEP_SECONDS
) -> tuple[State, Outcome]:
    """Play one minute (or another time): change the replicas, then let `arrivals` requests come in, spread evenly.

    The slowest substep holds 1/12 of the minute's requests, more than 5 %, so it decides the minute's P95.
    """
    state = scale(state, change, service)
    substep, rate = service.substep_seconds, arrivals / seconds
    ready, starting, queue = state.ready, list(state.starting), state.queue
    served = dropped = capacity = p95_ms = steady_at = steady_ms = 0.0
    for _ in range(round(seconds / substep)):
        ready += sum(left <= 0 for left in starting)
        starting = [left - substep for left in starting if left > 0]
        limit = ready * service.replica_rps
        done = min(queue + rate * substep, limit * substep)
        queue += rate * substep - done
        shed = max(0.0, queue - limit * service.queue_seconds)
        queue -= shed
        served, dropped, capacity = served + done, dropped + shed, capacity + limit * substep
        if limit != steady_at:
            steady_at, steady_ms = limit, latency_ms(rate / limit, service)
        p95_ms = max(p95_ms, steady_ms + 1000 * queue / limit)
    replicas = ready + len(starting)
    cost = service.price * replicas * seconds / STEP_SECONDS
    breached = p95_ms > service.slo_ms or dropped > 0
    after = State(ready, tuple(starting), queue, served / capacity, p95_ms, (*state.rates, rate)[-HISTORY:])
    reward = -cost - service.penalty * breached
    return after, Outcome(arrivals, served, dropped, cost, breached, reward)


def observation(state: State, service: Service) -> dict[str, float]:
    """What the controller sees, by name, in the order and units of `FIELDS`.

    `load` is the utilisation that the last minute's arrivals mean for all replicas asked for, once they serve;
    `load_mean` is its mean over the last three minutes, `load_trend` its slope between those and the three before,
    `load_peak` the highest of the last ten minutes, and `load_down_1` the mean with one replica fewer. `cpu` is what
    the ready replicas really did.
    """
    rates = state.rates
    recent, before = sum(rates[-3:]) / 3, sum(rates[-6:-3]) / 3
    capacity = state.replicas * service.replica_rps
    return {
        "rps": rates[-1],
        "load": rates[-1] / capacity,
        "load_mean": recent / capacity,
        "load_trend": (recent - before) / 3 / capacity,
        "load_peak": max(rates) / capacity,
        "load_down_1": recent / max(capacity - service.replica_rps, service.replica_rps),
        "cpu": state.cpu,
        "p95_ms": state.p95_ms,
        "replicas": float(state.replicas),
        "pending": float(len(state.starting)),
    }


def vector(named: Mapping[str, float]) -> NDArray[np.float32]:
    """The same observation as the policy's input: float32 [F], in the order of `FIELDS`."""
    return np.array([named[field.name] for field in FIELDS], dtype=np.float32)
