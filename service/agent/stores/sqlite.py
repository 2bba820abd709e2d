"""The embedded store: the same streams as tables of one SQLite file, readable with any SQLite tool.

``records`` (writer, seq, ms, kind, record) and ``transitions`` (id, writer, seq, the JSON, and its members as columns)
are for consumers; ``writers``, ``joined`` and ``deployment`` are the agent's own.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from service.agent.stores import START, Entry, OutOfOrder, Position, StoreUnavailable, WriterState

T = TypeVar("T")

# Members of a transition that are columns too; arrays and null read as JSON text and NULL, truth values as 1 and 0.
COLUMNS = (
    "decision_id session episode step at observation action reward reward_ok next_observation terminated truncated "
    "closed_by propensity propensity_ok why_not_ok measure track track_probability version digest source reason "
    "explored executed_action allowed proposed"
).split()

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS records (
    writer TEXT NOT NULL, seq INTEGER NOT NULL, ms INTEGER NOT NULL,
    kind TEXT GENERATED ALWAYS AS (json_extract(record, '$.kind')) VIRTUAL,
    record TEXT NOT NULL,
    PRIMARY KEY (writer, ms, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS transitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    writer TEXT NOT NULL, seq INTEGER NOT NULL,
    {"".join(f"{name} GENERATED ALWAYS AS (json_extract(transition, '$.{name}')) VIRTUAL, " for name in COLUMNS)}
    transition TEXT NOT NULL,
    UNIQUE (writer, seq)
);
CREATE TABLE IF NOT EXISTS writers (
    writer TEXT PRIMARY KEY, open INTEGER NOT NULL DEFAULT 1, ms INTEGER NOT NULL DEFAULT 0,
    seq INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS joined (writer TEXT PRIMARY KEY, ms INTEGER NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deployment (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class SqliteStore:
    """Streams in one SQLite file in WAL mode: one writing process, any number of readers."""

    kind = "sqlite"

    def __init__(self, path: Path, *, timeout_s: float = 1.0) -> None:
        """Opens (or makes) the file when first used; ``timeout_s`` is how long a lock of another process is waited
        for."""
        self._path = path
        self._timeout_s = timeout_s
        self._connection: sqlite3.Connection | None = None
        # SQLite blocks: a thread of its own keeps the agent's loop, and with it the heartbeat, going.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")

    async def claim_key(self, fingerprint: str) -> str:
        """Leave a keyring's fingerprint where none is; the fingerprint that is there."""

        def work(db: sqlite3.Connection) -> str:
            db.execute("INSERT OR IGNORE INTO deployment VALUES ('key', ?)", (fingerprint,))
            return str(db.execute("SELECT value FROM deployment WHERE name = 'key'").fetchone()[0])

        return await self._run(work)

    async def register(self, writer: str) -> None:
        """Make a writer known, before its first entry; one that is known stays as it is."""
        await self._run(lambda db: _known(db, writer))

    async def writers(self) -> dict[str, WriterState]:
        """All writers that were registered."""

        def work(db: sqlite3.Connection) -> dict[str, WriterState]:
            rows = db.execute("SELECT writer, open, ms, seq FROM writers")
            return {writer: WriterState(bool(opened), Position(ms, seq)) for writer, opened, ms, seq in rows}

        return await self._run(work)

    async def close_writer(self, writer: str) -> None:
        """Say that no more will come of a writer: it is dead and shipped to its end."""
        await self._run(lambda db: db.execute("UPDATE writers SET open = 0 WHERE writer = ?", (writer,)))

    async def position(self, writer: str) -> Position:
        """The last entry of a writer's stream, START where it has none."""
        return await self._run(lambda db: _at(db, "writers", writer))

    async def append(self, writer: str, after: Position, entries: Sequence[Entry]) -> None:
        """Append entries, all or none, where the stream ends at ``after``; raises OutOfOrder where it does not."""

        def work(db: sqlite3.Connection) -> None:
            there = _at(db, "writers", writer)
            if there != after:
                msg = f"writer {writer}: the stream is at {there}, expected {after}"
                raise OutOfOrder(msg)
            _known(db, writer)
            rows = [(writer, entry.seq, entry.ms, entry.text.decode("utf-8")) for entry in entries]
            db.executemany("INSERT INTO records (writer, seq, ms, record) VALUES (?, ?, ?, ?)", rows)
            last = entries[-1]
            db.execute("UPDATE writers SET ms = ?, seq = ? WHERE writer = ?", (last.ms, last.seq, writer))

        await self._run(work)

    async def read(self, writer: str, after: Position, limit: int) -> list[Entry]:
        """At most ``limit`` entries of a writer's stream that come after a position, in order."""

        def work(db: sqlite3.Connection) -> list[Entry]:
            rows = db.execute(
                "SELECT ms, seq, record FROM records WHERE writer = ? AND (ms, seq) > (?, ?) ORDER BY ms, seq LIMIT ?",
                (writer, *after, limit),
            )
            return [Entry(ms, seq, record.encode("utf-8")) for ms, seq, record in rows]

        return await self._run(work)

    async def joined(self) -> dict[str, Position]:
        """Up to where each writer's decisions became transitions; a writer that is not there is at START."""

        def work(db: sqlite3.Connection) -> dict[str, Position]:
            return {writer: Position(ms, seq) for writer, ms, seq in db.execute("SELECT * FROM joined")}

        return await self._run(work)

    async def commit(self, writer: str, expected: Position, new: Position, transitions: Sequence[bytes]) -> bool:
        """Append transitions and move ``joined``, in one transaction; False where another joiner has moved it."""

        def work(db: sqlite3.Connection) -> bool:
            if _at(db, "joined", writer) != expected:
                return False
            rows = [(writer, text.decode("utf-8")) for text in transitions]
            db.executemany(
                "INSERT INTO transitions (writer, seq, transition) VALUES (?1, json_extract(?2, '$.seq'), ?2)", rows
            )
            db.execute("INSERT OR REPLACE INTO joined VALUES (?, ?, ?)", (writer, *new))
            return True

        return await self._run(work)

    async def close(self) -> None:
        """Let go of the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do ``work`` in one transaction on the store's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transaction, work)

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._translated():
            if self._connection is None:
                self._connection = _connected(self._path, self._timeout_s)
            db = self._connection
            db.execute("BEGIN IMMEDIATE")
            try:
                result = work(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            return result

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Whatever SQLite has against a call is StoreUnavailable, and the next call opens the file again."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            msg = f"{self._path}: sqlite refused: {error}"
            raise StoreUnavailable(msg) from error

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __repr__(self) -> str:
        return f"<SqliteStore {self._path}>"


def _connected(path: Path, timeout_s: float) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=timeout_s, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        # A power cut may take the last commits: the cursor goes back with them, and the journal has them still.
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(_SCHEMA)
    except sqlite3.Error:
        db.close()
        raise
    return db


def _known(db: sqlite3.Connection, writer: str) -> None:
    db.execute("INSERT OR IGNORE INTO writers (writer) VALUES (?)", (writer,))


def _at(db: sqlite3.Connection, table: str, writer: str) -> Position:
    with closing(db.execute(f"SELECT ms, seq FROM {table} WHERE writer = ?", (writer,))) as found:  # noqa: S608 - ours
        row = found.fetchone()
    return Position(*row) if row else START
