"""PPO, A2C and TRPO with continuous actions: mean, std and executed action as the real library has them."""

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from export.errors import CheckpointRefused, TensorsUnaccounted
from export.runtime import Session
from export.sb3 import of_sb3, read_sb3
from export.sb3.normaliser import read_normaliser
from export.spec import Box
from export.trained import About
from export.write import build
from tests.export.sb3.densities import log_density, of_actor_critic, sampled
from tests.export.sb3.models import (
    IMAGE,
    PARTS,
    SQUARE,
    UNEVEN,
    VECTOR,
    Env,
    Options,
    Space,
    answered,
    executed,
    inputs_of,
    made,
    outputs_of,
    read,
    vectors_for,
    worst_error,
    zipped,
)

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "policies"
ABOUT = About(name="test", version="1")
SDE: Options = {"use_sde": True, "net_arch": [16]}
KINDS: list[tuple[str, Space, Options]] = [
    ("PPO", UNEVEN, {}),
    ("PPO", SQUARE, {"net_arch": {"pi": [12, 7], "vf": [5]}, "activation_fn": torch.nn.ELU}),
    ("A2C", SQUARE, {"net_arch": []}),
    ("TRPO", UNEVEN, {"net_arch": [9]}),
    ("PPO", UNEVEN, SDE),
    ("A2C", SQUARE, {**SDE, "full_std": False}),
    ("PPO", UNEVEN, {**SDE, "use_expln": True}),
    ("PPO", UNEVEN, {**SDE, "net_arch": []}),
    ("PPO", UNEVEN, {**SDE, "squash_output": True}),
    ("A2C", SQUARE, {**SDE, "squash_output": True, "use_expln": True, "full_std": False}),
]


@pytest.mark.parametrize(("algorithm", "action", "options"), KINDS)
def test_the_executed_action_is_that_of_predict(algorithm: str, action: Space, options: Options) -> None:
    """The head, put through the manifest's formula, gives the library's deterministic action."""
    model = made(algorithm, action, **options)
    policy = read(model)
    seen = vectors_for(model)

    found = executed(policy, outputs_of(policy, inputs_of(policy, seen))["mean"])
    expected, _ = model.predict(seen, deterministic=True)

    width = np.ptp(expected.reshape(len(found), -1), axis=0)
    assert np.abs(found - expected.reshape(len(found), -1)).max() <= 1e-5 * width.min()
    assert policy.source.algorithm == algorithm
    assert policy.native is not None


@pytest.mark.parametrize(("algorithm", "action", "options"), KINDS)
def test_the_head_is_the_distribution_of_the_library(algorithm: str, action: Space, options: Options) -> None:
    """The density of any executed action, worked out of the head, is that of the library's own distribution."""
    model = made(algorithm, action, **options)
    policy = read(model)
    seen = vectors_for(model)
    torch.manual_seed(0)

    head = outputs_of(policy, inputs_of(policy, seen))
    native = of_actor_critic(model, seen)
    pre, drawn, expected = sampled(policy, native)
    found = log_density(policy, head["mean"], head["std"], pre)

    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(executed(policy, pre), drawn if policy.squash == "tanh" else executed(policy, drawn))


def test_the_finished_file_has_the_same_density() -> None:
    """The graph in ONNX Runtime gives mean and std from which the library's densities come out."""
    model = made("PPO", SQUARE, **SDE, squash_output=True, use_expln=True)
    policy = read(model)
    artefact = build(policy, ABOUT)
    seen = vectors_for(model)
    torch.manual_seed(0)

    outputs = Session(artefact.data).run(inputs_of(policy, seen))
    pre, _, expected = sampled(policy, of_actor_critic(model, seen))
    found = log_density(policy, outputs["mean"], outputs["std"], pre)

    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(outputs["action"] - model.predict(seen, deterministic=True)[0]).max() < 2e-5
    assert artefact.manifest.squash == policy.squash
    assert artefact.manifest.parity.reference.startswith("stable-baselines3 ")


def test_trap_2_the_executed_action_is_clipped_and_the_mean_is_not() -> None:
    """PPO's mean leaves the bounds, which differ from number to number; the action stops at them."""
    model = made("PPO", SQUARE)
    policy = read(model)
    inputs = inputs_of(policy, vectors_for(model))

    mean = outputs_of(policy, inputs)["mean"]
    action = answered(policy, inputs)["action"]

    outside = (mean < SQUARE.low.reshape(-1)) | (mean > SQUARE.high.reshape(-1))
    assert outside.any(axis=0).all()
    assert not outside.all(axis=0).any()
    assert action.shape == (300, 2, 2)
    assert (action >= SQUARE.low).all()
    assert (action <= SQUARE.high).all()


def test_trap_3_gsde_with_squash_output_is_squashed_and_not_clipped() -> None:
    """With ``squash_output`` the answer is tanh scaled to the bounds: clipping the mean would be another action."""
    model = made("PPO", UNEVEN, **SDE, squash_output=True)
    policy = read(model)
    inputs = inputs_of(policy, vectors_for(model))

    mean = outputs_of(policy, inputs)["mean"]
    expected, _ = model.predict(inputs["obs"], deterministic=True)

    assert policy.squash == "tanh"
    assert np.abs(np.clip(mean, UNEVEN.low, UNEVEN.high) - expected).max() > 0.5
    assert worst_error(policy, model) < 1e-6


@pytest.mark.parametrize("shape", [(1, 5), (12, 12)])
def test_trap_15_an_action_of_any_shape_has_its_numbers_row_by_row(shape: tuple[int, ...]) -> None:
    """A Box with several axes is a flat mean whose action has the space's own shape."""
    model = made("PPO", spaces.Box(-1, 1, shape, np.float32), net_arch=[8])
    policy = read(model)
    inputs = inputs_of(policy, vectors_for(model))

    action = answered(policy, inputs)["action"]

    assert isinstance(policy.action, Box)
    assert policy.action.shape == shape
    assert np.abs(action - model.predict(inputs["obs"], deterministic=True)[0]).max() < 1e-6


@pytest.mark.parametrize(
    ("policy", "observation"), [("CnnPolicy", IMAGE), ("MultiInputPolicy", PARTS)], ids=["image", "parts"]
)
@pytest.mark.parametrize("share", [True, False])
def test_images_and_parts_go_into_the_same_head(policy: str, observation: Space, share: bool) -> None:
    """Features of an image or of parts come before the layers, the actor's own ones where they are not shared."""
    wide = spaces.Box(np.array([-90, -70], np.float32), np.array([80, 100], np.float32))
    model = made("PPO", wide, observation, policy, share_features_extractor=share)

    assert worst_error(read(model), model, 200) < 1e-6


def test_the_statistics_of_vec_normalize_are_inside() -> None:
    """Raw observations go in, and the action is that for what VecNormalize makes of them."""
    model = made("PPO", UNEVEN)
    normalise = VecNormalize(DummyVecEnv([lambda: Env(VECTOR, UNEVEN)]), clip_obs=1.5)
    running = RunningMeanStd(shape=(5,))
    running.mean, running.var = np.array([3.0, -4.0, 0.0, 1e4, 0.5]), np.array([2.0, 0.1, 1.0, 1e-3, 9.0])
    normalise.obs_rms = running  # type: ignore[assignment]  # it has this type where the space is no Dict
    drawn = np.random.default_rng(0).normal(size=(300, 5))
    raw = (running.mean + drawn * np.sqrt(running.var)).astype(np.float32)

    policy = of_sb3(read_sb3(zipped(model)), read_normaliser(pickle.dumps(normalise)))
    found = answered(policy, {"obs": raw})["action"]

    expected, _ = model.predict(normalise.normalize_obs(raw), deterministic=True)
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found - model.predict(raw, deterministic=True)[0]).max() > 0.5


def test_a_zoo_agent_of_1_0_answers_as_its_own_weights() -> None:
    """The file is a continuous PPO of 1.0rc0: the action is that of its tensors in plain torch, clip included."""
    checkpoint = SHARED / "sb3" / "ppo_LunarLanderContinuous-v2.zip"
    if not checkpoint.exists():
        pytest.skip(f"the real policies are not there: {checkpoint}")
    data = checkpoint.read_bytes()
    obs = (np.random.default_rng(0).normal(size=(1000, 8)) * 0.7).astype(np.float32)

    artefact = build(of_sb3(read_sb3(data)), ABOUT)
    outputs = Session(artefact.data).run({"obs": obs})

    mean, std = in_plain_torch(data, obs)
    clipped = np.clip(mean, -1, 1)
    assert 0.1 < (mean != clipped).mean() < 0.9
    assert np.abs(outputs["action"] - clipped).max() < 2e-5
    assert np.abs(outputs["mean"] - mean).max() < 2e-5
    assert np.abs(outputs["std"] - std).max() < 1e-6


def in_plain_torch(data: bytes, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Work mean and std out of the zip's own tensors."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        weights: Mapping[str, torch.Tensor] = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    latent = torch.from_numpy(obs)
    for layer in ("mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2"):
        latent = torch.tanh(latent @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
    mean = latent @ weights["action_net.weight"].T + weights["action_net.bias"]
    return mean.numpy(), weights["log_std"].exp().numpy()


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"squash_output": True}, "squash_output without gSDE"),
        ({"squash_output": "maybe"}, "squash_output|plain value"),
        ({"net_arch": [3]}, "expected float32"),
    ],
)
def test_settings_that_do_not_go_with_the_tensors_are_refused(kwargs: dict[str, object], reason: str) -> None:
    """What the zip says of its network has to be what its tensors are."""
    found = read_sb3(zipped(made("PPO", UNEVEN, net_arch=[4])))

    with pytest.raises(CheckpointRefused, match=reason):
        of_sb3(replace(found, kwargs={**found.kwargs, **kwargs}))


def test_a_separate_network_for_gsde_is_refused() -> None:
    """``sde_net_arch`` gave the noise features of its own before SB3 1.7: such a std is not worked out here."""
    found = read_sb3(zipped(made("PPO", UNEVEN, **SDE)))

    with pytest.raises(CheckpointRefused, match="sde_net_arch"):
        of_sb3(replace(found, kwargs={**found.kwargs, "sde_net_arch": [8]}))


def test_a_squash_without_bounds_is_refused() -> None:
    """An action that has no bounds cannot be scaled to them."""
    found = read_sb3(zipped(made("PPO", UNEVEN, **SDE, squash_output=True)))
    space = found.texts["action_space"]
    assert isinstance(space, dict)
    unbounded = {**space, "low_repr": "-inf", "high_repr": "inf"}

    with pytest.raises(CheckpointRefused, match="bounds None and None"):
        of_sb3(replace(found, texts={**found.texts, "action_space": unbounded}))


def test_a_mean_without_bounds_is_not_clipped() -> None:
    """Old releases took actions without bounds: where nothing is squashed they are executed as they are."""
    model = made("PPO", UNEVEN)
    found = read_sb3(zipped(model))
    space = found.texts["action_space"]
    assert isinstance(space, dict)
    unbounded = {**space, "low_repr": "-inf", "high_repr": "inf"}

    policy = of_sb3(replace(found, texts={**found.texts, "action_space": unbounded}))
    outputs = answered(policy, {"obs": vectors_for(model)})

    assert np.array_equal(outputs["action"], outputs["mean"])
    assert np.abs(outputs["action"]).max() > 3


def test_a_tensor_that_is_left_over_is_refused() -> None:
    """No tensor of the file may go unnoticed."""
    found = read_sb3(zipped(made("PPO", UNEVEN)))

    with pytest.raises(TensorsUnaccounted, match="another"):
        of_sb3(replace(found, tensors={**found.tensors, "another": torch.zeros(1)}))


def test_trap_27_gym_spaces_and_gymnasium_spaces_are_read_alike() -> None:
    """Old zips name a space's shape ``shape`` and its class after gym, and have no version member."""
    model = made("PPO", SQUARE)
    data = older(zipped(model))

    policy = of_sb3(read_sb3(data))

    assert policy.action == read(model).action
    assert policy.source.library_version == ""
    assert worst_error(policy, model) < 1e-5


def older(data: bytes) -> bytes:
    """Write a zip as releases with gym did: other names in its texts, and no version."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as new, zipfile.ZipFile(stream, "w") as old:
        texts = json.loads(new.read("data"))
        for key in ("observation_space", "action_space"):
            space = texts[key]
            space[":type:"] = "<class 'gym.spaces.box.Box'>"
            space["shape"] = space.pop("_shape")
            for name in ("low_repr", "high_repr"):
                space.pop(name)
        old.writestr("data", json.dumps(texts))
        old.writestr("policy.pth", new.read("policy.pth"))
    return stream.getvalue()
