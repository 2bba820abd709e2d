"""Doubts: what each of them doubts of a policy's answer, and what it needs to know of the artefact."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from export.spec import (
    Array,
    Box,
    Dict,
    Discrete,
    Entry,
    Factor,
    Field,
    Fields,
    Manifest,
    MultiDiscrete,
    ObservationSpace,
    Recorded,
    Statistics,
)
from export.spec.statistics import statistics
from guards.abstention import Confidence, Doubt, Doubts, Fresh, Novelty, PolicyAnswer, Quorum
from guards.constraints import Constraint, Rule
from guards.errors import GuardMisconfigured
from guards.language.terms import FALSE
from guards.records import History, Row, Schema
from guards.shield import Shield
from tests import fakes
from tests.fakes import NOW

THREE = Discrete(names=("a", "b", "c"))
SWITCHES = MultiDiscrete(factors=(Factor(name="f", names=("off", "on")), Factor(name="g", names=("x", "y", "z"))))
PAIR = Fields(fields=(Field(name="load"), Field(name="lag")))
WIDE = Fields(fields=(Field(name="lag"), Field(name="pods"), Field(name="load")))


def manifest_of(**told: Any) -> Manifest:
    """What an artefact of three actions and two fields says of itself."""
    return fakes.manifest_of(**({"action": THREE, "observation": PAIR} | told))


def answered(head: Any = (), *, observation: Any = None, spread: Any = None, age: Any = None) -> list[PolicyAnswer]:
    """What a policy answers to some rows."""
    count = len(next(one for one in (observation, spread, age, head) if one is not None))
    heads = np.array(head, dtype=np.float64) if len(head) else np.zeros((count, 3))
    seen = np.zeros((count, 2)) if observation is None else np.asarray(observation)
    spreads, ages = [None] * count if spread is None else spread, [np.nan] * count if age is None else age
    history = History(known=True, since=NOW)
    told = zip(seen, heads, spreads, ages, strict=True)
    return [PolicyAnswer(Row((), (), None, NOW, history, raw), *rest) for raw, *rest in told]


def in_doubt(doubt: Doubt, manifest: Manifest, answers: list[PolicyAnswer], schema: Schema | None = None) -> list[bool]:
    """Which answers are."""
    doubts = Doubts.of([doubt], schema or Schema.of(manifest), manifest)
    found = [doubts.about(answer) for answer in answers]
    assert all(hits in ([], [doubt]) for hits in found)
    return [bool(hits) for hits in found]


def refusal(doubt: Doubt, manifest: Manifest) -> str:
    """Why it cannot be bound to an artefact."""
    with pytest.raises(GuardMisconfigured) as caught:
        Doubts.of([doubt], Schema.of(manifest), manifest)
    return str(caught.value)


class TestQuorum:
    """The members of an ensemble have to agree."""

    QUORUM = Quorum(name="q", at_most=0.5)

    def test_a_spread_above_the_limit_is_in_doubt(self) -> None:
        """And one that is no number; the limit itself is not."""
        spread = [0.0, 0.5, np.nextafter(0.5, 1), 3.0, np.nan, np.inf]

        hits = in_doubt(self.QUORUM, manifest_of(head="logits", spread=True), answered(spread=spread))

        assert hits == [False, False, True, True, True, True]

    def test_the_limit_for_values_is_a_share_of_their_scale(self) -> None:
        """What is a small difference between large values is a large one between small values."""
        hits = in_doubt(self.QUORUM, manifest_of(spread=True, scale=10.0), answered(spread=[4.9, 5.0, 5.1]))

        assert hits == [False, False, True]

    def test_it_needs_an_ensemble(self) -> None:
        """One policy alone agrees with itself."""
        assert refusal(self.QUORUM, manifest_of()) == (
            "0, 'q': the artefact has no spread, expected one of an ensemble"
        )


class TestConfidence:
    """The best choice has to be ahead of the second best."""

    SURE = Confidence(name="s", at_least=0.25)

    def test_values_are_compared_by_their_scale(self) -> None:
        """Wherever the two best stand, and whatever the others are."""
        head = [[0, 1, 4], [4, 0, 1.5], [3.4, 1, 1], [1, 3.6, 1], [1, 1, 1], [-9, -6.4, -6]]

        hits = in_doubt(self.SURE, manifest_of(scale=10.0), answered(head))

        assert hits == [False, False, True, False, True, True]

    def test_an_artefact_without_scores_has_nothing_to_compare(self) -> None:
        """It says which action it chose, and no more."""
        assert refusal(self.SURE, manifest_of(head="logits", scores=False)).startswith("0, 's': compares scores, and")

    def test_the_two_best_of_many_are_compared(self) -> None:
        """Wherever they stand among two thousand."""
        many = Discrete(names=tuple(f"a{i}" for i in range(2000)))
        head = np.random.default_rng(2).normal(size=(50, 2000))
        best = np.sort(head, axis=1)[:, -2:]

        hits = in_doubt(self.SURE, manifest_of(action=many, scale=1.0), answered(head))

        assert hits == (best[:, 1] - best[:, 0] < 0.25).tolist()

    def test_logits_are_compared_by_their_probabilities(self) -> None:
        """However large they are."""
        chances = np.array([[0.5, 0.3, 0.2], [0.5, 0.1, 0.4], [0.6, 0.35, 0.05], [0.1, 0.62, 0.28]])
        head = [*(np.log(chances) + 900).tolist(), [0, 1e300, -1e300], [0.0, -1e8, -1e8]]

        hits = in_doubt(self.SURE, manifest_of(head="logits", scale=10.0), answered(head))

        assert hits == [True, True, True, False, False, False]

    def test_the_least_sure_of_several_factors_counts(self) -> None:
        """One choice that might as well be another makes it another action."""
        sure, unsure, three, level = [0, 5], [0, 0.1], [9, 0, 0], [0, 1, 1.1]
        head = [sure + three, unsure + three, sure + level, unsure + level]

        hits = in_doubt(self.SURE, manifest_of(action=SWITCHES, head="logits"), answered(head))

        assert hits == [False, True, True, True]

    def test_a_factor_with_one_choice_is_sure(self) -> None:
        """There is nothing that it could be preferred to."""
        space = MultiDiscrete(factors=(Factor(name="h", names=("always",)), *SWITCHES.factors))
        head = [[0, 0, 5, 9, 0, 0], [0, 0, 0, 9, 0, 0]]

        hits = in_doubt(self.SURE, manifest_of(action=space, head="logits"), answered(head))

        assert hits == [False, True]

    @pytest.mark.parametrize(
        ("told", "message"),
        [
            ({"action": Box(fields=(Field(name="f"),)), "head": "gaussian"}, "is for choices"),
            ({"action": Discrete(names=("only",))}, "between two or more, and there is one"),
        ],
    )
    def test_it_needs_choices(self, told: dict[str, Any], message: str) -> None:
        """Numbers are not preferred to each other."""
        assert message in refusal(self.SURE, manifest_of(**told))

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(arrays.arrays(np.float64, (4, 3), elements=st.floats()), st.sampled_from(("q_values", "logits")))
    def test_no_head_is_too_strange(self, head: np.ndarray, kind: str) -> None:
        """NaN, infinities and the ends of what doubles are: an answer, and no warning."""
        found = in_doubt(self.SURE, manifest_of(head=kind), answered(head))

        assert all(found[i] for i in np.flatnonzero(np.isnan(head).any(axis=1)))


class TestNovelty:
    """Observations have to be like those of the training."""

    def taken(self, rows: np.ndarray, space: ObservationSpace = PAIR) -> Statistics:
        """The statistics of what was seen in training."""
        found = statistics(Recorded(inputs={"obs": rows}), space)
        assert found is not None
        return found

    @pytest.mark.parametrize("share", [0.01, 0.001])
    @pytest.mark.parametrize("skewed", [False, True])
    def test_false_alarms_come_as_often_as_stated(self, share: float, skewed: bool) -> None:
        """On other observations of the same kind, within four standard errors; what is far out is found."""
        random = np.random.default_rng(3)

        def drawn(n: int) -> np.ndarray:
            normal = random.normal(size=(n, 2))
            return np.exp(normal) if skewed else normal * [1.0, 100.0] + [5.0, 0.0]

        seen, unseen = 50_000, 100_000
        manifest = manifest_of(statistics=self.taken(drawn(seen)))
        novelty = Novelty(name="n", false_alarms=share)

        alarms = np.mean(in_doubt(novelty, manifest, answered(observation=drawn(unseen))))
        far = in_doubt(novelty, manifest, answered(observation=[[500.0, 0.0], [5.0, -9000.0], [-1e308, 1e308]]))

        assert abs(alarms - share) < 4 * np.sqrt(share * (1 - share) * (1 / seen + 1 / unseen))
        assert far == [True] * 3

    def test_fields_are_found_by_their_names(self) -> None:
        """The service may know more of them, in another order."""
        rows = np.random.default_rng(1).normal([1.0, 100.0], 1.0, (1000, 2))
        manifest = manifest_of(statistics=self.taken(rows))
        schema = Schema(observation=WIDE, action=THREE)
        seen = [[100.0, 1e9, 1.0], [1.0, 0.0, 100.0]]

        assert in_doubt(Novelty(name="n", false_alarms=0.01), manifest, answered(observation=seen), schema) == [
            False,
            True,
        ]

    @pytest.mark.parametrize(
        "space",
        [
            Array(shape=(2, 1), dtype="uint8"),
            Dict(
                entries=(
                    Entry(key="x", space=Array(shape=(1,), dtype="float32")),
                    Entry(key="y", space=Array(shape=(1,), dtype="float32")),
                )
            ),
        ],
        ids=["array", "parts"],
    )
    def test_numbers_without_names_are_found_by_their_place(self, space: ObservationSpace) -> None:
        """As they lie in a row."""
        rows = np.random.default_rng(1).integers([0, 200], [10, 210], (1000, 2))
        manifest = manifest_of(observation=space, statistics=self.taken(rows.astype(np.float32)))
        seen = np.array([[5, 205], [5, 5]], dtype=np.uint8).reshape(
            2, *(space.shape if isinstance(space, Array) else (2,))
        )

        assert in_doubt(Novelty(name="n", false_alarms=0.01), manifest, answered(observation=seen)) == [False, True]

    def test_what_scores_as_the_threshold_is_not_novel(self) -> None:
        """Only what exceeds it is."""
        taken = self.taken(np.random.default_rng(1).normal(size=(1000, 2)))
        seen = np.array([[1.0, -2.0], [1.0, -2.5]])
        level = taken.model_copy(update={"scores": (float(taken.scoring()(seen)[0]),) * len(taken.scores)})

        hits = in_doubt(Novelty(name="n", false_alarms=0.01), manifest_of(statistics=level), answered(observation=seen))

        assert hits == [False, True]

    def test_what_it_needs_and_does_not_find(self) -> None:
        """Statistics, their scores, and enough of them: each refusal says what to do."""
        rows = np.random.default_rng(1).normal(size=(999, 2))
        few, older = self.taken(rows), self.taken(rows).model_copy(update={"scores": (), "count": 10**6})

        messages = [refusal(Novelty(name="n"), manifest_of(statistics=taken)) for taken in (None, few, older)]

        assert messages[0].endswith("has no training statistics, expected it exported with --observations")
        assert messages[1].endswith("the training statistics are of 999 observations, expected 1000 for 0.001")
        assert messages[2].endswith("no scores, which a newer actd-export writes: export it again")
        assert all(message.startswith("0, 'n': ") for message in messages)


class TestFresh:
    """Observations may not be old."""

    AGES = (0.0, 2.0, 2.1, -2.0, -2.1, np.nan)

    def test_what_is_old_or_of_no_known_age_is_in_doubt(self) -> None:
        """Also what is as far ahead of the clock: whose clock is wrong is not known."""
        hits = in_doubt(Fresh(name="f", max_age_seconds=2), manifest_of(), answered(age=self.AGES))

        assert hits == [False, False, True, False, True, True]

    def test_what_is_not_told_may_be_let_pass(self) -> None:
        """Where the configuration says so."""
        fresh = Fresh(name="f", max_age_seconds=2, missing="allow")

        assert in_doubt(fresh, manifest_of(), answered(age=self.AGES)) == [False, False, True, False, True, False]


@pytest.mark.parametrize(
    ("kind", "setting", "possible", "refused"),
    [
        (Quorum, "at_most", [0, 1e9], [-0.1]),
        (Confidence, "at_least", [0.001, 1], [0, 1.1]),
        (Novelty, "false_alarms", [1e-6, 0.1], [0, 0.11]),
        (Fresh, "max_age_seconds", [0.001, 86400 * 365], [0, 86400 * 366]),
    ],
)
def test_what_makes_no_sense_is_refused(
    kind: type[Doubt], setting: str, possible: list[float], refused: list[float]
) -> None:
    """By its setting; what is just possible is accepted."""
    assert [kind.model_validate({"name": "d", setting: one}).model_dump()[setting] for one in possible] == possible
    for one in refused:
        with pytest.raises(ValidationError, match=setting):
            kind.model_validate({"name": "d", setting: one})


def test_doubts_are_found_among_other_constraints() -> None:
    """Which are none, and keep their places: a refusal names the one it is about."""
    others: list[Constraint] = [
        Rule(name="r", forbid="load > 1"),
        Fresh(name="f", max_age_seconds=2),
        Quorum(name="q", at_most=1),
    ]
    manifest = manifest_of()

    found = Doubts.of(others[:2], Schema.of(manifest), manifest)

    assert [doubt.name for doubt, _ in found.bound] == ["f"]
    with pytest.raises(GuardMisconfigured, match=r"^2, 'q': "):
        Doubts.of(others, Schema.of(manifest), manifest)


def test_doubts_keep_their_order_and_forbid_no_action() -> None:
    """The shield has nothing of them but their names, which no other constraint may have."""
    some = [Fresh(name="f", max_age_seconds=2), Confidence(name="s", at_least=0.1, mode="warn")]
    manifest = manifest_of()
    schema = Schema.of(manifest)
    answers = answered([[0, 1, 2], [0, 1, 1]], age=[9, 0])

    doubts, shield = Doubts.of(some, schema, manifest), Shield(some, schema)

    assert [[doubt.name for doubt in doubts.about(answer)] for answer in answers] == [["f"], ["s"]]
    assert [doubt.name for doubt in doubts.about(answers[1]._replace(age=9.0))] == ["f", "s"]
    assert shield.judge(answers[0].row) == 0
    assert not shield.reports
    assert some[0].term(schema) == FALSE
    with pytest.raises(GuardMisconfigured, match=r"1\.name: 'f' is taken"):
        Shield([some[0], some[0]], schema)


def test_other_constraints_are_no_doubts() -> None:
    """They are the shield's."""
    other = Shield([], Schema.of(manifest_of()))

    assert Doubts.of([], Schema.of(manifest_of()), manifest_of()) == Doubts()
    assert not Doubts().bound
    assert not other.reports
