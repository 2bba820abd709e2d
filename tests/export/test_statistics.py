"""Statistics: how far an observation is from the training sample, and which scores are rare in it."""

from collections.abc import Callable

import numpy as np
import pytest

from export.spec import Field, Fields, Recorded, Statistics
from export.spec.statistics import PROBABILITIES, SCORE_PROBABILITIES, score_quantiles, statistics

Drawn = Callable[[np.random.Generator, int], np.ndarray]
PAIR = Fields(fields=(Field(name="a"), Field(name="b")))


def taken(rows: np.ndarray) -> Statistics:
    """The statistics of rows of two numbers."""
    found = statistics(Recorded(inputs={"obs": rows}), PAIR)
    assert found is not None
    return found


def test_statistics_are_those_of_numpy() -> None:
    """Count, mean, deviation and quantiles at fixed probabilities, per field."""
    rows = np.random.default_rng(0).normal([1, -2], [3, 0.1], (1000, 2)).astype(np.float32)

    found = statistics(Recorded(inputs={"obs": rows}, origin="x.npy"), PAIR)

    assert found is not None
    assert found.count == 1000
    assert found.probabilities == PROBABILITIES
    assert found.std == pytest.approx(rows.astype(np.float64).std(axis=0))
    assert found.quantiles[0] == pytest.approx(np.quantile(rows[:, 0].astype(np.float64), PROBABILITIES))


def test_the_score_is_the_largest_distance_from_a_mean() -> None:
    """In standard deviations, of whichever number is farthest out."""
    sample = taken(np.array([[0.0, 10.0], [2.0, 30.0]]))

    assert sample.scoring()(np.array([[1.0, 20.0], [3.0, 20.0], [1.0, -10.0], [2.0, 30.0]])).tolist() == [0, 2, 3, 1]


def test_what_never_changed_is_far_away_when_it_does() -> None:
    """But no further than rounding to float32 reaches."""
    sample = taken(np.tile([0.1, 0.0], (50, 1)).astype(np.float32))

    near, other, some = sample.scoring()(np.array([[0.1, 0.0], [0.1001, 0.0], [0.1, 1e-6]])).tolist()

    assert near < 1
    assert other > 100
    assert some > 1e5


def test_the_score_of_the_farthest_number_there_is_is_a_number() -> None:
    """The manifest is JSON, which knows no infinity."""
    sample = taken(np.tile([0.0, 0.0], (50, 1)))

    assert sample.scoring()(np.array([[1e308, 0.0]])).tolist() == [np.finfo(np.float64).max]


def test_a_sample_has_its_own_scores() -> None:
    """In ascending order, the last of them the largest."""
    rows = np.random.default_rng(5).normal(size=(2000, 2))

    sample = taken(rows)

    assert len(sample.scores) == len(SCORE_PROBABILITIES)
    assert list(sample.scores) == sorted(sample.scores)
    assert sample.scores[-1] == sample.scoring()(rows).max()
    assert sample.scores == score_quantiles(sample.scoring()(rows))


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.1, 1.0), (0.05, 2.0), (0.01, 4.0), (0.001, 7.0), (0.0001, 10.0), (1e-3 * 0.5**0.5, 7.5), (1e-5, 11.0)],
)
def test_the_threshold_stands_between_the_scores(share: float, expected: float) -> None:
    """On one where it is known, between two in proportion to the logarithm of the share."""
    scores = tuple(float(i) for i in range(1, 12))
    sample = taken(np.zeros((1, 2))).model_copy(update={"count": 10**5, "scores": scores})

    assert sample.threshold(share) == pytest.approx(expected, abs=1e-4)


def test_a_small_sample_knows_its_largest_score() -> None:
    """What one in a thousand exceeds is about the largest of a thousand."""
    sample = taken(np.random.default_rng(1).normal(size=(1000, 2)))

    assert sample.scores[3] < sample.threshold(0.001) <= sample.scores[-1]


def test_scores_have_to_be_there() -> None:
    """Those of an older exporter's artefact are not."""
    older = taken(np.zeros((5000, 2))).model_copy(update={"scores": ()})

    with pytest.raises(ValueError, match="export it again"):
        older.threshold(0.01)


def test_a_share_that_the_sample_is_too_small_for_is_refused() -> None:
    """Nobody knows what one in a thousand looks like who saw nine hundred."""
    sample = taken(np.random.default_rng(1).normal(size=(999, 2)))

    with pytest.raises(ValueError, match=r"of 999 observations, expected 1000 for 0\.001"):
        sample.threshold(0.001)


@pytest.mark.parametrize("share", [0.05, 0.03, 0.01, 0.002])
@pytest.mark.parametrize(
    "draw",
    [
        lambda random, n: random.normal([3.0, -100.0], [0.1, 30.0], (n, 2)),
        lambda random, n: random.exponential([1.0, 1e-6], (n, 2)),
        lambda random, n: random.lognormal(0, 1.5, (n, 2)),
    ],
    ids=["normal", "exponential", "lognormal"],
)
def test_false_alarms_come_as_often_as_stated(draw: Drawn, share: float) -> None:
    """On observations that the sample did not have, of whatever distribution, within four standard errors."""
    random = np.random.default_rng(11)
    seen, unseen = 20_000, 100_000
    sample = taken(draw(random, seen))

    alarms = np.mean(sample.scoring()(draw(random, unseen)) > sample.threshold(share))

    # The threshold is uncertain too: it was estimated from a sample of its own.
    error = np.sqrt(share * (1 - share) * (1 / seen + 1 / unseen))
    assert abs(alarms - share) < 4 * error
