"""The path of a lone request: how many calls it is, in which files, and that the page which tells of it names them."""

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.api.fast_path import ActProtocol
from tests.in_process import Serving, asking, serving
from tests.service.api.test_fast_path import post

ROOT = Path(__file__).resolve().parents[3]
CALLS, FILES = 120, 18
RULES = [
    {"kind": "cooldown", "name": "rest", "actions": ["scale_down"], "seconds": 60},
    {"kind": "bounds", "name": "two or more", "of": "replicas", "effect": {"scale_down": -1}, "low": 2},
    {"kind": "rule", "name": "not under load", "forbid": "action == 'scale_down' and cpu > 0.9"},
]


class Wire(asyncio.Transport):
    """A connection that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 8080), "peername": ("127.0.0.1", 1)})
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    """The demo, with constraints, that explores."""
    explore = {"kind": "epsilon_greedy", "epsilon": 0.01}
    with serving(tmp_path, constraints=RULES, explore=explore, limits={"deadline_ms": 20_000}) as served:
        yield served


async def path_of(served: Serving, turns: int = 40) -> list[tuple[str, str]]:
    """The calls of a warm lone request, each the file and the function, in their order."""
    application, wire = served.application, Wire()
    config = uvicorn.Config(application.asgi, http="httptools")
    config.load()
    state, loop = ServerState(), asyncio.get_running_loop()
    limit = application.config.limits.body_bytes
    protocol = ActProtocol(config, state, {}, loop, endpoint=application.endpoint, body_bytes=limit)
    protocol.connection_made(wire)
    served.permit()
    calls: list[tuple[str, str]] = []

    def called(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(ROOT)):
            name = str(Path(file).relative_to(ROOT))
            if name.startswith(("service/", "guards/", "export/")):
                calls.append((name, frame.f_code.co_name))

    headers = b"content-type: application/json"
    for turn in range(turns):
        body = json.dumps(asking("s")).encode()
        request = post(body, headers, b"content-length: %d" % len(body))
        if turn == turns - 1:
            sys.setprofile(called)
        protocol.data_received(request)
        await asyncio.sleep(0)
        sys.setprofile(None)
        await asyncio.sleep(0)
        assert wire.written.pop().startswith(b"HTTP/1.1 200")
    return calls


async def test_a_lone_request_is_few_calls_in_few_files(served: Serving) -> None:
    """Of the path from the first byte to the answer, and what is counted behind it."""
    calls = await path_of(served)

    assert len(calls) <= CALLS
    assert len({file for file, _ in calls}) <= FILES


async def test_the_page_names_these_files_in_this_order(served: Serving) -> None:
    """``docs/flow.md`` has a list of them, each where a request first comes to it."""
    page = (ROOT / "docs" / "flow.md").read_text()
    listed = page.partition("## A lone request, file by file")[2].partition("\n## ")[0]

    found = [*dict.fromkeys(file for file, _ in await path_of(served))]

    assert re.findall(r"^\d+\. `([^`]+)`", listed, re.MULTILINE) == found
