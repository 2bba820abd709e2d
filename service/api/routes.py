"""The HTTP face: an ordinary FastAPI app, whose schema also declares ``/act``, which ``asgi.py`` answers before it."""

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from service.api.asgi import arrived, read_body
from service.api.decoding import RequestDecoder, decoded
from service.api.endpoint import EncodedAnswer, Endpoint, PendingAnswer
from service.api.openapi import declared
from service.api.schemas import Codec, FeedbackResult
from service.config import Config
from service.decision.batch import Outcome
from service.decision.commit import Committer
from service.errors import DoesNotFit, NotDurable, NothingTaken, RequestRefused, TooLarge
from service.log.ids import is_unlogged
from service.log.journal import JournalUnavailable
from service.log.records import Feedback
from service.telemetry.metrics import Exposition
from service.telemetry.stats import Stats

# Rows of a batch that are decided in one turn of the loop before others have theirs.
CHUNK = 64
_CODES = {404: "not_found", 405: "method_not_allowed"}


class Parts(Protocol):
    """What the routes need of the data plane."""

    config: Config
    codec: Codec
    endpoint: Endpoint
    decoder: RequestDecoder
    committer: Committer
    stats: Stats
    exposition: Exposition

    def report(self) -> dict[str, Any]: ...
    def policy(self) -> dict[str, Any]: ...
    def ready(self) -> dict[str, Any]: ...
    def alive(self) -> AbstractAsyncContextManager[None]: ...


def create_app(parts: Parts) -> FastAPI:
    """The app with all its routes."""
    app = FastAPI(
        title="actd",
        version="0.1.0",
        summary="Answers controllers with guarded actions.",
        lifespan=lambda _: parts.alive(),
        redoc_url=None,
        # A redirect would go wherever the request's Host says.
        redirect_slashes=False,
    )

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestRefused)  # noqa: S101 - the handler is registered for nothing else
        return _json(*parts.endpoint.refusal(error))

    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestRefused, refused)
    _add_decisions(app, parts)
    _add_readings(app, parts)
    return app


def _add_decisions(app: FastAPI, parts: Parts) -> None:
    schema = declared(parts.codec)

    @app.post("/act", response_model=None, openapi_extra=schema["act"], summary="Decide an action")
    async def act(request: Request) -> Response:
        body = await read_body(request.scope, request.receive, parts.config.limits.body_bytes)
        if body is None:
            return Response(status_code=400)
        outcome, deadline = parts.endpoint.ask(body, arrived(request.scope))
        return _json(*parts.endpoint.answer(await outcome, deadline))

    @app.post("/act/batch", response_model=None, openapi_extra=schema["batch"], summary="Decide many actions")
    async def act_batch(request: Request) -> Response:
        body = await read_body(request.scope, request.receive, parts.config.limits.batch_bytes)
        if body is None:
            return Response(status_code=400)
        return _json(200, await _decided(parts, body, arrived(request.scope)))

    @app.post("/feedback", response_model=None, openapi_extra=schema["feedback"], summary="Tell what came of it")
    async def feedback(request: Request) -> Response:
        body = await read_body(request.scope, request.receive, parts.config.limits.batch_bytes)
        if body is None:
            return Response(status_code=400)
        return _json(200, await _noted(parts, body))


def _add_readings(app: FastAPI, parts: Parts) -> None:
    @app.get("/report", summary="What was decided since the process started")
    async def report() -> dict[str, Any]:
        return parts.report()

    @app.get("/metrics", response_class=Response, summary="Prometheus metrics")
    async def metrics(request: Request) -> Response:
        content, media_type = parts.exposition.text(request.headers.get("accept", ""))
        return Response(content, media_type=media_type)

    @app.get("/policy", summary="What is observed, how it acts, and which version serves")
    async def policy() -> dict[str, Any]:
        return parts.policy()

    @app.get("/live", summary="The process runs")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/ready", summary="Able to decide", responses={503: {"description": "Not able to decide"}})
    async def ready(response: Response) -> dict[str, Any]:
        state = parts.ready()
        response.status_code = 200 if state["ready"] else 503
        return state


async def _decided(parts: Parts, body: bytes, came: float) -> bytes:
    """A batch's answers, row by row; others have their turn after every chunk of rows.

    They all leave together, so which of them are late is seen at the end; ``came`` is when the batch did.
    """
    rows = decoded(parts.codec.decode_batch, body).requests
    if body.count(b'"requests"') > 1 or b"\\u" in body:
        _refuse_repeated_keys(body)
    if len(rows) > parts.config.limits.batch_rows:
        raise TooLarge(f"has {len(rows)} requests, expected at most {parts.config.limits.batch_rows}", "$.requests")
    endpoint, replies = parts.endpoint, list[EncodedAnswer]()
    for at in range(0, len(rows), CHUNK):
        waiting = [_attempted(parts, rows[i], came) for i in range(at, min(at + CHUNK, len(rows)))]
        for i, one in enumerate(waiting, start=at):
            outcome, deadline = (one, came) if isinstance(one, RequestRefused) else (await one.outcome, one.deadline)
            replies.append(endpoint.written(_of_row(outcome, i), deadline))
        await asyncio.sleep(0)
    return b'{"decisions":[' + b",".join(endpoint.stamped(replies)) + b"]}"


async def _noted(parts: Parts, body: bytes) -> bytes:
    """What became of one item of feedback or a list; others have their turn after every chunk."""
    many = body.lstrip()[:1] == b"["
    items = decoded(_decode_items, body) if many else [decoded(_decode_item, body)]
    if len(items) > parts.config.limits.batch_rows:
        raise TooLarge(f"has {len(items)} items, expected at most {parts.config.limits.batch_rows}")
    results: list[FeedbackResult] = []
    for at in range(0, len(items), CHUNK):
        part = range(at, min(at + CHUNK, len(items)))
        taken = [_received(parts, items[i], f"$[{i}]" if many else "$") for i in part]
        try:
            await parts.committer.note([told for told, _ in taken if told is not None], parts.decoder.now())
        except JournalUnavailable as error:
            # Items that did reach the journal are told twice when the caller tries again: a feedback_id makes that
            # harmless.
            raise NotDurable("the journal cannot be written, so not all of the feedback was taken") from error
        results += [result for _, result in taken]
        await asyncio.sleep(0)
    parts.stats.feedback.update(result.status for result in results)
    if results and all(result.status in ("forged", "invalid") for result in results):
        raise _nothing_taken(results, many=many)
    return msgspec.json.encode({"results": results})


def _nothing_taken(results: list[FeedbackResult], *, many: bool) -> NothingTaken:
    """The error for feedback of which no item could be taken: where it is not a list, the item's own."""
    message, path = "holds nothing that could be taken, expected one good item at least: see results", "$"
    if not many:
        error = results[0].error or {"message": "is not a decision of this deployment", "path": "$.decision_id"}
        message, path = error["message"], error["path"]
    return NothingTaken(message, path, msgspec.json.encode(results))


def _attempted(parts: Parts, row: msgspec.Raw, came: float) -> PendingAnswer | RequestRefused:
    """A row of a batch on its way, or its own error: other rows are not harmed by it."""
    body = bytes(row)
    try:
        if len(body) > parts.config.limits.body_bytes:
            raise TooLarge(f"is larger than expected: at most {parts.config.limits.body_bytes} bytes")
        decoded(parts.codec.decode_act, body)
        _refuse_repeated_keys(body)
        return parts.endpoint.ask(body, came)
    except RequestRefused as error:
        return error


def _of_row(outcome: Outcome, i: int) -> Outcome:
    """An outcome with its place in the batch in its path."""
    if isinstance(outcome, RequestRefused):
        return type(outcome)(outcome.message, f"$.requests[{i}]{outcome.path[1:]}")
    return outcome


def _received(parts: Parts, item: msgspec.Raw, path: str) -> tuple[Feedback | None, FeedbackResult]:
    """One item of feedback: what to journal of it, and what to answer."""
    try:
        told = parts.decoder.feedback(item)
        _refuse_repeated_keys(bytes(item))
    except RequestRefused as error:
        error.path = path + error.path[1:]
        return None, FeedbackResult(status="invalid", error=error.to_json())
    if told is None:
        return None, FeedbackResult(status="forged")
    if is_unlogged(told.decision_id):
        # There is nothing in the log that it could be joined to.
        return None, FeedbackResult(status="unlogged", decision_id=told.decision_id)
    return told, FeedbackResult(status="late" if told.late else "accepted", decision_id=told.decision_id)


_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_item = msgspec.json.Decoder(msgspec.Raw).decode


def _refuse_repeated_keys(body: bytes) -> None:
    """Raise DoesNotFit where an object has a key twice: which of the two was meant is nobody's to guess."""

    def once(pairs: list[tuple[str, Any]]) -> None:
        if len({key for key, _ in pairs}) != len(pairs):
            raise DoesNotFit("has a key twice, expected each once")

    try:
        json.loads(body, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return  # no JSON at all: whoever decodes it says so


def _json(status: int, content: bytes) -> Response:
    headers = {"retry-after": "1"} if status == 503 else None
    return Response(content, status_code=status, media_type="application/json", headers=headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the handler is registered for nothing else
    code = _CODES.get(error.status_code, "refused")
    told = {"code": code, "path": "", "message": str(error.detail).lower()}
    return Response(
        msgspec.json.encode({"error": told}), error.status_code, media_type="application/json", headers=error.headers
    )
