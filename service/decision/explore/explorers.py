"""Explorers: how an action is drawn from a head, inside the shield, with the exact probability of what was drawn.

Every draw among actions uses uniform numbers of its own: a coin, the proposal, and the second draw that replaces a
proposal which a constraint masks. With one number for both, a mask would change unmasked proposals too, and
interventions without a cause would be logged. The draws of other spaces are in ``factors.py`` and ``gaussian.py``.
"""

import math
from abc import ABC, abstractmethod
from functools import partial
from struct import Struct
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from export.spec import ActionSpace, Box, Discrete, MultiDiscrete, Squash
from export.spec.spaces import Frozen
from guards.records import Booleans, Floats
from service.decision.explore.draws import (
    Choice,
    Draw,
    Draws,
    best,
    best_of,
    chances_of,
    pick,
    pick_allowed,
    pick_of,
    pick_permitted,
    pmf_of,
    unfit,
)
from service.decision.explore.factors import Factors
from service.decision.explore.gaussian import Gaussian

_LITTLE = np.dtype("<u8")
_TOP = np.uint64(11)
# Uniform numbers in 32 bytes, which is what one hash gives: the top 53 bits of each 8, in steps of ``_STEP``.
IN_A_BLOCK = 4
_BLOCK = Struct("<4Q")
_STEP = 2.0**-53


def uniforms(digests: bytes, blocks: int = 1) -> Floats:
    """Numbers[N, 4 * blocks] in [0, 1) from N times so many blocks of 32 bytes: the top 53 bits of each 8,
    little-endian."""
    bits = np.frombuffer(digests, dtype=_LITTLE).reshape(-1, IN_A_BLOCK * blocks)
    uniform: Floats = np.multiply(bits >> _TOP, 2.0**-53, dtype=np.float64)
    return uniform


class Explorer(Frozen, ABC):
    """Draws actions; what it is in an action space, ``bind`` says; of a list of few it draws in plain numbers."""

    kind: str
    # Whether it goes by how good each choice is, and not only by which is best.
    compares: ClassVar[bool] = False

    @abstractmethod
    def bind(self, space: ActionSpace, squash: Squash) -> Draws:
        """How it draws in a space, every row with at least one allowed action; raises GuardMisconfigured."""

    def choose(self, head: list[float], forbidden: int, digest: bytes) -> Choice:  # noqa: ARG002 - of no list
        """Draw one of a list of few actions, some of which the bits forbid: what ``bind`` draws, row by row."""
        raise unfit(self.kind, "listed")


class Greedy(Explorer):
    """The best action; where it is masked, the next best allowed one by the policy's own ranking."""

    kind: Literal["greedy"] = "greedy"

    def bind(self, space: ActionSpace, squash: Squash) -> Draws:
        if isinstance(space, Discrete):
            return self.draw
        return Factors(space).greedy if isinstance(space, MultiDiscrete) else Gaussian(space, squash).greedy

    def draw(self, head: Floats, allowed: Booleans, uniform: Floats) -> Draw:  # noqa: ARG002 - nothing is random
        """Draw one of a list of actions."""
        return Draw(
            proposed=head.argmax(axis=1),
            action=best(head, allowed),
            propensity=np.ones(len(head)),
            explored=np.zeros(len(head), dtype=np.bool_),
        )

    def choose(self, head: list[float], forbidden: int, digest: bytes) -> Choice:  # noqa: ARG002 - nothing is random
        return Choice(head.index(max(head)), best_of(head, forbidden))


class EpsilonGreedy(Explorer):
    """With probability epsilon any action, all alike; otherwise the best."""

    kind: Literal["epsilon_greedy"] = "epsilon_greedy"
    epsilon: Annotated[float, Field(ge=0, le=1)]

    def bind(self, space: ActionSpace, squash: Squash) -> Draws:  # noqa: ARG002 - squashes are for a Box
        if isinstance(space, Discrete):
            return self.draw
        if isinstance(space, MultiDiscrete):
            return partial(Factors(space).epsilon_greedy, self.epsilon)
        raise unfit(self.kind, space.kind)

    def draw(self, head: Floats, allowed: Booleans, uniform: Floats) -> Draw:
        """Draw one of a list of actions."""
        best_action = action = best(head, allowed)
        proposed = head.argmax(axis=1)
        exploring = uniform[:, 0] < self.epsilon
        if np.count_nonzero(exploring):
            any_action = (uniform[:, 1] * head.shape[1]).astype(np.int64)
            kept = allowed[np.arange(len(head)), any_action]
            redrawn = np.where(kept, any_action, pick_allowed(allowed, uniform[:, 2]))
            proposed = np.where(exploring, any_action, proposed)
            action = np.where(exploring, redrawn, action)
        explored = action != best_action
        propensity = self.epsilon / np.add.reduce(allowed, axis=1) + np.where(explored, 0.0, 1.0 - self.epsilon)
        return Draw(proposed=proposed, action=action, propensity=propensity, explored=explored)

    def choose(self, head: list[float], forbidden: int, digest: bytes) -> Choice:
        proposed = head.index(max(head))
        best_action = action = proposed if not forbidden >> proposed & 1 else best_of(head, forbidden)
        count = len(head) - forbidden.bit_count()
        coin, proposing, redrawing, _ = _BLOCK.unpack(digest)
        if (coin >> 11) * _STEP < self.epsilon:
            proposed = action = int((proposing >> 11) * _STEP * len(head))
            if forbidden >> action & 1:
                action = pick_permitted(forbidden, count, (redrawing >> 11) * _STEP)
        explored = action != best_action
        return Choice(proposed, action, self.epsilon / count + (0.0 if explored else 1.0 - self.epsilon), explored)


class Softmax(Explorer):
    """Each action with probability proportional to exp(head / temperature).

    With temperature 1 and logits this is the policy's own distribution.
    """

    kind: Literal["softmax"] = "softmax"
    compares: ClassVar[bool] = True
    temperature: Annotated[float, Field(gt=0)] = 1.0

    def bind(self, space: ActionSpace, squash: Squash) -> Draws:  # noqa: ARG002 - squashes are for a Box
        if isinstance(space, Discrete):
            return self.draw
        if isinstance(space, MultiDiscrete):
            return partial(Factors(space).softmax, self.temperature)
        raise unfit(self.kind, space.kind)

    def draw(self, head: Floats, allowed: Booleans, uniform: Floats) -> Draw:
        """Draw one of a list of actions."""
        rows = np.arange(len(head))
        proposed = pick(pmf_of(head, self.temperature), uniform[:, 1])
        within = pmf_of(np.where(allowed, head, -np.inf), self.temperature)
        kept = allowed[rows, proposed]
        action = proposed if kept.all() else np.where(kept, proposed, pick(within, uniform[:, 2]))
        # Keeping an allowed proposal and redrawing a masked one is the same as drawing from the renormalised rest.
        return Draw(
            proposed=proposed,
            action=action,
            propensity=within[rows, action],
            explored=action != best(head, allowed),
        )

    def choose(self, head: list[float], forbidden: int, digest: bytes) -> Choice:
        _, proposing, redrawing, _ = _BLOCK.unpack(digest)
        within = chances_of(head, self.temperature)
        proposed = action = pick_of(within, (proposing >> 11) * _STEP)
        if forbidden:
            left = [-math.inf if forbidden >> i & 1 else score for i, score in enumerate(head)]
            within = chances_of(left, self.temperature)
            if forbidden >> action & 1:
                action = pick_of(within, (redrawing >> 11) * _STEP)
        return Choice(proposed, action, within[action], action != best_of(head, forbidden))


class Normal(Explorer):
    """The policy's own normal numbers, with its std times ``scale``; ``noise`` is the std of more noise on top.

    ``noise`` is a share of each number's range, for policies that have no std of their own.
    """

    kind: Literal["gaussian"] = "gaussian"
    scale: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0

    def bind(self, space: ActionSpace, squash: Squash) -> Draws:
        if isinstance(space, Box):
            return Gaussian(space, squash, scale=self.scale, noise=self.noise).draw
        raise unfit(self.kind, space.kind)


GREEDY = Greedy()

AnyExplorer = Annotated[Greedy | EpsilonGreedy | Softmax | Normal, Field(discriminator="kind")]
