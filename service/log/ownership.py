"""The data folder's owner: one service at a time, of one name and one keyring, and files that only it can read.

The supervisor holds ``data/owner`` locked as long as it lives (the kernel lets go of it however it ends), with its
service's name, its keyring's fingerprint, its process id and when it began in it. What the folder was used for before
shows in the journal's Writer records, in the embedded store and in that file.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from service.hold import OWNER, FolderRefused, lock, owner_of
from service.log.ids import Keyring, load_keyring, make_keyring
from service.log.journal import read_segment, segments
from service.log.records import Writer

KEYRING = "keyring.json"
_FOLDERS = ("journal", "state")
_FILES = (OWNER, KEYRING, "store.sqlite", "store.sqlite-wal", "store.sqlite-shm")
_HEAD = 4 * 1024 * 1024


class FolderForeign(FolderRefused):
    """The data folder holds what another service, or another keyring, left there."""


@dataclass(frozen=True, slots=True)
class Traces:
    """What a folder shows of those who used it: services by name, keyrings by fingerprint."""

    services: frozenset[str]
    fingerprints: frozenset[str]


def make_folders(data: Path) -> None:
    """Make the data folder and what is in it always; what is there already is narrowed to its owner.

    Files that are not ours are left as they are. Raises OSError.
    """
    for folder in (data, *(data / name for name in _FOLDERS)):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    walked = (one for name in _FOLDERS for one in os.walk(data / name))
    inner = [Path(found) / name for found, folders, files in walked for name in (*folders, *files)]
    for path in (*(data / name for name in (*_FILES, *_FOLDERS)), *inner):
        with suppress(FileNotFoundError, PermissionError):
            mode = path.lstat().st_mode & 0o777
            if mode & 0o077 and not path.is_symlink():
                path.chmod(mode & 0o700)


def take(data: Path, service: str) -> int:
    """Lock the folder for a service; gives the descriptor that holds it, to be kept open.

    Raises FolderTaken where a running service has it, and OSError where it cannot be locked.
    """
    return lock(
        data / OWNER,
        lambda owner: f"{data} is the data folder of {owner}: end it, or give {service!r} another by --data",
    )


def traces(data: Path) -> Traces:
    """Look at what the folder holds: Writer records of its journals, the embedded store, and who owned it last."""
    writers = list(_writers(data / "journal"))
    last = owner_of(data / OWNER)
    services = {writer.service for writer in writers} or ({last.service} if last is not None else set())
    fingerprints = {writer.key_fingerprint for writer in writers} | set(_store_key(data / "store.sqlite"))
    return Traces(frozenset(services), frozenset(fingerprints))


def _writers(journal: Path) -> Iterator[Writer]:
    """The first record of each writer's folder, where it can be read."""
    for folder in sorted(journal.iterdir()) if journal.is_dir() else ():
        with suppress(OSError):
            for segment in segments(folder)[:1]:
                with segment.open("rb") as file:
                    # A line at most: its configuration is what is long in it.
                    line = next(read_segment(file.readline(_HEAD)), None)
                if line is not None and isinstance(line.record, Writer):
                    yield line.record


def _store_key(store: Path) -> Iterable[str]:
    """The keyring's fingerprint that an embedded store was claimed with."""
    if not store.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as db:
            return [str(row[0]) for row in db.execute("SELECT value FROM deployment WHERE name = 'key'")]
    except sqlite3.Error:
        return []


def keyring_of(data: Path) -> Keyring:
    """The deployment's keyring: that of the file that ACTD_KEYRING names, else the folder's, made where that is new.

    Raises FolderForeign where what the folder holds was signed with another keyring, whose tokens would all be taken
    for forgeries, and KeyringInvalid.
    """
    named = os.environ.get("ACTD_KEYRING", "")
    path, known = Path(named) if named else data / KEYRING, traces(data).fingerprints
    if known and not named and not path.exists():
        raise FolderForeign(_lost(data, f"{path} is missing", known))
    keyring = load_keyring(path) if named else make_keyring(path)
    if known and keyring.fingerprint not in known:
        raise FolderForeign(_lost(data, f"{path} is keyring {keyring.fingerprint}", known))
    return keyring


def _lost(data: Path, what: str, fingerprints: frozenset[str]) -> str:
    known = ", ".join(sorted(fingerprints))
    return (
        f"{what}, but the decisions in {data} were signed with keyring {known}, and without it each of their ids would "
        f"be refused as forged: put that keyring back as {data / KEYRING} (or name its file by ACTD_KEYRING), or begin "
        f"anew on purpose in another folder: --data {data}-new"
    )


def refuse_other_service(data: Path, service: str) -> None:
    """Raise FolderForeign where the folder was another service's: the records of two would become one's."""
    found = traces(data)
    if found.services and service not in found.services:
        names = ", ".join(repr(name) for name in sorted(found.services))
        msg = (
            f"{data} is the data folder of the service {names}, and the configuration's name is {service!r}: "
            f"give it another with --data, or correct the name"
        )
        raise FolderForeign(msg)
