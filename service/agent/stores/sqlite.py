"""The embedded store: the same streams as tables of one SQLite file, readable with any SQLite tool.

``records`` (writer, seq, ms, kind, record) and ``transitions`` (id, writer, seq, the JSON, and its members as columns)
are for consumers; ``writers``, ``joined``, ``ledger`` and ``deployment`` are the agent's own, and ``aside`` holds what
was found among a writer's records and is not ours.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from service.agent.stores import (
    START,
    WRITER,
    Capacity,
    Entry,
    NotOurs,
    OutOfOrder,
    Position,
    StoreFull,
    StoreUnavailable,
    Stream,
    WriterState,
)
from service.agent.stores import sqlite_space as space
from service.agent.stores.sqlite_file import Identity, connected
from service.clock import Clock

T = TypeVar("T")
_DAMAGED = " (move it away with its -wal and -shm: another is made at once, of what the journal has)"


class SqliteStore:
    """Streams in one SQLite file in WAL mode: one writing process, any number of readers."""

    kind = "sqlite"

    def __init__(self, path: Path, *, timeout_s: float = 1.0, now: Callable[[], float] | None = None) -> None:
        """Opens (or makes) the file when first used; ``timeout_s`` is how long a lock of another process is waited
        for. ``now`` (s since 1970) says when a transition is made: a clock that is set makes none old at once."""
        self._path = path
        self._timeout_s = timeout_s
        self._now = now or Clock().now
        self._connection: sqlite3.Connection | None = None
        self._identity = Identity(path)
        self.written = 0
        self.strange: dict[str, str] = {}
        # SQLite blocks: a thread of its own keeps the agent's loop, and with it the heartbeat, going.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")

    async def claim_key(self, fingerprint: str) -> str:
        """Leave a keyring's fingerprint where none is; the fingerprint that is there."""

        def work(db: sqlite3.Connection) -> str:
            asked = "SELECT value FROM deployment WHERE name = 'key'"
            if db.execute(asked).fetchone() is None:
                db.execute("INSERT INTO deployment VALUES ('key', ?)", (fingerprint,))
            return str(db.execute(asked).fetchone()[0])

        return await self._run(work)

    async def register(self, writer: str, *, lives: bool = False) -> bool:
        """Make a writer known, before its first entry; one that is known stays as it is, and False says so: but one
        that ``lives`` is open, whatever was said of it."""

        def work(db: sqlite3.Connection) -> bool:
            if lives:
                db.execute("UPDATE writers SET open = 1 WHERE writer = ? AND open IS NOT 1", (writer,))
            return _known(db, writer)

        return await self._run(work)

    async def writers(self) -> dict[str, WriterState]:
        """All writers that were registered."""
        found = await self._run(lambda db: db.execute("SELECT writer, ms, seq, open FROM writers").fetchall())
        states = self._register_of("writers", found)
        return {writer: WriterState(bool(rest[0]), at) for writer, (at, rest) in states.items()}

    async def close_writer(self, writer: str) -> None:
        """Say that no more will come of a writer: it is dead and shipped to its end."""
        await self._run(lambda db: db.execute("UPDATE writers SET open = 0 WHERE writer = ?", (writer,)))

    async def reopen(self, writer: str) -> bool:
        """Say of a writer that was closed that more comes of it after all; whether it was closed."""

        def work(db: sqlite3.Connection) -> bool:
            return db.execute("UPDATE writers SET open = 1 WHERE writer = ? AND open = 0", (writer,)).rowcount > 0

        return await self._run(work)

    async def position(self, writer: str) -> Position:
        """The last entry of a writer's stream, START where it has none."""
        return await self._run(lambda db: _at(db, "writers", writer))

    async def end(self, writer: str) -> tuple[Position, Entry | None]:
        """``position`` with the last entry that is left up to it."""

        def work(db: sqlite3.Connection) -> tuple[Position, Entry | None]:
            at = _at(db, "writers", writer)
            found = db.execute(
                "SELECT ms, seq, record FROM records WHERE writer = ? AND (ms, seq) <= (?, ?) "
                "ORDER BY ms DESC, seq DESC LIMIT 1",
                (writer, *at),
            ).fetchone()
            return at, None if found is None else space.entry_of(*found)

        return await self._run(work)

    async def put_aside(self, writer: str, is_ours: Callable[[Entry], bool], known: Position) -> int:
        """Take what is not ours off a writer's end, so that it ends with our last entry again; how many."""
        return await self._run(lambda db: space.put_aside(db, writer, is_ours, known))

    async def append(self, writer: str, after: Position, entries: Sequence[Entry]) -> None:
        """Append entries, all or none, where the stream ends at ``after``; raises OutOfOrder where it does not."""

        def work(db: sqlite3.Connection) -> None:
            there = _at(db, "writers", writer)
            if there != after:
                msg = f"writer {writer}: the stream is at {there}, expected {after}"
                raise OutOfOrder(msg)
            _known(db, writer)
            # The position is moved with the entries, so whatever is beyond it is somebody else's.
            space.clear_beyond(db, writer, after)
            rows = [(writer, entry.seq, entry.ms, entry.text.decode("utf-8")) for entry in entries]
            db.executemany("INSERT INTO records (writer, seq, ms, record) VALUES (?, ?, ?, ?)", rows)
            last = entries[-1]
            db.execute("UPDATE writers SET ms = ?, seq = ? WHERE writer = ?", (last.ms, last.seq, writer))

        await self._run(work)
        self.written += sum(len(entry.text) for entry in entries)

    async def read(self, writer: str, after: Position, limit: int) -> list[Entry]:
        """At most ``limit`` entries of a writer's stream that come after a position, in order."""

        def work(db: sqlite3.Connection) -> list[Entry]:
            rows = db.execute(
                "SELECT ms, seq, record FROM records WHERE writer = ? AND (ms, seq) > (?, ?) "
                "AND typeof(ms) = 'integer' AND typeof(seq) = 'integer' ORDER BY ms, seq LIMIT ?",
                (writer, *after, limit),
            )
            return [space.entry_of(*row) for row in rows]

        return await self._run(work)

    async def joined(self) -> dict[str, Position]:
        """Up to where each writer's decisions became transitions; a writer that is not there is at START."""
        found = await self._run(lambda db: db.execute("SELECT writer, ms, seq FROM joined").fetchall())
        return {writer: at for writer, (at, _) in self._register_of("joined", found).items()}

    async def commit(
        self,
        writer: str,
        expected: Position,
        new: Position,
        transitions: Sequence[bytes],
        counts: Mapping[str, int] = {},
    ) -> bool:
        """Append transitions and move ``joined``, in one transaction; False where another joiner has moved it."""

        def work(db: sqlite3.Connection) -> bool:
            if _at(db, "joined", writer) != expected:
                return False
            made_ms = int(self._now() * 1000)
            rows = [(writer, text.decode("utf-8"), made_ms) for text in transitions]
            # A row of another's under our name would keep us from going on.
            space.clear_transitions(db, writer, expected.seq)
            db.executemany(space.INSERT_TRANSITION, rows)
            db.execute("INSERT OR REPLACE INTO joined VALUES (?, ?, ?)", (writer, *new))
            space.count(db, counts)
            return True

        done = await self._run(work)
        self.written += sum(map(len, transitions)) if done else 0
        return done

    async def counts(self) -> dict[str, int]:
        """The ledger's counts, as they were committed."""
        found = await self._run(lambda db: db.execute("SELECT name, value FROM ledger").fetchall())
        return {str(name): value for name, value in found if isinstance(value, int)}

    async def time(self) -> float | None:
        """This process's, which nobody sets."""
        return self._now()

    async def capacity(self) -> Capacity:
        """A file has no limit of its own."""
        return Capacity()

    async def streams(self, writers: Sequence[str]) -> tuple[int, list[Stream]]:
        """The bytes of the file that are in use, and each stream that has entries."""
        return await self._run(lambda db: space.streams(db, writers))

    async def first(self, name: str) -> Position | None:
        """A stream's oldest entry; of a transition what counts is its time."""
        return await self._run(lambda db: space.first(db, name))

    async def unread(self, name: str) -> Position | None:  # noqa: ARG002 - it has readers, but they leave no trace
        """SQLite has no consumer groups: who reads cannot be seen."""
        return None

    async def trim(self, name: str, before: Position, limit: int) -> int:
        """Delete the oldest entries of a stream that come before a position, at most ``limit`` of them; how many."""
        return await self._run(lambda db: space.trim(db, name, before, limit))

    async def trim_unread(self, name: str, before: Position, limit: int) -> tuple[int, int]:
        """The same: nobody is known to have something to read."""
        return await self.trim(name, before, limit), 0

    async def forget(self, writer: str, at: Position, missing: int) -> bool:
        """Forget a closed writer whose stream is empty, and whose decisions became transitions up to ``at``."""

        def work(db: sqlite3.Connection) -> bool:
            state = db.execute("SELECT open FROM writers WHERE writer = ?", (writer,)).fetchone()
            left = db.execute("SELECT 1 FROM records WHERE writer = ? LIMIT 1", (writer,)).fetchone()
            if state is None or state[0] or left or _at(db, "joined", writer) != at:
                return False
            db.execute("DELETE FROM writers WHERE writer = ?", (writer,))
            db.execute("DELETE FROM joined WHERE writer = ?", (writer,))
            space.count(db, {"missing": missing})
            return True

        return await self._run(work)

    async def compact(self, spare: int) -> None:
        """Give pages back to the file system, but for ``spare`` bytes of them, a few at a time."""
        while await asyncio.get_running_loop().run_in_executor(self._thread, self._vacuum, spare):
            pass

    def _vacuum(self, spare: int) -> bool:
        with self._translated():
            return self._connection is not None and space.vacuum(self._connection, spare)

    async def close(self) -> None:
        """Let go of the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    def _register_of(self, name: str, rows: list[tuple[object, ...]]) -> dict[str, tuple[Position, tuple[object, ...]]]:
        """A table by writer, without what is not a writer or not a position; what is strange in it is noted anew."""
        self.strange = {where: why for where, why in self.strange.items() if where.split(" ")[0] != name}
        found: dict[str, tuple[Position, tuple[object, ...]]] = {}
        for writer, ms, seq, *rest in rows:
            if not isinstance(writer, str) or not WRITER.fullmatch(writer):
                self.strange[f"{name} {str(writer)[:40]}"] = "is not a writer's id"
            elif not isinstance(ms, int) or not isinstance(seq, int):
                self.strange[f"{name} {writer}"] = "is not a position"
            else:
                found[writer] = Position(ms, seq), tuple(rest)
        return found

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do ``work`` in one transaction on the store's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transaction, work)

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._translated():
            if self._connection is not None and self._identity.is_other():
                self._disconnect()
                self._identity.leave()
                # Said as a failure, so that everybody asks anew what the store has.
                msg = f"{self._path}: was taken away or replaced while it was open, and is opened anew"
                raise StoreUnavailable(msg)
            if self._connection is None:
                self._connection = connected(self._path, self._timeout_s)
                self._identity.note()
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
            way_out = _DAMAGED if any(said in str(error) for said in ("malformed", "not a database")) else ""
            msg = f"{self._path}: sqlite refused: {error}{way_out}"
            full = "database or disk is full" in str(error)
            raise (StoreFull if full else StoreUnavailable)(msg) from error

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __repr__(self) -> str:
        return f"<SqliteStore {self._path}>"


def _known(db: sqlite3.Connection, writer: str) -> bool:
    return db.execute("INSERT OR IGNORE INTO writers (writer) VALUES (?)", (writer,)).rowcount > 0


def _at(db: sqlite3.Connection, table: str, writer: str) -> Position:
    with closing(db.execute(f"SELECT ms, seq FROM {table} WHERE writer = ?", (writer,))) as found:  # noqa: S608 - ours
        row = found.fetchone()
    if row is not None and not all(isinstance(number, int) for number in row):
        msg = f"{table} {writer}: is not a position"
        raise NotOurs(msg)
    return Position(*row) if row else START
