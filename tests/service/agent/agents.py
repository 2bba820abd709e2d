"""Agents under test: what they are configured with, and looks at what they do."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import TypeVar

from service.agent.admin import listen
from service.agent.agent import Agent, Clocks
from service.agent.stores import Store
from service.config import Config
from service.versions.lease import Page, read_page
from tests.service.agent.pens import KEYRING

T = TypeVar("T")

CONFIG = """
name = "svc"
policy = "none.onnx"
[baseline]
kind = "constant"
action = "hold"
[rewards]
wait_seconds = 1.0
"""


def eventually(look: Callable[[], T | None], seconds: float = 20.0) -> T:
    """What ``look`` sees once it sees something."""
    deadline = time.monotonic() + seconds
    while True:
        if seen := look():
            return seen
        assert time.monotonic() < deadline, f"{look} never saw anything"
        time.sleep(0.02)


def page_after(data: Path, heartbeat: int) -> Page | None:
    """The page the agent publishes, once its heartbeat is past another."""
    page = read_page(data / "state" / "agent.page")
    return page if page is not None and page.heartbeat > heartbeat else None


@asynccontextmanager
async def running(store: Store, data: Path, config: str = CONFIG) -> AsyncIterator[Agent]:
    """An agent in this loop, told to stop at the end and waited for."""
    (data / "state").mkdir(exist_ok=True)
    (data / "policy.toml").write_text(config)
    clocks = Clocks(time.time, time.monotonic, Random(1))  # noqa: S311 - jitter
    one = Agent(Config.read(data / "policy.toml"), data, store, KEYRING, clocks)
    up = asyncio.Event()
    with listen("127.0.0.1", 0) as listening:
        work = asyncio.create_task(one.run(listening, up.set))
        begun = asyncio.create_task(up.wait())
        await asyncio.wait([work, begun], return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()
        if work.done():
            await work
        try:
            yield one
        finally:
            one.stop()
            await work


async def seen(look: Callable[[], T | None], seconds: float = 20.0) -> T:
    """What ``look`` sees once it sees something, while the loop goes on."""
    async with asyncio.timeout(seconds):
        while True:
            if found := look():
                return found
            await asyncio.sleep(0.01)
