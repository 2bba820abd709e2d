"""Taking out of a writer's stream in Redis what is not ours: a stream cannot go back, so it is made anew beside.

The ids of a stream only grow, even where its last entry is deleted: one entry with a later id than ours would keep us
from appending for ever. So our entries are copied under the same ids into another stream, with the consumer groups,
how far they have read and what they have not acknowledged, and that one takes its place at once.
"""

from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ResponseError

from service.agent.stores import START, Entry, NotOurs, Position
from service.agent.stores.redis_calls import end_of, entry_of, executed, name_of, position, text_of
from service.agent.stores.redis_registers import move_aside, sound

CHUNK = 500
KEPT = 1000
Names = tuple[str, str, str, str]


async def rebuild(client: Redis, names: Names, is_ours: Callable[[Entry], bool], known: Position) -> int:
    """Make a stream anew without what is not ours; how many entries that were. ``names`` are the keys of the stream,
    of the one to be made, of what is put aside, and of the ledger."""
    key, draft, _, ledger = names
    await sound(client, ledger)
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch(key)
        try:
            await end_of(pipe, key)
        except NotOurs:
            await move_aside(client, key, ledger)
            return 1
        await client.delete(draft)
        last, foreign = await _copied(client, key, draft, is_ours)
        last = known if last == START else last
        if last != START:
            await _end_at(client, draft, last)
        groups = await _groups(client, key)
        for group in groups:
            await _regroup(client, key, draft, group, last)
        pipe.multi()  # type: ignore[no-untyped-call]  # redis-py left it so
        _exchange(pipe, names, foreign, there=last != START or bool(groups))
        return len(foreign) if await executed(pipe) is not None else 0


async def _copied(
    client: Redis, key: str, draft: str, is_ours: Callable[[Entry], bool]
) -> tuple[Position, list[tuple[str, str]]]:
    """Copy our entries; the last of them, and the others' ids with a bit of what they hold."""
    at, last, foreign, more = "-", START, [], True
    while more and (found := await client.xrange(key, min=at, count=CHUNK)):
        # After the highest id nothing can be asked for.
        at, more = f"({text_of(found[-1][0])}", len(found) == CHUNK
        async with client.pipeline(transaction=False) as pipe:
            for name, fields in found:
                entry = entry_of(name, fields)
                # Ours are contiguous or have gaps, but never go back.
                if entry.seq > last.seq and is_ours(entry):
                    pipe.xadd(draft, {"record": entry.text}, id=name_of(entry.position))
                    last = entry.position
                else:
                    foreign.append((name_of(entry.position), repr(fields)[:200]))
            await pipe.execute()
    return last, foreign


async def _end_at(client: Redis, draft: str, last: Position) -> None:
    """A stream whose entries are all trimmed still knows how far it went."""
    if not await client.exists(draft):
        await client.xadd(draft, {"record": ""}, id=name_of(last))
        await client.xtrim(draft, maxlen=0, approximate=False)


async def _groups(client: Redis, key: str) -> list[dict[str, Any]]:
    try:
        return list(await client.xinfo_groups(key))
    except ResponseError as error:
        if "no such key" in str(error):
            return []
        raise


async def _regroup(client: Redis, key: str, draft: str, group: dict[str, Any], last: Position) -> None:
    """Give the new stream a group: what it has read of ours, and what it has not acknowledged."""
    name = group["name"]
    read = min(position(group["last-delivered-id"]), last)
    await client.xgroup_create(draft, name, id=name_of(read), mkstream=True)
    at, more = "-", True
    while more and (found := await client.xpending_range(key, name, min=at, max="+", count=CHUNK)):
        at, more = f"({text_of(found[-1]['message_id'])}", len(found) == CHUNK
        async with client.pipeline(transaction=False) as pipe:
            for one in found:
                pipe.execute_command(
                    "XCLAIM", draft, name, one["consumer"], 0, one["message_id"], "IDLE", one["time_since_delivered"],
                    "RETRYCOUNT", one["times_delivered"], "FORCE", "JUSTID", parse_justid=True,
                )  # fmt: skip
            # What was trimmed or is not ours cannot be claimed, nor read again.
            await pipe.execute()


def _exchange(pipe: Pipeline, names: Names, foreign: list[tuple[str, str]], *, there: bool) -> None:
    """The new stream takes the place of the old one, at once with what is said of the rest."""
    key, draft, aside, ledger = names
    for name, held in foreign[-KEPT:]:
        pipe.xadd(aside, {"stream": key, "id": name, "held": held}, maxlen=KEPT, approximate=True)
    if foreign:
        pipe.hincrby(ledger, "aside", len(foreign))
    if there:
        pipe.rename(draft, key)
    else:
        pipe.delete(key)
