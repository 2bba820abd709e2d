"""Losses: what was taken away from a journal while it was written to, until the journal has been told of it."""

import logging
from pathlib import Path

import msgspec

from service.log.records import SEGMENT_LOST, Loss, Writer
from service.log.segment import Range

_log = logging.getLogger(__name__)


class Losses:
    """Those of one writer; ``segments`` and ``records`` count what was in them."""

    def __init__(self) -> None:
        self.segments = 0
        self.records = 0
        # What the journal has still to be told of.
        self.owed: list[Range] = []
        self._introduction: Writer | None = None

    def introduce(self, writer: Writer) -> None:
        """Who the writer is, to be told again where that is taken away."""
        self._introduction = writer

    def found(self, path: Path, gone: list[Range]) -> None:
        """A segment was taken away, and these of its records with it."""
        self.segments += 1
        self.owed += gone
        for first, last in gone:
            self.records += last - first + 1
            _log.error("%s: records %s to %s were taken away while it was written to", path, first, last)

    def records_owed(self, seq: int, ms: int, *, anew: bool) -> list[Writer | Loss]:
        """The records that tell what is owed, from ``seq`` on; who the writer is comes first where that is told
        ``anew``."""
        told: list[Writer | Loss] = []
        if anew and self._introduction is not None:
            ms = max(ms, self._introduction.ms)
            told.append(msgspec.structs.replace(self._introduction, seq=seq, ms=ms))
        for first, last in self.owed:
            place, count = seq + len(told), last - first + 1
            told.append(Loss(seq=place, ms=ms, count=count, cause=SEGMENT_LOST, first=first, last=last))
        return told

    def __repr__(self) -> str:
        return f"<Losses {self.records} records in {self.segments} segments, {len(self.owed)} to be told>"
