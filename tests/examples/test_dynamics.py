"""The simulated service obeys its own bookkeeping."""

from dataclasses import replace

import numpy as np
import pytest

from examples.autoscaler.dynamics import (
    ACTION_NAMES,
    ACTIONS,
    FIELDS,
    Service,
    State,
    latency_ms,
    observation,
    scale,
    start,
    step,
    vector,
)

SERVICE = Service()


def test_every_request_is_served_dropped_or_waiting() -> None:
    """Over any run of minutes arrivals = served + dropped + growth of the queue, in overload too."""
    rng = np.random.default_rng(1)
    state = start(100.0, 4)
    arrived = served = dropped = 0.0
    for _ in range(500):
        state, outcome = step(state, int(rng.integers(-2, 3)), rng.uniform(0, 90_000), SERVICE)
        arrived, served, dropped = arrived + outcome.arrivals, served + outcome.served, dropped + outcome.dropped

    assert dropped > 0
    assert served + dropped + state.queue == pytest.approx(arrived)


def test_replicas_stay_within_the_limits() -> None:
    """No change, however large, leaves the limits, and the numbers of serving and starting replicas stay whole."""
    rng = np.random.default_rng(2)
    state = start(100.0, 4)
    seen = set()
    for _ in range(500):
        state, _ = step(state, int(rng.integers(-9, 10)), 6000.0, SERVICE)
        seen.add(state.replicas)

    assert min(seen) == SERVICE.min_replicas
    assert max(seen) == SERVICE.max_replicas


def test_a_replica_serves_after_its_start_up_delay_and_not_before() -> None:
    """Asked for at the start of minute one, a replica with 150 s of start-up serves from the middle of minute three."""
    state, ready = start(100.0, 4), []
    for change in (1, 0, 0):
        state, _ = step(state, change, 6000.0, SERVICE)
        ready.append((state.ready, len(state.starting)))

    assert ready == [(4, 1), (4, 1), (5, 0)]


def test_a_starting_replica_costs_as_much_as_one_that_serves() -> None:
    """Cost counts replicas from the moment they are asked for."""
    _, outcome = step(start(100.0, 4), 2, 6000.0, SERVICE)

    assert outcome.cost == pytest.approx(6 * SERVICE.price)


def test_scaling_down_gives_up_starting_replicas_first() -> None:
    """A replica that serves is kept while one that still starts can go; the newest goes first."""
    state = State(ready=4, starting=(30.0, 90.0), rates=(100.0,) * 6)

    assert scale(state, -1, SERVICE).starting == (30.0,)
    assert scale(state, -1, SERVICE).ready == 4
    assert (scale(state, -3, SERVICE).ready, scale(state, -3, SERVICE).starting) == (3, ())


def test_the_reward_is_minus_cost_minus_the_penalty_of_a_breach() -> None:
    """A calm minute costs its replicas alone; an overloaded one the penalty as well."""
    _, calm = step(start(100.0, 4), 0, 6000.0, SERVICE)
    _, overloaded = step(start(100.0, 4), 0, 60_000.0, SERVICE)

    assert (calm.breached, calm.reward) == (False, -calm.cost)
    assert (overloaded.breached, overloaded.reward) == (True, -overloaded.cost - SERVICE.penalty)


def test_latency_rises_with_load_and_backlog() -> None:
    """P95 grows with the load, from three mean service times upwards, and with every second of backlog."""
    latencies = [latency_ms(load, SERVICE) for load in np.linspace(0, 0.97, 50).tolist()]
    (calm, _), (behind, _) = (step(replace(start(100.0, 4), queue=queue), 0, 0.0, SERVICE) for queue in (0.0, 1200.0))

    assert latencies[0] == pytest.approx(240.0)
    assert latencies == sorted(latencies)
    assert behind.p95_ms - calm.p95_ms == pytest.approx(1000)  # of 6 s of work 1 s is left after the first substep


def test_the_same_minute_twice_is_the_same() -> None:
    """A step is a pure function: nothing of it depends on what ran before."""
    state = start(100.0, 4)

    assert step(state, 1, 7000.0, SERVICE) == step(state, 1, 7000.0, SERVICE)


def test_the_vector_is_the_named_observation_in_the_order_of_the_fields() -> None:
    """Names, order and bounds are those of FIELDS, and every name can stand in a rule."""
    named = observation(start(100.0, 4), SERVICE)

    assert list(named) == [field.name for field in FIELDS]
    assert all(field.low <= named[field.name] <= field.high for field in FIELDS)
    assert all(field.name.isidentifier() for field in FIELDS)
    assert vector(named).dtype == np.float32
    assert vector(named).tolist() == pytest.approx(list(named.values()))


def test_a_trend_points_where_the_arrivals_go() -> None:
    """Rates that rise by 10 requests per second every minute have a trend of 10 in units of the capacity."""
    state = State(ready=4, rates=(100.0, 110.0, 120.0, 130.0, 140.0, 150.0))
    named = observation(state, SERVICE)

    assert named["load_trend"] == pytest.approx(10 / 200)
    assert named["load_mean"] == pytest.approx(0.7)
    assert named["load"] == named["load_peak"] == pytest.approx(0.75)
    assert named["load_down_1"] == pytest.approx(140 / 150)


def test_actions_and_their_names_agree() -> None:
    """The name says the sign and the size of the change."""
    words = {-2: "scale_down_2", -1: "scale_down_1", 0: "hold", 1: "scale_up_1", 2: "scale_up_2"}

    assert tuple(words[change] for change in ACTIONS) == ACTION_NAMES
