"""Keep-alive: a connection without a request is closed in time, and no other is."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.api.fast_path import ActProtocol
from tests.in_process import Serving, serving
from tests.service.api.test_fast_path import BODY, post
from tests.service.decision.test_path import Wire

KEPT_S = 75
HEADERS = (b"content-type: application/json", b"content-length: %d" % len(BODY))
REQUEST, HEALTH = post(BODY, *HEADERS), b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


@dataclass
class Timer:
    """A call that is due at a time."""

    at: float
    call: Callable[[], Any]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Timed:
    """The running loop with a time that a test moves on, which also ends the timers that are due by then."""

    now: float = 1000.0
    timers: list[Timer] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], Any], *args: Any) -> Timer:
        self.timers.append(Timer(self.now + delay, lambda: call(*args)))
        return self.timers[-1]

    def create_task(self, *args: Any, **told: Any) -> Any:
        return asyncio.get_running_loop().create_task(*args, **told)

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        while due := [timer for timer in self.timers if timer.at <= self.now and not timer.cancelled]:
            self.timers.remove(due[0])
            due[0].call()


class Closing(Wire):
    """A connection that can be closed."""

    closed = False

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class Connection:
    """A connection to the demo, with its loop and wire."""

    def __init__(self, served: Serving) -> None:
        config = uvicorn.Config(served.application.asgi, http="httptools", timeout_keep_alive=KEPT_S)
        config.load()
        self.loop, self.wire = Timed(), Closing()
        told: Any = {"endpoint": served.application.endpoint, "body_bytes": 10_000}
        self.protocol = ActProtocol(config, ServerState(), {}, self.loop, **told)  # type: ignore[arg-type]  # a part
        self.protocol.connection_made(self.wire)

    async def asks(self, *parts: bytes) -> None:
        """Send, and wait for the answer if there is one."""
        for part in parts:
            self.protocol.data_received(part)
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    """The demo."""
    with serving(tmp_path) as served:
        yield served


@pytest.mark.parametrize("request_", [REQUEST, HEALTH], ids=["a decision", "another call"])
async def test_it_is_closed_when_nothing_was_asked_for_long_enough(served: Serving, request_: bytes) -> None:
    """Counted from the last answer, however many there were before."""
    connection = Connection(served)
    for _ in range(3):
        await connection.asks(request_)
        connection.loop.pass_time(KEPT_S - 5)
    assert len(connection.wire.written) >= 3
    assert not connection.wire.closed

    connection.loop.pass_time(4.9)
    assert not connection.wire.closed
    connection.loop.pass_time(0.2)

    assert connection.wire.closed


async def test_what_has_begun_is_not_cut_off(served: Serving) -> None:
    """Bytes have come since the last answer: the timer of before is over, and the next answer begins a new one."""
    connection = Connection(served)
    await connection.asks(REQUEST)
    connection.loop.pass_time(KEPT_S - 1)
    await connection.asks(REQUEST[:20])
    connection.loop.pass_time(KEPT_S)
    assert not connection.wire.closed

    await connection.asks(REQUEST[20:])
    connection.loop.pass_time(KEPT_S - 1)
    assert not connection.wire.closed
    connection.loop.pass_time(1)

    assert connection.wire.closed


async def test_many_requests_have_one_timer(served: Serving) -> None:
    """None is stopped and started for each of them."""
    connection = Connection(served)

    for _ in range(50):
        await connection.asks(REQUEST)

    assert len(connection.loop.timers) == 1
    assert connection.protocol.server_state.total_requests == 50
