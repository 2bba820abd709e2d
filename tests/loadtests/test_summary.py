"""What the bench makes of its measurements: medians, ratios of rounds, a table."""

from loadtests.summary import Measurement, Served, more, ratio, summary, table


def measured(
    server: str, number: int, rate: float, cpu: float, p50: float = 1.0, *, explores: bool | None = None
) -> Measurement:
    """A run of one second."""
    return Measurement(
        server=server,
        connections=16,
        round=number,
        requests=round(rate),
        seconds=1.0,
        cpu_us=cpu,
        beside_us=0.0,
        p50_ms=p50,
        p99_ms=9.0 * p50,
        explores=explores,
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


def test_how_much_more_is_the_median_over_paired_rounds() -> None:
    """And not the difference of two medians, which here would be 3."""
    runs = [measured("a", n, 1, 1, p50) for n, p50 in ((1, 1.0), (2, 5.0), (3, 9.0))]
    runs += [measured("c", n, 1, 1, p50) for n, p50 in ((3, 10.0), (1, 2.0), (2, 8.0), (4, 99.0))]

    assert more(runs, 16, "p50_ms", "c", "a") == 1.0
    assert ratio(runs, 16, "p50_ms", "c", "a") == 1.6
    assert more(runs, 16, "p50_ms", "d", "a") is None


def test_the_summary_has_medians_and_the_batch() -> None:
    """One row a server and number of connections; the mean batch is decisions by flights of the run alone."""
    served = Served(decisions=30_000, flights=7_000, fallbacks=40).since(Served(1_000, 1_000, 11))

    results = summary(RUNS, {("c", 16): served})

    assert [(one["server"], one["requests_per_second"]) for one in results["rows"]] == [
        ("a", 20_000),
        ("b", 4_000),
        ("c", 10_000),
    ]
    assert [one["pair"] for one in results["ratios"]] == ["c/a", "c/b"]
    assert results["ratios"][1] == {
        "connections": 16,
        "pair": "c/b",
        "rate": 2.5,
        "cpu": 0.4,
        "p50": 1.0,
        "p99": 1.0,
        "p50_more_us": 0,
    }
    assert results["services"] == [
        {"connections": 16, "server": "c", "mean_batch": 4.833, "fallback_share": 0.001, "explored": None}
    ]
    assert len(results["measurements"]) == len(RUNS)


def test_a_fourth_server_is_compared_with_all() -> None:
    """Another commit stands beside this one, and beside the two that both are measured by."""
    runs = [*RUNS, *(measured("d", n, 5_000, 120, 3.0, explores=n != 2) for n in (1, 2, 3))]

    results = summary(runs, {("d", 16): Served(9, 3, 0)})

    pairs = {one["pair"]: one for one in results["ratios"]}
    assert list(pairs) == ["c/a", "c/b", "c/d", "d/a", "d/b"]
    assert pairs["c/d"]["rate"] == 2.0
    assert pairs["d/a"]["cpu"] == 4.0
    assert pairs["d/b"]["p50_more_us"] == 2000
    assert results["services"][0]["explored"] == 2 / 3
    assert "against" in table(results)


def test_the_table_shows_a_dash_for_what_was_not_counted() -> None:
    """Measuring one server alone is a table too."""
    shown = table(summary([measured("c", 1, 10_000, 60)], {("c", 16): Served(0, 0, 0)}))

    assert "c act" in shown
    assert "c/a" not in shown
    assert shown.splitlines()[-1].split() == ["16", "c", "-", "-", "-"]
