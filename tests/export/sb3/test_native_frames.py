"""Frames as the real VecFrameStack and FrameStackObservation stack them, against whole exports of real models."""

import copy
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize
from torch import nn

from export.__main__ import main
from export.channels import refuse_last
from export.errors import OptionInvalid
from export.frames import Axes, Cut, Padding
from export.meaning import Arrays
from export.remembered import stacked
from export.runtime import Session
from export.sb3.native_frames import frame_stack_observation, vec_frame_stack
from export.spec import Array, Discrete, Recorded
from export.spec.artefact import Artefact, open_artefact
from export.trained import TrainedPolicy
from export.write import build
from tests.export.sb3.models import Space, stir
from tests.export.test_remembered import ABOUT

torch.set_num_threads(1)

ACTIONS = spaces.Discrete(4)
GRID = spaces.Box(-1, 1, (4, 5), np.float32)
SMALL = spaces.Box(-1, 1, (3, 5), np.float32)
SWITCHES = spaces.Box(0, 1, (2, 3, 4), np.uint8)
CUBE = spaces.Box(-1, 1, (2, 3, 2, 5), np.float32)
EYE = spaces.Box(0, 255, (36, 40, 1), np.uint8)
COLOURS = spaces.Box(0, 255, (36, 40, 3), np.uint8)
SENSES = spaces.Dict({"camera": EYE, "grid": SMALL, "speed": spaces.Box(-1, 1, (3,), np.float32)})
EXTRACTORS: Mapping[str, dict[str, Any]] = {
    "MlpPolicy": {},
    "CnnPolicy": {"features_extractor_kwargs": {"features_dim": 16}},
    "MultiInputPolicy": {"features_extractor_kwargs": {"cnn_output_dim": 16}},
}
ENVS = 2


class Wandering(gym.Env[Any, Any]):
    """Observations that differ at every step, in episodes of 5 to 12 steps; ``plain`` is the newest one."""

    def __init__(self, observation: Space, seed: int) -> None:
        self.observation_space, self.action_space = observation, ACTIONS
        observation.seed(seed)
        self._generator = np.random.default_rng(seed)
        self._left, self.begins = 0, True
        self.plain: Any = None

    def _seen(self) -> Any:
        self.plain = self.observation_space.sample()
        return self.plain

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        self._left, self.begins = int(self._generator.integers(5, 13)), True
        return self._seen(), {}

    def step(self, _: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._left, self.begins = self._left - 1, False
        return self._seen(), 0.0, self._left <= 0, False, {}


def worlds(observation: Space) -> tuple[list[Wandering], VecEnv]:
    """Make a few environments side by side."""
    envs = [Wandering(copy.deepcopy(observation), seed) for seed in range(ENVS)]
    return envs, DummyVecEnv([partial(_itself, env) for env in envs])


def _itself(env: Wandering) -> gym.Env[Any, Any]:
    return env


def played(model: BaseAlgorithm, env: VecEnv, envs: list[Wandering], steps: int = 200) -> list[tuple[Arrays, Any, Any]]:
    """Play a model in the libraries' own wrappers; gives plain frames, where episodes began, and the actions taken."""
    seen: Any = env.reset()
    state: Any = None
    found: list[tuple[Arrays, Any, Any]] = []
    for _ in range(steps):
        begins = np.array([one.begins for one in envs])
        if isinstance(envs[0].plain, dict):
            frames = {f"obs.{key}": np.stack([one.plain[key] for one in envs]) for key in envs[0].plain}
        else:
            frames = {"obs": np.stack([one.plain for one in envs])}
        actions, state = model.predict(seen, state=state, episode_start=begins, deterministic=True)
        found.append((frames, begins, actions))
        seen = env.step(actions)[0]
    return found


def replayed(artefact: Artefact, steps: list[tuple[Arrays, Any, Any]]) -> np.ndarray:
    """Ask an artefact with one frame at a time, its memory kept for each environment; gives all its actions."""
    session, manifest, found = Session(artefact.data), artefact.manifest, []
    kept = {memory.port_in.name: np.zeros((ENVS, *memory.shape), memory.dtype) for memory in manifest.memory}
    for frames, begins, _ in steps:
        for memory in manifest.memory:
            kept[memory.port_in.name][begins] = 0
        told = session.run({**frames, **kept})
        kept = {memory.port_in.name: np.array(told[memory.port_out.name]) for memory in manifest.memory}
        found.append(told["action"])
    return np.array(found)


def made(env: VecEnv, policy: str = "MlpPolicy") -> BaseAlgorithm:
    """Make a model for an environment, which SB3 wraps as it does for training, and stir its weights."""
    kind = RecurrentPPO if policy == "MlpLstmPolicy" else PPO
    kwargs = EXTRACTORS.get(policy, {"lstm_hidden_size": 8})
    model: BaseAlgorithm = kind(policy, env, n_steps=8, batch_size=8, device="cpu", policy_kwargs=kwargs)
    stir(model.policy)
    return model


def exported(model: BaseAlgorithm, path: Path, frames: int, *words: str) -> Artefact:
    """Save a model and export it by the command."""
    model.save(path / "model.zip")
    target = path / "model-1.onnx"
    assert main([str(path / "model.zip"), "-o", str(target), "--frame-stack", str(frames), *words]) == 0
    return open_artefact(target.read_bytes())


@pytest.mark.parametrize(
    ("observation", "policy", "frames", "words", "sent"),
    [
        (GRID, "MlpPolicy", 4, ("--frame-axis", "last"), (4, 5)),
        (SMALL, "MlpPolicy", 4, (), (3, 5)),
        (SMALL, "MlpLstmPolicy", 2, (), (3, 5)),
        (SWITCHES, "MlpPolicy", 3, (), (2, 3, 4)),
        (CUBE, "MlpPolicy", 3, (), (2, 3, 2, 5)),
        pytest.param(EYE, "CnnPolicy", 4, ("--channels-last",), (36, 40, 1), marks=pytest.mark.soak),
        (COLOURS, "CnnPolicy", 3, ("--channels-last",), (36, 40, 3)),
        (COLOURS, "MlpPolicy", 2, ("--channels-last",), (36, 40, 3)),
    ],
    ids=["grid", "small grid", "recurrent", "bytes that are no image", "four axes", "grey", "colours", "flat colours"],
)
def test_an_export_acts_as_the_model_does_under_vec_frame_stack(
    observation: Space, policy: str, frames: int, words: tuple[str, ...], sent: tuple[int, ...], tmp_path: Path
) -> None:
    """One frame at a time gets the actions of the real stack, over hundreds of steps of many episodes."""
    envs, plain = worlds(observation)
    model = made(VecFrameStack(plain, frames), policy)
    env = model.get_env()
    assert env is not None

    artefact = exported(model, tmp_path, frames, *words)
    steps = played(model, env, envs)

    expected = np.array([actions for _, _, actions in steps])
    assert artefact.manifest.observation.inputs[0].shape == sent
    assert np.array_equal(replayed(artefact, steps), expected)
    assert len(np.unique(expected)) > 1
    assert sum(begins.sum() for _, begins, _ in steps) > 20


def test_entries_of_a_dict_are_stacked_each_on_its_own_axis(tmp_path: Path) -> None:
    """A camera on its channels, a grid on its last axis, a vector end to end, as SB3 stacks a Dict."""
    envs, plain = worlds(SENSES)
    model = made(VecFrameStack(plain, 4), "MultiInputPolicy")
    env = model.get_env()
    assert env is not None

    artefact = exported(model, tmp_path, 4, "--channels-last")
    steps = played(model, env, envs)

    assert {port.name: port.shape for port in artefact.manifest.observation.inputs} == {
        "obs.camera": (36, 40, 1),
        "obs.grid": (3, 5),
        "obs.speed": (3,),
    }
    assert [memory.name for memory in artefact.manifest.memory] == ["frames_camera", "frames_grid", "frames_speed"]
    assert np.array_equal(replayed(artefact, steps), np.array([actions for _, _, actions in steps]))


@pytest.mark.parametrize(
    "observation",
    [GRID, spaces.Box(-1, 1, (5,), np.float32), pytest.param(SENSES, marks=pytest.mark.soak)],
    ids=["grid", "row", "dict"],
)
@pytest.mark.parametrize("below", [True, False], ids=["below", "above"])
def test_normalisation_below_and_above_the_stack(observation: Space, below: bool, tmp_path: Path) -> None:
    """Statistics of one frame show the axis by themselves; those of the stack leave it to be told."""
    envs, plain = worlds(observation)
    keys = ["grid", "speed"] if observation is SENSES else None
    options: dict[str, Any] = {"norm_reward": False, "norm_obs_keys": keys}
    env: VecNormalize | VecFrameStack
    if below:
        normalised = VecNormalize(plain, **options)
        env = VecFrameStack(normalised, 4)
    else:
        env = normalised = VecNormalize(VecFrameStack(plain, 4), **options)
    env.reset()
    for _ in range(30):
        env.step(np.zeros(ENVS, dtype=np.int64))
    normalised.training = False
    normalised.save(str(tmp_path / "statistics.pkl"))
    model = made(env, "MultiInputPolicy" if observation is SENSES else "MlpPolicy")
    whole = model.get_env()
    assert whole is not None
    words = ["--frame-axis", "last"] if observation is GRID and not below else []
    words += ["--channels-last"] if observation is SENSES else []

    artefact = exported(model, tmp_path, 4, "--normalisation", str(tmp_path / "statistics.pkl"), *words)
    steps = played(model, whole, envs)

    assert np.array_equal(replayed(artefact, steps), np.array([actions for _, _, actions in steps]))


def test_a_stack_that_reads_in_two_ways_is_refused_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So is a wrong number of frames, and nothing is written."""
    model = made(VecFrameStack(worlds(GRID)[1], 4))
    model.save(tmp_path / "model.zip")
    words = [str(tmp_path / "model.zip"), "-o", str(tmp_path / "model-1.onnx")]

    assert main([*words, "--frame-stack", "4"]) == 2
    assert "frames [1, 20] on the first axis, or say --frame-axis last for frames [4, 5]" in capsys.readouterr().err
    assert main([*words, "--frame-stack", "3"]) == 2
    assert "the last axis of obs [4, 20], which is 20 (2, 4, 5, 10, 20)" in capsys.readouterr().err
    assert main([*words, "--frame-axis", "last"]) == 2
    assert "--frame-axis is last, expected --frame-stack FRAMES with it" in capsys.readouterr().err
    assert not (tmp_path / "model-1.onnx").exists()


def of_grid(shape: tuple[int, ...], dtype: Any = "float32", **told: Any) -> TrainedPolicy:
    """Give a policy over an array, whose library answers by its torch module."""
    torch.manual_seed(0)
    module = nn.Sequential(Numbers(), nn.Flatten(), nn.Linear(int(np.prod(shape)), 3))
    base = TrainedPolicy(
        module=module, observation=Array(shape=shape, dtype=dtype), action=Discrete(names=("a", "b", "c")), **told
    )

    def native(inputs: Arrays) -> Arrays:
        return {"q_values": base.answer({"obs": inputs["obs"]})["q_values"]}

    return replace(base, native=native, native_name="itself")


class Numbers(nn.Module):
    """Anything as float32."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return obs.to(torch.float32)


@pytest.mark.parametrize("kind", ["state dict", "TorchScript"])
def test_networks_from_elsewhere_are_stacked_alike(kind: str, tmp_path: Path) -> None:
    """A declared network and TorchScript answer one frame at a time as they answer the real stack."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(60, 4))
    if kind == "state dict":
        torch.save(layers.state_dict(), tmp_path / "model.pt")
        network = 'network = { hidden = [], layers = ["1"] }'
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(layers.requires_grad_(False)), tmp_path / "model.pt")
        network = 'network = { kind = "module", head = "q_values" }'
    spaces_ = 'observation = { shape = [3, 20] }\naction = { names = ["a", "b", "c", "d"] }\n'
    (tmp_path / "it.toml").write_text(spaces_ + network)
    words = [str(tmp_path / "model.pt"), "--declare", str(tmp_path / "it.toml"), "--frame-stack", "4"]
    envs, plain = worlds(SMALL)
    env, steps = VecFrameStack(plain, 4), []
    seen: Any = env.reset()
    for _ in range(100):
        frames, begins = np.stack([one.plain for one in envs]), np.array([one.begins for one in envs])
        actions = layers(torch.from_numpy(seen)).argmax(dim=1).numpy()
        steps.append(({"obs": frames}, begins, actions))
        seen = env.step(actions)[0]

    assert main([*words, "-o", str(tmp_path / "model-1.onnx")]) == 0

    artefact = open_artefact((tmp_path / "model-1.onnx").read_bytes())
    assert np.array_equal(replayed(artefact, list(steps)), np.array([actions for _, _, actions in steps]))


def test_images_with_their_channels_last_keep_them_there() -> None:
    """A network that takes channels last gets its stack on the last axis, and --channels-last is refused."""
    whole = of_grid((18, 20, 4), "uint8")

    frame = stacked(whole, 4)

    assert frame.observation.inputs[0].shape == (18, 20, 1)
    assert frame.memory[0].shape == (18, 20, 3)
    assert frame.inside == ("stack of 4 frames on the last axis, newest last, zero at the start of an episode",)
    assert build(frame, ABOUT).manifest.parity.action_agreement == 1
    with pytest.raises(OptionInvalid, match=r"stacked on its last axis, \[18, 20, 4\]: callers send \[18, 20, 1\]"):
        refuse_last(whole, frame)


@pytest.mark.parametrize(
    ("shape", "dtype", "wrong"),
    [
        ((4, 20), "float32", Cut(0, (1, 20), by_rule=True)),
        ((4, 18, 20), "uint8", Cut(2, (4, 18, 5), by_rule=True)),
        ((4, 18, 20), "float32", Cut(0, (1, 18, 20), by_rule=True)),
    ],
)
def test_a_wrong_axis_is_seen_by_the_real_stack(
    shape: tuple[int, ...], dtype: str, wrong: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where our own rule would take another axis than SB3 does, SB3's own stack shows it before anything is written."""
    monkeypatch.setattr("export.frames._cut", lambda *_, **__: wrong)

    with pytest.raises(OptionInvalid, match=r"VecFrameStack makes .* but the policy takes .* say with --frame-axis"):
        stacked(of_grid(shape, dtype), 4)


def test_recorded_episodes_are_stacked_anew_from_their_first_frame() -> None:
    """Both libraries forget what was before where a recorded episode starts."""
    rows = np.random.default_rng(0).normal(size=(300, 3, 5)).astype(np.float32)
    starts = np.arange(300) % 7 == 0

    for padding in ("zero", "first"):
        axes: Axes = {"": "last"}
        policy = stacked(of_grid((3, 20)), 4, padding, axes=axes)
        parity = build(policy, ABOUT, recorded=Recorded(inputs={"obs": rows}, starts=starts)).manifest.parity
        assert (parity.observations, parity.action_agreement) == (2300, 1)


@pytest.mark.parametrize("padding", ["zero", "first"])
def test_without_the_libraries_numpy_stacks_alike(padding: Padding, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof holds with and without them, and the files are the same."""
    known = build(stacked(of_grid((3, 20)), 4, padding, axes={"": "last"}), ABOUT)

    for name in ("gymnasium", "stable_baselines3.common.vec_env.stacked_observations"):
        monkeypatch.setitem(sys.modules, name, None)

    assert vec_frame_stack((5,), "float32", 4, image=False, order=None, expected=(20,)) is None
    assert frame_stack_observation((5,), "float32", 4, 0) is None
    assert build(stacked(of_grid((3, 20)), 4, padding, axes={"": "last"}), ABOUT).digest == known.digest


def test_frames_are_those_of_gymnasiums_wrapper() -> None:
    """The wrapper's own frames, side by side on the axis, over several episodes."""
    env = FrameStackObservation(Wandering(SMALL, 3), 4)
    stack = frame_stack_observation((3, 5), "float32", 4, 1)
    assert stack is not None
    for _ in range(3):
        (whole, _), ended, start = env.reset(), False, True
        while not ended:
            found = stack(whole[-1][None], np.array([start]))
            assert np.array_equal(found[0], np.concatenate(list(whole), axis=1))
            whole, _, ended, _, _ = env.step(0)
            start = False
