"""Stage: the servers of a run, each up and asked once, and what is sent to each."""

import argparse
import json
import os
import random
import re
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtests import wrk
from loadtests.launch import ROOT, Server
from loadtests.observations import act_body
from loadtests.summary import SERVERS, Served
from loadtests.worktree import Tree, worktree
from loadtests.wrk import BenchFailed

SESSIONS = 500
SERVER_CORE, WRK_CORE = 0, 1
SERVICES = ("c", "d")
_LEASE_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Stage:
    """The servers of a run, by letter, and the scripts that drive them; ``tree`` is the fourth's, if it has its own."""

    servers: dict[str, Server] = field(default_factory=dict)
    scripts: dict[str, Path] = field(default_factory=dict)
    tree: Tree | None = None


def staged(options: argparse.Namespace, folder: Path, running: ExitStack) -> Stage:
    """Start the servers; they end with ``running``, and a commit's worktree after them.

    The service tells the schema and a typical answer; the bare server and FastAPI are made like it.
    """
    tree = None if options.against is None else running.enter_context(worktree(options.against, folder))
    stage = Stage(tree=tree)
    policy, text, answer = _served(stage, "c", options.config, folder, running, listed=options.listed)
    if fourth(options):
        config = options.against_config or options.config
        _served(stage, "d", config, folder, running, listed=options.listed)
    like = folder / "like.json"
    like.write_text(json.dumps({"policy": policy, "answer": answer, "listed": options.listed}), "utf-8")
    for letter in ("a", "b"):
        name = SERVERS[letter]
        command = ["-m", "loadtests.servers", name, "--like", str(like)]
        stage.servers[letter] = running.enter_context(Server(name, command, folder / f"{name}.log"))
        stage.scripts[letter] = stage.scripts["c"]
        asked(f"{stage.servers[letter].serving.url}/act", text.encode())
    return stage


def fourth(options: argparse.Namespace) -> bool:
    """Whether there is a fourth server: another commit, another configuration, or both."""
    return options.against is not None or options.against_config is not None


def _served(
    stage: Stage, letter: str, config: Path, folder: Path, running: ExitStack, *, listed: bool
) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Start a service and wait until it may explore; what its policy is, one request's body and its answer."""
    name = SERVERS[letter]
    root = ROOT if letter == "c" or stage.tree is None else stage.tree.root
    command = ["-m", "service", "serve", str(config.resolve()), "--port", "0", "--data", str(folder / f"data-{letter}")]
    server = running.enter_context(Server(name, command, folder / f"{name}.log", root))
    stage.servers[letter] = server
    url = server.serving.url
    policy = json.loads(asked(f"{url}/policy"))
    texts = bodies(policy, listed=listed)
    stage.scripts[letter] = folder / f"sessions-{letter}.lua"
    stage.scripts[letter].write_text(wrk.script(texts), "ascii")
    await_lease(server)
    return policy, texts[0], json.loads(asked(f"{url}/act", texts[0].encode()))


def await_lease(server: Server, within_s: float = _LEASE_WITHIN_S) -> None:
    """Wait until the agent lets a service explore; raises BenchFailed where it does not."""
    until = time.monotonic() + within_s
    while not may_explore(server.serving.url):
        if time.monotonic() > until:
            msg = f"{server.name} may not explore after {within_s:g} s, expected its agent to run and say so"
            raise BenchFailed(msg)
        time.sleep(0.1)


def may_explore(url: str) -> bool:
    """Whether the lease of exploration holds, which it does while the agent lives."""
    return bool(json.loads(asked(f"{url}/report"))["explores"])


def counted(url: str) -> Served:
    """What the service has decided so far, in how many batches, and how much of it not by the policy."""
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


def pin(stage: Stage) -> None:
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
