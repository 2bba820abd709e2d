"""Traces are reproducible, plausible, and refuse files that are none."""

from pathlib import Path

import numpy as np
import pytest

from examples.autoscaler.traces import DAY, TraceError, generate, read_csv

REAL = Path(__file__).resolve().parents[3] / "shared" / "traces" / "worldcup98.csv"


def test_a_seed_gives_one_trace() -> None:
    """The generator is the only source of chance."""
    one, same, other = (generate(np.random.default_rng(seed), DAY, replica_rps=50.0).requests for seed in (1, 1, 2))

    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_generated_days_fit_the_largest_service() -> None:
    """Counts are whole and never more than 30 replicas can serve within their objective (but for Poisson noise)."""
    days = np.stack([generate(np.random.default_rng(seed), DAY, replica_rps=50.0).requests for seed in range(20)])

    assert (days == np.round(days)).all()
    assert days.min() >= 0
    assert days.max() < 0.87 * 30 * 50 * 60


def test_a_csv_is_scaled_by_its_peak(tmp_path: Path) -> None:
    """The busiest minute keeps the stated number of replicas busy, the rest follows in proportion."""
    file = tmp_path / "day.csv"
    file.write_text("minute,requests\n1998-06-08 00:00,50\n1998-06-08 00:01,200\n", encoding="utf-8")
    trace = read_csv(file, replica_rps=50.0, peak_replicas=10.0)

    assert trace.requests.tolist() == [7500.0, 30_000.0]
    assert (trace.name, trace.started_at) == ("day", 897264000.0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "not a table of minute,requests"),
        ("minute,requests\n", "not a table of minute,requests"),
        ("time,hits\n1,2\n", "not a table of minute,requests"),
        ("minute,requests\n1998-06-08 00:00,many\n", "not a table of minute,requests"),
        ("minute,requests\nyesterday,5\n", "not a table of minute,requests"),
        ("minute,requests\n1998-06-08 00:00\n", "not a table of minute,requests"),
        ("minute,requests\n1998-06-08 00:00,-5\n", "not counts"),
        ("minute,requests\n1998-06-08 00:00,nan\n", "not counts"),
        ("minute,requests\n1998-06-08 00:00,0\n", "not counts"),
    ],
)
def test_a_file_that_is_no_trace_is_a_sentence(tmp_path: Path, content: str, complaint: str) -> None:
    """The error names the file and what is wrong with it."""
    file = tmp_path / "bad.csv"
    file.write_text(content, encoding="utf-8")

    with pytest.raises(TraceError, match=complaint):
        read_csv(file, replica_rps=50.0)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    """So is a file that cannot be opened."""
    with pytest.raises(TraceError, match="No such file"):
        read_csv(tmp_path / "none.csv", replica_rps=50.0)


def test_the_real_trace_reads() -> None:
    """Ten days of June 1998, 20 replicas busy at the peak."""
    if not REAL.exists():
        pytest.skip(f"the World Cup trace is not at {REAL}")
    trace = read_csv(REAL, replica_rps=50.0)

    assert len(trace.requests) == 10 * DAY
    assert trace.requests.max() == pytest.approx(20 * 50 * 60)
