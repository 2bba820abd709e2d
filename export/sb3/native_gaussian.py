"""Mean and std of a continuous action as the real Stable-Baselines3 has them: those of its own distribution."""

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.distributions import Normal


class _Distribution(Protocol):
    """What is used of SB3's distributions."""

    distribution: Normal

    def proba_distribution(self, mean: object, log_std: object, **options: object) -> "_Distribution": ...


class _Actor(Protocol):
    """What is used of the actor of SAC and TQC."""

    action_dist: _Distribution

    def get_action_dist_params(self, observation: object) -> tuple[object, object, Mapping[str, object]]: ...


class _ActorCritic(Protocol):
    """What is used of the policies of PPO, A2C and TRPO."""

    def get_distribution(self, observation: object) -> _Distribution: ...


class _Recurrent(Protocol):
    """What is used of the policy of RecurrentPPO."""

    def get_distribution(
        self, observation: object, state: object, starts: torch.Tensor
    ) -> tuple[_Distribution, object]: ...


def gaussian_of(
    policy: object, observation: object, state: Sequence[NDArray[np.generic]] = ()
) -> dict[str, NDArray[np.generic]]:
    """Give ``mean`` and ``std``, before any squash; nothing for a policy that has no distribution.

    ``observation`` are the tensors that ``obs_to_tensor`` makes; ``state`` is that of a recurrent policy, its layers
    first. The policy has to be in evaluation mode, as ``predict`` leaves it.
    """
    with torch.no_grad():
        found = _distribution(policy, observation, state)
    if found is None:
        return {}
    return {"mean": found.distribution.mean.numpy(), "std": found.distribution.stddev.numpy()}


def _distribution(policy: object, observation: object, state: Sequence[NDArray[np.generic]]) -> _Distribution | None:
    if state:
        tensors = tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in state)
        starts = torch.zeros(tensors[0].shape[1])
        return cast("_Recurrent", policy).get_distribution(observation, tensors, starts)[0]
    actor = getattr(policy, "actor", None)
    if isinstance(actor, nn.Module) and hasattr(actor, "get_action_dist_params"):
        known = cast("_Actor", actor)
        mean, log_std, options = known.get_action_dist_params(observation)
        return known.action_dist.proba_distribution(mean, log_std, **options)
    if hasattr(policy, "get_distribution"):
        return cast("_ActorCritic", policy).get_distribution(observation)
    return None
