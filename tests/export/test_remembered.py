"""Frame stacks and time features: the graph keeps what the training wrappers kept, step by step of real episodes."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import FrameStackObservation
from sb3_contrib.common.wrappers import TimeFeatureWrapper
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from torch import nn

from export.channels import channels_last
from export.errors import OptionInvalid
from export.meaning import Arrays
from export.remembered import is_of_frames, stacked, timed
from export.runtime import Session
from export.sb3.normaliser import Normaliser, Running
from export.spec import Array, Dict, Discrete, Entry, Field, Fields
from export.trained import About, TrainedPolicy
from export.write import build

ABOUT = About(name="remembered", version="1")
ACTION = Discrete(names=("a", "b", "c"))

torch.set_num_threads(1)


class Wandering(gym.Env[np.ndarray, Any]):
    """Observations of three numbers that differ at every step, in episodes of seven steps."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 10, (3,), np.float32)
        self.action_space = gym.spaces.Discrete(3)
        self._generator = np.random.default_rng(0)
        self._step = 0

    def _seen(self) -> np.ndarray:
        return (self._generator.random(3) * 10).astype(np.float32)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self._step = 0
        return self._seen(), {}

    def step(self, _: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._step += 1
        return self._seen(), 0.0, self._step >= 7, False, {}


def policy(size: int, **told: Any) -> TrainedPolicy:
    """Give a Q-network over a vector."""
    torch.manual_seed(0)
    space = Fields(fields=tuple(Field(name=f"x{at}") for at in range(size)))
    return TrainedPolicy(module=nn.Linear(size, 3), observation=space, action=ACTION, **told)


def answers(data: bytes, steps: Iterator[tuple[np.ndarray, bool]]) -> list[np.ndarray]:
    """Ask an artefact one frame at a time, carrying its memory; True begins an episode."""
    session = Session(data)
    memory: dict[str, np.ndarray] = {}
    told = []
    for frame, begins in steps:
        given = {"obs": frame[None]}
        for name in (name for name in session.inputs if name.startswith("memory.")):
            shape = [1, *(dim for dim in _shape(session, name)[1:])]
            kept = memory.get(name.replace(".in", ".out"))
            given[name] = np.zeros(shape, _dtype(session, name)) if begins or kept is None else kept
        found = session.run(given)
        memory = {name: np.asarray(array) for name, array in found.items()}
        told.append(np.asarray(found["q_values"])[0])
    return told


def _shape(session: Session, name: str) -> list[int]:
    found: list[int] = next(given.shape for given in session._session.get_inputs() if given.name == name)
    return found


def _dtype(session: Session, name: str) -> str:
    kind = next(given.type for given in session._session.get_inputs() if given.name == name)
    return {"tensor(float)": "float32", "tensor(uint8)": "uint8"}[kind]


def test_frames_are_stacked_as_vec_frame_stack_does() -> None:
    """Zeros stand for frames before an episode, over several episodes of a real VecFrameStack."""
    base = policy(12)
    frames = VecFrameStack(DummyVecEnv([Wandering]), 4)
    stack, plain = np.asarray(frames.reset()), []
    expected = []
    begins = True
    for _ in range(20):
        plain.append((stack[0, -3:].astype(np.float32), begins))
        expected.append(base.module(torch.from_numpy(stack.astype(np.float32))).detach().numpy()[0])
        after, _, dones, _ = frames.step(np.array([0]))
        stack = np.asarray(after)
        begins = bool(dones[0])

    told = answers(build(stacked(base, 4), ABOUT).data, iter(plain))

    assert sum(begun for _, begun in plain) == 3
    assert np.array(told) == pytest.approx(np.array(expected), abs=1e-5)


def test_frames_are_stacked_as_gymnasium_does() -> None:
    """The first frame stands for those before it, as FrameStackObservation has it."""
    base = policy(12)
    env = FrameStackObservation(Wandering(), 4)
    plain, expected = [], []
    for _ in range(2):
        stack, ended, begins = env.reset()[0], False, True
        while not ended:
            plain.append((stack[-1].astype(np.float32), begins))
            expected.append(base.module(torch.from_numpy(stack.reshape(1, -1))).detach().numpy()[0])
            stack, _, ended, _, _ = env.step(0)
            begins = False

    told = answers(build(stacked(base, 4, "first"), ABOUT).data, iter(plain))

    assert np.array(told) == pytest.approx(np.array(expected), abs=1e-5)


def test_images_are_stacked_along_their_channels() -> None:
    """Bytes stay bytes in the memory, and the newest image stands last."""
    torch.manual_seed(0)
    module = nn.Sequential(Scaled(), nn.Flatten(), nn.Linear(3 * 2 * 2, 3))
    base = TrainedPolicy(module=module, observation=Array(shape=(3, 2, 2), dtype="uint8"), action=ACTION)
    frames = np.random.default_rng(0).integers(0, 256, (5, 1, 2, 2)).astype(np.uint8)

    artefact = build(stacked(base, 3), ABOUT)
    told = answers(artefact.data, ((frame, at == 0) for at, frame in enumerate(frames)))

    padded = np.concatenate([np.zeros((2, 1, 2, 2), np.uint8), frames])[:, 0]
    stacks = np.stack([padded[at : at + 3] for at in range(5)])
    assert np.array(told) == pytest.approx(module(torch.from_numpy(stacks)).detach().numpy(), abs=1e-5)
    assert artefact.manifest.memory[0].dtype == "uint8"
    assert artefact.manifest.memory[0].shape == (2, 2, 2)


class Scaled(nn.Module):
    """Bytes as numbers up to 1."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return obs.to(torch.float32) / 255


def test_the_time_feature_is_that_of_the_wrapper() -> None:
    """The share of the episode that is left is counted in the graph as sb3-contrib's wrapper counts it."""
    base = policy(4)
    env = TimeFeatureWrapper(Wandering(), max_steps=10)
    plain, expected = [], []
    for _ in range(2):
        seen, ended, begins = np.asarray(env.reset()[0]), False, True
        while not ended:
            plain.append((seen[:-1].astype(np.float32), begins))
            expected.append(base.module(torch.from_numpy(seen[None].astype(np.float32))).detach().numpy()[0])
            after, _, ended, _, _ = env.step(0)
            seen, begins = np.asarray(after), False

    artefact = build(timed(base, 10), ABOUT)
    told = answers(artefact.data, iter(plain))

    assert np.array(told) == pytest.approx(np.array(expected), abs=1e-5)
    assert artefact.manifest.fields == ("x0", "x1", "x2")


def test_a_stack_and_a_time_feature_go_together() -> None:
    """Each keeps its own memory, and the library's own answers follow along."""

    def native(inputs: Arrays) -> Arrays:
        values = base.module(torch.from_numpy(np.asarray(inputs["obs"], dtype=np.float32))).detach().numpy()
        return {"q_values": values}

    base = policy(9)
    known = policy(9, native=native, native_name="itself")

    policy_ = timed(stacked(known, 3, "first"), 50)
    parity = build(policy_, ABOUT).manifest.parity

    assert [memory.name for memory in policy_.memory] == ["frames", "begun", "step"]
    assert parity.steps == 100
    assert parity.reference.startswith("itself and torch")


def test_a_stack_that_does_not_divide_the_observation_is_refused() -> None:
    """Three frames of ten numbers, one frame, an entry of a Dict: each is a sentence."""
    parts = Dict(entries=(Entry(key="x", space=Array(shape=(5,))),))
    odd = TrainedPolicy(module=nn.Identity(), observation=parts, action=ACTION)

    for wrong, frames in ((policy(10), 3), (policy(10), 1), (odd, 2)):
        with pytest.raises(OptionInvalid, match="expected a number from 2 that divides"):
            stacked(wrong, frames)
    with pytest.raises(OptionInvalid, match="--time-feature is 0"):
        timed(policy(4), 0)


def test_statistics_of_one_frame_are_applied_before_the_stack() -> None:
    """VecNormalize below VecFrameStack normalises each frame, and the zeros that fill the stack stay zeros."""
    base = policy(12)
    below = VecNormalize(DummyVecEnv([Wandering]), training=False, norm_reward=False)
    running = below.obs_rms
    assert isinstance(running, RunningMeanStd)
    running.mean, running.var = np.array([4.0, 5.0, 6.0]), np.array([0.5, 2.0, 8.0])
    frames = VecFrameStack(below, 4)
    stack, plain = np.asarray(frames.reset()), []
    expected = []
    for at in range(6):
        plain.append((np.asarray(below.get_original_obs())[0].astype(np.float32), at == 0))
        expected.append(base.module(torch.from_numpy(stack.astype(np.float32))).detach().numpy()[0])
        stack = np.asarray(frames.step(np.array([0]))[0])
    statistics = Normaliser(
        stats={"": Running(mean=running.mean, var=running.var)}, clip=10, epsilon=1e-8, norm_obs=True
    )

    told = answers(build(stacked(base, 4, of_frame=statistics), ABOUT).data, iter(plain))

    assert is_of_frames(statistics, base, 4)
    assert np.array(told) == pytest.approx(np.array(expected), abs=1e-5)


def test_stacked_images_may_have_their_channels_last() -> None:
    """A stack of images takes a frame with its channels last, and keeps its memory as it is."""
    torch.manual_seed(0)
    module = nn.Sequential(Scaled(), nn.Flatten(), nn.Linear(4 * 2 * 3, 3))
    base = TrainedPolicy(module=module, observation=Array(shape=(4, 2, 3), dtype="uint8"), action=ACTION)
    frames = np.random.default_rng(0).integers(0, 256, (4, 2, 3, 2)).astype(np.uint8)

    artefact = build(channels_last(stacked(base, 2)), ABOUT)
    told = answers(artefact.data, ((frame, at == 0) for at, frame in enumerate(frames)))

    first = np.concatenate([np.zeros((1, 2, 2, 3), np.uint8), frames.transpose(0, 3, 1, 2)])
    stacks = np.concatenate([first[:-1], first[1:]], axis=1)
    assert np.array(told) == pytest.approx(module(torch.from_numpy(stacks)).detach().numpy(), abs=1e-5)
