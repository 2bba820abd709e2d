"""The metrics: the statistics in Prometheus' words, in both of its formats."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_metrics

from guards.shield import Violation
from service.telemetry.metrics import Exposition, Labelled
from service.telemetry.stats import Cell, Stats
from tests.fakes import SCHEMA

OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"
FORMATS = [("text/plain", plain_metrics), (OPEN, open_metrics)]
AWKWARD = 'a "quoted"\\name\nof two lines {é}'


def stats_of(durations: np.ndarray) -> Stats:
    """Statistics with decisions of two kinds, a constraint with an awkward name, and these latencies (µs)."""
    stats = Stats(SCHEMA)
    stats.decisions = Counter(
        {
            tuple(Cell("v-1", "stable", "policy", None, 1, True, True, None)): 3,
            tuple(Cell("v-1", "stable", "baseline", "CheckFailed", 0, False, False, "CheckFailed")): 2,
        }
    )
    stats.violations = Counter({Violation(AWKWARD, "prevented"): 4})
    stats.refused, stats.feedback = Counter({"not_json": 1}), Counter({"late": 6})
    stats.stages["total", "v-1"].add_all(durations)
    stats.batches = 5
    return stats


def shown(stats: Stats, accept: str, gauges: Mapping[str, float] | None = None) -> tuple[bytes, str]:
    """The text and media type of their metrics."""
    return Exposition(stats, "demo", lambda: gauges or {}).text(accept)


@pytest.mark.parametrize(("accept", "parse"), FORMATS)
def test_decisions_have_their_labels(accept: str, parse: Any) -> None:
    """Names for actions, empty for no reason, truths in small letters."""
    text, media_type = shown(stats_of(np.array([100])), accept)
    family = next(family for family in parse(text.decode()) if family.name == "actd_decisions")
    found = {(s.labels["action"], s.labels["source"], s.labels["reason"]): s for s in family.samples}

    assert media_type.startswith(accept.partition(";")[0])
    assert {key: sample.value for key, sample in found.items()} == {
        ("up", "policy", ""): 3,
        ("hold", "baseline", "CheckFailed"): 2,
    }
    assert found["up", "policy", ""].labels["explored"] == "true"
    assert found["hold", "baseline", "CheckFailed"].labels["propensity_ok"] == "false"
    assert {sample.name for sample in family.samples} == {"actd_decisions_total"}


@pytest.mark.parametrize(("accept", "parse"), FORMATS)
def test_awkward_names_come_out_as_they_are(accept: str, parse: Any) -> None:
    """A constraint may be called what a label has to escape."""
    text, _ = shown(stats_of(np.array([100])), accept)
    family = next(family for family in parse(text.decode()) if family.name == "actd_violations")

    assert [(s.labels["constraint"], s.value) for s in family.samples] == [(AWKWARD, 4)]


@pytest.mark.parametrize(("accept", "parse"), FORMATS)
def test_latencies_are_a_histogram(accept: str, parse: Any) -> None:
    """Cumulative buckets in seconds that end with everything, and a sum."""
    durations = np.random.default_rng(1).lognormal(np.log(200), 1, 5000).astype(np.int64)
    text, _ = shown(stats_of(durations), accept)
    family = next(family for family in parse(text.decode()) if family.name == "actd_stage_seconds")
    buckets = {float(s.labels["le"]): s.value for s in family.samples if s.name.endswith("_bucket")}
    values = {s.name: s.value for s in family.samples if not s.name.endswith("_bucket")}

    assert list(buckets) == sorted(buckets)
    assert list(buckets.values()) == sorted(buckets.values())
    assert buckets[float("inf")] == values["actd_stage_seconds_count"] == 5000
    assert values["actd_stage_seconds_sum"] == pytest.approx(durations.sum() / 1e6)
    for bound in (0.0001, 0.001):
        assert (durations <= bound / 1.02 * 1e6).sum() <= buckets[bound] <= (durations <= bound * 1.02 * 1e6).sum()


@pytest.mark.parametrize(("accept", "parse"), FORMATS)
def test_no_sample_stands_twice(accept: str, parse: Any) -> None:
    """Each name with its labels is one number."""
    text, _ = shown(stats_of(np.array([1, 10, 1e9])), accept, {"sessions": 7})
    samples = [sample for family in parse(text.decode()) for sample in family.samples]
    keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples]

    assert len(keys) == len(set(keys))
    assert ("actd_sessions", ()) in keys


@pytest.mark.parametrize(("accept", "parse"), FORMATS)
@pytest.mark.parametrize("why", ["Unlogged", "Projected", None])
def test_why_a_propensity_is_not_ok_makes_no_sample_of_its_own(accept: str, parse: Any, why: str | None) -> None:
    """It is no label: decisions that differ in nothing else are one number, as where some of them are in no log."""
    stats = stats_of(np.array([100]))
    stats.decisions[tuple(Cell("v-1", "stable", "baseline", "CheckFailed", 0, False, False, why))] = 5
    text, _ = shown(stats, accept)
    family = next(family for family in parse(text.decode()) if family.name == "actd_decisions")

    assert [s.value for s in family.samples if s.labels["source"] == "baseline"] == [7]


@pytest.mark.parametrize(("accept", "parse"), FORMATS)
def test_nothing_counted_yet_is_no_fault(accept: str, parse: Any) -> None:
    """The families are announced, the counts begin with nothing."""
    text, _ = shown(Stats(SCHEMA), accept)
    families = {family.name: family for family in parse(text.decode())}

    assert families["actd_decisions"].samples == []
    assert [sample.value for sample in families["actd_flights"].samples] == [0]


@pytest.mark.parametrize(("accept", "parse"), FORMATS)
def test_what_cannot_be_replayed_is_counted(accept: str, parse: Any) -> None:
    """As in the report: decisions whose head or memory is too large to be logged."""
    stats = stats_of(np.array([100]))
    stats.not_replayable = 3
    samples = {s.name: s.value for family in parse(shown(stats, accept)[0].decode()) for s in family.samples}

    assert samples["actd_not_replayable_total"] == 3


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/html", "application/openmetrics-text;version=9.9", ";;q=,,", "\xff"]
)
def test_any_accept_header_has_an_answer(accept: str) -> None:
    """What is not known is answered in the plain format or the newest."""
    text, media_type = shown(stats_of(np.array([100])), accept)

    assert b"actd_decisions_total" in text
    assert media_type.startswith(("text/plain", "application/openmetrics-text"))


@pytest.mark.parametrize(("accept", "parse"), FORMATS)
def test_what_rungs_and_breakers_say_has_its_label(accept: str, parse: Any) -> None:
    """Values that are told apart by a name, and counts that are called so."""
    told = [
        Labelled("rung_last_success_timestamp_seconds", "When", "rung", {"baseline": 1.5e9}),
        Labelled("breaker_openings", "How often", "version", {"v-1": 3, "v-2": 0}, counts=True),
    ]
    text, _ = Exposition(Stats(SCHEMA), "demo", dict, lambda: told).text(accept)
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in parse(text.decode())
        for sample in family.samples
    }

    assert samples["actd_rung_last_success_timestamp_seconds", "demo", "baseline"] == 1.5e9
    assert samples["actd_breaker_openings_total", "demo", "v-1"] == 3
    assert samples["actd_breaker_openings_total", "demo", "v-2"] == 0
