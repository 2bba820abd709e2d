"""Nearest names: what somebody may have meant, and all names only where they are few."""

import pytest

from export.networks import ACTIVATIONS
from export.sb3.table import SB3_POLICIES
from export.spec.nearest import nearest, one_of

FRUITS = ("apple", "apricot", "banana", "cherry", "grape", "melon")


@pytest.mark.parametrize(
    ("name", "known", "first"),
    [
        ("relu", ACTIVATIONS, "ReLU"),
        ("Relu_6", ACTIVATIONS, "ReLU6"),
        ("swish", ACTIVATIONS, "Hardswish"),
        ("tahn", ACTIVATIONS, "Tanh"),
        ("APRICOTS", FRUITS, "apricot"),
        ("a.b.CustomDQNPolicy", [".".join(key) for key in SB3_POLICIES], "stable_baselines3.dqn.policies.DQNPolicy"),
        ("DQNPolicy", [".".join(key) for key in SB3_POLICIES], "stable_baselines3.dqn.policies.DQNPolicy"),
    ],
)
def test_the_nearest_name_comes_first(name: str, known: list[str], first: str) -> None:
    """Whatever the case and the module; three are said."""
    found = nearest(name, known)

    assert found[0] == first
    assert len(found) == 3
    assert set(found) <= set(known)


def test_few_names_are_all_said() -> None:
    """Up to five, in their own order, each once."""
    assert one_of("x", ("b", "a", "b", "c")) == "one of b, a, c"
    assert one_of("grapes", FRUITS, 6) == "one of apple, apricot, banana, cherry, grape, melon"
    assert one_of("grapes", FRUITS) == "one of grape, apple, apricot (the nearest of 6)"


@pytest.mark.parametrize("name", [None, 3, ["apple"]])
def test_what_is_no_name_is_near_to_none(name: object) -> None:
    """Then all are said, of very many the first dozen."""
    assert one_of(name, FRUITS) == "one of apple, apricot, banana, cherry, grape, melon"
    assert one_of(name, map(str, range(100))) == "one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 88 more"


def test_names_of_any_length_are_answered() -> None:
    """A name that is no name, of megabytes, costs no time and is no error."""
    assert len(nearest("x" * 10_000_000, FRUITS)) == 3
