"""What the guards see: schemas, histories, and the batch as a context."""

from typing import Any

import numpy as np
import pytest

from export.spec import Array, Discrete, Field, Fields, Manifest
from guards.errors import GuardMisconfigured
from guards.records import NEVER, History, Schema
from tests.fakes import NOW, context_of
from tests.guards.batched import Context

FRESH = History(known=True, since=NOW)
STRANGE = History(known=False, since=NOW - 5)


def test_a_schema_of_fields_names_them() -> None:
    """Rules use the fields of an observation by name."""
    space = Fields(fields=(Field(name="cpu"), Field(name="queue")))

    assert Schema(observation=space, action=Discrete(names=("a",))).fields == ("cpu", "queue")


def test_a_schema_of_an_array_names_nothing() -> None:
    """An image has no named fields."""
    schema = Schema(observation=Array(shape=(3, 3)), action=Discrete(names=("a",)))

    assert schema.fields == ()
    assert schema.facts == ()


@pytest.mark.parametrize(
    "facts",
    [("cpu",), ("action",), ("step",), ("previous_action",), ("seconds_since_change",), ("budget", "budget")],
)
def test_a_fact_may_not_have_a_name_that_is_taken(facts: tuple[str, ...]) -> None:
    """By a field, by the rule language, or by another fact: a rule could mean either."""
    space = Fields(fields=(Field(name="cpu"),))

    with pytest.raises(GuardMisconfigured, match="has a name that is taken"):
        Schema(observation=space, action=Discrete(names=("a",)), facts=facts)


def test_the_schema_of_an_artefact_is_what_its_manifest_says() -> None:
    """Facts are the service's own: the policy does not see them."""
    space = Fields(fields=(Field(name="cpu"),))
    told: dict[str, Any] = {"observation": space, "action": Discrete(names=("a", "b"))}
    manifest = Manifest.model_construct(**told)

    assert Schema.of(manifest, ("budget",)) == Schema(
        observation=space, action=Discrete(names=("a", "b")), facts=("budget",)
    )


class TestAdvanced:
    """A history after one more decision."""

    def test_the_first_action_of_an_episode_is_no_change(self) -> None:
        """Nothing was being done before it."""
        after = FRESH.advanced(2, NOW, frozenset())

        assert (after.step, after.action, after.changed_at) == (1, 2, None)

    def test_the_same_action_again_is_no_change(self) -> None:
        """The time of the last change stays what it was."""
        after = FRESH.advanced(2, NOW, frozenset()).advanced(2, NOW + 1, frozenset())

        assert (after.step, after.changed_at) == (2, None)

    def test_another_action_is_a_change(self) -> None:
        """The time of it is remembered."""
        after = FRESH.advanced(2, NOW, frozenset()).advanced(3, NOW + 1, frozenset()).advanced(3, NOW + 2, frozenset())

        assert (after.step, after.action, after.changed_at) == (3, 3, NOW + 1)

    def test_only_tracked_actions_are_remembered_with_their_last_use(self) -> None:
        """What no constraint asks for is not kept."""
        after = FRESH
        for action, at in ((1, NOW), (2, NOW + 1), (1, NOW + 2)):
            after = after.advanced(action, at, frozenset({1}))

        assert after.used == {1: NOW + 2}

    def test_what_is_not_known_stays_unknown(self) -> None:
        """A decision here says nothing about those elsewhere."""
        after = STRANGE.advanced(1, NOW, frozenset({1}))

        assert (after.known, after.since, after.used) == (False, NOW - 5, {1: NOW})

    def test_what_constraints_keep_stays_until_they_say_otherwise(self) -> None:
        """Also that they keep nothing more."""
        before = History(known=True, since=NOW, kept={"r": (1.0,)})

        assert before.advanced(1, NOW, frozenset()).kept == {"r": (1.0,)}
        assert before.advanced(1, NOW, frozenset(), kept={}).kept == {}

    def test_the_history_before_is_untouched(self) -> None:
        """A request that is decided again continues the same history."""
        FRESH.advanced(1, NOW, frozenset({1}))

        assert (FRESH.step, FRESH.used) == (0, {})


class TestContext:
    """The histories of a batch as columns."""

    def test_its_length_is_its_rows(self) -> None:
        """A context of N decisions has length N."""
        assert len(context_of([[1, 2, 3], [4, 5, 6]])) == 2

    @pytest.mark.parametrize("masked", [False, True])
    def test_some_of_its_rows_are_a_context_of_their_own(self, masked: bool) -> None:
        """Every column is picked by the same rows, in the order asked for."""
        mask = [[True] * 6, [False] * 6, [True] * 6] if masked else None
        histories = [History(known=True, since=float(i)) for i in range(3)]
        whole = context_of(
            [[0, 0, 0], [1, 1, 1], [2, 2, 2]],
            facts=[[0, 0], [1, 1], [2, 2]],
            mask=mask,
            now=[0, 1, 2],
            histories=histories,
        )

        some = whole.rows(np.array([2, 1]))

        assert some.observation.tolist() == [[2, 2, 2], [1, 1, 1]]
        assert some.facts.tolist() == [[2, 2], [1, 1]]
        assert some.now.tolist() == [2, 1]
        assert some.histories == [histories[2], histories[1]]
        if masked:
            assert some.mask is not None
            assert some.mask.all(axis=1).tolist() == [True, False]
        else:
            assert some.mask is None

    def test_each_row_stands_alone(self) -> None:
        """In plain numbers, with a bit for each choice that the request leaves."""
        context = context_of([[1, 2, 3]], facts=[[4, 5]], mask=[[True, False, True, True, False, False]])

        (row,) = context.each

        assert (row.observation, row.facts, row.mask, row.now) == ([1, 2, 3], [4, 5], 0b1101, NOW)
        assert row.history is context.histories[0]
        assert repr(row).startswith("Row(observation=[1.0, 2.0, 3.0], facts=[4.0, 5.0], mask=13, now=17")

    @pytest.mark.parametrize("dtype", ["float32", "int64", "uint8"])
    def test_numbers_are_doubles(self, dtype: str) -> None:
        """Whatever the policy reads; of an image, whose numbers have no names, there are none."""
        whole = context_of([[1, 2, 3]])
        context = Context(whole.observation.astype(dtype), whole.facts, None, whole.now, whole.histories)
        image = Context(np.zeros((1, 2, 2, 3)), whole.facts, None, whole.now, whole.histories)

        assert [type(number) for number in context.each[0].observation] == [float] * 3
        assert image.each[0].observation == ()

    def test_what_was_read_out_of_it_is_no_part_of_it(self) -> None:
        """A context that was asked is still the same."""
        asked = context_of([[0, 0, 0]])
        other = Context(asked.observation, asked.facts, asked.mask, asked.now, asked.histories)

        assert asked.each is asked.each
        assert asked == other


class TestSince:
    """How long ago something was."""

    def test_the_last_change(self) -> None:
        """Never where nothing changed; since it was first seen where that is not known."""
        changed = FRESH.advanced(3, NOW - 9, frozenset()).advanced(4, NOW - 2, frozenset())
        strange = STRANGE.advanced(3, NOW - 4, frozenset()).advanced(4, NOW - 3, frozenset())

        assert [one.since_change(NOW) for one in (FRESH, STRANGE, changed, strange)] == [NEVER, 5, 2, 3]

    def test_the_latest_use_of_some_choices_counts(self) -> None:
        """Any of them."""
        history = History(known=True, since=NOW - 99, used={1: NOW - 7, 2: NOW - 3, 3: NOW - 1})

        assert history.since_use(NOW, [1, 2]) == 3

    def test_what_was_never_used_rests_longer_than_any_cooldown(self) -> None:
        """An episode begins rested."""
        assert FRESH.since_use(NOW, [1]) > 365 * 86400

    @pytest.mark.parametrize(("used", "expected"), [({}, 5), ({1: NOW - 2}, 2), ({1: NOW - 60}, 5)])
    def test_a_use_is_the_worst_where_history_is_unknown(self, used: dict[int, float], expected: float) -> None:
        """It may have been executed elsewhere just before the session was first seen."""
        assert History(known=False, since=NOW - 5, used=used).since_use(NOW, [1]) == expected
