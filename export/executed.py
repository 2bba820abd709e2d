"""The action that is executed without exploration, worked out of a head inside the graph."""

import math

import torch
from torch import nn

from export.meaning import Meaning
from export.spec import Box, Discrete, MultiDiscrete


class WithAction(nn.Module):
    """Adds the executed action to a network's outputs: for users of the file elsewhere, and for the proof."""

    def __init__(self, network: nn.Module, meaning: Meaning) -> None:
        super().__init__()
        self.network = network
        self.action = _ACTIONS[type(meaning.action)](meaning)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.network(*inputs)
        outputs: tuple[torch.Tensor, ...] = (found,) if isinstance(found, torch.Tensor) else tuple(found)
        return (*outputs, self.action(outputs[0]))


class Best(nn.Module):
    """The first index of the largest number of a head ``[N, A]``."""

    def __init__(self, meaning: Meaning) -> None:  # noqa: ARG002 - all heads alike
        super().__init__()

    def forward(self, head: torch.Tensor) -> torch.Tensor:
        return head.argmax(dim=1)


class BestOfEach(nn.Module):
    """The first index of the largest number of every factor's part of a head ``[N, W]`` -> ``[N, K]``."""

    def __init__(self, meaning: Meaning) -> None:
        super().__init__()
        self.sizes = _multi(meaning).sizes

    def forward(self, head: torch.Tensor) -> torch.Tensor:
        return torch.stack([part.argmax(dim=1) for part in torch.split(head, list(self.sizes), dim=1)], dim=1)


class Bounded(nn.Module):
    """A mean ``[N, D]`` within the action's bounds, in the action's shape: clipped, or squashed and un-scaled."""

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, meaning: Meaning) -> None:
        super().__init__()
        box = _box(meaning)
        self.squash, self.form = meaning.squash, box.form
        self.clips = any(math.isfinite(bound) for bound in (*box.low, *box.high))
        self.register_buffer("low", torch.tensor(box.low, dtype=torch.float32))
        self.register_buffer("high", torch.tensor(box.high, dtype=torch.float32))

    def forward(self, mean: torch.Tensor) -> torch.Tensor:
        if self.squash == "tanh":
            mean = self.low + 0.5 * (torch.tanh(mean) + 1.0) * (self.high - self.low)
        elif self.clips:
            mean = torch.minimum(torch.maximum(mean, self.low), self.high)
        return mean.reshape(-1, *self.form)


def _multi(meaning: Meaning) -> MultiDiscrete:
    if not isinstance(meaning.action, MultiDiscrete):
        raise TypeError(meaning.action)
    return meaning.action


def _box(meaning: Meaning) -> Box:
    if not isinstance(meaning.action, Box):
        raise TypeError(meaning.action)
    return meaning.action


_ACTIONS: dict[type, type[Best | BestOfEach | Bounded]] = {Discrete: Best, MultiDiscrete: BestOfEach, Box: Bounded}
