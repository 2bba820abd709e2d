"""Spaces read from texts: what every gym and gymnasium printed, and nothing that a text does not say in full."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from export.errors import CheckpointRefused
from export.sb3 import of_sb3, read_sb3
from export.sb3.checkpoint import Sb3Checkpoint
from export.sb3.texts import Space, bounds, integers, space_of
from tests.export.sb3.models import answered, inputs_of, made, read, seen_by, zipped
from tests.export.sb3.zips import CHOICE, dqn_zip, texts_of, with_texts


def written(**text: object) -> Sb3Checkpoint:
    """Give a checkpoint with an observation space of these attributes."""
    return read_sb3(with_texts(dqn_zip(), observation_space=text))


def test_parts_of_a_dict_are_read_from_their_text() -> None:
    """Each part of a Dict has the shape, type, bounds and numbers of choices that gymnasium printed."""
    observation = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (36, 40, 3), np.uint8),
            "doors": spaces.MultiBinary(3),
            "it's (odd), [key]": spaces.Box(np.array([-1, -np.inf]), np.array([1, np.inf]), dtype=np.float64),
            "gears": spaces.MultiDiscrete([2, 5]),
            "zone": spaces.Discrete(4, start=2),
        }
    )
    assert isinstance(observation, gymnasium.Space)
    text = {":type:": "<class 'gymnasium.spaces.dict.Dict'>", "spaces": str(observation.spaces)}

    found = dict(space_of(written(**text), "observation_space").spaces)

    assert list(found) == sorted(observation.spaces)
    assert found["camera"] == Space("Box", (36, 40, 3), "uint8", (0.0,) * 4320, (255.0,) * 4320)
    assert found["camera"].image
    assert found["doors"].shape == (3,)
    assert found["it's (odd), [key]"] == Space("Box", (2,), "float64", (-1.0, None), (1.0, None))
    assert found["gears"].sizes == (2, 5)
    assert (found["zone"].sizes, found["zone"].starts) == ((4,), (2,))


@pytest.mark.parametrize(
    "text",
    [
        "OrderedDict([('b', Box(-1.0, 1.0, (2,), float32)), ('a', Discrete(3))])",
        "OrderedDict({'b': Box(-1.0, 1.0, (2,), float32), 'a': Discrete(3)})",
        "{'b': Box([-1. -1.], [1. 1.], (2,), float32), 'a': Discrete(3)}",
    ],
)
def test_a_dict_keeps_its_order_in_every_spelling(text: str) -> None:
    """Gym, gymnasium and Python print the parts in three ways; the network has them in this order."""
    found = space_of(written(**{":type:": "<class 'gym.spaces.dict.Dict'>", "spaces": text}), "observation_space")

    assert found.spaces == (
        ("b", Space("Box", (2,), "float32", (-1.0, -1.0), (1.0, 1.0))),
        ("a", Space("Discrete", sizes=(3,), starts=(0,))),
    )


def test_bounds_of_a_long_array_are_unknown() -> None:
    """NumPy leaves out the middle of a long array: then no bound is made up, whatever is seen of it."""
    assert bounds("[-1.000e+00 -2.000e+00 ... -1.3e+03]", 1300) == ()
    assert bounds("[-1. -1. ... -1. -1.]", 1300) == ()
    assert bounds("[-1. inf]", 2) == (-1.0, None)
    assert bounds("-3.4028235e+38", 2) == (None, None)
    assert bounds("-1.5", 3) == (-1.5, -1.5, -1.5)
    assert bounds("[1. 2.]", 3) == ()
    assert bounds(None, 2) == ()


def test_whole_numbers_are_read_from_every_spelling() -> None:
    """Lists, arrays, tuples and single numbers; never a list with its middle left out."""
    assert [integers(text, "it") for text in (7, "7", [2, 3], "[2 3]", "(2, 3)")] == [
        (7,),
        (7,),
        (2, 3),
        (2, 3),
        (2, 3),
    ]
    with pytest.raises(CheckpointRefused, match=r"it has '\[2 2 ... 2 2\]', expected whole numbers"):
        integers("[2 2 ... 2 2]", "it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "only in pickled form"),
        ({":type:": "<class 'gym.spaces.Graph'>"}, "is Graph, expected Box, Discrete"),
        ({":type:": "<class 'gym.spaces.Dict'>"}, "parts exist only in pickled form"),
        ({":type:": "<class 'gym.spaces.Dict'>", "spaces": "{}"}, "cannot be read"),
        ({":type:": "<class 'gym.spaces.Dict'>", "spaces": "{'a': Box(-1.0, 1.0, (2,)"}, "end in the middle"),
        ({":type:": "<class 'gym.spaces.Dict'>", "spaces": "{'a': Box(2,)}"}, r"is Box\(2, \), expected Box\(low"),
        ({":type:": "<class 'gym.spaces.Dict'>", "spaces": "{'a': Tuple(Discrete(2), )}"}, "part 'a' is Tuple"),
        ({":type:": "<class 'gym.spaces.Box'>", "shape": "[]"}, "expected one to four"),
        ({":type:": "<class 'gym.spaces.Box'>", "shape": [99999, 9]}, "expected a whole number between 1 and 65536"),
        ({":type:": "<class 'gym.spaces.Box'>", "shape": [4096, 8192]}, "expected at most 16777216 numbers"),
        ({":type:": "<class 'gym.Box'>", "shape": "[2]", "low": "[a b]"}, "are not numbers"),
        ({":type:": "<class 'gym.Discrete'>", "n": "4", "start": "1"}, "starts at 1"),
        ({":type:": "<class 'gym.Discrete'>", "n": "0"}, "expected a whole"),
        ({":type:": "<class 'gym.MultiDiscrete'>", "nvec": "[[2 3] [4 5]]"}, "expected one list"),
        ({":type:": "<class 'gym.MultiDiscrete'>", "nvec": "[2 3]", "start": "[0 1]"}, "starts at 0, 1"),
        ({":type:": "<class 'gym.MultiDiscrete'>", "nvec": "[2 0]"}, "expected one list"),
        ({":type:": "<class 'gym.MultiDiscrete'>"}, "expected whole numbers"),
    ],
)
def test_a_space_that_its_text_does_not_say_is_refused(text: object, message: str) -> None:
    """Each refusal is a sentence that says what was found and what was expected."""
    with pytest.raises(CheckpointRefused, match=message):
        of_sb3(read_sb3(with_texts(dqn_zip(), observation_space=text)))


def test_an_image_of_an_old_zip_is_one_although_its_bounds_are_cut_short() -> None:
    """Its array of zeros is printed with the middle left out; what is seen speaks for an image, or against it."""
    text = {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "uint8", "shape": [4, 84, 84]}

    plain = space_of(written(**text, low="[[[0 0 ... 0]]]", high="[[[255 ... 255]]]"), "observation_space")
    dark = space_of(written(**text | {"shape": [1, 1, 2]}, low="[[[0 0]]]", high="[[[9 9]]]"), "observation_space")

    assert (plain.image, dark.image) == (True, False)


@pytest.mark.parametrize(
    ("printing", "low", "high"),
    [
        ({"precision": 3, "suppress": True}, [-0.3926991, -1.5707964], [0.3926991, 1.2345678]),
        ({"precision": 2}, [0.003456, 0.1], [0.98765, 0.8]),
        ({"precision": 1, "floatmode": "fixed"}, [[-0.04, 0.26], [-7, 2]], [[0.26, 0.74], [11.25, 2.5]]),
        ({"precision": 0, "suppress": True}, [-1.4, -2], [1.4, 2.5]),
        ({"threshold": 2, "edgeitems": 1}, [-1, -2, -3, -4], [1, 2, 3, 4]),
    ],
)
@pytest.mark.parametrize("algorithm", ["SAC", "TD3", "PPO"])
def test_bounds_are_those_of_training_whatever_precision_it_printed_with(
    printing: dict[str, Any], low: object, high: object, algorithm: str
) -> None:
    """People have NumPy print few digits, and SB3 writes the bounds as printed: both sides of the proof had these."""
    with np.printoptions(**printing):
        data = zipped(model := made(algorithm, spaces.Box(np.array(low, np.float32), np.array(high, np.float32))))

    policy = of_sb3(read_sb3(data))

    seen = inputs_of(policy, seen_by(model))
    expected, _ = model.predict(seen["obs"], deterministic=True)
    assert policy.native is not None
    for answers in (answered(policy, seen), policy.native(seen)):
        assert np.asarray(answers["action"], np.float64) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_bounds_that_are_printed_well_are_the_printed_ones() -> None:
    """Files of artefacts stay as they were: eight digits are a float32, and pickles that say something odd nothing."""
    model = made("SAC", spaces.Box(np.array([-0.3926991, -2], np.float32), np.array([0.1, 3], np.float32)))
    data = zipped(model)
    text = texts_of(data)["action_space"]
    assert isinstance(text, dict)
    odd: list[object] = ["no pickle", text[":serialized:"][:-40], 3, texts_of(data)["observation_space"]]

    found = [space_of(read_sb3(data), "action_space")]
    for pickled in odd:
        told = text | {":serialized:": pickled[":serialized:"] if isinstance(pickled, dict) else pickled}
        found.append(space_of(read_sb3(with_texts(data, action_space=told)), "action_space"))

    assert {space.low for space in found} == {(-0.3926991, -2.0)}
    assert {space.high for space in found} == {(0.1, 3.0)}


UNEVEN = np.full((3, 24, 24), 255, np.uint8)
UNEVEN[1], UNEVEN[2] = 3, 1
DARK_SPOT = np.full((3, 40, 40), 255, np.uint8)
DARK_SPOT[:, 20, 20] = 7
LATE = np.zeros((3, 40, 40), np.uint8)
LATE[0, 9, 9] = 1


@pytest.mark.parametrize(
    ("low", "high", "image"),
    [
        (0, UNEVEN, False),
        (0, DARK_SPOT, False),
        (LATE, 255, False),
        (0, np.full((3, 40, 40), 255, np.uint8), True),
    ],
)
@pytest.mark.parametrize("within", [False, True])
def test_bytes_with_other_bounds_than_an_images_are_no_image_although_cut_short(
    low: int | np.ndarray, high: int | np.ndarray, image: bool, within: bool
) -> None:
    """SB3 does not divide them by 255, nor does the policy: also where what is printed of the bounds looks like one."""
    shape = np.broadcast_shapes(np.shape(low), np.shape(high))
    sides = [np.broadcast_to(np.asarray(side, np.uint8), shape) for side in (low, high)]
    box = spaces.Box(sides[0], sides[1], shape, np.dtype(np.uint8))
    part = spaces.Box(-1, 1, (2,), np.float32)
    model = made(
        "PPO",
        spaces.Discrete(3),
        spaces.Dict({"grid": box, "speed": part}) if within else box,
        "MultiInputPolicy" if within else "MlpPolicy",
    )

    policy = read(model)
    found = space_of(read_sb3(zipped(model)), "observation_space")

    seen = seen_by(model, 50)
    expected, _ = model.predict(seen, deterministic=True)
    inputs = inputs_of(policy, seen)
    assert (dict(found.spaces)["grid"] if within else found).image is image
    assert policy.native is not None
    np.testing.assert_array_equal(answered(policy, inputs)["action"], expected)
    np.testing.assert_array_equal(policy.native(inputs)["action"], expected)


def test_real_spaces_of_today_are_read_whole() -> None:
    """What gymnasium writes now is read to the last bound."""
    low, high = np.array([-1.5, -np.inf], np.float32), np.array([2, np.inf], np.float32)
    model = made("DQN", spaces.Discrete(3), spaces.Box(low, high), net_arch=[4])

    found = read_sb3(zipped(model))

    assert space_of(found, "observation_space") == Space("Box", (2,), "float32", (-1.5, None), (2.0, None))
    assert space_of(found, "action_space") == Space("Discrete", sizes=(3,), starts=(0,))
    assert space_of(written(**CHOICE), "observation_space") == space_of(found, "action_space")
