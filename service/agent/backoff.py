"""How long to wait before trying again: longer each time, and never all at the same moment."""

from random import Random

FIRST_S = 0.05
LONGEST_S = 2.0


class Backoff:
    """Exponential back-off with full jitter (uniform between 0 and a bound that doubles)."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.tries = 0

    def failed(self) -> float:
        """Seconds to wait after another failure."""
        bound = min(LONGEST_S, FIRST_S * 2.0 ** min(self.tries, 16))
        self.tries += 1
        return self._random.uniform(0.0, bound)

    def worked(self) -> None:
        """It works again."""
        self.tries = 0

    def __repr__(self) -> str:
        return f"<Backoff after {self.tries} failures>"
