"""The pieces of an expression: what each gives, and which of its failures count."""

import numpy as np
import pytest

from guards.records import Booleans, History
from guards.terms import (
    Evaluate,
    Result,
    Scene,
    Values,
    chosen,
    combined,
    computed,
    constant,
    fallible,
    joined,
    mapped,
    observed,
    per_action,
    previous_action,
)
from tests.fakes import NOW, context_of

CONTEXT = context_of([[1, 0, 3], [2, 5, 6]])
ALL = Scene(CONTEXT, None)
ONE = Scene(CONTEXT, np.array([4, 1]))


def given(values: list[float] | list[bool], failed: list[bool] | None = None) -> Evaluate:
    """A term that gives these cells, of which some failed."""
    result: Result = np.array(values), None if failed is None else np.array(failed)
    return lambda _: result


def cells(result: Result) -> tuple[Values, Booleans]:
    """A result's values and failures, shaped alike."""
    values, failed = result
    return values, np.broadcast_to(np.False_ if failed is None else failed, values.shape)


def test_a_scene_of_all_actions_stands_rows_beside_actions() -> None:
    """Rows are [N, 1] and actions [1, A], so that they broadcast to [N, A]."""
    assert ALL.per_row(np.arange(2)).shape == (2, 1)
    assert ALL.per_action(np.arange(6)).shape == (1, 6)


def test_a_scene_of_one_action_a_row_picks_its_entry() -> None:
    """Rows stay [N], and a table gives the entry of each row's action."""
    assert ONE.per_row(np.arange(2)).tolist() == [0, 1]
    assert ONE.per_action(np.arange(6) * 10).tolist() == [40, 10]


def test_a_constant_is_the_same_in_every_cell() -> None:
    """It has one cell that broadcasts, and cannot fail."""
    values, failed = constant(2.5)(ALL)

    assert values.tolist() == [2.5]
    assert failed is None


def test_an_observed_field_is_its_column() -> None:
    """The column of the field's index, one entry a row."""
    assert observed(2)(ONE)[0].tolist() == [3, 6]
    assert observed(2)(ALL)[0].tolist() == [[3], [6]]


def test_a_table_is_looked_up_at_the_action_asked_about() -> None:
    """Something that depends on the action alone."""
    assert per_action(np.arange(6) * 2)(ONE)[0].tolist() == [8, 2]


@pytest.mark.parametrize(
    ("values", "failed"), [([1, 2], None), ([np.nan, 2], [True, False]), ([1, np.inf], [False, True])]
)
def test_fallible_numbers_fail_where_they_are_not_finite(values: list[float], failed: list[bool] | None) -> None:
    """A fact that was not told is no number to compare with."""
    _, found = fallible(lambda _: np.array(values, dtype=np.float64))(ONE)

    assert (None if found is None else found.tolist()) == failed


def test_the_previous_action_fails_only_where_history_is_elsewhere() -> None:
    """Before the first decision it is no action, which is known."""
    histories = [History(known=True, since=NOW), History(known=False, since=NOW)]
    mixed = context_of([[0, 0, 0]] * 2, histories=histories)

    assert cells(previous_action(Scene(mixed, None)))[1].tolist() == [[False], [True]]
    assert previous_action(ONE)[1] is None


def test_a_mapped_value_fails_where_its_inner_one_does() -> None:
    """Negating a failure is a failure."""
    values, failed = mapped(np.negative, given([1.0, 2.0], [True, False]))(ONE)

    assert values.tolist() == [-1, -2]
    assert failed is not None
    assert failed.tolist() == [True, False]


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (None, None, [False, False]),
        ([True, False], None, [True, False]),
        (None, [False, True], [False, True]),
        ([True, False], [False, True], [True, True]),
    ],
)
def test_a_combination_fails_where_either_side_does(
    left: list[bool] | None, right: list[bool] | None, expected: list[bool]
) -> None:
    """Python evaluates both sides of a comparison."""
    _, failed = cells(combined(np.less, given([1.0, 2.0], left), given([3.0, 4.0], right))(ONE))

    assert failed.tolist() == expected


def test_arithmetic_fails_where_its_result_is_not_finite() -> None:
    """A division by zero fails in its own cell alone."""
    with np.errstate(all="ignore"):
        values, failed = cells(computed(np.divide, given([1.0, 1.0]), given([0.0, 2.0]))(ONE))

    assert failed.tolist() == [True, False]
    assert values[1] == 0.5


@pytest.mark.parametrize(("stop", "joining"), [(False, all), (True, any)])
def test_joined_conditions_are_and_or_or(stop: bool, joining: "type[all]") -> None:  # type: ignore[valid-type]
    """All four cells of two truths, as Python joins them."""
    left, right = [False, False, True, True], [False, True, False, True]

    values, failed = joined([given(left), given(right)], stop=stop)(ONE)

    assert values.tolist() == [joining(pair) for pair in zip(left, right, strict=True)]  # type: ignore[misc]
    assert failed is None


@pytest.mark.parametrize(("stop", "expected"), [(False, [False, True]), (True, [True, False])])
def test_a_failure_counts_only_where_python_would_have_met_it(stop: bool, expected: list[bool]) -> None:
    """``and`` goes on after a true part, ``or`` after a false one."""
    _, failed = cells(joined([given([False, True]), given([True, True], [True, True])], stop=stop)(ONE))

    assert failed.tolist() == expected


def test_a_failure_of_the_first_part_always_counts() -> None:
    """Nothing stands before it that could have stopped the evaluation."""
    parts = [given([False, True], [True, True]), given([True, True])]

    assert cells(joined(parts, stop=False)(ONE))[1].tolist() == [True, True]


@pytest.mark.parametrize(
    ("test", "body", "otherwise", "expected"),
    [
        (None, None, None, [False, False]),
        (None, [True, True], None, [True, False]),
        (None, None, [True, True], [False, True]),
        ([False, True], [True, True], [False, False], [True, True]),
    ],
)
def test_a_conditional_fails_in_its_test_and_in_the_branch_taken(
    test: list[bool] | None, body: list[bool] | None, otherwise: list[bool] | None, expected: list[bool]
) -> None:
    """The branch not taken is not evaluated, as far as anybody can see."""
    condition = given([True, False], test)

    values, failed = cells(chosen(condition, given([1.0, 1.0], body), given([2.0, 2.0], otherwise))(ONE))

    assert values.tolist() == [1, 2]
    assert failed.tolist() == expected
