"""Statistics: what the observations looked like in training, and how far another one is from them."""

from collections.abc import Callable
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Constrained

from export.spec.recorded import Recorded
from export.spec.spaces import Frozen, ObservationSpace

PROBABILITIES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# Where the scores' quantiles are kept: the tail, and the largest score of all.
SCORE_PROBABILITIES: Final = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999, 1.0)
# What never changed in training has no std; then this share of its mean is taken for one, well above what rounding to
# float32 makes of it, and of what was always zero any other value is far away.
_LEAST_SHARE: Final = 1e-6
_LEAST_STD: Final = 1e-12
# Of observations with more numbers, such as images, there are none.
_MOST_NUMBERS: Final = 4096
_MOST: Final = float(np.finfo(np.float64).max)
Numbers = NDArray[np.float64]


class Statistics(Frozen):
    """What the observations looked like in training, per field: the reference for drift and novelty.

    ``quantiles[f][k]`` is field f's quantile at ``probabilities[k]``; ``source`` says where the sample came from.
    ``scores`` are the quantiles at ``SCORE_PROBABILITIES`` of these observations' own scores (see ``scoring``); an
    artefact of an earlier exporter has none.
    """

    count: Annotated[int, Constrained(ge=1)]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    probabilities: tuple[float, ...]
    quantiles: tuple[tuple[float, ...], ...]
    scores: tuple[float, ...] = ()
    source: str = ""

    def scoring(self) -> Callable[[Numbers], Numbers]:
        """Give what scores rows[N, F] -> [N]: each row's largest distance from a mean, in standard deviations."""
        mean = np.array(self.mean)
        unit = np.maximum(np.array(self.std), np.maximum(_LEAST_SHARE * np.abs(mean), _LEAST_STD))

        def score(rows: Numbers) -> Numbers:
            with np.errstate(over="ignore"):
                far = np.abs((rows - mean) / unit).max(axis=1, initial=0.0)
            return np.asarray(np.minimum(far, _MOST))

        return score

    def threshold(self, share: float) -> float:
        """Give the score that this share of the sample exceeds; raises ValueError where it cannot say.

        Between two of ``SCORE_PROBABILITIES`` the score is taken as linear in the logarithm of the share above it, as
        that of an exponential tail is; the largest score of all stands at a share of 1 / (count + 1).
        """
        if not self.scores:
            msg = "the training statistics have no scores, which a newer actd-export writes: export it again"
            raise ValueError(msg)
        if self.count < 1 / share:
            needed = int(np.ceil(1 / share))
            msg = f"the training statistics are of {self.count} observations, expected {needed} for {share:g}"
            raise ValueError(msg)
        beyond = [max(1 - at, 1 / (self.count + 1)) for at in SCORE_PROBABILITIES]
        return float(np.interp(-np.log(share), -np.log(beyond), self.scores))


def score_quantiles(scores: Numbers) -> tuple[float, ...]:
    """Give a sample's quantiles at ``SCORE_PROBABILITIES``: another score exceeds each with just that probability.

    That is ``weibull``'s definition, whatever the distribution; NumPy's default is met too often by others' scores.
    """
    return tuple(np.quantile(scores, SCORE_PROBABILITIES, method="weibull").tolist())


def statistics(recorded: Recorded, space: ObservationSpace) -> Statistics | None:
    """Summarise recorded observations number by number, flattened; None for images and other large arrays."""
    if space.size > _MOST_NUMBERS:
        return None
    parts = [recorded.inputs[port.name].reshape(len(recorded), -1) for port in space.inputs]
    rows = np.concatenate([part.astype(np.float64) for part in parts], axis=1)
    taken = Statistics(
        count=len(rows),
        mean=tuple(rows.mean(axis=0).tolist()),
        std=tuple(rows.std(axis=0).tolist()),
        probabilities=PROBABILITIES,
        quantiles=tuple(tuple(row) for row in np.quantile(rows, PROBABILITIES, axis=0).T.tolist()),
        source=recorded.origin,
    )
    return taken.model_copy(update={"scores": score_quantiles(taken.scoring()(rows))})
