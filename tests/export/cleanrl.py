"""CleanRL's networks with the names and shapes of its published files: what its checkpoints were saved from."""

from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.distributions import Categorical, Distribution, Independent, Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform, TanhTransform

OBS, ACTIONS, WIDTH = 6, 4, 3
LOW, HIGH = (-2.0, -1.0, 0.0), (2.0, 3.0, 0.5)
_LOG_STD = (-5.0, 2.0)
Grown = TypeVar("Grown", bound=nn.Module)


def nature(channels: int) -> list[nn.Module]:
    """Make the convolutions of CleanRL's Atari agents, for images of 84 by 84."""
    return [
        nn.Conv2d(channels, 32, 8, stride=4),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3136, 512),
        nn.ReLU(),
    ]


def rows(widths: tuple[int, ...], between: Callable[[], nn.Module]) -> nn.Sequential:
    """Make linear layers with an activation between them."""
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        modules += [nn.Linear(inputs, outputs), between()]
    return nn.Sequential(*modules[:-1])


class QNetwork(nn.Module):
    """dqn, dqn_atari, c51 and c51_atari: everything in ``network``, and atoms where there are some."""

    atoms: torch.Tensor

    def __init__(self, network: nn.Sequential, atoms: torch.Tensor | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.network, self.scale = network, scale
        if atoms is not None:
            self.register_buffer("atoms", atoms)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.network(x.to(torch.float32) / self.scale)
        if not hasattr(self, "atoms"):
            return found
        shares = torch.softmax(found.view(len(x), -1, len(self.atoms)), dim=2)
        values: torch.Tensor = (shares * self.atoms).sum(2)
        return values


class Agent(nn.Module):
    """ppo: an actor and a critic apart."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = rows((OBS, 64, 64, 1), nn.Tanh)
        self.actor = rows((OBS, 64, 64, ACTIONS), nn.Tanh)

    def distribution(self, x: torch.Tensor) -> Categorical:
        return Categorical(logits=self.actor(x))


class AtariAgent(nn.Module):
    """ppo_atari: convolutions that actor and critic share."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(*nature(4))
        self.actor = nn.Linear(512, ACTIONS)
        self.critic = nn.Linear(512, 1)

    def distribution(self, x: torch.Tensor) -> Categorical:
        return Categorical(logits=self.actor(self.network(x / 255.0)))


class LstmAgent(nn.Module):
    """ppo_atari_lstm: one frame at a time, and a memory of 128 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(*nature(1))
        self.lstm = nn.LSTM(512, 128)
        self.actor = nn.Linear(128, ACTIONS)
        self.critic = nn.Linear(128, 1)

    def step(
        self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[Categorical, tuple[torch.Tensor, torch.Tensor]]:
        hidden = self.network(x / 255.0)
        hidden, state = self.lstm(hidden.unsqueeze(0), state)
        return Categorical(logits=self.actor(hidden.flatten(0, 1))), state


class ContinuousAgent(nn.Module):
    """ppo_continuous_action: a mean, and one logarithm of a standard deviation for all states."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = rows((OBS, 64, 64, 1), nn.Tanh)
        self.actor_mean = rows((OBS, 64, 64, WIDTH), nn.Tanh)
        self.actor_logstd = nn.Parameter(torch.linspace(-1, 0.5, WIDTH).reshape(1, WIDTH))

    def distribution(self, x: torch.Tensor) -> Distribution:
        mean = self.actor_mean(x)
        return Independent(Normal(mean, self.actor_logstd.expand_as(mean).exp()), 1)


class Actor(nn.Module):
    """td3_continuous_action and ddpg_continuous_action."""

    fc_mu: nn.Linear
    action_scale: torch.Tensor
    action_bias: torch.Tensor

    def __init__(self, last: str = "fc_mu") -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(OBS, 256), nn.Linear(256, 256)
        setattr(self, last, nn.Linear(256, WIDTH))
        low, high = torch.tensor([LOW]), torch.tensor([HIGH])
        self.register_buffer("action_scale", (high - low) / 2.0)
        self.register_buffer("action_bias", (high + low) / 2.0)

    def latent(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.fc2(torch.relu(self.fc1(x))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.tanh(self.fc_mu(self.latent(x))) * self.action_scale + self.action_bias
        return found


class SoftActor(Actor):
    """sac_continuous_action: mean and std of what tanh then squashes."""

    fc_mean: nn.Linear

    def __init__(self) -> None:
        super().__init__("fc_mean")
        self.fc_logstd = nn.Linear(256, WIDTH)

    def normal(self, x: torch.Tensor) -> Normal:
        latent = self.latent(x)
        least, most = _LOG_STD
        log_std = least + 0.5 * (most - least) * (torch.tanh(self.fc_logstd(latent)) + 1)
        return Normal(self.fc_mean(latent), log_std.exp())

    def distribution(self, x: torch.Tensor) -> Distribution:
        squash = [TanhTransform(cache_size=1), AffineTransform(self.action_bias[0], self.action_scale[0])]
        return Independent(TransformedDistribution(self.normal(x), squash), 1)


class Critic(nn.Module):
    """The critic that the continuous algorithms save beside their actor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(OBS + WIDTH, 256), nn.Linear(256, 256), nn.Linear(256, 1)


def grown(module: Grown, factor: float = 2.0) -> Grown:
    """Scale the weights up, so that answers differ enough from each other for a mistake to be seen."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1 and "logstd" not in name:
                parameter.mul_(factor)
    return module.eval()
