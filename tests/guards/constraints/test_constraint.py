"""Constraints: what each kind forbids, and what holds for all of them."""

from random import Random
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from guards.abstention import AnyConstraint
from guards.actions import Choices
from guards.constraints import Constraint
from guards.constraints import constraint as words
from guards.constraints.constraint import shown
from guards.records import NO_ACTION
from tests.fakes import SCHEMA
from tests.guards.asked import binding
from tests.guards.batched import Context
from tests.guards.constraints.docs_rows import PAGE, lacking, name_of
from tests.guards.constraints.loop import parsed
from tests.guards.strategies import constraints, contexts

KINDS = get_args(get_args(AnyConstraint)[0])
# One of each kind as it stands in a configuration: a new kind is tested when it has its line here.
EXAMPLES: dict[str, dict[str, Any]] = {
    "rule": {"kind": "rule", "name": "r", "forbid": "action == 'up' and load > 1"},
    "cooldown": {"kind": "cooldown", "name": "c", "actions": ("up", "down"), "seconds": 60.0},
    "bounds": {"kind": "bounds", "name": "b", "of": "pods", "effect": {"up": 1.0, "down": -1.0}, "low": 1.0},
    "linear": {"kind": "linear", "name": "h", "coefficients": {"torque": 1.0, "grip": "pods"}, "at_most": "2 * load"},
    "rate_limit": {"kind": "rate_limit", "name": "l", "per_second": 0.5, "effect": {"up": 1.0, "down": -1.0}},
    "budget": {"kind": "budget", "name": "s", "cost": "load", "at_most": 5.0, "seconds": 60.0},
    "max_switches": {"kind": "max_switches", "name": "m", "at_most": 3, "seconds": 60.0},
    "quorum": {"kind": "quorum", "name": "q", "at_most": 0.1},
    "confidence": {"kind": "confidence", "name": "s", "at_least": 0.05},
    "novelty": {"kind": "novelty", "name": "n", "false_alarms": 0.01},
    "fresh": {"kind": "fresh", "name": "f", "max_age_seconds": 5.0, "missing": "allow"},
}
MISTAKES = [
    {"name": ""},
    {"name": "n" * 101},
    {"mode": "block"},
    {"unknown": 1},
    {"kind": "regex"},
]


class TestEveryKind:
    """What every constraint of the union keeps to."""

    def test_every_kind_has_an_example(self) -> None:
        """A new kind is tested the moment it exists."""
        assert {kind.model_fields["kind"].default for kind in KINDS} == set(EXAMPLES)

    @pytest.mark.parametrize("kind", KINDS, ids=name_of)
    def test_it_has_a_row_in_the_page_about_the_configuration(self, kind: type[Constraint]) -> None:
        """With the name of every setting."""
        assert lacking(kind, PAGE.read_text("utf-8")) is None

    @pytest.mark.parametrize("kind", EXAMPLES)
    def test_it_is_what_was_written(self, kind: str) -> None:
        """Nothing is lost or added between the file and the object."""
        constraint = parsed(EXAMPLES[kind])

        assert constraint.model_dump(exclude_unset=True) == EXAMPLES[kind]
        assert constraint.mode == "deny"

    @pytest.mark.parametrize("mistake", MISTAKES, ids=str)
    @pytest.mark.parametrize("kind", EXAMPLES)
    def test_a_mistake_is_refused(self, kind: str, mistake: dict[str, Any]) -> None:
        """Names, modes and settings that do not exist fail at start."""
        with pytest.raises(ValidationError):
            parsed(EXAMPLES[kind] | mistake)

    @pytest.mark.parametrize("kind", EXAMPLES)
    def test_it_cannot_change(self, kind: str) -> None:
        """A configuration is read once."""
        constraint = parsed(EXAMPLES[kind])

        with pytest.raises(ValidationError, match="frozen"):
            constraint.mode = "warn"  # type: ignore[misc] # it is read-only, as mypy says too

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(constraints(), contexts(), st.randoms(use_true_random=False))
    def test_one_action_a_row_is_answered_as_all_at_once(
        self, some: list[Constraint], context: Context, random: Random
    ) -> None:
        """Two questions, one meaning: the check relies on it."""
        shape = (len(context), len(SCHEMA.actions))
        choice = np.array([random.randrange(shape[1]) for _ in range(shape[0])])

        for constraint in some:
            forbids = binding(constraint, SCHEMA)
            cells = np.broadcast_to(forbids(context, None), shape)
            assert cells.dtype == np.bool_
            one = np.broadcast_to(forbids(context, choice), shape[:1])
            assert one.tolist() == cells[np.arange(shape[0]), choice].tolist()

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(constraints(), contexts())
    def test_a_row_is_judged_alike_in_any_batch(self, some: list[Constraint], context: Context) -> None:
        """What else arrived in the same turn of the loop makes no difference."""
        n = len(context)

        for constraint in some:
            forbids = binding(constraint, SCHEMA)
            together = np.broadcast_to(forbids(context, None), (n, len(SCHEMA.actions)))
            for row in range(n):
                alone = np.broadcast_to(forbids(context.rows(np.array([row])), None), (1, len(SCHEMA.actions)))
                assert alone[0].tolist() == together[row].tolist()


def test_an_action_is_found_by_its_name() -> None:
    """Its index is what policies speak in."""
    assert Choices(SCHEMA).index("jump") == 3


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (3.0, "3"),
        (-2.0, "-2"),
        (0.5, "0.5"),
        (2.0**53 - 1, "9007199254740991"),
        (2.0**53, "9007199254740992.0"),
        (-(2.0**53), "-9007199254740992.0"),
        (1e300, "1e+300"),
        (2**53, "9007199254740992.0"),
    ],
)
def test_numbers_are_shown_as_people_write_them(number: float, text: str) -> None:
    """Whole ones without a point, as long as a double knows them from their neighbours."""
    assert shown(number) == text


def test_only_an_action_of_a_list_has_a_name() -> None:
    """None was done yet, or it is made of several."""
    assert [words.name_of(action, SCHEMA) for action in (1, NO_ACTION, (1, 0))] == ["up", "", ""]
