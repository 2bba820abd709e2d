"""Explorers: what is drawn, with which probability, and that frequencies through the whole decision agree with it."""

from collections import Counter
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from guards.constraints import Cooldown, Rule
from guards.records import Booleans, Floats, History
from service.decision.explore.acting import acting_of
from service.decision.explore.choice import Explorer
from service.decision.explore.explorers import (
    NARROW,
    AnyExplorer,
    Chooser,
    EpsilonGreedy,
    Greedy,
    Softmax,
    chances_of,
    uniforms,
)
from service.decision.sessions import SessionState
from service.log.ids import Key
from service.log.records import Decision
from tests.fakes import NOW, SCHEMA, asked, batch_of, behaviour_of, recorded
from tests.service.decision.explore.drawing import digest_of, listed, of_list

parsed = TypeAdapter[Explorer](AnyExplorer).validate_python
KINDS = get_args(get_args(AnyExplorer)[0])
EXPLORERS: dict[str, Explorer] = {
    "greedy": Greedy(),
    "epsilon_greedy": EpsilonGreedy(epsilon=0.3),
    "softmax": Softmax(temperature=0.7),
}
BATCH = 2000
# Proposed, executed, its propensity, and the verdicts of the constraints.
Drawn = tuple[Any, Any, float, tuple[str, ...]]
# The best is masked, the next may not be used for a while, a rule is against the fourth; the last is rarely drawn. What
# is allowed lies so that one random number for a proposal and its replacement would give other frequencies.
HEAD = np.array([2.0, 0.2, 1.2, 0.9, 1.0, -6.0], dtype=np.float32)
ALLOWED = np.array([False, True, False, False, True, True])
CONSTRAINTS = (
    Rule(name="no jump", forbid="action == 'jump' and load < 1"),
    Cooldown(name="after down", actions=("down",), seconds=60),
    Rule(name="told", forbid="action == 'drop'", mode="warn"),
)


def unmasked(explorer: Explorer, head: Floats) -> Floats:
    """The behaviour distribution[A] of a head[A] before any mask, worked out by the book."""
    if isinstance(explorer, Softmax):
        weights = np.exp(head / explorer.temperature)
        return np.asarray(weights / weights.sum())
    epsilon = explorer.epsilon if isinstance(explorer, EpsilonGreedy) else 0.0
    behaviour = np.full(len(head), epsilon / len(head))
    behaviour[head.argmax()] += 1 - epsilon
    return behaviour


def executed(explorer: Explorer, head: Floats, allowed: Booleans) -> Floats:
    """The distribution[A] over what is executed, worked out by the book: each branch keeps to the allowed actions."""
    if isinstance(explorer, Softmax):
        weights = np.where(allowed, unmasked(explorer, head), 0)
        return np.asarray(weights / weights.sum())
    epsilon = explorer.epsilon if isinstance(explorer, EpsilonGreedy) else 0.0
    behaviour = np.where(allowed, epsilon / allowed.sum(), 0)
    behaviour[np.where(allowed, head, -np.inf).argmax()] += 1 - epsilon
    return behaviour


def together(explorer: Explorer, head: Floats, allowed: Booleans) -> Floats:
    """How probable each proposal[A] with each action[A] is: an allowed one is kept, a masked one replaced afresh."""
    behaviour, rest = unmasked(explorer, head), executed(explorer, head, allowed)
    table = np.diag(np.where(allowed, behaviour, 0))
    if isinstance(explorer, Softmax):
        table[~allowed] = behaviour[~allowed, None] * rest
        return np.asarray(table)
    epsilon = explorer.epsilon if isinstance(explorer, EpsilonGreedy) else 0.0
    table[~allowed] = epsilon / len(head) * allowed / allowed.sum()
    if not allowed[head.argmax()]:
        table[head.argmax(), rest.argmax()] += 1 - epsilon
    return np.asarray(table)


def drawn(explorer: Explorer, key: Key, batches: int) -> Counter[Drawn]:
    """What decisions of one observation, mask and history say, with how many of them say it."""
    mask = [action != "hold" for action in SCHEMA.actions]
    before = SessionState("before", "episode", History(known=True, since=NOW - 99, used={2: NOW - 5}))
    behaviour = behaviour_of(CONSTRAINTS, explorer=explorer, key=key)
    rows = [asked(mask=mask, entry=before)] * BATCH
    head = np.tile(HEAD, (BATCH, 1))
    found: Counter[Drawn] = Counter()
    for batch in range(batches):
        records = recorded(behaviour, batch_of(rows, seq=1 + batch * BATCH), head)
        made = [record for record in records if isinstance(record, Decision)]
        found.update((d.proposed, d.action, d.propensity, tuple(v.verdict for v in d.violations)) for d in made)
        assert len(made) == BATCH
        assert all(decision.allowed == ALLOWED.tolist() for decision in made)
    return found


def pooled(counts: Floats, expected: Floats) -> tuple[Floats, Floats]:
    """Counts and expectations with the cells that expect fewer than 25 put together into one."""
    rare = expected < 25
    if not rare.any():
        return counts, expected
    together = np.array([counts[rare].sum()]), np.array([expected[rare].sum()])
    return np.concatenate([counts[~rare], together[0]]), np.concatenate([expected[~rare], together[1]])


def assert_within_four_standard_errors(counts: Floats, probabilities: Floats, n: int) -> None:
    """Every cell's count is where a count of such a probability is, but for one time in 16,000."""
    found, expected = pooled(counts, probabilities * n)

    error = np.sqrt(expected * (1 - expected / n))
    assert (np.abs(found - expected) <= 4 * error + 1e-6).all(), (found, expected)


class TestEveryKind:
    """What every explorer of the union keeps to."""

    def test_every_kind_is_tested(self) -> None:
        """A new kind is tested the moment it exists."""
        kinds = {kind.model_fields["kind"].default for kind in KINDS}

        # Normal numbers are no choice among actions: `test_gaussian.py` has them.
        assert kinds == {*EXPLORERS, "gaussian"}

    @pytest.mark.parametrize("kind", EXPLORERS)
    def test_it_is_what_was_written(self, kind: str) -> None:
        """Nothing is lost or added between the file and the object."""
        assert parsed(EXPLORERS[kind].model_dump()) == EXPLORERS[kind]

    @pytest.mark.parametrize(
        "n", [200_000, pytest.param(2_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])]
    )
    @pytest.mark.parametrize("kind", EXPLORERS)
    def test_frequencies_are_propensities(self, kind: str, n: int) -> None:
        """In 200,000 decisions with a mask, a rule and a cooldown, every action is as frequent as was logged."""
        explorer = EXPLORERS[kind]
        found = drawn(explorer, Key(1, b"frequencies" * 3), n // BATCH)

        propensities = {action: propensity for _, action, propensity, _ in found}
        logged = np.array([propensities.get(action, 0.0) for action in range(6)])
        counts, pairs = np.zeros(6), np.zeros((6, 6))
        for (proposed, action, propensity, verdicts), count in found.items():
            assert propensity == logged[action]
            counts[action] += count
            # Every intervention has a cause: the proposal was masked, and somebody says so.
            assert proposed is not None
            assert (proposed != action) == (not ALLOWED[proposed]) == ("prevented" in verdicts)
            pairs[proposed, action] += count
        assert_within_four_standard_errors(counts, logged, n)
        head = HEAD.astype(np.float64)
        assert_within_four_standard_errors(pairs.ravel(), together(explorer, head, ALLOWED).ravel(), n)
        np.testing.assert_allclose(logged[counts > 0], executed(explorer, head, ALLOWED)[counts > 0])

    @pytest.mark.parametrize("kind", ["epsilon_greedy", "softmax"])
    def test_every_key_draws_from_the_same_distribution(self, kind: str) -> None:
        """The chi-squares of 20 keys add up to what 20 fair samples have, neither more nor less."""
        explorer = EXPLORERS[kind]
        probability = executed(explorer, HEAD.astype(np.float64), ALLOWED)
        total, freedom = 0.0, 0
        for number in range(20):
            counts = np.zeros(6)
            for (_, action, _, _), count in drawn(explorer, Key(1, number.to_bytes(32, "big")), 1).items():
                counts[action] += count
            found, expected = pooled(counts[ALLOWED], probability[ALLOWED] * BATCH)
            total += float(((found - expected) ** 2 / expected).sum())
            freedom += len(found) - 1

        assert abs(total - freedom) <= 4 * np.sqrt(2 * freedom)

    @pytest.mark.parametrize("kind", EXPLORERS)
    def test_random_draws_are_allowed_and_of_the_said_probability(self, kind: str) -> None:
        """Over random heads, with ties and huge gaps, and random masks."""
        rng = np.random.default_rng(1)
        explorer = EXPLORERS[kind]
        for _ in range(200):
            n, actions = rng.integers(1, 20), rng.integers(1, 30)
            head: Floats = rng.choice(np.array([0.0, 1.0, -3.0, 700.0, -1e6, 3e38]), size=(n, actions))
            allowed = rng.random((n, actions)) < 0.5
            allowed[np.arange(n), rng.integers(actions, size=n)] = True

            draw = of_list(explorer, head, allowed, rng.random((n, 4)))

            rows = np.arange(n)
            assert allowed[rows, draw.action].all()
            assert ((draw.proposed != draw.action) == ~allowed[rows, draw.proposed]).all()
            best = np.where(allowed, head, -np.inf).argmax(axis=1)
            assert ((draw.action != best) == draw.explored).all()
            assert (draw.propensity > 0).all()
            if not isinstance(explorer, Softmax):
                expected = [
                    executed(explorer, h, a)[done] for h, a, done in zip(head, allowed, draw.action, strict=True)
                ]
                np.testing.assert_allclose(draw.propensity, expected, rtol=1e-12)


class TestUniforms:
    """Numbers from digests."""

    def test_they_are_in_the_unit_interval_without_its_end(self) -> None:
        """The smallest is 0, the largest the last double before 1."""
        found = uniforms(bytes(32) + b"\xff" * 32)

        assert found == [0.0] * 4 + [1 - 2.0**-53] * 4

    def test_they_are_the_top_bits_little_endian(self) -> None:
        """The same on every machine."""
        digest = (1 << 63).to_bytes(8, "little") + (1 << 11).to_bytes(8, "little") + bytes(16)

        assert uniforms(digest) == [0.5, 2.0**-53, 0, 0]


class TestGreedy:
    """The best allowed action."""

    def test_it_goes_by_the_ranking_of_the_policy(self) -> None:
        """Where the best is masked the next best is done, with certainty; of equals the first."""
        head = np.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [2.0, 2.0, 1.0]])
        allowed = np.array([[True, True, True], [True, False, True], [True, True, True]])

        draw = of_list(Greedy(), head, allowed, np.zeros((3, 4)))

        assert draw.proposed.tolist() == [1, 1, 0]
        assert draw.action.tolist() == [1, 2, 0]
        assert draw.propensity.tolist() == [1, 1, 1]
        assert not draw.explored.any()


class TestEpsilonGreedy:
    """The best, or with probability epsilon any."""

    HEAD = np.array([[0.0, 1.0, 2.0, 3.0]])
    ALLOWED = np.array([[True, False, True, False]])

    @pytest.mark.parametrize(
        ("uniform", "proposed", "action"),
        [
            ((0.1, 0.00, 0.9), 0, 0),  # explores, and keeps what is allowed
            ((0.1, 0.25, 0.0), 1, 0),  # explores, and draws again what is not: the first allowed
            ((0.1, 0.99, 0.5), 3, 2),  # the second allowed
            ((0.2, 0.00, 0.0), 3, 2),  # does not explore: the best allowed
        ],
    )
    def test_its_three_numbers_are_a_coin_a_proposal_and_a_second_draw(
        self, uniform: tuple[float, ...], proposed: int, action: int
    ) -> None:
        """Each number has one use, so that a mask changes nothing but what it masks."""
        draw = of_list(EpsilonGreedy(epsilon=0.2), self.HEAD, self.ALLOWED, np.array([[*uniform, 0.0]]))

        assert (draw.proposed.tolist(), draw.action.tolist()) == ([proposed], [action])
        assert draw.propensity.tolist() == [pytest.approx(0.1 if action == 0 else 0.9)]
        assert draw.explored.tolist() == [action == 0]

    @pytest.mark.parametrize(("epsilon", "propensity"), [(0.0, 1.0), (1.0, 0.5)])
    def test_its_ends_are_greedy_and_uniform(self, epsilon: float, propensity: float) -> None:
        """No exploration is certain; nothing but exploration is all alike."""
        draw = of_list(EpsilonGreedy(epsilon=epsilon), self.HEAD, self.ALLOWED, np.full((1, 4), 0.6))

        assert (draw.action.tolist(), draw.propensity.tolist()) == ([2], [propensity])

    @pytest.mark.parametrize("epsilon", [-0.1, 1.1, float("nan")])
    def test_what_is_no_probability_is_refused(self, epsilon: float) -> None:
        """At start."""
        with pytest.raises(ValidationError):
            EpsilonGreedy(epsilon=epsilon)


class TestSoftmax:
    """Each action in proportion to its exponential."""

    def test_its_proposal_inverts_the_cumulative_distribution(self) -> None:
        """Numbers on a border belong to the next action."""
        head = np.log(np.array([[0.25, 0.25, 0.5]] * 4))
        uniform = np.array([[0.9, u, 0.9, 0.9] for u in (0.0, 0.26, 0.51, 1 - 2.0**-53)])

        draw = of_list(Softmax(), head, np.ones((4, 3), dtype=np.bool_), uniform)

        assert draw.proposed.tolist() == draw.action.tolist() == [0, 1, 2, 2]
        np.testing.assert_allclose(draw.propensity, [0.25, 0.25, 0.5, 0.5])
        assert draw.explored.tolist() == [True, True, False, False]

    def test_a_masked_proposal_is_drawn_again_within_the_rest(self) -> None:
        """With a second number, and the probability of the renormalised rest."""
        head = np.log(np.array([[0.5, 0.1, 0.4]] * 2))
        allowed = np.array([[False, True, True]] * 2)

        draw = of_list(Softmax(), head, allowed, np.array([[0, 0.1, 0.19, 0], [0, 0.1, 0.21, 0]]))

        assert draw.proposed.tolist() == [0, 0]
        assert draw.action.tolist() == [1, 2]
        np.testing.assert_allclose(draw.propensity, [0.2, 0.8])

    @pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2.0**-53])
    def test_an_action_of_probability_zero_is_never_drawn(self, uniform: float) -> None:
        """Neither first, nor last, nor between, whatever the rounding."""
        head = np.array([[-1e6, 0.0, -1e6, 0.0, -1e6]])

        draw = of_list(Softmax(), head, np.ones((1, 5), dtype=np.bool_), np.full((1, 4), uniform))

        assert draw.propensity.tolist() == [0.5]

    def test_what_is_allowed_may_be_far_worse_than_what_is_masked(self) -> None:
        """The rest is renormalised by itself, so that nothing underflows."""
        head = np.array([[5000.0, 0.0, 0.0]])

        draw = of_list(Softmax(), head, np.array([[False, True, True]]), np.full((1, 4), 0.9))

        assert (draw.proposed.tolist(), draw.action.tolist(), draw.propensity.tolist()) == ([0], [2], [0.5])

    def test_a_tiny_temperature_is_nearly_greedy(self) -> None:
        """No temperature that is allowed makes a probability that is not finite."""
        head = np.array([[3e38, 1e30, 0.0]])

        draw = of_list(Softmax(temperature=1e-300), head, np.ones((1, 3), dtype=np.bool_), np.full((1, 4), 0.5))

        assert (draw.action.tolist(), draw.propensity.tolist()) == ([0], [1.0])

    @pytest.mark.parametrize("temperature", [0, -1, float("inf"), float("nan")])
    def test_what_is_no_temperature_is_refused(self, temperature: float) -> None:
        """At start."""
        with pytest.raises(ValidationError):
            Softmax(temperature=temperature)


class TestActing:
    """Rows that may explore beside rows that may not."""

    @pytest.mark.parametrize("explores", [True, False])
    def test_a_row_that_may_not_explore_is_drawn_greedily(self, explores: bool) -> None:
        """It is certain and explores nothing."""
        acting = acting_of(EpsilonGreedy(epsilon=1.0), listed(3), "none")
        head, left = acting.read(np.array([0.0, 1.0, 2.0])), 0b100

        choice = acting.choose(head, left, digest_of([0.1] * 4), explores=explores)

        told = (choice.proposed, choice.action, choice.propensity, choice.explored)
        assert told == ((0, 0, 0.5, True) if explores else (2, 1, 1.0, False))


class TestBothWays:
    """A list of few actions is drawn from in plain numbers, and in arrays it would be the same."""

    @pytest.mark.parametrize("explorer", [Greedy(), EpsilonGreedy(epsilon=0.4), Softmax(temperature=0.7)])
    @pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 33, 64, 65, 130, 300])
    def test_plain_numbers_and_arrays_draw_alike(self, explorer: Chooser, width: int) -> None:
        """Bit for bit, whatever is forbidden, with ties among the scores."""
        rng = np.random.default_rng(width)
        for _ in range(60):
            head = rng.normal(size=width).round(int(rng.integers(0, 4)))
            allowed = rng.random(width) < 0.7
            allowed[rng.integers(width)] = True

            draw = of_list(explorer, head[None], allowed[None], rng.random((1, 4)))

            assert allowed[draw.action[0]]

    @pytest.mark.parametrize("width", [NARROW, NARROW + 1])
    def test_which_way_it_is_goes_by_how_many_there_are(self, width: int) -> None:
        """And by nothing else."""
        head = acting_of(Greedy(), listed(width), "none").read(np.zeros(width, dtype=np.float32))

        assert isinstance(head, list) == (width == NARROW)

    @pytest.mark.parametrize("forbidden", [0, 0b10])
    @pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e6])
    def test_probabilities_are_the_same_to_the_last_bit(self, temperature: float, forbidden: int) -> None:
        """Exponentials of one row, and sums taken one after another, also where scores are far apart."""
        rng = np.random.default_rng(1)
        for width in (3, 8, 16, 64, 500):
            scores = rng.normal(size=width) * 10.0 ** rng.integers(-3, 300)

            plain, arrays = (chances_of(one, forbidden, temperature) for one in (scores.tolist(), scores))

            assert plain == np.asarray(arrays).tolist()
