"""``python -m service.agent``: one agent of one data folder, usually started by ``actd serve``.

It ends with 0 when told to, 2 where it cannot begin, and 3 where the store belongs to another deployment.
"""

import argparse
import asyncio
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from service.agent.admin import listen
from service.agent.agent import Agent, Clocks, KeyMismatch
from service.agent.stores import Store, StoreInvalid, StoreUnavailable
from service.agent.stores.redis_streams import RedisStreams
from service.agent.stores.sqlite import SqliteStore
from service.config import Config, ConfigInvalid
from service.ids import Keyring, KeyringInvalid, load_keyring, make_keyring

MISCONFIGURED = 2
FOREIGN_STORE = 3
NICENESS = 19


class NotSupervised(Exception):
    """There is no supervisor to end with."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent; the exit status."""
    told = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="actd agent: %(message)s", stream=sys.stderr)
    # What the agent does can wait for a moment of peace; what the data plane does on the same cores cannot.
    os.nice(NICENESS)
    try:
        return asyncio.run(_run(told))
    except (ConfigInvalid, KeyringInvalid, StoreInvalid, NotSupervised) as error:
        return _failed(str(error), MISCONFIGURED)
    except OSError as error:
        return _failed(f"{told.data} or the admin port: {error}", MISCONFIGURED)
    except KeyMismatch as error:
        return _failed(str(error), FOREIGN_STORE)


async def _run(told: argparse.Namespace) -> int:
    config = Config.read(told.config)
    for folder in ("journal", "state"):
        (told.data / folder).mkdir(parents=True, exist_ok=True)
    store = _store(config, told.data)
    # Jitter needs no secrets.
    clocks = Clocks(time.time, time.monotonic, random.Random())  # noqa: S311 - as said
    agent = Agent(config, told.data, store, _keyring(told.data), clocks)
    await _heed(agent, supervised=told.supervised)
    with listen(told.admin_host, told.admin_port) as listening:
        host, port = listening.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        try:
            await agent.run(listening, lambda: _say(f"actd agent: admin on {url}, store {store.kind}"))
        finally:
            await _closed(store)
    return 0


def _store(config: Config, data: Path) -> Store:
    url = os.environ.get("REDIS_URL", "")
    return RedisStreams(url, config.name) if url else SqliteStore(data / "store.sqlite")


def _keyring(data: Path) -> Keyring:
    named = os.environ.get("ACTD_KEYRING", "")
    return load_keyring(Path(named)) if named else make_keyring(data / "keyring.json")


async def _heed(agent: Agent, *, supervised: bool) -> None:
    """Stop when told to: by a signal, or by the end of the supervisor, which holds our standard input."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, agent.stop)
    if not supervised:
        loop.add_signal_handler(signal.SIGINT, agent.stop)
        return
    # The terminal sends it to the whole group, and the agent goes last.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        await loop.connect_read_pipe(lambda: _Leash(agent), sys.stdin)
    except ValueError:
        msg = "--supervised: standard input is not a pipe, expected the supervisor's"
        raise NotSupervised(msg) from None


class _Leash(asyncio.Protocol):
    """The pipe from the supervisor: nothing comes through it, but its end tells that the supervisor has ended."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it so
        self._agent.stop()


async def _closed(store: Store) -> None:
    try:
        await store.close()
    except StoreUnavailable as error:
        logging.getLogger("actd.agent").info("%s", error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.agent", description="Ship the journal, join feedback.")
    parser.add_argument("--config", type=Path, required=True, help="policy.toml")
    parser.add_argument("--data", type=Path, required=True, help="the folder of journal, state and embedded store")
    parser.add_argument("--admin-host", default="127.0.0.1", help="where operators connect (default: 127.0.0.1)")
    parser.add_argument("--admin-port", type=int, default=0, help="the port for operators (default: any free one)")
    parser.add_argument("--supervised", action="store_true", help="end when standard input ends")
    return parser


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _failed(message: str, status: int) -> int:
    sys.stderr.write(f"actd agent: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
