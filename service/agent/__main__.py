"""``python -m service.agent``: one agent of one data folder, usually started by ``actd serve``.

It ends with 0 when told to, 2 where it cannot begin, and 3 where the store belongs to another deployment: all of that
before it has begun.
"""

import argparse
import asyncio
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from service.agent.admin import listen
from service.agent.agent import Agent, Clocks, KeyMismatch
from service.agent.stores import Store, StoreInvalid, StoreUnavailable
from service.agent.stores.redis_streams import RedisStreams
from service.agent.stores.sqlite import SqliteStore
from service.clock import elapsed
from service.config import Config, ConfigInvalid
from service.hold import FolderHold, FolderRefused, Owner, lock
from service.log.ids import KeyringInvalid
from service.log.ownership import keyring_of, make_folders, refuse_other_service
from service.processes import UMASK

MISCONFIGURED = 2
FOREIGN_STORE = 3
NICENESS = 19
# An agent whose supervisor was killed has a last round to do before it lets the folder go.
HANDOVER_S = 10.0
LOOK_S = 1.0
AGENT = Path("state") / "agent"
log = logging.getLogger("actd.agent")


class PortTaken(Exception):
    """The admin port cannot be listened on."""


class NotSupervised(Exception):
    """There is no supervisor to end with."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent; the exit status."""
    told = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="actd agent: %(message)s", stream=sys.stderr)
    os.umask(UMASK)
    # What the agent does can wait for a moment of peace; what the data plane does on the same cores cannot.
    os.nice(NICENESS)
    try:
        return asyncio.run(_run(told))
    except (ConfigInvalid, KeyringInvalid, FolderRefused, StoreInvalid, NotSupervised, PortTaken) as error:
        return _failed(str(error), MISCONFIGURED)
    except OSError as error:
        return _failed(f"{error.filename or told.data}: {error.strerror}, expected a data folder", MISCONFIGURED)
    except KeyMismatch as error:
        return _failed(str(error), FOREIGN_STORE)


async def _run(told: argparse.Namespace) -> int:
    config = Config.read(told.config)
    make_folders(told.data)
    held = _own(told.data, config.name)
    store = _store(config, told.data)
    keyring = keyring_of(told.data)
    hold = FolderHold(told.data / AGENT, held, Owner(config.name, keyring.fingerprint, os.getpid(), time.time()))
    # Jitter needs no secrets.
    clocks = Clocks(time.time, elapsed, random.Random())  # noqa: S311 - as said
    agent = Agent(config, told.data, store, keyring, clocks)
    await _heed(agent, supervised=told.supervised)
    with _listening(told.admin_host, told.admin_port) as listening:
        host, port = listening.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        keeping = asyncio.create_task(_keep(hold))
        try:
            await agent.run(listening, lambda: _begun(f"actd agent: admin on {url}, store {store.kind}", told.began))
        finally:
            keeping.cancel()
            await _closed(store)
    return 0


def _own(data: Path, service: str) -> int:
    """Be the one agent of a data folder; the descriptor that holds it is kept open as long as the process lives."""
    refuse_other_service(data, service)
    return lock(data / AGENT, lambda owner: f"{data} has an agent already, {owner}: end it first", wait_s=HANDOVER_S)


async def _keep(hold: FolderHold) -> None:
    """Look each second whether the folder still says who its agent is."""
    while True:
        await asyncio.sleep(LOOK_S)
        if problem := hold.keep():
            log.error("%s", problem)


def _listening(host: str, port: int) -> socket.socket:
    """Listen for operators; raises PortTaken."""
    try:
        return listen(host, port)
    except OSError as error:
        msg = f"the admin port {host}:{port}: {error.strerror}, expected a free address: name another by --admin-port"
        raise PortTaken(msg) from error


def _begun(line: str, began: int | None) -> None:
    """Say that the agent has begun, to people and to the supervisor."""
    _say(line)
    if began is not None:
        os.write(began, b"began")


def _store(config: Config, data: Path) -> Store:
    url = os.environ.get("REDIS_URL", "")
    return RedisStreams(url, config.name) if url else SqliteStore(data / "store.sqlite")


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
        log.info("%s", error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.agent", description="Ship the journal, join feedback.")
    parser.add_argument("--config", type=Path, required=True, help="policy.toml")
    parser.add_argument("--data", type=Path, required=True, help="the folder of journal, state and embedded store")
    parser.add_argument("--admin-host", default="127.0.0.1", help="where operators connect (default: 127.0.0.1)")
    parser.add_argument("--admin-port", type=int, default=0, help="the port for operators (default: any free one)")
    parser.add_argument("--supervised", action="store_true", help="end when standard input ends")
    parser.add_argument("--began", type=int, help="a descriptor to write to once it has begun")
    return parser


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _failed(message: str, status: int) -> int:
    sys.stderr.write(f"actd agent: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
