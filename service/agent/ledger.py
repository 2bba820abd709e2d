"""The ledger: what became of every record and every decision, as one thing to read."""

from collections import Counter

import msgspec


class Journalled(msgspec.Struct, frozen=True, kw_only=True):
    """Records of the journals of this data folder: ``accepted = delivered + journaled + lost``.

    ``lost`` is by cause: ``damage`` (lines that cannot be read) and ``retention`` (deleted before the store had them,
    or after it had lost them). ``torn_tails`` were never accepted.
    """

    accepted: int = 0
    delivered: int = 0
    journaled: int = 0
    lost: dict[str, int] = {}
    damaged_lines: int = 0
    torn_tails: int = 0

    def __add__(self, other: "Journalled") -> "Journalled":
        return Journalled(
            accepted=self.accepted + other.accepted,
            delivered=self.delivered + other.delivered,
            journaled=self.journaled + other.journaled,
            lost=_added(self.lost, other.lost),
            damaged_lines=self.damaged_lines + other.damaged_lines,
            torn_tails=self.torn_tails + other.torn_tails,
        )


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """What the joiner of this agent did since it began.

    ``transitions`` by what closed them; ``not_exported`` by reason (``superseded``, ``not_activated``, ``shadow``);
    ``feedback`` by class (``joined``, ``late``, ``duplicate``, ``conflict``, ``unmatched``); ``waiting`` decisions.
    """

    standby: bool = False
    waiting: int = 0
    transitions: dict[str, int] = {}
    not_exported: dict[str, int] = {}
    feedback: dict[str, int] = {}
    reward_not_ok: int = 0
    unreadable: int = 0

    def __add__(self, other: "Joined") -> "Joined":
        return Joined(
            standby=self.standby,
            waiting=self.waiting + other.waiting,
            transitions=_added(self.transitions, other.transitions),
            not_exported=_added(self.not_exported, other.not_exported),
            feedback=_added(self.feedback, other.feedback),
            reward_not_ok=self.reward_not_ok + other.reward_not_ok,
            unreadable=self.unreadable + other.unreadable,
        )


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    store: str
    reachable: bool
    journal: Journalled
    joiner: Joined


def _added(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return dict(Counter(one) + Counter(other))
