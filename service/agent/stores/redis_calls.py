"""What all calls to Redis have in common: errors said in the store's words, and ids as positions."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError, WatchError

from service.agent.stores import START, Entry, NotOurs, Position, StoreFull, StoreUnavailable, position_of

# Of either part of an id.
HIGHEST = 2**64 - 1


@contextmanager
def translated() -> Iterator[None]:
    """Whatever the client or the server has against a call is StoreUnavailable."""
    try:
        yield
    except ResponseError as error:
        # Of a pipeline's error without the command, which has the record in it.
        said = str(error).rpartition("caused error: ")[2][:200]
        # In a transaction it is refused as a whole, and the client says so in other words.
        full = isinstance(error, OutOfMemoryError) or "used memory >" in said
        kind = StoreFull if full else StoreUnavailable
        msg = f"redis refused: {said}"
        raise kind(msg) from error
    except (RedisError, OSError) as error:
        msg = f"redis does not answer ({type(error).__name__})"
        raise StoreUnavailable(msg) from error


async def executed(pipe: Pipeline) -> list[object] | None:
    """Execute a transaction; its replies, None where a watched key was moved by another."""
    try:
        return list(await pipe.execute())
    except WatchError as error:
        # The client says the same where the connection was lost, and then it may have been done.
        if error.__context__ is None:
            return None
        raise


async def end_of(client: "Redis | Pipeline", key: str) -> tuple[Position, Entry | None]:
    """The last id a stream ever had and the last entry that is left; raises NotOurs where it is no stream."""
    try:
        told = await client.xinfo_stream(key)
    except ResponseError as error:
        return last_of(error, key), None
    last = told["last-entry"]
    return last_of(told, key), None if last is None else entry_of(*last)


def last_of(reply: object, key: str) -> Position:
    """The last id a stream ever had (not the last entry that is left), from XINFO STREAM or its error."""
    if isinstance(reply, dict):
        return position(reply["last-generated-id"])
    if isinstance(reply, ResponseError) and "no such key" in str(reply):
        return START
    if isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply):
        msg = f"{key}: is no stream"
        raise NotOurs(msg) from reply
    if isinstance(reply, Exception):
        raise reply
    msg = "XINFO STREAM answered something else than a map"
    raise ResponseError(msg)


def entry_of(name: "bytes | str | None", fields: object) -> Entry:
    """An entry as it stands in a stream; without text where it has no field ``record``, or another besides."""
    record = fields.get(b"record") if isinstance(fields, dict) and len(fields) == 1 else None
    return Entry(*position(name), record if isinstance(record, bytes) else b"")


def name_of(at: Position) -> str:
    """A position as an id."""
    return f"{at.ms}-{at.seq}"


def position(name: "bytes | str | int | None") -> Position:
    """An id of Redis' own as a position."""
    found = position_of(text_of(name))
    if found is None:
        msg = "an id is not <ms>-<seq>"
        raise ResponseError(msg)
    return found


def text_of(value: "bytes | str | int | None") -> str:
    """What Redis answers as text; what is not UTF-8 is somebody else's and is shown as such."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
