"""DQN and QR-DQN: the real library's actions on every kind of observation, quantiles laid out as it lays them out."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from export.errors import CheckpointRefused, OptionInvalid
from export.sb3 import of_sb3, read_sb3
from export.sb3.q import MeanOfQuantiles, lowest_of
from tests.export.sb3.discrete import balanced
from tests.export.sb3.models import IMAGE, VECTOR, inputs_of, made, outputs_of, read, seen_by, zipped

THREE = spaces.Discrete(3)
EVERYTHING = spaces.Dict(
    {
        "zone": spaces.Discrete(4),
        "speed": spaces.Box(-1, 1, (3,), np.float32),
        "camera": spaces.Box(0, 255, (36, 40, 3), np.uint8),
        "doors": spaces.MultiBinary(3),
        "gears": spaces.MultiDiscrete([2, 5]),
        "grid": spaces.Box(0, 1, (2, 3), np.float64),
    }
)
ONLINE_FIRST = ("q_net", "q_net_target")
SMALL_CAMERA = {"features_extractor_kwargs": {"cnn_output_dim": 8}}


@pytest.mark.parametrize("algorithm", ["DQN", "QRDQN"])
@pytest.mark.parametrize(
    ("policy", "observation", "kwargs"),
    [
        ("MlpPolicy", VECTOR, {"net_arch": [16, 8], "activation_fn": torch.nn.Tanh}),
        ("MlpPolicy", spaces.Box(-1, 1, (2, 3), np.float64), {"net_arch": []}),
        ("MlpPolicy", spaces.Discrete(7), {}),
        ("MlpPolicy", spaces.MultiDiscrete([3, 2, 4]), {}),
        ("MlpPolicy", spaces.MultiBinary(5), {}),
        ("MlpPolicy", spaces.MultiBinary((2, 3)), {"net_arch": [8]}),
        ("MlpPolicy", IMAGE, {"net_arch": [8]}),
        ("MlpPolicy", spaces.Box(0, 255, (4,), np.uint8), {"activation_fn": torch.nn.ELU}),
        ("CnnPolicy", IMAGE, {"features_extractor_kwargs": {"features_dim": 16}}),
        ("CnnPolicy", spaces.Box(0, 1, (2, 36, 40), np.float32), {"normalize_images": False, "net_arch": [8]}),
        ("MultiInputPolicy", EVERYTHING, SMALL_CAMERA),
    ],
)
def test_actions_are_those_of_predict(
    algorithm: str, policy: str, observation: spaces.Space[Any], kwargs: dict[str, Any]
) -> None:
    """Every kind of observation and net_arch: our module, and the native reference, act as ``predict`` does."""
    options = kwargs | ({"n_quantiles": 7} if algorithm == "QRDQN" else {})
    model = made(algorithm, THREE, observation, policy, **options)
    seen = balanced(model)
    found = read(model)
    inputs = inputs_of(found, seen)

    expected, _ = model.predict(seen, deterministic=True)

    assert len(np.unique(expected)) > 1
    assert np.array_equal(found.answer(inputs)["action"], expected)
    assert found.native is not None
    assert np.array_equal(found.native(inputs)["action"], expected)
    assert (found.head, found.family) == ("q_values", {"DQN": "dqn", "QRDQN": "qr_dqn"}[algorithm])


def test_the_head_is_the_online_network_not_the_target() -> None:
    """Q-values are those of ``q_net`` even where the target network lags behind it."""
    model = made("DQN", THREE, net_arch=[8])
    found = read(model)
    inputs = inputs_of(found, seen_by(model))

    head = outputs_of(found, inputs)["q_values"]

    with torch.no_grad():
        online, target = (model.policy.get_submodule(name)(torch.from_numpy(inputs["obs"])) for name in ONLINE_FIRST)
    assert np.abs(head - online.numpy()).max() < 1e-6
    assert np.abs(head - target.numpy()).max() > 1e-2
    assert {name.split(".")[0] for name in found.set_aside} == {"q_net_target"}


def test_quantiles_are_laid_out_quantile_by_quantile() -> None:
    """The output is ``[quantiles, actions]``: taken the other way round it is a plausible wrong policy."""
    outcomes = torch.tensor([[1.0, 10.0, 2.0, 20.0, 6.0, 30.0]])

    assert MeanOfQuantiles(3, 2, 3)(outcomes).tolist() == [[3.0, 20.0]]
    assert MeanOfQuantiles(3, 2, 2)(outcomes).tolist() == [[1.5, 15.0]]


def test_cvar_is_the_mean_of_the_lowest_quantiles_of_the_real_network() -> None:
    """CVaR acts on the worst share of outcomes, and differs from the expectation."""
    model = made("QRDQN", THREE, n_quantiles=10, net_arch=[16])
    seen = balanced(model)
    found = of_sb3(read_sb3(zipped(model)), cvar=0.25)
    inputs = inputs_of(found, seen)

    head = outputs_of(found, inputs)["q_values"]

    with torch.no_grad():
        quantiles = model.policy.get_submodule("quantile_net")(torch.from_numpy(inputs["obs"])).numpy()
    expected = np.sort(quantiles, axis=1)[:, :3].mean(axis=1)
    assert np.abs(head - expected).max() < 1e-5
    assert not np.array_equal(head.argmax(axis=1), model.predict(inputs["obs"], deterministic=True)[0])
    assert found.native is not None
    assert np.array_equal(found.native(inputs)["action"], head.argmax(axis=1))
    assert found.inside == ("CVaR 0.25: the 3 lowest, mean of 10 quantiles",)


@pytest.mark.parametrize(
    ("quantiles", "cvar", "lowest"),
    [(200, None, 200), (200, 1.0, 200), (200, 0.05, 10), (100, 0.07, 7), (10, 0.25, 3), (10, 0.001, 1)],
)
def test_the_lowest_share_is_rounded_up(quantiles: int, cvar: float | None, lowest: int) -> None:
    """It is ceil(alpha * n) of exact numbers, and never none at all."""
    assert lowest_of(quantiles, cvar) == lowest


def test_cvar_of_a_network_without_a_distribution_is_refused() -> None:
    """A DQN knows nothing but means."""
    with pytest.raises(OptionInvalid, match=r"CVaR of 0\.1 needs a network that knows a distribution"):
        of_sb3(read_sb3(zipped(made("DQN", THREE, net_arch=[4]))), cvar=0.1)


@pytest.mark.parametrize("cvar", [0.0, -0.5, 1.5, float("nan")])
def test_a_cvar_that_is_no_share_is_refused(cvar: float) -> None:
    """The share is above 0 and at most 1."""
    with pytest.raises(OptionInvalid, match="expected a share above 0 and up to 1"):
        of_sb3(read_sb3(zipped(made("QRDQN", THREE, net_arch=[4], n_quantiles=5))), cvar=cvar)


def test_fewer_quantiles_than_said_are_refused() -> None:
    """A head of another width than n_quantiles times actions is not this network."""
    data = zipped(made("QRDQN", THREE, net_arch=[4], n_quantiles=5)).replace(b'"n_quantiles": 5', b'"n_quantiles": 4')

    with pytest.raises(CheckpointRefused):
        of_sb3(read_sb3(data))
