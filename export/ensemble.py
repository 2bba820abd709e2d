"""Ensembles: several policies of one kind as one, with how far its members disagree."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from export.errors import CheckpointRefused
from export.spec.manifest import MASKED
from export.trained import TrainedPolicy


def ensemble(members: Sequence[TrainedPolicy]) -> TrainedPolicy:
    """Join policies over the same spaces into the policy that decides by their mean, with their disagreement beside it.

    ``q_values``: the mean of the members' values; ``spread[N]`` is the largest standard deviation of an action's value.
    ``logits``: the logarithm of the members' mean probabilities, factor by factor, as of a policy that draws a member
    first; ``spread[N]`` is the members' mean total variation distance from it, between 0 and 1.
    ``gaussian``: the mean of the means, and the root of the mean variance; ``spread[N]`` is the largest standard
    deviation of a mean. Raises CheckpointRefused where the members do not go together.
    """
    first = members[0]
    for at, member in enumerate(members[1:], start=2):
        _refuse_misfit(first, member, at)
    if first.memory:
        msg = "the members carry memory, expected none: an ensemble of recurrent policies is not written"
        raise CheckpointRefused(msg)
    if not first.scores:
        msg = "the members give the action that they chose, expected scores of every action: chosen ones have no mean"
        raise CheckpointRefused(msg)
    joined, what = _JOINED[first.head]
    shas = [member.source.checkpoint_sha256 or "" for member in members]
    return replace(
        first,
        module=joined([member.module for member in members], _sizes(first)),
        family=f"ensemble of {first.family}",
        spread=True,
        inside=(*first.inside, f"{what} of {len(members)} members, and their disagreement"),
        source=first.source.model_copy(
            update={"checkpoint_sha256": hashlib.sha256("".join(shas).encode()).hexdigest()},
        ),
        # A member's own answers are not the ensemble's: each member is compared with its library by itself.
        native=None,
        native_name="",
        set_aside=tuple(name for member in members for name in member.set_aside),
        remarks=tuple(dict.fromkeys(line for member in members for line in member.remarks)),
    )


def _refuse_misfit(first: TrainedPolicy, other: TrainedPolicy, at: int) -> None:
    for what in ("observation", "action", "head", "squash", "mask", "memory", "scores"):
        if getattr(first, what) != getattr(other, what):
            msg = f"member {at} of the ensemble has another {what} than the first: {getattr(other, what)!r}"
            raise CheckpointRefused(msg)


def _sizes(policy: TrainedPolicy) -> list[int]:
    action = policy.action
    return list(action.sizes) if action.kind == "multi_discrete" else [action.width]


class MeanValues(nn.Module):
    """The mean of Q-values ``[N, A]``, and the largest standard deviation of one of them."""

    def __init__(self, members: Sequence[nn.Module], sizes: list[int]) -> None:  # noqa: ARG002 - all heads alike
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = torch.stack([member(*inputs) for member in self.members])
        return values.mean(dim=0), values.std(dim=0, correction=0).amax(dim=1)


class MeanChances(nn.Module):
    """The logarithm of the mean probabilities ``[N, W]`` of every factor, and the mean distance from them."""

    def __init__(self, members: Sequence[nn.Module], sizes: list[int]) -> None:
        super().__init__()
        self.members, self.sizes = nn.ModuleList(members), sizes

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.stack([member(*inputs) for member in self.members])
        parts = [torch.log_softmax(part, dim=2) for part in torch.split(logits, self.sizes, dim=2)]
        logs = [torch.logsumexp(part, dim=0) - torch.log(torch.tensor(float(len(self.members)))) for part in parts]
        apart = [
            0.5 * (part.exp() - log.exp()).abs().sum(dim=2).mean(dim=0) for part, log in zip(parts, logs, strict=True)
        ]
        # A masked action's logit stays the constant that it is in each member.
        mean = torch.cat(logs, dim=1)
        return torch.where(logits.amax(dim=0) <= MASKED, logits[0], mean), torch.stack(apart).amax(dim=0)


class MeanGaussian(nn.Module):
    """The mean of means and the root mean variance ``[N, D]``, and the largest standard deviation of a mean."""

    def __init__(self, members: Sequence[nn.Module], sizes: list[int]) -> None:  # noqa: ARG002 - all heads alike
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        answers = [member(*inputs) for member in self.members]
        means, stds = (torch.stack([answer[at] for answer in answers]) for at in (0, 1))
        return means.mean(dim=0), stds.square().mean(dim=0).sqrt(), means.std(dim=0, correction=0).amax(dim=1)


_JOINED: Mapping[str, tuple[Callable[[Sequence[nn.Module], list[int]], nn.Module], str]] = {
    "q_values": (MeanValues, "mean of the values"),
    "logits": (MeanChances, "mean of the probabilities"),
    "gaussian": (MeanGaussian, "mean of the means"),
}
