"""What the guards cost: CPU of a batch with and without constraints; run as ``python -m tests.service.cost``.

A batch has 16 rows, which is what one turn of a busy loop has. ``decide`` is called by itself; the whole path, from
the bytes of 16 requests to the bytes of their answers with inference and journal in between, as a server calls it.
Each is the best of some runs: what else the machine does only adds. Then real servers are driven by wrk.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from export.spec import Field, Fields
from guards.abstention import AnyConstraint
from guards.constraints import Bounds, Budget, Cooldown, MaxSwitches, RateLimit, Rule
from guards.records import History
from service.decision.sessions import SessionState
from service.server import collect_seldom
from tests.artefacts import linear
from tests.fakes import NOW, asked, batch_of, behaviour_of, recorded, schema_of
from tests.in_process import serving
from tests.service.served_cost import served

ROWS, ROUNDS, REPEATS = 16, 15, 20
COUNTS = (0, 10, 100)
FIELDS, SEEN = ("f0", "f1", "f2", "f3"), (5.0, 1.0, 2.0, 0.5)
PAST = SessionState(
    "before", "episode", History(True, NOW - 99, 5, 1, NOW - 9, {1: NOW - 30.0}, {"budget 0": (NOW - 9, 1.0)})
)


def constraints(count: int) -> list[AnyConstraint]:
    """A mix of all kinds, as many as asked for."""
    kinds: Sequence[Callable[[int], AnyConstraint]] = (
        lambda i: Rule(name=f"floor {i}", forbid="action == 'a2' and f0 <= 2"),
        lambda i: Rule(name=f"calm {i}", forbid="action in ('a1', 'a3') and f1 / f2 > 3 and not f3 < 0"),
        lambda i: Cooldown(name=f"rest {i}", actions=("a2", "a4"), seconds=60),
        lambda i: Bounds(name=f"bounds {i}", of="f0 + f1", effect={"a1": 1, "a2": -1}, low=-9, high=9),
        lambda i: Budget(name=f"budget {i}", cost="f1 if action == 'a1' else 0", at_most=9, seconds=600),
        lambda i: MaxSwitches(name=f"switches {i}", at_most=4, seconds=60),
        lambda i: RateLimit(name=f"rate {i}", per_second=0.5, effect={"a1": 1, "a2": -1}),
    )
    return [kinds[i % len(kinds)](i) for i in range(count)]


def deciding(count: int, actions: int) -> Callable[[], object]:
    """``decide`` for a batch."""
    schema = schema_of(FIELDS, [f"a{i}" for i in range(actions)])
    behaviour = behaviour_of(constraints(count), schema=schema)
    batch = batch_of([asked(observation=SEEN, entry=PAST)] * ROWS)
    head = np.random.default_rng(0).normal(size=(ROWS, actions)).astype(np.float32)
    return lambda: recorded(behaviour, batch, head)


@contextmanager
def answering(count: int, actions: int, runner: asyncio.Runner) -> Iterator[Callable[[], object]]:
    """The whole path of a batch, without the sockets."""
    artefact = linear(
        np.random.default_rng(0).normal(size=(len(FIELDS), actions)).astype(np.float32),
        observation=Fields(fields=tuple(Field(name=name) for name in FIELDS)),
        actions=[f"a{i}" for i in range(actions)],
    )
    settings: dict[str, Any] = {
        "constraints": constraints(count),
        "baseline": {"kind": "constant", "action": "a0", "last_resort": "a0"},
        "limits": {"deadline_ms": 20_000},
    }
    with TemporaryDirectory() as folder, serving(Path(folder), artefact, **settings) as served:

        async def batch() -> None:
            await asyncio.gather(*[served.act(f"s{i}", list(SEEN)) for i in range(ROWS)])

        yield lambda: runner.run(batch())


def cpu(works: Sequence[Callable[[], object]]) -> list[float]:
    """The best CPU time (µs) of one run of each, turn by turn."""
    best = [float("inf")] * len(works)
    for _ in range(ROUNDS):
        for i, work in enumerate(works):
            began = time.process_time_ns()
            for _ in range(REPEATS):
                work()
            best[i] = min(best[i], (time.process_time_ns() - began) / REPEATS / 1000)
    return best


def main() -> None:
    """Print the table."""
    sys.stdout.write(f"guards in process: CPU (µs) of a batch of {ROWS} decisions, and the constraints' share of it\n")
    sys.stdout.write("constraints  actions    decide  share    whole path  share\n")
    for actions in (8, 1000):
        with ExitStack() as stack:
            runner = stack.enter_context(asyncio.Runner())
            inner = cpu([deciding(count, actions) for count in COUNTS])
            servers = [stack.enter_context(answering(count, actions, runner)) for count in COUNTS]
            collect_seldom()
            whole = cpu(servers)
        for count, a, b in zip(COUNTS, inner, whole, strict=True):
            share, whole_share = 1 - inner[0] / a, 1 - whole[0] / b
            sys.stdout.write(f"{count:11d}  {actions:7d}  {a:8.0f}  {share:5.0%}  {b:12.0f}  {whole_share:5.0%}\n")
    sys.stdout.write("\nguards in a server, at 16 connections: CPU (µs) of a request, and the constraints' share\n")
    sys.stdout.write("constraints  actions     CPU  share  rows a batch\n")
    for actions in (8, 1000):
        for count, one in zip(COUNTS, served([constraints(count) for count in COUNTS], FIELDS, actions), strict=True):
            sys.stdout.write(
                f"{count:11d}  {actions:7d}  {one.cpu_us:6.1f}  {1 - 1 / one.ratio:5.0%}  {one.rows:13.1f}\n"
            )


if __name__ == "__main__":
    main()
