"""Whether answers can be the head that people said they are: seen in the numbers, whatever they were read from."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from export.errors import HeadImplausible
from export.meaning import Meaning
from export.plausible import FLOOR, kind_of, refuse_implausible
from export.spec import Box, Discrete, Factor, Field, Fields, Head, MultiDiscrete

OBSERVED = Fields(fields=(Field(name="x"),))
Rows = NDArray[np.float64]


def logits(*sizes: int, count: int = 200, spread: float = 2.0) -> list[Rows]:
    """Draw rows of logits for factors of these sizes."""
    generator = np.random.default_rng(4)
    return [generator.normal(size=(count, size)) * spread for size in sizes]


def soft(parts: Sequence[Rows]) -> Rows:
    """Give the softmax of each part, side by side, as float32 rounds it."""
    shares = [np.exp(part) / np.exp(part).sum(axis=1, keepdims=True) for part in parts]
    return np.concatenate(shares, axis=1).astype(np.float32).astype(np.float64)


def meaning_of(said: str, *sizes: int, head: Head = "logits", mask: bool = False) -> Meaning:
    """Give a meaning whose head people called so."""
    factors = tuple(Factor(name=f"f{at}", names=tuple(f"c{i}" for i in range(n))) for at, n in enumerate(sizes))
    space = Discrete(names=factors[0].names) if len(sizes) == 1 else MultiDiscrete(factors=factors)
    return Meaning(observation=OBSERVED, action=space, head=head, said=said, mask=mask, scores=said != "action")


def asked(meaning: Meaning, rows: Rows) -> None:
    """Put rows to the question, as float32, which a graph answers with."""
    refuse_implausible(meaning, {}, {meaning.head: rows.astype(np.float32)})


@pytest.mark.parametrize(
    ("said", "sizes"),
    [
        ("logits", (2,)),
        ("logits", (5,)),
        ("logits", (3, 2)),
        ("logits", (4, 1, 2)),
        ("q_values", (2,)),
        ("q_values", (5,)),
    ],
    ids=str,
)
def test_probabilities_are_no_scores(said: str, sizes: tuple[int, ...]) -> None:
    """Rows from 0 on that sum to 1 are refused as either, with the word that takes them; of each factor by itself."""
    meaning = meaning_of(said, *sizes, head="q_values" if said == "q_values" else "logits")

    with pytest.raises(HeadImplausible, match=rf"was said to be '{said}', .* sum to 1.* say --head probabilities"):
        asked(meaning, soft(logits(*sizes)))


@pytest.mark.parametrize(
    ("said", "inside", "told"),
    [("logits", (2, 3), (5,)), ("logits", (2, 3), (3, 2)), ("q_values", (11,) * 4, (44,)), ("logits", (3, 4, 2), (9,))],
    ids=["a softmax each", "in another order", "atoms laid flat", "three"],
)
def test_probabilities_of_other_choices_are_no_scores(
    said: str, inside: tuple[int, ...], told: tuple[int, ...]
) -> None:
    """Several softmaxes side by side are not one choice of as many, nor several of other sizes."""
    meaning = meaning_of(said, *told, head="q_values" if said == "q_values" else "logits")

    with pytest.raises(HeadImplausible, match=rf"and sum to {len(inside)}, .* probabilities of {len(inside)} choices"):
        asked(meaning, soft(logits(*inside)))


def test_sums_that_are_no_probabilities_are_scores() -> None:
    """Sigmoids by themselves, numbers that sum to something else, and rows that never change stay as they are."""
    (rows,) = logits(5)

    asked(meaning_of("logits", 5), 1 / (1 + np.exp(-rows)))
    asked(meaning_of("logits", 5), soft([rows]) * 2.5)
    asked(meaning_of("logits", 4), np.full((100, 4), 0.5))


def test_one_factor_of_probabilities_is_enough() -> None:
    """Where others are logits, the softmax of the whole is another policy all the same."""
    first, second = logits(3, 2)

    with pytest.raises(HeadImplausible, match="these are probabilities"):
        asked(meaning_of("logits", 3, 2), np.concatenate([first, soft([second])], axis=1))


@pytest.mark.parametrize(
    "rows",
    [
        np.log(soft(logits(4))),
        logits(4)[0],
        np.zeros((200, 4)),
        np.abs(logits(4)[0]),
        np.floor(np.abs(logits(4)[0])),
        np.tile([0.0, 0.0, 0.0, 2.0], (200, 1)),
        np.concatenate([soft(logits(4)), [[0.5, 0.5, 0.5, 0.5]]]),
    ],
    ids=["log-probabilities", "logits", "all zero", "all positive", "whole numbers", "a one of two", "but for one row"],
)
def test_scores_are_what_they_are(rows: Rows) -> None:
    """Log-probabilities are logits already; whole numbers and zeros are values that there are."""
    asked(meaning_of("logits", 4), rows)
    asked(meaning_of("q_values", 4, head="q_values"), rows)

    assert kind_of(rows, (4,)) == "scores"


def test_a_choice_of_one_says_nothing() -> None:
    """A softmax over one action is 1, and so may a logit be."""
    asked(meaning_of("logits", 1, 2), np.concatenate([np.ones((200, 1)), logits(2)[0]], axis=1))


@pytest.mark.parametrize("said", ["logits", "q_values"])
def test_a_one_among_zeros_is_an_action_that_was_chosen(said: str) -> None:
    """As one-hot rows say it, in floats: that is said before anything about probabilities."""
    ones = np.eye(4)[np.random.default_rng(0).integers(0, 4, 200)]

    with pytest.raises(
        HeadImplausible, match=r"the action already chosen; export the scores before the arg-max, or .*"
    ):
        asked(meaning_of(said, 4, head="q_values" if said == "q_values" else "logits"), ones)


def test_switches_that_were_thrown_or_squashed_are_seen() -> None:
    """A switch's logit stands as (0, l): 0 and 1 are what was chosen, all between them are sigmoids, else logits."""
    (numbers,) = logits(3)

    def switches(rows: Rows) -> Rows:
        return np.stack([np.zeros_like(rows), rows], axis=2).reshape(len(rows), -1)

    asked(meaning_of("logits", 2, 2, 2), switches(numbers))
    with pytest.raises(HeadImplausible, match="the action already chosen"):
        asked(meaning_of("logits", 2, 2, 2), switches((numbers > 0).astype(np.float64)))
    with pytest.raises(HeadImplausible, match="expected the numbers before the sigmoid"):
        asked(meaning_of("logits", 2, 2, 2), switches(1 / (1 + np.exp(-numbers))))


def test_only_rows_in_which_nothing_is_forbidden_are_asked() -> None:
    """What is forbidden has the number that stands for it, whatever the others sum to."""
    shares, mask = soft(logits(4)), np.ones((200, 4), np.bool_)
    mask[::2, 0] = False
    rows = np.where(mask, shares, -1e8).astype(np.float32)

    with pytest.raises(HeadImplausible, match="in all of 100 answers"):
        refuse_implausible(meaning_of("logits", 4, mask=True), {"action_mask": mask}, {"logits": rows})
    refuse_implausible(
        meaning_of("probabilities", 4, mask=True),
        {"action_mask": mask},
        {"logits": np.where(mask, np.log(shares), -1e8).astype(np.float32)},
    )


@pytest.mark.parametrize("sizes", [(2,), (3, 2)], ids=str)
def test_what_is_said_to_be_probabilities_has_to_be(sizes: tuple[int, ...]) -> None:
    """Their logarithms sum to 1 as powers; numbers of any other kind are logits, and the message says so."""
    meaning, parts = meaning_of("probabilities", *sizes), logits(*sizes)
    raw = np.concatenate(parts, axis=1)

    asked(meaning, np.log(np.maximum(soft(parts), FLOOR)))
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(HeadImplausible, match=r"a number below 0, or none: .* --head logits"),
    ):
        asked(meaning, np.log(raw))
    with pytest.raises(HeadImplausible, match=r"do not sum to 1, as .* --head logits"):
        asked(meaning, np.log(np.abs(raw) + 0.1))


def test_one_softmax_over_all_factors_is_taken_too() -> None:
    """Put in proportion within each factor they are the probabilities that its logits have."""
    whole = soft([np.concatenate(logits(3, 2), axis=1)])

    with pytest.raises(HeadImplausible, match="these are probabilities"):
        asked(meaning_of("logits", 3, 2), whole)
    asked(meaning_of("probabilities", 3, 2), np.log(whole))


def test_probabilities_of_nothing_but_one_and_zero_are_a_choice() -> None:
    """What stands for the logarithm of zero is not taken for a ranking of the others."""
    ones = np.eye(3)[np.random.default_rng(0).integers(0, 3, 200)]

    with pytest.raises(HeadImplausible, match="the action already chosen"):
        asked(meaning_of("probabilities", 3), np.log(np.maximum(ones, FLOOR)))


def test_an_action_that_was_not_told_is_refused() -> None:
    """Rows without a number are choices that do not exist."""
    ones = np.eye(3)[np.random.default_rng(0).integers(0, 3, 200)]

    asked(meaning_of("action", 3), ones)
    ones[7] = np.nan
    with pytest.raises(HeadImplausible, match="1 of 200 answers are none of the 3 actions that were told"):
        asked(meaning_of("action", 3), ones)


def test_nothing_is_held_against_what_nobody_said() -> None:
    """A source that knows its own head is believed, and the means of a Box may be shares."""
    shares = soft(logits(3))
    box = Box(fields=tuple(Field(name=f"b{at}") for at in range(3)))

    asked(meaning_of("", 3), shares)
    refuse_implausible(
        Meaning(observation=OBSERVED, action=box, head="gaussian", said="mean"), {}, {"mean": shares.astype(np.float32)}
    )
