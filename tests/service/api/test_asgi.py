"""The edge: what HTTP asks of a request before its bytes mean anything."""

import asyncio
import json
import time
from collections.abc import Iterator

import pytest

import service.api.asgi
from service.api.asgi import ActMiddleware
from service.errors import RequestRefused
from tests.in_process import JSON, Headers, Serving, asking, refusals, serving

MARK = "MARKERX"
CAP = 256 * 1024
BATCH_CAP = 4 * 1024 * 1024
BODY = json.dumps(asking(MARK)).encode()
CALLS = ("/act", "/act/batch", "/feedback")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One data plane for all requests that are refused."""
    with serving(tmp_path_factory.mktemp("edge")) as served:
        yield served


def length(of: bytes) -> tuple[bytes, bytes]:
    """The header that a client would send with a body."""
    return (b"content-length", b"%d" % len(of))


MEBIBYTE = BODY + b" " * (1024 * 1024 - len(BODY))


@pytest.mark.parametrize(
    ("headers", "pieces"),
    [
        ([JSON, length(MEBIBYTE)], [MEBIBYTE]),
        ([JSON, (b"content-length", b"9" * 400)], [BODY]),
        ([JSON, (b"content-length", b"99999999999999")], [BODY]),
        ([length(MEBIBYTE), JSON], [MEBIBYTE]),
        ([JSON, length(BODY)], [MEBIBYTE]),
        ([JSON, (b"content-length", b"MARKERX")], [MEBIBYTE]),
        ([JSON, (b"content-length", b"-1")], [MEBIBYTE]),
        ([JSON], [MEBIBYTE]),
        ([JSON, (b"transfer-encoding", b"chunked")], [MEBIBYTE[i : i + 4096] for i in range(0, 2**20, 4096)]),
        ([JSON], [MEBIBYTE[: CAP - 1], b"xx", b""]),
        ([JSON], [b"", MEBIBYTE, b""]),
        ([JSON], [b""] * 50 + [MEBIBYTE]),
    ],
)
async def test_a_body_over_the_cap_is_refused_at_once(served: Serving, headers: Headers, pieces: list[bytes]) -> None:
    """1 MiB is too large, whatever its length is said to be and in however many pieces it comes, in under 5 ms."""
    spent = []
    for _ in range(3):
        began = time.process_time()
        reply = await served.call("POST", "/act", headers=headers, pieces=pieces)
        spent.append(time.process_time() - began)

        assert reply.status == 413
        assert refusals(reply, MARK)["code"] == "too_large"
        assert str(CAP) in reply.error["message"]

    assert min(spent) < 0.005


@pytest.mark.parametrize("path", ["/act/batch", "/feedback"])
async def test_batches_and_feedback_have_a_cap_of_their_own(served: Serving, path: str) -> None:
    """4 MiB are too many for any call, and less for a single row of a batch."""
    reply = await served.call("POST", path, b"[" + b" " * BATCH_CAP)

    assert reply.status == 413
    assert str(BATCH_CAP) in refusals(reply, MARK)["message"]


async def test_a_row_of_a_batch_is_held_to_the_cap_of_one_request(served: Serving) -> None:
    """A batch is no way around the cap, and the rows beside the large one are decided."""
    large = BODY[:-1] + b" " * CAP + b"}"
    reply = await served.call("POST", "/act/batch", b'{"requests":[%b,%b]}' % (large, BODY))
    refused, fine = reply.json()["decisions"]

    assert (refused["error"]["code"], refused["error"]["path"]) == ("too_large", "$.requests[0]")
    assert fine["action_name"] == "hold"


@pytest.mark.parametrize("size", [0, 1])
async def test_the_cap_is_exact(served: Serving, size: int) -> None:
    """A body of as many bytes as allowed is read, one byte more is not."""
    body = BODY + b" " * (CAP + size - len(BODY))

    assert (await served.call("POST", "/act", body)).status == (413 if size else 200)
    assert (await served.call("POST", "/act", pieces=[body[:9], body[9:]])).status == (413 if size else 200)


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize(
    ("headers", "place"),
    [
        ([], "content-type"),
        ([(b"content-type", b"")], "content-type"),
        ([(b"content-type", b"text/plain;MARKERX")], "content-type"),
        ([(b"content-type", b"application/x-www-form-urlencoded")], "content-type"),
        ([(b"content-type", b"multipart/form-data; boundary=MARKERX")], "content-type"),
        ([(b"content-type", b"application/js")], "content-type"),
        ([(b"content-type", b"application/jsonMARKERX")], "content-type"),
        ([(b"content-type", b"application/json-seq")], "content-type"),
        ([(b"content-type", b"application/json-patch+json")], "content-type"),
        ([(b"content-type", b"MARKERX\xff\x00")], "content-type"),
        ([JSON, (b"content-encoding", b"gzip")], "content-encoding"),
        ([JSON, (b"content-encoding", b"MARKERX")], "content-encoding"),
        ([JSON, (b"content-encoding", b"identity, gzip")], "content-encoding"),
        ([(b"content-encoding", b"br"), JSON], "content-encoding"),
    ],
)
async def test_what_is_not_declared_as_plain_json_is_refused(
    served: Serving, path: str, headers: Headers, place: str
) -> None:
    """Another media type, none, or a compressed body is a 415 that names the header."""
    reply = await served.call("POST", path, BODY, headers=headers)

    assert reply.status == 415
    assert refusals(reply, MARK)["code"] == "wrong_media_type"
    assert reply.error["path"] == place


@pytest.mark.parametrize(
    "declared",
    [b"application/json", b"Application/JSON", b"application/json; charset=utf-8", b"application/json;charset=UTF-8"],
)
async def test_json_may_be_declared_in_any_spelling(served: Serving, declared: bytes) -> None:
    """Case and parameters of the media type do not matter; neither does saying that nothing was encoded."""
    headers = [(b"content-type", declared), (b"content-encoding", b"identity")]

    assert (await served.call("POST", "/act", BODY, headers=headers)).status == 200


async def test_a_body_may_come_in_pieces(served: Serving) -> None:
    """Byte by byte, cut within a character's escape, or with empty pieces between."""
    pieces = [BODY[i : i + 1] for i in range(len(BODY))]

    for one in (pieces, [b"", *pieces, b""], [BODY, b""]):
        assert (await served.call("POST", "/act", pieces=one)).status == 200


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize("pieces", [[], [b""], [BODY[:10]], [BODY[:10], BODY[10:20]]])
async def test_a_body_that_does_not_come_is_not_waited_for(
    served: Serving, path: str, pieces: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stops sending, before the first byte or after it, is told so once the time is over."""
    monkeypatch.setattr(service.api.asgi, "RECEIVE_DEADLINE_S", 0.05)

    async with asyncio.timeout(1):
        reply = await served.call("POST", path, pieces=pieces, ends="stalls")

    assert reply.status == 408
    assert refusals(reply, MARK)["code"] == "too_slow"


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize("pieces", [[], [b'{"session"'], [BODY]])
async def test_a_client_that_leaves_is_decided_nothing(served: Serving, path: str, pieces: list[bytes]) -> None:
    """A body that ends with the connection is no request, and no fault either."""
    before = len(served.records())
    reply = await served.call("POST", path, pieces=pieces, ends="leaves")

    assert reply.body == b""
    assert len(served.records()) == before


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "MARKERX"])
@pytest.mark.parametrize("path", CALLS)
async def test_other_methods_are_not_allowed(served: Serving, method: str, path: str) -> None:
    """A 405 says which method is."""
    reply = await served.call(method, path, BODY)

    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    assert refusals(reply, MARK)["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path", ["/", "/MARKERX", "/act/MARKERX", "/ACT", "/act//batch", "/%00", "/act%2Fbatch", "//act"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_other_paths_are_not_found(served: Serving, method: str, path: str) -> None:
    """A 404 has the shape of every error."""
    reply = await served.call(method, path, BODY)

    assert reply.status == 404
    assert refusals(reply, MARK)["code"] == "not_found"


async def test_an_error_that_may_pass_says_when_to_try_again() -> None:
    """A 503 carries Retry-After."""

    class Refusing:
        """An endpoint that takes nothing."""

        def refusal(self, error: RequestRefused) -> tuple[int, bytes]:
            return 503, error.body()

        def ask(self, _: bytes, arrived: float) -> None:
            assert arrived <= time.monotonic()
            raise RequestRefused("no")

    asgi = ActMiddleware(served, Refusing(), body_bytes=100)  # type: ignore[arg-type]  # fakes
    reply = await Serving.call(_Around(asgi), "POST", "/act", b"{}")

    assert (reply.status, reply.headers["retry-after"]) == (503, "1")


class _Around(Serving):
    """An app that is no data plane."""

    def __init__(self, app: ActMiddleware) -> None:
        self.app = app


async def test_what_is_not_http_is_the_app_s() -> None:
    """A websocket or a lifespan message is passed on as it is."""
    seen: list[str] = []

    async def app(scope: service.api.asgi.Scope, _: object, __: object) -> None:
        seen.append(scope["type"])

    async def receive() -> dict[str, object]:
        return {}

    async def send(_: object) -> None:
        return

    asgi = ActMiddleware(app, None, body_bytes=1)  # type: ignore[arg-type]  # neither is asked
    for scope in ({"type": "lifespan"}, {"type": "websocket", "path": "/act"}):
        await asgi(scope, receive, send)

    assert seen == ["lifespan", "websocket"]
