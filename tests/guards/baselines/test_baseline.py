"""Proposers: how settings are read, and how mistakes in them are told."""

import numpy as np
import pytest
from pydantic import ValidationError

from guards.baselines import KEPT, Constant
from guards.baselines.baseline import action_of, number_of
from guards.constraints import Rule
from guards.errors import ExpressionInvalid, GuardMisconfigured
from tests.fakes import SCHEMA, context_of


def test_an_expression_is_worked_out_for_a_row() -> None:
    """No number where it has none."""
    number = number_of("of", "load / lag", SCHEMA)

    found = [number(row) for row in context_of([[1, 2, 0], [1, 0, 0], [3, 1, 0]]).each]

    np.testing.assert_array_equal(found, [0.5, np.nan, 3])


@pytest.mark.parametrize(("written", "value"), [(21.5, 21.5), (-3.0, -3.0), (1e-9, 1e-9), ("2 * 3", 6)])
def test_a_number_is_the_same_in_every_row(written: str | float, value: float) -> None:
    """Nothing in it depends on a row."""
    number = number_of("target", written, SCHEMA)

    assert [number(row) for row in context_of([[0, 0, 0]] * 3).each] == [value] * 3


def test_whole_numbers_that_were_observed_are_doubles() -> None:
    """Before anything is worked out of them."""
    (row,) = context_of([[3, 0, 0]]).each
    row.observation = [3, 0, 0]

    assert type(number_of("of", "load", SCHEMA)(row)) is float


@pytest.mark.parametrize("written", ["cpu", "load > 1", "action", "1 if action == 'up' else 0", "load +"])
def test_a_mistake_in_an_expression_names_the_setting(written: str) -> None:
    """And keeps its class, whose message points at the column."""
    with pytest.raises(ExpressionInvalid, match=r"^metric: expression .* column \d+: "):
        number_of("metric", written, SCHEMA)


@pytest.mark.parametrize("written", [3, None, {"up": 1}, ["up", None], [["up"]], [True]])
def test_what_is_written_as_no_action_is_refused(written: object) -> None:
    """Whatever the space: an action is a name, or a list of names, indices or numbers."""
    with pytest.raises(ValidationError, match="the name of an action, or a list of names") as caught:
        Constant.model_validate({"kind": "constant", "action": written})

    assert caught.value.errors()[0]["type"] == "action"


def test_no_constraint_keeps_anything_where_a_baseline_does() -> None:
    """Histories keep both under names, and no constraint may be called so."""
    with pytest.raises(ValidationError, match="at least 1 character"):
        Rule(name=KEPT, forbid="True")


def test_an_action_is_read_by_its_name() -> None:
    """As the schema has it."""
    assert action_of("first", "jump", SCHEMA) == 3


def test_a_mistake_in_an_action_names_the_setting() -> None:
    """With the actions that there are."""
    with pytest.raises(
        GuardMisconfigured, match=r"^below\.action: the action 'fly' is not known, expected one of hold"
    ):
        action_of("below.action", "fly", SCHEMA)
