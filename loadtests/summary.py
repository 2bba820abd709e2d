"""What the measurements say: medians, ratios of paired rounds, a table. All of it pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

# By letter, as the results speak of them.
SERVERS = {"a": "bare", "b": "fastapi", "c": "act", "d": "against"}
PAIRS = (("c", "a"), ("c", "b"), ("c", "d"), ("d", "a"), ("d", "b"))


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
    explores: bool | None = None  # whether the lease of exploration held at the end; None where there is none

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
    pairs = _paired(measured, connections, quantity, numerator, denominator)
    return round(median(a / b for a, b in pairs), 3) if pairs else None


def more(measured: Sequence[Measurement], connections: int, quantity: str, one: str, other: str) -> float | None:
    """The median over the rounds of how much one server's ``quantity`` is above another's; None without pairs."""
    pairs = _paired(measured, connections, quantity, one, other)
    return round(median(a - b for a, b in pairs), 4) if pairs else None


def _paired(
    measured: Sequence[Measurement], connections: int, quantity: str, one: str, other: str
) -> list[tuple[float, float]]:
    """A quantity of two servers in the rounds that both were measured in."""
    cells = {(of.round, of.server): float(getattr(of, quantity)) for of in measured if of.connections == connections}
    rounds = sorted({number for number, server in cells if server == one and (number, other) in cells})
    return [(cells[number, one], cells[number, other]) for number in rounds]


def summary(measured: Sequence[Measurement], served: Mapping[tuple[str, int], Served]) -> dict[str, Any]:
    """The results as the JSON has them; ``served`` is what a service counted at a number of connections."""
    counts = sorted({one.connections for one in measured})
    letters = {one.server for one in measured}
    return {
        "rows": [found for count in counts for name in SERVERS if (found := row(measured, name, count)) is not None],
        "ratios": [
            _compared(measured, count, one, other)
            for count in counts
            for one, other in PAIRS
            if {one, other} <= letters
        ],
        "services": [
            {"connections": count, "server": letter, **_batches(one), "explored": _explored(measured, letter, count)}
            for (letter, count), one in served.items()
        ],
        "measurements": [{**asdict(one), "requests_per_second": round(one.rate, 1)} for one in measured],
    }


def _compared(measured: Sequence[Measurement], count: int, one: str, other: str) -> dict[str, Any]:
    """Two servers at a number of connections, by medians over paired rounds."""
    above = more(measured, count, "p50_ms", one, other)
    return {
        "connections": count,
        "pair": f"{one}/{other}",
        "rate": ratio(measured, count, "rate", one, other),
        "cpu": ratio(measured, count, "cpu_us", one, other),
        "p50": ratio(measured, count, "p50_ms", one, other),
        "p99": ratio(measured, count, "p99_ms", one, other),
        "p50_more_us": None if above is None else round(above * 1000),
    }


def _explored(measured: Sequence[Measurement], letter: str, count: int) -> float | None:
    """The share of runs at whose end the lease of exploration held."""
    told = [one.explores for one in measured if one.server == letter and one.connections == count]
    known = [one for one in told if one is not None]
    return sum(known) / len(known) if known else None


def table(results: dict[str, Any]) -> str:
    """The results for people."""
    lines = ["connections  server       requests/s   CPU us/request   beside it   p50 ms    p99 ms"]
    lines += [
        f"{one['connections']:11}  {one['server']} {one['name']:9} {one['requests_per_second']:12.0f}"
        f"   {one['cpu_us_per_request']:14.1f}   {one['beside_us_per_request']:9.1f}"
        f"   {one['p50_ms']:6.3f}   {one['p99_ms']:7.3f}"
        for one in results["rows"]
    ]
    lines += ["", "medians of paired rounds", "connections  pair     rate      CPU      p50      p99   p50 more us"]
    lines += [
        f"{one['connections']:11}  {one['pair']:4}"
        + "".join(f" {_shown(one[name], 8)}" for name in ("rate", "cpu", "p50", "p99"))
        + f"   {_shown(one['p50_more_us'], 11, '+.0f')}"
        for one in results["ratios"]
    ]
    lines += ["", "connections  service  mean batch   fallbacks   runs with the lease of exploration"]
    lines += [
        f"{one['connections']:11}  {one['server']:7}  {_shown(one['mean_batch'], 10)}"
        f"  {_shown(one['fallback_share'], 10, '.2%')}  {_shown(one['explored'], 35, '.0%')}"
        for one in results["services"]
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
