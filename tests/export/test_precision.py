"""Policies in float64: the whole module, its casts too, and nothing of the policy itself is changed."""

import numpy as np
import pytest
import torch
from torch import nn

from export.meaning import Arrays
from export.networks import Normalised
from export.precision import Precise
from export.questions import play, trials
from export.spec import Array, Discrete
from export.trained import TrainedPolicy
from tests.export.gallery import shown

torch.set_num_threads(1)


class Casting(nn.Module):
    """Casts to float32 in every way that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(obs.to(torch.float32) / 3).float() / 7
        ones = torch.ones(1, 3, dtype=torch.float32) / 3
        return found.to(dtype=torch.float32) + ones.type(torch.float32)


def test_casts_are_to_float64() -> None:
    """A value that float32 has rounded on its way cannot be as near to the true one."""
    torch.manual_seed(0)
    module = Casting()
    policy = TrainedPolicy(module=module, observation=Array(shape=(3,)), action=Discrete(names=("a", "b", "c")))
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)

    found = np.asarray(Precise(policy)({"obs": rows})["q_values"])

    weight, bias = (part.detach().numpy().astype(np.float64) for part in (module.layer.weight, module.layer.bias))
    true = (rows.astype(np.float64) / 3 @ weight.T + bias) / 7 + 1 / 3
    assert found.dtype == np.float64
    assert found == pytest.approx(true, abs=1e-15)
    assert policy.answer({"obs": rows})["q_values"] != pytest.approx(true, abs=1e-9)
    assert module.layer.weight.dtype == torch.float32


def test_what_is_float64_already_stays_so() -> None:
    """VecNormalize's statistics are; what it hands to the network is not rounded either."""
    mean, var = np.array([70000.0, 1.0, -3.0]), np.array([1e-6, 2.0, 0.5])
    module = Normalised(mean, var, 1e-8, 10.0)
    policy = TrainedPolicy(module=module, observation=Array(shape=(3,)), action=Discrete(names=("a", "b", "c")))
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)

    found = np.asarray(Precise(policy)({"obs": rows})["q_values"])

    assert found == pytest.approx(np.clip((rows - mean) / np.sqrt(var + 1e-8), -10, 10), abs=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        "C51 (cleanrl)",
        "dueling (safetensors)",
        "DQN, states one-hot (sb3)",
        "DQN, frame stack (sb3)",
        "Dict, PPO (sb3)",
        "Gaussian PPO, VecNormalize (sb3)",
        "SAC (sb3)",
        "masked, MaskablePPO, MultiDiscrete (sb3-contrib)",
        "recurrent, RecurrentPPO, Box (sb3-contrib)",
        "recurrent, state in buffers (torchscript)",
        "ensemble of DQN (cleanrl)",
    ],
)
def test_every_kind_of_policy_can_be_asked(name: str) -> None:
    """Whole numbers, masks, memory and the states of scripted modules: close to float32, and float64 throughout."""
    policy = shown(name).meaning
    assert isinstance(policy, TrainedPolicy)
    (asked,) = trials(policy, None)
    few = type(asked)(inputs={key: rows[:4, :8] for key, rows in asked.inputs.items()}, starts=asked.starts[:4, :8])

    true, found = (play(answers, policy, few).outputs for answers in (Precise(policy), policy.answer))

    for port in policy.outputs:
        assert true[port.name].dtype == (np.float64 if port.dtype == "float32" else port.dtype)
        assert true[port.name] == pytest.approx(found[port.name], abs=1e-4)
    assert _different(true, found)


def _different(true: Arrays, found: Arrays) -> bool:
    return any((true[name] != found[name]).any() for name in true)
