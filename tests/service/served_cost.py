"""What the guards cost a server: its CPU and latency a request, with so many constraints and with none, and its start.

Servers with other constraints are driven in turn by wrk, as ``loadtests.bench`` does it, so that whatever else the
machine does meets all of them; what constraints add is the median over paired rounds.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from export.spec import Field, Fields
from loadtests import wrk
from loadtests.launch import Server, cpu_ns
from loadtests.stage import await_lease, counted
from loadtests.summary import Measurement, Served, more, ratio
from tests.artefacts import linear

FIELDS = ("f0", "f1", "f2", "f3")
SESSIONS, WARM_S = 500, 1
Constraints = Sequence[Mapping[str, Any]]


class Cost(NamedTuple):
    """One set of constraints at a number of connections; ``more`` and ``times`` are beside the first set.

    ``rows`` is how full the batches were, ``fallbacks`` the share of decisions that were not the policy's.
    """

    number: int
    connections: int
    cpu_us: float
    cpu_more_us: float
    cpu_times: float
    p50_us: float
    p50_more_us: float
    rows: float
    fallbacks: float


def artefact(actions: int) -> bytes:
    """A linear policy over named fields."""
    weights = np.random.default_rng(0).normal(size=(len(FIELDS), actions)).astype(np.float32)
    observation = Fields(fields=tuple(Field(name=name) for name in FIELDS))
    return linear(weights, observation=observation, actions=[f"a{i}" for i in range(actions)])


def served(sets: Sequence[Constraints], actions: int, at: Mapping[int, int], rounds: int, seconds: int) -> list[Cost]:
    """Drive a server for each set of constraints, the first of which is what the others are compared with.

    ``at`` says how many of the sets are driven at each number of connections. Raises BenchFailed.
    """
    with TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        script = _script(folder)
        servers = [running.enter_context(_server(folder, i, one, actions)) for i, one in enumerate(sets)]
        for server in servers:
            await_lease(server)
        return [
            cost
            for connections, count in at.items()
            for cost in _alternated(servers[:count], script, connections, rounds, seconds)
        ]


def _alternated(servers: Sequence[Server], script: Path, connections: int, rounds: int, seconds: int) -> list[Cost]:
    """One warm-up each, then the rounds; every second round goes the other way round."""
    for i, server in enumerate(servers):
        _measured(server, i, script, connections, 0, WARM_S)
        server.rested()
    before = [counted(server.serving.url) for server in servers]
    measured = []
    for number in range(rounds):
        order = list(enumerate(servers))
        for i, server in order if number % 2 else reversed(order):
            measured.append(_measured(server, i, script, connections, number, seconds))
            server.rested()
    since = [counted(one.serving.url).since(was) for one, was in zip(servers, before, strict=True)]
    return [cost(measured, i, connections, one) for i, one in enumerate(since)]


def cost(measured: Sequence[Measurement], number: int, connections: int, since: Served) -> Cost:
    """What the measurements and the service's own counts say of one set of constraints."""
    name = str(number)
    mine = [one for one in measured if one.server == name]
    times = ratio(measured, connections, "cpu_us", name, "0")
    cpu_more, p50_more = (more(measured, connections, of, name, "0") for of in ("cpu_us", "p50_ms"))
    assert times is not None
    assert cpu_more is not None
    assert p50_more is not None
    return Cost(
        number=number,
        connections=connections,
        cpu_us=median(one.cpu_us for one in mine),
        cpu_more_us=cpu_more,
        cpu_times=times,
        p50_us=1000 * median(one.p50_ms for one in mine),
        p50_more_us=p50_more * 1000,
        rows=since.decisions / max(1, since.flights),
        fallbacks=since.fallbacks / max(1, since.decisions),
    )


def started(sets: Sequence[tuple[Constraints, int]], times: int) -> list[list[float]]:
    """The seconds that starts take with each set of constraints over so many actions, turn by turn.

    Raises BenchFailed.
    """
    taken: list[list[float]] = [[] for _ in sets]
    with TemporaryDirectory() as name:
        for number in range(times):
            for i, (constraints, actions) in enumerate(sets):
                folder = Path(name) / f"{number}-{i}"
                folder.mkdir()
                server = _server(folder, i, constraints, actions)
                began = time.monotonic()
                with server:
                    taken[i].append(time.monotonic() - began)
    return taken


def _script(folder: Path) -> Path:
    script = folder / "sessions.lua"
    rows = np.random.default_rng(1).uniform(0.5, 5.0, (SESSIONS, len(FIELDS))).round(4).tolist()
    script.write_text(wrk.script([json.dumps({"session": f"s{i}", "observation": r}) for i, r in enumerate(rows)]))
    return script


def _server(folder: Path, number: int, constraints: Constraints, actions: int) -> Server:
    """A server that has not begun; its deadline is so long that an answer is late on no machine."""
    (folder / f"demo-{number}.onnx").write_bytes(artefact(actions))
    config = folder / f"policy-{number}.toml"
    lines = [
        'name = "demo"',
        f'policy = "demo-{number}.onnx"',
        f"constraints = [{', '.join(toml(dict(one)) for one in constraints)}]",
        'baseline = { kind = "constant", action = "a0", last_resort = "a0" }',
        "limits = { deadline_ms = 20000 }",
    ]
    config.write_text("\n".join(lines), "utf-8")
    command = ["-m", "service", "serve", str(config), "--port", "0", "--data", str(folder / f"data-{number}")]
    return Server(f"server {number}, {len(constraints)} constraints", command, folder / f"{number}.log")


def toml(value: object) -> str:
    """A value in one line of TOML, whose strings, numbers and lists are those of JSON."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


def _measured(server: Server, index: int, script: Path, connections: int, number: int, seconds: float) -> Measurement:
    """One run."""
    before = cpu_ns(server.serving.pid)
    seen = wrk.run(server.serving.url, script, connections=connections, seconds=seconds)
    return Measurement(
        server=str(index),
        connections=connections,
        round=number,
        requests=seen.requests,
        seconds=seen.seconds,
        cpu_us=(cpu_ns(server.serving.pid) - before) / 1000 / seen.requests,
        beside_us=0.0,
        p50_ms=seen.p50_ms,
        p99_ms=seen.p99_ms,
    )
