"""Models that the real Stable-Baselines3 and sb3-contrib make, stirred so that clips and squashes really bite."""

import io
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from export.sb3 import of_sb3, read_sb3
from export.spec import Box
from export.trained import TrainedPolicy

torch.set_num_threads(1)

VECTOR = spaces.Box(-1, 2, (5,), np.float32)
UNEVEN = spaces.Box(np.array([-2, 0.5], np.float32), np.array([1, 3], np.float32))
SQUARE = spaces.Box(
    np.array([[-2, 0.5], [-0.1, -7]], np.float32), np.array([[1, 3], [0.2, 11]], np.float32), dtype=np.float32
)
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
PARTS = spaces.Dict({"speed": spaces.Box(-1, 1, (3,), np.float32), "gear": spaces.Discrete(4)})
_SMALL: Mapping[str, Mapping[str, object]] = {
    **{name: {"buffer_size": 10} for name in ("SAC", "TQC", "TD3", "DDPG", "DQN", "QRDQN")},
    **{name: {"n_steps": 8, "batch_size": 8} for name in ("PPO", "TRPO", "RecurrentPPO", "MaskablePPO")},
}

Space = spaces.Space[Any]
# Keyword arguments of a model, which are of many types.
Options = dict[str, Any]


class Env(gymnasium.Env[np.ndarray, np.ndarray]):
    """An environment that has spaces and nothing else."""

    def __init__(self, observation: Space, action: Space) -> None:
        self.observation_space, self.action_space = observation, action


def made(
    algorithm: str,
    action: Space = UNEVEN,
    observation: Space = VECTOR,
    policy: str = "MlpPolicy",
    use_sde: bool = False,
    **policy_kwargs: Any,
) -> BaseAlgorithm:
    """Make a model with the real library and stir all its weights."""
    kind = getattr(stable_baselines3, algorithm, None) or getattr(sb3_contrib, algorithm)
    options = dict(_SMALL.get(algorithm, {})) | ({"use_sde": True} if use_sde else {})
    model: BaseAlgorithm = kind(
        policy, Env(observation, action), seed=1, device="cpu", policy_kwargs=dict(policy_kwargs), **options
    )
    stir(model.policy)
    return model


def stir(policy: BasePolicy) -> None:
    """Draw all weights anew, larger than training starts with; critics and targets get other ones than the actor."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            # A std far below the mean's own digits has no density that two libraries could agree on.
            if name.endswith("log_std"):
                parameter.copy_(0.6 * drawn - 0.5)
            elif name.endswith("log_std.weight"):
                parameter.copy_(0.3 * drawn / parameter[0].numel() ** 0.5)
            elif parameter.ndim > 1:
                parameter.copy_(2.5 * drawn / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.5 * drawn)


def zipped(model: BaseAlgorithm) -> bytes:
    """Save a model as the library does."""
    stream = io.BytesIO()
    model.save(stream)
    return stream.getvalue()


def read(model: BaseAlgorithm) -> TrainedPolicy:
    """Save a model and read it back without the library."""
    return of_sb3(read_sb3(zipped(model)))


def seen_by(model: BaseAlgorithm, count: int = 300) -> np.ndarray | dict[str, np.ndarray]:
    """Sample observations from a model's space, in the form that ``predict`` takes."""
    model.observation_space.seed(0)
    rows = [model.observation_space.sample() for _ in range(count)]
    if isinstance(model.observation_space, spaces.Dict):
        return {key: np.stack([row[key] for row in rows]) for key in model.observation_space}
    return np.stack(rows)


def vectors_for(model: BaseAlgorithm, count: int = 300) -> np.ndarray:
    """Sample observations from a model's space where it is no Dict."""
    seen = seen_by(model, count)
    assert isinstance(seen, np.ndarray)
    return seen


def answered(policy: TrainedPolicy, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give outputs and the executed action of the module that was read."""
    return dict(policy.answer(inputs))


def inputs_of(policy: TrainedPolicy, seen: np.ndarray | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give observations by the name of their port."""
    by_name = {f"obs.{key}": rows for key, rows in seen.items()} if isinstance(seen, dict) else {"obs": seen}
    return {
        port.name: by_name[port.name].reshape(-1, *port.shape).astype(port.dtype) for port in policy.observation.inputs
    }


def outputs_of(policy: TrainedPolicy, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run the module that was read, and name what it gives."""
    with torch.no_grad():
        found = policy.module(*(torch.from_numpy(inputs[port.name]) for port in policy.inputs))
    tensors = (found,) if isinstance(found, torch.Tensor) else found
    return {port.name: tensor.numpy() for port, tensor in zip(policy.outputs, tensors, strict=True)}


def executed(policy: TrainedPolicy, pre: np.ndarray) -> np.ndarray:
    """Turn ``mean + std * z`` into the executed action, by the formula of the manifest alone."""
    assert isinstance(policy.action, Box)
    low, high = np.array(policy.action.low), np.array(policy.action.high)
    if policy.squash == "tanh":
        return np.asarray(low + (np.tanh(pre.astype(np.float64)) + 1) / 2 * (high - low))
    return np.clip(pre.astype(np.float64), low, high)


def worst_error(policy: TrainedPolicy, model: BaseAlgorithm, count: int = 300) -> float:
    """Give the largest difference to the library's ``predict``, as a share of the action's range."""
    assert isinstance(policy.action, Box)
    seen = seen_by(model, count)
    found = executed(policy, outputs_of(policy, inputs_of(policy, seen))["mean"])
    expected, _ = model.predict(seen, deterministic=True)
    assert np.ptp(expected.reshape(count, -1), axis=0).min() > 0
    width = np.array(policy.action.high) - np.array(policy.action.low)
    return float((np.abs(found - expected.reshape(count, -1)) / width).max())
