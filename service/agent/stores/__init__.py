"""The store behind the agent: streams of records by writer, the transitions that came of them, and how it fails.

    StoreError
    ├── StoreUnavailable   it cannot be reached, or takes nothing now: the call may or may not have been done
    │   └── StoreFull      it has no memory left: nothing was done
    ├── OutOfOrder         a writer's stream is not where the caller believed it to be: nothing was appended
    ├── NotOurs            what is under a stream's name is no stream
    └── StoreInvalid       its address cannot be used

A stream's entries are named ``<ms>-<seq>`` and hold a record's JSON as it was journalled. ``seq`` is contiguous within
a writer, so the last entry's name says all there is to know about what was shipped: there is no other cursor.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class StoreError(Exception):
    """The store did not do what it was asked."""


class StoreUnavailable(StoreError):
    """It cannot be reached, or takes nothing now."""


class StoreFull(StoreUnavailable):
    """It has no memory left."""


class NotOurs(StoreError):
    """What is under a stream's name is no stream."""


class OutOfOrder(StoreError):
    """A writer's stream is not where the caller believed it to be."""


class StoreInvalid(StoreError):
    """The address of the store cannot be used."""


# A writer's id: 8 random bytes.
WRITER = re.compile(r"[0-9a-f]{16}")
# The stream of transitions, beside the writers'.
TRANSITIONS = "transitions"


class Position(NamedTuple):
    """A place in a writer's stream; everything up to it is there."""

    ms: int
    seq: int


START = Position(0, 0)


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of a writer's stream, its JSON as journalled; ``text`` is empty where somebody left something else."""

    ms: int
    seq: int
    text: bytes

    @property
    def position(self) -> Position:
        return Position(self.ms, self.seq)


@dataclass(frozen=True, slots=True)
class WriterState:
    """A writer the store knows: whether more may come of it, and its last entry."""

    open: bool
    last: Position


@dataclass(frozen=True, slots=True)
class Stream:
    """What a stream takes up: ``entries`` (a number or a good estimate), ``size`` in bytes, and its oldest entry.

    ``groups`` says whether a consumer group reads it.
    """

    name: str
    entries: int
    size: int
    first: Position | None
    groups: bool = False


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the store can hold and holds of everybody's, in bytes, 0 where nobody says, and what is wrong with its
    settings."""

    limit: int = 0
    warning: str = ""
    used: int = 0


class Store(Protocol):
    """What a store does. Every call may raise StoreUnavailable; what it did then shows in ``position`` and ``joined``.

    Every call is safe to repeat. ``written`` is how many bytes of records and transitions went through this object.
    ``strange`` says where the last look at the store's registers found something that is not ours, and what.
    """

    written: int
    strange: dict[str, str]

    @property
    def kind(self) -> str:
        """The store's name for people."""

    async def claim_key(self, fingerprint: str) -> str:
        """Leave a keyring's fingerprint where none is; the fingerprint that is there."""

    async def register(self, writer: str, *, lives: bool = False) -> bool:
        """Make a writer known, before its first entry; one that is known stays as it is, and False says so: but one
        that ``lives`` is open, whatever was said of it."""

    async def writers(self) -> dict[str, WriterState]:
        """All writers that were registered."""

    async def reopen(self, writer: str) -> bool:
        """Say of a writer that was closed that more comes of it after all; whether it was closed."""

    async def close_writer(self, writer: str) -> None:
        """Say that no more will come of a writer: it is dead and shipped to its end."""

    async def position(self, writer: str) -> Position:
        """The last entry of a writer's stream, START where it has none."""

    async def end(self, writer: str) -> tuple[Position, Entry | None]:
        """``position`` with the last entry that is left; raises NotOurs where there is no stream under its name."""

    async def put_aside(self, writer: str, is_ours: Callable[[Entry], bool], known: Position) -> int:
        """Take what is not ours out of a writer's stream, so that it ends with our last entry again; how many.

        What is read is read on as before: consumer groups stay. Where none of our entries is left the stream ends at
        ``known``. What was taken out is kept to be looked at, the newest thousand.
        """

    async def append(self, writer: str, after: Position, entries: Sequence[Entry]) -> None:
        """Append entries, all or none, where the stream ends at ``after``; raises OutOfOrder where it does not."""

    async def read(self, writer: str, after: Position, limit: int) -> list[Entry]:
        """At most ``limit`` entries of a writer's stream that come after a position, in order."""

    async def joined(self) -> dict[str, Position]:
        """Up to where each writer's decisions became transitions; a writer that is not there is at START."""

    async def commit(
        self,
        writer: str,
        expected: Position,
        new: Position,
        transitions: Sequence[bytes],
        counts: Mapping[str, int] = {},
    ) -> bool:
        """Append transitions, move ``joined`` to ``new`` and add to the ledger's counts, in one transaction; False,
        and nothing done, where another joiner has moved it from ``expected``."""

    async def counts(self) -> dict[str, int]:
        """The ledger's counts, as they were committed."""

    async def time(self) -> float | None:
        """The time (s since 1970) by which it says when transitions were made, None where it does not tell."""

    async def capacity(self) -> Capacity:
        """What it can hold."""

    async def streams(self, writers: Sequence[str]) -> tuple[int, list[Stream]]:
        """The bytes that all streams take up, and each that has entries: those of writers, and the transitions."""

    async def first(self, name: str) -> Position | None:
        """A stream's oldest entry; of a transition what counts is its time."""

    async def unread(self, name: str) -> Position | None:
        """The oldest entry of a stream that some consumer group has still to read or to acknowledge; None where there
        is none."""

    async def trim(self, name: str, before: Position, limit: int) -> int:
        """Delete the oldest entries of a stream that come before a position, about ``limit`` of them at most; how
        many."""

    async def trim_unread(self, name: str, before: Position, limit: int) -> tuple[int, int]:
        """The same, and how many of them some consumer group had still to read, which the ledger's counts then say
        (``lost.unread``)."""

    async def forget(self, writer: str, at: Position, missing: int) -> bool:
        """Forget a closed writer whose stream is empty, and whose decisions became transitions up to ``at``, with
        ``missing`` records that never can; False where it is not so (any more)."""

    async def compact(self, spare: int) -> None:
        """Give space back that was freed, but for ``spare`` bytes."""

    async def close(self) -> None:
        """Let go of connections and files."""


def position_of(text: str) -> Position | None:
    """The position that ``<ms>-<seq>`` names; None where it is none."""
    ms, dash, seq = text.partition("-")
    if not dash or not (ms.isdecimal() and seq.isdecimal() and ms.isascii() and seq.isascii()):
        return None
    return Position(int(ms), int(seq))
