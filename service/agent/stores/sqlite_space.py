"""What streams take up in an SQLite file, how they are cut, and how the file gives space back."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence

from service.agent.stores import START, TRANSITIONS, Entry, Position, Stream

INCREMENTAL = 2
# Pages that are given back in one go, so that others get their turn.
VACUUMED_AT_ONCE = 256
KEPT = 1000
# When a transition was made (ms): those of earlier versions do not say so and are the oldest.
_MS = "coalesce(made_ms, 0)"
INSERT_TRANSITION = (
    "INSERT INTO transitions (writer, seq, transition, made_ms) VALUES (?1, json_extract(?2, '$.seq'), ?2, ?3)"
)


def entry_of(ms: int, seq: int, record: object) -> Entry:
    """A row of records as an entry; without text where the record is no text."""
    return Entry(ms, seq, record.encode("utf-8", "surrogatepass") if isinstance(record, str) else b"")


def used(db: sqlite3.Connection) -> int:
    """The bytes of the file that hold something."""
    pages, free, size = (int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in _PAGES)
    return (pages - free) * size


_PAGES = ("page_count", "freelist_count", "page_size")


def streams(db: sqlite3.Connection, writers: Sequence[str]) -> tuple[int, list[Stream]]:
    """The bytes in use, and each stream that has entries; nothing is counted row by row."""
    total = used(db)
    counted = {name: _entries(db, name) for name in dict.fromkeys((*writers, *_written_by(db), TRANSITIONS))}
    entries = sum(counted.values())
    found = []
    for name, count in counted.items():
        if count:
            found.append(Stream(name, count, round(total * count / entries), first(db, name)))
    return total, found


def _written_by(db: sqlite3.Connection) -> list[str]:
    """Whoever has records, registered or not: one step in the index for each."""
    rows = db.execute(
        "WITH RECURSIVE found(writer) AS (SELECT min(writer) FROM records UNION ALL "
        "SELECT (SELECT min(writer) FROM records WHERE writer > found.writer) FROM found WHERE found.writer NOT NULL) "
        "SELECT writer FROM found WHERE typeof(writer) = 'text'"
    )
    return [writer for (writer,) in rows]


def _entries(db: sqlite3.Connection, name: str) -> int:
    """How many entries a stream has, by the numbers of its oldest and its newest."""
    if name == TRANSITIONS:
        low, high = db.execute("SELECT min(id), max(id) FROM transitions").fetchone()
    else:
        ends = [
            db.execute(f"SELECT seq FROM records WHERE writer = ? ORDER BY ms {way}, seq {way} LIMIT 1", (name,))  # noqa: S608
            for way in ("ASC", "DESC")
        ]
        low, high = (row[0] if (row := end.fetchone()) else None for end in ends)
    if not isinstance(low, int) or not isinstance(high, int):
        return 0 if low is None else 1
    return max(1, high - low + 1)


def first(db: sqlite3.Connection, name: str) -> Position | None:
    """A stream's oldest entry; of a transition what counts is when it was made."""
    if name == TRANSITIONS:
        row = db.execute(f"SELECT {_MS}, id FROM transitions ORDER BY id LIMIT 1").fetchone()  # noqa: S608 - ours
    else:
        row = db.execute("SELECT ms, seq FROM records WHERE writer = ? ORDER BY ms, seq LIMIT 1", (name,)).fetchone()
    if row is None:
        return None
    return Position(*row) if all(isinstance(number, int) for number in row) else START


def trim(db: sqlite3.Connection, name: str, before: Position, limit: int) -> int:
    """Delete the oldest entries that come before a position, at most ``limit`` of them; how many."""
    if name == TRANSITIONS:
        # In the order in which they were made, up to the first that is not old.
        return db.execute(
            f"DELETE FROM transitions WHERE id < (SELECT coalesce(min(CASE WHEN ms >= ?1 THEN id END), max(id) + 1) "  # noqa: S608 - ours
            f"FROM (SELECT id, {_MS} AS ms FROM transitions ORDER BY id LIMIT ?2))",
            (before.ms, limit),
        ).rowcount
    return db.execute(
        "DELETE FROM records WHERE writer = ?1 AND (ms, seq) IN (SELECT ms, seq FROM records WHERE writer = ?1 "
        "AND (ms, seq) < (?2, ?3) ORDER BY ms, seq LIMIT ?4)",
        (name, *before, limit),
    ).rowcount


def vacuum(db: sqlite3.Connection, spare: int) -> bool:
    """Give some pages back; whether there are more to give."""
    before, keep = _free(db), spare // int(db.execute("PRAGMA page_size").fetchone()[0])
    if before <= keep or db.execute("PRAGMA auto_vacuum").fetchone()[0] != INCREMENTAL:
        return False
    # It does a page each time it is asked for a row, and may stop before it was asked for all.
    db.execute(f"PRAGMA incremental_vacuum({min(before - keep, VACUUMED_AT_ONCE)})").fetchall()
    return keep < _free(db) < before


def _free(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA freelist_count").fetchone()[0])


def count(db: sqlite3.Connection, counts: Mapping[str, int]) -> None:
    """Add to the ledger's counts."""
    db.executemany(
        "INSERT INTO ledger VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        [(name, number) for name, number in counts.items() if number],
    )


def clear_beyond(db: sqlite3.Connection, writer: str, at: Position) -> int:
    """Put aside what stands in a writer's records beyond its position; how many."""
    return _move(db, "writer = ?1 AND (ms, seq) > (?2, ?3)", (writer, *at))


def clear_transitions(db: sqlite3.Connection, writer: str, seq: int) -> None:
    """Put aside transitions that are said to be of a writer's decisions which have made none yet."""
    where = "FROM transitions WHERE writer = ?1 AND seq > ?2"
    moved = db.execute(
        f"INSERT INTO aside (writer, seq, record) SELECT writer, seq, transition {where}", (writer, seq)
    ).rowcount
    if moved:
        db.execute(f"DELETE {where}", (writer, seq))
        count(db, {"aside": moved})


def put_aside(db: sqlite3.Connection, writer: str, is_ours: Callable[[Entry], bool], known: Position) -> int:
    """Take what is not ours off a writer's end, and have it end with our last entry."""
    rows = db.execute(
        "SELECT ms, seq, record FROM records WHERE writer = ? AND typeof(ms) = 'integer' AND typeof(seq) = 'integer' "
        "ORDER BY ms DESC, seq DESC",
        (writer,),
    )
    last = next((entry.position for row in rows if is_ours(entry := entry_of(*row))), known)
    rows.close()
    db.execute("UPDATE writers SET ms = ?, seq = ? WHERE writer = ?", (*last, writer))
    return clear_beyond(db, writer, last)


def _move(db: sqlite3.Connection, where: str, named: tuple[object, ...]) -> int:
    moved = db.execute(
        f"INSERT INTO aside (writer, seq, ms, record) SELECT writer, seq, ms, record FROM records WHERE {where}",  # noqa: S608
        named,
    ).rowcount
    if moved:
        db.execute(f"DELETE FROM records WHERE {where}", named)  # noqa: S608 - the caller's own words
        db.execute("DELETE FROM aside WHERE id <= (SELECT max(id) FROM aside) - ?", (KEPT,))
        count(db, {"aside": moved})
    return moved
