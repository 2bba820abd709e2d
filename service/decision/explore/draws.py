"""Draws: what is drawn, and the pieces that drawing among actions is made of.

A list of few actions is drawn from in plain numbers, one row at a time; arrays are for all that is wider. Both are the
same arithmetic: exponentials are one contiguous ``np.exp`` a row, sums and cumulative sums are taken one after another.
See docs/decisions/0006-plain-numbers.md.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from guards.check import Violation
from guards.errors import GuardMisconfigured, PolicyUnavailable
from guards.records import Action, Actions, Allowed, Booleans, Floats, Integers
from service.log.records import DecisionSource, Measure

# Beyond these a double cannot hold a probability or a density as exactly as it holds others.
LEAST: Final = float(np.finfo(np.float64).tiny)
MOST: Final = float(np.finfo(np.float64).max)


class Choice(Struct, eq=False):
    """What is chosen for a row: what was proposed, what is done, with which probability, and whether that is another
    than the best allowed action. None stands for no action.

    ``measure`` says what the probability is of, which may be ``beyond`` what a double holds; ``moved`` is how far the
    constraints of a Box moved it. ``why`` is why the policy did not decide, ``doubted`` what is to be said of its
    answer. Nobody knows how probable it is for the reason in ``lost``.
    """

    proposed: Action | None = None
    action: Action | None = None
    propensity: float = 1.0
    explored: bool = False
    measure: Measure = "mass"
    beyond: bool = False
    source: DecisionSource = "policy"
    why: PolicyUnavailable | None = None
    doubted: list[Violation] = []
    moved: float | None = None
    lost: str | None = None


class Draw(Struct, frozen=True, eq=False):
    """The same of N rows, as arrays, of what is wide: the proposed action, the one to execute, the probability of that,
    and whether it is another than the best allowed one.

    ``measure`` is mass everywhere where it is empty; ``beyond`` has the rows whose probability no double can hold, and
    which stands at the nearest one that can (None: there are none).
    """

    proposed: Actions
    action: Actions
    propensity: Floats
    explored: Booleans
    measure: Sequence[Measure] = ()
    beyond: Booleans | None = None


# Draws one action a row: from head[N, H], what is allowed and uniform[N, U] numbers in [0, 1).
Draws = Callable[[Floats, Allowed, Floats], Draw]


def unfit(kind: str, space: str) -> GuardMisconfigured:
    """An explorer that cannot draw in an action space."""
    return GuardMisconfigured(f"kind: {kind!r} does not draw {space} actions, expected an explorer that does")


def best(head: Floats, allowed: Booleans) -> Integers:
    """The best allowed action of each row."""
    picked: Integers = np.where(allowed, head, -np.inf).argmax(axis=1)
    return picked


def pmf_of(scores: Floats, temperature: float) -> Floats:
    """Probabilities[N, A] in proportion to exp(scores / temperature).

    The largest score is taken away first, so that nothing overflows.
    """
    with np.errstate(over="ignore"):  # far below the largest, a quotient may be minus infinity: that is zero
        weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    pmf: Floats = weights / weights.cumsum(axis=1)[:, -1:]
    return pmf


def pick(pmf: Floats, uniform: Floats) -> Integers:
    """Invert the cumulative distribution[N, A]; never an action of probability zero, whatever the rounding."""
    cumulative = pmf.cumsum(axis=1)
    reached = cumulative <= (uniform * cumulative[:, -1])[:, None]
    last = pmf.shape[1] - 1 - (pmf[:, ::-1] > 0).argmax(axis=1)
    picked: Integers = np.minimum(reached.sum(axis=1), last)
    return picked


def pick_allowed(allowed: Booleans, uniform: Floats) -> Integers:
    """One of the allowed actions of each row, all alike."""
    rank = (uniform * allowed.sum(axis=1)).astype(np.int64)
    picked: Integers = (allowed.cumsum(axis=1) > rank[:, None]).argmax(axis=1)
    return picked


def best_of(head: Sequence[float], forbidden: int) -> int:
    """The best action of a row that its bits do not forbid; there is one."""
    top = head.index(max(head))
    if not forbidden >> top & 1:
        return top
    top, most = -1, -math.inf
    for i, score in enumerate(head):
        if score > most and not forbidden >> i & 1:
            top, most = i, score
    return top


def chances_of(scores: Sequence[float], temperature: float) -> list[float]:
    """Probabilities in proportion to exp(scores / temperature), as ``pmf_of`` has them."""
    top, total = max(scores), 0.0
    weights: list[float] = np.exp(np.array([(score - top) / temperature for score in scores])).tolist()
    for weight in weights:
        total += weight
    return [weight / total for weight in weights]


def pick_of(chances: Sequence[float], uniform: float) -> int:
    """Invert the cumulative distribution, as ``pick`` does."""
    limit, reached, last = uniform * sum_of(chances), 0, 0
    cumulative = 0.0
    for i, chance in enumerate(chances):
        cumulative += chance
        reached += cumulative <= limit
        if chance > 0:
            last = i
    return min(reached, last)


def sum_of(numbers: Iterable[float]) -> float:
    """A sum that is taken one after another, which Python's own is not."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def pick_permitted(forbidden: int, count: int, uniform: float) -> int:
    """One of the ``count`` actions that the bits do not forbid, all alike."""
    rank, at = int(uniform * count), 0
    while True:
        if not forbidden >> at & 1:
            if not rank:
                return at
            rank -= 1
        at += 1
