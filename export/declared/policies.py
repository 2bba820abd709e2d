"""A declared network as a trained policy: its inputs in, its outputs out, in the order of the artefact."""

from collections.abc import Sequence

import torch
from torch import nn

from export.declaration import Declaration, Heads, ModuleNetwork, Std
from export.declared.choosing import Chosen, Probabilities
from export.declared.heads import Choices, gaussian
from export.networks import Tensors
from export.spec import Box, Discrete, Head, Memory, Source, Squash
from export.trained import TrainedPolicy


class DeclaredModule(nn.Module):
    """Takes observation, mask and memory, gives head and memory: features, numbers, and what the numbers mean."""

    def __init__(self, steps: tuple[nn.Module, nn.Module, nn.Module], parts: int, *, mask: bool) -> None:
        super().__init__()
        self.joined, self.core, self.head = steps
        self.parts, self.mask = parts, mask

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        obs, rest = inputs[: self.parts], inputs[self.parts :]
        mask, memory = (rest[0], rest[1:]) if self.mask else (None, rest)
        found, kept = self.core(self.joined(*obs), *memory)
        outputs = (*self.head(found, mask), *kept)
        return outputs if len(outputs) > 1 else outputs[0]


def head_of(network: Heads, declaration: Declaration, tensors: Tensors) -> tuple[nn.Module, tuple[str, ...]]:
    """Give what turns the last layer's numbers into the head, and say what is inside it."""
    action = declaration.action_space
    if isinstance(action, Box):
        return gaussian(network, action, tensors)
    if network.head == "action":
        return Chosen([action.n] if isinstance(action, Discrete) else action.sizes), (Chosen.inside,)
    if network.head == "probabilities":
        return Probabilities(), (Probabilities.inside,)
    inside = ("a switch's logit l as those of off and on, (0, l)",) if declaration.binary else ()
    return Choices(binary=declaration.binary), inside


def family_of(network: Heads) -> str:
    """Name the family by the head."""
    if network.head == "gaussian":
        return "squashed_gaussian" if network.squash == "tanh" else "gaussian"
    names = {"q_values": "dqn", "logits": "categorical", "probabilities": "categorical"}
    return names.get(network.head, network.head)


def policy_of(
    declaration: Declaration,
    steps: tuple[nn.Module, nn.Module, nn.Module],
    *,
    family: str,
    memory: Sequence[Memory],
    inside: tuple[str, ...],
    source: Source,
    set_aside: tuple[str, ...],
) -> TrainedPolicy:
    """Put a declared network together: ``steps`` are what joins the observation, the layers, and the head."""
    network = declaration.network
    squash: Squash = "tanh" if isinstance(network, Heads) and family == "squashed_gaussian" else "none"
    box, said = isinstance(declaration.action_space, Box), declaration.head
    head: Head = "gaussian" if box else "q_values" if said == "q_values" else "logits"
    masked = ("choices that the mask forbids get -1e8",) if declaration.mask else ()
    return TrainedPolicy(
        module=DeclaredModule(steps, len(declaration.parts), mask=declaration.mask).eval(),
        observation=declaration.observation_space,
        action=declaration.action_space,
        head=head,
        squash=squash,
        family=family,
        mask=declaration.mask,
        memory=tuple(memory),
        scores=said != "action",
        said=said if isinstance(network, Heads) and not box else "",
        inside=(*inside, *masked),
        source=source,
        set_aside=set_aside,
        constant=declaration.constant,
        squashed=isinstance(network, ModuleNetwork) and network.squash == "tanh",
        exponential=isinstance(network, Heads) and _exponential(network.std),
    )


def _exponential(std: Std | None) -> bool:
    """Say whether a std is given as its logarithm, and nothing but the declaration says so: a name may."""
    return std is not None and std.fixed is None and std.of == "log_std" and "log" not in (std.parameter + std.layer)
