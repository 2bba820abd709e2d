"""TD3, DDPG and ARS of SB3: one action for an observation, without a distribution around it."""

import re
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import nn

from export.errors import CheckpointRefused
from export.networks import After, Tensors, stack
from export.sb3.actor import box_of, hidden, refuse_unbounded
from export.sb3.checkpoint import Sb3Checkpoint, activation, refuse_cvar, source_of
from export.sb3.features import features_of
from export.sb3.normaliser import Normaliser
from export.sb3.spaces import actions_of, observations_of
from export.spec import Box, Discrete
from export.trained import TrainedPolicy

UNSCALED = "tanh, un-scaled from [-1, 1] to the action's bounds"


class Unscaled(nn.Module):
    """Squashes by tanh, and scales from [-1, 1] to the bounds of the action: what SB3's ``predict`` does."""

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, action: Box) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(action.low, dtype=torch.float32))
        self.register_buffer("high", torch.tensor(action.high, dtype=torch.float32))

    def forward(self, answer: torch.Tensor) -> torch.Tensor:
        return self.low + 0.5 * (torch.tanh(answer) + 1.0) * (self.high - self.low)


class Certain(nn.Module):
    """A mean ``[N, D]`` and no spread around it: std is 0."""

    def __init__(self, mean: nn.Module) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, answer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean: torch.Tensor = self.mean(answer)
        return mean, torch.zeros_like(mean)


def td3(found: Sb3Checkpoint, normaliser: Normaliser | None, cvar: float | None) -> TrainedPolicy:
    """Build SB3's TD3 or DDPG: the actor alone, never its target; ``mean`` is un-scaled, ``std`` is 0."""
    refuse_cvar(cvar)
    observation, action = observations_of(found), box_of(found)
    refuse_unbounded(action)
    tensors = Tensors(found.tensors, "policy.pth")
    features = features_of(found, tensors, observation, normaliser, prefix="actor.features_extractor.")
    arch = hidden(found, tensors, "actor.mu", last=True)
    widths = (features.width, *arch)
    names = [f"actor.mu.{2 * index}" for index in range(len(arch) + 1)]
    modules = stack(tensors, names, widths, activation(found, "ReLU"))
    modules += [tensors.linear(names[-1], widths[-1], action.width), Certain(Unscaled(action))]
    for prefix in ("actor_target.", "critic.", "critic_target."):
        tensors.set_aside(prefix)
    # DDPG is saved as a TD3 whose target policy is not smoothed.
    ddpg = found.texts.get("target_noise_clip") == 0
    return TrainedPolicy(
        module=After(features.module, nn.Sequential(*modules)),
        observation=observation,
        action=action,
        head="gaussian",
        family="deterministic",
        inside=(*features.inside, UNSCALED),
        source=source_of(found, "DDPG" if ddpg else "TD3"),
        set_aside=tensors.finish(),
    )


def ars(found: Sb3Checkpoint, normaliser: Normaliser | None, cvar: float | None) -> TrainedPolicy:
    """Build sb3-contrib's ARS, linear or not: scores of discrete actions, or a ``mean`` with ``std`` 0."""
    refuse_cvar(cvar)
    observation, action = observations_of(found), actions_of(found)
    if not isinstance(action, Box | Discrete):
        msg = f"the action space is {action.kind}, expected Box or Discrete: ARS has no other"
        raise CheckpointRefused(msg)
    tensors = Tensors(found.tensors, "policy.pth")
    features = features_of(found, tensors, observation, normaliser)
    modules = _linear_or_not(found, tensors, features.width, action.width)
    inside = features.inside
    if isinstance(action, Box):
        squashed = found.flag("squash_output", not _is_linear(found))
        if squashed:
            refuse_unbounded(action)
            inside = (*inside, UNSCALED)
        else:
            _refuse_unsaid_tanh(found)
        modules.append(Certain(Unscaled(action) if squashed else nn.Identity()))
    return TrainedPolicy(
        module=After(features.module, nn.Sequential(*modules)),
        observation=observation,
        action=action,
        head="gaussian" if isinstance(action, Box) else "q_values",
        family="deterministic",
        inside=inside,
        source=source_of(found, "ARS"),
        set_aside=tensors.finish(),
    )


def _is_linear(found: Sb3Checkpoint) -> bool:
    return found.policy_class == "ARSLinearPolicy"


def _linear_or_not(found: Sb3Checkpoint, tensors: Tensors, inputs: int, outputs: int) -> list[nn.Module]:
    """Take ARS's layers; before sb3-contrib 1.7 a linear policy was one layer without a number in its name."""
    arch = () if _is_linear(found) else hidden(found, tensors, "action_net", last=True)
    widths = (inputs, *arch, outputs)
    names = [f"action_net.{2 * index}" for index in range(len(arch) + 1)]
    if _is_linear(found) and tensors.shape("action_net.weight"):
        names = ["action_net"]
    modules: list[nn.Module] = []
    for name, (before, after) in zip(names, pairwise(widths), strict=True):
        if found.flag("with_bias", not _is_linear(found)):
            layer = tensors.linear(name, before, after)
        else:
            layer = nn.Linear(before, after, bias=False, device="meta")
            layer.weight = nn.Parameter(tensors.take(f"{name}.weight", (after, before)), requires_grad=False)
        modules += [layer, activation(found, "ReLU")()]
    return modules[:-1]


def _refuse_unsaid_tanh(found: Sb3Checkpoint) -> None:
    """Refuse an ARS MLP of a time when ``squash_output = false`` left the tanh in its network, unlike today's."""
    release = re.match(r"(\d+)\.(\d+)", found.version)
    if not _is_linear(found) and (release is None or (int(release[1]), int(release[2])) < (1, 7)):
        msg = f"the policy was saved by SB3 {found.version or 'of an unknown release'} with squash_output = false"
        msg += ", expected 1.7 or later: before, sb3-contrib put a tanh there all the same"
        raise CheckpointRefused(msg)


# The policies by the module and the class that the zip names.
POLICIES: Mapping[tuple[str, str], Callable[[Sb3Checkpoint, Normaliser | None, float | None], TrainedPolicy]] = {
    **{("stable_baselines3.td3.policies", name): td3 for name in ("TD3Policy", "CnnPolicy", "MultiInputPolicy")},
    **{("sb3_contrib.ars.policies", name): ars for name in ("ARSPolicy", "ARSLinearPolicy")},
}
