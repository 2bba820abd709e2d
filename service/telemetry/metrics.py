"""Metrics: the statistics as Prometheus reads it. The home of prometheus_client; nothing here counts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from service.telemetry.stats import Cell, Stats

_BOUNDS_S = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Labelled(NamedTuple):
    """Numbers that are told apart by a label, from a closed set of values."""

    name: str
    text: str
    label: str
    values: Mapping[str, float]
    counts: bool = False


class Exposition(Collector):
    """Reads the statistics at each scrape."""

    def __init__(
        self,
        stats: Stats,
        policy: str,
        gauges: Callable[[], Mapping[str, float]],
        labelled: Callable[[], Sequence[Labelled]] = tuple,
    ) -> None:
        """``gauges`` gives values that are not counts, ``labelled`` more of both, by name without the prefix."""
        self._stats = stats
        self._policy = policy
        self._gauges = gauges
        self._labelled = labelled
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format that an Accept header asks for, and its media type."""
        encoder, media_type = choose_encoder(accept)
        return encoder(self._registry), media_type

    def collect(self) -> Iterator[Metric]:
        """Every metric of the data plane."""
        self._stats.catch_up()
        yield self._decisions()
        violations = CounterMetricFamily(
            "actd_violations", "Constraints that spoke, by what came of it", labels=["policy", "constraint", "verdict"]
        )
        for (constraint, verdict), count in list(self._stats.violations.items()):
            violations.add_metric([self._policy, constraint, verdict], count)
        yield violations
        for name, text, label, counts in (
            ("actd_refused", "Requests answered with an error", "code", self._stats.refused),
            (
                "actd_late_answers",
                "Answers after their deadline, by who decided",
                "source",
                self._stats.late,
            ),
            ("actd_feedback", "Feedback by how it was received", "status", self._stats.feedback),
            ("actd_out_of_range", "Observed numbers outside their declared range", "field", self._stats.out_of_range),
        ):
            family = CounterMetricFamily(name, text, labels=["policy", label])
            for value, count in list(counts.items()):
                family.add_metric([self._policy, value], count)
            yield family
        yield CounterMetricFamily("actd_flights", "Batches decided", value=self._stats.batches)
        lacking = "Decisions whose record lacks a head or a memory that is too large to be logged"
        yield CounterMetricFamily("actd_not_replayable", lacking, value=self._stats.not_replayable)
        yield self._durations()
        for name, number in self._gauges().items():
            yield GaugeMetricFamily(f"actd_{name}", name.replace("_", " "), value=number)
        for told in self._labelled():
            kind = CounterMetricFamily if told.counts else GaugeMetricFamily
            one = kind(f"actd_{told.name}", told.text, labels=["policy", told.label])
            for value, number in told.values.items():
                one.add_metric([self._policy, value], number)
            yield one

    def _decisions(self) -> Metric:
        labels = ["policy", "version", "track", "source", "reason", "action", "explored", "propensity_ok"]
        family = CounterMetricFamily("actd_decisions", "Decisions made", labels=labels)
        for values, count in list(self._stats.decisions.items()):
            cell = Cell(*values)
            family.add_metric(
                [
                    self._policy,
                    cell.version,
                    cell.track,
                    cell.source,
                    cell.reason or "",
                    self._stats.action_stats.label(cell.action),
                    str(cell.explored).lower(),
                    str(cell.propensity_ok).lower(),
                ],
                count,
            )
        return family

    def _durations(self) -> Metric:
        family = HistogramMetricFamily(
            "actd_stage_seconds",
            "Time a decision took, by stage (total: from the request's arrival to its answer)",
            labels=["policy", "version", "stage"],
        )
        for (stage, version), histogram in list(self._stats.stages.items()):
            counts = histogram.up_to_us([bound * 1e6 for bound in _BOUNDS_S])
            buckets = [(repr(bound), float(count)) for bound, count in zip(_BOUNDS_S, counts, strict=True)]
            buckets.append(("+Inf", float(histogram.count)))
            family.add_metric([self._policy, version, stage], buckets, sum_value=histogram.total_us / 1e6)
        return family
