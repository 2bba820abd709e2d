"""The ASGI side: takes ``POST /act`` itself, before the framework, and gives everything else to the app.

A framework's route costs several times what a decision does, so here is only what HTTP asks for: media type, size, time
to arrive, status and length. What the bytes mean is the decoder's to say.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from service.api.endpoint import Endpoint, check_headers
from service.errors import RequestRefused, TooLarge, TooSlow

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

RECEIVE_DEADLINE_S = 10.0
# Where a request's scope says when its first byte came; who calls without says when it was called.
ARRIVED = "actd.arrived"
_JSON = (b"content-type", b"application/json")
_RETRY = (b"retry-after", b"1")


class ActMiddleware:
    """An ASGI app around the app."""

    def __init__(self, app: App, endpoint: Endpoint, *, body_bytes: int) -> None:
        self._app = app
        self._endpoint = endpoint
        self._cap = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope.setdefault("state", {}).setdefault(ARRIVED, time.monotonic())
        if scope["type"] != "http" or scope["path"] != "/act" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            body = await read_body(scope, receive, self._cap)
            if body is None:
                return
            outcome, deadline = self._endpoint.ask(body, arrived(scope))
            status, content = self._endpoint.answer(await outcome, deadline)
        except RequestRefused as error:
            status, content = self._endpoint.refusal(error)
        headers = [_JSON, (b"content-length", b"%d" % len(content))]
        if status == 503:
            headers.append(_RETRY)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def arrived(scope: Scope) -> float:
    """When a request's first byte came (s, monotonic), as its scope has it."""
    told: dict[str, float] = scope.get("state", {})
    return told.get(ARRIVED) or time.monotonic()


async def read_body(scope: Scope, receive: Receive, cap: int) -> bytes | None:
    """The whole body; None where the client has left. Raises WrongMediaType, TooLarge or TooSlow."""
    check_headers(scope["headers"], cap)
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(RECEIVE_DEADLINE_S):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                body += message.get("body", b"")
                if len(body) > cap:
                    raise TooLarge(f"has more than {cap} bytes, expected at most so many")
                more = message.get("more_body", False)
    except TimeoutError:
        raise TooSlow(f"did not arrive within {RECEIVE_DEADLINE_S:g} s") from None
    return bytes(body)
