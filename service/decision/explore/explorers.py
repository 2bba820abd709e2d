"""Explorers: how an action is drawn from a head, inside the shield, with the exact probability of what was drawn.

Every draw among actions uses uniform numbers of its own: a coin, the proposal, and the second draw that replaces a
proposal which a constraint masks. With one number for both, a mask would change unmasked proposals too, and
interventions without a cause would be logged. The draws of other spaces are in ``factors.py`` and ``gaussian.py``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from export.spec import ActionSpace, Box, Discrete, MultiDiscrete, Squash
from export.spec.spaces import Frozen
from guards.errors import GuardMisconfigured
from guards.records import Allowed, Booleans, Floats
from service.decision.explore.draws import Draw, Draws, best, pick, pick_allowed, pmf_of, unfit
from service.decision.explore.factors import Factors, Joint
from service.decision.explore.gaussian import Gaussian

_LITTLE = np.dtype("<u8")
_TOP = np.uint64(11)
# Uniform numbers in 32 bytes, which is what one hash gives.
_IN_A_BLOCK = 4


def uniforms(digests: bytes, blocks: int = 1) -> Floats:
    """Numbers[N, 4 * blocks] in [0, 1) from N times so many blocks of 32 bytes: the top 53 bits of each 8,
    little-endian."""
    bits = np.frombuffer(digests, dtype=_LITTLE).reshape(-1, _IN_A_BLOCK * blocks)
    uniform: Floats = np.multiply(bits >> _TOP, 2.0**-53, dtype=np.float64)
    return uniform


class Explorer(Frozen, ABC):
    """Draws actions; what it is in an action space, ``bind`` says."""

    kind: str
    # Whether it goes by how good each choice is, and not only by which is best.
    compares: ClassVar[bool] = False

    @abstractmethod
    def bind(self, space: ActionSpace, squash: Squash) -> Draws:
        """How it draws in a space, every row with at least one allowed action; raises GuardMisconfigured."""


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


@dataclass(frozen=True, slots=True)
class Acting:
    """An explorer in an action space, beside greed for the rows that may not explore.

    ``blocks`` of 32 random bytes are what a row's uniform numbers are made from; ``width`` is how many numbers a head
    has for it, and ``sound`` says of each of them whether something can be drawn from it. ``ranks`` says whether a head
    has a second best choice where the best one may not be done: of a chosen action, a one among zeros, it has none. The
    numbers of a Box need none, because they are moved.
    """

    explore: Draws
    greedy: Draws
    blocks: int
    width: int
    squash: Squash
    sound: Callable[[np.ndarray], np.ndarray]
    ranks: bool = True

    @classmethod
    def of(
        cls, explorer: Explorer, space: ActionSpace, squash: Squash, *, joint: bool = False, scores: bool = True
    ) -> "Acting":
        """Bind an explorer; raises GuardMisconfigured where it does not fit the space, or compares what has no scores.

        ``joint`` says that what is allowed of several factors is said of whole actions.
        """
        if explorer.compares and not scores:
            raise _uncomparable(explorer.kind)
        explore, greedy, numbers = explorer.bind(space, squash), GREEDY.bind(space, squash), _uniforms_of(space)
        if joint and isinstance(space, MultiDiscrete):
            whole, numbers = Joint(space), _IN_A_BLOCK
            explore, greedy = (whole.over(one.bind(whole.listed, squash)) for one in (explorer, GREEDY))
        return cls(
            explore=explore,
            greedy=greedy,
            blocks=-(-numbers // _IN_A_BLOCK),
            width=2 * space.width if isinstance(space, Box) else space.width,
            squash=squash,
            sound=_sound_of(space, scores=scores),
            ranks=scores or isinstance(space, Box),
        )

    def draw(self, exploring: Sequence[bool], head: Floats, allowed: Allowed, uniform: Floats) -> Draw:
        """Draw by the explorer in the rows[N] that may explore, greedily in the others."""
        if all(exploring):
            return self.explore(head, allowed, uniform)
        greedy = self.greedy(head, allowed, uniform)
        if not any(exploring):
            return greedy
        drawn = self.explore(head, allowed, uniform)
        chosen = np.array(exploring)
        rows = chosen.reshape(-1, *[1] * (drawn.action.ndim - 1))
        measures = zip(drawn.measure, exploring, strict=False)
        return Draw(
            proposed=np.where(rows, drawn.proposed, greedy.proposed),
            action=np.where(rows, drawn.action, greedy.action),
            propensity=np.where(chosen, drawn.propensity, greedy.propensity),
            explored=drawn.explored & chosen,
            measure=[measure if explores else "mass" for measure, explores in measures],
            beyond=None if drawn.beyond is None else drawn.beyond & chosen,
        )


def _uniforms_of(space: ActionSpace) -> int:
    """How many uniform numbers a draw in a space takes at most."""
    if isinstance(space, Discrete):
        return _IN_A_BLOCK
    return Factors(space).uniforms if isinstance(space, MultiDiscrete) else space.width


def _uncomparable(kind: str) -> GuardMisconfigured:
    """An explorer that goes by scores, beside a policy that has none."""
    told = "the policy has no scores, only the action that it chose"
    return GuardMisconfigured(f"kind: was {kind!r}, expected 'greedy' or 'epsilon_greedy': {told}")


def _sound_of(space: ActionSpace, *, scores: bool) -> Callable[[np.ndarray], np.ndarray]:
    """What says of a head's numbers whether something can be drawn from them."""
    if isinstance(space, Box):
        return _sound_gaussian
    return (
        np.isfinite
        if scores
        else partial(sound_choices, space.sizes if isinstance(space, MultiDiscrete) else (space.n,))
    )


def sound_choices(sizes: Sequence[int], head: np.ndarray) -> np.ndarray:
    """A one among zeros for each factor: of anything else an arg-max would make an action that nobody chose."""
    sound = np.isin(head, (0.0, 1.0))
    for end, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True):
        sound[:, end - size : end] &= (np.count_nonzero(head[:, end - size : end], axis=1) == 1)[:, None]
    return sound


def _sound_gaussian(head: np.ndarray) -> np.ndarray:
    """Finite numbers, and no std below zero."""
    sound: np.ndarray = np.isfinite(head)
    std = head.shape[1] // 2
    sound[:, std:] &= head[:, std:] >= 0
    return sound


GREEDY = Greedy()

AnyExplorer = Annotated[Greedy | EpsilonGreedy | Softmax | Normal, Field(discriminator="kind")]
