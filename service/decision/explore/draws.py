"""Draws: what is drawn for a batch, and the pieces that drawing among actions is made of."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from guards.errors import GuardMisconfigured
from guards.records import Actions, Allowed, Booleans, Floats, Integers
from service.log.records import Measure

# Beyond these a double cannot hold a probability or a density as exactly as it holds others.
LEAST: Final = float(np.finfo(np.float64).tiny)
MOST: Final = float(np.finfo(np.float64).max)


class Draw(Struct, frozen=True, eq=False):
    """For each of N rows: the proposed action, the one to execute, the probability of executing it, and whether it is
    another than the best allowed one.

    ``measure`` says what the probability is of (empty: mass everywhere); ``beyond`` has the rows whose probability no
    double can hold, and which stands at the nearest one that can (None: there are none).
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
    pmf: Floats = weights / weights.sum(axis=1, keepdims=True)
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
