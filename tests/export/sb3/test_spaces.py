"""The spaces of a zip as ours: names for what has none, bounds where they are known, whole numbers as such."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from export.errors import CheckpointRefused
from export.sb3 import of_sb3, read_sb3
from export.sb3.spaces import actions_of, observations_of
from export.spec import Array, Box, Dict, Discrete, Entry, Factor, Field, Fields, MultiDiscrete
from tests.export.sb3.models import made, zipped
from tests.export.sb3.zips import actor_zip, dqn_zip, shared, with_texts


def test_names_of_a_dict_are_identifiers_and_distinct() -> None:
    """Keys become the beginnings of names, whatever letters they have."""
    parts = "{'a-b': Box(-1.0, 1.0, (2,), float32), 'a_b': Discrete(3), '2nd': MultiBinary(1), "
    parts += "'p': Box(0, 9, (2, 2), int64)}"
    text = {":type:": "<class 'gymnasium.spaces.dict.Dict'>", "spaces": parts}

    found = observations_of(read_sb3(with_texts(dqn_zip(), observation_space=text)))

    assert found == Dict(
        entries=(
            Entry(
                key="a-b",
                space=Fields(fields=(Field(name="a_b_0", low=-1, high=1), Field(name="a_b_1", low=-1, high=1))),
            ),
            Entry(key="a_b", space=Fields(fields=(Field(name="a_b__0", low=0, high=2),), dtype="int64")),
            Entry(key="2nd", space=Fields(fields=(Field(name="_2nd_0", low=0, high=1),), dtype="int64")),
            Entry(key="p", space=Array(shape=(2, 2), low=0, high=9)),
        )
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'a b': Discrete(3)}", "the key 'a b', expected letters"),
        ("{'': Discrete(3)}", "the key '', expected letters"),
        ("{'a': Discrete(3), 'a': Discrete(3)}", "a key twice"),
        ("{'a': Dict('b': Discrete(3))}", "part 'a' is Dict"),
    ],
)
def test_keys_that_cannot_be_names_are_refused(text: str, message: str) -> None:
    """A key is a part of a tensor's name."""
    space = {":type:": "<class 'gymnasium.spaces.dict.Dict'>", "spaces": text}

    with pytest.raises(CheckpointRefused, match=message):
        observations_of(read_sb3(with_texts(dqn_zip(), observation_space=space)))


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Discrete(3), Discrete(names=("action_0", "action_1", "action_2"))),
        (
            spaces.MultiDiscrete([2, 3]),
            MultiDiscrete(
                factors=(
                    Factor(name="factor_0", names=("choice_0", "choice_1")),
                    Factor(name="factor_1", names=("choice_0", "choice_1", "choice_2")),
                )
            ),
        ),
        (
            spaces.MultiBinary(2),
            MultiDiscrete(factors=tuple(Factor(name=f"bit_{at}", names=("off", "on")) for at in (0, 1))),
        ),
        (
            spaces.Box(np.array([[-2, 0]], np.float32), np.array([[1, 9]], np.float32)),
            Box(fields=(Field(name="action_0", low=-2, high=1), Field(name="action_1", low=0, high=9)), shape=(1, 2)),
        ),
    ],
)
def test_actions_of_every_kind_have_names(space: spaces.Space[Any], expected: object) -> None:
    """What people call an action is not in the zip: it has a name by its place."""
    assert actions_of(read_sb3(zipped(made("A2C", space, net_arch=[4])))) == expected


def test_actions_are_counted_from_0_whatever_the_start() -> None:
    """SB3 answers ``Discrete(3, start=5)`` with 0, 1 or 2, and so do we."""
    model = made("A2C", spaces.Discrete(3, start=5), net_arch=[4])
    found = of_sb3(read_sb3(zipped(model)))
    seen = np.linspace(-9, 9, 500, dtype=np.float32).reshape(100, 5)

    expected, _ = model.predict(seen, deterministic=True)

    assert expected.max() <= 2
    assert np.array_equal(found.answer({"obs": seen})["action"], expected)
    assert isinstance(found.action, Discrete)
    assert found.action.n == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({":type:": "<class 'gymnasium.spaces.text.Text'>"}, "is Text, expected"),
        ({":type:": "<class 'gym.MultiBinary'>", "n": "[2, 2]"}, r"MultiBinary \(one axis\)"),
        ({":type:": "<class 'gym.Dict'>", "spaces": "{'a': Discrete(2)}"}, "is Dict, expected Discrete"),
        ({":type:": "<class 'gym.Box'>", "shape": "[2]", "low": "-1.0"}, "not printed in full"),
        ({":type:": "<class 'gym.Box'>", "shape": "[5000]", "low": "-1.0", "high": "1.0"}, "at most 4096"),
    ],
)
def test_an_action_space_that_cannot_be_acted_in_is_refused(text: dict[str, object], message: str) -> None:
    """No bound of an action is ever made up: clipping and un-scaling need them all."""
    with pytest.raises(CheckpointRefused, match=message):
        of_sb3(read_sb3(with_texts(actor_zip(), action_space=text)))


def test_bounds_are_read_from_an_old_zip() -> None:
    """Bounds come from the text of a gym space; gym's largest float32 means none."""
    space = observations_of(read_sb3(shared("sb3", "dqn_CartPole-v1.zip").read_bytes()))

    assert isinstance(space, Fields)
    assert [field.low for field in space.fields] == [-4.8000002, None, -0.41887903, None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Box(0, 255, (3, 36, 36), uint8)", Array(shape=(3, 36, 36), dtype="uint8", low=0, high=255)),
        ("Box(-10.0, 10.0, (3, 36, 36), float32)", Array(shape=(3, 36, 36))),
        ("Box(-1.0, 1.0, (2, 3), float32)", Array(shape=(2, 3), low=-1, high=1)),
        ("Box([[-1. -2.]], [[1. 2.]], (1, 2), float32)", Array(shape=(1, 2))),
        ("Box(-1.0, 1.0, (5000,), float32)", Array(shape=(5000,), low=-1, high=1)),
        ("MultiBinary((2, 3))", Array(shape=(2, 3), dtype="int64", low=0, high=1)),
    ],
)
def test_what_has_no_names_is_an_array(text: str, expected: Array) -> None:
    """Images, grids and very long vectors are one array, with a bound where all numbers share it."""
    space = {":type:": "<class 'gymnasium.spaces.dict.Dict'>", "spaces": f"{{'a': {text}}}"}

    found = observations_of(read_sb3(with_texts(dqn_zip(), observation_space=space)))

    assert found == Dict(entries=(Entry(key="a", space=expected),))
