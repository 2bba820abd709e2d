"""The fast path: the short way to the endpoint answers exactly as the ASGI way does."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import service.api.fast_path
from service.api.fast_path import ActProtocol, declined
from service.server import server_of
from tests.in_process import Reply, Serving, asking, serving

BODY = json.dumps(asking("s", explore=False)).encode()


@asynccontextmanager
async def listening(served: Serving) -> AsyncIterator[int]:
    """The data plane under the real server, on any free port."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        server = server_of(served.application, opened)
        task = asyncio.create_task(server.serve(sockets=[opened]))
        while not server.started:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.005)
        try:
            yield opened.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def talk(port: int, *parts: bytes) -> bytes:
    """Send bytes over one connection, part by part, and read until the server closes or the parts are answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)  # so that parts arrive apart; nothing depends on it
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def post(body: bytes, *headers: bytes, path: bytes = b"/act", version: bytes = b"1.1") -> bytes:
    """One request that ends its connection."""
    told = headers or (b"content-type: application/json", b"content-length: %d" % len(body), b"connection: close")
    return b"POST %b HTTP/%b\r\nhost: x\r\n%b\r\n\r\n%b" % (path, version, b"\r\n".join(told), body)


def replies(data: bytes) -> list[Reply]:
    """The answers in what a server sent."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers.get("content-length", 0))
        found.append(Reply(int(first.split()[1]), headers, data[:size]))
        data = data[size:]
    return found


def without_ids(reply: Reply) -> Any:
    """What was answered, less what differs from decision to decision."""
    told = reply.json()
    told.pop("decision_id", None)
    return reply.status, told


QUESTIONS = {
    "a decision": BODY,
    "another session": json.dumps(asking("t", explore=False)).encode(),
    "a mask": json.dumps(asking("u", allowed=["hold"], explore=False)).encode(),
    "not json": b"{",
    "nothing": b"",
    "an unknown field": b'{"session": "s", "observation": [0, 0, 0], "x": 1}',
    "too short": b'{"session": "s", "observation": [0]}',
    "not utf-8": b'{"session": "\xff", "observation": [0, 0, 0]}',
    "nested": b"[" * 10_000,
    "too large": BODY + b" " * 300_000,
}


@pytest.mark.parametrize("name", QUESTIONS)
async def test_both_ways_answer_alike(tmp_path: Path, name: str) -> None:
    """Straight from the parser and through ASGI, the same body gets the same status and the same answer."""
    with serving(tmp_path) as served:
        async with listening(served) as port:
            (direct,) = replies(await talk(port, post(QUESTIONS[name])))
        through = await served.call("POST", "/act", QUESTIONS[name])

    assert direct.status == through.status
    if direct.status == 200:
        assert without_ids(direct)[1].keys() == without_ids(through)[1].keys()
    else:
        assert (direct.error["code"], direct.error["path"]) == (through.error["code"], through.error["path"])
    assert direct.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([b"content-length: %d" % len(BODY)], 415),
        ([b"content-type: text/plain", b"content-length: %d" % len(BODY)], 415),
        ([b"content-type: application/json", b"content-encoding: gzip", b"content-length: %d" % len(BODY)], 415),
        ([b"content-type: application/json", b"content-length: 999999"], 413),
        ([b"content-type: application/json", b"content-length: %d" % len(BODY), b"connection: close"], 200),
    ],
)
async def test_headers_decide_before_the_body(tmp_path: Path, headers: list[bytes], status: int) -> None:
    """A body is refused by what is said of it, at once, and the connection ends."""
    with serving(tmp_path) as served:
        async with listening(served) as port:
            (reply,) = replies(await talk(port, post(BODY, *headers)))

    assert reply.status == status
    assert reply.headers["connection"] == "close"


async def test_a_connection_serves_many_requests(tmp_path: Path) -> None:
    """Kept alive, a connection gets one answer for each request in turn, hot and cold ones mixed."""
    kept = (b"content-type: application/json", b"content-length: %d" % len(BODY))
    with serving(tmp_path) as served:
        async with listening(served) as port:
            parts = [post(BODY, *kept), b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n", post(BODY, *kept), post(BODY)]
            found = replies(await talk(port, *parts))

    assert [reply.status for reply in found] == [200, 200, 200, 200]
    assert found[1].json() == {"live": True}
    assert len(served.decisions()) == 3


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    """Several requests in one piece are each decided once and answered in the order they came."""
    kept = (b"content-type: application/json", b"content-length: %d" % len(BODY))
    with serving(tmp_path) as served:
        async with listening(served) as port:
            found = replies(await talk(port, post(BODY, *kept) * 4 + post(BODY)))

    assert [reply.status for reply in found] == [200] * 5
    assert [reply.json()["decision_id"] for reply in found] == [record.id for record in served.decisions()]


async def test_a_body_in_pieces_is_whole_again(tmp_path: Path) -> None:
    """A body that comes byte by byte, or chunked, is the same body."""
    chunked = (b"content-type: application/json", b"transfer-encoding: chunked", b"connection: close")
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
    whole = post(BODY)
    with serving(tmp_path) as served:
        async with listening(served) as port:
            (first,) = replies(await talk(port, whole[:-40], whole[-40:-3], whole[-3:]))
            (second,) = replies(await talk(port, post(pieces, *chunked)))

    assert (first.status, second.status) == (200, 200)


async def test_a_chunked_body_over_the_cap_is_cut_off(tmp_path: Path) -> None:
    """A body without a length is refused as soon as it is over the cap."""
    chunked = (b"content-type: application/json", b"transfer-encoding: chunked")
    with serving(tmp_path) as served:
        async with listening(served) as port:
            data = await talk(port, post(b"", *chunked), *[b"10000\r\n" + b" " * 65536 + b"\r\n"] * 5)
            (reply,) = replies(data)

    assert (reply.status, reply.error["code"]) == (413, "too_large")


async def test_a_body_that_does_not_come_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that stops sending gets 408, and its connection ends."""
    monkeypatch.setattr(service.api.fast_path, "RECEIVE_DEADLINE_S", 0.05)
    with serving(tmp_path) as served:
        async with listening(served) as port:
            (reply,) = replies(await talk(port, post(BODY)[:-10]))

    assert (reply.status, reply.error["code"]) == (408, "too_slow")


@pytest.mark.parametrize("way", ["direct", "through ASGI", "a batch"])
async def test_a_deadline_counts_from_the_first_byte(tmp_path: Path, way: str) -> None:
    """A request whose end comes after its deadline is late: the baseline answers without a question to the model."""
    row = asking("s", deadline_ms=30)
    path, told = (b"/act/batch", {"requests": [row, row]}) if way == "a batch" else (b"/act", row)
    whole = post(json.dumps(told).encode(), path=path + (b"?x=1" if way == "through ASGI" else b""))
    with serving(tmp_path) as served, pytest.MonkeyPatch.context() as patch:
        patch.setattr(served.application.engine, "infer", _never)
        async with listening(served) as port:
            (reply,) = replies(await talk(port, whole[:9], whole[9:-5], b"", b"", b"", whole[-5:]))
        report = (await served.get("/report")).json()

    rows = reply.json()["decisions"] if way == "a batch" else [reply.json()]
    assert [(one["source"], one["reason"], one["late"]) for one in rows] == [
        ("baseline", "DeadlineExceeded", True)
    ] * len(rows)
    assert report["late_answers"] == {"baseline": len(rows)}
    assert report["decisions"] == len(rows)


def _never(inputs: Any) -> Any:
    """A model that nobody may ask."""
    raise AssertionError(inputs)


async def test_the_next_request_of_a_connection_has_a_deadline_of_its_own(tmp_path: Path) -> None:
    """What came late on a connection makes nothing after it late, and the time between two counts for neither."""
    kept = (b"content-type: application/json", b"content-length: %d")
    body = json.dumps(asking("s", deadline_ms=5_000)).encode()
    hurried = json.dumps(asking("s", deadline_ms=1)).encode()
    first = post(hurried, kept[0], kept[1] % len(hurried))
    with serving(tmp_path) as served:
        async with listening(served) as port:
            parts = [first[:20], first[20:], post(body, kept[0], kept[1] % len(body)), post(body)]
            found = replies(await talk(port, *parts))

    assert ["late" in reply.json() for reply in found] == [True, False, False]


async def test_pipelined_requests_count_from_the_read_that_brought_them(tmp_path: Path) -> None:
    """The second waits for the first one's answer: if that takes longer than it may wait, it is late."""
    kept = (b"content-type: application/json", b"content-length: %d")
    slow, hurried = (json.dumps(asking(name, deadline_ms=ms)).encode() for name, ms in (("a", 9_000), ("b", 20)))
    with serving(tmp_path) as served, pytest.MonkeyPatch.context() as patch:
        infer = served.application.engine.infer

        def slowed(inputs: Any) -> Any:
            time.sleep(0.05)
            return infer(inputs)

        patch.setattr(served.application.engine, "infer", slowed)
        async with listening(served) as port:
            found = replies(await talk(port, post(slow, kept[0], kept[1] % len(slow)) + post(hurried)))

    assert [(reply.json()["source"], "late" in reply.json()) for reply in found] == [
        ("policy", False),
        ("baseline", True),
    ]


async def test_what_is_read_was_there_when_the_turn_of_the_loop_began(tmp_path: Path) -> None:
    """Where a loop says when its turn began, as uvloop does, requests count from then, but for its last millisecond."""
    with serving(tmp_path) as served:
        async with listening(served) as port:
            loop = asyncio.get_running_loop()
            plain = loop.time
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ActProtocol, "data_received", _behind(loop, plain, ActProtocol.data_received))
                (reply,) = replies(await talk(port, post(json.dumps(asking("s", deadline_ms=1_000)).encode())))

    assert (reply.json()["reason"], reply.json()["late"]) == ("DeadlineExceeded", True)


def _behind(loop: Any, plain: Any, receive: Any) -> Any:
    """Have bytes received at the end of a turn of five seconds."""

    def received(protocol: ActProtocol, data: bytes) -> None:
        loop.time = lambda: plain() - 5.0
        try:
            receive(protocol, data)
        finally:
            loop.time = plain

    return received


async def test_other_ways_of_asking_work(tmp_path: Path) -> None:
    """HTTP/1.0, a query string, and an expectation of 100-continue are answered too."""
    expects = (
        b"content-type: application/json",
        b"content-length: %d" % len(BODY),
        b"expect: 100-continue",
        b"connection: close",
    )
    with serving(tmp_path) as served:
        async with listening(served) as port:
            (old,) = replies(await talk(port, post(BODY, version=b"1.0")))
            (queried,) = replies(await talk(port, post(BODY, path=b"/act?x=1")))
            interim, expected = replies(await talk(port, post(BODY, *expects)))

    assert (old.status, queried.status, interim.status, expected.status) == (200, 200, 100, 200)


async def test_a_client_that_leaves_harms_nobody(tmp_path: Path) -> None:
    """A connection that is closed before its answer is forgotten; the decision is in the journal all the same."""
    with serving(tmp_path) as served:
        async with listening(served) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(post(BODY))
            writer.transport.abort()
            (reply,) = replies(await talk(port, post(BODY)))

    assert reply.status == 200
    assert 1 <= len(served.decisions()) <= 2


JSON = b"content-type: application/json"
# Java's HTTP client offers the first with every first request of a connection.
OFFERS = {
    "h2c": (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
    "websocket": (b"connection: upgrade", b"upgrade: websocket"),
    "two lines": (b"connection: upgrade", b"upgrade: h2c", b"connection: keep-alive"),
}


def kept(body: bytes, *headers: bytes, path: bytes = b"/act") -> bytes:
    """One request after which its connection goes on."""
    return post(body, JSON, b"content-length: %d" % len(body), *headers, path=path)


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
async def test_an_offer_of_another_protocol_is_passed_over(
    tmp_path: Path, offer: tuple[bytes, ...], size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The request is answered as without it, by every way, with its body, in one piece or in many, and the connection
    goes on: it was taken for one without a body."""
    chunked = post(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY), JSON, b"transfer-encoding: chunked", *offer)
    sent = b"".join(
        (
            kept(BODY, *offer),
            kept(b"[]", *offer, path=b"/feedback"),
            b"GET /live HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n" % b"\r\n".join(offer),
            chunked,
            kept(BODY),
            kept(BODY, *offer, b"connection: close"),
        )
    )
    parts = [sent[at : at + size] for at in range(0, len(sent), size)]
    with serving(tmp_path) as served:
        async with listening(served) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for part in parts:
                writer.write(part)
                await writer.drain()
            found = replies(await asyncio.wait_for(reader.read(), 10))
            writer.close()

    assert [reply.status for reply in found] == [200] * 6
    assert len(served.decisions()) == 4
    assert caplog.text == ""


def test_what_else_a_connection_is_told_stays() -> None:
    """Only the offer is left out of the head that is read again."""
    headers = [(b"host", b"x"), (b"connection", b"close, Upgrade"), (b"upgrade", b"h2c"), (b"x", b"upgrade")]

    assert declined(b"POST", b"/act?x", "1.1", headers) == (
        b"POST /act?x HTTP/1.1\r\nhost: x\r\nx: upgrade\r\nconnection: close\r\n\r\n"
    )


@pytest.mark.parametrize("path", [b"/act", b"/feedback", b"/act/batch"])
@pytest.mark.parametrize("count", [1, 2, 5])
async def test_who_sends_no_more_is_answered(
    tmp_path: Path, path: bytes, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that closes its half of the connection after its requests gets its answers, and then the end of it."""
    body = {b"/act": BODY, b"/feedback": b"[]", b"/act/batch": b'{"requests":[%b]}' % BODY}[path]
    with serving(tmp_path) as served:
        async with listening(served) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(kept(body, path=path) * count)
            writer.write_eof()
            found = replies(await asyncio.wait_for(reader.read(), 10))
            writer.close()

    assert [reply.status for reply in found] == [200] * count
    assert caplog.text == ""


@pytest.mark.parametrize("how", ["half-closed", "closed", "reset"])
async def test_who_leaves_in_the_middle_leaves_no_trace(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests that were under way are not answered to nobody, and nothing of it is an error of ours."""
    sent = kept(b"[]", path=b"/feedback") + kept(BODY) * 2 + kept(b"[]", path=b"/feedback")
    with serving(tmp_path) as served:
        async with listening(served) as port:
            for cut in range(0, len(sent), 23):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(sent[: len(sent) - cut])
                {"half-closed": writer.write_eof, "closed": writer.close, "reset": writer.transport.abort}[how]()
                await asyncio.sleep(0)
                if how == "half-closed":
                    writer.close()
            (reply,) = replies(await talk(port, post(BODY)))

    assert reply.status == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
