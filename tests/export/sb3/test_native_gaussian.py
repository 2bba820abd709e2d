"""Mean and std of the real library join the proof: a head that is off in either is refused."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from export.errors import ParityFailed
from export.trained import About, TrainedPolicy
from export.write import build
from tests.export.sb3.densities import of_actor_critic
from tests.export.sb3.models import UNEVEN, Options, answered, inputs_of, made, read, vectors_for

ABOUT = About(name="test", version="1")
SDE: Options = {"use_sde": True, "net_arch": [6]}


class Changed(nn.Module):
    """A network whose mean and std are changed."""

    def __init__(self, network: nn.Module, change: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.change(*self.network(*inputs))


def native(policy: TrainedPolicy, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Ask the real library."""
    assert policy.native is not None
    return dict(policy.native(inputs))


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("PPO", {"net_arch": [6]}),
        ("A2C", {**SDE, "squash_output": True}),
        ("SAC", {"net_arch": [6]}),
        ("TQC", SDE),
    ],
)
def test_mean_and_std_are_told_by_the_library(algorithm: str, options: Options) -> None:
    """A policy with a distribution says its parameters, which are those of the network that was read."""
    model = made(algorithm, UNEVEN, **options)
    policy = read(model)
    inputs = inputs_of(policy, vectors_for(model))

    told, found = native(policy, inputs), answered(policy, inputs)

    assert set(told) == {"action", "mean", "std"}
    for name in told:
        assert np.abs(told[name] - found[name]).max() < 1e-5
    if algorithm in {"PPO", "A2C"}:
        assert np.array_equal(told["std"], of_actor_critic(model, inputs["obs"]).stddev.detach().numpy())


def test_a_recurrent_policy_tells_them_from_its_state() -> None:
    """Mean and std belong to the state that goes in."""
    model = made("RecurrentPPO", UNEVEN, policy="MlpLstmPolicy", lstm_hidden_size=6, net_arch=[5], use_sde=True)
    policy = read(model)
    generator = np.random.default_rng(0)
    inputs = inputs_of(policy, vectors_for(model, 50))
    inputs |= {
        memory.port_in.name: generator.normal(size=(50, *memory.shape)).astype(np.float32) for memory in policy.memory
    }

    told, found = native(policy, inputs), answered(policy, inputs)

    assert set(told) == {"action", "mean", "std", "memory.h.out", "memory.c.out"}
    for name in told:
        assert np.abs(told[name] - found[name]).max() < 1e-5


@pytest.mark.parametrize("algorithm", ["TD3", "ARS"])
def test_a_certain_action_has_nothing_more_to_tell(algorithm: str) -> None:
    """Where there is no distribution, the action is all that is compared."""
    model = made(algorithm, UNEVEN, net_arch=[6])
    policy = read(model)

    assert set(native(policy, inputs_of(policy, vectors_for(model, 5)))) == {"action"}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("std", lambda mean, std: (mean, std * 1.001)),
        ("mean", lambda mean, std: (mean.clamp(-2, 3), std)),
    ],
)
def test_a_head_that_is_off_is_refused(name: str, change: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> None:
    """A wrong std, or a mean clipped too early, would not show in the deterministic action: the proof sees both."""
    model = made("PPO", UNEVEN, net_arch=[6])
    policy = read(model)
    wrong = replace(policy, module=Changed(policy.module, change))

    with pytest.raises(ParityFailed, match=f"'{name}' differ"):
        build(wrong, ABOUT)
