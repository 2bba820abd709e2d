"""The statistics: every decision counted once, under labels from closed sets."""

from collections.abc import Sequence

import numpy as np
import pytest

from export.spec import Discrete, Field, Fields
from guards.records import History, Schema
from guards.shield import Violation
from service.decision.batch import Batch
from service.errors import DoesNotFit, NotJson
from service.log.records import Decision, Feedback, Refused
from service.telemetry.stats import STAGES, Cell, Stats
from tests.fakes import SCHEMA, FakeEngine, asked, batch_of

PLAIN = Decision(
    seq=1,
    ms=1,
    id="d",
    session="s",
    episode=None,
    step=0,
    at=0.0,
    observed_at=None,
    previous=None,
    track="stable",
    track_probability=1.0,
    version="v-1",
    digest="",
    observation=[],
    facts=None,
    mask=None,
    options=None,
    head=None,
    allowed=[],
    state=History(known=True, since=0.0),
    config="",
    explorer="greedy",
    key=1,
    proposed=0,
    action=0,
    propensity=1.0,
    measure="mass",
    propensity_ok=True,
    why_not_ok=None,
    source="policy",
    reason=None,
    violations=[],
    explored=False,
    generation=0,
    durations={"wait_us": 100},
    durability="journal",
)
REFUSED = Refused(seq=1, ms=1, session="s", at=0.0, observation=[], reason="NoSafeAction", violations=[])


def made(**changed: object) -> Decision:
    """A decision with something changed."""
    fields = {name: getattr(PLAIN, name) for name in PLAIN.__struct_fields__}
    return Decision(**{**fields, **changed})


def committed(
    records: Sequence[Decision | Refused],
    *,
    observation: Sequence[Sequence[float]] | None = None,
    feedback: Sequence[Feedback] = (),
    version: str = "v-1",
) -> Batch:
    """A batch of these records, whose requests arrived at 10 s."""
    requests, engine = [asked() for _ in records], FakeEngine([])
    engine.label = version
    rows = [[0.0] * 3] * len(records) if observation is None else observation
    return batch_of(
        requests,
        engine=engine,
        observation=np.array(rows),
        began=10.0001,
        infer_us=20,
        decide_us=300,
        journal_us=4,
        feedback=list(feedback),
        records=list(records),
    )


def stats_of(*batches: Batch, now: float = 10.5) -> Stats:
    """Statistics that have counted these batches."""
    stats = Stats(SCHEMA)
    for batch in batches:
        stats.committed(batch, now)
    stats.catch_up()
    return stats


def test_decisions_are_counted_by_their_labels() -> None:
    """Two of one kind and one of another are two and one."""
    fallback = made(source="baseline", reason="DeadlineExceeded", propensity_ok=False, why_not_ok="DeadlineExceeded")
    stats = stats_of(committed([PLAIN, PLAIN]), committed([fallback]))

    assert {Cell(*labels): count for labels, count in stats.decisions.items()} == {
        Cell("v-1", "stable", "policy", None, 0, False, True, None): 2,
        Cell("v-1", "stable", "baseline", "DeadlineExceeded", 0, False, False, "DeadlineExceeded"): 1,
    }
    assert repr(stats) == "<Stats 3 decisions in 2 batches, 0 to count>"


def test_violations_are_counted_by_constraint_and_verdict() -> None:
    """A decision may carry several."""
    one = made(violations=[Violation("a", "prevented"), Violation("b", "reported", "warn")])
    stats = stats_of(committed([one, PLAIN, one]))

    assert stats.violations == {Violation("a", "prevented"): 2, Violation("b", "reported", "warn"): 2}


@pytest.mark.parametrize("stage", STAGES)
def test_every_decision_is_in_every_stage(stage: str) -> None:
    """A stage that a batch went through together counts for each of its rows."""
    stats = stats_of(committed([PLAIN] * 3), committed([PLAIN]))
    expected = {"wait": 100, "infer": 20, "decide": 300, "journal": 4, "total": 500_000}[stage]
    histogram = stats.stages[stage, "v-1"]

    assert histogram.count == 4
    assert histogram.total_us == 4 * expected
    assert histogram.quantile_us(0.5) == pytest.approx(expected, rel=0.01)


def test_a_refused_row_is_no_decision() -> None:
    """It is counted as refused, and its time is nobody's latency."""
    stats = stats_of(committed([REFUSED, PLAIN]), committed([REFUSED]))

    assert stats.refused == {"no_safe_action": 2}
    assert stats.decisions.total() == 1
    assert {histogram.count for histogram in stats.stages.values()} == {1}


def test_refusals_are_counted_by_code() -> None:
    """What was answered with an error before it was decided."""
    stats = stats_of()
    for error in (NotJson("x"), DoesNotFit("y"), NotJson("z")):
        stats.refuse(error)

    assert stats.refused == {"not_json": 2, "does_not_fit": 1}


def test_feedback_that_came_along_is_counted() -> None:
    """Late or in time."""
    told = [Feedback(seq=1, ms=1, decision_id="d", at=0.0, late=late) for late in (True, False, False)]
    stats = stats_of(committed([PLAIN], feedback=told))

    assert stats.feedback == {"late": 1, "accepted": 2}


def test_numbers_out_of_their_range_are_counted_by_field() -> None:
    """A bound itself is inside; where no field declares any, nothing is compared."""
    space = Fields(fields=(Field(name="a", low=0, high=1), Field(name="b")))
    stats = Stats(Schema(observation=space, action=Discrete(names=("go",))))
    stats.committed(committed([PLAIN] * 4, observation=[[0, 9e9], [1, 0], [1.1, -9e9], [-0.1, 0]]), 0.0)
    stats.catch_up()
    unbounded = stats_of(committed([PLAIN], observation=[[9e9, 9e9, 9e9]]))

    assert stats.out_of_range == {"a": 2}
    assert unbounded.out_of_range == {}


def test_versions_are_told_apart() -> None:
    """Each has latencies of its own."""
    stats = stats_of(committed([PLAIN]), committed([made(version="v-2")] * 2, version="v-2"))

    assert [stats.stages["total", version].count for version in ("v-1", "v-2")] == [1, 2]


def test_many_batches_are_counted_without_being_asked() -> None:
    """The backlog is bounded: what nobody reads is counted all the same."""
    stats = Stats(SCHEMA)
    for _ in range(1000):
        stats.committed(committed([PLAIN]), 10.5)
    counted = stats.decisions.total()
    stats.catch_up()
    stats.catch_up()

    assert counted >= 500
    assert stats.decisions.total() == stats.batches == 1000
