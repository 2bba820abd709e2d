"""The heads of RLlib's default networks, and the scaling that its connector does to actions after them."""

from dataclasses import dataclass

import torch
from torch import nn

from export.errors import CheckpointRefused
from export.rllib.connectors import Connectors
from export.spec import Box

# What RLlib's squashed Gaussian clips the logarithm of the std to.
_LOG_STD = (-5.0, 2.0)


@dataclass(frozen=True, slots=True)
class Scaling:
    """How an executed action comes of the module's: ``middle + reach * action``; ``inside`` says so for people."""

    middle: tuple[float, ...]
    reach: tuple[float, ...]
    inside: tuple[str, ...]


def scaling_of(action: Box, connectors: Connectors) -> Scaling:
    """Work out what NormalizeAndClipActions does to a Box action; raises CheckpointRefused where that is unclear."""
    bounded = [field.low is not None and field.high is not None for field in action.fields]
    unbounded = [field.low is None and field.high is None for field in action.fields]
    said = ", RLlib's default" if connectors.assumed else ""
    if connectors.normalised and all(bounded):
        sides = list(zip(action.low, action.high, strict=True))
        return Scaling(
            middle=tuple((low + high) / 2 for low, high in sides),
            reach=tuple((high - low) / 2 for low, high in sides),
            inside=(f"un-scale from [-1, 1] to the action's bounds{said}", "clip to the action's bounds"),
        )
    if all(unbounded) or (connectors.clipped and not connectors.normalised):
        return Scaling((0.0,) * action.width, (1.0,) * action.width, ("clip to the action's bounds",))
    msg = (
        "the checkpoint's actions are neither un-scaled to bounds nor clipped to them, "
        "expected normalize_actions with all bounds, or clip_actions"
    )
    raise CheckpointRefused(msg)


class Scaled(nn.Module):
    """A mean and a std, scaled from the module's units to the executed ones."""

    middle: torch.Tensor
    reach: torch.Tensor

    def __init__(self, network: nn.Module, scaling: Scaling) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("middle", torch.tensor(scaling.middle, dtype=torch.float32))
        self.register_buffer("reach", torch.tensor(scaling.reach, dtype=torch.float32))

    def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = self.network(latent)
        return self.middle + self.reach * mean, self.reach * std


class Halves(nn.Module):
    """Mean and std out of one layer: the second half of its numbers is the logarithm of the std, within a clip."""

    def __init__(self, layer: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.layer, self.low, self.high = layer, low, high

    @classmethod
    def squashed(cls, layer: nn.Module, clip: float) -> "Halves":
        """Build SAC's, whose squashed Gaussian clips once more."""
        return cls(layer, max(-clip, _LOG_STD[0]), min(clip, _LOG_STD[1]))

    def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.layer(latent).chunk(2, dim=1)
        return mean, log_std.clamp(self.low, self.high).exp()


class FreeStd(nn.Module):
    """A mean out of a layer, and a std that is the same in every state."""

    std: torch.Tensor

    def __init__(self, layer: nn.Module, log_std: torch.Tensor, low: float, high: float) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("std", log_std.clamp(low, high).exp())

    def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean: torch.Tensor = self.layer(latent)
        return mean, self.std.expand_as(mean)


class Atoms(nn.Module):
    """The expectation of every action's distribution over atoms (C51), with a value's logits added if it is dueling.

    RLlib centres the advantages' logits over the atoms, and adds one value to all of them.
    """

    support: torch.Tensor

    def __init__(self, advantage: nn.Module, value: nn.Module | None, actions: int, support: torch.Tensor) -> None:
        super().__init__()
        self.advantage, self.value, self.actions = advantage, value, actions
        self.register_buffer("support", support)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.advantage(latent).reshape(-1, self.actions, self.support.shape[0])
        if self.value is not None:
            logits = logits - logits.mean(dim=2, keepdim=True) + self.value(latent).unsqueeze(2)
        return (torch.softmax(logits, dim=2) * self.support).sum(dim=2)
