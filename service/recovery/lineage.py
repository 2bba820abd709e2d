"""The lineage: which writers a data folder has had, newest first, and what each said of itself when it began.

A session goes on from its last decision, wherever in the folder that is. So which writer came after which has to be
known for certain, and whether one is missing: times do not say it, because clocks are set. The file is written before a
writer decides anything; where that cannot be, it is taken away, and then nothing is taken over from anybody.
"""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from guards.records import Schema
from service.config import Config
from service.log.journal import JournalUnavailable
from service.log.lines import publish, unsealed
from service.log.records import Durability

_BOOT = Path("/proc/sys/kernel/random/boot_id")
# Two readings of two clocks, one after the other, differ by less where neither was set.
_SAME_S = 0.05


class Instant(msgspec.Struct, frozen=True):
    """One time by two clocks: the guards' (``at``, s since 1970), and how long the machine has been up (s).

    ``boot`` names since when it is up; empty where the system does not say.
    """

    at: float
    uptime_s: float
    boot: str

    @classmethod
    def now(cls, wall: Callable[[], float] = time.time) -> "Instant":
        """This time, on this machine."""
        try:
            # It goes on while the machine sleeps, which a cooldown does too.
            return cls(wall(), time.clock_gettime(time.CLOCK_BOOTTIME), _BOOT.read_text("ascii").strip())
        except (OSError, AttributeError):
            return cls(wall(), 0.0, "")

    def ahead_of(self, earlier: "Instant") -> float | None:
        """By how much (s) the guards' clock was set forward since an earlier instant; None where nobody can know."""
        if not self.boot or self.boot != earlier.boot:
            return None
        ahead = self.at - earlier.at - (self.uptime_s - earlier.uptime_s)
        return ahead if abs(ahead) > _SAME_S else 0.0


class Ancestor(msgspec.Struct, frozen=True, kw_only=True):
    """A writer as it was when it began.

    ``remembers`` has a digest for each constraint that remembers something of sessions, by name. ``ended`` is its last
    sequence number where it ended in order, with all of its log on the disk.
    """

    writer: str
    began: Instant
    durability: Durability
    guard_clock: Literal["service", "observed_at"]
    schema: str
    baseline: str
    remembers: dict[str, str]
    ended: int = 0

    @classmethod
    def of(cls, config: Config, schema: Schema, began: Instant, writer: str = "") -> "Ancestor":
        """What this process is to those after it."""
        guards = [one for one in config.constraints if one.judges == "actions"]
        return cls(
            writer=writer,
            began=began,
            durability=config.durability,
            guard_clock=config.guard_clock,
            schema=_digest([one.model_dump(mode="json") for one in (schema.observation, schema.action)]),
            baseline=_digest(config.baseline.model_dump(mode="json", exclude={"path"})),
            remembers={
                one.name: _digest(one.model_dump(mode="json"))
                for one in guards
                if one.tracks(schema) or one.keeper(schema) is not None
            },
        )

    def understands(self, other: "Ancestor") -> bool:
        """Whether what another writer's constraints remembered means the same here, and has all that ours go by."""
        same = self.schema == other.schema and self.guard_clock == other.guard_clock
        return same and self.remembers.items() <= other.remembers.items()


class Lineage:
    """The file of a data folder's writers."""

    def __init__(self, data: Path) -> None:
        self._path = data / "state" / "writers"
        self._journal = data / "journal"
        self.ancestors: tuple[Ancestor, ...] = _read(self._path)

    def begin(self, own: Ancestor) -> None:
        """Put this process's writer before the others, which are named while a folder of theirs, or of one before them,
        is there. Raises JournalUnavailable.
        """
        named = [own, *self.ancestors]
        while len(named) > 1 and not (self._journal / named[-1].writer).is_dir():
            named.pop()
        self.ancestors = tuple(named)
        try:
            publish(self._path, msgspec.json.encode(self.ancestors), sync=True)
        except OSError as error:
            # What is there would name an older writer as the last one.
            try:
                self._path.unlink(missing_ok=True)
            except OSError:
                msg = f"{self._path}: cannot be written ({error.strerror}), nor taken away"
                raise JournalUnavailable(msg) from error

    def end(self, seq: int) -> None:
        """Say that this process's writer ends in order with record ``seq``, which is on the disk like all before."""
        self.ancestors = (msgspec.structs.replace(self.ancestors[0], ended=seq), *self.ancestors[1:])
        with suppress(OSError):
            publish(self._path, msgspec.json.encode(self.ancestors), sync=True)

    def __repr__(self) -> str:
        return f"<Lineage of {len(self.ancestors)} writers>"


def _read(path: Path) -> tuple[Ancestor, ...]:
    """The writers that the file names; none where there is no such file, or it is not as it was written."""
    try:
        text = unsealed(path.read_bytes())
        return () if text is None else msgspec.json.decode(text, type=tuple[Ancestor, ...])
    except (OSError, msgspec.MsgspecError):
        return ()


def _digest(told: Any) -> str:
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
