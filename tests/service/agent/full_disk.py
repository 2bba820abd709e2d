"""A store on a disk that was full, and has a little room again: run as a process of its own, within a small disk.

Prints how many batches of 64 records the store took before, while it was full and then, and where it is.
"""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

from service.agent.stores import START, Entry, StoreUnavailable
from service.agent.stores.sqlite import SqliteStore

WRITER = "00000000000000ab"
BATCH = 64
TRIES = 30


async def main(folder: Path, room: int) -> None:
    """Fill the disk under a store, and give back so many bytes."""
    store, position = SqliteStore(folder / "store.sqlite"), START
    await store.register(WRITER)

    async def put(times: int) -> int:
        nonlocal position
        done = 0
        for _ in range(times):
            text = b'{"kind":"heartbeat","pad":"%b"}' % (b"p" * 1000)
            seqs = range(position.seq + 1, position.seq + 1 + BATCH)
            entries = [Entry(seq, seq, text) for seq in seqs]
            with suppress(StoreUnavailable):
                await store.append(WRITER, position, entries)
                position, done = entries[-1].position, done + 1
        return done

    before = await put(10)
    descriptor = os.open(folder / "filled", os.O_WRONLY | os.O_CREAT)
    for size in (65536, 512):
        with suppress(OSError):
            while True:
                os.write(descriptor, bytes(size))
    full = await put(3)
    os.ftruncate(descriptor, os.fstat(descriptor).st_size - room)
    after = await put(TRIES)
    os.ftruncate(descriptor, 0)
    there = await store.position(WRITER)
    await store.close()
    sys.stdout.write(f"{before} {full} {after} {there.seq}\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
