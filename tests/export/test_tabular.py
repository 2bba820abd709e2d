"""Q-tables: a row for each state, exact, and NaN for a state that the table does not have."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from export.errors import CheckpointRefused, ParityFailed
from export.spec import Field, Fields
from export.tables import Table
from export.tabular import tabular
from export.trained import About
from export.write import build


def test_a_table_answers_its_rows_and_ties_go_to_the_first() -> None:
    """Values are the table's own; of equal ones the first action is the best."""
    table = np.array([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0], [3.0, -1.0, 5.0]])
    policy = tabular(table, "0" * 64)

    answer = policy.answer({"obs": np.array([[2], [0], [1]])})

    assert np.array_equal(answer["q_values"], table[[2, 0, 1]])
    assert answer["action"].tolist() == [2, 1, 0]
    assert policy.observation == Fields(fields=(Field(name="state", low=0, high=2),), dtype="int64")


def test_a_state_out_of_range_is_nan_and_does_not_wrap() -> None:
    """State -1 is not the last row, and a state too high does not fail the rest of the batch."""
    policy = tabular(np.eye(3), "0" * 64)

    rows = policy.answer({"obs": np.array([[-1], [3], [1]])})["q_values"]

    assert np.isnan(rows).all(axis=1).tolist() == [True, True, False]


def test_the_reference_is_the_table_itself() -> None:
    """NumPy's own indexing, in the table's own precision, is what the graph is compared with."""
    table = np.arange(6, dtype=np.float64).reshape(2, 3) / 7
    policy = tabular(table, "0" * 64)

    assert policy.native is not None
    answer = policy.native({"obs": np.array([[1]])})
    assert np.array_equal(answer["q_values"], table[[1]])
    assert answer["action"].tolist() == [2]
    assert policy.native_name.startswith("numpy ")


def test_several_axes_are_held_each_to_its_own_bounds() -> None:
    """One column too far is no state: row-major it would be the first column of the next row."""
    values = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    policy = tabular(Table(values, (0, -1)), "0" * 64)

    rows = policy.answer({"obs": np.array([[1, 1], [0, -1], [0, 2], [0, -2], [2, 0], [-1, 0], [2**62, 2**62]])})

    assert np.array_equal(rows["q_values"][:2], values[[1, 0], [2, 0]])
    assert np.isnan(rows["q_values"][2:]).all()
    fields = (Field(name="state_0", low=0, high=1), Field(name="state_1", low=-1, high=1))
    assert policy.observation == Fields(fields=fields, dtype="int64")


def test_a_dict_is_compared_with_its_own_rows() -> None:
    """A table that was laid out wrongly does not pass: the reference has no axes."""
    rows: dict[tuple[int, ...], NDArray[np.float64]] = {(0, 0): np.array([1.0, 2.0]), (0, 1): np.array([4.0, 3.0])}
    right = Table(np.array([[[1.0, 2.0], [4.0, 3.0]]]), (0, 0), by_state=rows)
    wrong = replace(right, values=right.values[:, ::-1])

    artefact = build(tabular(right, "0" * 64), About(name="lake", version="1"))

    assert artefact.manifest.parity.observations == 2002
    with pytest.raises(ParityFailed):
        build(tabular(wrong, "0" * 64), About(name="lake", version="1"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros(3), r"is float64\[3\], expected numbers \[states, actions\]"),
        (np.zeros((0, 3)), "expected numbers"),
        (np.zeros((2, 2), dtype=bool), "expected numbers"),
        (np.array([[1.0, np.nan]]), "NaN, infinite or beyond float32"),
        (np.array([[1.0, 1e39]]), "NaN, infinite or beyond float32"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(table: np.ndarray, message: str) -> None:
    """Anything but finite numbers [states, actions] is named."""
    with pytest.raises(CheckpointRefused, match=message):
        tabular(table, "0" * 64)


ROWS = np.random.default_rng(3).random((12, 4))


@pytest.mark.parametrize(
    "table",
    [
        1e5 + 1e-3 * ROWS,
        -4e6 + ROWS,
        (2**26 + 30 * ROWS).astype(np.int64),
        Table(values=(2e7 + ROWS.reshape(3, 4, 4)), lows=(2, 0)),
    ],
)
def test_values_that_float32_makes_one_are_refused_where_they_count(table: NDArray[np.float64] | Table) -> None:
    """Far from zero the best action was lost and the export went on; what the message says to do helps."""
    values = table.values if isinstance(table, Table) else table

    with pytest.raises(CheckpointRefused, match=r"float32 cannot tell the best actions of \d+ states apart.*subtract"):
        tabular(table, "0" * 64)

    policy = tabular((values - values.max(axis=-1, keepdims=True)).reshape(12, 4), "0" * 64)
    answer = policy.answer({"obs": np.arange(12)[:, None]})
    assert answer["action"].tolist() == values.reshape(12, 4).argmax(axis=1).tolist()


def test_values_that_only_rounding_keeps_apart_are_ties() -> None:
    """What training meant to be the same differs in the last bits of float64: that is no reason to refuse a table."""
    table = np.array([[0.59049, 0.59049 + 1e-15, 0.2], [0.1, 0.3, 0.1 + 0.2]])

    assert tabular(table, "0" * 64).answer({"obs": np.array([[0], [1]])})["action"].tolist() == [0, 1]
