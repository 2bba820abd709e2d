"""A histogram of a latency distribution: counts in buckets that grow by 2 %, so that every quantile is within 1 %.

The arithmetic is that of DDSketch (Masson, Rim, Lee, VLDB 2019) over a fixed range of microseconds.
"""

import math
from collections.abc import Sequence

import numpy as np

_GROWTH = 1.02
_SCALE = 1.0 / math.log(_GROWTH)
_BUCKETS = 1100  # up to about 2,900 s


class Histogram:
    """Counts of durations in microseconds."""

    __slots__ = ("_counts", "count", "total_us")

    def __init__(self) -> None:
        self._counts = np.zeros(_BUCKETS, dtype=np.int64)
        self.count = 0
        self.total_us = 0

    def add_all(self, us: np.ndarray) -> None:
        """Count durations[N]; what is under 1 µs counts as 1."""
        buckets = np.clip(np.log(np.maximum(us, 1.0)) * _SCALE, 0, _BUCKETS - 1).astype(np.int64)
        self._counts += np.bincount(buckets, minlength=_BUCKETS)
        self.count += len(us)
        self.total_us += round(float(us.sum()))

    def quantile_us(self, q: float) -> float | None:
        """The q-quantile in µs; None while nothing was counted."""
        if not self.count:
            return None
        bucket = int(np.searchsorted(np.cumsum(self._counts), q * (self.count - 1), side="right"))
        return 2.0 * _GROWTH**bucket / (1.0 + 1.0 / _GROWTH)

    def up_to_us(self, bounds: Sequence[float]) -> list[int]:
        """How many durations were at most each of the ascending bounds (µs), within the histogram's 2 %."""
        seen = np.cumsum(self._counts).tolist()
        return [seen[min(int(math.log(bound) * _SCALE), _BUCKETS - 1)] for bound in bounds]

    def __repr__(self) -> str:
        return f"<Histogram of {self.count}, median {self.quantile_us(0.5)} µs>"
