"""The ledger: what became of every record and every decision, as one thing to read."""

from collections import Counter
from collections.abc import Mapping

import msgspec


class Journalled(msgspec.Struct, frozen=True, kw_only=True):
    """Records of the journals of this data folder: ``accepted = delivered + journaled + lost``.

    ``lost`` is by cause: ``damage`` (lines that cannot be read), ``segment_lost`` (taken away while they were written,
    as the writer tells) and ``retention`` (deleted before the store had them, or after it had lost them).
    ``torn_tails`` were never accepted; ``set_aside`` counts folders that are not a writer's of this service. It is
    counted from the folders themselves, so it is the same after any restart.
    """

    accepted: int = 0
    delivered: int = 0
    journaled: int = 0
    lost: dict[str, int] = {}
    damaged_lines: int = 0
    torn_tails: int = 0
    set_aside: int = 0

    def __add__(self, other: "Journalled") -> "Journalled":
        return Journalled(
            accepted=self.accepted + other.accepted,
            delivered=self.delivered + other.delivered,
            journaled=self.journaled + other.journaled,
            lost=_added(self.lost, other.lost),
            damaged_lines=self.damaged_lines + other.damaged_lines,
            torn_tails=self.torn_tails + other.torn_tails,
            set_aside=self.set_aside + other.set_aside,
        )


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the records of all writers of this service in its store, up to where each was joined.

    Counted in the transaction that moves that position, whichever agent does it: each record once, through all
    restarts. ``records`` were joined: decisions became ``transitions`` (by what closed them) or were ``not_exported``
    (``superseded``, ``not_activated``, ``shadow``), and ``feedback`` is by class (``joined``, ``late``, ``duplicate``,
    ``conflict``, ``unmatched``: its decision was not there, nor came within seconds; should it come later, its reward
    is taken all the same). ``missing`` are records that were not in the streams, and ``unreadable`` entries that are
    not ours. ``unlogged`` is what was answered, or told, while nothing could be written, as the writers tell: it is in
    no log. ``waiting`` decisions and ``standby`` are this agent's alone.
    """

    standby: bool = False
    waiting: int = 0
    records: int = 0
    transitions: dict[str, int] = {}
    not_exported: dict[str, int] = {}
    feedback: dict[str, int] = {}
    reward_not_ok: int = 0
    missing: int = 0
    unreadable: int = 0
    unlogged: dict[str, int] = {}

    @classmethod
    def of(cls, counts: Mapping[str, int], *, waiting: int = 0, standby: bool = False) -> "Joined":
        """The same from counts by name: ``transitions.feedback``, ``missing``, ..."""
        return cls(
            standby=standby,
            waiting=waiting,
            records=counts.get("records", 0),
            transitions=_under("transitions", counts),
            not_exported=_under("not_exported", counts),
            feedback=_under("feedback", counts),
            reward_not_ok=counts.get("reward_not_ok", 0),
            missing=counts.get("missing", 0),
            unreadable=counts.get("unreadable", 0),
            unlogged=_under("unlogged", counts),
        )


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """What all streams of the service take up in the store: ``size`` of ``bound`` bytes.

    ``lost`` counts entries that were deleted because of the bound though a consumer group had still to read them
    (``unread``); ``aside`` what was found in the store and is not ours; ``strange`` says where there is such now.
    """

    size: int = 0
    bound: int = 0
    lost: dict[str, int] = {}
    aside: int = 0
    strange: dict[str, str] = {}
    warning: str = ""


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; ``failing`` says what does not work at the moment, and why."""

    store: str
    reachable: bool
    failing: dict[str, str] = {}
    journal: Journalled
    streams: Streams = Streams()
    joiner: Joined


def _under(prefix: str, counts: Mapping[str, int]) -> dict[str, int]:
    """Counts whose names begin with a prefix, without it; what is 0 is left out."""
    begins = prefix + "."
    return {name.removeprefix(begins): n for name, n in counts.items() if name.startswith(begins) and n}


def _added(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return dict(Counter(one) + Counter(other))
