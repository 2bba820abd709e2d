"""The fallback probe: what is below the policy, tried beside live traffic: a fallback that is never exercised is none.

Of every thousand places in the log one is drawn, with the deployment's key; the decision in it is put to the baseline
and the last resort as well, after it was answered. So is one where nothing was tried for half the time in which a rung
grows stale, or a loop that decides once a second would never show whether they work. Nothing of it is logged.
"""

import logging
import math
from typing import Any

from service.decision.batch import Batch, Behaviour
from service.decision.decide import advised
from service.log.ids import body_of
from service.log.records import Decision

_log = logging.getLogger(__name__)
# One decision in so many is put to every rung.
EVERY = 1000
BASELINE, LAST_RESORT = "baseline", "last_resort"


class FallbackProbe:
    """When each rung last gave an action that passed the shield. Times are in seconds, monotonic."""

    def __init__(self, behaviour: Behaviour, stale_s: float) -> None:
        self._behaviour = behaviour
        self._stale_s = stale_s
        self._traffic: float | None = None
        # The next place in the log that is drawn, and when the rungs are tried without one: at once, to begin with.
        self._due = 0
        self._again = -math.inf
        names = (BASELINE,) if behaviour.last_resort is None else (BASELINE, LAST_RESORT)
        self.last_success: dict[str, float | None] = dict.fromkeys(names)

    def committed(self, batch: Batch, now: float) -> None:
        """Take in what a batch shows of the rungs, and put the row to them that is drawn."""
        records = batch.records
        if not records:
            return
        self._traffic = now
        for record in records:
            if record.reason is not None and isinstance(record, Decision) and _worked(record):
                self.last_success[record.source] = now
        if records[-1].seq < self._due and now < self._again:
            return
        for row in self.rows(records[0].seq, len(records)) or [0] * (now >= self._again):
            self._again = now + self._stale_s / 2
            self._try(batch, row, now)
        block = records[-1].seq // EVERY
        self._due = min(place for place in map(self._place, (block, block + 1)) if place > records[-1].seq)

    def rows(self, first: int, count: int) -> list[int]:
        """Which of ``count`` records from place ``first`` in the log on are drawn."""
        blocks = range(first // EVERY, (first + count - 1) // EVERY + 1)
        return [row for row in (self._place(block) - first for block in blocks) if 0 <= row < count]

    def _place(self, block: int) -> int:
        """Which of a thousand places in the log is drawn."""
        drawn = self._behaviour.key.draw(body_of(self._behaviour.prefix, 0, block, "shadow"))
        return block * EVERY + int.from_bytes(drawn[:8], "little") % EVERY

    def to_json(self, now: float) -> dict[str, dict[str, Any]]:
        """How long ago each last worked, and whether that is too long: it is not where nothing was decided since."""
        busy, told = self._traffic is not None and now - self._traffic <= self._stale_s, {}
        for rung, at in self.last_success.items():
            ago = None if at is None else now - at
            stale = busy and (ago is None or ago > self._stale_s)
            told[rung] = {"last_success_s_ago": None if ago is None else round(ago, 1), "stale": stale}
        return told

    def _try(self, batch: Batch, row: int, now: float) -> None:
        """Put one decided row to every rung, each by itself."""
        behaviour, seen = self._behaviour, batch.rows[row]
        for rung in self.last_success:
            try:
                action = behaviour.last_resort
                if rung == BASELINE:
                    _, action = advised(behaviour, batch, row, behaviour.judge(seen))
                if action is not None and behaviour.shield.check(seen, action):
                    self.last_success[rung] = now
            except Exception:  # noqa: BLE001 - whatever it is, nobody may be harmed by a rehearsal
                _log.exception("the rung %s was tried and has a fault", rung)

    def __repr__(self) -> str:
        return f"<FallbackProbe {self.last_success}>"


def _worked(record: Decision) -> bool:
    """Whether the rung that a decision is of gave what was allowed; a last resort may leave all the same."""
    return not any(violation.verdict == "executed" for violation in record.violations)
