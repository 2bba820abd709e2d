"""Metrics: the statistics as Prometheus reads it. The home of prometheus_client; nothing here counts."""

from collections import Counter
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
        stats = self._stats
        stats.catch_up()
        yield self._decisions()
        text = "Constraints that spoke, by what came of it"
        violations = CounterMetricFamily("actd_violations", text, labels=["policy", "constraint", "verdict"])
        for said, count in stats.violations.items():
            violations.add_metric([self._policy, said.constraint, said.verdict], count)
        yield violations
        for name, one in {
            "refused": ("Requests answered with an error", "code", stats.refused),
            "late_answers": ("Answers after their deadline, by who decided", "source", stats.late),
            "feedback": ("Feedback by how it was received", "status", stats.feedback),
            "out_of_range": ("Observed numbers outside their declared range", "field", stats.out_of_range),
        }.items():
            yield self._family(Labelled(name, *one, counts=True))
        yield CounterMetricFamily("actd_flights", "Batches decided", value=stats.batches)
        lacking = "Decisions whose record lacks a head or a memory that is too large to be logged"
        yield CounterMetricFamily("actd_not_replayable", lacking, value=stats.not_replayable)
        yield self._durations()
        for name, number in self._gauges().items():
            yield GaugeMetricFamily(f"actd_{name}", name.replace("_", " "), value=number)
        yield from map(self._family, self._labelled())

    def _family(self, told: Labelled) -> Metric:
        kind = CounterMetricFamily if told.counts else GaugeMetricFamily
        family = kind(f"actd_{told.name}", told.text, labels=["policy", told.label])
        for value, number in told.values.items():
            family.add_metric([self._policy, value], number)
        return family

    def _decisions(self) -> Metric:
        counts: Counter[tuple[str, ...]] = Counter()
        for values, count in self._stats.decisions.items():
            cell = Cell(*values)
            truths = [str(told).lower() for told in (cell.explored, cell.propensity_ok)]
            action = self._stats.label(cell.action)
            # Cells that differ in why a propensity is not ok have one sample.
            counts[cell.version, cell.track, cell.source, cell.reason or "", action, *truths] += count
        labels = ["policy", "version", "track", "source", "reason", "action", "explored", "propensity_ok"]
        family = CounterMetricFamily("actd_decisions", "Decisions made", labels=labels)
        for told, count in counts.items():
            family.add_metric([self._policy, *told], count)
        return family

    def _durations(self) -> Metric:
        family = HistogramMetricFamily(
            "actd_stage_seconds",
            "Time a decision took, by stage (total: from the request's arrival to its answer)",
            labels=["policy", "version", "stage"],
        )
        for (stage, version), histogram in self._stats.stages.items():
            counts = histogram.up_to_us([bound * 1e6 for bound in _BOUNDS_S])
            buckets = [(repr(bound), float(count)) for bound, count in zip(_BOUNDS_S, counts, strict=True)]
            buckets.append(("+Inf", float(histogram.count)))
            family.add_metric([self._policy, version, stage], buckets, sum_value=histogram.total_us / 1e6)
        return family
