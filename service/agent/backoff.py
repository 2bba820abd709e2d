"""How long to wait before trying again, and how much to try: longer each time, never all at one moment; and less."""

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


class Portion:
    """How much is sent at once: less where the store has no memory for so much, and more again while it has."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = most

    def refused(self) -> None:
        """It was too much: what is sent takes up memory besides, while it is on its way."""
        self.size = max(1, self.size // 4)

    def taken(self) -> None:
        """It was not."""
        self.size = min(self._most, self.size + self.size // 2 + 1)

    def __repr__(self) -> str:
        return f"<Portion {self.size} of {self._most}>"
