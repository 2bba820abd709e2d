"""The store in Redis or Valkey: one stream per writer with explicit ids, one stream of transitions. No Lua.

The names begin with ``actd:{<service>}:``, whose braces keep them in one slot of a cluster:
``w:<writer>`` (streams, field ``record``), ``transitions`` (a stream, field ``transition``),
``writers`` and ``joined`` (hashes by writer), ``ledger`` (a hash of counts), ``key`` (the keyring's fingerprint)
and ``aside`` (a stream of what was found in the writers' streams and is not ours).
"""

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from service.agent.stores import (
    START,
    TRANSITIONS,
    Capacity,
    Entry,
    NotOurs,
    OutOfOrder,
    Position,
    StoreInvalid,
    Stream,
    WriterState,
    position_of,
)
from service.agent.stores import redis_registers as registers
from service.agent.stores import redis_space as space
from service.agent.stores.redis_aside import rebuild
from service.agent.stores.redis_calls import (
    HIGHEST,
    end_of,
    entry_of,
    executed,
    last_of,
    name_of,
    text_of,
    translated,
)

_OPEN = "open"
_CLOSED = "closed "


class RedisStreams:
    """Streams in a Redis server, read by anyone with ``XREAD``."""

    kind = "redis"

    def __init__(self, url: str, service: str, *, timeout_s: float = 1.0) -> None:
        """``url`` is redis://, rediss:// or unix://; raises StoreInvalid. Connects when first used."""
        self._prefix = f"actd:{{{service}}}:"
        self.written = 0
        self.strange: dict[str, str] = {}
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
        with translated():
            # Asked first: a server that is full takes nothing, and the agent is who makes room.
            there = await self._client.get(self._key("key"))
            if there is None:
                await self._client.setnx(self._key("key"), fingerprint)
                there = await self._client.get(self._key("key"))
        return text_of(there)

    async def register(self, writer: str, *, lives: bool = False) -> bool:
        """Make a writer known, before its first entry; one that is known stays as it is, and False says so: but one
        that ``lives`` is open, whatever was said of it."""
        key, ledger = self._key("writers"), self._key("ledger")
        with translated():
            return await registers.register(self._client, key, ledger, writer, _OPEN, lives=lives)

    async def writers(self) -> dict[str, WriterState]:
        """All writers that were registered."""
        self.strange = {where: why for where, why in self.strange.items() if not where.startswith("stream ")}
        with translated():
            told = await self._register_of("writers")
            closed = {writer: position_of(state.removeprefix(_CLOSED)) for writer, state in told.items()}
            living = [writer for writer, at in closed.items() if at is None]
            async with self._client.pipeline(transaction=False) as pipe:
                for writer in living:
                    pipe.xinfo_stream(self._key("w", writer))
                replies = await pipe.execute(raise_on_error=False)
            found = {writer: WriterState(False, at) for writer, at in closed.items() if at is not None}
            for writer, reply in zip(living, replies, strict=True):
                if told[writer] != _OPEN:
                    self.strange[f"writers {writer}"] = "says neither open nor where it was closed"
                found[writer] = WriterState(True, self._last(writer, reply))
        return found

    def _last(self, writer: str, reply: object) -> Position:
        try:
            return last_of(reply, self._key("w", writer))
        except NotOurs as error:
            self.strange[f"stream {writer}"] = str(error)
            return START

    async def close_writer(self, writer: str) -> None:
        """Say that no more will come of a writer: it is dead and shipped to its end."""
        at = await self.position(writer)
        with translated():
            await self._client.hset(self._key("writers"), writer, _CLOSED + name_of(at))

    async def reopen(self, writer: str) -> bool:
        """Say of a writer that was closed that more comes of it after all; whether it was closed."""
        with translated():
            state = await self._client.hget(self._key("writers"), writer)
            if state is None or not text_of(state).startswith(_CLOSED):
                return False
            await self._client.hset(self._key("writers"), writer, _OPEN)
        return True

    async def position(self, writer: str) -> Position:
        """The last entry of a writer's stream, START where it has none; raises NotOurs where it is no stream."""
        return (await self.end(writer))[0]

    async def end(self, writer: str) -> tuple[Position, Entry | None]:
        """``position`` with the last entry that is left; raises NotOurs where there is no stream under its name."""
        with translated():
            return await end_of(self._client, self._key("w", writer))

    async def put_aside(self, writer: str, is_ours: Callable[[Entry], bool], known: Position) -> int:
        """Take what is not ours out of a writer's stream, so that it ends with our last entry again; how many."""
        with translated():
            names = self._key("w", writer), self._key("new", writer), self._key("aside"), self._key("ledger")
            return await rebuild(self._client, names, is_ours, known)

    async def append(self, writer: str, after: Position, entries: Sequence[Entry]) -> None:
        """Append entries, all or none, where the stream ends at ``after``; raises OutOfOrder where it does not.

        The position is compared under WATCH each time: a client reconnects by itself, so the server at the other end
        may have lost what the one before had taken.
        """
        key = self._key("w", writer)
        with translated():
            async with self._client.pipeline(transaction=True) as pipe:
                await pipe.watch(key)
                there, _ = await end_of(pipe, key)
                if there != after:
                    msg = f"writer {writer}: the stream is at {name_of(there)}, expected {name_of(after)}"
                    raise OutOfOrder(msg)
                pipe.multi()  # type: ignore[no-untyped-call]  # redis-py left it so
                for entry in entries:
                    pipe.xadd(key, {"record": entry.text}, id=name_of(entry.position))
                if await executed(pipe) is None:
                    msg = f"writer {writer}: the stream moved from {name_of(after)}"
                    raise OutOfOrder(msg)
        self.written += sum(len(entry.text) for entry in entries)

    async def read(self, writer: str, after: Position, limit: int) -> list[Entry]:
        """At most ``limit`` entries of a writer's stream that come after a position, in order."""
        key = self._key("w", writer)
        if after >= (HIGHEST, HIGHEST):
            return []
        with translated():
            try:
                found = await self._client.xrange(key, min=f"({name_of(after)}", count=limit)
            except ResponseError as error:
                last_of(error, key)
                raise
        return [entry_of(*one) for one in found or ()]

    async def joined(self) -> dict[str, Position]:
        """Up to where each writer's decisions became transitions; a writer that is not there is at START."""
        with translated():
            told = await self._register_of("joined")
        found = {}
        for writer, name in told.items():
            at = position_of(name)
            if at is None:
                self.strange[f"joined {writer}"] = "is not a position"
            else:
                found[writer] = at
        return found

    async def commit(
        self,
        writer: str,
        expected: Position,
        new: Position,
        transitions: Sequence[bytes],
        counts: Mapping[str, int] = {},
    ) -> bool:
        """Append transitions and move ``joined``, in one transaction; False where another joiner has moved it."""
        positions, made, ledger = self._key("joined"), self._key(TRANSITIONS), self._key("ledger")
        with translated():
            await registers.set_right(self._client, {made: "stream", ledger: "hash"}, ledger)
            while True:
                async with self._client.pipeline(transaction=True) as pipe:
                    # A transaction of which one command fails is done in part: what could fail is looked at before.
                    await pipe.watch(positions, made, ledger)
                    there = await pipe.hget(positions, writer)
                    if (START if there is None else position_of(text_of(there))) != expected:
                        return False
                    await registers.check_room(self._client, pipe, made, len(transitions), ledger)
                    await registers.check_counts(self._client, pipe, ledger, counts)
                    pipe.multi()  # type: ignore[no-untyped-call]  # redis-py left it so
                    for transition in transitions:
                        pipe.xadd(made, {"transition": transition})
                    for name, count in counts.items():
                        pipe.hincrby(ledger, name, count)
                    pipe.hset(positions, writer, name_of(new))
                    # Somebody may have written there meanwhile: then it is looked at again.
                    if await executed(pipe) is not None:
                        break
        self.written += sum(map(len, transitions))
        return True

    async def counts(self) -> dict[str, int]:
        """The ledger's counts, as they were committed."""
        with translated():
            return await registers.counts(self._client, self._key("ledger"))

    async def time(self) -> float | None:
        """The server's time, by which transitions have their ids."""
        with translated():
            return await space.time(self._client)

    async def capacity(self) -> Capacity:
        """What the server's ``maxmemory`` says, and whether it throws away on its own."""
        with translated():
            return await space.capacity(self._client)

    async def streams(self, writers: Sequence[str]) -> tuple[int, list[Stream]]:
        """The bytes that all streams take up by MEMORY USAGE, and each that has entries."""
        names = {writer: self._key("w", writer) for writer in writers} | {TRANSITIONS: self._key(TRANSITIONS)}
        with translated():
            found = await space.streams(self._client, names)
        return sum(stream.size for stream in found), [stream for stream in found if stream.entries]

    async def first(self, name: str) -> Position | None:
        """A stream's oldest entry."""
        with translated():
            return await space.first(self._client, self._stream(name))

    async def unread(self, name: str) -> Position | None:
        """The oldest entry of a stream that some consumer group has still to read or to acknowledge."""
        with translated():
            return await space.unread(self._client, self._stream(name))

    async def trim(self, name: str, before: Position, limit: int) -> int:
        """Delete the oldest entries of a stream that come before a position, at most ``limit``; how many."""
        with translated():
            return await space.trim(self._client, self._stream(name), before, limit)

    async def trim_unread(self, name: str, before: Position, limit: int) -> tuple[int, int]:
        """The same, and how many of them some consumer group had still to read."""
        with translated():
            return await space.trim_unread(self._client, self._stream(name), self._key("ledger"), before, limit)

    async def forget(self, writer: str, at: Position, missing: int) -> bool:
        """Forget a closed writer whose stream is empty, and whose decisions became transitions up to ``at``."""
        keys = [self._key(name) for name in ("writers", "joined", "ledger")]
        with translated():
            await registers.sound(self._client, keys[2])
            async with self._client.pipeline(transaction=True) as pipe:
                await pipe.watch(*keys, self._key("w", writer))
                state = await pipe.hget(keys[0], writer)
                joined = await pipe.hget(keys[1], writer)
                left = await pipe.xlen(self._key("w", writer))
                there = START if joined is None else position_of(text_of(joined))
                if left or there != at or not text_of(state).startswith(_CLOSED):
                    return False
                pipe.multi()  # type: ignore[no-untyped-call]  # redis-py left it so
                pipe.delete(self._key("w", writer))
                pipe.hdel(keys[0], writer)
                pipe.hdel(keys[1], writer)
                if missing:
                    pipe.hincrby(keys[2], "missing", missing)
                return await executed(pipe) is not None

    async def compact(self, spare: int) -> None:
        """Redis gives back what it can by itself."""

    async def close(self) -> None:
        """Let go of the connections."""
        with translated():
            await self._client.aclose()

    async def _register_of(self, name: str) -> dict[str, str]:
        """A hash by writer, without what is not a writer; what is strange in it is noted anew."""
        kept = {where: why for where, why in self.strange.items() if where.split(" ")[0] != name}
        told = await registers.by_writer(self._client, self._key(name), self._key("ledger"))
        self.strange = kept | {f"{name} {writer[:40]}": "is not a writer's id" for writer in told.strangers}
        return told.ours

    def _stream(self, name: str) -> str:
        return self._key(name) if name == TRANSITIONS else self._key("w", name)

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)

    def __repr__(self) -> str:
        return f"<RedisStreams {self._prefix}* at {self.address}>"


def _address(url: str) -> str:
    """Where an URL leads, without who goes there; raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    return f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}"
