"""Actions that a file draws itself, held against the head that was found behind them: they have to be its samples."""

import math

import numpy as np
from numpy.typing import NDArray

from export.adopt.graph import Plan
from export.adopt.probe import questions
from export.adopt.reference import Reference
from export.errors import AdoptionRefused
from export.meaning import Arrays
from export.questions import sizes_of
from export.spec import Box

_ROWS = 2000
# A right head is refused once in a hundred million files.
_SIGMAS = 6.0
# Half of all normal numbers are nearer to their mean than this many standard deviations.
_HALF = 0.67449


def refuse_other_samples(plan: Plan, reference: Reference) -> None:
    """Refuse a head that the file's own draws, 2,000 of them, are not samples of."""
    asked = questions(plan.meaning, _ROWS)
    drawn = reference.raw(asked, (plan.reading.drawn,))[plan.reading.drawn].reshape(_ROWS, -1)
    head = reference(asked)
    space = plan.meaning.action
    found = _normal(plan, space, head, drawn) if isinstance(space, Box) else _choices(plan, head, drawn)
    if found > _SIGMAS:
        msg = (
            f"the output {plan.reading.drawn!r} is not drawn from the head that was found behind it: "
            f"its draws are {found:.0f} standard errors off, expected at most {_SIGMAS:g}"
        )
        raise AdoptionRefused(msg)


def _choices(plan: Plan, head: Arrays, drawn: NDArray[np.generic]) -> float:
    """Compare how often each choice was drawn with how often it should have been, in standard errors."""
    worst, start = 0.0, 0
    logits = head[plan.meaning.head].astype(np.float64)
    for at, size in enumerate(sizes_of(plan.meaning)):
        part = logits[:, start : start + size]
        start += size
        shares = np.exp(part - part.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        seen = drawn[:, at].astype(np.int64)[:, np.newaxis] == np.arange(size)
        error = np.sqrt((shares * (1 - shares)).sum(axis=0)) + 1.0
        worst = max(worst, float((np.abs((seen - shares).sum(axis=0)) / error).max()))
    return worst


def _normal(plan: Plan, space: Box, head: Arrays, drawn: NDArray[np.generic]) -> float:
    """Count draws above the mean and draws within the middle half, in standard errors, where nothing is clipped."""
    low, high = np.asarray(space.low), np.asarray(space.high)
    mean, std, value = (array.astype(np.float64) for array in (head["mean"], head["std"], drawn))
    if plan.meaning.squash == "tanh":
        value = np.arctanh(np.clip((value - low) / (high - low) * 2 - 1, -1 + 1e-12, 1 - 1e-12))
        low, high = np.full_like(low, -np.inf), np.full_like(high, np.inf)
    clear = (mean - std > low) & (mean + std < high)
    if not clear.any():
        return 0.0
    z = ((value - mean) / std)[clear]
    halves = (z > 0).mean() - 0.5, (np.abs(z) < _HALF).mean() - 0.5
    return float(max(abs(half) for half in halves) / math.sqrt(0.25 / len(z)))
