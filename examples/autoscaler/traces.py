"""Request traces: generated days with bursts, and real ones read from a CSV of requests per minute."""

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

DAY: Final = 1440
PEAK_REPLICAS: Final = 20.0
GENERATED_START: Final = datetime(2026, 1, 5, tzinfo=UTC).timestamp()  # a Monday; any would do


class TraceError(Exception):
    """A trace file could not be read; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests of consecutive minutes, float64 [T], and the Unix time at which the first minute begins."""

    name: str
    requests: NDArray[np.float64]
    started_at: float


def generate(rng: np.random.Generator, minutes: int, *, replica_rps: float) -> Trace:
    """A day-and-night wave with bursts and noise, `minutes` long; every call draws a new shape, scale and noise.

    Level: the wave's mean keeps 1 to 10 replicas fully busy. Bursts (a few a day) rise within 4 to 30 minutes by up to
    1.4 times the level and fade over 10 to 90 minutes. Noise: slow and fast multiplicative, then Poisson counts.
    """
    time = np.arange(minutes)
    level = np.exp(rng.uniform(np.log(1.0), np.log(10.0))) * replica_rps * 60
    depth, skew = rng.uniform(0.2, 0.7), rng.uniform(-0.2, 0.2)
    angle = 2 * np.pi * (time / DAY + rng.uniform())
    wave = 1 + depth * np.sin(angle) + skew * np.sin(2 * angle + rng.uniform(0, 2 * np.pi))
    shape = np.maximum(wave, 0.15) + _bursts(rng, time)
    noise = np.exp(_wander(rng, minutes, keep=0.97, spread=0.06) + rng.normal(0.0, rng.uniform(0.01, 0.05), minutes))
    limit = 0.85 * 30 * replica_rps * 60  # the largest service, at a utilisation that keeps its objective
    expected = np.minimum(level * shape * noise, limit)
    return Trace("generated", rng.poisson(expected).astype(np.float64), GENERATED_START)


def _bursts(rng: np.random.Generator, time: NDArray[np.int64]) -> NDArray[np.float64]:
    total = np.zeros(len(time))
    for _ in range(rng.poisson(rng.uniform(1, 6) * len(time) / DAY)):
        since = time - rng.uniform(-30, len(time))
        rise, fade = rng.uniform(4, 30), rng.uniform(10, 90)
        up = np.clip(since / rise, 0, 1)
        total += rng.uniform(0.2, 1.4) * up * np.exp(-np.maximum(since - rise, 0) / fade)
    return total


def _wander(rng: np.random.Generator, minutes: int, *, keep: float, spread: float) -> NDArray[np.float64]:
    """A slow random walk that returns to zero, with standard deviation `spread`."""
    value, values = rng.normal(0, spread), np.empty(minutes)
    for minute, kick in enumerate(rng.normal(0, spread * (1 - keep**2) ** 0.5, minutes)):
        value = keep * value + kick
        values[minute] = value
    return values


def read_csv(path: Path, *, replica_rps: float, peak_replicas: float = PEAK_REPLICAS) -> Trace:
    """Read `minute,requests` (minute as `YYYY-MM-DD HH:MM` in UTC) and scale it to the simulated service.

    The rule: the busiest minute of the file keeps `peak_replicas` replicas fully busy; every other minute follows in
    proportion. Raises `TraceError` for a file that is not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(row["minute"], float(row["requests"])) for row in csv.DictReader(file)]
        started_at = datetime.fromisoformat(rows[0][0]).replace(tzinfo=UTC).timestamp()
    except OSError as error:
        msg = f"cannot read the trace {path}: {error.strerror}"
        raise TraceError(msg) from error
    except (KeyError, IndexError, TypeError, ValueError) as error:
        msg = f"the trace {path} is not a table of minute,requests ({error})"
        raise TraceError(msg) from error
    counts = np.array([requests for _, requests in rows])
    if not np.isfinite(counts).all() or counts.min() < 0 or counts.max() <= 0:
        msg = f"the trace {path} has requests that are not counts: expected numbers >= 0, not all of them 0"
        raise TraceError(msg)
    return Trace(path.stem, counts * (peak_replicas * replica_rps * 60 / counts.max()), started_at)
