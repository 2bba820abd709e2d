"""The edge: takes ``POST /act`` itself, before the framework, and gives everything else to the app.

A framework's route costs several times what a decision does, so here is only what HTTP asks for: media type, size, time
to arrive, status and length. What the bytes mean is the intake's to say.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from service.desk import Desk
from service.errors import RequestRefused, TooLarge, TooSlow, WrongMediaType
from service.requests import Outcome

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

RECEIVE_DEADLINE_S = 10.0
_JSON = (b"content-type", b"application/json")
_RETRY = (b"retry-after", b"1")


class Edge:
    """An ASGI app around the app."""

    def __init__(self, app: App, desk: Desk, refused: Callable[[RequestRefused], None], *, body_bytes: int) -> None:
        """``refused`` is told of every request that is answered with an error before it was decided."""
        self._app = app
        self._desk = desk
        self._refused = refused
        self._cap = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/act" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        outcome: Outcome
        try:
            body = await read_body(scope, receive, self._cap)
            if body is None:
                return
            outcome = await self._desk.ask(body)
        except RequestRefused as error:
            self._refused(error)
            outcome = error
        status, content = self._desk.answer(outcome)
        headers = [_JSON, (b"content-length", b"%d" % len(content))]
        if status == 503:
            headers.append(_RETRY)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})


async def read_body(scope: Scope, receive: Receive, cap: int) -> bytes | None:
    """The whole body; None where the client has left. Raises WrongMediaType, TooLarge or TooSlow."""
    check_headers(scope["headers"], cap)
    message = await receive()
    if message["type"] != "http.request":
        return None
    body: bytes = message["body"]
    if message.get("more_body"):
        return await _read_slowly(body, receive, cap)
    if len(body) > cap:
        raise TooLarge(f"has {len(body)} bytes, expected at most {cap}")
    return body


async def _read_slowly(first: bytes, receive: Receive, cap: int) -> bytes | None:
    """The rest of a body that did not come in one piece."""
    parts, size = [first], len(first)
    try:
        async with asyncio.timeout(RECEIVE_DEADLINE_S):
            while True:
                if size > cap:
                    raise TooLarge(f"has more than {cap} bytes, expected at most so many")
                message = await receive()
                if message["type"] != "http.request":
                    return None
                part = message.get("body", b"")
                parts.append(part)
                size += len(part)
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise TooSlow(f"did not arrive within {RECEIVE_DEADLINE_S:g} s") from None
    if size > cap:
        raise TooLarge(f"has {size} bytes, expected at most {cap}")
    return b"".join(parts)


def check_headers(headers: Iterable[tuple[bytes, bytes]], cap: int) -> None:
    """Refuse a body by what is said of it: raises WrongMediaType or TooLarge."""
    typed = False
    for name, value in headers:
        if name == b"content-type":
            typed = value[:16].lower() == b"application/json"
        elif name == b"content-length" and (len(value) > 12 or (value.isdigit() and int(value) > cap)):
            msg = f"is larger than expected: at most {cap} bytes"
            raise TooLarge(msg)
        elif name == b"content-encoding" and value.lower() != b"identity":
            msg = "is compressed, expected plain JSON"
            raise WrongMediaType(msg, "content-encoding")
    if not typed:
        msg = "is not declared as JSON, expected application/json"
        raise WrongMediaType(msg, "content-type")
