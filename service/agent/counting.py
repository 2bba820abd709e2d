"""What writers' logs have lost, as it is counted: each record and each line once, through all restarts.

It is kept in the writer's folder (``account``), beside what it is about; what comes of folders that are removed is kept
in the journal's (``.retired``).
"""

import logging
import os
import shutil
from bisect import bisect_right, insort
from collections import Counter
from pathlib import Path

import msgspec

from service.agent.ledger import Journalled

log = logging.getLogger("actd.agent.ship")

ACCOUNT = "account"
RETIRED = ".retired"


class _Kept(msgspec.Struct, frozen=True):
    """What the file says: ``gone`` are ranges of sequence numbers (first, behind the last, cause)."""

    gone: list[tuple[int, int, str]] = []
    damaged: int = 0
    torn: int = 0
    place: tuple[str, int] = ("", 0)
    closed: tuple[int, int] | None = None


_decode = msgspec.json.Decoder(_Kept).decode


class Account:
    """Counts of one writer's log; ``closed`` is where the store had it when it was said to have ended."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ACCOUNT
        kept = self._read()
        self._gone = sorted(kept.gone)
        # Given up before the store had said what it has: it may have had them all along.
        self._unsure: list[tuple[int, int]] = []
        self.damaged = kept.damaged
        self.torn = kept.torn
        self._place = kept.place
        self.closed = kept.closed
        self._changed = self._failed = False

    @property
    def lost(self) -> Counter[str]:
        """Records by cause that are not in the log any more, and never were in the store."""
        found: Counter[str] = Counter()
        for start, stop, cause in self._gone:
            found[cause] += stop - start
        return found

    def lost_from(self, seq: int) -> int:
        """How many records are lost from a sequence number on."""
        return sum(stop - max(start, seq) for start, stop, _ in self._gone[self._from(seq) :] if stop > seq)

    def gap(self, start: int, stop: int, cause: str, *, sure: bool = True) -> int:
        """Records from ``start`` to before ``stop`` are not there; how many of them were not counted before."""
        new = 0
        at = start
        for first, behind, _ in [*self._gone[self._from(start) :], (stop, stop, "")]:
            if first > at and at < stop:
                until = min(first, stop)
                insort(self._gone, (at, until, cause))
                if not sure:
                    self._unsure.append((at, until))
                new += until - at
                self._changed = True
            at = max(at, behind)
            if at >= stop:
                break
        return new

    def store_had(self, seq: int) -> None:
        """The store says for the first time what it has: up to ``seq`` nothing was lost by being given up unseen."""
        for start, stop in self._unsure:
            if start <= seq:
                self._gone.remove((start, stop, "retention"))
                self._changed = True
                if stop > seq + 1:
                    insort(self._gone, (seq + 1, stop, "retention"))
        self._unsure = []

    def damage(self, segment: str, offset: int) -> None:
        """A whole line up to ``offset`` of a segment is not a record."""
        if self._is_new(segment, offset):
            self.damaged += 1

    def disown(self, seq: int) -> None:
        """A whole line has a record that is not the writer's: it is as good as damaged."""
        if self.gap(seq, seq + 1, "damage"):
            self.damaged += 1

    def tear(self, segment: str, offset: int) -> None:
        """What follows ``offset`` in a segment is an unfinished line."""
        if self._is_new(segment, offset + 1):
            self.torn += 1

    def close(self, at: tuple[int, int]) -> None:
        """The writer has ended and is in the store up to there."""
        self._changed |= self.closed != at
        self.closed = at

    def save(self) -> None:
        """Keep it in the folder, where anything has changed."""
        if self._changed and self._path.parent.is_dir():
            kept = _Kept(self._gone, self.damaged, self.torn, self._place, self.closed)
            self._changed = not _written(self._path, msgspec.json.encode(kept), quiet=self._failed)
            self._failed = self._changed

    def _read(self) -> _Kept:
        try:
            return _decode(self._path.read_bytes())
        except FileNotFoundError:
            return _Kept()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("%s: is damaged (%s): what was counted before is counted again", self._path, error)
            return _Kept()

    def _from(self, seq: int) -> int:
        """The first range that may have something at or after a sequence number."""
        return max(0, bisect_right(self._gone, (seq, seq, "")) - 1)

    def _is_new(self, segment: str, offset: int) -> bool:
        if (segment, offset) <= self._place:
            return False
        self._place = (segment, offset)
        self._changed = True
        return True

    def __repr__(self) -> str:
        return f"<Account {dict(self.lost)} lost, {self.damaged} damaged, {self.torn} torn>"


class _Totals(msgspec.Struct, frozen=True):
    """What the journal's file says: the folder that was counted last, which may not have been removed yet."""

    totals: Journalled = Journalled()
    last: str = ""


_decode_totals = msgspec.json.Decoder(_Totals).decode


class Retired:
    """What came of the records of folders that were removed."""

    def __init__(self, journal: Path) -> None:
        """Removes the folder that was counted, where whoever counted it did not get to that."""
        self._journal = journal
        self._path = journal / RETIRED
        try:
            kept = _decode_totals(self._path.read_bytes())
        except FileNotFoundError:
            kept = _Totals()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("%s: is damaged (%s): what removed folders held is not in the ledger", self._path, error)
            kept = _Totals()
        self.totals = kept.totals
        self._failed = False
        if kept.last:
            shutil.rmtree(journal / kept.last, ignore_errors=True)

    def retire(self, folder: Path, account: Journalled) -> None:
        """Count a folder, then remove it."""
        totals = self.totals + account
        if _written(self._path, msgspec.json.encode(_Totals(totals, folder.name)), quiet=self._failed):
            self.totals = totals
            shutil.rmtree(folder, ignore_errors=True)
            self._failed = False
        else:
            self._failed = True

    def __repr__(self) -> str:
        return f"<Retired {self.totals}>"


def _written(path: Path, text: bytes, *, quiet: bool = False) -> bool:
    """Write a file beside and rename it into place; False, and said unless ``quiet``, where that cannot be done now."""
    draft = path.with_name(f".{path.name}.new")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        if not quiet:
            log.warning("%s: cannot be written (%s): it is tried again", path, error.strerror)
        return False
    return True
