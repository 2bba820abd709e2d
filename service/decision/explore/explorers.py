"""Explorers: how one of a list is drawn from a head, inside the shield, with the exact probability of what was drawn.

Every draw uses uniform numbers of its own: a coin, the proposal, and the second draw that replaces a proposal which a
constraint masks. With one number for both, a mask would change unmasked proposals too, and interventions without a
cause would be logged. How several lists are drawn from is in ``factors.py``, how the numbers of a Box in
``gaussian.py``.

A head of few numbers is a list, one of many an array. Both are the same arithmetic: exponentials are one contiguous
``np.exp`` a row, sums and cumulative sums are taken one after another. See docs/decisions/0006-plain-numbers.md.
"""

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from pydantic import Field

from guards.errors import InvalidOutput
from guards.records import Action, Booleans, Floats
from service.decision.explore.choice import IN_A_BLOCK, LEAST, Acting, Choice, Explorer, index_of
from service.log.records import Bits, listed

# Lists of up to so many numbers are worked out in plain numbers, longer ones by NumPy: which way, no machine decides.
NARROW: Final = 64
# What was left before may be left again: it need not be listed anew.
_REMEMBERED = 1024
# The top 53 bits of each 8 bytes are a uniform number, in steps of ``_STEP``.
_BLOCK = struct.Struct("<4Q")
_STEP = 2.0**-53

# A number for each of a list, or what is like it.
Numbers = list[float] | Floats


def uniforms(digest: bytes) -> list[float]:
    """Numbers in [0, 1) from blocks of 32 bytes, four from each: the top 53 bits of each 8, little-endian."""
    return [(bits >> 11) * _STEP for (bits,) in struct.iter_unpack("<Q", digest)]


class Chooser(Explorer, ABC):
    """Draws one of a list, or one of each of several."""

    # Whether it goes by how good each choice is, and not only by which is best.
    compares: ClassVar[bool] = False

    @abstractmethod
    def choose(self, head: Numbers, forbidden: int, digest: bytes) -> Choice:
        """Draw one of a list, some of which the bits forbid; one is left."""

    @abstractmethod
    def choose_each(self, heads: Sequence[Numbers], forbidden: Sequence[int], uniform: Sequence[float]) -> Choice:
        """Draw one of each of several lists; something is left of each.

        The draws are independent, and what was proposed is kept or drawn again as a whole. Of the uniform numbers the
        first is a coin, the next K are the proposal's and the K after them the second draw's.
        """


class Greedy(Chooser):
    """The best action; where it is masked, the next best allowed one by the policy's own ranking."""

    kind: Literal["greedy"] = "greedy"

    def choose(self, head: Numbers, forbidden: int, digest: bytes) -> Choice:  # noqa: ARG002 - nothing is random
        return Choice(top_of(head), best_of(head, forbidden))

    def choose_each(
        self,
        heads: Sequence[Numbers],
        forbidden: Sequence[int],
        uniform: Sequence[float],  # noqa: ARG002 - nothing is random
    ) -> Choice:
        return Choice(tuple(map(top_of, heads)), tuple(map(best_of, heads, forbidden)))


class EpsilonGreedy(Chooser):
    """With probability epsilon any action, all alike; otherwise the best."""

    kind: Literal["epsilon_greedy"] = "epsilon_greedy"
    epsilon: Annotated[float, Field(ge=0, le=1)]

    def choose(self, head: Numbers, forbidden: int, digest: bytes) -> Choice:
        proposed = top_of(head)
        best = action = best_of(head, forbidden) if forbidden >> proposed & 1 else proposed
        width = len(head)
        coin, proposing, redrawing, _ = _BLOCK.unpack(digest)
        if (coin >> 11) * _STEP < self.epsilon:
            proposed = action = int((proposing >> 11) * _STEP * width)
            if forbidden >> action & 1:
                action = pick_permitted(forbidden, width, (redrawing >> 11) * _STEP)
        explored = action != best
        share = self.epsilon / (width - forbidden.bit_count())
        return Choice(proposed, action, share + (0.0 if explored else 1.0 - self.epsilon), explored)

    def choose_each(self, heads: Sequence[Numbers], forbidden: Sequence[int], uniform: Sequence[float]) -> Choice:
        best, widths = tuple(map(best_of, heads, forbidden)), list(map(len, heads))
        proposed, action = tuple(map(top_of, heads)), best
        if uniform[0] < self.epsilon:
            proposed = action = tuple(int(u * width) for u, width in zip(uniform[1:], widths, strict=False))
            if _masked(action, forbidden):
                action = tuple(map(pick_permitted, forbidden, widths, uniform[1 + len(heads) :]))
        explored = action != best
        choices = math.prod(float(width - bits.bit_count()) for width, bits in zip(widths, forbidden, strict=True))
        return _held(proposed, action, self.epsilon / choices + (0.0 if explored else 1.0 - self.epsilon), explored)


class Softmax(Chooser):
    """Each action with probability proportional to exp(head / temperature).

    With temperature 1 and logits this is the policy's own distribution. Keeping an allowed proposal and drawing a
    masked one again is the same as drawing from the renormalised rest.
    """

    kind: Literal["softmax"] = "softmax"
    compares: ClassVar[bool] = True
    temperature: Annotated[float, Field(gt=0)] = 1.0

    def choose(self, head: Numbers, forbidden: int, digest: bytes) -> Choice:
        _, proposing, redrawing, _ = _BLOCK.unpack(digest)
        within = chances_of(head, 0, self.temperature)
        proposed = action = pick_of(within, (proposing >> 11) * _STEP)
        if forbidden:
            within = chances_of(head, forbidden, self.temperature)
            if forbidden >> action & 1:
                action = pick_of(within, (redrawing >> 11) * _STEP)
        return Choice(proposed, action, float(within[action]), action != best_of(head, forbidden))

    def choose_each(self, heads: Sequence[Numbers], forbidden: Sequence[int], uniform: Sequence[float]) -> Choice:
        free = within = [chances_of(head, 0, self.temperature) for head in heads]
        if any(forbidden):
            within = [chances_of(head, bits, self.temperature) for head, bits in zip(heads, forbidden, strict=True)]
        proposed = action = tuple(map(pick_of, free, uniform[1:]))
        if _masked(action, forbidden):
            action = tuple(map(pick_of, within, uniform[1 + len(heads) :]))
        propensity = math.prod(float(chances[one]) for chances, one in zip(within, action, strict=True))
        return _held(proposed, action, propensity, action != tuple(map(best_of, heads, forbidden)))


class Normal(Explorer):
    """The policy's own normal numbers, with its std times ``scale``; ``noise`` is the std of more noise on top.

    ``noise`` is a share of each number's range, for policies that have no std of their own.
    """

    kind: Literal["gaussian"] = "gaussian"
    scale: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0


def _masked(action: Sequence[int], forbidden: Sequence[int]) -> bool:
    """Whether any part of a whole action is forbidden."""
    return any(bits >> part & 1 for part, bits in zip(action, forbidden, strict=True))


def _held(proposed: tuple[int, ...], action: tuple[int, ...], propensity: float, explored: bool) -> Choice:
    """A draw whose probability is as small as a product of many is, but never zero."""
    return Choice(proposed, action, max(propensity, LEAST), explored, beyond=propensity < LEAST)


GREEDY = Greedy()

AnyExplorer = Annotated[Greedy | EpsilonGreedy | Softmax | Normal, Field(discriminator="kind")]


class ListActing(Acting[Numbers, int]):
    """One of a list of actions."""

    def __init__(self, explorer: Chooser, width: int, *, scores: bool = True) -> None:
        super().__init__(explorer, width, IN_A_BLOCK, ranks=scores)
        self._chooser = explorer
        self._all = (1 << width) - 1
        self.allowed = remembered((width,))

    def read(self, head: np.ndarray) -> Numbers:
        numbers = few(head, self.width)
        # Finite first: an arg-max over numbers with a NaN among them picks the NaN.
        if not finite(numbers) or not (self.ranks or chosen(numbers)):
            raise InvalidOutput
        return numbers

    def choosable(self, left: int) -> bool:
        return left != self._all

    def choose(self, head: Numbers, left: int, digest: bytes, *, explores: bool) -> Choice:
        return (self._chooser if explores else GREEDY).choose(head, left, digest)

    def placed(self, proposal: Action, left: int) -> Action | None:
        index = index_of(proposal)
        return proposal if 0 <= index < self.width and not left >> index & 1 else None


def few(head: np.ndarray, width: int) -> Numbers:
    """A head[W] of doubles, as a list where a list has ``width`` and that is few."""
    numbers: Numbers = head.tolist() if width <= NARROW else head.astype(np.float64)
    return numbers


def permitted(forbidden: int, width: int) -> Booleans:
    """The choices[W] that bits do not forbid."""
    raw = np.frombuffer(forbidden.to_bytes(-(-width // 8), "little"), dtype=np.uint8)
    return np.asarray(np.unpackbits(raw, count=width, bitorder="little") == 0)


def top_of(head: Numbers) -> int:
    """The best of all, of equals the first."""
    return head.index(max(head)) if isinstance(head, list) else int(head.argmax())


def best_of(head: Numbers, forbidden: int) -> int:
    """The best that the bits do not forbid; there is one."""
    best = top_of(head)
    if not forbidden >> best & 1:
        return best
    if not isinstance(head, list):
        return int(np.where(permitted(forbidden, len(head)), head, -np.inf).argmax())
    best, most = -1, -math.inf
    for i, score in enumerate(head):
        if score > most and not forbidden >> i & 1:
            best, most = i, score
    return best


def chances_of(head: Numbers, forbidden: int, temperature: float) -> Numbers:
    """Probabilities in proportion to exp(score / temperature), none of what the bits forbid.

    The largest score is taken away first, so that nothing overflows.
    """
    if isinstance(head, list):
        scores = head if not forbidden else [-math.inf if forbidden >> i & 1 else one for i, one in enumerate(head)]
        top, total = max(scores), 0.0
        weights: list[float] = np.exp(np.array([(score - top) / temperature for score in scores])).tolist()
        for weight in weights:
            total += weight
        return [weight / total for weight in weights]
    left = np.where(permitted(forbidden, len(head)), head, -np.inf) if forbidden else head
    with np.errstate(over="ignore"):  # far below the largest, a quotient may be minus infinity: that is zero
        exps = np.exp((left - left.max()) / temperature)
    return np.asarray(exps / exps.cumsum()[-1])


def pick_of(chances: Numbers, uniform: float) -> int:
    """Invert the cumulative distribution; never what has probability zero, whatever the rounding."""
    if not isinstance(chances, list):
        cumulative = chances.cumsum()
        reached = int(np.count_nonzero(cumulative <= uniform * cumulative[-1]))
        return min(reached, int(np.flatnonzero(chances)[-1]))
    total = 0.0
    for chance in chances:
        total += chance
    limit, so_far, reached, last = uniform * total, 0.0, 0, 0
    for i, chance in enumerate(chances):
        so_far += chance
        reached += so_far <= limit
        if chance > 0:
            last = i
    return min(reached, last)


def pick_permitted(forbidden: int, width: int, uniform: float) -> int:
    """One of those of ``width`` that the bits do not forbid, all alike."""
    rank = int(uniform * (width - forbidden.bit_count()))
    if width > NARROW:
        return int(np.flatnonzero(permitted(forbidden, width))[rank])
    left = ~forbidden
    for _ in range(rank):
        left &= left - 1
    return (left & -left).bit_length() - 1


def finite(numbers: Numbers) -> bool:
    """Whether all are."""
    return all(map(math.isfinite, numbers)) if isinstance(numbers, list) else bool(np.isfinite(numbers).all())


def chosen(numbers: Numbers) -> bool:
    """Whether they are a one among zeros: of anything else an arg-max would make an action that nobody chose."""
    return sorted(numbers) == [0.0] * (len(numbers) - 1) + [1.0]


def remembered(shape: tuple[int, ...]) -> Callable[[int], Bits]:
    """What a record says is allowed, which is remembered."""

    def told(forbidden: int) -> Bits:
        bits: Bits = listed(permitted(forbidden, int(np.prod(shape))).reshape(shape))  # type: ignore[assignment]  # truths
        return bits

    return lru_cache(_REMEMBERED)(told)
