"""What comes before the first layer: normalisation, one-hots, images, Dicts, each as the real library does it."""

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from export.errors import CheckpointRefused, TensorsUnaccounted
from export.networks import Tensors
from export.sb3 import of_sb3, read_sb3
from export.sb3.features import features_of
from export.sb3.normaliser import Normaliser, Running, read_normaliser
from export.sb3.spaces import observations_of
from export.spec import Array, Fields
from tests.export.sb3.discrete import balanced
from tests.export.sb3.models import IMAGE, PARTS, VECTOR, Env, inputs_of, made, read, seen_by, zipped
from tests.export.sb3.zips import dqn_zip, with_tensors, with_texts

THREE = spaces.Discrete(3)
BODY = spaces.Dict({"speed": spaces.Box(-5, 5, (3,), np.float32), "pose": spaces.Box(-9, 9, (2, 2), np.float32)})


def normalised(model: BaseAlgorithm, path: Path, **options: Any) -> tuple[VecNormalize, Normaliser]:
    """Wrap a model's environment in the real VecNormalize, statistics drawn; give it and its file's content."""
    space, action = model.observation_space, model.action_space
    wrapped = VecNormalize(DummyVecEnv([lambda: Env(space, action)]), **options)
    generator = np.random.default_rng(5)
    every = wrapped.obs_rms if isinstance(wrapped.obs_rms, dict) else {"": wrapped.obs_rms}
    for running in every.values():
        running.mean = generator.normal(size=running.mean.shape)
        running.var = generator.uniform(0.01, 4, size=running.var.shape)
    wrapped.save(str(path / "vecnormalize.pkl"))
    return wrapped, read_normaliser((path / "vecnormalize.pkl").read_bytes())


@pytest.mark.parametrize(
    ("observation", "policy", "options"),
    [
        (VECTOR, "MlpPolicy", {}),
        (VECTOR, "MlpPolicy", {"clip_obs": 0.5, "epsilon": 0.3}),
        (VECTOR, "MlpPolicy", {"norm_reward": False}),
        (spaces.Box(-1, 1, (2, 3), np.float32), "MlpPolicy", {}),
        (BODY, "MultiInputPolicy", {}),
        (PARTS, "MultiInputPolicy", {"norm_obs_keys": ["speed"]}),
    ],
)
def test_observations_are_normalised_as_vecnormalize_does(
    observation: spaces.Space[Any], policy: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """Raw observations in, actions as for the real VecNormalize's observations out; without it they are others."""
    model = made("PPO", THREE, observation, policy)
    wrapped, normaliser = normalised(model, tmp_path, **options)
    balanced(model)
    seen = seen_by(model)

    found = of_sb3(read_sb3(zipped(model)), normaliser)

    inputs = inputs_of(found, seen)
    expected, _ = model.predict(wrapped.normalize_obs(seen), deterministic=True)
    assert np.array_equal(found.answer(inputs)["action"], expected)
    assert found.native is not None
    assert np.array_equal(found.native(inputs)["action"], expected)
    assert not np.array_equal(read(model).answer(inputs)["action"], expected)
    assert any("VecNormalize in float64" in step for step in found.inside)


def test_statistics_that_are_not_used_do_nothing(tmp_path: Path) -> None:
    """``norm_obs = False`` was for the reward alone: observations go in as they are."""
    model = made("PPO", THREE, VECTOR)
    _, normaliser = normalised(model, tmp_path)
    idle = Normaliser(normaliser.stats, normaliser.clip, normaliser.epsilon, norm_obs=False)
    inputs = inputs_of(read(model), seen_by(model))

    found = of_sb3(read_sb3(zipped(model)), idle)

    assert np.array_equal(found.answer(inputs)["logits"], read(model).answer(inputs)["logits"])
    assert found.inside == ()


def test_a_mean_far_larger_than_its_deviation_keeps_its_digits() -> None:
    """Means 70,000 times the deviation cost float32 three digits of four: the graph computes in float64."""
    found = read_sb3(dqn_zip())
    mean, var = np.full(5, 70.1), np.full(5, 1e-6)
    normaliser = Normaliser({"": Running(mean, var)}, clip=10, epsilon=1e-8, norm_obs=True)
    obs = (70.1 + np.random.default_rng(0).normal(size=(100, 5)) * 1e-3).astype(np.float32)
    exact = np.clip((obs.astype(np.float64) - mean) / np.sqrt(var + 1e-8), -10, 10)

    features = features_of(found, Tensors({}, "nothing"), observations_of(found), normaliser)
    single = (obs - mean.astype(np.float32)) / np.sqrt(var.astype(np.float32) + np.float32(1e-8))

    assert np.abs(features.module(torch.from_numpy(obs)).numpy() - exact).max() < 1e-6
    assert np.abs(single - exact).max() > 1e-3
    assert features.width == 5


@pytest.mark.parametrize(
    ("stats", "keys", "message"),
    [
        ({"": (4,)}, (), r"of obs have the shape \[4\], expected \[5\]"),
        ({"speed": (5,)}, ("speed",), "statistics are for the key 'speed'"),
    ],
)
def test_statistics_of_another_observation_are_refused(
    stats: dict[str, tuple[int, ...]], keys: tuple[str, ...], message: str
) -> None:
    """Statistics that belong to something else would give a plausible wrong policy."""
    running = {key: Running(np.zeros(shape), np.ones(shape)) for key, shape in stats.items()}
    normaliser = Normaliser(running, clip=10, epsilon=1e-8, norm_obs=True, norm_obs_keys=keys)

    with pytest.raises(CheckpointRefused, match=message):
        of_sb3(read_sb3(dqn_zip()), normaliser)


def test_statistics_without_keys_do_not_go_with_a_dict() -> None:
    """A Dict has statistics by key."""
    model = made("PPO", THREE, PARTS, "MultiInputPolicy")
    normaliser = Normaliser({"": Running(np.zeros(3), np.ones(3))}, clip=10, epsilon=1e-8, norm_obs=True)

    with pytest.raises(CheckpointRefused, match="statistics are for a single observation"):
        of_sb3(read_sb3(zipped(model)), normaliser)


def test_a_state_out_of_range_is_nan() -> None:
    """An index that the space does not have gives NaN in its own row alone, never another state's answer."""
    found = read(made("DQN", THREE, spaces.MultiDiscrete([3, 2])))

    head = found.answer({"obs": np.array([[0, 1], [-1, 0], [0, 2], [3, 0], [2, 0]])})["q_values"]

    assert np.isnan(head).all(axis=1).tolist() == [False, True, True, True, False]


def test_whole_numbers_stay_whole_numbers_at_the_input() -> None:
    """Discrete, MultiDiscrete and MultiBinary observations are int64 with their range; one-hots are inside."""
    kinds = (spaces.Discrete(4), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2))

    found = [read(made("DQN", THREE, kind)).observation for kind in kinds]

    assert all(isinstance(space, Fields) and space.dtype == "int64" for space in found)
    assert [[field.high for field in space.fields] for space in found if isinstance(space, Fields)] == [
        [3],
        [1, 2],
        [1, 1],
    ]


def test_images_go_in_as_bytes_and_are_divided_once() -> None:
    """The input is uint8, so that nobody divides by 255 twice, and the proof says what happens inside."""
    found = read(made("DQN", THREE, IMAGE, "CnnPolicy", features_extractor_kwargs={"features_dim": 8}))

    assert found.observation == Array(shape=(3, 36, 36), dtype="uint8", low=0, high=255)
    assert found.inside == ("obs: divided by 255", "obs: NatureCNN to 8 features")


def test_normalize_images_false_leaves_bytes_as_they_are() -> None:
    """A policy that was told not to divide gets 0 to 255."""
    model = made(
        "DQN", THREE, IMAGE, "CnnPolicy", normalize_images=False, features_extractor_kwargs={"features_dim": 8}
    )
    seen = balanced(model)
    found = read(model)

    expected, _ = model.predict(seen, deterministic=True)

    assert np.array_equal(found.answer(inputs_of(found, seen))["action"], expected)
    assert found.inside == ("obs: NatureCNN to 8 features",)


def test_dict_observations_go_in_by_key_and_are_joined_in_the_spaces_order() -> None:
    """Inputs are named by key, never by position; gym's order of keys decides the network's columns."""
    found = read(made("DQN", THREE, PARTS, "MultiInputPolicy"))

    assert [port.name for port in found.inputs] == ["obs.gear", "obs.speed"]
    assert found.inside == ("obs.gear: one-hot over 4 states; NaN for others", "joined in the order gear, speed")


def test_a_dict_that_is_not_sorted_keeps_its_order() -> None:
    """An OrderedDict is not sorted by gymnasium: the columns are in its own order, for the native library too."""
    parts = OrderedDict({"speed": spaces.Box(-1, 1, (3,), np.float32), "gear": spaces.Discrete(4)})
    model = made("DQN", THREE, spaces.Dict(parts), "MultiInputPolicy")
    seen = balanced(model)
    found = read(model)
    inputs = inputs_of(found, seen)

    expected, _ = model.predict(seen, deterministic=True)

    assert [port.name for port in found.inputs] == ["obs.speed", "obs.gear"]
    assert np.array_equal(found.answer(inputs)["action"], expected)
    assert found.native is not None
    assert np.array_equal(found.native(inputs)["action"], expected)


def test_an_extractor_that_is_named_is_used() -> None:
    """``features_extractor_class`` decides, whatever the policy is called, and with it the default of net_arch."""
    model = made("PPO", THREE, IMAGE, features_extractor_class=NatureCNN)
    seen = balanced(model)
    found = read(model)

    expected, _ = model.predict(seen, deterministic=True)

    assert found.inside == ("obs: divided by 255", "obs: NatureCNN to 512 features")
    assert np.array_equal(found.answer(inputs_of(found, seen))["action"], expected)
    assert found.native is not None
    assert np.array_equal(found.native(inputs_of(found, seen))["action"], expected)


@pytest.mark.parametrize("text", ["<class 'evil.Extractor'>", "__import__('os').getcwd()"])
def test_custom_code_named_in_the_texts_is_refused(text: str) -> None:
    """A features extractor of somebody's own would have to be run, so the zip is refused."""
    with pytest.raises(CheckpointRefused, match="FlattenExtractor"):
        of_sb3(read_sb3(with_texts(dqn_zip(), policy_kwargs={"features_extractor_class": text})))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"features_extractor_kwargs": {"depth": 3}}, "expected no other keys than"),
        ({"features_extractor_class": "<class 'stable_baselines3.common.torch_layers.NatureCNN'>"}, "three axes"),
        (
            {"features_extractor_class": "<class 'stable_baselines3.common.torch_layers.CombinedExtractor'>"},
            "for a Box, expected CombinedExtractor for a Dict alone",
        ),
        (
            {
                "features_extractor_class": "<class 'stable_baselines3.common.torch_layers.NatureCNN'>",
                "features_extractor_kwargs": {"features_dim": 0},
            },
            "features_dim is 0, expected a whole number",
        ),
    ],
)
def test_an_extractor_that_does_not_fit_is_refused(kwargs: dict[str, Any], message: str) -> None:
    """Options that an extractor does not have, or an extractor for other observations, are named."""
    with pytest.raises(CheckpointRefused, match=message):
        of_sb3(read_sb3(with_texts(dqn_zip(), policy_kwargs=kwargs)))


def test_an_image_too_small_for_the_convolutions_is_refused() -> None:
    """SB3 itself cannot make such a network."""
    data = zipped(made("DQN", THREE, IMAGE, "CnnPolicy", features_extractor_kwargs={"features_dim": 8}))
    space = {":type:": "<class 'gymnasium.spaces.box.Box'>", "dtype": "uint8", "_shape": "[3, 30, 36]"}

    with pytest.raises(CheckpointRefused, match="too small for the convolutions"):
        of_sb3(read_sb3(with_texts(data, observation_space=space)))


@pytest.mark.parametrize("name", ["features_extractor.cnn.0.bias", "vf_features_extractor.cnn.0.bias"])
def test_copies_of_a_shared_extractor_that_disagree_are_refused(name: str) -> None:
    """One extractor stands three times in the file; where they differ nobody can say which one acts."""
    data = zipped(made("PPO", THREE, IMAGE, "CnnPolicy", features_extractor_kwargs={"features_dim": 8}))

    with pytest.raises(TensorsUnaccounted, match=f"{name!r} is not the same"):
        of_sb3(read_sb3(with_tensors(data, lambda tensors: tensors.update({name: tensors[name] + 1}))))


def test_an_extractor_with_one_name_before_sb3_1_7_is_read() -> None:
    """Old files have it once, under ``features_extractor``: it acts, and the native library takes it too."""

    def old(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(("pi_", "vf_"))]:
            del tensors[name]

    model = made("PPO", THREE, IMAGE, "CnnPolicy", features_extractor_kwargs={"features_dim": 8})
    seen = balanced(model)
    expected, _ = model.predict(seen, deterministic=True)

    found = of_sb3(read_sb3(with_tensors(zipped(model), old)))
    inputs = inputs_of(found, seen)

    assert np.array_equal(found.answer(inputs)["action"], expected)
    assert found.native is not None
    assert np.array_equal(found.native(inputs)["action"], expected)


def test_the_width_is_what_comes_out() -> None:
    """The first layer is as wide as all parts together."""
    model = made(
        "DQN", THREE, spaces.Dict({"a": IMAGE, "b": spaces.MultiDiscrete([2, 3]), "c": VECTOR}), "MultiInputPolicy"
    )
    found = read_sb3(zipped(model))
    observation = observations_of(found)
    inputs = inputs_of(read(model), seen_by(model, 3))

    features = features_of(found, Tensors(found.tensors, "it"), observation, None, "q_net.features_extractor.")

    rows = features.module(*(torch.from_numpy(inputs[port.name]) for port in observation.inputs))
    assert rows.shape == (3, features.width)
    assert features.width == 256 + 5 + math.prod(VECTOR.shape)
    assert rows.dtype == torch.float32


FAR = np.array([5000.0, 1.7e9, 0.0])
WIDTH = np.array([0.05, 2e5, 1.0])


@pytest.mark.parametrize(
    ("observation", "width", "dtypes"),
    [
        (spaces.Box(-np.inf, np.inf, (3,), np.float64), WIDTH, ["float64"]),
        (spaces.Box(-np.inf, np.inf, (3,), np.float64), FAR + 1, ["float32"]),
        (spaces.Box(-(2**40), 2**40, (3,), np.int64), np.array([2.0, 30.0, 4.0]), ["float64"]),
        (spaces.Box(-np.inf, np.inf, (3,), np.float32), WIDTH, ["float32"]),
        (
            spaces.Dict(
                {"body": spaces.Box(-np.inf, np.inf, (3,), np.float64), "goal": spaces.Box(-1, 1, (2,), np.float32)}
            ),
            WIDTH,
            ["float64", "float32"],
        ),
    ],
)
def test_what_vecnormalize_magnifies_is_sent_as_training_had_it(
    observation: spaces.Space[Any], width: np.ndarray, dtypes: list[str], tmp_path: Path
) -> None:
    """Numbers far from zero that vary little lose in float32 what the policy acts on, before the graph sees them."""
    within = isinstance(observation, spaces.Dict)
    model = made("SAC", spaces.Box(-1, 1, (2,), np.float32), observation, "MultiInputPolicy" if within else "MlpPolicy")
    wrapped, _ = normalised(model, tmp_path)
    running = wrapped.obs_rms["body"] if isinstance(wrapped.obs_rms, dict) else wrapped.obs_rms
    running.mean, running.var = FAR.copy(), width**2
    wrapped.save(str(tmp_path / "vecnormalize.pkl"))
    policy = of_sb3(read_sb3(zipped(model)), read_normaliser((tmp_path / "vecnormalize.pkl").read_bytes()))
    rows = FAR + width * np.random.default_rng(2).normal(size=(200, 3))
    rows = np.round(rows) if getattr(observation, "dtype", None) == np.int64 else rows
    rows = rows.astype(np.float32) if getattr(observation, "dtype", None) == np.float32 else rows
    seen: Any = {"body": rows, "goal": np.zeros((200, 2), np.float32)} if within else rows

    inputs = inputs_of(policy, seen)

    expected, _ = model.predict(wrapped.normalize_obs(seen), deterministic=True)
    assert [port.dtype for port in policy.observation.inputs] == dtypes
    assert policy.native is not None
    for answers in (policy.answer(inputs), policy.native(inputs)):
        assert np.asarray(answers["action"], np.float64) == pytest.approx(expected, abs=2e-4)
