"""SAC and TQC of SB3: a Gaussian squashed by tanh and scaled to the action's bounds, with or without gSDE."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from export.networks import After, Tensors, stack
from export.sb3.actor import box_of, hidden, refuse_unbounded
from export.sb3.checkpoint import Sb3Checkpoint, activation, literal, refuse_cvar, source_of
from export.sb3.features import features_of
from export.sb3.gaussian import GSDE, StateDependent, noise_std
from export.sb3.normaliser import Normaliser
from export.sb3.spaces import observations_of
from export.spec import Box
from export.trained import TrainedPolicy

# Where SB3 caps the logarithm of the std (LOG_STD_MIN and LOG_STD_MAX of its policies).
_LEAST, _MOST = -20.0, 2.0


class Learnt(nn.Module):
    """A mean and a std that are both layers on a latent ``[N, L]``, each ``[N, D]``."""

    def __init__(self, mean: nn.Module, log_std: nn.Module) -> None:
        super().__init__()
        self.mean, self.log_std = mean, log_std

    def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.mean(latent), self.log_std(latent).clamp(_LEAST, _MOST).exp()


def squashed(found: Sb3Checkpoint, normaliser: Normaliser | None, cvar: float | None) -> TrainedPolicy:
    """Build SB3's SAC or TQC: the actor alone; mean and std are those before the tanh."""
    refuse_cvar(cvar)
    observation, action = observations_of(found), box_of(found)
    refuse_unbounded(action)
    tensors = Tensors(found.tensors, "policy.pth")
    features = features_of(found, tensors, observation, normaliser, prefix="actor.features_extractor.")
    arch = hidden(found, tensors, "actor.latent_pi", last=False)
    widths = (features.width, *arch)
    names = [f"actor.latent_pi.{2 * index}" for index in range(len(arch))]
    latent = stack(tensors, names, widths, activation(found, "ReLU"))
    head, inside = _head(found, tensors, widths[-1], action)
    tensors.set_aside("critic.")
    tensors.set_aside("critic_target.")
    return TrainedPolicy(
        module=After(features.module, nn.Sequential(*latent, head)),
        observation=observation,
        action=action,
        head="gaussian",
        squash="tanh",
        family="squashed_gaussian",
        inside=(*features.inside, *inside),
        source=source_of(found, "TQC" if "tqc" in found.policy_module else "SAC"),
        set_aside=tensors.finish(),
    )


def _head(found: Sb3Checkpoint, tensors: Tensors, width: int, action: Box) -> tuple[nn.Module, tuple[str, ...]]:
    if not tensors.shape("actor.log_std"):
        mean, log_std = (tensors.linear(f"actor.{name}", width, action.width) for name in ("mu", "log_std"))
        return Learnt(mean, log_std), (f"logarithm of the std capped to [{_LEAST:g}, {_MOST:g}]",)
    std = noise_std(found, tensors, "actor.log_std", width, action)
    clip = literal(found.kwargs.get("clip_mean", 2.0))
    if not isinstance(clip, (int, float)) or not clip > 0:
        return StateDependent(tensors.linear("actor.mu", width, action.width), std), (GSDE,)
    clipped = nn.Sequential(tensors.linear("actor.mu.0", width, action.width), nn.Hardtanh(-clip, clip))
    return StateDependent(clipped, std), (f"mean clipped to [{-clip:g}, {clip:g}]", GSDE)


# SB3's policies by the module and the class that the zip names.
POLICIES: Mapping[tuple[str, str], Callable[[Sb3Checkpoint, Normaliser | None, float | None], TrainedPolicy]] = {
    (module, name): squashed
    for module, own in (("stable_baselines3.sac.policies", "SACPolicy"), ("sb3_contrib.tqc.policies", "TQCPolicy"))
    for name in (own, "CnnPolicy", "MultiInputPolicy")
}
