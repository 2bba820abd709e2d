"""Densities of executed actions: by torch's own distributions in float64, and by the formula of the manifest."""

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

from export.spec import Box
from export.trained import TrainedPolicy


def of_actor_critic(model: BaseAlgorithm, seen: np.ndarray) -> Normal:
    """Give the library's own distribution for PPO, A2C or TRPO; before the tanh where there is one."""
    assert isinstance(model.policy, ActorCriticPolicy)
    found = model.policy.get_distribution(torch.from_numpy(seen)).distribution
    assert isinstance(found, Normal)
    return found


def sampled(policy: TrainedPolicy, native: Normal) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw from the library's distribution.

    Gives ``mean + std * z`` before any squash, the executed action, and its log-density as torch says it.
    """
    assert isinstance(policy.action, Box)
    low, high = (torch.tensor(bound, dtype=torch.float64) for bound in (policy.action.low, policy.action.high))
    # Both keep what they were given, so that going back is exact where tanh is nearly 1.
    squash, scale = TanhTransform(cache_size=1), AffineTransform((low + high) / 2, (high - low) / 2, cache_size=1)
    normal = Normal(native.mean.detach().double(), native.stddev.detach().double())
    whole = TransformedDistribution(normal, [squash, scale] if policy.squash == "tanh" else [])
    action: torch.Tensor = whole.sample()  # type: ignore[no-untyped-call]  # torch types its distributions in part
    log_density: torch.Tensor = whole.log_prob(action)  # type: ignore[no-untyped-call]  # likewise
    pre = squash.inv(scale.inv(action)) if policy.squash == "tanh" else action
    return pre.numpy(), action.numpy(), log_density.sum(dim=1).numpy()


def log_density(policy: TrainedPolicy, mean: np.ndarray, std: np.ndarray, pre: np.ndarray) -> np.ndarray:
    """Give the log-density of the action that is executed for ``pre = mean + std * z``, by the head's own numbers.

    With a squash: that of ``pre``, less the logarithms of the slopes of tanh and of the scaling.
    """
    assert isinstance(policy.action, Box)
    deviation = std.astype(np.float64)
    found = -0.5 * ((pre - mean.astype(np.float64)) / deviation) ** 2 - np.log(deviation * np.sqrt(2 * np.pi))
    if policy.squash == "tanh":
        half = (np.array(policy.action.high) - np.array(policy.action.low)) / 2
        # log(1 - tanh(x)^2) written so that it stays exact where tanh(x) is nearly 1.
        found = found - 2 * (np.log(2) - pre - np.logaddexp(0, -2 * pre)) - np.log(half)
    return np.asarray(found.sum(axis=1))
