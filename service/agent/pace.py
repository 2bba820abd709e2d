"""The pace of a writer: how its clock stands to ours, told from its records' times and from when they came.

Whatever the hosts' wall clocks say, a record cannot come before it was written. So the most that a writer's times were
ever ahead of our time of their coming is the least by which its clock is ahead. Two writers whose paces differ either
have clocks that tell different times, or the slower has not come to its last records yet: then it gains on the other.
"""

from dataclasses import dataclass

# Clocks that differ by less are taken for one: what is behind by that may only be late.
APART_MS = 60_000
# A writer that gained less than this has not gained: idle ones beat each 5 s.
GAIN_MS = 7_500
# One that does not gain for so long, although it goes on, keeps time.
STEADY_S = 15.0


@dataclass(slots=True)
class Pace:
    """``ahead_ms`` is how far a writer's clock is ahead of ours, at least; ``since`` (s) when it last gained on it.

    ``steady`` where it keeps time: then it is ahead by hardly more than that, and stays so after the writer's end.
    """

    ahead_ms: float
    since: float
    gained: bool = False
    steady: bool = False
    _before_ms: float = 0.0

    @classmethod
    def of(cls, ms: int, now: float) -> "Pace":
        """That of a writer whose last record, of the time ``ms``, is first seen at ``now`` (s, monotonic)."""
        ahead = ms - now * 1000
        return cls(ahead, now, _before_ms=ahead)

    def came(self, ms: int, now: float) -> None:
        """Another record has come."""
        self.ahead_ms = max(self.ahead_ms, ms - now * 1000)
        if self.ahead_ms - self._before_ms > GAIN_MS:
            self._before_ms, self.since, self.gained, self.steady = self.ahead_ms, now, True, False
        elif now - self.since >= STEADY_S:
            self.steady = True


def apart(one: Pace, other: Pace, now: float, *, open_: bool) -> bool | None:
    """Whether two writers' clocks tell different times; None where that shows before long.

    Where the slower one has gained on its clock, or its writer is not ``open_`` and was never seen to keep time, it is
    what is in the log late that is seen, and no other time.
    """
    if abs(one.ahead_ms - other.ahead_ms) <= APART_MS:
        return False
    slower = min(one, other, key=lambda pace: pace.ahead_ms)
    if slower.steady:
        return True
    fresh = open_ and not slower.gained and now - slower.since < 2 * STEADY_S
    return None if fresh else False
