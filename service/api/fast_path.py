"""The fast path: ``POST /act`` straight from the HTTP parser to the endpoint, everything else to uvicorn.

The ASGI side answers ``/act`` under any server. Under ours, most of what a decision costs would be the ASGI machinery
itself (a scope, a task and an event a request, two messages to answer), so this subclass of uvicorn's protocol leaves
it out for the one call that is hot. Pipelined requests and ``Expect: 100-continue`` take the ASGI way. See
docs/decisions/0001-act-below-asgi.md.
"""

import asyncio
import logging
import time
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from service.api.asgi import ARRIVED, RECEIVE_DEADLINE_S
from service.api.endpoint import Endpoint, check_headers
from service.decision.batch import Outcome
from service.errors import InternalFault, RequestRefused, TooLarge, TooSlow

# How long the rest of a refused body may take to come.
LINGER_S = 1.0
# The loop's time lags behind the beginning of its turn by less than this.
TICK_S = 0.001

_log = logging.getLogger(__name__)


class Exchange:
    """One ``POST /act``: collects its body, and writes the answer when the outcome is here.

    To uvicorn it is the connection's current cycle: it is told through ``keep_alive`` to close after the answer, and
    through ``disconnected`` that the client has left.
    """

    message_event = asyncio.Event()  # nobody waits for more of its body

    __slots__ = (
        "_arrived",
        "_deadline",
        "_protocol",
        "_timer",
        "body",
        "disconnected",
        "keep_alive",
        "response_complete",
    )

    def __init__(self, protocol: "ActProtocol", keep_alive: bool, arrived: float) -> None:
        self._protocol = protocol
        self._timer: asyncio.TimerHandle | None = None
        self._arrived = self._deadline = arrived
        self.body = b""
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False

    def done(self) -> bool:
        return self.response_complete or self.disconnected

    def expect_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """The body is not all here: it has to be before the deadline."""
        if self._timer is None:
            late = TooSlow(f"did not arrive within {RECEIVE_DEADLINE_S:g} s")
            self._timer = loop.call_later(RECEIVE_DEADLINE_S, self.refuse, late)

    def leave(self) -> None:
        """The client has left before its body was all here."""
        self.disconnected = True
        if self._timer is not None:
            self._timer.cancel()

    def complete(self, endpoint: Endpoint) -> None:
        """The body is all here: have it decided."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            self._deadline = endpoint.take(self.body, self, self._arrived)
        except RequestRefused as error:
            self.set_result(error)
        except Exception:  # noqa: BLE001 - the parser would take a fault of ours for the client's
            _log.exception("a request could not be taken")
            self.set_result(InternalFault("the service has a fault, which is in its log; nothing was decided"))

    def refuse(self, error: RequestRefused) -> None:
        """Answer before the body is all here, and end the connection once the rest of it has come or had its time.

        Closed at once, a connection with unread bytes is reset, and the client may never see its answer.
        """
        protocol = self._protocol
        if self.done():
            return
        self.keep_alive = False
        protocol.over = True
        protocol.write_answer(error, self._deadline, keep_alive=False)
        self.response_complete = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = protocol.loop.call_later(LINGER_S, protocol.transport.close)

    def set_result(self, outcome: Outcome, /) -> None:
        """Write the answer."""
        if self.done():
            return
        self._protocol.write_answer(outcome, self._deadline, self.keep_alive)
        self.response_complete = True
        if not self.keep_alive:
            self._protocol.transport.close()
        self._protocol.on_response_complete()


def declined(method: bytes, url: bytes, version: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The head of a request that offers to go on in another protocol, without the offer."""
    kept = [header for header in headers if header[0] not in (b"upgrade", b"http2-settings", b"connection")]
    told = [value for name, value in headers if name == b"connection"]
    tokens = [token.strip() for value in told for token in value.split(b",")]
    left = [token for token in tokens if token.lower() not in (b"upgrade", b"http2-settings")]
    if left:
        kept.append((b"connection", b", ".join(left)))
    lines = b"".join(b"%b: %b\r\n" % header for header in kept)
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, url, version.encode(), lines)


class ActProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a short way for ``POST /act``."""

    _common: tuple[list[tuple[bytes, bytes]] | None, bytes] = (None, b"")

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        endpoint: Endpoint,
        body_bytes: int,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.over = False  # refused: what still comes is not read as requests
        self._endpoint = endpoint
        self._cap = body_bytes
        self._exchange: Exchange | None = None
        self._declined: bytes | None = None  # the head of a request whose offer of another protocol is declined
        self._asgi: list[Any] = []  # cycles of uvicorn's that may be under way: it knows the last one only
        self._read = self._arrived = 0.0  # when the last bytes were read, and when those with which a request began
        self._idle_since: float | None = None  # by the loop's time; None: a request may be on its way

    def on_message_begin(self) -> None:
        """A request begins; the scope that uvicorn would make now is made where it is needed."""
        self._arrived = self._read
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        if not self.over:
            self._exchange = None

    def on_headers_complete(self) -> None:
        """The head of a request is here: the short way or uvicorn's."""
        parser, cycle = self.parser, self.cycle
        if self.over:
            return
        if parser.should_upgrade() and parser.get_method() != b"CONNECT":
            # The parser leaves the body to the other protocol: the request is read again, without the offer.
            self._declined = declined(parser.get_method(), self.url, parser.get_http_version(), self.headers)
            return
        if (
            self.url != b"/act"
            or parser.get_method() != b"POST"
            or self.expect_100_continue
            or (cycle is not None and not cycle.response_complete)
        ):
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.scope["state"][ARRIVED] = self._arrived
            self.url, self.expect_100_continue = url, expects
            self.headers.extend(headers)
            super().on_headers_complete()
            self._asgi = [one for one in self._asgi if not one.response_complete] + [self.cycle]
            return
        keep_alive = parser.get_http_version() != "1.0" and parser.should_keep_alive()
        # To uvicorn an exchange is a cycle: it has all of what is asked of one from outside.
        self.cycle = self._exchange = Exchange(self, keep_alive, self._arrived)  # type: ignore[assignment]
        try:
            check_headers(self.headers, self._cap)
        except RequestRefused as error:
            self._exchange.refuse(error)

    def on_body(self, body: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            super().on_body(body)
        elif not exchange.done():
            exchange.body = exchange.body + body if exchange.body else body
            if len(exchange.body) > self._cap:
                exchange.refuse(TooLarge(f"has more than {self._cap} bytes, expected at most so many"))

    def on_message_complete(self) -> None:
        exchange = self._exchange
        if exchange is None:
            if self._declined is None:
                super().on_message_complete()
        elif exchange.response_complete:
            self.transport.close()
        elif not exchange.disconnected:
            self._exchange = None
            exchange.complete(self._endpoint)

    def data_received(self, data: bytes) -> None:
        # What is read in a turn of the loop was there when the turn began, which is the time of uvloop's loop, in whole
        # milliseconds; other loops have no time but the present.
        self._read = min(time.monotonic(), self.loop.time() + TICK_S)
        self._idle_since = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self._stay(data[stopped.args[0] :])
        except httptools.HttpParserError:
            msg = "Invalid HTTP request received."
            self.logger.warning(msg)
            self.send_400_response(msg)
        if self._exchange is not None and not self._exchange.done():
            self._exchange.expect_soon(self.loop)

    def on_response_complete(self) -> None:
        """An answer is written. The timer of keep-alive is left to run where there is one, and looks at what has passed
        since when it ends: to stop one and start another at each request costs more than the parser does."""
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None or self.pipeline or self.transport.is_closing():
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.flow.resume_reading()

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > TICK_S:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's never says to go on
        """The client sends no more: it may wait for the answers to what it has asked, and then the connection ends."""
        waiting = [one for one in self._asgi if not one.response_complete]
        if self._exchange is not None or any(one.more_body for one in waiting):
            self._leave()
            return False
        if self.cycle is None or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._leave()

    def _leave(self) -> None:
        """Nobody is there any more to be answered."""
        if self._exchange is not None:
            self._exchange.leave()
        for cycle in self._asgi:
            cycle.disconnected = True
            cycle.message_event.set()

    def _stay(self, rest: bytes) -> None:
        """Go on with HTTP/1.1 where the client has offered another protocol, as Java's does with ``h2c``; ``rest`` is
        what comes after the request's head."""
        head, self._declined = self._declined, None
        if head is None:
            # To CONNECT there is no going on.
            return
        read, self._read = self._read, self._arrived
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(head)
        self._read = read
        self.data_received(rest)

    def write_answer(self, outcome: Outcome, deadline: float, keep_alive: bool) -> None:
        """Write status, headers and body in one piece; it is in time until ``deadline`` (s, monotonic)."""
        status, content = self._endpoint.answer(outcome, deadline)
        defaults = self.server_state.default_headers
        if ActProtocol._common[0] is not defaults:
            # A new list once a second, when the date changes.
            text = b"".join(b"%b: %b\r\n" % header for header in defaults)
            ActProtocol._common = (defaults, text + b"content-type: application/json\r\n")
        self.transport.write(
            b"%b%b%b%bcontent-length: %d\r\n\r\n%b"
            % (
                STATUS_LINE[status],
                ActProtocol._common[1],
                b"" if keep_alive else b"connection: close\r\n",
                b"retry-after: 1\r\n" if status == 503 else b"",
                len(content),
                content,
            )
        )
