"""Keys of tables: whole numbers in every way that people write them, and reasons for all others."""

import pickle

import numpy as np
import pytest

from export.errors import CheckpointRefused
from export.inert import read_inert
from export.tables.keys import numbers_in, parts_of, said


def key(value: object) -> object:
    """A key as the inert reader gives it."""
    listed = read_inert(pickle.dumps([value]), "q.pkl")
    assert isinstance(listed, list)
    return listed[0]


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (3, (3,)),
        (-3, (-3,)),
        (True, (1,)),
        (np.int64(3), (3,)),
        (np.bool_(True), (1,)),
        ((0, 3), (0, 3)),
        ((np.int32(0), (3, False)), (0, 3, 0)),
        ("3", (3,)),
        ("(0, 3)", (0, 3)),
        ("[0,3]", (0, 3)),
        ("(7,)", (7,)),
        ("[0 3]", (0, 3)),
        (str(np.array([4, 12, -1])), (4, 12, -1)),
        ("[7]", (7,)),
        ((2, "left"), (2, "left")),
    ],
)
def test_a_key_is_whole_numbers_and_names(given: object, parts: tuple[int | str, ...]) -> None:
    """Plain, of NumPy, truths, tuples within tuples, and the text of them."""
    assert parts_of(key(given), "q.pkl") == parts


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.5, "q.pkl has the state 0.5, a number that need not be whole.*number the bins"),
        (2.0, "the state 2.0.*number the bins"),
        (np.float64(0.25), "the state 0.25.*number the bins"),
        ((1, -0.1), "the state -0.1.*number the bins"),
        (None, "q.pkl has None as a state, expected whole numbers"),
        (b"ab", "q.pkl has a bytes as a state"),
        (2**60, "beyond 2\\^53"),
    ],
)
def test_other_keys_are_refused_with_their_reason(given: object, message: str) -> None:
    """Bins of real numbers above all: which one a caller's number falls into stands nowhere in the file."""
    with pytest.raises(CheckpointRefused, match=message):
        parts_of(key(given), "q.pkl")


@pytest.mark.parametrize("text", ["", "left", "0.5", "(1, 2", "1]", "[0.5, 1]", "1 2", "()"])
def test_other_texts_say_no_numbers(text: str) -> None:
    """Names, fractions and halves of brackets."""
    assert numbers_in(text) is None


def test_states_are_named_as_people_write_them() -> None:
    """One number alone, several in brackets, and a file's own text cut short and harmless."""
    assert (said((3,)), said((0, 3)), said(("\x1b[31m" + "a" * 99,))) == ("3", "(0, 3)", "'\\x1b[31m" + "a" * 31)
