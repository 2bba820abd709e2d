"""The state page: what the agent lets the data plane do, as a small file with one writer.

The page is ``CRC32 JSON\\n``, renamed into place, so that a reader sees a whole page or the one before. Its heartbeat
counts up while the agent lives; a lease on risky authority (exploration, a canary) holds while the reader has seen it
advance within ``LEASE_S`` on the reader's own clock. Acting on stable and falling back need no lease.
"""

from pathlib import Path

import msgspec

from service.log.lines import publish, unsealed

LEASE_S = 5.0
HEARTBEAT_S = 1.0


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent publishes: ``generation`` counts changes of what is allowed, ``heartbeat`` signs of life.

    The heartbeat stands still while ``failing`` says what does not work.
    """

    v: int = 1
    generation: int
    heartbeat: int
    failing: str = ""


_decode = msgspec.json.Decoder(Page).decode


def write_page(path: Path, page: Page) -> None:
    """Publish a page; raises OSError."""
    publish(path, msgspec.json.encode(page))


def read_page(path: Path) -> Page | None:
    """The page as published; None where there is none or it is damaged."""
    try:
        text = unsealed(path.read_bytes())
        return None if text is None else _decode(text)
    except (OSError, msgspec.MsgspecError):
        return None


class Lease:
    """Risky authority that expires: it holds for ``seconds`` after the heartbeat was last seen to advance."""

    def __init__(self, seconds: float = LEASE_S) -> None:
        self._seconds = seconds
        self._heartbeat: int | None = None
        self.until = float("-inf")
        self._failing = ""
        self.generation = 0

    def see(self, page: Page | None, now: float) -> None:
        """Take note of a page read at ``now`` (s, monotonic). What was written before this process began counts not
        as a sign of life, but the next change of it does."""
        if page is None:
            return
        if self._heartbeat is not None and page.heartbeat != self._heartbeat:
            self.until = now + self._seconds
        self._heartbeat = page.heartbeat
        self._failing = page.failing
        self.generation = page.generation

    def agent(self, now: float) -> str:
        """How the agent is at ``now`` (s, monotonic), for people: ``works``, ``silent``, or ``failing: `` and why."""
        if self._failing:
            return f"failing: {self._failing}"
        return "works" if self.holds(now) else "silent"

    def holds(self, now: float) -> bool:
        """Whether risky authority may be used at ``now`` (s, monotonic)."""
        return now < self.until

    def __repr__(self) -> str:
        return f"<Lease heartbeat {self._heartbeat}, generation {self.generation}, until {self.until:.1f}>"
