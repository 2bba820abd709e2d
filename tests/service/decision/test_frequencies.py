"""Frequencies against propensities, under constraints with and without a history, of every explorer and space."""

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from guards.abstention import AnyConstraint
from guards.baselines import Constant
from guards.constraints import Budget, Cooldown, MaxSwitches, RateLimit, Rule
from guards.records import History, Schema
from service.decision.explore.choice import Explorer
from service.decision.explore.explorers import EpsilonGreedy, Greedy, Softmax
from service.decision.sessions import SessionState
from service.log.ids import Key
from service.log.records import Decision
from tests.acting import OBSERVATION, SWITCHES
from tests.fakes import NOW, SCHEMA, asked, batch_of, behaviour_of, recorded
from tests.judge import Event, Judge, Session

EXPLORERS: dict[str, Explorer] = {
    "greedy": Greedy(),
    "epsilon_greedy": EpsilonGreedy(epsilon=0.3),
    "softmax": Softmax(temperature=0.7),
}
SPACES: dict[str, Schema] = {"discrete": SCHEMA, "multi_discrete": Schema(OBSERVATION, SWITCHES, SCHEMA.facts)}
# Of what was done two seconds ago some may not be done again, and some may only be done again.
CONSTRAINTS: dict[str, list[AnyConstraint]] = {
    "discrete": [
        Rule(name="rule", forbid="action == 'drop' and load > 0"),
        Cooldown(name="cooldown", actions=("jump",), seconds=9),
        Budget(name="budget", cost="3 if action == 'rest' else 1", at_most=4.5, seconds=60),
        MaxSwitches(name="switches", at_most=3, seconds=60),
        RateLimit(name="rate", per_second=0.6, effect={"up": 1.0, "jump": 2.0}),
    ],
    "multi_discrete": [
        Rule(name="rule", forbid="pump == 'on' and fan == 'fast' or valve > fan and pump == 'off'"),
        Cooldown(name="cooldown", actions=("valve=open",), seconds=9),
        Budget(name="budget", cost="fan + (2 if pump == 'on' else 0)", at_most=7.5, seconds=60),
        RateLimit(name="rate", per_second=0.6, levels={f"fan={n}": i for i, n in enumerate(SWITCHES.factors[2].names)}),
    ],
}
DONE: dict[str, list[Any]] = {"discrete": [0, 3], "multi_discrete": [(0, 0, 2), (0, 2, 1)]}
# The best of all is forbidden in both.
HEADS: dict[str, list[float]] = {
    "discrete": [0.5, 0.9, 0.8, 2.0, 1.9, 1.8],
    "multi_discrete": [0.1, 1.0, 0.9, 0.8, 0.1, 0.3, -1.0, 1.4, 0.9],
}
MASKS: dict[str, list[bool]] = {"discrete": [True] * 5 + [False], "multi_discrete": [True] * 8 + [False]}
BATCH = 2000


def whole(space: str) -> list[Any]:
    """All actions of a space."""
    if space == "discrete":
        return list(range(len(SCHEMA.actions)))
    return list(itertools.product(*(range(size) for size in SWITCHES.sizes)))


def chance(explorer: Explorer, scores: Mapping[Any, float], action: Any) -> float:
    """The probability of an allowed action, by the book."""
    if isinstance(explorer, Softmax):
        weights = {a: float(np.exp(score / explorer.temperature)) for a, score in scores.items()}
        return float(weights[action] / sum(weights.values()))
    epsilon = explorer.epsilon if isinstance(explorer, EpsilonGreedy) else 0.0
    return epsilon / len(scores) + (1 - epsilon) * bool(action == max(scores, key=lambda a: scores[a]))


def frequencies(kind: str, space: str, draws: int) -> None:
    """Draw so often, and hold what was drawn against what was said of it, and against the judge."""
    schema, explorer, head, mask = SPACES[space], EXPLORERS[kind], HEADS[space], MASKS[space]
    behaviour = behaviour_of(
        CONSTRAINTS[space],
        schema=schema,
        explorer=explorer,
        baseline=Constant(action="hold" if space == "discrete" else (0, 0, 0)),
        key=Key(1, b"frequent" * 5),
    )
    judge, named = Judge(CONSTRAINTS[space], schema), {"load": 0.5, "lag": 0.0, "pods": 3.0}
    session, history = Session(), History(known=True, since=NOW - 9)
    for at, action in zip((NOW - 5, NOW - 2), DONE[space], strict=True):
        event = Event(at, action, named)
        budget = next(one for one in CONSTRAINTS[space] if isinstance(one, Budget))
        weights = [judge.value(budget.cost, session, event) if n == "budget" else 0.0 for n in keeping(space)]
        history = behaviour.shield.advanced(history, action, at, weights)
        judge.did(session, at, named, action)
    parts: list[Any] = [head] if space == "discrete" else np.split(np.array(head), np.cumsum(SWITCHES.sizes)[:-1])
    scores = {
        a: sum(float(part[i]) for part, i in zip(parts, a if isinstance(a, tuple) else (a,), strict=True))
        for a in whole(space)
        if not judge.unsafe(session, NOW, named, a) and permitted(a, mask)
    }
    assert 1 < len(scores) < len(whole(space)) - 1
    rows = [asked(mask=mask, entry=SessionState("before", "episode", history))] * BATCH
    heads = np.tile(np.array(head), (BATCH, 1))
    counts: Counter[Any] = Counter()
    propensities: dict[Any, float] = {}
    for batch in range(draws // BATCH):
        for record in recorded(behaviour, batch_of(rows, seq=1 + batch * BATCH), heads):
            assert isinstance(record, Decision)
            counts[record.action] += 1
            assert propensities.setdefault(record.action, record.propensity) == record.propensity
            assert (record.proposed == record.action) == (record.proposed in scores) == (not record.violations)

    assert set(counts) <= set(scores)
    for action in scores:
        expected = chance(explorer, scores, action)
        assert abs(counts[action] - draws * expected) <= 4.5 * np.sqrt(draws * expected * (1 - expected)) + 1e-6
        if action in propensities:
            assert propensities[action] == pytest.approx(expected, rel=1e-12)


def keeping(space: str) -> list[str]:
    """The constraints that keep numbers, in their order."""
    return [one.name for one in CONSTRAINTS[space] if isinstance(one, Budget | MaxSwitches | RateLimit)]


def permitted(action: Any, mask: list[bool]) -> bool:
    """Whether a request's mask leaves an action."""
    if isinstance(action, int):
        return mask[action]
    starts = np.cumsum((0, *SWITCHES.sizes[:-1])).tolist()
    return all(mask[start + i] for start, i in zip(starts, action, strict=True))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", EXPLORERS)
def test_frequencies_are_propensities(kind: str, space: str) -> None:
    """In 100,000 decisions that constraints, a mask and the past leave a few actions; interventions have a cause."""
    frequencies(kind, space, 100_000)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", EXPLORERS)
def test_frequencies_are_propensities_over_a_million_draws(kind: str, space: str) -> None:
    """The same with ten times as many."""
    frequencies(kind, space, 1_000_000)


@pytest.mark.parametrize(
    "draws", [10_000, pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", EXPLORERS)
def test_without_a_masking_constraint_there_is_no_intervention(kind: str, space: str, draws: int) -> None:
    """Constraints that report, whatever they find, and constraints that find nothing leave every proposal as it is."""
    reporting = [one.model_copy(update={"mode": "warn"}) for one in CONSTRAINTS[space]]
    constraints = [*reporting, Rule(name="never", forbid="load > 9")]
    baseline = Constant(action="hold" if space == "discrete" else (0, 0, 0))
    behaviour = behaviour_of(constraints, schema=SPACES[space], explorer=EXPLORERS[kind], baseline=baseline)
    heads, reported = np.tile(np.array(HEADS[space]), (BATCH, 1)), 0
    history = History(known=False, since=NOW - 1)
    for batch in range(draws // BATCH):
        rows = [asked(entry=SessionState("before", "episode", history))] * BATCH
        for record in recorded(behaviour, batch_of(rows, seq=1 + batch * BATCH), heads):
            assert isinstance(record, Decision)
            assert record.proposed == record.action
            assert {violation.verdict for violation in record.violations} <= {"reported"}
            reported += bool(record.violations)

    assert reported > 0
