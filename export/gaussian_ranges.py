"""What the range of a Gaussian's numbers gives away: a tanh that comes twice, bounds without scale, a std of a std."""

import numpy as np
from numpy.typing import NDArray

from export.errors import HeadImplausible
from export.meaning import Meaning
from export.questions import Played
from export.spec import Box

# The most that a tanh of a tanh can be, and what its largest answers are, of which a few are enough.
_TWICE = float(np.tanh(1.0))
_NEAR = float(np.tanh(0.999))
_ROUNDING = 1e-6
_FEW = 3


def refuse_squashed_twice(meaning: Meaning, played: Played) -> None:
    """Refuse a tanh that people asked for where the source's numbers come from one already. Raises HeadImplausible.

    Then no action is ever beyond 0.76 of the way from the middle to a bound, and saturated ones are just there.
    """
    units = _units(meaning, played.outputs["action"]) if meaning.squashed else None
    if units is None or not _fills(units, _TWICE, _NEAR):
        return
    msg = (
        f"a tanh was asked for (squash), but in {len(units)} answers the source's own numbers are between -1 and 1 and "
        "reach both, as behind a tanh that it has already: leave squash out; where training brought these numbers to "
        "the action's bounds, have the source do that, or say unscale in a declaration"
    )
    raise HeadImplausible(msg)


def doubts(meaning: Meaning, played: Played) -> tuple[str, ...]:
    """Warn in a line each of what may be meant otherwise than it was said; nothing where the source itself says it."""
    if meaning.constant is None or not isinstance(meaning.action, Box):
        return ()
    found = []
    mean = played.outputs["mean"].reshape(len(played), -1).astype(np.float64)
    low, high = np.array(meaning.action.low), np.array(meaning.action.high)
    others = np.isfinite(low) & np.isfinite(high) & ~(np.isclose(low, -1.0) & np.isclose(high, 1.0))
    places = [at for at in np.flatnonzero(others) if not meaning.squashed and _fills(mean[:, at : at + 1], 1.0, 0.999)]
    if places:
        names = ", ".join(meaning.action.fields[at].name for at in places[:6])
        found.append(
            f"warning: the numbers of {names} are between -1 and 1 and reach both, as behind a tanh, but their bounds "
            "are others: where training brought them to the bounds, that has to be said (unscale in a declaration), or "
            "be done in the source"
        )
    if meaning.exponential and float(played.outputs["std"].min()) > 1.0 + _ROUNDING:
        found.append(
            "warning: the std is above 1 for every number and observation, as the exponential of a std is, and was "
            "said to be given as its logarithm: where it is given as it is, say of = 'std' or head = 'mean_std' "
            "(--head mean_std)"
        )
    return tuple(found)


def _units(meaning: Meaning, action: NDArray[np.generic]) -> NDArray[np.float64] | None:
    """Bring executed actions from their bounds to -1 and 1, ``[N, D]``; None where a bound is missing."""
    if not isinstance(meaning.action, Box):
        return None
    low, high = np.array(meaning.action.low), np.array(meaning.action.high)
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        return None
    units: NDArray[np.float64] = (action.reshape(len(action), -1).astype(np.float64) - low) / (high - low) * 2 - 1
    return units


def _fills(rows: NDArray[np.float64], most: float, near: float) -> bool:
    """Say whether numbers are never beyond +-``most``, and a few of them nearly there on either side."""
    within = bool((np.abs(rows) <= most + _ROUNDING).all())
    return within and int((rows >= near).sum()) >= _FEW and int((rows <= -near).sum()) >= _FEW
