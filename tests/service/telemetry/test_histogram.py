"""The histogram: quantiles within 2 % of the truth, whatever the latencies look like."""

import numpy as np
import pytest

from service.telemetry.histogram import Histogram


def histogram_of(durations: np.ndarray) -> Histogram:
    """A histogram of these microseconds."""
    histogram = Histogram()
    for some in np.array_split(durations, 7):
        histogram.add_all(some)
    return histogram


@pytest.mark.parametrize(("median_us", "sigma"), [(60, 0.3), (2_000, 1.0), (100_000, 2.0), (5_000_000, 0.5)])
@pytest.mark.parametrize("q", [0.0, 0.01, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0])
def test_quantiles_are_numpy_s_within_two_percent(median_us: float, sigma: float, q: float) -> None:
    """Latencies are about lognormal: every quantile of 20,000 of them is near the exact one."""
    durations = (
        np.random.default_rng(7).lognormal(np.log(median_us), sigma, 20_000).astype(np.int64).clip(1, 2_000_000_000)
    )
    exact = float(np.quantile(durations, q, method="lower"))

    found = histogram_of(durations).quantile_us(q)

    assert found is not None
    assert abs(found - exact) <= max(0.02 * exact, 1.0)


def test_an_empty_histogram_has_no_quantile() -> None:
    """Nothing was counted, so nothing is said."""
    histogram = Histogram()

    assert histogram.quantile_us(0.5) is None
    assert histogram.up_to_us([100, 1e6]) == [0, 0]
    assert repr(histogram) == "<Histogram of 0, median None µs>"


def test_one_duration_is_every_quantile() -> None:
    """Of one, the smallest is the largest."""
    histogram = histogram_of(np.array([1234]))

    assert [histogram.quantile_us(q) for q in (0.0, 0.5, 1.0)] == pytest.approx([1234] * 3, rel=0.01)


def test_it_does_not_matter_how_durations_come() -> None:
    """One by one, all at once or in any order, with none among them: the histogram is the same."""
    durations = np.array([3, 1_000_000, 250, 250, 77])
    one, other = Histogram(), Histogram()
    one.add_all(durations)
    for us in durations[::-1]:
        other.add_all(np.array([us]))
        other.add_all(np.array([]))

    assert (one.count, one.total_us) == (other.count, other.total_us) == (5, 1_000_580)
    assert [one.quantile_us(q) for q in (0, 0.5, 1)] == [other.quantile_us(q) for q in (0, 0.5, 1)]


@pytest.mark.parametrize("us", [-5, 0, 1, 2_900_000_000, 10**15])
def test_extremes_have_a_bucket(us: int) -> None:
    """No time at all, a clock that was odd, and an hour: each is counted somewhere."""
    histogram = histogram_of(np.array([us]))

    assert histogram.count == 1
    assert histogram.quantile_us(1.0) is not None


def test_buckets_of_a_histogram_are_cumulative() -> None:
    """How many were at most each bound, within the histogram's 2 %."""
    durations = np.random.default_rng(3).lognormal(np.log(300), 1.0, 10_000).astype(np.int64).clip(1)
    bounds = [50.0, 100.0, 250.0, 1000.0, 1e6, 1e12]

    found = histogram_of(durations).up_to_us(bounds)

    for bound, count in zip(bounds, found, strict=True):
        assert (durations <= bound / 1.02).sum() <= count <= (durations <= bound * 1.02).sum()
    assert found == sorted(found)
    assert found[-1] == 10_000
