"""What the guards cost a server: its CPU a request at 16 connections, with so many constraints and with none.

Servers with other numbers of constraints are driven in turn by wrk, as ``loadtests.bench`` does it, so that whatever
else the machine does meets all of them; ratios are medians over rounds.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from export.spec import Field, Fields
from guards.abstention import AnyConstraint
from loadtests import wrk
from loadtests.bench import counted
from loadtests.launch import Server, cpu_ns
from tests.artefacts import linear

CONNECTIONS, SESSIONS, ROUNDS, SECONDS, WARM_S = 16, 500, 7, 2, 1


class Served(NamedTuple):
    """CPU (µs) a request, its ratio to that without constraints, and how full the batches were."""

    cpu_us: float
    ratio: float
    rows: float


def artefact(fields: Sequence[str], actions: int) -> bytes:
    """A linear policy over named fields."""
    weights = np.random.default_rng(0).normal(size=(len(fields), actions)).astype(np.float32)
    observation = Fields(fields=tuple(Field(name=name) for name in fields))
    return linear(weights, observation=observation, actions=[f"a{i}" for i in range(actions)])


def served(sets: Sequence[Sequence[AnyConstraint]], fields: Sequence[str], actions: int) -> list[Served]:
    """Drive a server for each set of constraints, the first of which is what the others are compared with."""
    with TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        (folder / "demo-1.onnx").write_bytes(artefact(fields, actions))
        servers = [running.enter_context(_server(folder, i, constraints)) for i, constraints in enumerate(sets)]
        script = folder / "sessions.lua"
        rng = np.random.default_rng(1)
        rows = rng.uniform(0.5, 5.0, (SESSIONS, len(fields))).round(4).tolist()
        script.write_text(wrk.script([json.dumps({"session": f"s{i}", "observation": r}) for i, r in enumerate(rows)]))
        taken: list[list[float]] = [[] for _ in servers]
        for server in servers:
            _cpu(server, script, WARM_S)
        before = [counted(server.serving.url) for server in servers]
        for number in range(ROUNDS):
            order = list(enumerate(servers))
            for i, server in order if number % 2 else reversed(order):
                taken[i].append(_cpu(server, script, SECONDS))
                server.rested()
        gone = [counted(one.serving.url).since(was) for one, was in zip(servers, before, strict=True)]
        return [
            Served(
                cpu_us=median(mine),
                ratio=median(a / b for a, b in zip(mine, taken[0], strict=True)),
                rows=since.decisions / since.flights,
            )
            for mine, since in zip(taken, gone, strict=True)
        ]


def _server(folder: Path, number: int, constraints: Sequence[AnyConstraint]) -> Server:
    config = folder / f"policy-{number}.toml"
    lines = [
        'name = "demo"',
        'policy = "demo-1.onnx"',
        f"constraints = [{', '.join(toml(one.model_dump(mode='json', exclude_none=True)) for one in constraints)}]",
        'baseline = { kind = "constant", action = "a0", last_resort = "a0" }',
    ]
    config.write_text("\n".join(lines), "utf-8")
    command = ["-m", "service", "serve", str(config), "--port", "0", "--data", str(folder / f"data-{number}")]
    return Server(f"{len(constraints)} constraints", command, folder / f"{number}.log")


def toml(value: object) -> str:
    """A value in one line of TOML, whose strings, numbers and lists are those of JSON."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


def _cpu(server: Server, script: Path, seconds: float) -> float:
    """CPU (µs) a request of one run."""
    before = cpu_ns(server.serving.pid)
    seen = wrk.run(server.serving.url, script, connections=CONNECTIONS, seconds=seconds)
    return (cpu_ns(server.serving.pid) - before) / 1000 / seen.requests
