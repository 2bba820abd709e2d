"""What the guards cost: with and without constraints, in process and in real servers; ``python -m tests.service.cost``.

In process the whole path is run, from the bytes of requests to the bytes of their answers with inference and journal
in between, as a server calls it: for one request, and for 16 at once, which is what a turn of a busy loop has. Each is
the best of some runs: what else the machine does only adds. Then servers are driven by wrk at 16 connections and at
one, in turn, and started anew. The whole takes about 5 minutes.

Constraints are written as a configuration has them: those that judge an action of a Discrete space, of every kind.
"""

import argparse
import asyncio
import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from loadtests import wrk
from loadtests.wrk import BenchFailed
from tests.in_process import serving
from tests.service.served_cost import Cost, artefact, served, started

ROWS, REPEATS = (1, 16), 20
IN_PROCESS_ROUNDS = 15
FEW, MANY = 8, 1000
SEEN = (5.0, 1.0, 2.0, 0.5)
Told = dict[str, Any]


class Case(NamedTuple):
    """A set of constraints, by name."""

    name: str
    constraints: Sequence[Told]


def constraints(count: int) -> list[Told]:
    """A mix of all kinds, as many as asked for."""
    kinds: Sequence[Told] = (
        {"kind": "rule", "name": "floor", "forbid": "action == 'a2' and f0 <= 2"},
        {"kind": "rule", "name": "calm", "forbid": "action in ('a1', 'a3') and f1 / f2 > 3 and not f3 < 0"},
        {"kind": "cooldown", "name": "rest", "actions": ["a2", "a4"], "seconds": 60},
        {"kind": "bounds", "name": "bounds", "of": "f0 + f1", "effect": {"a1": 1, "a2": -1}, "low": -9, "high": 9},
        {"kind": "budget", "name": "budget", "cost": "f1 if action == 'a1' else 0", "at_most": 9, "seconds": 600},
        {"kind": "max_switches", "name": "switches", "at_most": 4, "seconds": 60},
        {"kind": "rate_limit", "name": "rate", "per_second": 0.5, "effect": {"a1": 1, "a2": -1}},
    )
    return [kind | {"name": f"{kind['name']} {i}"} for i in range(count) for kind in (kinds[i % len(kinds)],)]


def levels(actions: int) -> list[Told]:
    """One rate limit, under which every action stands for another value."""
    return [{"kind": "rate_limit", "name": "rate", "per_second": 50, "levels": {f"a{i}": i for i in range(actions)}}]


CASES = {
    FEW: (Case("none", ()), Case("10", constraints(10)), Case("100", constraints(100))),
    MANY: (Case("none", ()), Case("100", constraints(100)), Case("1,000 levels", levels(MANY))),
}
# At one connection, for a lone request, 10 constraints are asked about.
LONE = 2


@contextmanager
def answering(case: Case, actions: int, rows: int, runner: asyncio.Runner) -> Iterator[Callable[[], object]]:
    """The whole path of so many requests at once, without the sockets."""
    settings: dict[str, Any] = {
        "constraints": case.constraints,
        "baseline": {"kind": "constant", "action": "a0", "last_resort": "a0"},
        "limits": {"deadline_ms": 20_000},
    }
    with TemporaryDirectory() as folder, serving(Path(folder), artefact(actions), **settings) as one:

        async def batch() -> None:
            await asyncio.gather(*[one.act(f"s{i}", list(SEEN)) for i in range(rows)])

        yield lambda: runner.run(batch())


def cpu(works: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """The best CPU time (µs) of one run of each, turn by turn."""
    best = [float("inf")] * len(works)
    for _ in range(rounds):
        for i, work in enumerate(works):
            began = time.process_time_ns()
            for _ in range(REPEATS):
                work()
            best[i] = min(best[i], (time.process_time_ns() - began) / REPEATS / 1000)
    return best


def in_process(rounds: int) -> Iterator[str]:
    """The lines of the first table."""
    yield "in process: CPU (µs) of requests that are answered together, and what constraints add"
    yield "requests  actions   constraints      CPU   added us   added"
    for rows in ROWS:
        for actions, cases in CASES.items():
            with ExitStack() as stack:
                runner = stack.enter_context(asyncio.Runner())
                works = [stack.enter_context(answering(case, actions, rows, runner)) for case in cases]
                gc.collect()
                gc.freeze()
                taken = cpu(works, rounds)
            for case, used in zip(cases, taken, strict=True):
                yield (
                    f"{rows:8}  {actions:7}  {case.name:>12}  {used:7.0f}   {used - taken[0]:8.1f}"
                    f"  {used / taken[0] - 1:6.0%}"
                )


def in_servers(rounds: int, seconds: int) -> Iterator[str]:
    """The lines of the second table; raises BenchFailed."""
    yield "in a server: CPU and P50 (µs) of a request; what constraints add by medians of paired rounds"
    yield "connections  actions   constraints     CPU   added us   added   times     P50   added us    rows  fallbacks"
    for actions, cases in CASES.items():
        at = {16: len(cases)} | ({1: LONE} if actions == FEW else {})
        for cost in served([case.constraints for case in cases], actions, at, rounds, seconds):
            yield line(cost, actions, cases[cost.number].name)


def line(cost: Cost, actions: int, name: str) -> str:
    """One line of the second table."""
    return (
        f"{cost.connections:11}  {actions:7}  {name:>12}  {cost.cpu_us:6.1f}   {cost.cpu_more_us:8.1f}"
        f"  {cost.cpu_times - 1:6.1%}  {cost.cpu_times:6.2f}  {cost.p50_us:6.0f}   {cost.p50_more_us:8.0f}"
        f"  {cost.rows:6.1f}  {cost.fallbacks:9.2%}"
    )


def starts(times: int) -> Iterator[str]:
    """The lines of the third table; raises BenchFailed."""
    yield "a start: seconds until it serves"
    yield "actions   constraints    best   median"
    told = [(actions, case) for actions, cases in CASES.items() for case in (cases[0], *cases[-2:])]
    for (actions, case), taken in zip(told, started([(c.constraints, n) for n, c in told], times), strict=True):
        yield f"{actions:7}  {case.name:>12}  {min(taken):6.2f}   {sorted(taken)[len(taken) // 2]:6.2f}"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.service.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rounds", type=_positive, default=7, help="alternations of the servers (default: 7)")
    add("--seconds", type=_positive, default=2, help="length of one run of wrk, whole seconds (default: 2)")
    add("--starts", type=_positive, default=3, help="starts of each server (default: 3)")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        msg = f"{number} was given, expected 1 or more"
        raise argparse.ArgumentTypeError(msg)
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; the exit status."""
    options = parsed(arguments)
    tables = (
        in_process(min(IN_PROCESS_ROUNDS, 2 * options.rounds)),
        in_servers(options.rounds, options.seconds),
        starts(options.starts),
    )
    try:
        wrk.found()
        for lines in tables:
            for text in lines:
                sys.stdout.write(f"{text}\n")
                sys.stdout.flush()
            sys.stdout.write("\n")
    except BenchFailed as error:
        sys.stderr.write(f"cost: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    # Told to end, it ends its servers first.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
