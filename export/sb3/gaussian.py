"""Gaussian heads of SB3's actor-critic policies: a mean, and a std that is constant or depends on the state (gSDE)."""

from dataclasses import dataclass

import torch
from torch import nn

from export.errors import CheckpointRefused
from export.networks import Tensors
from export.sb3.actor import refuse_unbounded
from export.sb3.checkpoint import Sb3Checkpoint
from export.spec import Box, Squash

# What SB3 adds under the square root of gSDE's variance.
_EPSILON = 1e-6
# How it is named for people.
GSDE = "state-dependent std of gSDE"


@dataclass(frozen=True, slots=True)
class GaussianHead:
    """What turns a latent ``[N, L]`` into mean and std, each ``[N, D]``; ``inside`` names for people what it does."""

    module: nn.Module
    squash: Squash
    inside: tuple[str, ...]


class Diagonal(nn.Module):
    """A mean, and a std that is the same in every state."""

    std: torch.Tensor

    def __init__(self, mean: nn.Module, log_std: torch.Tensor) -> None:
        super().__init__()
        self.mean = mean
        self.register_buffer("std", log_std.exp())

    def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean: torch.Tensor = self.mean(latent)
        return mean, self.std.expand_as(mean)


class StateDependent(nn.Module):
    """A mean, and gSDE's std of a latent x, sqrt(x^2 S^2 + 1e-6) (Raffin et al., 2021), over all draws of its noise."""

    variance: torch.Tensor

    def __init__(self, mean: nn.Module, std: torch.Tensor) -> None:
        super().__init__()
        self.mean = mean
        self.register_buffer("variance", std * std)

    def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean: torch.Tensor = self.mean(latent)
        return mean, torch.sqrt((latent * latent) @ self.variance + _EPSILON)


def gaussian_head(found: Sb3Checkpoint, tensors: Tensors, width: int, action: Box) -> GaussianHead:
    """Take ``action_net`` and ``log_std``; with gSDE and ``squash_output`` the head is squashed, pre-squash."""
    mean = tensors.linear("action_net", width, action.width)
    squashed = found.flag("squash_output", default=False)
    if len(tensors.shape("log_std")) < 2:
        if squashed:
            msg = (
                "policy_kwargs has squash_output without gSDE (use_sde), expected both: SB3 squashes no other Gaussian"
            )
            raise CheckpointRefused(msg)
        return GaussianHead(Diagonal(mean, tensors.take("log_std", (action.width,))), "none", ())
    noise = StateDependent(mean, noise_std(found, tensors, "log_std", width, action))
    if not squashed:
        return GaussianHead(noise, "none", (GSDE,))
    refuse_unbounded(action)
    return GaussianHead(noise, "tanh", (GSDE,))


def noise_std(found: Sb3Checkpoint, tensors: Tensors, name: str, width: int, action: Box) -> torch.Tensor:
    """Take gSDE's parameter and give the std ``[L, D]`` of its noise weights; ``full_std`` is told by its shape."""
    if found.kwargs.get("sde_net_arch") not in (None, "None"):
        msg = f"policy_kwargs has sde_net_arch = {found.kwargs['sde_net_arch']!r}, expected none: SB3 gave it up in 1.7"
        raise CheckpointRefused(msg)
    columns = action.width if tensors.shape(name)[1:] == (action.width,) else 1
    log_std = tensors.take(name, (width, columns))
    if not found.flag("use_expln", default=False):
        return log_std.exp().expand(width, action.width).clone()
    # As SB3 writes it: exp below zero, and a logarithm above so that it grows slowly.
    below = log_std.exp() * (log_std <= 0)
    above = (torch.log1p(log_std * (log_std > 0) + _EPSILON) + 1.0) * (log_std > 0)
    return (below + above).expand(width, action.width).clone()
