"""Joint draws: whole actions of several factors, where constraints join the factors and what is allowed is no product.

Every whole action has a score, the sum of its choices' numbers, and is drawn like one action of a list: the best is
the one of the greatest product of probabilities, and a proposal that is not allowed is drawn again as a whole.
"""

import numpy as np
from msgspec import structs

from export.spec import Discrete, MultiDiscrete
from guards.records import Booleans, Floats, Integers
from service.decision.explore.draws import MOST, Draw, Draws


class Joint:
    """The whole actions of a space, in the order in which the last factor's choice changes fastest."""

    def __init__(self, space: MultiDiscrete) -> None:
        self.sizes = space.sizes
        self._ends = np.cumsum(space.sizes)[:-1]

    @property
    def listed(self) -> Discrete:
        """The whole actions as one list."""
        return Discrete(names=tuple(map(str, range(int(np.prod(self.sizes))))))

    def over(self, draws: Draws) -> Draws:
        """Draw whole actions as ``draws`` draws those of the list."""

        def drawn(head: Floats, allowed: Booleans, uniform: Floats) -> Draw:
            draw = draws(self._scores(head), allowed, uniform)
            return structs.replace(draw, proposed=self._apart(draw.proposed), action=self._apart(draw.action))

        return drawn

    def _scores(self, head: Floats) -> Floats:
        """A finite number for each whole action, 0 for the best, so that nothing overflows and nothing cancels."""
        scores = np.zeros((len(head), 1))
        with np.errstate(over="ignore"):
            for part in np.split(head, self._ends, axis=1):
                below = part - part.max(axis=1, keepdims=True)
                scores = (scores[:, :, None] + below[:, None, :]).reshape(len(head), -1)
        return np.maximum(scores, -MOST)

    def _apart(self, columns: Integers) -> Integers:
        return np.stack(np.unravel_index(columns, self.sizes), axis=1)
