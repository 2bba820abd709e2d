"""Draws that a constraint refuses afterwards: what is done then is not taken for what was drawn."""

from collections import Counter

import numpy as np
import pytest

from export.spec import Box, Field
from guards.abstention import AnyConstraint
from guards.baselines import Baseline, Constant
from guards.baselines.lookup import Hold
from guards.breaker import Breaker
from guards.constraints import Bounds, Budget, Linear, Rule
from service.decision.explore.choice import Explorer
from service.decision.explore.explorers import Greedy, Normal
from service.log.records import Decision, Refused
from service.versions.breakers import Breakers
from tests.acting import acting_behaviour
from tests.fakes import asked, batch_of, recorded

ROWS = 20_000
LINE = Box(fields=(Field(name="x", low=0, high=10),))
SQUARE = Box(fields=(Field(name="x", low=0, high=4), Field(name="y", low=0, high=4)))


def made(
    constraints: list[AnyConstraint],
    head: list[float],
    baseline: Baseline,
    *,
    space: Box = LINE,
    explorer: Explorer | None = None,
    rows: int = ROWS,
) -> list[Decision]:
    """Decisions of one state, each drawn for itself."""
    behaviour = acting_behaviour(space, explorer or Normal(), baseline, constraints=constraints)
    records = recorded(behaviour, batch_of([asked()] * rows), np.tile(np.array(head, dtype=np.float32), (rows, 1)))
    return [record for record in records if not isinstance(record, Refused)]


def honest(decisions: list[Decision]) -> None:
    """Whatever is executed at one point with a mass that is called ok is executed so often."""
    done = Counter(decision.action for decision in decisions)
    for action, count in done.items():
        told = {d.propensity for d in decisions if d.action == action and d.propensity_ok and d.measure == "mass"}
        for propensity in told:
            spread = np.sqrt(propensity * (1 - propensity) / len(decisions))
            assert abs(count / len(decisions) - propensity) <= 5 * spread + 1e-9, (action, propensity, count)


@pytest.mark.parametrize(
    ("constraint", "head", "baseline"),
    [
        (Rule(name="r", forbid="x > 2 and x < 5"), [3, 2], Constant(action=(0.0,))),
        (Rule(name="r", forbid="x > 2 and x < 5"), [3, 2.5], Constant(action=(3.0,), last_resort=(0.0,))),
        (Budget(name="b", cost="x", at_most=5, seconds=9), [3, 2.5], Hold(first=(0.0,))),
    ],
    ids=["baseline", "last resort", "budget"],
)
def test_what_is_done_instead_of_a_refused_draw_is_of_no_known_probability(
    constraint: AnyConstraint, head: list[float], baseline: Baseline
) -> None:
    """Neither where it is done for that, nor where the same was drawn; everything else has its own density."""
    decisions = made([constraint], head, baseline)

    honest(decisions)
    instead = [d for d in decisions if d.action == (0.0,)]
    assert {(d.propensity_ok, d.why_not_ok) for d in instead} == {(False, "NotListed")}
    assert {d.source for d in instead} > {"policy"}
    assert {d.reason for d in instead if d.source != "policy"} == {"NoSafeAction"}
    rest = [d for d in decisions if d.action != (0.0,)]
    assert len(rest) > ROWS / 10
    assert all(d.propensity_ok for d in rest)


def test_a_certain_draw_that_is_refused_has_a_certain_end() -> None:
    """Without chance everything is known: the baseline's answer has probability 1."""
    (one,) = made([Rule(name="r", forbid="x > 2")], [3, 2], Constant(action=(0.0,)), explorer=Greedy(), rows=1)

    assert (one.action, one.source, one.reason) == ((0.0,), "baseline", "NoSafeAction")
    assert (one.propensity, one.propensity_ok) == (1.0, True)


@pytest.mark.parametrize(("high", "slope", "most"), [(2, 1.0, 2.0), (1, 1.0, 1.0), (2, 2.0, 4.0)])
def test_where_draws_are_moved_to_a_mass_is_not_known(high: float, slope: float, most: float) -> None:
    """A corner of the bounds on the edge of a half-space is reached by clips and by projections."""
    constraints: list[AnyConstraint] = [
        Bounds(name="b", of="x", high=high),
        Linear(name="l", coefficients={"x": slope, "y": 1.0}, at_most=most),
    ]
    decisions = made(constraints, [1.5 * high, 0.3, high, 1], Constant(action=(0.0, 0.0)), space=SQUARE)

    honest(decisions)
    corner = [d for d in decisions if d.action == (high, 0.0)]
    assert len(corner) > ROWS / 10
    assert not any(d.propensity_ok for d in corner)
    assert sum(d.propensity_ok for d in decisions) > ROWS / 10


def test_a_certain_draw_on_an_edge_is_known() -> None:
    """Greedily nothing is moved there by chance."""
    linear = Linear(name="l", coefficients={"x": 1.0, "y": 1.0}, at_most=2)
    (one,) = made([linear], [2, 0, 1, 1], Constant(action=(0.0, 0.0)), space=SQUARE, explorer=Greedy(), rows=1)

    assert (one.action, one.moved, one.propensity, one.propensity_ok) == ((2.0, 0.0), None, 1.0, True)


def test_a_constraint_that_refuses_opens_no_breaker() -> None:
    """It works as it is meant to: one session in a bad place is no fault of the version."""
    breakers = Breakers(Breaker(), ["v"], lambda: 0.5, 0.0)
    behaviour = acting_behaviour(
        LINE, Greedy(), Constant(action=(0.0,)), constraints=[Rule(name="still", forbid="x > 2")]
    )

    for turn in range(12):
        records = recorded(behaviour, batch_of([asked()], seq=turn + 1), np.array([[5, 0]], dtype=np.float32))
        assert [record.reason for record in records] == ["NoSafeAction"]
        breakers.answered("v", [record.reason for record in records], float(turn))

    assert breakers.closed("v")
