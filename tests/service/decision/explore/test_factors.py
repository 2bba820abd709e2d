"""Factors: whole actions are drawn inside the mask, as often as their propensity says, and one draw is one decision."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.spec import Factor, MultiDiscrete
from guards.errors import GuardMisconfigured
from guards.records import Booleans, Floats
from service.decision.explore.acting import acting_of
from service.decision.explore.choice import LEAST, Explorer
from service.decision.explore.explorers import EpsilonGreedy, Greedy, Normal, Softmax
from service.log.ids import Key
from service.log.records import Decision
from tests.acting import SWITCHES, acting_behaviour
from tests.fakes import asked, batch_of, recorded
from tests.service.decision.explore.drawing import drawn, of_list

EXPLORERS: dict[str, Explorer] = {
    "greedy": Greedy(),
    "epsilon_greedy": EpsilonGreedy(epsilon=0.3),
    "softmax": Softmax(temperature=0.7),
}
SIZES = SWITCHES.sizes
ACTIONS = list(itertools.product(*(range(size) for size in SIZES)))
# The best of the first and the last factor is masked.
HEAD = np.array([1.0, 0.2, -0.5, 0.8, 0.1, 0.3, -1.0, 1.4, 0.9], dtype=np.float32)
MASK = [False, True, True, True, False, True, True, False, True]
BATCH = 2000
# What two blocks give; a draw takes seven.
UNIFORMS = 8


def parts(values: Any) -> list[Any]:
    """A row factor by factor."""
    ends = np.cumsum(SIZES)[:-1]
    return np.split(np.array(values), ends)


def chance(explorer: Explorer, head: Any, mask: Any, action: tuple[int, ...]) -> float:
    """The probability of a whole action, worked out by the book from the joint distribution over all of them."""
    heads, masks = parts(np.asarray(head, dtype=np.float64)), parts(mask)
    allowed = [a for a in ACTIONS if all(m[i] for m, i in zip(masks, a, strict=True))]
    if isinstance(explorer, Softmax):
        weights = {
            a: float(np.exp(sum(h[i] for h, i in zip(heads, a, strict=True)) / explorer.temperature)) for a in allowed
        }
        return weights.get(action, 0.0) / sum(weights.values())
    epsilon = explorer.epsilon if isinstance(explorer, EpsilonGreedy) else 0.0
    best = tuple(int(np.where(m, h, -np.inf).argmax()) for h, m in zip(heads, masks, strict=True))
    return (epsilon / len(allowed) if action in allowed else 0.0) + (1 - epsilon) * (action == best)


@pytest.mark.parametrize("kind", EXPLORERS)
def test_frequencies_are_propensities(kind: str) -> None:
    """In 100,000 masked decisions every whole action is as frequent as was logged, and interventions have a cause."""
    explorer, n = EXPLORERS[kind], 100_000
    behaviour = acting_behaviour(SWITCHES, explorer, key=Key(1, b"factors" * 5))
    rows, head = [asked(mask=MASK)] * BATCH, np.tile(HEAD, (BATCH, 1))
    counts: Counter[Any] = Counter()
    propensities: dict[Any, float] = {}
    for batch in range(n // BATCH):
        for record in recorded(behaviour, batch_of(rows, seq=1 + batch * BATCH), head):
            assert isinstance(record, Decision)
            counts[record.action] += 1
            assert propensities.setdefault(record.action, record.propensity) == record.propensity
            assert isinstance(record.proposed, tuple)
            permitted = all(part[int(i)] for part, i in zip(parts(MASK), record.proposed, strict=True))
            assert (record.proposed == record.action) == permitted == (not record.violations)

    for action in ACTIONS:
        expected = chance(explorer, HEAD, MASK, action)
        error = np.sqrt(n * expected * (1 - expected))
        assert abs(counts[action] - n * expected) <= 4.5 * error + 1e-6
        if action in propensities:
            assert propensities[action] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", EXPLORERS)
def test_random_draws_are_allowed_and_of_the_said_probability(kind: str) -> None:
    """Over random heads with ties and huge gaps, and random masks; a proposal that is allowed is kept."""
    rng, explorer = np.random.default_rng(4), EXPLORERS[kind]
    acting = acting_of(explorer, SWITCHES, "none")
    for _ in range(60):
        n = int(rng.integers(1, 20))
        head: Floats = rng.choice(np.array([0.0, 1.0, -3.0, 5.0]), size=(n, SWITCHES.width))
        allowed = masks(rng, n)

        made = drawn(acting, head, allowed, rng.random((n, UNIFORMS)))

        for row in range(n):
            done, meant = tuple(made.action[row].tolist()), tuple(made.proposed[row].tolist())
            permitted = all(m[i] for m, i in zip(parts(allowed[row]), meant, strict=True))
            assert (done == meant) == permitted
            assert made.propensity[row] == pytest.approx(chance(explorer, head[row], allowed[row], done), rel=1e-12)
            best = [
                np.where(m, h, -np.inf).argmax() for h, m in zip(parts(head[row]), parts(allowed[row]), strict=True)
            ]
            assert made.explored[row] == (list(done) != best)


def masks(rng: np.random.Generator, n: int) -> Booleans:
    """Random masks that leave every factor something."""
    allowed: Booleans = rng.random((n, SWITCHES.width)) < 0.5
    for start, size in zip((0, *np.cumsum(SIZES)[:-1]), SIZES, strict=True):
        allowed[np.arange(n), start + rng.integers(size, size=n)] = True
    return allowed


@pytest.mark.parametrize("kind", EXPLORERS)
def test_each_factor_is_drawn_as_a_list_of_its_own(kind: str) -> None:
    """Of one factor it is the same draw as of a list, to the last bit, of few choices and of many."""
    rng = np.random.default_rng(5)
    for width in (2, 9, 64, 130):
        head, uniform = rng.normal(size=(33, width)), rng.random((33, 4))
        allowed = rng.random(head.shape) < 0.6
        allowed[:, -1] = True

        factor = drawn(acting_of(EXPLORERS[kind], space_of((width,)), "none"), head, allowed, uniform)
        alone = of_list(EXPLORERS[kind], head, allowed, uniform)

        assert factor.action[:, 0].tolist() == alone.action.tolist()
        assert factor.proposed[:, 0].tolist() == alone.proposed.tolist()
        assert factor.propensity.tolist() == alone.propensity.tolist()
        assert factor.explored.tolist() == alone.explored.tolist()


def space_of(sizes: tuple[int, ...]) -> MultiDiscrete:
    """Factors of these sizes."""
    return MultiDiscrete(
        factors=tuple(Factor(name=f"f{i}", names=tuple(f"c{j}" for j in range(n))) for i, n in enumerate(sizes))
    )


def test_one_coin_is_thrown_for_the_whole_action() -> None:
    """All factors explore or none; the proposal and the second draw have numbers of their own."""
    acting = acting_of(EpsilonGreedy(epsilon=0.2), SWITCHES, "none")
    head, allowed = np.array([HEAD] * 3, dtype=np.float64), np.array([MASK] * 3)
    uniform = np.array(
        [
            [0.2, *[0.0] * 6],  # does not explore
            [0.1, 0.9, 0.4, 0.9, *[0.0] * 3],  # explores: (on, half, storm) is allowed, and kept
            [0.1, 0.1, 0.4, 0.9, 0.0, 0.9, 0.4],  # explores: off is not, so all factors are drawn again
        ]
    )

    made = drawn(acting, head, allowed, uniform)

    assert made.proposed.tolist() == [[0, 1, 2], [1, 1, 3], [0, 1, 3]]
    assert made.action.tolist() == [[1, 1, 3], [1, 1, 3], [1, 1, 1]]
    assert made.explored.tolist() == [False, False, True]
    # One choice, two, and three are left of the factors.
    np.testing.assert_allclose(made.propensity, [0.8 + 0.2 / 6, 0.8 + 0.2 / 6, 0.2 / 6])


@pytest.mark.parametrize("kind", EXPLORERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_extreme_heads_never_break_the_draw(kind: str, data: st.DataObject) -> None:
    """Whatever finite numbers a head has, the action is allowed and its probability a positive number."""
    numbers = st.floats(-1e6, 1e6) | st.sampled_from([1e-45, -1e-45, 0.0, 1e38, -1e38, 3.4e38, -3.4e38, 5e-324])
    row = data.draw(st.lists(numbers, min_size=9, max_size=9))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    allowed = masks(rng, 1)

    acting = acting_of(EXPLORERS[kind], SWITCHES, "none")
    made = drawn(acting, np.array([row]), allowed, rng.random((1, UNIFORMS)))

    assert all(m[i] for m, i in zip(parts(allowed[0]), made.action[0], strict=True))
    assert 0 < made.propensity[0] <= 1


@pytest.mark.parametrize("kind", ["epsilon_greedy", "softmax"])
def test_a_product_that_no_number_can_say_is_said_so(kind: str) -> None:
    """It is tiny and not zero, and its decision's propensity is not ok."""
    space = space_of((3,) * 700)
    explorer: Explorer = EpsilonGreedy(epsilon=1.0) if kind == "epsilon_greedy" else Softmax()

    (record,) = recorded(
        acting_behaviour(space, explorer), batch_of([asked()]), np.zeros((1, space.width), dtype=np.float32)
    )

    assert isinstance(record, Decision)
    assert (record.propensity, record.propensity_ok) == (LEAST, False)
    assert (record.why_not_ok, record.source, record.reason) == ("not_representable", "policy", None)


def test_an_explorer_of_numbers_does_not_fit() -> None:
    """At start, with the path of the setting."""
    with pytest.raises(GuardMisconfigured, match="kind: 'gaussian' does not draw multi_discrete actions"):
        acting_of(Normal(), SWITCHES, "none")
