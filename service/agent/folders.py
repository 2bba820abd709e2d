"""The writers' folders as a whole: whose they are, what is set aside, and which segments go when there are too many.

A folder is a writer's of this service when its first record says so (writer, service, keyring) and its first decision's
id was made with the keyring, for this writer and this place. Where the first record is gone or damaged, the decision
alone says it. What is not is set aside whole, feedback and all: feedback has no other proof of where it comes from.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.agent.foreign import Placing, Stranger, check_place
from service.agent.stores import Entry
from service.log.journal import read_segment, segments
from service.log.records import AnyRecord, Decision, Writer

ASIDE = ".aside"
CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Deployment:
    """Whose folders are shipped: a service, by its keyring's fingerprint and what reads its decisions' ids."""

    service: str
    fingerprint: str
    place: Placing


@dataclass(frozen=True, slots=True)
class FolderVerdict:
    """``ours`` is None while a folder has too little to tell; ``why`` is what speaks against it."""

    ours: bool | None
    why: str = ""


def judge(folder: Path, deployment: Deployment) -> FolderVerdict:
    """Whether a folder is that of a writer of this service, by its first record and its first decision."""
    introduced = False
    for record, text in _lines(folder):
        if record.seq == 1 and isinstance(record, Writer):
            if why := _misfit(folder.name, record, deployment):
                return FolderVerdict(False, why)
            introduced = True
        if isinstance(record, Decision):
            try:
                check_place(folder.name, Entry(record.ms, record.seq, text), record, deployment.place)
            except Stranger as error:
                return FolderVerdict(False, f"of its record {record.seq}, {error}")
            return FolderVerdict(True)
    if introduced:
        return FolderVerdict(True)
    return FolderVerdict(None, "it has neither a first record nor a decision to tell whose it is")


def _misfit(name: str, record: Writer, deployment: Deployment) -> str:
    """What of a writer's first record does not fit, empty where all does."""
    if record.writer != name:
        return f"its first record is of writer {record.writer[:16]!r}: it is a copy of that one's folder"
    if record.service != deployment.service:
        return f"its first record is of service {record.service[:80]!r}, expected {deployment.service!r}"
    if record.key_fingerprint != deployment.fingerprint:
        return f"its first record names keyring {record.key_fingerprint[:32]!r}, expected {deployment.fingerprint!r}"
    return ""


def _lines(folder: Path) -> Iterator[tuple[AnyRecord, bytes]]:
    """The records of a folder from its beginning, read only as far as is asked for."""
    for path in segments(folder):
        with path.open("rb") as file:
            rest = b""
            while data := file.read(CHUNK):
                whole, newline, rest = (rest + data).rpartition(b"\n")
                for line in read_segment(whole + newline):
                    if line.record is not None:
                        yield line.record, line.text


def set_aside(folder: Path) -> Path:
    """Move a folder out of the way, whole and unread; where to. Raises OSError."""
    aside = folder.parent / ASIDE
    aside.mkdir(mode=0o700, exist_ok=True)
    there, count = aside / folder.name, 1
    while there.exists():
        there, count = aside / f"{folder.name}.{count}", count + 1
    folder.rename(there)
    return there


def aside_in(journal: Path) -> int:
    """How many folders were set aside."""
    aside = journal / ASIDE
    return len(list(aside.iterdir())) if aside.is_dir() else 0


@dataclass(frozen=True, slots=True)
class SizedSegment:
    """A file of the journal: its size, when it was last written (s), whether the store has all of it, and whether a
    writer still writes to it."""

    path: Path
    size: int
    written_at: float
    shipped: bool
    written: bool = False


def to_give_up(here: list[SizedSegment], bound: int) -> list[SizedSegment]:
    """Which segments go so that the rest takes no more than ``bound`` bytes: shipped ones first, oldest first, and none
    that is being written."""
    surplus = sum(segment.size for segment in here) - bound
    found: list[SizedSegment] = []
    finished = [segment for segment in here if not segment.written]
    for segment in sorted(finished, key=lambda one: (not one.shipped, one.written_at, one.path)):
        if surplus <= 0:
            break
        found.append(segment)
        surplus -= segment.size
    return found


def sized(path: Path, *, shipped: bool) -> SizedSegment | None:
    """A segment as it is now; None where it is gone."""
    try:
        told = os.stat(path)  # noqa: PTH116 - one call for both
    except FileNotFoundError:
        return None
    return SizedSegment(path, told.st_size, told.st_mtime, shipped)
