"""A whole data plane in this process, called as a server would call it, over a real artefact and a real journal."""

import asyncio
import json
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from service.api.asgi import App
from service.application import Application, assemble
from service.clock import Clock
from service.config import Config
from service.log.journal import Line, read_segment, segments
from service.log.records import AnyRecord, Decision, Feedback
from service.versions.lease import Page
from tests import artefacts

JSON = (b"content-type", b"application/json")
Headers = Sequence[tuple[bytes, bytes]]
SEEN = {"cpu": 0.25, "queue": 0.0, "replicas": 3.0}


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered; status 0: nothing."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded; no NaN passes for a number."""
        return json.loads(self.body, parse_constant=_refuse)

    @property
    def error(self) -> dict[str, str]:
        """The one error that it is."""
        told: dict[str, str] = self.json()["error"]
        return told


async def call(
    app: App,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    headers: Headers = (JSON,),
    pieces: Sequence[bytes] | None = None,
    ends: Literal["whole", "stalls", "leaves"] = "whole",
) -> Reply:
    """One HTTP request as ASGI has it: the body at once or in pieces; the last never comes, or the client leaves."""
    parts = [body] if pieces is None else list(pieces)
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if parts:
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts) or ends != "whole"}
        if ends == "leaves":
            return {"type": "http.disconnect"}
        message: MutableMapping[str, Any] = await asyncio.get_running_loop().create_future()
        return message

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path.partition("?")[0],
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "query_string": path.partition("?")[2].encode(),
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }
    await app(scope, receive, send)
    if not sent:
        return Reply(0, {}, b"")
    told = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:]))


class Serving:
    """A data plane and short ways to ask it."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.app: App = application.asgi

    async def call(self, method: str, path: str, body: bytes = b"", **how: Any) -> Reply:
        """One HTTP request."""
        return await call(self.app, method, path, body, **how)

    async def post(self, path: str, told: object) -> Reply:
        """POST something as JSON."""
        return await call(self.app, "POST", path, json.dumps(told).encode())

    async def get(self, path: str, **headers: str) -> Reply:
        """GET a page."""
        return await call(self.app, "GET", path, headers=[(n.encode(), v.encode()) for n, v in headers.items()])

    async def act(self, session: str = "s", observation: object = None, **told: object) -> Reply:
        """POST to ``/act``; what is observed is unremarkable unless said otherwise."""
        return await self.post("/act", asking(session, observation, **told))

    def permit(self) -> None:
        """Let it explore, as an agent that lives does."""
        now = asyncio.get_running_loop().time()
        for heartbeat in (1, 2):
            self.application.lease.see(Page(generation=1, heartbeat=heartbeat), now)

    def lines(self) -> list[Line]:
        """The journal, line by line."""
        return [line for path in segments(self.application.journal.folder) for line in read_segment(path.read_bytes())]

    def records(self) -> list[AnyRecord]:
        """The journal; no line of it is damaged."""
        found = [line.record for line in self.lines() if line.record is not None]
        assert len(found) == len(self.lines())
        return found

    def decisions(self) -> list[Decision]:
        """The decisions in the journal."""
        return [record for record in self.records() if isinstance(record, Decision)]

    def feedback(self) -> list[Feedback]:
        """The feedback in the journal."""
        return [record for record in self.records() if isinstance(record, Feedback)]


def asking(session: str = "s", observation: object = None, **told: object) -> dict[str, object]:
    """What is asked of ``/act``."""
    return {"session": session, "observation": SEEN if observation is None else observation, **told}


def configured(folder: Path, artefact: bytes, **settings: object) -> Config:
    """A configuration over an artefact that is written to the folder; in an emergency it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "demo-1.onnx"
    path.write_bytes(artefact)
    told = {"name": "demo", "policy": str(path), "baseline": {"kind": "constant", "action": "hold"}, **settings}
    return Config.model_validate(told)


@contextmanager
def serving(
    folder: Path, artefact: bytes | None = None, clock: Clock | None = None, /, **settings: object
) -> Iterator[Serving]:
    """Serve an artefact (the demo unless another is given) until the end of the block."""
    application = assemble(configured(folder, artefact or artefacts.demo(), **settings), folder / "data", clock=clock)
    try:
        yield Serving(application)
    finally:
        application.engine.pool.shutdown(wait=False, cancel_futures=True)
        application.journal.close()


def refusals(reply: Reply, marker: str) -> dict[str, str]:
    """The error of a reply that has one error, whole and without an echo of the marker."""
    assert 400 <= reply.status < 500, (reply.status, reply.body)
    assert list(reply.json()) == ["error"]
    assert sorted(reply.error) == ["code", "message", "path"]
    assert all(type(text) is str for text in reply.error.values())
    assert marker.encode() not in reply.body
    assert int(reply.headers["content-length"]) == len(reply.body)
    assert reply.headers["content-type"] == "application/json"
    return reply.error


def _refuse(name: str) -> float:
    msg = f"{name} is no JSON"
    raise AssertionError(msg)
