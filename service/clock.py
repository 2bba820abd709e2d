"""The process's time: the wall clock's at its start, plus what has passed since; it never steps and never runs back.

Whoever sets the wall clock moves no cooldown, no deadline and no id of a process that runs. Two times of one process
are as far apart as it took, and ``now`` less ``elapsed`` is the same as long as it lives. What the wall clock says
meanwhile is shown as ``ahead``; a process that is started again begins from it.
"""

import time
from collections.abc import Callable
from functools import partial


def _elapsed() -> Callable[[], float]:
    """The clock of what has passed: one that goes on while the machine sleeps, as cooldowns do, where there is one."""
    try:
        # Not on every system: CLOCK_BOOTTIME is of Linux.
        reading = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
        reading()
    except (AttributeError, OSError):
        return time.monotonic
    return reading


# Seconds since some moment, that nobody can set; for Linux since the machine was started, with its sleep.
elapsed: Callable[[], float] = _elapsed()


class Clock:
    """One process's time. ``wall`` and ``passed`` are what it is made from: s since 1970, and s since some moment."""

    __slots__ = ("_wall", "passed", "shift")

    def __init__(self, wall: Callable[[], float] = time.time, passed: Callable[[], float] = elapsed) -> None:
        self._wall = wall
        self.passed = passed
        self.shift = wall() - passed()

    def now(self) -> float:
        """The time (s since 1970)."""
        return self.shift + self.passed()

    def ahead(self) -> float:
        """How far (s) the wall clock is ahead of this time: 0 until somebody sets it, negative where it is behind."""
        return self._wall() - self.now()

    def __repr__(self) -> str:
        return f"<Clock {self.now():.3f}, the wall clock is {self.ahead():+.3f} s from it>"
