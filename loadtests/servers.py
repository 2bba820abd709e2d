"""The two servers that ``/act`` is measured beside: a bare ASGI callable, and an ordinary FastAPI route.

They run under the same uvicorn settings as the service. ``bare`` reads the whole body and answers constant bytes;
``fastapi`` validates the body with pydantic models of the served schema and answers a constant of a response model.
Both end with their standard input.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, create_model

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
_STRANGERS_REFUSED = ConfigDict(extra="forbid")


class Violation(BaseModel):
    """A constraint that spoke."""

    constraint: str
    verdict: Literal["prevented", "executed", "reported"]
    mode: str


class Reply(BaseModel):
    """What ``/act`` answers, as a pydantic model."""

    decision_id: str
    action: int
    action_name: str
    propensity: float
    propensity_ok: bool
    policy: str
    version: str
    track: Literal["stable", "canary", "shadow"]
    source: Literal["policy", "baseline", "last_resort"]
    violations: list[Violation]
    durability: Literal["memory", "journal", "disk"]


def bare(content: bytes) -> App:
    """An ASGI callable that reads the whole body and answers ``content``."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]

    async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        b"".join(parts)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def fastapi(policy: dict[str, Any], reply: Reply, *, listed: bool) -> FastAPI:
    """A FastAPI app whose ``/act`` validates bodies of the schema in ``policy`` (as of ``GET /policy``)."""
    app = FastAPI()

    async def act(body: BaseModel) -> Reply:  # noqa: ARG001 - it is there to be validated
        return reply

    # The model is made from the schema: what a person would have written out by hand.
    act.__annotations__["body"] = act_model(policy, listed=listed)
    app.post("/act")(act)
    return app


def act_model(policy: dict[str, Any], *, listed: bool) -> type[BaseModel]:
    """The request's model: a session, and an observation as a model of fields or as a list of the right length."""
    observation = _observation_type(policy["observation"], listed=listed)
    members: dict[str, Any] = {
        "session": (Annotated[str, Field(min_length=1, max_length=128)], ...),
        "observation": (observation, ...),
        "facts": (dict[str, float] | None, None),
    }
    return create_model("Act", __config__=_STRANGERS_REFUSED, **members)


def _observation_type(space: dict[str, Any], *, listed: bool) -> Any:
    number: Any = float if space["dtype"].startswith("float") else int
    if space["kind"] == "fields" and not listed:
        fields: dict[str, Any] = {field["name"]: (number, ...) for field in space["fields"]}
        return create_model("Observation", __config__=_STRANGERS_REFUSED, **fields)
    kind: Any = number
    for size in reversed(space.get("shape") or [len(space["fields"])]):
        kind = Annotated[list[kind], Field(min_length=size, max_length=size)]
    return kind


async def serve(app: Any, name: str, listening: socket.socket) -> None:
    """Serve until SIGTERM, SIGINT or the end of standard input, under the settings of ``service/server.py``."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        proxy_headers=False,
        access_log=False,
        log_config=None,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    server = _Server(config, name, listening)
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), server.hear)
    await server.serve(sockets=[listening])


class _Server(uvicorn.Server):
    """Says where it serves once it does, in the service's words."""

    def __init__(self, config: uvicorn.Config, name: str, listening: socket.socket) -> None:
        super().__init__(config)
        self._name = name
        self._listening = listening

    async def startup(self, sockets: "list[socket.socket] | None" = None) -> None:
        await super().startup(sockets)
        host, port = self._listening.getsockname()
        print(f"actd: serving {self._name} on http://{host}:{port} (process {os.getpid()})", flush=True)

    def hear(self) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self.handle_exit(signal.SIGTERM, None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.servers", description=__doc__)
    parser.add_argument("server", choices=["bare", "fastapi"])
    parser.add_argument("--like", type=Path, required=True, help="JSON: policy, answer and listed, as the bench has it")
    parser.add_argument("--port", type=int, default=0, help="port to listen on, 0 for any (default: 0)")
    options = parser.parse_args(arguments)
    like = json.loads(options.like.read_text("utf-8"))
    app: Any
    if options.server == "bare":
        app = bare(json.dumps(like["answer"], separators=(",", ":")).encode())
    else:
        app = fastapi(like["policy"], Reply.model_validate(like["answer"]), listed=like["listed"])
    with socket.create_server(("127.0.0.1", options.port), backlog=2048) as listening:
        uvloop.run(serve(app, options.server, listening))
    return 0


if __name__ == "__main__":
    sys.exit(main())
