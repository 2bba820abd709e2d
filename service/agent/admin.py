"""The agent's admin port, for operators: is it alive, does it reach the store, the ledger, and single decisions."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import uvicorn
from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException
from starlette.requests import Request

from service.agent.foreign import Placing, Stranger, record_of
from service.agent.ledger import Ledger
from service.agent.stores import START, Entry, Position, Store, StoreError
from service.log.ids import Place
from service.log.records import Decision

_CODES = {404: "not_found", 405: "method_not_allowed"}


@dataclass(frozen=True, slots=True)
class Desk:
    """What the admin port reads from."""

    store: Store
    place: Callable[[str], Place | None]
    ledger: Callable[[], Ledger]
    failing: Callable[[], dict[str, str]] = dict


class Server(uvicorn.Server):
    """A server that leaves signals to the agent whose loop it runs in."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def create_server(app: FastAPI) -> Server:
    """A server of an app, to be run with ``serve(sockets=[...])`` and ended with ``should_exit``."""
    return Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises OSError."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def create_app(desk: Desk) -> FastAPI:
    """The admin app with all its routes."""
    app = FastAPI(
        title="actd agent",
        version="0.1.0",
        summary="Looks after what was logged.",
        redoc_url=None,
        # A redirect would go wherever the request's Host says.
        redirect_slashes=False,
    )
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(OSError, _unreadable)

    @app.get("/live", summary="The process runs")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/ready", summary="The store can be reached", responses={503: {"description": "It cannot"}})
    async def ready() -> Response:
        try:
            await desk.store.joined()
        except StoreError as error:
            return _error(503, "store_unavailable", "", str(error))
        if failing := desk.failing():
            return _error(503, "failing", "", "; ".join(f"{name}: {why}" for name, why in failing.items()))
        warning = desk.ledger().streams.warning
        return _json({"ready": True, "store": desk.store.kind, **({"warning": warning} if warning else {})})

    @app.get("/ledger", response_model=None, summary="What became of every record and every decision")
    async def ledger() -> Response:
        return _json(desk.ledger())

    @app.get("/decisions/{decision_id}", response_model=None, summary="A decision's record, by its id")
    async def decision(decision_id: str) -> Response:
        return await _decision(desk, decision_id)

    return app


async def _decision(desk: Desk, decision_id: str) -> Response:
    place = desk.place(decision_id)
    if place is None:
        return _error(422, "not_an_id", "decision_id", "is not a decision id of this deployment")
    if place.unlogged:
        return _error(404, "not_found", "decision_id", "was answered while nothing could be written: it is in no log")
    try:
        found = await desk.store.read(place.writer, Position(place.ms, place.seq - 1), 1)
        joined = (await desk.store.joined()).get(place.writer, START)
    except StoreError as error:
        return _error(503, "store_unavailable", "", str(error))
    if not found or found[0].position != (place.ms, place.seq) or not _is_decision(place, found[0], desk.place):
        return _error(404, "not_found", "decision_id", "the store has no such decision (or has not got it yet)")
    return _json({"closed": joined.seq >= place.seq, "decision": msgspec.Raw(found[0].text)})


def _is_decision(place: Place, entry: Entry, placing: Placing) -> bool:
    """Whether an entry is the decision of its place, and not what somebody else has left there."""
    try:
        return isinstance(record_of(place.writer, entry, placing), Decision)
    except Stranger:
        return False


def _json(content: object, status: int = 200) -> Response:
    headers = {"retry-after": "1"} if status == 503 else None
    return Response(msgspec.json.encode(content), status, media_type="application/json", headers=headers)


def _error(status: int, code: str, path: str, message: str) -> Response:
    return _json({"error": {"code": code, "path": path, "message": message}}, status)


async def _unreadable(_: Request, error: Exception) -> Response:
    """What is counted from the journal cannot be while that cannot be read."""
    assert isinstance(error, OSError)  # noqa: S101 - the handler is registered for nothing else
    return _error(503, "journal_unreadable", "", f"{error.filename or 'the journal'} cannot be read ({error.strerror})")


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the handler is registered for nothing else
    return _error(error.status_code, _CODES.get(error.status_code, "refused"), "", str(error.detail).lower())
