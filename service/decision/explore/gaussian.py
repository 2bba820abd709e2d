"""Gaussian: how the numbers of a Box are drawn, and the exact measure of what is executed.

A head is mean[D] and then std[D]. Without a squash a number is clip(mean + std z): on a bound it is an *atom*, whose
probability is the normal's mass beyond it, elsewhere it has the normal's density. With tanh it is the middle of its
range + half the range x tanh(u), u = mean + std z, and its density is that of u over the slope at u: worked out from u,
which the squashed number may not tell any more. A number whose std is 0 is an atom of mass 1.

Constraints may leave a row narrower bounds than the Box has. What is executed is clipped to them, and its measure is
exact: each of them is an atom whose probability is the normal's mass beyond it, beyond the number that is squashed into
it with tanh. A number whose bounds are the same has mass 1. What is proposed knows nothing of them.

Densities are in executed units. Everything is multiplied as sums of logarithms. One uniform number is used for each
number of the action.
"""

import math
from statistics import NormalDist

import numpy as np

from export.spec import Box, Squash
from guards.errors import GuardMisconfigured
from guards.projection import some
from guards.records import Allowed, Booleans, Floats
from service.decision.explore.draws import LEAST, MOST, Draw
from service.log.records import Measure

_LOG_LEAST, _LOG_MOST = math.log(LEAST), math.log(MOST)
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
_LOG_2 = math.log(2)
_quantile = NormalDist().inv_cdf


class Gaussian:
    """Normal numbers in the bounds of a Box, clipped to them or squashed into them."""

    def __init__(self, space: Box, squash: Squash, *, scale: float = 1.0, noise: float = 0.0) -> None:
        """``scale`` multiplies the policy's std; ``noise`` is the std of more, as a share of each range."""
        self.count = self.uniforms = space.width
        self._low, self._high = np.array(space.low), np.array(space.high)
        # Halved first: the whole range may be more than a double can hold.
        with np.errstate(invalid="ignore"):  # of what has no bounds, only clips are asked for
            self._middle, self._half = self._low / 2 + self._high / 2, self._high / 2 - self._low / 2
        self._squashed = squash == "tanh"
        self._scale = scale
        self._noise = np.zeros(self.count) if noise == 0 else self._shares(noise)

    def greedy(self, head: Floats, allowed: Allowed, uniform: Floats) -> Draw:  # noqa: ARG002 - nothing is random
        """What the policy means, with certainty."""
        proposed = self._executed(head[:, : self.count])
        action = np.clip(proposed, *self._bounds(allowed))
        return Draw(proposed, action, np.ones(len(head)), np.zeros(len(head), dtype=np.bool_))

    def draw(self, head: Floats, allowed: Allowed, uniform: Floats) -> Draw:
        """Normal numbers around what the policy means."""
        low, high = self._bounds(allowed)
        mean, std = head[:, : self.count], self._spread(head[:, self.count :])
        with np.errstate(all="ignore"):  # what is not finite is told by `beyond`, or refused by the shield
            sample = mean + std * normals(uniform[:, : self.count])
            proposed = self._executed(sample)
            logs = self._slopes(sample, mean, std) if self._squashed else _log_density(sample, mean, std)
            atoms = (std == 0) | (low >= high)
            logs[atoms] = 0.0
            for beyond, distance in self._ends(proposed, mean, low, high):
                ends = beyond & ~atoms
                logs[ends] = [_log_mass(x) for x in (distance / std)[ends].tolist()]
                atoms |= ends
            propensity, unsaid = _held(np.add.reduce(logs, axis=1))
        action = np.clip(proposed, low, high)
        explored = some(action != np.clip(self._executed(mean), low, high))
        return Draw(proposed, action, propensity, explored, _measures(atoms), unsaid)

    def _bounds(self, allowed: Allowed) -> tuple[Floats, Floats]:
        """The bounds of the Box, or each row's own where constraints leave it others."""
        return (allowed[:, 0], allowed[:, 1]) if allowed.ndim > 2 else (self._low, self._high)

    def _shares(self, noise: float) -> Floats:
        if self._squashed:
            msg = f"noise: was {noise}, expected 0 for a policy whose actions are squashed: its own std explores"
            raise GuardMisconfigured(msg)
        if not np.isfinite(self._half).all():
            msg = f"noise: was {noise}, expected 0 where a number has no bounds: it is a share of the range"
            raise GuardMisconfigured(msg)
        shares: Floats = noise * self._half * 2
        return shares

    def _spread(self, std: Floats) -> Floats:
        """The std of what is drawn; none where there is only one number to execute."""
        with np.errstate(over="ignore", under="ignore"):
            spread = np.hypot(std * self._scale, self._noise)
        return np.where(self._low < self._high, spread, 0.0)

    def _executed(self, sample: Floats) -> Floats:
        """The numbers to execute, within their bounds whatever the rounding."""
        if self._squashed:
            sample = self._middle + self._half * np.tanh(sample)
        executed: Floats = np.clip(sample, self._low, self._high)
        return executed

    def _ends(self, proposed: Floats, mean: Floats, low: Floats, high: Floats) -> tuple[tuple[Booleans, Floats], ...]:
        """For each end, which numbers[N, D] are on it or beyond, and how far beyond it the mean is."""
        if not self._squashed:
            return (proposed <= low, low - mean), (proposed >= high, mean - high)
        # Nothing is squashed onto the bounds of the Box itself: there only rounding ends.
        at_low, at_high = (proposed <= low) & (low > self._low), (proposed >= high) & (high < self._high)
        return (at_low, self._unsquashed(low) - mean), (at_high, mean - self._unsquashed(high))

    def _unsquashed(self, number: Floats) -> Floats:
        """What is squashed into a number: atanh of where it stands in the range, in the form that keeps digits."""
        return 0.5 * np.log((number / 2 - self._low / 2) / (self._high / 2 - number / 2))

    def _slopes(self, sample: Floats, mean: Floats, std: Floats) -> Floats:
        """Logarithms[N, D] of squashed numbers' densities."""
        # 1 - tanh(u)^2 cancels where tanh is nearly 1; this form of its logarithm does not.
        slope = 2 * (_LOG_2 - sample - np.logaddexp(0.0, -2 * sample)) + np.log(self._half)
        density: Floats = _log_density(sample, mean, std) - slope
        return density


def normals(uniform: Floats) -> Floats:
    """Standard normal numbers from uniform ones, one for one, each within 8.3 of zero.

    The uniform numbers' top 52 bits are moved by half a step: no number is 0 or 1, and they lie evenly around 1/2.
    """
    between = (np.floor(uniform * 2.0**52) + 0.5) * 2.0**-52
    # One at a time: a number's value may not depend on how many are worked out together.
    return np.array([_quantile(p) for p in between.ravel().tolist()], dtype=np.float64).reshape(uniform.shape)


def _log_density(sample: Floats, mean: Floats, std: Floats) -> Floats:
    residual = (sample - mean) / std
    logs: Floats = -0.5 * residual * residual - np.log(std) - _HALF_LOG_TAU
    return logs


def _log_mass(x: float) -> float:
    """The logarithm of the standard normal's mass below x."""
    return math.log(max(LEAST, 0.5 * math.erfc(-x / math.sqrt(2))))


def _measures(atoms: Booleans) -> list[Measure]:
    """What each row's probability is of: of points, of a stretch, or of both in different numbers."""
    counts = np.add.reduce(atoms, axis=1).tolist()
    width = atoms.shape[1]
    return ["mass" if count == width else "mixed" if count else "density" for count in counts]


def _held(logs: Floats) -> tuple[Floats, Booleans]:
    """Numbers[N] from their logarithms, and the rows whose number no double can hold."""
    # A NaN comes of infinities, which no head of float32 can make; it is not held either.
    held = (logs >= _LOG_LEAST) & (logs <= _LOG_MOST)
    return np.where(held, np.clip(np.exp(logs), LEAST, MOST), np.where(logs > 0, MOST, LEAST)), ~held
