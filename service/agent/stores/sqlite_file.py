"""The embedded store's file: its tables, and what is set when it is opened."""

import logging
import sqlite3
from contextlib import suppress
from pathlib import Path

from service.agent.stores.sqlite_space import INCREMENTAL

log = logging.getLogger("actd.agent.store")

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
    made_ms INTEGER,
    UNIQUE (writer, seq)
);
CREATE TABLE IF NOT EXISTS writers (
    writer TEXT PRIMARY KEY, open INTEGER NOT NULL DEFAULT 1, ms INTEGER NOT NULL DEFAULT 0,
    seq INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS joined (writer TEXT PRIMARY KEY, ms INTEGER NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aside (id INTEGER PRIMARY KEY AUTOINCREMENT, writer, seq, ms, record);
CREATE TABLE IF NOT EXISTS deployment (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
# Pages (of 4 kB) of the write-ahead log that are put into the file at the latest when there are so many.
_LOG_PAGES = 256
# The write-ahead log is cut back to this once it has been copied into the file.
_WAL_BYTES = _LOG_PAGES * 4096


class Identity:
    """Which file an open connection has, and which write-ahead log: a path may lead to another one meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = path.with_name(path.name + "-wal")
        self._noted: tuple[tuple[int, int] | None, tuple[int, int] | None] = (None, None)

    def note(self) -> None:
        """The files that are there are those of the connection."""
        self._noted = (_file_at(self._path), _file_at(self._log))

    def is_other(self) -> bool:
        """Whether one of them was taken away, or another was put in its place; what is written to it then is nowhere,
        or where no other reader sees it."""
        return (_file_at(self._path), _file_at(self._log)) != self._noted

    def leave(self) -> None:
        """Remove what the file that was taken away has left behind: its log would be played into another file."""
        here = _file_at(self._path), _file_at(self._log)
        if here[0] != self._noted[0] and here[1] is not None and here[1] == self._noted[1]:
            for beside in ("-wal", "-shm"):
                with suppress(OSError):
                    self._path.with_name(self._path.name + beside).unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"<Identity of {self._path}, {self._noted}>"


def _file_at(path: Path) -> tuple[int, int] | None:
    """The file that a path leads to, None where it leads to none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def connected(path: Path, timeout_s: float) -> sqlite3.Connection:
    """Open the file, or make it; raises sqlite3.Error or OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=timeout_s, isolation_level=None)
    try:
        # So that pages can be given back one by one. It has to be said before there are tables.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        # A power cut may take the last commits: the cursor goes back with them, and the journal has them still.
        db.execute("PRAGMA synchronous = NORMAL")
        # What is in the log is put into the file before more is added: after a full disk what room there is would go
        # into a log that grows, and none be left to ever put it into the file. A short log needs little of it.
        db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}").fetchall()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        _vacuumed(db, path)
        db.executescript(_SCHEMA)
        if "made_ms" not in [row[1] for row in db.execute("PRAGMA table_info(transitions)")]:
            db.execute("ALTER TABLE transitions ADD COLUMN made_ms INTEGER")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _vacuumed(db: sqlite3.Connection, path: Path) -> None:
    """A file of an earlier version cannot give space back: it is written anew once, where there is room for that."""
    if db.execute("PRAGMA auto_vacuum").fetchone()[0] == INCREMENTAL:
        return
    log.info("%s: is written anew once, so that it can give space back", path)
    try:
        db.execute("VACUUM")
    except sqlite3.OperationalError as error:
        log.warning(
            "%s: could not be written anew (%s): it will not get smaller, and tries again when opened", path, error
        )
