"""Reading transitions as a consumer does, whatever the store."""

import sqlite3
from contextlib import closing

from service.agent.stores import Store
from service.agent.stores.redis_streams import RedisStreams
from service.agent.stores.sqlite import SqliteStore


async def transitions(store: Store) -> list[bytes]:
    """The JSON of all transitions, in order."""
    if isinstance(store, SqliteStore):
        with closing(sqlite3.connect(store._path)) as db:
            return [row[0].encode() for row in db.execute("SELECT transition FROM transitions ORDER BY id")]
    assert isinstance(store, RedisStreams)
    reply = await store._client.xrange(f"{store._prefix}transitions")
    texts = [fields[b"transition"] for _, fields in reply or () if fields]
    return [text for text in texts if isinstance(text, bytes)]
