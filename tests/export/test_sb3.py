"""Stable-Baselines3 zips: read without unpickling, every tensor accounted for, answers as the native library's."""

import io
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces

from export.families import of_sb3
from export.runtime import Session
from export.sb3 import read_sb3
from export.spec import Artefact, Fields
from export.trained import About
from export.write import build

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "policies"
ABOUT = About(name="test", version="1")

torch.set_num_threads(1)


class Env(gymnasium.Env[np.ndarray, np.int64]):
    """An environment that has spaces and nothing else."""

    def __init__(self, observation: spaces.Space[np.ndarray]) -> None:
        self.observation_space = observation
        self.action_space = spaces.Discrete(3)


def saved(
    algorithm: str,
    observation: spaces.Space[np.ndarray] | None = None,
    **policy_kwargs: object,
) -> tuple[bytes, "stable_baselines3.common.base_class.BaseAlgorithm"]:
    """Make a model with the real library and give its zip and itself."""
    space = observation if observation is not None else spaces.Box(-1, 2, (5,), np.float32)
    options = {"buffer_size": 10} if algorithm == "DQN" else {}
    kind = getattr(stable_baselines3, algorithm)
    model = kind("MlpPolicy", Env(space), seed=1, device="cpu", policy_kwargs=policy_kwargs, **options)
    stream = io.BytesIO()
    model.save(stream)
    return stream.getvalue(), model


def answers(artefact: Artefact, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the artefact's head and actions."""
    outputs = Session(artefact.data).run(observations)
    return outputs[artefact.manifest.head], outputs["action"]


@pytest.mark.parametrize("name", ["dqn_CartPole-v1", "dqn_LunarLander-v2", "ppo_LunarLander-v2"])
def test_zoo_agents_answer_all_golden_observations_as_the_native_library(name: str) -> None:
    """A zip of another time and version gives exactly the native actions on 1000 observations."""
    checkpoint, golden = SHARED / "sb3" / f"{name}.zip", SHARED / "golden" / f"{name}.npz"
    if not checkpoint.exists():
        pytest.skip(f"the real policies are not there: {checkpoint}")
    recorded = np.load(golden)

    policy = of_sb3(read_sb3(checkpoint.read_bytes()))
    artefact = build(policy, ABOUT)
    _, action = answers(artefact, recorded["obs"])

    assert len(recorded["obs"]) == 1000
    assert np.array_equal(action, recorded["action"])
    assert artefact.manifest.parity.observations >= 1000
    assert artefact.manifest.source.algorithm == name[:3].upper()
    assert artefact.manifest.source.library_version == "1.0rc0"
    assert policy.set_aside


def test_bounds_are_read_from_an_old_zip() -> None:
    """Bounds come from the text of a gym space; gym's largest float32 means none."""
    checkpoint = SHARED / "sb3" / "dqn_CartPole-v1.zip"
    if not checkpoint.exists():
        pytest.skip(f"the real policies are not there: {checkpoint}")

    space = of_sb3(read_sb3(checkpoint.read_bytes())).observation

    assert isinstance(space, Fields)
    assert [field.low for field in space.fields] == [-4.8000002, None, -0.41887903, None]


@pytest.mark.parametrize(
    ("algorithm", "observation", "kwargs"),
    [
        ("DQN", None, {"net_arch": [16, 8], "activation_fn": torch.nn.Tanh}),
        ("DQN", spaces.Box(-1, 1, (2, 3), np.float64), {"net_arch": []}),
        ("DQN", spaces.Discrete(7), {}),
        ("DQN", spaces.Box(0, 255, (4,), np.uint8), {"activation_fn": torch.nn.ELU}),
        ("PPO", None, {"net_arch": {"pi": [16], "vf": [8, 8]}, "activation_fn": torch.nn.ReLU}),
        ("PPO", None, {"net_arch": [12], "share_features_extractor": False}),
        ("A2C", None, {}),
    ],
)
def test_a_fresh_model_answers_as_its_own_predict(
    algorithm: str, observation: spaces.Space[np.ndarray] | None, kwargs: dict[str, object]
) -> None:
    """Any net_arch, activation and vector space: the actions are those of the real library's ``predict``."""
    data, model = saved(algorithm, observation, **kwargs)
    model.observation_space.seed(0)
    seen = np.stack([np.asarray(model.observation_space.sample()) for _ in range(300)])

    artefact = build(of_sb3(read_sb3(data)), ABOUT)
    space = artefact.manifest.observation
    _, action = answers(artefact, seen.reshape(-1, *space.shape).astype(space.dtype))

    assert np.array_equal(action, model.predict(seen, deterministic=True)[0])
    assert artefact.manifest.source.algorithm == algorithm


def test_the_head_is_the_online_network_not_the_target() -> None:
    """Q-values are those of ``q_net`` even where the target network lags behind it."""
    _, model = saved("DQN", net_arch=[8])
    target = model.policy.get_submodule("q_net_target")
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.add_(1)
    stream = io.BytesIO()
    model.save(stream)
    seen = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)

    head, _ = answers(build(of_sb3(read_sb3(stream.getvalue())), ABOUT), seen)

    with torch.no_grad():
        expected = model.policy.get_submodule("q_net")(torch.from_numpy(seen)).numpy()
    assert np.abs(head - expected).max() < 1e-6
