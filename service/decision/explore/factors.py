"""Factors: how an action is drawn that is one choice for each of several factors (MultiDiscrete).

The factors' choices are drawn independently, each as an action of its own, and kept or drawn again together: what is
allowed is the product of what the request's mask leaves of each factor. Of the uniform numbers of a row, the first is a
coin, the next K are the proposal's and the K after them the second draw's.

Where constraints join the factors, what is allowed is no product: every whole action has a score then, the sum of its
choices' numbers, and is drawn like one action of a list. The best is the one of the greatest product of probabilities,
and a proposal that is not allowed is drawn again as a whole.
"""

from typing import NamedTuple, TypeVar

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from export.spec import Discrete, MultiDiscrete
from guards.projection import every, some
from guards.records import Booleans, Floats, Integers
from service.decision.explore.draws import LEAST, MOST, Draw, Draws, best, pick, pick_allowed, pmf_of

Value = TypeVar("Value", bound=np.generic)


class Factored(NamedTuple):
    """A head and a mask, factor by factor: rows[N * K] of up to M choices; what is no choice is never allowed."""

    head: Floats
    allowed: Booleans


class Factors:
    """The factors of a space, side by side; a factor with fewer choices than another has none in their places."""

    def __init__(self, space: MultiDiscrete) -> None:
        self.sizes = np.array(space.sizes)
        self.count = len(self.sizes)
        self.uniforms = 1 + 2 * self.count
        places = np.arange(self.sizes.max())
        self._real = places < self.sizes[:, None]
        self._columns = np.where(self._real, (np.cumsum(self.sizes) - self.sizes)[:, None] + places, 0)

    def greedy(self, head: Floats, allowed: Booleans, uniform: Floats) -> Draw:  # noqa: ARG002 - nothing is random
        """The best allowed choice of every factor."""
        parts = self._apart(head, allowed)
        return Draw(
            proposed=self._together(parts.head.argmax(axis=1)),
            action=self._together(best(*parts)),
            propensity=np.ones(len(head)),
            explored=np.zeros(len(head), dtype=np.bool_),
        )

    def epsilon_greedy(self, epsilon: float, head: Floats, allowed: Booleans, uniform: Floats) -> Draw:
        """With probability epsilon any action, all alike; otherwise the best."""
        parts = self._apart(head, allowed)
        proposing, redrawing = self._numbers(uniform)
        best_action = self._together(best(*parts))
        any_action = self._together((proposing * np.tile(self.sizes, len(head))).astype(np.int64))
        redrawn = self._together(pick_allowed(parts.allowed, redrawing))
        exploring = uniform[:, :1] < epsilon
        kept = np.where(self._permits(parts, any_action)[:, None], any_action, redrawn)
        action = np.where(exploring, kept, best_action)
        explored = some(action != best_action)
        with np.errstate(over="ignore", under="ignore"):
            choices = np.multiply.reduce(self._together(parts.allowed.sum(axis=1)).astype(np.float64), axis=1)
            propensity = epsilon / choices + np.where(explored, 0.0, 1.0 - epsilon)
        proposed = np.where(exploring, any_action, self._together(parts.head.argmax(axis=1)))
        return _held(proposed, action, propensity, explored)

    def softmax(self, temperature: float, head: Floats, allowed: Booleans, uniform: Floats) -> Draw:
        """Each factor's choice with probability proportional to exp(head / temperature)."""
        parts = self._apart(head, allowed)
        proposing, redrawing = self._numbers(uniform)
        proposed = self._together(pick(pmf_of(parts.head, temperature), proposing))
        within = pmf_of(np.where(parts.allowed, parts.head, -np.inf), temperature)
        kept = self._permits(parts, proposed)
        action = np.where(kept[:, None], proposed, self._together(pick(within, redrawing)))
        chances = within[np.arange(len(within)), action.ravel()]
        with np.errstate(under="ignore"):
            propensity = np.multiply.reduce(self._together(chances), axis=1)
        explored = some(action != self._together(best(*parts)))
        return _held(proposed, action, propensity, explored)

    def _apart(self, head: Floats, allowed: Booleans) -> Factored:
        """Head[N, W] and allowed[N, W] factor by factor."""
        shape = (len(head) * self.count, -1)
        apart = np.where(self._real, head[:, self._columns], -np.inf)
        return Factored(apart.reshape(shape), (self._real & allowed[:, self._columns]).reshape(shape))

    def _together(self, values: NDArray[Value]) -> NDArray[Value]:
        """One value a factor, [N * K], as one row for each action: [N, K]."""
        return values.reshape(-1, self.count)

    def _numbers(self, uniform: Floats) -> tuple[Floats, Floats]:
        """The numbers[N * K] of the proposals and of the second draws."""
        proposing, redrawing = uniform[:, 1 : 1 + self.count], uniform[:, 1 + self.count : self.uniforms]
        return proposing.ravel(), redrawing.ravel()

    def _permits(self, parts: Factored, action: Integers) -> Booleans:
        """Whether each row's whole action is allowed."""
        permitted = parts.allowed[np.arange(len(parts.allowed)), action.ravel()]
        return every(permitted.reshape(-1, self.count))


def _held(proposed: Integers, action: Integers, propensity: Floats, explored: Booleans) -> Draw:
    """A draw whose probabilities are as small as products of many are, but never zero."""
    beyond = propensity < LEAST
    return Draw(proposed, action, np.maximum(propensity, LEAST), explored, beyond=beyond)


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
