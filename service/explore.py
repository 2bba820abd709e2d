"""Explorers: how an action is drawn from a head, inside the shield, with the exact probability of what was drawn.

Every draw uses up to three uniform numbers of its own: a coin, the proposal, and the second draw that replaces a
proposal which a constraint masks. With one number for both, a mask would change unmasked proposals too, and
interventions without a cause would be logged.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from export.spec.spaces import Frozen
from guards.records import Booleans, Floats, Integers

_LITTLE = np.dtype("<u8")
_TOP = np.uint64(11)


@dataclass(frozen=True, slots=True)
class Draw:
    """For each of N rows: the proposed action, the one to execute, the probability of executing it, and whether it is
    another than the best allowed one."""

    proposed: Integers
    action: Integers
    propensity: Floats
    explored: Booleans


def uniforms(digests: bytes) -> Floats:
    """Numbers[N, 4] in [0, 1) from N digests of 32 bytes: the top 53 bits of each 8, little-endian."""
    bits = np.frombuffer(digests, dtype=_LITTLE).reshape(-1, 4)
    uniform: Floats = np.multiply(bits >> _TOP, 2.0**-53, dtype=np.float64)
    return uniform


class Explorer(Frozen, ABC):
    """Draws from a head[N, A] over the allowed[N, A] actions; every row has at least one allowed action."""

    kind: str

    @abstractmethod
    def draw(self, head: Floats, allowed: Booleans, uniform: Floats) -> Draw:
        """Draw one action a row, with uniform[N, 4] numbers in [0, 1)."""


class Greedy(Explorer):
    """The best action; where it is masked, the next best allowed one by the policy's own ranking."""

    kind: Literal["greedy"] = "greedy"

    def draw(self, head: Floats, allowed: Booleans, uniform: Floats) -> Draw:  # noqa: ARG002 - nothing is random
        return Draw(
            proposed=head.argmax(axis=1),
            action=_best(head, allowed),
            propensity=np.ones(len(head)),
            explored=np.zeros(len(head), dtype=np.bool_),
        )


class EpsilonGreedy(Explorer):
    """With probability epsilon any action, all alike; otherwise the best."""

    kind: Literal["epsilon_greedy"] = "epsilon_greedy"
    epsilon: Annotated[float, Field(ge=0, le=1)]

    def draw(self, head: Floats, allowed: Booleans, uniform: Floats) -> Draw:
        best = action = _best(head, allowed)
        proposed = head.argmax(axis=1)
        exploring = uniform[:, 0] < self.epsilon
        if np.count_nonzero(exploring):
            any_action = (uniform[:, 1] * head.shape[1]).astype(np.int64)
            kept = allowed[np.arange(len(head)), any_action]
            redrawn = np.where(kept, any_action, _pick_allowed(allowed, uniform[:, 2]))
            proposed = np.where(exploring, any_action, proposed)
            action = np.where(exploring, redrawn, action)
        explored = action != best
        propensity = self.epsilon / np.add.reduce(allowed, axis=1) + np.where(explored, 0.0, 1.0 - self.epsilon)
        return Draw(proposed=proposed, action=action, propensity=propensity, explored=explored)


class Softmax(Explorer):
    """Each action with probability proportional to exp(head / temperature).

    With temperature 1 and logits this is the policy's own distribution.
    """

    kind: Literal["softmax"] = "softmax"
    temperature: Annotated[float, Field(gt=0)] = 1.0

    def draw(self, head: Floats, allowed: Booleans, uniform: Floats) -> Draw:
        rows = np.arange(len(head))
        proposed = _pick(self._pmf(head), uniform[:, 1])
        within = self._pmf(np.where(allowed, head, -np.inf))
        kept = allowed[rows, proposed]
        action = proposed if kept.all() else np.where(kept, proposed, _pick(within, uniform[:, 2]))
        # Keeping an allowed proposal and redrawing a masked one is the same as drawing from the renormalised rest.
        return Draw(
            proposed=proposed,
            action=action,
            propensity=within[rows, action],
            explored=action != _best(head, allowed),
        )

    def _pmf(self, scores: Floats) -> Floats:
        """Probabilities[N, A]; the largest score is taken away first, so that nothing overflows."""
        with np.errstate(over="ignore"):  # far below the largest, a quotient may be minus infinity: that is zero
            weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / self.temperature)
        pmf: Floats = weights / weights.sum(axis=1, keepdims=True)
        return pmf


def mixed(explorer: Explorer, exploring: Sequence[bool], head: Floats, allowed: Booleans, uniform: Floats) -> Draw:
    """Draw by the explorer in the rows[N] that may explore, greedily in the others."""
    if all(exploring):
        return explorer.draw(head, allowed, uniform)
    greedy = GREEDY.draw(head, allowed, uniform)
    if not any(exploring):
        return greedy
    drawn = explorer.draw(head, allowed, uniform)
    chosen = np.array(exploring)
    return Draw(
        proposed=np.where(chosen, drawn.proposed, greedy.proposed),
        action=np.where(chosen, drawn.action, greedy.action),
        propensity=np.where(chosen, drawn.propensity, greedy.propensity),
        explored=drawn.explored & chosen,
    )


def _best(head: Floats, allowed: Booleans) -> Integers:
    best: Integers = np.where(allowed, head, -np.inf).argmax(axis=1)
    return best


def _pick(pmf: Floats, uniform: Floats) -> Integers:
    """Invert the cumulative distribution[N, A]; never an action of probability zero, whatever the rounding."""
    cumulative = pmf.cumsum(axis=1)
    reached = cumulative <= (uniform * cumulative[:, -1])[:, None]
    last = pmf.shape[1] - 1 - (pmf[:, ::-1] > 0).argmax(axis=1)
    picked: Integers = np.minimum(reached.sum(axis=1), last)
    return picked


def _pick_allowed(allowed: Booleans, uniform: Floats) -> Integers:
    """One of the allowed actions of each row, all alike."""
    rank = (uniform * allowed.sum(axis=1)).astype(np.int64)
    picked: Integers = (allowed.cumsum(axis=1) > rank[:, None]).argmax(axis=1)
    return picked


GREEDY = Greedy()

AnyExplorer = Annotated[Greedy | EpsilonGreedy | Softmax, Field(discriminator="kind")]
