"""The driver: has the tree that PYTHONPATH names decide what is asked, and writes down what it decided.

It runs as a file of its own in a process of its own (``python drive.py OUT.jsonl < steps``), imports nothing of the
tree but what ``NAMES`` lists, and goes the way of a caller: HTTP bodies in, answers and the journal's lines out. Time
stands still but for what a step says, and every random number of the system is the same, so that ids and draws are.
"""

import asyncio
import hashlib
import json
import os
import random
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

# All that differs between trees: where names live (any other module of ``service`` is tried as well), and what the
# running service calls its ASGI app, its lease and its journal.
NAMES = {
    "assemble": ("service.plane", "service.startup", "service.application"),
    "Config": ("service.config",),
    "Page": ("service.state", "service.versions.lease"),
}
ATTRIBUTES = {"app": ("edge", "fast_path", "asgi", "app"), "lease": ("lease",), "journal": ("journal",)}
# Where a request's scope says when its first byte came.
ARRIVED = "actd.arrived"
KEYRING = {"keys": {"1": "c0" * 32}}
BEGIN = 1_700_000_000.0
# Of a record: what is not of the decision, and what went into it, of which a checksum is kept.
_ASIDE = ("durations", "digest", "config", "v")
_GIVEN = ("observation", "head", "memory", "facts", "mask")
_TOKENS = ("id", "previous", "episode")


class Stopped:
    """The time of the process, which goes on when it is told to."""

    def __init__(self) -> None:
        self.passed = 1024.0

    def __call__(self, *_: object) -> float:
        """Seconds since some moment."""
        return self.passed

    def wall(self) -> float:
        """Seconds since 1970."""
        return BEGIN + self.passed


def stop_everything() -> Stopped:
    """Stop the clocks and take the chance out of the system's random numbers; before the tree is imported."""
    stopped = Stopped()
    time.monotonic = time.perf_counter = time.clock_gettime = stopped
    time.time = stopped.wall
    # Nothing here has to outlive a power cut.
    os.fsync = os.fdatasync = lambda fd: None  # noqa: ARG005 - as the system has it
    random._urandom = os.urandom = lambda count: b"\x07" * count  # type: ignore[attr-defined]  # secrets' source
    return stopped


def found(name: str) -> Any:
    """What has a name in the tree, wherever in ``service`` that is now."""
    for module in NAMES[name]:
        with suppress(ImportError, AttributeError):
            return getattr(import_module(module), name)
    package = import_module("service")
    for module in (one.name for one in walk_packages(package.__path__, "service.") if ".agent" not in one.name):
        if not module.endswith("__main__"):
            thing = getattr(import_module(module), name, None)
            if getattr(thing, "__module__", "") == module:
                return thing
    msg = f"{name} is nowhere in service/: say in tests/corpus/drive.py what it is called now"
    raise LookupError(msg)


def part(service: Any, name: str) -> Any:
    """A part of the running service."""
    for attribute in ATTRIBUTES[name]:
        if hasattr(service, attribute):
            return getattr(service, attribute)
    msg = f"the service has no {name}: say in tests/corpus/drive.py what it is called now"
    raise LookupError(msg)


class Driven:
    """One world's service, asked step by step."""

    def __init__(self, told: dict[str, Any], folder: Path, stopped: Stopped) -> None:
        self.stopped = stopped
        self.folder = folder / "data"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        (self.folder / "keyring.json").write_text(json.dumps(KEYRING))
        self.service = found("assemble")(found("Config").model_validate(told["config"]), self.folder)
        self.app, self.lease = part(self.service, "app"), part(self.service, "lease")
        self.page = found("Page")
        self.heartbeat = 0
        self.ids: dict[str, list[str]] = defaultdict(list)
        self.answered: list[tuple[dict[str, Any], dict[str, Any], int, Any]] = []

    async def step(self, op: dict[str, Any]) -> None:
        """Let time pass, show the agent alive, ask, and take the answers down."""
        self.stopped.passed += op["passed"]
        for _ in range(op["lease"] * (2 - bool(self.heartbeat))):
            self.heartbeat += 1
            self.lease.see(self.page(generation=3, heartbeat=self.heartbeat), self.stopped.passed)
        bodies = [self.body(row) for row in op["rows"]]
        if op["way"] == "batch":
            answers = (await self.post("/act/batch", {"requests": bodies}, op["ago"]))[1]["decisions"]
        else:
            answers = [one for _, one in await asyncio.gather(*(self.post("/act", one, op["ago"]) for one in bodies))]
        for row, body, answer in zip(op["rows"], bodies, answers, strict=True):
            self.answered.append((op, row, body["session"], answer))
            if "decision_id" in answer:
                self.ids[body["session"]].append(answer["decision_id"])

    def body(self, row: dict[str, Any]) -> dict[str, Any]:
        """What is posted for a row: which decision it follows, and when it was observed, are known only now."""
        body = dict(row["body"])
        ids, back = self.ids[body["session"]], row["back"]
        if back is None:
            body["previous"] = None
        elif 0 < back <= len(ids):
            body["previous"] = ids[-back]
        elif "feedback" in body:
            # The session has no decision yet whose outcome could be told.
            del body["feedback"]
        if row["age"] is not None:
            body["observed_at"] = self.stopped.wall() - row["age"]
        return body

    async def post(self, path: str, told: object, ago: float) -> tuple[int, Any]:
        """One call as ASGI has it, whose first byte came so long (s) ago."""
        parts = [json.dumps(told).encode()]
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
            "state": {ARRIVED: self.stopped.passed - ago},
        }
        await self.app(scope, receive, send)
        return sent[0]["status"], json.loads(b"".join(one.get("body", b"") for one in sent[1:]))

    def close(self) -> None:
        """Let the journal go."""
        part(self.service, "journal").close()

    def records(self) -> list[dict[str, Any]]:
        """The journal's decisions, line by line as they stand in the files."""
        files = sorted((self.folder / "journal").glob("*/*.log"))
        lines = [json.loads(line.split(b" ", 2)[2]) for file in files for line in file.read_bytes().splitlines()]
        return [one for one in lines if one["kind"] in ("decision", "refused")]

    def told(self, world: str) -> Iterator[dict[str, Any]]:
        """A line for every answer, with its record in the journal."""
        by_id, refused = {}, defaultdict(list)
        for record in self.records():
            if record["kind"] == "decision":
                by_id[record["id"]] = record
            else:
                refused[record["session"]].append(record)
        for number, (op, row, session, answer) in enumerate(self.answered):
            line = {"world": world, "n": number, "mode": row["mode"], "lease": op["lease"]}
            line["explore"] = row["body"].get("explore", True)
            if "decision_id" in answer:
                line["late"], line["record"] = answer.get("late", False), shown(by_id.pop(answer["decision_id"]))
            else:
                line["error"] = answer["error"]
                if answer["error"]["code"] == "no_safe_action":
                    line["record"] = shown(refused[session].pop(0))
            yield line
        if by_id or any(refused.values()):
            msg = f"{world}: {len(by_id)} decisions in the journal were answered to nobody"
            raise AssertionError(msg)


def shown(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what is not of the decision; what went into it and its ids as checksums."""
    kept = {name: value for name, value in record.items() if name not in (*_ASIDE, *_GIVEN, *_TOKENS)}
    kept["given"] = checksum(canonical({name: record[name] for name in _GIVEN if name in record}))
    for name in _TOKENS:
        if record.get(name) is not None:
            kept[name] = checksum(record[name])
    return kept


def checksum(text: str) -> str:
    """Eight digits that tell two texts apart."""
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def canonical(told: object) -> str:
    """The one way to write something down; numbers by the shortest digits that are read as the same double."""
    return json.dumps(told, sort_keys=True, separators=(",", ":"))


async def main(out: Path) -> None:
    """Drive what stands on standard input: a line for each world, and behind it one for each of its steps."""
    stopped, driven, name = stop_everything(), None, ""
    with out.open("w", encoding="ascii") as written:
        for text in sys.stdin:
            told = json.loads(text)
            if "config" in told:
                driven, name = Driven(told, out.parent, stopped), told["world"]
            elif driven is not None and told:
                await driven.step(told)
            elif driven is not None:
                driven.close()
                written.writelines(canonical(line) + "\n" for line in driven.told(name))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
