"""Which part of a file is the table: the whole, the only one among settings, or the one that was named."""

import collections
import pickle
from decimal import Decimal

import numpy as np
import pytest

from export.errors import CheckpointRefused, NeedsUnpickling, OptionInvalid
from export.inert import read_inert
from export.inert_arrays import array_in, is_array
from export.tables.choosing import chosen, entries_of, is_number

TABLE = np.array([[1.0, 2.0], [3.0, 4.0]])


class Agent:
    """An agent as people write one."""

    def __init__(self) -> None:
        self.epsilon = 0.1
        self.Q = {0: [1.0, 2.0], 1: [3.0, 4.0]}
        self.history = [1, 2, 3]


def found(value: object, key: str = "") -> tuple[object, str, tuple[str, ...]]:
    """What is chosen out of a pickle, plain where it is an array."""
    part, place, aside = chosen(read_inert(pickle.dumps(value), "q.pkl"), "q.pkl", key)
    return (array_in(part, place).tolist() if is_array(part) else part), place, aside


@pytest.mark.parametrize(
    ("value", "place", "aside"),
    [
        (TABLE, "q.pkl", ()),
        (TABLE.tolist(), "q.pkl", ()),
        ({"qtable": TABLE}, "q.pkl: qtable", ()),
        ({"Q": TABLE, "gamma": 0.9}, "q.pkl: Q", ("gamma",)),
        ({"values": TABLE, "seeds": [1, 2, 3]}, "q.pkl: values", ("seeds",)),
        ({"Q": TABLE, "rewards": np.arange(9.0)}, "q.pkl: Q", ("rewards",)),
        ({"visits": TABLE, "q_table": TABLE}, "q.pkl: q_table", ("visits",)),
        ({"visits": TABLE, "Q-Table": TABLE.tolist()}, "q.pkl: Q-Table", ("visits",)),
    ],
)
def test_the_table_is_found_among_settings(value: object, place: str, aside: tuple[str, ...]) -> None:
    """An array alone, the only array of two axes in a dict, or the one that is called so."""
    part, where, beside = found(value)

    assert part == TABLE.tolist()
    assert (where, beside) == (place, aside)


@pytest.mark.parametrize("names", [("weight", "bias"), ("fc.weight", "fc.bias"), ("W", "b")])
def test_the_weights_of_a_layer_are_no_table(names: tuple[str, str]) -> None:
    """A matrix beside a row may be a linear policy, whose rows no state names: it is refused until told."""
    weights = {names[0]: TABLE, names[1]: np.ones(2)}

    with pytest.raises(CheckpointRefused, match=f"--table-key {names[0]} if that is a table, or declare the network"):
        found(weights)


def test_a_matrix_beside_a_row_is_a_table_where_it_is_named() -> None:
    """Whoever names it knows what it is."""
    assert found({"values": TABLE, "rewards": np.arange(9.0)}, "values")[0] == TABLE.tolist()


def test_the_hugging_face_course_s_file_is_read() -> None:
    """The dict of its Q-learning unit: settings, seeds, and ``qtable``."""
    settings = {
        "env_id": "FrozenLake-v1",
        "max_steps": 99,
        "n_training_episodes": 10000,
        "eval_seed": [],
        "gamma": 0.95,
    }

    part, place, aside = found({**settings, "qtable": TABLE})

    assert (part, place, aside) == (TABLE.tolist(), "q.pkl: qtable", tuple(settings))


@pytest.mark.parametrize(
    "value",
    [
        {0: [1.0, 2.0], 1: [3.0, 4.0]},
        {"0": [1.0, 2.0], "1": [3.0, 4.0]},
        {(0, 0): {"up": 1.0}, (0, 1): {"up": 2.0}},
        collections.OrderedDict({0: [1.0, 2.0], 1: [3.0, 4.0]}),
        collections.defaultdict(list, {0: [1.0, 2.0], 1: [3.0, 4.0]}),
    ],
)
def test_a_dict_by_state_is_the_table_itself(value: object) -> None:
    """Of keys that are numbers, also as text, and of dicts of any class."""
    part, place, aside = found(value)

    assert len(entries_of(part) or ()) == 2
    assert (place, aside) == ("q.pkl", ())


def test_the_attributes_of_an_object_are_as_good_as_a_dict() -> None:
    """A pickled agent is not made, but its table is read where it stands."""
    part, place, aside = found(Agent())

    assert (part, place, aside) == ({0: [1.0, 2.0], 1: [3.0, 4.0]}, "q.pkl: Q", ("epsilon", "history"))


@pytest.mark.parametrize("key", ["second", "inner.table"])
def test_a_key_says_which(key: str) -> None:
    """Also one that lies deeper."""
    value = {"first": TABLE, "second": TABLE + 1, "inner": {"table": TABLE + 1, "other": TABLE}}

    assert found(value, key)[0] == (TABLE + 1).tolist()


@pytest.mark.parametrize(
    ("value", "key", "error", "message"),
    [
        (
            {"Q1": TABLE, "Q2": TABLE},
            "",
            CheckpointRefused,
            r"several tables \(Q1, Q2\): say which one with --table-key",
        ),
        ({"Q": TABLE, "q_table": TABLE}, "", CheckpointRefused, "several tables"),
        ({"gamma": 0.9, "rewards": [1, 2]}, "", CheckpointRefused, "has no table among gamma, rewards"),
        ({"agent": {"Q": TABLE}}, "", CheckpointRefused, "no table among agent.*--table-key OUTER.INNER"),
        ({"low": [1.0, 2.0], "high": [3.0, 4.0]}, "", CheckpointRefused, r"values by names \(low, high\).*number the"),
        ({}, "", CheckpointRefused, "q.pkl is empty"),
        (3, "", CheckpointRefused, "q.pkl is a int, expected a table"),
        (Decimal(3), "", NeedsUnpickling, "q.pkl is an object of decimal.Decimal, expected a table"),
        ({"Q": TABLE}, "q", OptionInvalid, "--table-key is 'q', but q.pkl has no 'q', expected one of Q$"),
        (TABLE, "q", OptionInvalid, "expected a dict or an object by name"),
    ],
)
def test_what_is_unsure_is_refused(value: object, key: str, error: type[Exception], message: str) -> None:
    """Several tables, none, or a key that is not there."""
    with pytest.raises(error, match=message):
        found(value, key)


def test_names_of_the_file_are_cut_short() -> None:
    """What a file calls its entries is shown in part and without control characters."""
    with pytest.raises(CheckpointRefused) as refused:
        found({f"{at}\x1b[2J{'a' * 500}": 1 for at in range(100)})

    assert len(str(refused.value)) < 600
    assert str(refused.value).isprintable()


def test_numbers_are_told_from_rows_and_truths() -> None:
    """One number is one of NumPy's too; an array of one is a row."""
    values = [1, 0.5, np.float64(1), np.array(1.0), True, np.array([1.0]), [1.0], "1", None]
    inert: object = read_inert(pickle.dumps(values), "q.pkl")

    assert [is_number(one) for one in inert] == [True] * 4 + [False] * 5  # type: ignore[attr-defined]  # a list
