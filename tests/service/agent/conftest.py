"""Stores of all kinds, with real servers behind them, started once for all tests that share them."""

from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest

from service.agent.stores import Store
from service.agent.stores.redis_streams import RedisStreams
from service.agent.stores.sqlite import SqliteStore
from tests.redis_server import RedisServer, binaries

KINDS = ("sqlite", *binaries())
_names = count(1)


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, RedisServer]]:
    """A running server of each kind that is here."""
    started: dict[str, RedisServer] = {kind: RedisServer(kind) for kind in binaries()}
    for server in started.values():
        server.start()
    yield started
    for server in started.values():
        server.__exit__(None, None, None)


@pytest.fixture(params=KINDS)
async def store(
    request: pytest.FixtureRequest, servers: dict[str, RedisServer], tmp_path: Path
) -> AsyncIterator[Store]:
    """An empty store of each kind."""
    kind: str = request.param
    made: Store = (
        SqliteStore(tmp_path / "store.sqlite")
        if kind == "sqlite"
        else RedisStreams(servers[kind].url, f"test-{next(_names)}")
    )
    yield made
    await made.close()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """An empty embedded store."""
    made = SqliteStore(tmp_path / "store.sqlite")
    yield made
    await made.close()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A server of the test's own, to be killed."""
    with RedisServer() as server:
        yield server
