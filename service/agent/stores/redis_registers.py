"""The hashes beside the streams in Redis: who writes, up to where each was joined, and the ledger's counts.

Whoever shares the server can write under our names: what is not ours is passed over or moved out of the way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from secrets import token_hex

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.agent.stores import WRITER, NotOurs
from service.agent.stores.redis_calls import text_of


@dataclass(frozen=True, slots=True)
class Register:
    """What a hash says by writer, and fields in it that are no writer's."""

    ours: dict[str, str]
    strangers: list[str]


async def by_writer(client: Redis, key: str, ledger: str) -> Register:
    """A hash by writer; raises NotOurs where positions are lost since it is none."""
    try:
        found = await client.hgetall(key)
    except ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        if key.endswith(":joined"):
            msg = (
                f"{key}: is no hash, expected up to where each writer's decisions became transitions: put it back, or "
                "delete it to have everything that the streams still hold joined again"
            )
            raise NotOurs(msg) from error
        # Whoever writes makes himself known again.
        await move_aside(client, key, ledger)
        found = {}
    told = {text_of(writer): text_of(value) for writer, value in found.items()}
    strangers = [writer for writer in told if not WRITER.fullmatch(writer)]
    return Register({writer: value for writer, value in told.items() if WRITER.fullmatch(writer)}, strangers)


async def counts(client: Redis, key: str) -> dict[str, int]:
    """The ledger's counts; none where the key is something else, which the next commit moves aside."""
    try:
        told = await client.hgetall(key)
    except ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        return {}
    texts = {text_of(name): text_of(count) for name, count in told.items()}
    return {name: int(count) for name, count in texts.items() if count.lstrip("-").isdecimal()}


async def set_right(client: Redis, kinds: Mapping[str, str], ledger: str) -> None:
    """Move keys that are of another type than they should be out of the way; raises NotOurs where there was one."""
    for key, kind in kinds.items():
        there = text_of(await client.type(key))
        if there not in (kind, "none"):
            await move_aside(client, key, ledger)
            msg = f"{key}: was a {there}, expected a {kind}: it was moved aside"
            raise NotOurs(msg)


async def move_aside(client: Redis, key: str, ledger: str) -> None:
    """Give a key that is not ours another name, and count it."""
    await client.rename(key, f"{key}:aside:{token_hex(4)}")
    if key != ledger:
        await sound(client, ledger)
    await client.hincrby(ledger, "aside", 1)


async def sound(client: Redis, ledger: str) -> None:
    """See to it that the counts can be counted: a transaction that meets a key of another type is done in part."""
    if text_of(await client.type(ledger)) not in ("hash", "none"):
        await move_aside(client, ledger, ledger)


async def register(client: Redis, key: str, ledger: str, writer: str, state: str) -> bool:
    """Say a writer's state where nothing is said of it; whether nothing was."""
    try:
        return bool(await client.hsetnx(key, writer, state))
    except ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        await move_aside(client, key, ledger)
        return bool(await client.hsetnx(key, writer, state))
