"""Behaviour of RLlib's checkpoints: the same numbers as its layers give, and a sentence for what is not known."""

import base64
import io
import pickle
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from export.errors import CheckpointRefused, TensorsUnaccounted
from export.rllib import of_rllib, read_rllib
from export.trained import TrainedPolicy
from tests.export.rllib.folders import (
    DQN,
    PPO,
    SAC,
    Array,
    Name,
    box,
    clip_of,
    discrete,
    dumped,
    mlp,
    multi_discrete,
    ppo_tensors,
    write_algorithm,
    write_module,
)

REAL = box([-2.0, 0.0], [1.0, 10.0])
MEAN_STD = "ray.rllib.connectors.env_to_module.mean_std_filter.MeanStdFilter"
Real = NDArray[np.float64]
OBS = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)


def policy(folder: Path) -> TrainedPolicy:
    """Read a folder as a policy."""
    return of_rllib(read_rllib(folder))


def answer(found: TrainedPolicy, obs: Array = OBS) -> Mapping[str, Real]:
    """Ask a policy."""
    return {name: np.asarray(array, np.float64) for name, array in found.answer({"obs": obs}).items()}


def run(tensors: Mapping[str, Array], prefix: str, given: NDArray[np.floating], last: bool = False) -> Real:
    """Work out a stack of tanh layers with NumPy; ``last`` leaves the last activation out."""
    names = sorted(name.removesuffix(".weight") for name in tensors if name.startswith(prefix) and "weight" in name)
    found = given.astype(np.float64)
    for at, name in enumerate(names):
        found = found @ tensors[f"{name}.weight"].T.astype(np.float64) + tensors[f"{name}.bias"]
        found = found if last and at == len(names) - 1 else np.tanh(found)
    return found


def test_ppo_gives_its_logits(tmp_path: Path) -> None:
    """A Discrete action: the logits of the actor alone, the critic set aside."""
    tensors = ppo_tensors(3)

    found = policy(write_module(tmp_path / "m", PPO, discrete(3), tensors))

    expected = run(tensors, "pi.", run(tensors, "encoder.encoder.", OBS), last=True)
    np.testing.assert_allclose(answer(found)["logits"], expected, atol=1e-5)
    assert (found.family, found.head, found.source.library_version) == ("categorical", "logits", "2.60.0")
    assert "vf.net.mlp.0.weight" in found.set_aside


def test_ppo_scales_its_actions_to_the_bounds(tmp_path: Path) -> None:
    """A Box action: mean and std in executed units, as NormalizeAndClipActions makes them."""
    tensors = mlp("encoder.actor_encoder", 5, 8) | mlp("encoder.critic_encoder", 5, 8) | mlp("pi", 8, 4)
    tensors |= mlp("vf", 8, 1) | clip_of("pi") | clip_of("vf")

    found = policy(write_module(tmp_path / "m", PPO, REAL, tensors))

    mean, log_std = np.split(run(tensors, "pi.", run(tensors, "encoder.actor_", OBS), last=True), 2, axis=1)
    middle, reach = np.array([-0.5, 5.0]), np.array([1.5, 5.0])
    told = answer(found)
    np.testing.assert_allclose(told["mean"], middle + reach * mean, atol=1e-5)
    np.testing.assert_allclose(told["std"], reach * np.exp(log_std), rtol=1e-4)
    np.testing.assert_allclose(told["action"], np.clip(middle + reach * mean, [-2, 0], [1, 10]), atol=1e-5)
    assert any("default" in phrase for phrase in found.inside)


def test_ppo_with_a_free_std_has_one_for_all_states(tmp_path: Path) -> None:
    """``free_log_std``: the std is a parameter of its own, within its clip."""
    tensors = ppo_tensors(2) | {"pi.log_std": np.array([0.5, 30.0], np.float32)}
    config = {"fcnet_hiddens": [8], "free_log_std": True}

    found = policy(write_module(tmp_path / "m", PPO, REAL, tensors, config))

    np.testing.assert_allclose(answer(found)["std"][0], [1.5 * np.exp(0.5), 5 * np.exp(20.0)], rtol=1e-5)


def test_ppo_with_several_choices_gives_all_their_logits(tmp_path: Path) -> None:
    """A MultiDiscrete action has the factors' logits one after another."""
    found = policy(write_module(tmp_path / "m", PPO, multi_discrete(3, 2), ppo_tensors(5)))

    assert found.family == "multi_categorical"
    assert answer(found)["action"].shape == (64, 2)


@pytest.mark.parametrize(("activation", "step"), [("relu", 2), ("SiLU", 2), ("linear", 1), (None, 1)])
def test_activations_are_those_of_the_settings(activation: str | None, step: int, tmp_path: Path) -> None:
    """RLlib's own spellings and torch's; a linear one has no place among the layers."""
    tensors = mlp("encoder.encoder", 5, 8, 6, step=step) | mlp("pi", 6, 3)
    config = {"fcnet_hiddens": [8, 6], "fcnet_activation": activation}
    kind = {"relu": nn.ReLU, "SiLU": nn.SiLU}.get(activation or "", nn.Identity)

    found = policy(write_module(tmp_path / "m", PPO, discrete(3), tensors, config))

    given = torch.from_numpy(OBS)
    for name in ("encoder.encoder.net.mlp.0", f"encoder.encoder.net.mlp.{step}"):
        weight, bias = (torch.from_numpy(tensors[f"{name}.{part}"]) for part in ("weight", "bias"))
        given = kind()(given @ weight.T + bias)
    np.testing.assert_allclose(answer(found)["logits"], run(tensors, "pi.", given.numpy(), last=True), atol=1e-4)


def test_sac_is_squashed(tmp_path: Path) -> None:
    """SAC's mean and std are those before the squash, its critics are set aside."""
    tensors = mlp("pi_encoder", 5, 8) | mlp("pi", 8, 4) | clip_of("pi") | mlp("qf", 8, 1) | mlp("target_qf_twin", 8, 1)

    found = policy(write_module(tmp_path / "m", SAC, REAL, tensors))

    mean, log_std = np.split(run(tensors, "pi.", run(tensors, "pi_encoder.", OBS), last=True), 2, axis=1)
    told = answer(found)
    np.testing.assert_allclose(told["mean"], mean, atol=1e-5)
    np.testing.assert_allclose(told["std"], np.exp(np.clip(log_std, -5, 2)), rtol=1e-4)
    np.testing.assert_allclose(told["action"], [-2, 0] + (np.tanh(mean) + 1) / 2 * [3, 10], atol=1e-5)
    assert (found.squash, len(found.set_aside)) == ("tanh", 4)


def test_sac_with_a_choice_gives_logits(tmp_path: Path) -> None:
    """A Discrete action has no squash."""
    tensors = mlp("pi_encoder", 5, 8) | mlp("pi", 8, 3) | clip_of("pi")

    assert policy(write_module(tmp_path / "m", SAC, discrete(3), tensors)).head == "logits"


@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize("atoms", [1, 7])
def test_dqn_gives_its_values(dueling: bool, atoms: int, tmp_path: Path) -> None:
    """Plain, dueling, distributional and both: the online network's values."""
    tensors = mlp("encoder", 5, 8) | mlp("af", 8, 3 * atoms) | (mlp("vf", 8, 1) if dueling else {})
    tensors |= mlp("_target_encoder", 5, 8) | clip_of("af")
    config = {"fcnet_hiddens": [8], "dueling": dueling, "num_atoms": atoms, "v_min": -1.0, "v_max": 2.0}

    found = policy(write_module(tmp_path / "m", DQN, discrete(3), tensors, config))

    latent = run(tensors, "encoder.", OBS)
    advantage = run(tensors, "af.", latent, last=True).reshape(64, 3, atoms)
    if dueling:
        centred = advantage - advantage.mean(axis=2 if atoms > 1 else 1, keepdims=True)
        advantage = centred + run(tensors, "vf.", latent, last=True)[:, :, None]
    share = np.exp(advantage) / np.exp(advantage).sum(axis=2, keepdims=True)
    expected = (share * np.linspace(-1, 2, atoms)).sum(axis=2) if atoms > 1 else advantage[:, :, 0]
    np.testing.assert_allclose(answer(found)["q_values"], expected, atol=1e-5)


def test_msgpack_is_read_as_well(tmp_path: Path) -> None:
    """A state in msgpack, arrays as msgpack_numpy writes them, gives the same policy."""
    tensors = ppo_tensors(3)
    folder = write_module(tmp_path / "m", PPO, discrete(3), tensors)
    expected = answer(policy(folder))["logits"]
    packed = {
        name: {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": list(array.shape), b"data": array.tobytes()}
        for name, array in tensors.items()
    }
    (folder / "module_state.pkl").unlink()
    (folder / "module_state.msgpack").write_bytes(msgspec.msgpack.encode(packed))

    np.testing.assert_array_equal(answer(policy(folder))["logits"], expected)


@pytest.mark.parametrize(
    "state",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"",
        msgspec.msgpack.encode({"a": 3}),
        msgspec.msgpack.encode({"a": {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1], b"data": b"x"}}),
        msgspec.msgpack.encode({"a": {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [1 << 39], b"data": b"x"}}),
        msgspec.msgpack.encode({"a": {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [-1], b"data": b"x"}}),
    ],
)
def test_damaged_msgpack_is_refused(state: bytes, tmp_path: Path) -> None:
    """Lengths that are not there, depth without end, and arrays of objects (pickles) are refused."""
    folder = write_module(tmp_path / "m", PPO, discrete(3), ppo_tensors(3))
    (folder / "module_state.pkl").unlink()
    (folder / "module_state.msgpack").write_bytes(state)

    with pytest.raises(CheckpointRefused, match=r"module_state\.msgpack"):
        read_rllib(folder)


def packed(array: NDArray[np.floating]) -> str:
    """Give an array as RLlib writes it into a filter's state."""
    stream = io.BytesIO()
    np.save(stream, array)
    return base64.b64encode(zlib.compress(stream.getvalue())).decode()


def filtered(folder: Path, mean: Real, squares: Real, pushes: int, **changes: object) -> Path:
    """Write an algorithm with a MeanStdFilter; gives its folder."""
    place = write_algorithm(folder, (MEAN_STD, {"clip_by_value": 1.0}), normalize_actions=True, clip_actions=False)
    write_module(place, PPO, REAL, ppo_tensors(4))
    stats = {"num_pushes": pushes, "mean_array": packed(mean), "sum_sq_diff_array": packed(squares)} | changes
    state = {"de_mean_to_zero": True, "de_std_to_one": True, "clip_by_value": 1.0, "running_stats": [stats]}
    pieces = folder / "env_runner" / "env_to_module_connector" / "MeanStdFilter"
    pieces.mkdir()
    (pieces / "state.pkl").write_bytes(pickle.dumps({None: state}))
    return folder


def test_a_mean_std_filter_goes_into_the_network(tmp_path: Path) -> None:
    """Observations are normalised as RLlib does it, whichever folder of the algorithm is named."""
    mean, squares = np.arange(5.0), np.arange(1.0, 6.0) * 9
    plain = policy(write_module(tmp_path / "plain", PPO, REAL, ppo_tensors(4)))
    algorithm = filtered(tmp_path / "algorithm", mean, squares, 10)
    normalised = np.clip((OBS - mean) / (np.sqrt((squares / 9).astype(np.float32)) + 1e-6), -1, 1).astype(np.float32)

    for inner in ("", "learner_group/learner/rl_module", "learner_group/learner/rl_module/default_policy"):
        found = policy(algorithm / inner)

        np.testing.assert_allclose(answer(found)["mean"], answer(plain, normalised)["mean"], atol=1e-5)
        assert not any("default" in phrase for phrase in found.inside)


@pytest.mark.parametrize(
    "changes",
    [
        {"mean_array": 3},
        {"mean_array": "no base 64"},
        {"mean_array": base64.b64encode(b"no zlib").decode()},
        {"mean_array": base64.b64encode(zlib.compress(bytes(32 * 1024 * 1024))).decode()},
        {"mean_array": packed(np.full(5, np.nan))},
        {"mean_array": packed(np.zeros(4))},
        {"mean_array": base64.b64encode(zlib.compress(pickle.dumps(print))).decode()},
    ],
)
def test_a_damaged_filter_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    """Its arrays are unpacked up to a cap and never unpickled."""
    with pytest.raises(CheckpointRefused, match="MeanStdFilter"):
        read_rllib(filtered(tmp_path / "algorithm", np.zeros(5), np.ones(5), 10, **changes))


def test_actions_that_are_only_clipped_are_not_scaled(tmp_path: Path) -> None:
    """``normalize_actions=False, clip_actions=True``: the mean is the module's own."""
    place = write_algorithm(tmp_path, normalize_actions=False, clip_actions=True)
    tensors = ppo_tensors(4)
    write_module(place, PPO, REAL, tensors)

    mean = run(tensors, "pi.", run(tensors, "encoder.encoder.", OBS), last=True)[:, :2]

    np.testing.assert_allclose(answer(policy(tmp_path))["mean"], mean, atol=1e-5)


def test_actions_without_bounds_are_left_alone(tmp_path: Path) -> None:
    """There is nothing to scale or clip to."""
    free = box([-np.inf] * 2, [np.inf] * 2)
    tensors = ppo_tensors(4)

    found = policy(write_module(tmp_path / "m", PPO, free, tensors))

    mean = run(tensors, "pi.", run(tensors, "encoder.encoder.", OBS), last=True)[:, :2]
    np.testing.assert_allclose(answer(found)["action"], mean, atol=1e-5)


def odd_connector(folder: Path) -> Path:
    """An algorithm with somebody's own connector."""
    place = write_algorithm(folder, ("mine.Crop", {}), normalize_actions=True)
    return write_module(place, PPO, discrete(3), ppo_tensors(3))


def neither(folder: Path) -> Path:
    """An algorithm whose actions may leave their bounds."""
    place = write_algorithm(folder, normalize_actions=False, clip_actions=False)
    return write_module(place, PPO, REAL, ppo_tensors(4))


def of_kind(kind: str = PPO, action: object = None, outputs: int = 3, **told: object) -> Callable[[Path], Path]:
    """Give a maker of a folder."""
    config = {"fcnet_hiddens": [8]} | told
    observation = config.pop("observation", None)
    return lambda folder: write_module(
        folder / "m", kind, action or discrete(3), ppo_tensors(outputs), config, observation
    )


UNKNOWN: Mapping[str, Callable[[Path], Path]] = {
    "the module is a mine.Net": of_kind("mine.Net"),
    "the module is a mine.DefaultPPOTorchRLModule": of_kind("mine.DefaultPPOTorchRLModule"),
    "use_lstm is set": of_kind(use_lstm=True),
    "fcnet_use_layernorm is set": of_kind(fcnet_use_layernorm=True),
    "fcnet_hiddens is a str": of_kind(fcnet_hiddens="8"),
    r"fcnet_hiddens is \[0.0\]": of_kind(fcnet_hiddens=[0]),
    "fcnet_hiddens is empty": of_kind(fcnet_hiddens=[]),
    "fcnet_activation is 'sin'": of_kind(fcnet_activation="sin"),
    "fcnet_activation is 'swich', expected one of swish, ": of_kind(fcnet_activation="swich"),
    "fcnet_activation is the name torch.nn.Tanh": of_kind(fcnet_activation=Name("torch.nn.Tanh")),
    "starts at 2": of_kind(action=discrete(3, start=2)),
    "the action space is a int": of_kind(action=3),
    "the DQN module has a box action": of_kind(DQN, REAL),
    "num_atoms is 0": of_kind(DQN, num_atoms=0),
    "the SAC module has another action": of_kind(SAC, multi_discrete(2, 2)),
    "the observation space is Discrete": of_kind(observation=discrete(3)),
    "neither un-scaled": of_kind(action=box([-1.0, 0.0], [1.0, np.inf]), outputs=4),
    "connector mine.Crop": odd_connector,
    "normalize_actions with all bounds, or": neither,
}


@pytest.mark.parametrize("expected", UNKNOWN)
def test_what_is_not_known_is_refused_by_name(expected: str, tmp_path: Path) -> None:
    """Other networks, spaces and connectors than RLlib's default ones are named, never guessed."""
    folder = UNKNOWN[expected](tmp_path)

    with pytest.raises((CheckpointRefused, TensorsUnaccounted), match=expected):
        policy(folder)


def test_one_of_several_modules_has_to_be_named(tmp_path: Path) -> None:
    """A multi-agent folder without a default policy lists the modules in it."""
    write_module(tmp_path / "rl_module" / "left", PPO, discrete(3), ppo_tensors(3))
    shutil.copytree(tmp_path / "rl_module" / "left", tmp_path / "rl_module" / "right")
    (tmp_path / "rl_module" / "class_and_ctor_args.pkl").write_bytes(dumped({}))
    (tmp_path / "rl_module" / "module_state.pkl").write_bytes(dumped({}))

    with pytest.raises(CheckpointRefused, match="left, right"):
        policy(tmp_path / "rl_module")
    assert policy(tmp_path / "rl_module" / "left").head == "logits"
