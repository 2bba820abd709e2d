"""The agent's parts at work in one event loop: the heartbeat, shipping, joining, and the admin port."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from service.agent.admin import Desk, create_app, create_server
from service.agent.backoff import Backoff
from service.agent.folders import Deployment, judge
from service.agent.joining import Joining
from service.agent.ledger import Ledger
from service.agent.ship import Shipper
from service.agent.stores import Store, StoreError, StoreFull, StoreUnavailable
from service.agent.trimming import Trimming
from service.clock import Clock
from service.config import Config
from service.log.ids import Keyring
from service.versions.lease import HEARTBEAT_S, Page, read_page, write_page

log = logging.getLogger("actd.agent")

POLL_S = 0.05
# How often it is asked whose the store is: it may have been emptied, or be another one.
CLAIM_EVERY_S = 1.0
# What is left of stopping for the last records; the supervisor's patience is longer.
LAST_S = 2.0


class KeyMismatch(Exception):
    """The store belongs to a deployment with another keyring."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Time and chance, as the agent takes them.

    ``wall`` is what files' times are by, and may be set; ``monotonic`` is what passes, the machine's sleep as well.
    """

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
        # What is compared with the times of records goes by this, which nobody sets.
        self._time = Clock(clocks.wall, clocks.monotonic)
        self._stop = asyncio.Event()
        # What fails at the moment, and why; everything does, until it has worked once.
        self._failing = {"ship": "has not begun", "join": "has not begun"}
        self._unpublished = ""
        self._held = False
        self._claimed_at = float("-inf")
        deployment = Deployment(config.name, keyring.fingerprint, keyring.place)
        self._shipper = Shipper(
            store,
            data / "journal",
            retention=config.retention,
            place=keyring.place,
            judge=lambda folder: judge(folder, deployment),
            wall=clocks.wall,
            now=self._time.now,
            monotonic=clocks.monotonic,
        )
        self._joining = Joining(
            store, rewards=config.rewards, place=keyring.place, monotonic=clocks.monotonic, random=clocks.random
        )
        self._trimming = Trimming(
            store,
            retention=config.retention,
            rewards=config.rewards,
            now=self._time.now,
            monotonic=clocks.monotonic,
            busy=lambda: self._joining.busy,
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
        server = create_server(create_app(Desk(self._store, self._keyring.place, self.ledger, self.failing)))
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
            failing=self.failing(),
            journal=self._shipper.ledger(),
            streams=self._trimming.ledger(),
            joiner=self._joining.ledger(),
        )

    def failing(self) -> dict[str, str]:
        """What does not work at the moment, and why."""
        lane = self._shipper.failing()
        page = {"publish": self._unpublished} if self._unpublished else {}
        return dict(self._failing) | ({"ship": lane} if lane and "ship" not in self._failing else {}) | page

    async def _beat(self) -> None:
        """Sign that the agent lives and reaches its store: exploration and canaries hold only while it does."""
        path = self._data / "state" / "agent.page"
        before = read_page(path)
        heartbeat, said = before.heartbeat if before is not None else 0, ""
        while not self._stop.is_set():
            failing = "; ".join(f"{name}: {why}" for name, why in self.failing().items() if name != "publish")
            # The streams may be trimmed later: that is said, and no reason to allow less.
            works = self._failing.keys() <= {"trim"}
            if works:
                # From the clock, so that an agent that was started again is seen to live at its first beat.
                heartbeat = max(heartbeat + 1, int(self._time.now() * 1000))
            if failing != said or works:
                try:
                    write_page(path, Page(generation=1, heartbeat=heartbeat, failing=failing))
                    said = failing
                    self._published("")
                except OSError as error:
                    self._published(f"{path} cannot be written ({error.strerror}), so nothing is explored")
            await self._pause(HEARTBEAT_S if works else POLL_S)

    def _published(self, trouble: str) -> None:
        """Say once that the page cannot be written, and that it can be again."""
        if trouble and trouble != self._unpublished:
            log.warning("%s", trouble)
        elif self._unpublished and not trouble:
            log.info("the state page can be written again")
        self._unpublished = trouble

    async def _work(self) -> None:
        """Ship and join, side by side, once the store is known to be this deployment's; then a last time."""
        if not await self._keep("ship", self._claim_in_time, once=True):
            return
        steps = {"ship": self._ship, "join": self._joining.step, "trim": self._trimming.step}
        await asyncio.gather(*(self._keep(name, partial(self._in_ours, step)) for name, step in steps.items()))
        try:
            async with asyncio.timeout(LAST_S):
                more = True
                while more:
                    more = await self._in_ours(self._shipper.step) or await self._joining.step()
                    await asyncio.sleep(0)
        except (TimeoutError, StoreError, OSError) as error:
            log.info("the last round was cut short (%s): the rest stays in the journal", error)

    async def _ship(self) -> bool:
        """Ship, unless the streams are full of what is being joined: until it is, the rest waits in the journal."""
        self._held = not self._trimming.lets_ship()
        return not self._held and await self._shipper.step()

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
        self._claimed_at = self._clocks.monotonic()

    async def _claim_in_time(self) -> bool:
        """The same once the service serves, which goes on serving: whoever shares the store may put it right."""
        self._shipper.keep_room()
        return await self._in_ours(self._nothing)

    async def _in_ours(self, step: Callable[[], Awaitable[bool]]) -> bool:
        """Do a step in a store that is this deployment's still. Raises StoreUnavailable where it is another's."""
        if self._clocks.monotonic() - self._claimed_at >= CLAIM_EVERY_S:
            try:
                await self._claim()
            except KeyMismatch as error:
                raise StoreUnavailable(str(error)) from error
            except StoreFull:
                # It is nobody's, and has no room to say so: trimming makes some.
                pass
        return await step()

    async def _nothing(self) -> bool:
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
            except KeyMismatch:
                raise
            except Exception as error:
                known = isinstance(error, (StoreError, OSError))
                self._trimming.full |= isinstance(error, StoreFull)
                # Whoever answers next may be another.
                self._claimed_at = float("-inf")
                if not backoff.tries or str(error) != self._failing.get(name):
                    if known:
                        log.warning("%s: records stay in the journal until this is over", error)
                    else:
                        log.exception("%s: goes wrong, and is tried again", name)
                self._failing[name] = str(error)[:300] or type(error).__name__
                await self._pause(backoff.failed())
                continue
            worked = True
            # What is held back does not work again for that.
            if not (name == "ship" and self._held):
                if backoff.tries:
                    log.info("%s: works again", name)
                if not once:
                    self._failing.pop(name, None)
                backoff.worked()
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
