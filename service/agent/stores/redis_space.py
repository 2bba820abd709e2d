"""What streams take up in Redis, who has still to read them, and how they are cut."""

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from service.agent.stores import START, Capacity, Position, Stream
from service.agent.stores.redis_calls import executed, name_of, position
from service.agent.stores.redis_registers import sound

# Nodes of a stream that MEMORY USAGE looks at: a stream of a gigabyte has a quarter of a million.
SAMPLES = 256
# How often a cut that counts is tried again, where others write to the stream meanwhile.
TRIES = 5


async def time(client: Redis) -> float | None:
    """The server's time (s since 1970), None where nobody may ask."""
    try:
        seconds, microseconds = await client.time()
    except ResponseError:
        return None
    return int(seconds) + int(microseconds) / 1e6


async def capacity(client: Redis) -> Capacity:
    """The server's ``maxmemory``, and what is wrong with its ``maxmemory-policy``."""
    try:
        told = await client.info("memory")
    except ResponseError:
        # Some who rent servers out let nobody ask.
        return Capacity()
    limit, policy = int(told.get("maxmemory", 0)), str(told.get("maxmemory_policy", "noeviction"))
    warning = ""
    if limit and policy != "noeviction":
        warning = (
            f"redis has maxmemory-policy {policy}, expected noeviction: it may throw away streams and positions "
            "without a word (CONFIG SET maxmemory-policy noeviction)"
        )
    return Capacity(limit, warning, int(told.get("used_memory", 0)))


async def streams(client: Redis, names: Mapping[str, str]) -> list[Stream]:
    """Each stream that is there, by its name and its key."""
    async with client.pipeline(transaction=False) as pipe:
        for key in names.values():
            pipe.xinfo_stream(key)
            pipe.memory_usage(key, samples=SAMPLES)
        replies = await pipe.execute(raise_on_error=False)
    found = []
    for name, told, size in zip(names, replies[::2], replies[1::2], strict=True):
        if isinstance(told, RedisError) and not isinstance(told, ResponseError):
            raise told
        if isinstance(told, dict):
            found.append(_stream(name, told, size))
    return found


def _stream(name: str, told: Mapping[str, Any], size: object) -> Stream:
    ends = [entry for entry in (told["first-entry"], told["last-entry"]) if entry is not None]
    # MEMORY may be forbidden: then by what the oldest and the newest entry hold.
    bytes_each = sum(len(value) for _, fields in ends for value in (fields or {}).values()) / max(1, len(ends))
    bytes_all = size if isinstance(size, int) else round(told["length"] * (bytes_each + 32))
    first = position(ends[0][0]) if ends else None
    return Stream(name, told["length"], bytes_all, first, groups=told["groups"] > 0)


async def first(client: Redis, key: str) -> Position | None:
    """A stream's oldest entry."""
    found = await client.xrange(key, count=1)
    return position(found[0][0]) if found else None


async def unread(client: "Redis | Pipeline", key: str) -> Position | None:
    """The oldest entry that some group has still to read or to acknowledge; it may be one that is not there yet."""
    oldest: list[Position] = []
    for group in await client.xinfo_groups(key):
        last = position(group["last-delivered-id"])
        oldest.append(Position(last.ms, last.seq + 1))
        if group["pending"]:
            told = await client.xpending(key, group["name"])
            oldest += [position(told["min"])] if told["min"] is not None else []
    return min(oldest, default=None)


async def trim(client: Redis, key: str, before: Position, limit: int) -> int:
    """Cut what comes before a position; whole nodes only, which costs Redis least."""
    if before <= START:
        return 0
    return int(await client.xtrim(key, minid=name_of(before), approximate=True, limit=limit))


async def trim_unread(client: Redis, key: str, ledger: str, before: Position, limit: int) -> tuple[int, int]:
    """Cut what comes before a position though a group has not read it; how many, and how many of them it had not.

    Under WATCH, so that what a group reads meanwhile is not counted as lost: then it is looked at anew.
    """
    await sound(client, ledger)
    full = False
    for _ in range(TRIES):
        async with client.pipeline(transaction=True) as pipe:
            await pipe.watch(key)
            found = await pipe.xrange(key, max=f"({name_of(before)}", count=limit)
            ids = [position(name) for name, _ in found or ()]
            if not ids:
                return 0, 0
            lost = await _unread_of(pipe, key, ids)
            pipe.multi()  # type: ignore[no-untyped-call]  # redis-py left it so
            pipe.xtrim(key, minid=name_of(Position(ids[-1].ms, ids[-1].seq + 1)), approximate=False)
            if lost and not full:
                pipe.hincrby(ledger, "lost.unread", lost)
            try:
                done = await executed(pipe) is not None
            except OutOfMemoryError:
                # Cutting is always allowed and counting is not: then that comes after, where there is room again.
                full = True
                continue
        if done and lost and full:
            await client.hincrby(ledger, "lost.unread", lost)
        if done:
            return len(ids), lost
    return 0, 0


async def _unread_of(client: Pipeline, key: str, ids: list[Position]) -> int:
    """How many of a stream's oldest entries some group has still to read or to acknowledge."""
    left: set[Position] = set()
    for group in await client.xinfo_groups(key):
        last = position(group["last-delivered-id"])
        left.update(at for at in ids if at > last)
        if group["pending"]:
            found = await client.xpending_range(key, group["name"], min="-", max=name_of(ids[-1]), count=len(ids) * 2)
            left.update(position(one["message_id"]) for one in found)
    return len(left.intersection(ids))
