"""RecurrentPPO: actions and memory of two interleaved sessions, step by step, as the real library has them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from export.errors import CheckpointRefused, OptionInvalid, TensorsUnaccounted
from export.runtime import Session
from export.sb3 import of_sb3, read_sb3
from export.spec import Box
from export.trained import About, TrainedPolicy
from export.write import build
from tests.export.sb3.densities import log_density, sampled
from tests.export.sb3.models import (
    IMAGE,
    PARTS,
    SQUARE,
    UNEVEN,
    VECTOR,
    Options,
    Space,
    answered,
    inputs_of,
    made,
    read,
    seen_by,
    zipped,
)

ABOUT = About(name="test", version="1")
STEPS = 100
RESET = 40
MLP: Options = {"policy": "MlpLstmPolicy", "lstm_hidden_size": 12, "net_arch": [10]}
CHOICE = spaces.Discrete(4)
KINDS: list[tuple[Space, Options]] = [
    (CHOICE, MLP),
    (CHOICE, {**MLP, "n_lstm_layers": 2, "enable_critic_lstm": False}),
    (CHOICE, {**MLP, "shared_lstm": True, "enable_critic_lstm": False, "net_arch": {"pi": [], "vf": [5]}}),
    (CHOICE, {**MLP, "lstm_kwargs": {"bias": False, "dropout": 0.5}, "n_lstm_layers": 2}),
    (spaces.MultiDiscrete([3, 4, 2]), MLP),
    (spaces.MultiBinary(3), MLP),
    (UNEVEN, MLP),
    (SQUARE, {**MLP, "use_sde": True}),
    (UNEVEN, {**MLP, "use_sde": True, "squash_output": True, "use_expln": True}),
    (CHOICE, {"policy": "CnnLstmPolicy", "lstm_hidden_size": 8, "observation": IMAGE}),
    (UNEVEN, {"policy": "MultiInputLstmPolicy", "lstm_hidden_size": 8, "observation": PARTS}),
    (CHOICE, {**MLP, "share_features_extractor": False, "observation": spaces.Discrete(6)}),
]

Answers = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass
class Episode:
    """One session: its observations, where its episodes start, and what either side carries and answered."""

    seen: dict[str, np.ndarray]
    starts: frozenset[int]
    carried: dict[str, np.ndarray] = field(default_factory=dict)
    state: tuple[np.ndarray, ...] | None = None
    found: list[np.ndarray] = field(default_factory=list)
    expected: list[np.ndarray] = field(default_factory=list)
    worst_state: float = 0.0

    def step(self, at: int, policy: TrainedPolicy, answers: Answers, model: BaseAlgorithm) -> None:
        """Take one step on both sides: ours is fed the initial memory where an episode starts."""
        inputs = {name: rows[at : at + 1] for name, rows in inputs_of(policy, bare(self.seen)).items()}
        if at in self.starts:
            self.carried = {
                memory.port_in.name: np.full((1, *memory.shape), memory.initial, np.float32) for memory in policy.memory
            }
        outputs = answers({**inputs, **self.carried})
        self.carried = {memory.port_in.name: outputs[memory.port_out.name] for memory in policy.memory}
        first = np.array([at in self.starts])
        one = bare({key: rows[at : at + 1] for key, rows in self.seen.items()})
        action, self.state = model.predict(one, state=self.state, episode_start=first, deterministic=True)
        self.found.append(outputs["action"][0])
        self.expected.append(action[0])
        for name, native in zip(("h", "c"), self.state or (), strict=True):
            error = np.abs(np.moveaxis(native, 0, 1) - self.carried[f"memory.{name}.in"]).max()
            self.worst_state = max(self.worst_state, float(error))


def bare(seen: dict[str, np.ndarray]) -> np.ndarray | dict[str, np.ndarray]:
    """Give the observation without keys where it has none."""
    return seen.get("", seen)


def played(policy: TrainedPolicy, answers: Answers, model: BaseAlgorithm) -> tuple[Episode, Episode]:
    """Play two sessions, interleaved step by step; the second has a new episode in the middle."""
    seen = seen_by(model, 2 * STEPS)
    keyed = seen if isinstance(seen, dict) else {"": seen}
    first = Episode({key: rows[:STEPS] for key, rows in keyed.items()}, frozenset({0}))
    second = Episode({key: rows[STEPS:] for key, rows in keyed.items()}, frozenset({0, RESET}))
    for at in range(STEPS):
        for episode in (first, second):
            episode.step(at, policy, answers, model)
    return first, second


def stirred(action: Space, options: Options) -> BaseAlgorithm:
    """Make a model whose choices differ from step to step."""
    model = made("RecurrentPPO", action, **options)
    with torch.no_grad():
        for name, parameter in model.policy.named_parameters():
            if name.startswith("action_net.bias"):
                parameter.zero_()
            if ".cnn." in name or name.startswith("features_extractor.linear"):
                parameter.mul_(0.3)
    return model


@pytest.mark.parametrize(("action", "options"), KINDS)
def test_trap_18_two_interleaved_sessions_answer_as_predict(action: Space, options: Options) -> None:
    """Over 100 steps, with a new episode in one of them, actions and states are the library's."""
    model = stirred(action, options)
    policy = read(model)

    for episode in played(policy, policy.answer, model):
        found, expected = np.array(episode.found), np.array(episode.expected)
        if isinstance(policy.action, Box):
            width = np.array(policy.action.high) - np.array(policy.action.low)
            error = np.abs(found - expected).reshape(STEPS, -1) / width
            assert error.max() <= 1e-5
        else:
            assert np.array_equal(found, expected)
        assert np.ptp(expected.reshape(STEPS, -1), axis=0).max() > 0
        assert episode.worst_state <= 1e-5
    assert policy.native is not None
    assert policy.source.algorithm == "RecurrentPPO"


def test_the_finished_file_answers_as_predict() -> None:
    """The graph in ONNX Runtime gives the same actions and states over 100 steps of interleaved sessions."""
    model = stirred(SQUARE, {**MLP, "use_sde": True, "n_lstm_layers": 2})
    policy = read(model)
    artefact = build(policy, ABOUT)

    for episode in played(policy, Session(artefact.data).run, model):
        assert np.abs(np.array(episode.found) - np.array(episode.expected)).max() <= 2e-5
        assert episode.worst_state <= 1e-5
    assert [memory.name for memory in artefact.manifest.memory] == ["h", "c"]
    assert artefact.manifest.parity.steps == STEPS
    assert artefact.manifest.parity.reference.startswith("sb3-contrib ")


def test_sessions_side_by_side_in_a_batch_do_not_mix() -> None:
    """Rows of a batch are sessions: each has its own memory, whatever stands beside it."""
    policy = read(stirred(CHOICE, {**MLP, "n_lstm_layers": 2}))
    generator = np.random.default_rng(0)
    obs = generator.normal(size=(7, 5)).astype(np.float32)
    memory = {f"memory.{name}.in": generator.normal(size=(7, 2, 12)).astype(np.float32) for name in ("h", "c")}

    together = answered(policy, {"obs": obs, **memory})
    alone = [
        answered(policy, {"obs": obs[at : at + 1], **{name: rows[at : at + 1] for name, rows in memory.items()}})
        for at in range(7)
    ]

    for name, rows in together.items():
        np.testing.assert_allclose(rows, np.concatenate([one[name] for one in alone]), atol=1e-6)


def test_a_forgotten_memory_is_another_policy() -> None:
    """Feeding the initial memory at every step, as a stateless server would, gives other actions."""
    model = stirred(CHOICE, MLP)
    policy = read(model)
    zeros = {memory.port_in.name: np.zeros((1, *memory.shape), np.float32) for memory in policy.memory}

    def forgetful(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return answered(policy, {**inputs, **zeros})

    first, _ = played(policy, forgetful, model)

    assert (np.array(first.found) != np.array(first.expected)).mean() > 0.1


@pytest.mark.parametrize("options", [KINDS[6][1], KINDS[8][1]], ids=["clipped", "squashed"])
def test_the_head_is_the_distribution_of_the_library(options: Options) -> None:
    """From any state, the density of an executed action is that of the library's own distribution."""
    model = stirred(UNEVEN, options)
    policy = read(model)
    generator = np.random.default_rng(0)
    obs = generator.normal(size=(300, 5)).astype(np.float32)
    memory = {f"memory.{name}.in": generator.normal(size=(300, 1, 12)).astype(np.float32) for name in ("h", "c")}
    state = tuple(torch.from_numpy(rows).transpose(0, 1).contiguous() for rows in memory.values())
    torch.manual_seed(0)

    head = answered(policy, {"obs": obs, **memory})
    library: Any = model.policy
    native, _ = library.get_distribution(torch.from_numpy(obs), state, torch.zeros(300))
    pre, _, expected = sampled(policy, native.distribution)
    found = log_density(policy, head["mean"], head["std"], pre)

    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_only_the_actors_lstm_is_taken() -> None:
    """The critic's LSTM, or the layer that stands for one, is set aside by name."""
    own, plain = (read(stirred(CHOICE, options)).set_aside for options in (KINDS[0][1], KINDS[1][1]))

    assert "lstm_critic.weight_ih_l0" in own
    assert "critic.weight" in plain
    assert not any(name.startswith(("lstm_actor", "action_net")) for name in (*own, *plain))


@pytest.mark.parametrize(
    ("kwargs", "error", "reason"),
    [
        ({"n_lstm_layers": 1}, TensorsUnaccounted, "does not use: lstm_actor"),
        ({"n_lstm_layers": 3}, TensorsUnaccounted, "no tensor 'lstm_actor.weight_ih_l2'"),
        ({"lstm_hidden_size": 6}, TensorsUnaccounted, "lstm_actor.weight_ih_l0"),
        ({"n_lstm_layers": "two"}, CheckpointRefused, "plain value"),
        ({"lstm_kwargs": {"proj_size": 4}}, CheckpointRefused, "proj_size"),
        ({"lstm_kwargs": {"bias": False}}, TensorsUnaccounted, "bias_hh_l0"),
        ({"lstm_kwargs": [1]}, CheckpointRefused, "lstm_kwargs is"),
    ],
)
def test_settings_that_do_not_go_with_the_lstm_are_refused(
    kwargs: dict[str, object], error: type[CheckpointRefused], reason: str
) -> None:
    """Layers, size and options of the LSTM have to be those of its tensors."""
    found = read_sb3(zipped(made("RecurrentPPO", CHOICE, VECTOR, **{**MLP, "n_lstm_layers": 2})))

    with pytest.raises(error, match=reason):
        of_sb3(replace(found, kwargs={**found.kwargs, **kwargs}))


def test_the_worst_outcomes_of_an_actor_are_refused() -> None:
    """An actor knows no distribution of outcomes."""
    with pytest.raises(OptionInvalid, match="CVaR"):
        of_sb3(read_sb3(zipped(stirred(CHOICE, MLP))), cvar=0.1)
