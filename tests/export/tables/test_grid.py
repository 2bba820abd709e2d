"""Tables laid out over their axes: what is where, what is missing, and what a table is refused for."""

from collections.abc import Sequence

import numpy as np
import pytest

from export.errors import CheckpointRefused, OptionInvalid
from export.tables.grid import Table, TableAsked, of_array, of_states
from export.tables.states import ByState

VALUES = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
STATES = [(row, column) for row in range(2) for column in range(3)]
ROWS = VALUES.reshape(6, 4)
PLAIN = TableAsked()


def by_states(states: Sequence[tuple[int, ...]], rows: object, **more: object) -> Table:
    """A table of these states and rows, with what was asked and what the file says."""
    asked = more.pop("asked", PLAIN)
    assert isinstance(asked, TableAsked)
    return of_states(ByState(states, np.array(rows, dtype=np.float64), **more), "q.pkl", asked)  # type: ignore[arg-type]  # as each test says


def test_an_array_has_its_actions_last() -> None:
    """All other axes are states, from 0 on."""
    table = of_array(VALUES, "q.npy", PLAIN)

    assert np.array_equal(table.values, VALUES)
    assert (table.sizes, table.lows, table.told) == ((2, 3), (0, 0), ("table: 2 x 3 states x 4 actions",))


@pytest.mark.parametrize(("shape", "axes"), [((6, 4), (2, 3)), ((2, 3, 4), (6,)), ((2, 3, 4), (3, 2))])
def test_axes_that_are_asked_for_cut_the_states_anew(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """Row-major, as NumPy reshapes: the actions stay where they are."""
    table = of_array(VALUES.reshape(shape), "q.npy", TableAsked(axes=axes))

    assert np.array_equal(table.values, VALUES.reshape(*axes, 4))


@pytest.mark.parametrize(
    ("array", "asked", "error", "message"),
    [
        (np.zeros(3), PLAIN, CheckpointRefused, r"q.npy is float64\[3\], expected numbers \[states, actions\]"),
        (np.zeros((0, 3)), PLAIN, CheckpointRefused, "expected numbers"),
        (np.zeros((2, 2), dtype=bool), PLAIN, CheckpointRefused, "expected numbers"),
        (np.zeros((3, 2)), PLAIN, CheckpointRefused, "value 0 everywhere.*expected the table after training"),
        (np.full((2, 2, 2), 0.5), PLAIN, CheckpointRefused, "value 0.5 everywhere"),
        (VALUES[..., None], PLAIN, CheckpointRefused, r"one action for each state \(2 x 3 x 4 x 1\).*axis of length 1"),
        (np.arange(5.0)[:, None], PLAIN, CheckpointRefused, "nothing to choose"),
        (np.zeros((3, 1)), PLAIN, CheckpointRefused, "one action for each state"),
        (np.arange(2 * 65537).reshape(2, 65537), PLAIN, CheckpointRefused, "65537 actions.*axes in another order"),
        (VALUES, TableAsked(axes=(4, 4)), OptionInvalid, "--table-axes is 4,4, which is 16 states, but q.npy has 6"),
        (VALUES, TableAsked(missing=0.0), OptionInvalid, "--table-missing is 0, but q.npy is an array"),
    ],
)
def test_an_array_that_is_no_table_is_refused(
    array: np.ndarray, asked: TableAsked, error: type[Exception], message: str
) -> None:
    """Too few axes, no numbers, no knowledge in it, or other states than those asked for."""
    with pytest.raises(error, match=message):
        of_array(array, "q.npy", asked)


@pytest.mark.parametrize("order", [1, -1])
def test_rows_go_where_their_states_are(order: int) -> None:
    """In whatever order the file has them."""
    table = by_states(STATES[::order], ROWS[::order])

    assert np.array_equal(table.values, VALUES)
    assert table.by_state is not None
    assert table.by_state[1, 2].tolist() == VALUES[1, 2].tolist()


@pytest.mark.parametrize(("first", "said"), [((4, 1), "(4, 1)"), ((-1, 0), "(-1, 0)")])
def test_states_begin_where_the_file_s_begin(first: tuple[int, int], said: str) -> None:
    """A table from 4 or from -1 on has no rows below: nothing is made up, and nothing wraps."""
    table = by_states([(row + first[0], column + first[1]) for row, column in STATES], ROWS)

    assert np.array_equal(table.values, VALUES)
    assert (table.lows, table.told[0]) == (first, f"table: 2 x 3 states (from {said} on) x 4 actions")


def test_one_number_is_cut_into_the_axes_that_are_asked_for() -> None:
    """A dict by ``row * 3 + column`` is a table of two axes where somebody says so."""
    table = by_states([(at,) for at in range(6)], ROWS, asked=TableAsked(axes=(2, 3)))

    assert np.array_equal(table.values, VALUES)
    assert table.by_state is not None
    assert table.by_state[1, 2].tolist() == VALUES[1, 2].tolist()


def test_missing_states_are_refused_until_somebody_says_what_they_are() -> None:
    """A plain dict has no answer for them, and zeros would be a policy that nobody trained."""
    with pytest.raises(
        CheckpointRefused, match=r"does not have 2 of 6 states \(\(0, 1\), \(1, 1\)\).*--table-missing 0"
    ):
        by_states([STATES[0], STATES[2], STATES[3], STATES[5]], ROWS[[0, 2, 3, 5]])


def test_missing_values_are_refused_too() -> None:
    """Of a state that has a value for some actions."""
    with pytest.raises(CheckpointRefused, match=r"does not have all values of 1 states \(0\)"):
        by_states([(0,), (1,)], [[1.0, np.nan], [2.0, 3.0]])


@pytest.mark.parametrize(
    ("more", "row", "said"),
    [
        ({"asked": TableAsked(missing=0.0)}, [0.0, 0.0], "they get 0, so that the first action is best"),
        ({"default": np.array([1.5])}, [1.5, 1.5], "they get 1.5, so that the first action is best"),
        ({"default": np.array([1.0, 2.0])}, [1.0, 2.0], "they get [1.0, 2.0]"),
        ({"default": np.array([9.0]), "asked": TableAsked(missing=0.0)}, [0.0, 0.0], "they get 0"),
    ],
)
def test_missing_states_are_filled_and_told(more: dict[str, object], row: list[float], said: str) -> None:
    """With what was asked for, else with the default that the file names: on a line of its own."""
    table = by_states([(0,), (2,)], [[1.0, 2.0], [3.0, 4.0]], **more)

    assert table.values.tolist() == [[1.0, 2.0], row, [3.0, 4.0]]
    assert table.told[1] == table.missing
    assert table.missing.startswith("missing from the file: 1 of 3 states (1); ")
    assert said in table.missing


def test_a_missing_value_is_filled_where_its_state_has_others() -> None:
    """Also in the rows that the graph is compared with."""
    table = by_states([(0,), (1,)], [[1.0, np.nan], [2.0, 3.0]], default=np.array([0.5]))

    assert table.values.tolist() == [[1.0, 0.5], [2.0, 3.0]]
    assert table.by_state is not None
    assert table.by_state[0,].tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("asked", "default", "error", "message"),
    [
        (TableAsked(axes=(2,)), None, OptionInvalid, "--table-axes is 2, but the states of q.pkl have 2 numbers each"),
        (TableAsked(axes=(2, 2)), None, OptionInvalid, r"--table-axes is 2,2, but q.pkl has the state \(0, 2\)"),
        (PLAIN, np.zeros(3), CheckpointRefused, "gives 3 values to a state that it does not have, expected 4"),
    ],
)
def test_what_does_not_fit_the_states_is_refused(
    asked: TableAsked, default: np.ndarray | None, error: type[Exception], message: str
) -> None:
    """Axes that do not hold them, and a default of another width."""
    with pytest.raises(error, match=message):
        by_states(STATES, ROWS, asked=asked, default=default)


def test_states_far_apart_take_no_memory() -> None:
    """Two states may not claim the space between them."""
    with pytest.raises(CheckpointRefused, match=r"q.pkl has 2 states within .* expected at most"):
        by_states([(0, 0), (2**40, 2**40)], [[1.0, 2.0], [3.0, 4.0]], asked=TableAsked(missing=0.0))


def test_the_line_says_names_and_what_looks_turned() -> None:
    """Which action is which by the file's names; and more actions than states may be a table that lies on its side."""
    named = of_states(ByState([(0,), (1,)], np.eye(2), ("up", "down")), "q.pkl", PLAIN, ("gamma", "seed"))
    turned = of_array(VALUES.reshape(2, 12), "q.npy", PLAIN)

    assert named.told == (
        "table: 2 states x 2 actions (up, down)",
        "beside the table, and not used: gamma, seed",
    )
    assert turned.told == ("table: 2 states x 12 actions; states go by rows: is it turned?",)
