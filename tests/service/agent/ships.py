"""Shippers under a test's clock, and looks at what they shipped."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.agent.folders import FolderVerdict
from service.agent.ship import Shipper
from service.agent.stores import START, Store, StoreUnavailable
from service.config import Retention
from service.log.records import encode_record
from tests.service.agent.pens import KEYRING, Pen


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def shipper(
    store: Store,
    folder: Path,
    clock: Callable[[], float],
    retain_s: float = 900.0,
    *,
    judge: Callable[[Path], FolderVerdict] = lambda _: FolderVerdict(True),
    **retention: Any,
) -> Shipper:
    """A shipper with one clock for all, that takes every folder for a writer's unless ``judge`` says otherwise."""
    kept = Retention(journal_seconds=retain_s).model_copy(update=retention)
    clocks = {"wall": clock, "now": clock, "monotonic": clock}
    return Shipper(store, folder, retention=kept, place=KEYRING.place, judge=judge, **clocks)


async def settle(ship: Shipper, tries: int = 400) -> None:
    """Ship until there is no more, over failures."""
    for _ in range(tries):
        try:
            if not await ship.step():
                return
        except StoreUnavailable:
            await asyncio.sleep(0.01)
    msg = f"{ship} does not come to an end"
    raise AssertionError(msg)


async def stream(store: Store, writer: str) -> list[bytes]:
    """The texts of a writer's stream."""
    return [entry.text for entry in await store.read(writer, START, 100_000)]


def texts(pen: Pen) -> list[bytes]:
    """What a pen has written."""
    return [encode_record(record) for record in pen.records]


def accounted(ship: Shipper, *, delivered: int, journaled: int = 0, **lost: int) -> None:
    """The ledger says what is so, and its identity holds."""
    told = ship.ledger()
    assert (told.delivered, told.journaled, told.lost) == (delivered, journaled, lost)
    assert told.accepted == told.delivered + told.journaled + sum(told.lost.values())
