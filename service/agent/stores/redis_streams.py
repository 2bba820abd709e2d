"""The store in Redis or Valkey: one stream per writer with explicit ids, one stream of transitions. No Lua.

The names begin with ``actd:{<service>}:``, whose braces keep them in one slot of a cluster:
``w:<writer>`` (streams, field ``record``), ``transitions`` (a stream, field ``transition``),
``writers`` and ``joined`` (hashes by writer) and ``key`` (the keyring's fingerprint).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError, WatchError

from service.agent.stores import START, Entry, OutOfOrder, Position, StoreInvalid, StoreUnavailable, WriterState

_OPEN = "open"
_CLOSED = "closed "


class RedisStreams:
    """Streams in a Redis server, read by anyone with ``XREAD``."""

    kind = "redis"

    def __init__(self, url: str, service: str, *, timeout_s: float = 1.0) -> None:
        """``url`` is redis://, rediss:// or unix://; raises StoreInvalid. Connects when first used."""
        self._prefix = f"actd:{{{service}}}:"
        try:
            self.address = _address(url)
            # The client's own retries would repeat an append whose reply was lost; the cursor does that better.
            self._client: Redis = Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
            )
        except (ValueError, TypeError):
            # What the parser says may quote the password.
            msg = "REDIS_URL: is not an address, expected redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix://PATH"
            raise StoreInvalid(msg) from None

    async def claim_key(self, fingerprint: str) -> str:
        """Leave a keyring's fingerprint where none is; the fingerprint that is there."""
        with _translated():
            await self._client.setnx(self._key("key"), fingerprint)
            there = await self._client.get(self._key("key"))
        return _text(there)

    async def register(self, writer: str) -> None:
        """Make a writer known, before its first entry; one that is known stays as it is."""
        with _translated():
            await self._client.hsetnx(self._key("writers"), writer, _OPEN)

    async def writers(self) -> dict[str, WriterState]:
        """All writers that were registered."""
        with _translated():
            told = {_text(w): _text(state) for w, state in (await self._client.hgetall(self._key("writers"))).items()}
            living = [writer for writer, state in told.items() if state == _OPEN]
            async with self._client.pipeline(transaction=False) as pipe:
                for writer in living:
                    pipe.xinfo_stream(self._key("w", writer))
                replies = await pipe.execute(raise_on_error=False)
            last = {w: _last(reply) for w, reply in zip(living, replies, strict=True)}
        return {
            writer: WriterState(
                open=writer in last,
                last=last[writer] if writer in last else _position(state.removeprefix(_CLOSED)),
            )
            for writer, state in told.items()
        }

    async def close_writer(self, writer: str) -> None:
        """Say that no more will come of a writer: it is dead and shipped to its end."""
        at = await self.position(writer)
        with _translated():
            await self._client.hset(self._key("writers"), writer, _CLOSED + _name(at))

    async def position(self, writer: str) -> Position:
        """The last entry of a writer's stream, START where it has none."""
        with _translated():
            return await _last_of(self._client, self._key("w", writer))

    async def append(self, writer: str, after: Position, entries: Sequence[Entry]) -> None:
        """Append entries, all or none, where the stream ends at ``after``; raises OutOfOrder where it does not.

        The position is compared under WATCH each time: a client reconnects by itself, so the server at the other end
        may have lost what the one before had taken.
        """
        key = self._key("w", writer)
        with _translated():
            async with self._client.pipeline(transaction=True) as pipe:
                await pipe.watch(key)
                there = await _last_of(pipe, key)
                if there != after:
                    msg = f"writer {writer}: the stream is at {_name(there)}, expected {_name(after)}"
                    raise OutOfOrder(msg)
                pipe.multi()  # type: ignore[no-untyped-call]  # redis-py left it so
                for entry in entries:
                    pipe.xadd(key, {"record": entry.text}, id=_name(entry.position))
                if not await _executed(pipe):
                    msg = f"writer {writer}: the stream moved from {_name(after)}"
                    raise OutOfOrder(msg)

    async def read(self, writer: str, after: Position, limit: int) -> list[Entry]:
        """At most ``limit`` entries of a writer's stream that come after a position, in order."""
        with _translated():
            found = await self._client.xrange(self._key("w", writer), min=f"({_name(after)}", count=limit)
        return [Entry(*_position(name), _text(fields[b"record"]).encode()) for name, fields in found or () if fields]

    async def joined(self) -> dict[str, Position]:
        """Up to where each writer's decisions became transitions; a writer that is not there is at START."""
        with _translated():
            told = await self._client.hgetall(self._key("joined"))
        return {_text(writer): _position(name) for writer, name in told.items()}

    async def commit(self, writer: str, expected: Position, new: Position, transitions: Sequence[bytes]) -> bool:
        """Append transitions and move ``joined``, in one transaction; False where another joiner has moved it."""
        with _translated():
            async with self._client.pipeline(transaction=True) as pipe:
                await pipe.watch(self._key("joined"))
                there = await pipe.hget(self._key("joined"), writer)
                if (_position(there) if there else START) != expected:
                    return False
                pipe.multi()  # type: ignore[no-untyped-call]  # redis-py left it so
                for transition in transitions:
                    pipe.xadd(self._key("transitions"), {"transition": transition})
                pipe.hset(self._key("joined"), writer, _name(new))
                return await _executed(pipe)

    async def close(self) -> None:
        """Let go of the connections."""
        with _translated():
            await self._client.aclose()

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)

    def __repr__(self) -> str:
        return f"<RedisStreams {self._prefix}* at {self.address}>"


@contextmanager
def _translated() -> Iterator[None]:
    """Whatever the client or the server has against a call is StoreUnavailable."""
    try:
        yield
    except ResponseError as error:
        # Of a pipeline's error without the command, which has the record in it.
        msg = f"redis refused: {str(error).rpartition('caused error: ')[2][:200]}"
        raise StoreUnavailable(msg) from error
    except (RedisError, OSError) as error:
        msg = f"redis does not answer ({type(error).__name__})"
        raise StoreUnavailable(msg) from error


async def _executed(pipe: Pipeline) -> bool:
    """Execute a transaction; False where a watched key was moved by another."""
    try:
        await pipe.execute()
    except WatchError as error:
        # The client says the same where the connection was lost, and then it may have been done.
        if error.__context__ is None:
            return False
        raise
    return True


async def _last_of(client: "Redis | Pipeline", key: str) -> Position:
    try:
        return _last(await client.xinfo_stream(key))
    except ResponseError as error:
        return _last(error)


def _last(reply: object) -> Position:
    """The last id a stream ever had (not the last entry that is left), from XINFO STREAM or its error."""
    if isinstance(reply, dict):
        return _position(reply["last-generated-id"])
    if isinstance(reply, ResponseError) and "no such key" in str(reply):
        return START
    if isinstance(reply, Exception):
        raise reply
    msg = "XINFO STREAM answered something else than a map"
    raise ResponseError(msg)


def _name(position: Position) -> str:
    return f"{position.ms}-{position.seq}"


def _position(name: "bytes | str | None") -> Position:
    ms, _, seq = _text(name).partition("-")
    return Position(int(ms), int(seq))


def _text(value: "bytes | str | None") -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _address(url: str) -> str:
    """Where an URL leads, without who goes there; raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    return f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}"
