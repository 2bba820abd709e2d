"""Images with channels last: the same policy, which turns them inside."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from export.channels import channels_last
from export.errors import OptionInvalid
from export.spec import Array, Dict
from export.tabular import tabular
from export.trained import About
from export.write import build
from tests.export.sb3.discrete import balanced
from tests.export.sb3.models import inputs_of, made, read

TALL = spaces.Box(0, 255, (3, 40, 36), np.uint8)
PARTS = spaces.Dict({"camera": TALL, "speed": spaces.Box(-1, 1, (3,), np.float32)})


@pytest.mark.parametrize(("observation", "policy"), [(TALL, "CnnPolicy"), (PARTS, "MultiInputPolicy")])
def test_turned_images_get_the_same_actions(observation: spaces.Space[Any], policy: str) -> None:
    """``[N, H, W, C]`` in, the actions of ``predict`` for ``[N, C, H, W]`` out, of the native reference too."""
    model = made("DQN", spaces.Discrete(3), observation, policy)
    seen = balanced(model)
    plain = read(model)
    inputs = inputs_of(plain, seen)
    turned = {name: rows.transpose(0, 2, 3, 1) if rows.ndim == 4 else rows for name, rows in inputs.items()}

    found = channels_last(plain)

    expected, _ = model.predict(seen, deterministic=True)
    assert np.array_equal(found.answer(turned)["action"], expected)
    assert found.native is not None
    assert np.array_equal(found.native(turned)["action"], expected)


def test_the_artefact_says_that_channels_are_last() -> None:
    """The shape in the manifest is the client's, and what is done inside is named."""
    kwargs: dict[str, Any] = {"features_extractor_kwargs": {"features_dim": 4}}
    model = made("DQN", spaces.Discrete(3), TALL, "CnnPolicy", **kwargs)

    manifest = build(channels_last(read(model)), About(name="eye", version="1")).manifest

    assert manifest.observation == Array(shape=(40, 36, 3), dtype="uint8", low=0, high=255)
    assert manifest.inside[0] == "obs: channels moved from last to first"


def test_parts_of_a_dict_that_are_no_images_stay_as_they_are() -> None:
    """Only arrays of three axes are turned."""
    model = made("DQN", spaces.Discrete(3), PARTS, "MultiInputPolicy")

    space = channels_last(read(model)).observation

    assert isinstance(space, Dict)
    assert [entry.space.shape for entry in space.entries] == [(40, 36, 3), (3,)]


CUBE = spaces.Box(-1, 1, (5, 5, 5), np.float32)
HEIGHTS = spaces.Box(0, 9, (4, 6, 4), np.uint8)


@pytest.mark.parametrize(
    "parts",
    [
        {"camera": TALL, "map": CUBE},
        {"camera": TALL, "heights": HEIGHTS},
        {"camera": TALL, "map": CUBE, "rear": spaces.Box(0, 255, (1, 36, 36), np.uint8)},
    ],
)
def test_what_the_library_would_not_turn_is_not_turned(parts: dict[str, spaces.Space[Any]]) -> None:
    """VecTransposeImage turns images of bytes alone: callers send other arrays as the environment gives them."""
    model = made("PPO", spaces.Discrete(3), spaces.Dict(parts), "MultiInputPolicy")
    seen = balanced(model)
    plain = read(model)
    images = [f"obs.{key}" for key, space in parts.items() if is_image_space(space)]
    inputs = inputs_of(plain, seen)
    turned = {name: rows.transpose(0, 2, 3, 1) if name in images else rows for name, rows in inputs.items()}

    found = channels_last(plain)

    expected, _ = model.predict(seen, deterministic=True)
    assert {port.name: port.shape for port in found.observation.inputs} == {
        name: rows.shape[1:] for name, rows in turned.items()
    }
    assert found.native is not None
    for answers in (found.answer(turned), found.native(turned)):
        assert np.array_equal(answers["action"], expected)


def test_float_images_are_turned_where_there_are_no_others() -> None:
    """The library leaves those to the environment's own wrappers, and whoever says --channels-last means them."""
    model = made("PPO", spaces.Discrete(3), CUBE, "MlpPolicy")

    found = channels_last(read(model))

    assert found.inside[0] == "obs: channels moved from last to first"


def test_an_observation_without_images_is_refused() -> None:
    """There is nothing whose channels could be last."""
    with pytest.raises(OptionInvalid, match="has no image"):
        channels_last(tabular(np.eye(3), "0" * 64))
