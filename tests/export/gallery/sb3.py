"""Exhibits of Stable-Baselines3 and sb3-contrib: models of the real libraries beside their own ``predict``."""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from export.channels import channels_last
from export.meaning import Arrays
from export.remembered import stacked, timed
from export.sb3 import of_sb3, read_normaliser, read_sb3
from export.spec import MASK
from tests.export.gallery.exhibit import Begin, Exhibit, Native, exhibit, forgetful
from tests.export.sb3.discrete import balanced
from tests.export.sb3.models import SQUARE, UNEVEN, VECTOR, Env, Options, Space, made, read, zipped

FOUR = spaces.Discrete(4)
SEVERAL = spaces.MultiDiscrete([3, 4, 2])
SWITCHES = spaces.MultiBinary(3)
FRAMES, STEPS = 4, 50
STACKED = spaces.Box(-1, 2, (5 * FRAMES,), np.float32)
_CVAR = 0.25


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the models are: empty options are the libraries' own defaults."""

    layers: Options
    quantiles: Options
    lstm: Options
    image: spaces.Box
    extractor: Options


def _image(channels: int, side: int) -> spaces.Box:
    return spaces.Box(0, 255, (channels, side, side), np.uint8)


SMALL = Sizes(
    layers={"net_arch": [16]},
    quantiles={"n_quantiles": 20},
    lstm={"lstm_hidden_size": 12, "net_arch": [10]},
    image=_image(3, 40),
    extractor={"features_extractor_kwargs": {"features_dim": 16}},
)
DEFAULT = Sizes(layers={}, quantiles={}, lstm={}, image=_image(4, 84), extractor={})


def table(sizes: Sizes) -> Mapping[str, Callable[[], Exhibit]]:
    """Give the exhibits whose models have these sizes."""
    mlp = sizes.layers
    lstm: Options = {"policy": "MlpLstmPolicy"} | sizes.lstm
    image: Options = {"policy": "CnnPolicy", "observation": sizes.image} | sizes.extractor
    parts = spaces.Dict({"camera": sizes.image, "gear": spaces.Discrete(4), "speed": spaces.Box(-1, 1, (3,))})
    squashed: Options = {"use_sde": True, "squash_output": True}
    return {
        "DQN (sb3)": partial(of, "DQN", FOUR, **mlp),
        "DQN, states one-hot (sb3)": partial(of, "DQN", FOUR, spaces.Discrete(7), **mlp),
        "DQN, images (sb3)": partial(of, "DQN", FOUR, **image),
        "DQN, images with channels last (sb3)": partial(of_turned, sizes),
        "DQN, frame stack (sb3)": partial(of_stacked, **mlp),
        "QR-DQN (sb3-contrib)": partial(of, "QRDQN", FOUR, **mlp, **sizes.quantiles),
        "QR-DQN, CVaR (sb3-contrib)": partial(of_cautious, **mlp, **sizes.quantiles),
        "PPO (sb3)": partial(of, "PPO", FOUR, **mlp),
        "A2C (sb3)": partial(of, "A2C", FOUR, **mlp),
        "TRPO (sb3-contrib)": partial(of, "TRPO", FOUR, **mlp),
        "MultiDiscrete, PPO (sb3)": partial(of, "PPO", SEVERAL, **mlp),
        "MultiBinary, A2C (sb3)": partial(of, "A2C", SWITCHES, **mlp),
        "Dict, PPO (sb3)": partial(of, "PPO", FOUR, parts, policy="MultiInputPolicy", **mlp, **_camera(sizes)),
        "Gaussian PPO (sb3)": partial(of, "PPO", SQUARE, **mlp),
        "Gaussian PPO, gSDE and squash (sb3)": partial(of, "PPO", UNEVEN, **mlp, **squashed),
        "Gaussian PPO, VecNormalize (sb3)": partial(of_normalised, **mlp),
        "Gaussian PPO, time feature (sb3)": partial(of_timed, **mlp),
        "Gaussian A2C (sb3)": partial(of, "A2C", UNEVEN, **mlp),
        "SAC (sb3)": partial(of, "SAC", UNEVEN, **mlp),
        "SAC, gSDE (sb3)": partial(of, "SAC", UNEVEN, use_sde=True, **mlp),
        "TQC (sb3-contrib)": partial(of, "TQC", SQUARE, **mlp),
        "TD3 (sb3)": partial(of, "TD3", SQUARE, **mlp),
        "DDPG (sb3)": partial(of, "DDPG", UNEVEN, **mlp),
        "ARS, Discrete (sb3-contrib)": partial(of, "ARS", FOUR, **mlp),
        "ARS, Box (sb3-contrib)": partial(of, "ARS", UNEVEN, policy="LinearPolicy"),
        "masked, MaskablePPO (sb3-contrib)": partial(of, "MaskablePPO", FOUR, **mlp),
        "masked, MaskablePPO, MultiDiscrete (sb3-contrib)": partial(of, "MaskablePPO", SEVERAL, **mlp),
        "recurrent, RecurrentPPO (sb3-contrib)": partial(of, "RecurrentPPO", FOUR, **lstm),
        "recurrent, RecurrentPPO, Box (sb3-contrib)": partial(of, "RecurrentPPO", UNEVEN, **lstm),
    }


def _camera(sizes: Sizes) -> Options:
    return {"features_extractor_kwargs": {"cnn_output_dim": 16}} if sizes.extractor else {}


def of(algorithm: str, action: Space, observation: Space = VECTOR, **options: Any) -> Exhibit:
    """Make a model, stir it, save it and read it back."""
    model = stirred(algorithm, action, observation, **options)
    return exhibit(read(model), beginning(model), library_of(model))


def stirred(algorithm: str, action: Space, observation: Space = VECTOR, **options: Any) -> BaseAlgorithm:
    """Make a model whose answers differ from observation to observation."""
    model = made(algorithm, action, observation, **options)
    calmed(model)
    if not isinstance(action, spaces.Box):
        balanced(model)
    return model


def calmed(model: BaseAlgorithm) -> None:
    """Have convolutions look for edges: of an image of noise, brightness is always the same, and edges are not.

    Their many sums would be large and nearly alike, and what is left of float32 in the difference is little.
    """
    with torch.no_grad():
        for name, parameter in model.policy.named_parameters():
            if ".cnn." in name and parameter.ndim == 4:
                parameter.sub_(parameter.mean(dim=(2, 3), keepdim=True)).mul_(0.4)


def library_of(model: BaseAlgorithm) -> str:
    """Name the library that a model's policy is from."""
    return type(model.policy).__module__.split(".")[0].replace("_", "-")


def beginning(model: BaseAlgorithm) -> Begin:
    """Begin episodes of ``predict``, which is handed back the state that it gave."""

    def begin(count: int) -> Native:
        state: tuple[NDArray[np.generic], ...] | None = None
        first = np.ones(count, dtype=np.bool_)

        def native(inputs: Arrays) -> NDArray[np.generic]:
            nonlocal state, first
            masks = {"action_masks": inputs[MASK]} if MASK in inputs else {}
            seen = seen_in(model, inputs)
            action, state = model.predict(seen, state=state, episode_start=first, deterministic=True, **masks)
            first = np.zeros(count, dtype=np.bool_)
            return np.asarray(action)

        return native

    return begin


def seen_in(model: BaseAlgorithm, inputs: Arrays) -> Any:
    """Give observations by the name of their port in the form that ``predict`` takes."""
    space = model.observation_space
    if isinstance(space, spaces.Dict):
        return {key: _shaped(inputs[f"obs.{key}"], part) for key, part in space.spaces.items()}
    return _shaped(inputs["obs"], space)


def _shaped(rows: NDArray[np.generic], space: Space) -> NDArray[np.generic]:
    return rows.reshape(len(rows), *(space.shape or ()))


def of_cautious(**options: Any) -> Exhibit:
    """Act on the mean of the worst quarter of outcomes, worked out of the real network's quantiles."""
    model = stirred("QRDQN", FOUR, **options)
    network = model.policy.get_submodule("quantile_net")

    def native(inputs: Arrays) -> NDArray[np.generic]:
        with torch.no_grad():
            quantiles = np.sort(network(torch.from_numpy(inputs["obs"])).numpy(), axis=1)
        lowest = quantiles[:, : int(np.ceil(_CVAR * quantiles.shape[1]))]
        return np.asarray(lowest.mean(axis=1).argmax(axis=1))

    return exhibit(of_sb3(read_sb3(zipped(model)), cvar=_CVAR), forgetful(native), library_of(model))


def of_turned(sizes: Sizes) -> Exhibit:
    """Take images as cameras have them, where the model has their channels first."""
    model = stirred("DQN", FOUR, sizes.image, policy="CnnPolicy", **sizes.extractor)
    ask = beginning(model)(1)

    def native(inputs: Arrays) -> NDArray[np.generic]:
        return ask({"obs": inputs["obs"].transpose(0, 3, 1, 2)})

    return exhibit(channels_last(read(model)), forgetful(native), library_of(model))


def of_stacked(**options: Any) -> Exhibit:
    """Take one frame at a time, where the model was trained under VecFrameStack."""
    model = stirred("DQN", FOUR, STACKED, **options)

    def begin(count: int) -> Native:
        ask, frames = beginning(model)(count), [np.zeros((count, 5), np.float32)] * FRAMES

        def native(inputs: Arrays) -> NDArray[np.generic]:
            frames.append(np.asarray(inputs["obs"], dtype=np.float32))
            return ask({"obs": np.concatenate(frames[-FRAMES:], axis=1)})

        return native

    return exhibit(stacked(read(model), FRAMES), begin, library_of(model))


def of_timed(**options: Any) -> Exhibit:
    """Take observations without the share of the episode that is left, which TimeFeatureWrapper puts last."""
    model = stirred("PPO", UNEVEN, **options)

    def begin(count: int) -> Native:
        ask, step = beginning(model)(count), 0

        def native(inputs: Arrays) -> NDArray[np.generic]:
            nonlocal step
            left = np.full((count, 1), 1 - step / STEPS, dtype=np.float32)
            step += 1
            return ask({"obs": np.concatenate([inputs["obs"], left], axis=1)})

        return native

    return exhibit(timed(read(model), STEPS), begin, library_of(model))


def of_normalised(**options: Any) -> Exhibit:
    """Take observations as they are, where the model saw what VecNormalize made of them."""
    model = stirred("PPO", UNEVEN, **options)
    environment: Callable[[], gymnasium.Env[Any, Any]] = lambda: Env(VECTOR, UNEVEN)  # noqa: E731 - DummyVecEnv's own
    wrapped = VecNormalize(DummyVecEnv([environment]), training=False, clip_obs=2.0)
    assert not isinstance(wrapped.obs_rms, dict)
    wrapped.obs_rms.mean, wrapped.obs_rms.var = np.linspace(0, 1, 5), np.linspace(0.05, 2, 5)
    ask = beginning(model)(1)

    def native(inputs: Arrays) -> NDArray[np.generic]:
        return ask({"obs": np.asarray(wrapped.normalize_obs(inputs["obs"]))})

    policy = of_sb3(read_sb3(zipped(model)), read_normaliser(pickle.dumps(wrapped)))
    return exhibit(policy, forgetful(native), library_of(model))
