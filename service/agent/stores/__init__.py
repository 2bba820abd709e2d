"""The store behind the agent: streams of records by writer, the transitions that came of them, and how it fails.

    StoreError
    ├── StoreUnavailable   it cannot be reached, or takes nothing now: the call may or may not have been done
    ├── OutOfOrder         a writer's stream is not where the caller believed it to be: nothing was appended
    └── StoreInvalid       its address cannot be used

A stream's entries are named ``<ms>-<seq>`` and hold a record's JSON as it was journalled. ``seq`` is contiguous within
a writer, so the last entry's name says all there is to know about what was shipped: there is no other cursor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class StoreError(Exception):
    """The store did not do what it was asked."""


class StoreUnavailable(StoreError):
    """It cannot be reached, or takes nothing now."""


class OutOfOrder(StoreError):
    """A writer's stream is not where the caller believed it to be."""


class StoreInvalid(StoreError):
    """The address of the store cannot be used."""


class Position(NamedTuple):
    """A place in a writer's stream; everything up to it is there."""

    ms: int
    seq: int


START = Position(0, 0)


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of a writer's stream, its JSON as journalled."""

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


class Store(Protocol):
    """What a store does. Every call may raise StoreUnavailable; what it did then shows in ``position`` and ``joined``.

    Every call is safe to repeat.
    """

    @property
    def kind(self) -> str:
        """The store's name for people."""

    async def claim_key(self, fingerprint: str) -> str:
        """Leave a keyring's fingerprint where none is; the fingerprint that is there."""

    async def register(self, writer: str) -> None:
        """Make a writer known, before its first entry; one that is known stays as it is."""

    async def writers(self) -> dict[str, WriterState]:
        """All writers that were registered."""

    async def close_writer(self, writer: str) -> None:
        """Say that no more will come of a writer: it is dead and shipped to its end."""

    async def position(self, writer: str) -> Position:
        """The last entry of a writer's stream, START where it has none."""

    async def append(self, writer: str, after: Position, entries: Sequence[Entry]) -> None:
        """Append entries, all or none, where the stream ends at ``after``; raises OutOfOrder where it does not."""

    async def read(self, writer: str, after: Position, limit: int) -> list[Entry]:
        """At most ``limit`` entries of a writer's stream that come after a position, in order."""

    async def joined(self) -> dict[str, Position]:
        """Up to where each writer's decisions became transitions; a writer that is not there is at START."""

    async def commit(self, writer: str, expected: Position, new: Position, transitions: Sequence[bytes]) -> bool:
        """Append transitions and move ``joined`` to ``new``, in one transaction; False, and nothing done, where
        another joiner has moved it from ``expected``."""

    async def close(self) -> None:
        """Let go of connections and files."""
