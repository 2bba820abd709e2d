"""The bench: requests per second and server CPU per request of ``/act``, beside a bare ASGI callable and FastAPI.

One run alternates between the three under the same wrk script, so that whatever else the machine does meets all of
them: (a) bare, (b) fastapi, (c) act. Ratios are medians over rounds. All are up at once; only one is driven at a time.
"""

import argparse
import json
import os
import platform
import random
import re
import signal
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests import wrk
from loadtests.launch import ROOT, Server, cpu_ns
from loadtests.observations import act_body
from loadtests.summary import SERVERS, Measurement, Served, summary, table
from loadtests.wrk import BenchFailed

SESSIONS = 500
WARM_S = 1.0
SERVER_CORE, WRK_CORE = 0, 1


@dataclass(frozen=True, slots=True)
class Stage:
    """The servers of a run, by letter, and the script that drives them."""

    servers: dict[str, Server]
    script: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    options = _parser().parse_args(arguments)
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
    if not options.config.is_file():
        msg = f"--config is {options.config}, expected the configuration of a policy"
        raise BenchFailed(msg)
    with tempfile.TemporaryDirectory(prefix="actd-bench-") as folder, ExitStack() as running:
        stage = _staged(options, Path(folder), running)
        if options.pin:
            _pin(stage)
        measured: list[Measurement] = []
        served: dict[int, Served] = {}
        for connections in options.connections:
            before = counted(stage.servers["c"].serving.url)
            measured += alternated(stage, connections, options)
            served[connections] = counted(stage.servers["c"].serving.url).since(before)
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
        seen = wrk.run(serving.url, stage.script, connections=connections, seconds=seconds)
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
    )


def counted(url: str) -> Served:
    """What the service has decided so far, in how many flights, and how much of it not by the policy."""
    report = json.loads(asked(f"{url}/report"))
    # The report's mean is rounded; the metrics have the count.
    flights = re.search(r"^actd_flights_total (\S+)$", asked(f"{url}/metrics").decode(), re.MULTILINE)
    return Served(
        decisions=report["decisions"],
        flights=0 if flights is None else int(float(flights[1])),
        fallbacks=report["decisions"] - report["sources"].get("policy", 0),
    )


def bodies(policy: dict[str, Any], *, listed: bool, seed: int = 1) -> list[str]:
    """One request's body for each session."""
    rng = random.Random(seed)
    made = (act_body(policy, f"s{i}", rng, listed=listed) for i in range(SESSIONS))
    return [json.dumps(body, separators=(",", ":")) for body in made]


def _staged(options: argparse.Namespace, folder: Path, running: ExitStack) -> Stage:
    """The service tells the schema and a typical answer; the others are made like it."""
    serve = ["-m", "service", "serve", str(options.config.resolve()), "--port", "0", "--data", str(folder / "data")]
    servers = {"c": running.enter_context(Server("act", serve, folder / "act.log"))}
    url = servers["c"].serving.url
    policy = json.loads(asked(f"{url}/policy"))
    texts = bodies(policy, listed=options.listed)
    answer = json.loads(asked(f"{url}/act", texts[0].encode()))
    like = folder / "like.json"
    like.write_text(json.dumps({"policy": policy, "answer": answer, "listed": options.listed}), "utf-8")
    for letter, name in (("a", "bare"), ("b", "fastapi")):
        command = ["-m", "loadtests.servers", name, "--like", str(like)]
        servers[letter] = running.enter_context(Server(name, command, folder / f"{name}.log"))
        asked(f"{servers[letter].serving.url}/act", texts[0].encode())
    script = folder / "sessions.lua"
    script.write_text(wrk.script(texts), "ascii")
    return Stage(servers, script)


def asked(url: str, body: bytes | None = None) -> bytes:
    """What a server of ours answers; raises BenchFailed where that is no 2xx."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310 - our own server
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - our own server
            content: bytes = response.read()
            return content
    except OSError as error:
        msg = f"{url} did not answer ({error}), expected 200"
        raise BenchFailed(msg) from error


def _pin(stage: Stage) -> None:
    """Each serving process to one core, and what is started from here on, which is wrk, to another.

    The agent stays free: on the service's core it would take from what is measured.
    """
    cores = os.sched_getaffinity(0)
    if not {SERVER_CORE, WRK_CORE} <= cores:
        msg = f"--pin needs the cores {SERVER_CORE} and {WRK_CORE}, and there are {sorted(cores)}"
        raise BenchFailed(msg)
    for server in stage.servers.values():
        for task in Path(f"/proc/{server.serving.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {SERVER_CORE})
    os.sched_setaffinity(0, {WRK_CORE})


def _described(options: argparse.Namespace, stage: Stage) -> dict[str, Any]:
    return {
        "policy": stage.servers["c"].serving.label,
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.bench",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--config", type=Path, default=ROOT / "policy.toml", help="what (c) serves")
    add("--connections", type=_counts, default=(1, 16, 64), metavar="N,N,...", help="connections of wrk")
    add("--rounds", type=_positive, default=5, help="alternations at each number of connections")
    add("--seconds", type=_positive, default=3, help="length of one run of wrk, whole seconds")
    add("--only", type=_letters, default=tuple(SERVERS), metavar="LETTERS", help="measure only these, such as c or bc")
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
