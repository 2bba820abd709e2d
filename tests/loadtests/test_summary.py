"""What the bench makes of its measurements: medians, ratios of rounds, a table."""

from loadtests.summary import Measurement, Served, ratio, summary, table


def measured(server: str, number: int, rate: float, cpu: float, connections: int = 16) -> Measurement:
    """A run of one second."""
    return Measurement(
        server=server,
        connections=connections,
        round=number,
        requests=round(rate),
        seconds=1.0,
        cpu_us=cpu,
        beside_us=0.0,
        p50_ms=1.0,
        p99_ms=9.0,
    )


RUNS = [
    *(measured("a", number, 20_000, 30) for number in (1, 2, 3)),
    *(measured("b", number, rate, 150) for number, rate in ((1, 5_000), (2, 1_000), (3, 4_000))),
    *(measured("c", number, rate, cpu) for number, rate, cpu in ((1, 10_000, 60), (2, 9_000, 90), (3, 10_000, 45))),
]


def test_ratios_are_medians_over_paired_rounds() -> None:
    """Each round's own ratio counts: a round that was slow for both is no outlier."""
    assert ratio(RUNS, 16, "rate", "c", "b") == 2.5  # of 2, 9 and 2.5
    assert ratio(RUNS, 16, "cpu_us", "c", "a") == 2.0  # of 2, 3 and 1.5


def test_a_ratio_without_pairs_is_none() -> None:
    """Where one of the two was not measured, nothing is made up."""
    assert ratio(RUNS, 64, "rate", "c", "b") is None
    assert ratio([one for one in RUNS if one.server == "c"], 16, "rate", "c", "b") is None


def test_the_summary_has_medians_and_the_batch() -> None:
    """One row a server and number of connections; the mean batch is decisions by flights of the run alone."""
    served = Served(decisions=30_000, flights=7_000, fallbacks=40).since(Served(1_000, 1_000, 11))

    results = summary(RUNS, {16: served})

    assert [(one["server"], one["requests_per_second"]) for one in results["rows"]] == [
        ("a", 20_000),
        ("b", 4_000),
        ("c", 10_000),
    ]
    assert results["ratios"] == [
        {
            "connections": 16,
            "rate_c_by_b": 2.5,
            "cpu_c_by_a": 2.0,
            "cpu_c_by_b": 0.4,
            "mean_batch": 4.833,
            "fallback_share": 0.001,
        }
    ]
    assert len(results["measurements"]) == len(RUNS)


def test_the_table_shows_a_dash_for_what_was_not_measured() -> None:
    """Measuring one server alone is a table too."""
    shown = table(summary([measured("c", 1, 10_000, 60)], {}))

    assert "c act" in shown
    assert shown.splitlines()[-1].split() == ["16", "-", "-", "-", "-", "-"]
