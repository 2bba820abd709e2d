"""DQN and QR-DQN of Stable-Baselines3 and sb3-contrib: the online network, never the target."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from export.errors import CheckpointRefused, OptionInvalid
from export.networks import After, Tensors, stack
from export.sb3.checkpoint import Sb3Checkpoint, activation, layers, refuse_cvar, source_of
from export.sb3.features import Features, arch_of, extractor_of, features_of
from export.sb3.normaliser import Normaliser
from export.sb3.spaces import actions_of, observations_of
from export.spec import Discrete
from export.trained import TrainedPolicy


class MeanOfQuantiles(nn.Module):
    """Gives each action's value from its quantiles ``[N, quantiles * A]``: their mean, or that of the lowest ones.

    SB3 lays them out quantile by quantile, ``[quantiles, A]`` (Dabney et al., 2018). ``lowest`` of them are averaged:
    all for the expectation, ceil(alpha * quantiles) for the conditional value at risk (CVaR) of the worst share alpha.
    """

    def __init__(self, quantiles: int, actions: int, lowest: int) -> None:
        super().__init__()
        self.quantiles, self.actions, self.lowest = quantiles, actions, lowest

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        outcomes = found.reshape(-1, self.quantiles, self.actions)
        if self.lowest < self.quantiles:
            outcomes = torch.topk(outcomes, self.lowest, dim=1, largest=False).values
        return outcomes.mean(dim=1)


def dqn(found: Sb3Checkpoint, normaliser: Normaliser | None, cvar: float | None) -> TrainedPolicy:
    """Build SB3's DQN: ``q_net``; head ``q_values``."""
    refuse_cvar(cvar)
    observation, action = observations_of(found), _discrete(found)
    tensors = Tensors(found.tensors, "policy.pth")
    features = features_of(found, tensors, observation, normaliser, prefix="q_net.features_extractor.")
    network = _network(found, tensors, "q_net.q_net", features, action.n)
    tensors.set_aside("q_net_target.")
    return TrainedPolicy(
        module=After(features.module, nn.Sequential(*network)),
        observation=observation,
        action=action,
        head="q_values",
        family="dqn",
        inside=features.inside,
        source=source_of(found, "DQN"),
        set_aside=tensors.finish(),
    )


def qr_dqn(found: Sb3Checkpoint, normaliser: Normaliser | None, cvar: float | None) -> TrainedPolicy:
    """Build sb3-contrib's QR-DQN: ``quantile_net``; ``q_values`` are means of quantiles, of all or of the lowest."""
    observation, action = observations_of(found), _discrete(found)
    quantiles = found.whole("n_quantiles", 200)
    lowest = lowest_of(quantiles, cvar)
    tensors = Tensors(found.tensors, "policy.pth")
    features = features_of(found, tensors, observation, normaliser, prefix="quantile_net.features_extractor.")
    network = _network(found, tensors, "quantile_net.quantile_net", features, quantiles * action.n)
    tensors.set_aside("quantile_net_target.")
    mean = f"mean of {quantiles} quantiles"
    return TrainedPolicy(
        module=After(features.module, nn.Sequential(*network, MeanOfQuantiles(quantiles, action.n, lowest))),
        observation=observation,
        action=action,
        head="q_values",
        family="qr_dqn",
        inside=(*features.inside, mean if lowest == quantiles else f"CVaR {cvar:g}: the {lowest} lowest, {mean}"),
        source=source_of(found, "QR-DQN"),
        set_aside=tensors.finish(),
    )


def lowest_of(quantiles: int, cvar: float | None) -> int:
    """Say how many quantiles are averaged for the worst share ``cvar``, all where it is None; raises OptionInvalid."""
    if cvar is None:
        return quantiles
    if not 0 < cvar <= 1:
        msg = f"the CVaR is asked of {cvar:g}, expected a share above 0 and up to 1"
        raise OptionInvalid(msg)
    # Rounded first: 0.07 x 100 is a little more than 7 in floating-point numbers, and 8 would be taken.
    return max(1, math.ceil(round(cvar * quantiles, 9)))


def _discrete(found: Sb3Checkpoint) -> Discrete:
    action = actions_of(found)
    if not isinstance(action, Discrete):
        msg = f"the action space is {action.kind}, expected Discrete: values of actions need single actions"
        raise CheckpointRefused(msg)
    return action


def _network(found: Sb3Checkpoint, tensors: Tensors, name: str, features: Features, outputs: int) -> list[nn.Module]:
    """Take the layers after the features; a convolutional policy has none of its own unless told so."""
    default = [] if extractor_of(found) == "NatureCNN" else [64, 64]
    given = arch_of(found)
    arch = layers(default if given is None else given, "")
    widths = (features.width, *arch)
    names = [f"{name}.{2 * index}" for index in range(len(arch) + 1)]
    return [
        *stack(tensors, names, widths, activation(found, "ReLU")),
        tensors.linear(names[-1], widths[-1], outputs),
    ]


# The policies by the module and the class that the zip names.
POLICIES: Mapping[tuple[str, str], Callable[[Sb3Checkpoint, Normaliser | None, float | None], TrainedPolicy]] = {
    **{("stable_baselines3.dqn.policies", name): dqn for name in ("DQNPolicy", "CnnPolicy", "MultiInputPolicy")},
    **{("sb3_contrib.qrdqn.policies", name): qr_dqn for name in ("QRDQNPolicy", "CnnPolicy", "MultiInputPolicy")},
}
