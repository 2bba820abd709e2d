"""The bench: requests per second, latency and server CPU of ``/act``, beside a bare ASGI callable and FastAPI.

One run alternates between (a) bare, (b) fastapi and (c) act under the same wrk script, so that whatever else the
machine does meets all of them; (d) against, where asked for, is the service of another commit or under another
configuration. Ratios are medians over paired rounds. All are up at once, each service with its agent and the lease of
exploration; only one is driven at a time. The whole default run takes about 5 minutes, with (d) about 7.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from loadtests import wrk
from loadtests.launch import ROOT, cpu_ns
from loadtests.stage import SERVER_CORE, SERVICES, SESSIONS, WRK_CORE, Stage, counted, fourth, may_explore, pin, staged
from loadtests.summary import SERVERS, Measurement, Served, summary, table
from loadtests.wrk import BenchFailed

WARM_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    options = parsed(arguments)
    try:
        results = bench(options)
        options.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    except BenchFailed as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"bench: {error.filename or options.json}: {error.strerror}\n")
        return 1
    print(f"\n{table(results)}\n\nwritten to {options.json}")
    return 0


def bench(options: argparse.Namespace) -> dict[str, Any]:
    """Start the servers, measure them in turn, end them; the results. Raises BenchFailed."""
    wrk.found()
    for name in ("config", "against_config"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            msg = f"--{name.replace('_', '-')} is {path}, expected the configuration of a policy"
            raise BenchFailed(msg)
    with tempfile.TemporaryDirectory(prefix="actd-bench-") as folder, ExitStack() as running:
        stage = staged(options, Path(folder), running)
        if stage.tree is not None:
            _tell(stage.tree.commit, stage.tree.differing)
        if options.pin:
            pin(stage)
        measured: list[Measurement] = []
        served: dict[tuple[str, int], Served] = {}
        services = [letter for letter in SERVICES if letter in options.only]
        for connections in options.connections:
            before = {letter: counted(stage.servers[letter].serving.url) for letter in services}
            measured += alternated(stage, connections, options)
            for letter, was in before.items():
                served[letter, connections] = counted(stage.servers[letter].serving.url).since(was)
        return {"run": _described(options, stage), **summary(measured, served)}


def alternated(stage: Stage, connections: int, options: argparse.Namespace) -> list[Measurement]:
    """One warm-up each, then the rounds; every second round goes the other way round."""
    for name in options.only:
        measure(stage, name, connections, 0, WARM_S)
        stage.servers[name].rested()
    measured = []
    for number in range(1, options.rounds + 1):
        for name in options.only if number % 2 else reversed(options.only):
            one = measure(stage, name, connections, number, options.seconds)
            print(
                f"{connections:3} connections, round {number}: {name} {SERVERS[name]:8}"
                f" {one.rate:8.0f} requests/s, {one.cpu_us:6.1f} us CPU each",
                file=sys.stderr,
                flush=True,
            )
            measured.append(one)
            stage.servers[name].rested()
    return measured


def measure(stage: Stage, name: str, connections: int, number: int, seconds: float) -> Measurement:
    """Drive one server once; raises BenchFailed."""
    server = stage.servers[name]
    serving = server.serving
    before, all_before = cpu_ns(serving.pid), server.family_ns()
    try:
        seen = wrk.run(serving.url, stage.scripts[name], connections=connections, seconds=seconds)
    except BenchFailed as error:
        msg = f"{SERVERS[name]} at {connections} connections: {error}"
        raise BenchFailed(msg) from error
    used, all_used = cpu_ns(serving.pid) - before, server.family_ns() - all_before
    return Measurement(
        server=name,
        connections=connections,
        round=number,
        requests=seen.requests,
        seconds=seen.seconds,
        cpu_us=used / 1000 / seen.requests,
        beside_us=max(0, all_used - used) / 1000 / seen.requests,
        p50_ms=seen.p50_ms,
        p99_ms=seen.p99_ms,
        explores=may_explore(serving.url) if name in SERVICES else None,
    )


def _tell(commit: str, differing: Sequence[str]) -> None:
    """Say what is measured against, and where it does not get the dependencies that it asks for."""
    sys.stderr.write(f"bench: against {commit}\n")
    if differing:
        sys.stderr.write(
            f"bench: it runs with the dependencies of this tree, and asks for others ({', '.join(differing)}):"
            " its numbers may differ for that alone\n"
        )


def _described(options: argparse.Namespace, stage: Stage) -> dict[str, Any]:
    tree = stage.tree
    against = {
        "commit": None if tree is None else tree.commit,
        "config": str(options.against_config or options.config),
        "dependencies_differ": [] if tree is None else list(tree.differing),
    }
    return {
        "policy": stage.servers["c"].serving.label,
        "config": str(options.config),
        "against": against if fourth(options) else None,
        "seconds": options.seconds,
        "rounds": options.rounds,
        "sessions": SESSIONS,
        "wrk_threads": wrk.THREADS,
        "observation": "list" if options.listed else "named",
        "pinned": options.pin,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command; exits where what they ask for cannot be measured."""
    parser = _parser()
    options = parser.parse_args(arguments)
    available = tuple(SERVERS) if fourth(options) else tuple(letter for letter in SERVERS if letter != "d")
    if options.only is None:
        options.only = available
    if not set(options.only) <= set(available):
        parser.error("--only has d, which is measured where --against or --against-config says what it is")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.bench",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--config", type=Path, default=ROOT / "policy.toml", help="what (c) serves")
    add("--against", metavar="COMMIT", help="measure the service of this commit too, from a worktree, as (d)")
    add("--against-config", type=Path, help="what (d) serves, if it is not what (c) does; without --against, this tree")
    add("--connections", type=_counts, default=(1, 16, 64), metavar="N,N,...", help="connections of wrk")
    add("--rounds", type=_positive, default=9, help="alternations at each number of connections")
    add("--seconds", type=_positive, default=2, help="length of one run of wrk, whole seconds")
    add("--only", type=_letters, metavar="LETTERS", help="measure only these, such as c or bc")
    add("--listed", action="store_true", help="send observations as lists, not as named fields")
    add("--pin", action="store_true", help=f"servers to core {SERVER_CORE}, wrk to core {WRK_CORE}: the same for all")
    add("--json", type=Path, default=Path("bench.json"), help="where the results go")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        msg = f"{number} was given, expected 1 or more"
        raise argparse.ArgumentTypeError(msg)
    return number


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _letters(text: str) -> tuple[str, ...]:
    if not text or not set(text) <= set(SERVERS):
        msg = f"{text!r} was given, expected some of {''.join(SERVERS)}"
        raise argparse.ArgumentTypeError(msg)
    return tuple(letter for letter in SERVERS if letter in text)


if __name__ == "__main__":
    # Told to end, it ends its servers first.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
