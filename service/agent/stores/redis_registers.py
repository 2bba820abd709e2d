"""The hashes beside the streams in Redis: who writes, up to where each was joined, and the ledger's counts.

Whoever shares the server can write under our names: what is not ours is passed over or moved out of the way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from secrets import token_hex

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ResponseError

from service.agent.stores import WRITER, NotOurs
from service.agent.stores.redis_calls import HIGHEST, end_of, text_of

# A count of more digits may not fit with what is added; nobody counts so far.
DIGITS = 18


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
            aside = await move_aside(client, key, ledger)
            msg = f"{key}: was a {there}, expected a {kind}: it was moved aside, to {aside}"
            raise NotOurs(msg)


async def check_room(client: Redis, pipe: Pipeline, key: str, count: int, ledger: str) -> None:
    """Make sure that a stream takes so many more entries under ids of its own; raises NotOurs where it does not."""
    last, _ = await end_of(pipe, key)
    if last.ms == HIGHEST and last.seq + count > HIGHEST:
        aside = await move_aside(client, key, ledger)
        msg = (
            f"{key}: somebody has left an entry with the highest id there is, after which none can come: "
            f"the stream was moved aside, to {aside}"
        )
        raise NotOurs(msg)


async def check_counts(client: Redis, pipe: Pipeline, ledger: str, counts: Mapping[str, int]) -> None:
    """Make sure that what is counted can be; raises NotOurs where a count is none, and takes it out of the way."""
    told = await pipe.hmget(ledger, list(counts)) if counts else []
    texts = {name: text_of(text) for name, text in zip(counts, told, strict=True) if text is not None}
    strange = {name: text for name, text in texts.items() if not _is_count(text)}
    if strange:
        await client.hdel(ledger, *strange)
        await client.hincrby(ledger, "aside", len(strange))
        said = ", ".join(f"{name} was {text[:40]!r}" for name, text in strange.items())
        msg = f"{ledger}: {said}, expected a count: it begins anew"
        raise NotOurs(msg)


def _is_count(text: str) -> bool:
    """Whether it is a number to which more can be added."""
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= DIGITS


async def move_aside(client: Redis, key: str, ledger: str) -> str:
    """Give a key that is not ours another name, and count it; the name."""
    aside = f"{key}:aside:{token_hex(4)}"
    await client.rename(key, aside)
    if key != ledger:
        await sound(client, ledger)
    await client.hincrby(ledger, "aside", 1)
    return aside


async def sound(client: Redis, ledger: str) -> None:
    """See to it that the counts can be counted: a transaction that meets a key of another type is done in part."""
    if text_of(await client.type(ledger)) not in ("hash", "none"):
        await move_aside(client, ledger, ledger)


async def register(client: Redis, key: str, ledger: str, writer: str, state: str, *, lives: bool) -> bool:
    """Say a writer's state where nothing is said of it, and where something else is said of one that ``lives``;
    whether nothing was."""
    try:
        fresh = bool(await client.hsetnx(key, writer, state))
    except ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        await move_aside(client, key, ledger)
        fresh = bool(await client.hsetnx(key, writer, state))
    if lives and not fresh and text_of(await client.hget(key, writer)) != state:
        await client.hset(key, writer, state)
    return fresh
