"""PPO, A2C and TRPO of Stable-Baselines3, and MaskablePPO: the actor alone, for actions of every kind."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from export.networks import After, Tensors, stack
from export.sb3.checkpoint import Sb3Checkpoint, activation, layers, refuse_cvar, source_of
from export.sb3.features import Features, actor_prefix, arch_of, extractor_of, features_of
from export.sb3.gaussian import gaussian_head
from export.sb3.normaliser import Normaliser
from export.sb3.spaces import actions_of, observations_of
from export.sb3.texts import space_of
from export.spec import Box
from export.trained import TrainedPolicy

# What SB3 puts in the place of a logit whose action is not allowed.
_FORBIDDEN = -1e8


class OffAndOn(nn.Module):
    """Gives each bit's logit l ``[N, K]`` as the logits (0, l) of off and on, ``[N, 2 * K]``.

    The larger of (0, l) is round(sigmoid(l)), and a tie is off in both.
    """

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros_like(logits), logits], dim=2).flatten(1)


class Masked(nn.Module):
    """Takes the mask ``[N, A]`` after the observation, and forbids the actions where it is false."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.where(inputs[-1], self.network(*inputs[:-1]), _FORBIDDEN)


def actor_critic(found: Sb3Checkpoint, normaliser: Normaliser | None, cvar: float | None) -> TrainedPolicy:
    """Build SB3's PPO, A2C or TRPO; head ``logits``, or ``gaussian`` for a Box."""
    refuse_cvar(cvar)
    observation, action = observations_of(found), actions_of(found)
    tensors = Tensors(found.tensors, "policy.pth")
    features = features_of(found, tensors, observation, normaliser, prefix=actor_prefix(found, tensors))
    hidden, width = actor_layers(found, tensors, features)
    if isinstance(action, Box):
        gaussian = gaussian_head(found, tensors, width, action)
        head, squash, inside = gaussian.module, gaussian.squash, gaussian.inside
    else:
        head, squash, inside = logits_head(found, tensors, width), "none", ()
    set_critic_aside(tensors)
    return TrainedPolicy(
        module=After(features.module, nn.Sequential(hidden, head)),
        observation=observation,
        action=action,
        head="gaussian" if isinstance(action, Box) else "logits",
        squash=squash,
        family=family_of(found),
        inside=(*features.inside, *inside),
        source=source_of(found, algorithm_of(found)),
        set_aside=tensors.finish(),
    )


def maskable(found: Sb3Checkpoint, normaliser: Normaliser | None, cvar: float | None) -> TrainedPolicy:
    """Build sb3-contrib's MaskablePPO: what may be done goes in as ``action_mask``; head ``logits``."""
    refuse_cvar(cvar)
    observation, action = observations_of(found), actions_of(found)
    tensors = Tensors(found.tensors, "policy.pth")
    features = features_of(found, tensors, observation, normaliser, prefix=actor_prefix(found, tensors))
    hidden, width = actor_layers(found, tensors, features)
    # It has two logits for a bit as for any other choice, since each of off and on can be forbidden.
    head = tensors.linear("action_net", width, action.width)
    set_critic_aside(tensors)
    return TrainedPolicy(
        module=Masked(After(features.module, nn.Sequential(hidden, head))),
        observation=observation,
        action=action,
        head="logits",
        family=f"maskable_{family_of(found)}",
        mask=True,
        inside=(*features.inside, f"logits of actions that are not allowed are {_FORBIDDEN:g}"),
        source=source_of(found, "MaskablePPO"),
        set_aside=tensors.finish(),
    )


def actor_layers(found: Sb3Checkpoint, tensors: Tensors, features: Features) -> tuple[nn.Module, int]:
    """Take ``mlp_extractor``'s part of the actor: its layers from the features on, and how wide the last is."""
    shared, own = _arch(found, shared=tensors.has("mlp_extractor.shared_net."))
    names = [f"mlp_extractor.shared_net.{2 * index}" for index in range(len(shared))]
    names += [f"mlp_extractor.policy_net.{2 * index}" for index in range(len(own))]
    widths = (features.width, *shared, *own)
    return nn.Sequential(*stack(tensors, names, widths, activation(found, "Tanh"))), widths[-1]


def logits_head(found: Sb3Checkpoint, tensors: Tensors, width: int) -> nn.Module:
    """Take ``action_net`` of an action that is a choice, or several at once."""
    space = space_of(found, "action_space")
    if space.kind == "MultiBinary":
        return nn.Sequential(tensors.linear("action_net", width, space.shape[0]), OffAndOn())
    return tensors.linear("action_net", width, sum(space.sizes))


def set_critic_aside(tensors: Tensors) -> None:
    """Set the critic's own tensors aside."""
    tensors.set_aside("mlp_extractor.value_net.")
    tensors.set_aside("value_net.")


def family_of(found: Sb3Checkpoint) -> str:
    """Name the family of an actor by its action space."""
    kinds = {"Discrete": "categorical", "MultiDiscrete": "multi_categorical", "MultiBinary": "bernoulli"}
    return kinds.get(space_of(found, "action_space").kind, "gaussian")


def algorithm_of(found: Sb3Checkpoint) -> str:
    """Three algorithms use this policy; the settings that they saved tell them apart."""
    if "clip_range" in found.texts:
        return "PPO"
    return "TRPO" if "cg_max_steps" in found.texts else "A2C"


def _arch(found: Sb3Checkpoint, *, shared: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the widths of the layers that actor and critic share (SB3 < 1.8) and of the actor's own."""
    arch = arch_of(found)
    if arch is None:
        arch = [] if extractor_of(found) == "NatureCNN" else {"pi": [64, 64]}
    if isinstance(arch, dict):
        return (), layers(arch.get("pi", []), "['pi']")
    if isinstance(arch, (list, tuple)) and arch and isinstance(arch[-1], dict):
        return layers(arch[:-1], "[:-1]"), layers(arch[-1].get("pi", []), "[-1]['pi']")
    # A list of numbers alone was shared by both networks before SB3 1.8, and stands for two like networks since.
    return (layers(arch, ""), ()) if shared else ((), layers(arch, ""))


# The policies by the module and the class that the zip names.
POLICIES: Mapping[tuple[str, str], Callable[[Sb3Checkpoint, Normaliser | None, float | None], TrainedPolicy]] = {
    **{
        ("stable_baselines3.common.policies", name): actor_critic
        for name in ("ActorCriticPolicy", "ActorCriticCnnPolicy", "MultiInputActorCriticPolicy")
    },
    **{
        ("sb3_contrib.common.maskable.policies", name): maskable
        for name in (
            "MaskableActorCriticPolicy",
            "MaskableActorCriticCnnPolicy",
            "MaskableMultiInputActorCriticPolicy",
        )
    },
}
