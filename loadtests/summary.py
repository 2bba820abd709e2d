"""What the measurements say: medians, ratios of paired rounds, a table. All of it pure."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

# By letter, as the results speak of them.
SERVERS = {"a": "bare", "b": "fastapi", "c": "act"}


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of wrk against one server."""

    server: str
    connections: int
    round: int
    requests: int
    seconds: float
    cpu_us: float  # CPU time of the process that answers, per request
    beside_us: float  # of the processes beside it, per request: the service's agent, which ships the journal
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Served:
    """What ``/act`` says of itself: counts since the process started."""

    decisions: int
    flights: int
    fallbacks: int

    def since(self, before: "Served") -> "Served":
        """What came between."""
        return Served(
            self.decisions - before.decisions, self.flights - before.flights, self.fallbacks - before.fallbacks
        )


def row(measured: Iterable[Measurement], server: str, connections: int) -> dict[str, Any] | None:
    """The medians of one server at one number of connections; None where it was not measured."""
    runs = [one for one in measured if one.server == server and one.connections == connections]
    if not runs:
        return None
    return {
        "connections": connections,
        "server": server,
        "name": SERVERS[server],
        "requests_per_second": round(median(one.rate for one in runs), 1),
        "cpu_us_per_request": round(median(one.cpu_us for one in runs), 2),
        "beside_us_per_request": round(median(one.beside_us for one in runs), 2),
        "p50_ms": round(median(one.p50_ms for one in runs), 3),
        "p99_ms": round(median(one.p99_ms for one in runs), 3),
    }


def ratio(
    measured: Sequence[Measurement], connections: int, quantity: str, numerator: str, denominator: str
) -> float | None:
    """The median over the rounds of one server's ``quantity`` by another's in the same round; None without pairs."""
    cells = {
        (one.round, one.server): float(getattr(one, quantity)) for one in measured if one.connections == connections
    }
    pairs = [
        value / cells[number, denominator]
        for (number, server), value in cells.items()
        if server == numerator and (number, denominator) in cells
    ]
    return round(median(pairs), 3) if pairs else None


def summary(measured: Sequence[Measurement], served: dict[int, Served]) -> dict[str, Any]:
    """The results as the JSON has them; ``served`` is what ``/act`` counted at each number of connections."""
    counts = sorted({one.connections for one in measured})
    return {
        "rows": [found for count in counts for name in SERVERS if (found := row(measured, name, count)) is not None],
        "ratios": [
            {
                "connections": count,
                "rate_c_by_b": ratio(measured, count, "rate", "c", "b"),
                "cpu_c_by_a": ratio(measured, count, "cpu_us", "c", "a"),
                "cpu_c_by_b": ratio(measured, count, "cpu_us", "c", "b"),
                **_batches(served.get(count)),
            }
            for count in counts
        ],
        "measurements": [{**asdict(one), "requests_per_second": round(one.rate, 1)} for one in measured],
    }


def table(results: dict[str, Any]) -> str:
    """The results for people."""
    lines = ["connections  server       requests/s   CPU us/request   beside it   p50 ms    p99 ms"]
    lines += [
        f"{one['connections']:11}  {one['server']} {one['name']:9} {one['requests_per_second']:12.0f}"
        f"   {one['cpu_us_per_request']:14.1f}   {one['beside_us_per_request']:9.1f}"
        f"   {one['p50_ms']:6.3f}   {one['p99_ms']:7.3f}"
        for one in results["rows"]
    ]
    lines += ["", "connections  rate c/b   CPU c/a   CPU c/b   mean batch   fallbacks"]
    lines += [
        f"{one['connections']:11}  {_shown(one['rate_c_by_b'], 8)}  {_shown(one['cpu_c_by_a'], 8)}"
        f"  {_shown(one['cpu_c_by_b'], 8)}  {_shown(one['mean_batch'], 11)}  {_shown(one['fallback_share'], 10, '.2%')}"
        for one in results["ratios"]
    ]
    return "\n".join(lines)


def _batches(served: Served | None) -> dict[str, float | None]:
    if served is None or not served.decisions or not served.flights:
        return {"mean_batch": None, "fallback_share": None}
    return {
        "mean_batch": round(served.decisions / served.flights, 3),
        "fallback_share": round(served.fallbacks / served.decisions, 6),
    }


def _shown(value: float | None, width: int, form: str = ".2f") -> str:
    return f"{'-' if value is None else format(value, form):>{width}}"
