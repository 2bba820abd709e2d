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
from guards.boxes import EXACT
from guards.errors import GuardMisconfigured, InvalidOutput
from guards.projection import Region, scale_of
from guards.records import Action, Booleans, Floats
from service.decision.explore.choice import LEAST, MOST, PROJECTED, Acting, Choice, parts_of
from service.decision.explore.explorers import Greedy, Normal, uniforms
from service.log.records import Measure

_LOG_LEAST, _LOG_MOST = math.log(LEAST), math.log(MOST)
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
_LOG_2 = math.log(2)
# So near to a half-space's edge, as a share of what its numbers may add up to, is on it.
_EDGE = 1e-9
_quantile = NormalDist().inv_cdf


class Gaussian:
    """Normal numbers in the bounds of a Box, clipped to them or squashed into them."""

    def __init__(self, space: Box, squash: Squash, *, scale: float = 1.0, noise: float = 0.0) -> None:
        """``scale`` multiplies the policy's std; ``noise`` is the std of more, as a share of each range."""
        self._width = space.width
        self._low, self._high = np.array(space.low), np.array(space.high)
        # Halved first: the whole range may be more than a double can hold.
        with np.errstate(invalid="ignore"):  # of what has no bounds, only clips are asked for
            self._middle, self._half = self._low / 2 + self._high / 2, self._high / 2 - self._low / 2
        self._squashed = squash == "tanh"
        self._scale = scale
        self._noise = np.zeros(self._width) if noise == 0 else self._shares(noise)

    def greedy(self, head: Floats) -> Choice:
        """What the policy means by a head[2D], with certainty."""
        proposed = tuple(self.executed(head[: self._width]).tolist())
        return Choice(proposed, proposed)

    def draw(self, head: Floats, left: Region, uniform: list[float]) -> Choice:
        """Normal numbers around what the policy means, clipped to the bounds of what is left."""
        low, high = np.array(left.low), np.array(left.high)
        mean, std = head[: self._width], self._spread(head[self._width :])
        with np.errstate(all="ignore"):  # what is not finite is told by `beyond`, or refused by the shield
            sample = mean + std * normals(uniform[: self._width])
            proposed = self.executed(sample)
            logs = self._slopes(sample, mean, std) if self._squashed else _log_density(sample, mean, std)
            atoms = (std == 0) | (low >= high)
            logs[atoms] = 0.0
            for beyond, distance in self._ends(proposed, mean, low, high):
                ends = beyond & ~atoms
                logs[ends] = [_log_mass(x) for x in (distance / std)[ends].tolist()]
                atoms |= ends
            propensity, unsaid = _held(float(np.add.reduce(logs)))
        action = np.clip(proposed, low, high)
        explored = bool((action != np.clip(self.executed(mean), low, high)).any())
        drawn, done = tuple(proposed.tolist()), tuple(action.tolist())
        return Choice(drawn, done, propensity, explored, _measure(atoms), unsaid)

    def executed(self, sample: Floats) -> Floats:
        """The numbers[..., D] to execute, within their bounds whatever the rounding."""
        if self._squashed:
            sample = self._middle + self._half * np.tanh(sample)
        executed: Floats = np.clip(sample, self._low, self._high)
        return executed

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

    def _ends(self, proposed: Floats, mean: Floats, low: Floats, high: Floats) -> tuple[tuple[Booleans, Floats], ...]:
        """For each end, which numbers[D] are on it or beyond, and how far beyond it the mean is."""
        if not self._squashed:
            return (proposed <= low, low - mean), (proposed >= high, mean - high)
        # Nothing is squashed onto the bounds of the Box itself: there only rounding ends.
        at_low, at_high = (proposed <= low) & (low > self._low), (proposed >= high) & (high < self._high)
        return (at_low, self._unsquashed(low) - mean), (at_high, mean - self._unsquashed(high))

    def _unsquashed(self, number: Floats) -> Floats:
        """What is squashed into a number: atanh of where it stands in the range, in the form that keeps digits."""
        return 0.5 * np.log((number / 2 - self._low / 2) / (self._high / 2 - number / 2))

    def _slopes(self, sample: Floats, mean: Floats, std: Floats) -> Floats:
        """Logarithms[D] of squashed numbers' densities."""
        # 1 - tanh(u)^2 cancels where tanh is nearly 1; this form of its logarithm does not.
        slope = 2 * (_LOG_2 - sample - np.logaddexp(0.0, -2 * sample)) + np.log(self._half)
        density: Floats = _log_density(sample, mean, std) - slope
        return density


class BoxActing(Acting[Floats, Region]):
    """Numbers, moved to what is left."""

    def __init__(self, explorer: Greedy | Normal, space: Box, squash: Squash) -> None:
        super().__init__(explorer, 2 * space.width, space.width)
        self.squash = squash
        self.allowed = lambda _: []
        self._normal = isinstance(explorer, Normal)
        told = {"scale": explorer.scale, "noise": explorer.noise} if isinstance(explorer, Normal) else {}
        self._gaussian = Gaussian(space, squash, **told)
        self._box, self._scale = space, scale_of(space)

    def read(self, head: np.ndarray) -> Floats:
        """Finite numbers, and no std below zero."""
        if not np.isfinite(head).all() or (head[self._box.width :] < 0).any():
            raise InvalidOutput
        return head.astype(np.float64)

    def choosable(self, left: Region) -> bool:
        return left.bounded

    def choose(self, head: Floats, left: Region, digest: bytes, *, explores: bool) -> Choice:
        draws = explores and self._normal
        choice = self._gaussian.draw(head, left, uniforms(digest)) if draws else self._gaussian.greedy(head)
        if not all(map(math.isfinite, parts_of(choice.proposed))):
            return Choice()
        choice.action = self.placed(choice.proposed, left)
        if draws and left.most and choice.action is not None:
            # Of half-spaces a draw knows nothing: they may move it and the best to one point, or apart, so whether it
            # explores is seen after both were moved.
            best = self.placed(self._gaussian.greedy(head).proposed, left)
            far = np.abs(np.subtract(choice.action, np.nan if best is None else best))
            choice.explored = bool((far > EXACT * self._scale).any())
        return choice

    def placed(self, proposal: Action | None, left: Region) -> Action | None:
        return left.nearest(parts_of(proposal), self._scale)

    def measure(self, choice: Choice, left: Region) -> None:
        """Say how far the action of a row's source was moved, and whether a half-space moved it."""
        if choice.source == "last_resort" or choice.proposed is None or choice.action is None:
            return
        proposed, action = np.array(choice.proposed), np.array(choice.action)
        lost = False
        if choice.proposed != choice.action:
            with np.errstate(over="ignore"):
                far = np.hypot.reduce((action - proposed) / self._scale)
            choice.moved = float(np.minimum(far, MOST))
            # What was drawn on an edge by chance is also where draws from beyond it end.
            lost = bool((action != np.clip(proposed, left.low, left.high)).any())
        if left.most and not (choice.propensity == 1 and choice.measure == "mass"):
            lost = lost or self._edges(action, left)
        if lost:
            choice.lost = PROJECTED

    def _edges(self, action: Floats, left: Region) -> bool:
        """Whether an action lies on the edge of a half-space to which what is beyond it in the Box is moved.

        Nothing in the Box is beyond it there where it leans out of the Box at a bound that the action stands on.
        """
        slopes, most = np.array(left.slopes), np.array(left.most)
        with np.errstate(all="ignore"):
            beyond = np.add.reduce(slopes * action, axis=1) - most
            near = _EDGE * (np.add.reduce(np.abs(slopes) * self._scale, axis=1) + np.abs(most))
            tight = (np.abs(beyond) <= near) & (slopes != 0).any(axis=1)
        low, high = np.array(self._box.low), np.array(self._box.high)
        out = ((slopes > 0) & (action == high)) | ((slopes < 0) & (action == low))
        # Where several meet, they may move what one of them would not.
        return bool((tight & ~out.any(axis=1)).any() or np.count_nonzero(tight) > 1)


def normals(uniform: list[float]) -> Floats:
    """Standard normal numbers from uniform ones, one for one, each within 8.3 of zero.

    The uniform numbers' top 52 bits are moved by half a step: no number is 0 or 1, and they lie evenly around 1/2.
    """
    return np.array([_quantile((math.floor(one * 2.0**52) + 0.5) * 2.0**-52) for one in uniform])


def _log_density(sample: Floats, mean: Floats, std: Floats) -> Floats:
    residual = (sample - mean) / std
    logs: Floats = -0.5 * residual * residual - np.log(std) - _HALF_LOG_TAU
    return logs


def _log_mass(x: float) -> float:
    """The logarithm of the standard normal's mass below x."""
    return math.log(max(LEAST, 0.5 * math.erfc(-x / math.sqrt(2))))


def _measure(atoms: Booleans) -> Measure:
    """What the probability is of: of points, of a stretch, or of both in different numbers."""
    return "mass" if atoms.all() else "mixed" if atoms.any() else "density"


def _held(log: float) -> tuple[float, bool]:
    """A number from its logarithm, and whether no double can hold it."""
    # A NaN comes of infinities, which no head of float32 can make; it is not held either.
    if _LOG_LEAST <= log <= _LOG_MOST:
        return min(max(float(np.exp(log)), LEAST), MOST), False
    return MOST if log > 0 else LEAST, True
