"""What is ours: whether an entry of a writer's stream, or a line of its log, is a record that this writer made."""

import logging
from collections.abc import Callable

import msgspec

from service.agent.stores import Entry
from service.log.ids import Place
from service.log.records import AnyRecord, Decision, Writer, decode_record

# Of what is strange, so much is named in the log in one go; the rest is counted.
NAMED_AT_ONCE = 5
NAMED_AGAIN_S = 60.0
Placing = Callable[[str], Place | None]


class Stranger(Exception):
    """It is not a record of this writer; the message says why."""


def record_of(writer: str, entry: Entry, place: Placing) -> AnyRecord:
    """The record of an entry of a writer's stream; raises Stranger where it is not one that this writer made.

    ``place`` reads a decision id, None where it was not made with this deployment's keys.
    """
    if not entry.text:
        raise Stranger("it has no record")
    try:
        record: AnyRecord = decode_record(entry.text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        msg = f"it is not a record ({type(error).__name__})"
        raise Stranger(msg) from error
    check_place(writer, entry, record, place)
    return record


def check_place(writer: str, entry: Entry, record: AnyRecord, place: Placing) -> None:
    """Check that a record says of itself what its place says: writer, sequence and time; raises Stranger."""
    if (record.ms, record.seq) != (entry.ms, entry.seq):
        msg = f"its record is {record.ms}-{record.seq}"
        raise Stranger(msg)
    if isinstance(record, Writer) and record.writer != writer:
        msg = f"it is another writer's ({record.writer[:16]!r})"
        raise Stranger(msg)
    if isinstance(record, Decision):
        made = place(record.id)
        if made is None:
            raise Stranger("its decision's id was not made with this deployment's keys")
        if (made.writer, made.ms, made.seq) != (writer, entry.ms, entry.seq):
            msg = f"its decision's id is of writer {made.writer}, {made.ms}-{made.seq}"
            raise Stranger(msg)


class Notes:
    """Names what is strange in the log: a few at once, and how many more there were."""

    def __init__(self, log: logging.Logger, monotonic: Callable[[], float]) -> None:
        self._log = log
        self._monotonic = monotonic
        self._since = float("-inf")
        self._named = 0
        self._more = 0

    def name(self, where: str, why: str) -> None:
        """Something that is passed over: where it is, and why."""
        now = self._monotonic()
        if now - self._since >= NAMED_AGAIN_S:
            if self._more:
                self._log.warning("%s more that are not ours were passed over", self._more)
            self._since, self._named, self._more = now, 0, 0
        if self._named == NAMED_AT_ONCE:
            self._more += 1
            return
        self._named += 1
        self._log.warning("%s is not ours and is passed over: %s", where, why)

    def __repr__(self) -> str:
        return f"<Notes {self._named} named, {self._more} more>"
