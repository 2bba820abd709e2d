"""The agent's parts at work in one event loop: the heartbeat, shipping, joining, and the admin port."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from service.agent.admin import Desk, create_app, create_server
from service.agent.backoff import Backoff
from service.agent.joining import Joining
from service.agent.ledger import Ledger
from service.agent.ship import Shipper
from service.agent.stores import Store, StoreUnavailable
from service.config import Config
from service.ids import Keyring
from service.state import HEARTBEAT_S, Page, write_page

log = logging.getLogger("actd.agent")

POLL_S = 0.05
# What is left of stopping for the last records; the supervisor's patience is longer.
LAST_S = 2.0


class KeyMismatch(Exception):
    """The store belongs to a deployment with another keyring."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Time and chance, as the agent takes them."""

    wall: Callable[[], float]
    monotonic: Callable[[], float]
    random: Random


class Agent:
    """One agent of one data folder."""

    def __init__(self, config: Config, data: Path, store: Store, keyring: Keyring, clocks: Clocks) -> None:
        self._data = data
        self._store = store
        self._keyring = keyring
        self._clocks = clocks
        self._stop = asyncio.Event()
        # What fails at the moment; everything does, until it has worked once.
        self._failing = {"ship", "join"}
        self._claimed = self._said = False
        self._shipper = Shipper(
            store,
            data / "journal",
            retain_s=config.retention.journal_seconds,
            wall=clocks.wall,
            monotonic=clocks.monotonic,
        )
        self._joining = Joining(
            store, rewards=config.rewards, place=keyring.place, wall=clocks.wall, random=clocks.random
        )

    def stop(self) -> None:
        """End soon, after a last round."""
        self._stop.set()

    async def run(self, listening: socket.socket, announce: Callable[[], None]) -> None:
        """Work until told to stop; ``announce`` is called when all of it has begun.

        Raises KeyMismatch where the store can be reached at once and belongs to others.
        """
        with suppress(StoreUnavailable):
            await self._claim()
        server = create_server(create_app(Desk(self._store, self._keyring.place, self.ledger)))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(sockets=[listening]))
            tasks.create_task(self._beat())
            tasks.create_task(self._work())
            while not server.started:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.01)
            announce()
            await self._stop.wait()
            server.should_exit = True

    def ledger(self) -> Ledger:
        """What became of everything."""
        return Ledger(
            store=self._store.kind,
            reachable=not self._failing,
            journal=self._shipper.ledger(),
            joiner=self._joining.ledger(),
        )

    async def _beat(self) -> None:
        """Sign that the agent lives and reaches its store: exploration and canaries hold only while it does."""
        # From the clock, so that an agent that was started again is seen to live at its first beat.
        heartbeat = int(self._clocks.wall() * 1000)
        while not self._stop.is_set():
            if not self._failing:
                heartbeat += 1
                try:
                    write_page(self._data / "state" / "agent.page", Page(generation=1, heartbeat=heartbeat))
                except OSError as error:
                    log.warning("the state page cannot be written (%s)", error.strerror)
            await self._pause(HEARTBEAT_S if not self._failing else POLL_S)

    async def _work(self) -> None:
        """Ship and join, side by side, once the store is known to be this deployment's; then a last time."""
        if not await self._keep("ship", self._claim_in_time, once=True):
            return
        await asyncio.gather(self._keep("ship", self._shipper.step), self._keep("join", self._joining.step))
        try:
            async with asyncio.timeout(LAST_S):
                more = True
                while more:
                    more = await self._shipper.step() or await self._joining.step()
                    await asyncio.sleep(0)
        except (TimeoutError, StoreUnavailable, OSError) as error:
            log.info("the last round was cut short (%s): the rest stays in the journal", error)

    async def _claim(self) -> None:
        """Make sure that whoever shares the store shares the keyring: ids are verified without looking them up.

        Raises KeyMismatch and StoreUnavailable.
        """
        there = await self._store.claim_key(self._keyring.fingerprint)
        if there != self._keyring.fingerprint:
            msg = (
                f"the store belongs to a deployment with keyring {there}, this one's is {self._keyring.fingerprint}: "
                f"name that deployment's keyring file by ACTD_KEYRING, or begin anew on purpose under another name"
            )
            raise KeyMismatch(msg)
        self._claimed = True

    async def _claim_in_time(self) -> bool:
        """The same once the service serves, which goes on serving: whoever shares the store may put it right."""
        try:
            if not self._claimed:
                await self._claim()
        except KeyMismatch as error:
            if not self._said:
                log.error("%s", error)  # noqa: TRY400 - an operator's matter: where in the code is no matter
            self._said = True
            raise StoreUnavailable(str(error)) from error
        return False

    async def _keep(self, name: str, step: Callable[[], Awaitable[bool]], *, once: bool = False) -> bool:
        """Do a step again and again: at once where there is more, after a pause where not, backing off on failure.

        True where it worked at least once before it was told to stop.
        """
        backoff = Backoff(self._clocks.random)
        worked = False
        while not self._stop.is_set() and not (once and worked):
            try:
                more = await step()
            except (StoreUnavailable, OSError) as error:
                if not backoff.tries:
                    log.warning("%s: records stay in the journal until this is over", error)
                self._failing.add(name)
                await self._pause(backoff.failed())
                continue
            if backoff.tries:
                log.info("%s: works again", name)
            if not once:
                self._failing.discard(name)
            backoff.worked()
            worked = True
            await self._pause(0.0 if more else POLL_S)
        return worked

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless told to stop."""
        if seconds == 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    def __repr__(self) -> str:
        return f"<Agent of {self._data}, {self._store}, {self._shipper}, {self._joining}>"
