"""Joint draws: whole actions are drawn inside what constraints that join factors leave."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.constraints import Constraint, Rule
from guards.errors import GuardMisconfigured
from guards.records import Booleans, Floats
from guards.shield import Violation
from service.decision.explore.acting import acting_of
from service.decision.explore.choice import Explorer
from service.decision.explore.explorers import EpsilonGreedy, Greedy, Normal, Softmax
from service.log.records import Decision, Packed, unlisted
from tests.acting import SWITCHES, acting_behaviour
from tests.fakes import asked, batch_of, recorded
from tests.service.decision.explore.drawing import drawn

EXPLORERS: dict[str, Explorer] = {
    "greedy": Greedy(),
    "epsilon_greedy": EpsilonGreedy(epsilon=0.3),
    "softmax": Softmax(temperature=0.7),
}
WHOLE = list(itertools.product(*(range(size) for size in SWITCHES.sizes)))
# The best of all, (on, closed, fast), is one that is forbidden.
HEAD = np.array([0.1, 1.0, 0.9, 0.8, 0.1, 0.3, -1.0, 1.4, 0.9], dtype=np.float32)
JOIN = Rule(name="join", forbid="pump == 'on' and fan == 'fast' or valve > fan and pump == 'off'")


def permitted(action: tuple[int, ...]) -> bool:
    """Whether the rule, read by hand, lets a whole action pass."""
    pump, valve, fan = action
    return not (pump == 1 and fan == 2) and not (valve > fan and pump == 0)


def chance(explorer: Explorer, head: Any, allowed: list[tuple[int, ...]], action: tuple[int, ...]) -> float:
    """The probability of a whole action, by the book."""
    parts = np.split(np.asarray(head, dtype=np.float64), [2, 5])
    scores = {a: sum(float(part[i]) for part, i in zip(parts, a, strict=True)) for a in allowed}
    top = max(scores.values())
    if isinstance(explorer, Softmax):
        weights = {a: float(np.exp((score - top) / explorer.temperature)) for a, score in scores.items()}
        return weights[action] / sum(weights.values())
    epsilon = explorer.epsilon if isinstance(explorer, EpsilonGreedy) else 0.0
    return epsilon / len(allowed) + (1 - epsilon) * (action == max(scores, key=lambda a: scores[a]))


@pytest.mark.parametrize("kind", EXPLORERS)
def test_a_draw_of_whole_actions_is_one_of_factors_where_nothing_joins_them(kind: str) -> None:
    """The same distribution: the best actions and all propensities agree."""
    rng = np.random.default_rng(4)
    joint = acting_of(EXPLORERS[kind], SWITCHES, "none", joint=True)
    apart = acting_of(EXPLORERS[kind], SWITCHES, "none")
    head = rng.choice(np.array([0.0, 1.0, -3.0, 5.0]), size=(400, 9))
    everything = np.ones((400, 24), dtype=np.bool_)

    made = drawn(joint, head, everything, rng.random((400, 4 * joint.blocks)))

    nothing = np.zeros((400, 8))
    best = drawn(apart, head, np.ones((400, 9), dtype=np.bool_), nothing, explores=False).action
    assert drawn(joint, head, everything, nothing, explores=False).action.tolist() == best.tolist()
    for row in range(400):
        done = tuple(made.action[row].tolist())
        if kind == "softmax":
            assert made.propensity[row] == pytest.approx(chance(EXPLORERS[kind], head[row], WHOLE, done), rel=1e-12)
        assert made.explored[row] == (list(done) != best[row].tolist())


def test_the_next_best_whole_action_is_done() -> None:
    """Of those that are left, the one of the greatest product of probabilities; the record says who masked what."""
    behaviour = acting_behaviour(SWITCHES, constraints=[JOIN])

    (record,) = recorded(behaviour, batch_of([asked()]), HEAD[None, :])

    assert isinstance(record, Decision)
    assert (record.proposed, record.action) == ((1, 0, 2), (1, 0, 3))
    assert record.violations == [Violation("join", "prevented")]


def test_what_is_left_is_logged_with_an_axis_for_each_factor() -> None:
    """It is no product, so the choices one by one would not say it."""
    (record,) = recorded(acting_behaviour(SWITCHES, constraints=[JOIN]), batch_of([asked()]), HEAD[None, :])

    assert isinstance(record, Decision)
    assert isinstance(record.allowed, Packed)
    allowed = unlisted(record.allowed, "bool")
    assert allowed.shape == (2, 3, 4)
    assert all(allowed[action] == permitted(action) for action in WHOLE)


def test_a_baseline_passes_the_same_constraints() -> None:
    """Where the policy's numbers are not finite; refused, nothing leaves."""
    rules: list[Constraint] = [JOIN, Rule(name="none", forbid="pump == 'off' and load > 9")]
    behaviour = acting_behaviour(SWITCHES, constraints=rules)
    broken = np.full((2, 9), np.nan, dtype=np.float32)

    records = recorded(behaviour, batch_of([asked(), asked(observation=(10.0, 0.0, 0.0))]), broken)

    assert [getattr(record, "action", None) for record in records] == [(0, 0, 0), None]
    assert {record.reason for record in records} == {"InvalidOutput"}


@pytest.mark.parametrize("kind", EXPLORERS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_extreme_heads_never_break_the_draw(kind: str, data: st.DataObject) -> None:
    """Whatever finite doubles a head has, the action is allowed and its probability a positive number."""
    numbers = st.floats(-1e6, 1e6) | st.sampled_from([5e-324, -1e-45, 0.0, 1e38, -1e38, 1.7e308, -1.7e308])
    head: Floats = np.array([data.draw(st.lists(numbers, min_size=9, max_size=9))])
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    allowed: Booleans = rng.random((1, 24)) < 0.3
    allowed[0, rng.integers(24)] = True
    acting = acting_of(EXPLORERS[kind], SWITCHES, "none", joint=True)

    made = drawn(acting, head, allowed, rng.random((1, 4)))

    assert allowed[0, WHOLE.index(tuple(made.action[0].tolist()))]
    assert 0 < made.propensity[0] <= 1


def test_an_explorer_of_numbers_does_not_fit() -> None:
    """At start, with the path of the setting."""
    with pytest.raises(GuardMisconfigured, match="kind: 'gaussian' does not draw multi_discrete actions"):
        acting_of(Normal(), SWITCHES, "none", joint=True)
