"""Tables by state: rows, values by action, and values by state and action are the same table."""

import pickle
from decimal import Decimal

import numpy as np
import pytest

from export.errors import CheckpointRefused, NeedsUnpickling
from export.inert import read_inert
from export.tables.states import by_state, listed

NAN = float("nan")


def inert(value: object) -> object:
    """A value as the inert reader gives it."""
    return read_inert(pickle.dumps(value), "q.pkl")


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ({(0, 3): [1.0, 2.0], (1, 0): (3, 4)}, ()),
        ({(0, 3): np.array([1.0, 2.0]), (1, 0): np.array([3, 4])}, ()),
        ({(0, 3): [np.float32(1), np.float64(2)], (1, 0): [np.int64(3), 4]}, ()),
        ({(0, 3): {0: 1.0, 1: 2.0}, (1, 0): {1: 4.0, 0: 3.0}}, ()),
        ({(0, 3): {"up": 1.0, "down": 2.0}, (1, 0): {"down": 4.0, "up": np.float64(3)}}, ("up", "down")),
        ({(0, 3, 0): 1.0, (0, 3, 1): 2.0, (1, 0, 1): 4.0, (1, 0, 0): 3.0}, ()),
        ({((0, 3), "up"): 1.0, ((0, 3), "down"): 2.0, ((1, 0), "up"): 3.0, ((1, 0), "down"): 4.0}, ("up", "down")),
        ({0: {3: [1.0, 2.0]}, 1: {0: [3.0, 4.0]}}, ()),
        ({"(0, 3)": [1.0, 2.0], "(1, 0)": [3.0, 4.0]}, ()),
    ],
)
def test_every_way_to_write_a_table_is_read_alike(table: object, names: tuple[str, ...]) -> None:
    """Rows and numbers of any kind, dicts within dicts, the action in the key or behind it, by number or by name."""
    found = by_state(inert(table), "q.pkl")

    assert list(found.states) == [(0, 3), (1, 0)]
    assert found.rows.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert found.actions == names


@pytest.mark.parametrize(
    ("table", "guessed"),
    [
        ({(0, 0): 0.1, (0, 1): 0.2, (1, 0): 0.3, (1, 1): 0.4}, True),
        ({"0,0": 1, "0,1": 2, "1,0": 3, "1,1": 0}, True),
        ({(2, 0, 0): 0.1, (2, 0, 1): 0.2}, True),
        ({((2, 0), 0): 0.1, ((2, 0), 1): 0.2}, False),
        ({0: {0: 0.1, 1: 0.2}}, False),
        ({(0, 1): {0: 0.1, 1: 0.2}}, False),
        ({(0, "up"): 0.1, (0, "down"): 0.2}, False),
        ({(0, 1): [0.1, 0.2]}, False),
    ],
)
def test_an_action_that_only_its_place_tells_is_a_guess(table: object, guessed: bool) -> None:
    """Values, or actions, of states ``(x, y)`` look the same as values of a state and an action."""
    assert by_state(inert(table), "q.pkl").guessed is guessed


def test_a_value_that_is_not_there_stays_open() -> None:
    """Of states with values for some actions the others are NaN, for whoever lays the table out."""
    found = by_state(inert({(0, 0): 1.0, (0, 1): 2.0, (1, 1): 3.0}), "q.pkl")

    np.testing.assert_array_equal(found.rows, [[1.0, 2.0], [NAN, 3.0]])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({0: [1.0, 2.0], 1: [1.0]}, "is ragged: the state 0 has 2 actions and 1 has 1"),
        ({0: [], 1: []}, "for the state 0, expected a row of numbers"),
        ({0: [[1.0, 2.0]]}, r"has float64\[1, 2\] for the state 0, expected a row"),
        ({0: np.array([True, False])}, r"has bool\[2\] for the state 0, expected a row"),
        ({0: [1.0, 2.0], (0, 1): [1.0, 2.0]}, r"states of different lengths, 0 and \(0, 1\)"),
        ({0: [1.0, 2.0], 1: 0.5}, "rows for some states and single values for others"),
        ({0: 1.0, 1: 2.0}, "one number for a state, expected one for each of its actions: these are values of states"),
        ({(0, 1): 1.0, (0, 2): 2.0}, "has the actions 1, 2, expected 0, 1, 2"),
        ({(0, 0): 1.0, (0, "up"): 2.0}, "has the actions 0, up, expected 0, 1, 2"),
        ({("home", 0): 1.0, ("home", 1): 2.0}, "has the state 'home', expected states of whole numbers"),
        ({0: [1.0, NAN]}, "NaN or infinite for 0"),
        ({(0, 0): 1.0, (0, 1): float("-inf")}, r"NaN or infinite for \(0, 1\)"),
        ({0: "left", 1: "right"}, "has a str at 0|expected a row of values"),
        ({0: [1.0, 2.0], np.int64(0): [3.0, 4.0], "0": [5.0, 6.0]}, "has the state 0 twice"),
        ({0: [1.0, None]}, "a value is a NoneType"),
        ({0.5: [1.0, 2.0]}, "number the bins"),
    ],
)
def test_what_does_not_fit_is_said(table: object, message: str) -> None:
    """Each with the state that it is about."""
    with pytest.raises(CheckpointRefused, match=message):
        by_state(inert(table), "q.pkl")


def test_objects_are_left_to_who_trusts_them() -> None:
    """A row that is an object of a class of somebody's own is no data."""
    with pytest.raises(NeedsUnpickling, match=r"q.pkl has an object of decimal.Decimal at 0, expected a row of values"):
        by_state(inert({0: Decimal(1)}), "q.pkl")


def test_nested_lists_are_an_array() -> None:
    """Lists of lists, of tuples and of arrays have one axis more for each."""
    nested = listed([[[1, 2], (3, 4)], [[5, 6], [7.5, 8]]], "q.pkl")

    assert nested.tolist() == [[[1, 2], [3, 4]], [[5, 6], [7.5, 8]]]
    assert listed([], "q.pkl").shape == (0,)


@pytest.mark.parametrize("rows", [[[1, 2], [3]], [[1, 2], 3], [[[1], [2]], [[1, 2]]]])
def test_ragged_lists_are_refused(rows: list[object]) -> None:
    """A table has as many actions in every state."""
    with pytest.raises(CheckpointRefused, match=r"q.pkl is ragged"):
        listed(rows, "q.pkl")
