"""Images with their channels last, for clients whose cameras and environments give them so."""

from dataclasses import replace

import torch
from torch import nn

from export.errors import OptionInvalid
from export.frames import images_of
from export.meaning import Answers, Arrays
from export.spec import Array, Dict, Fields
from export.spec.spaces import ObservationSpace
from export.trained import TrainedPolicy


class ChannelsFirst(nn.Module):
    """Moves the channels of some inputs ``[N, H, W, C]`` to where the network has them, ``[N, C, H, W]``."""

    def __init__(self, network: nn.Module, turned: tuple[bool, ...]) -> None:
        super().__init__()
        self.network, self.turned = network, turned

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        moved = [given.permute(0, 3, 1, 2) if turn else given for given, turn in zip(inputs, self.turned, strict=True)]
        found: torch.Tensor | tuple[torch.Tensor, ...] = self.network(*moved)
        return found


def channels_last(policy: TrainedPolicy) -> TrainedPolicy:
    """Let a policy take its images as ``[N, H, W, C]``: it turns them inside the graph.

    An image is an array of three axes. Stable-Baselines3 and most networks have channels first, while Gymnasium's
    environments and cameras have them last. Where a policy knows which of its arrays were turned as it was trained,
    as SB3's VecTransposeImage turns images of bytes alone, no other one is. Raises OptionInvalid where the observation
    has no image.
    """
    known = policy.images
    turned = {port.name: port.name in known if known else len(port.shape) == 3 for port in policy.observation.inputs}
    if not any(turned.values()):
        msg = "the observation has no image, expected an array of three axes whose channels can be last"
        raise OptionInvalid(msg)
    names = tuple(name for name, turn in turned.items() if turn)
    return replace(
        policy,
        module=ChannelsFirst(policy.module, tuple(turned.get(port.name, False) for port in policy.inputs)),
        observation=_turned(policy.observation, names),
        inside=(*(f"{name}: channels moved from last to first" for name in names), *policy.inside),
        native=_asked_so(policy.native, names) if policy.native is not None else None,
    )


def refuse_last(stack: TrainedPolicy, frame: TrainedPolicy) -> None:
    """Raise OptionInvalid where the frames of an image were stacked on its last axis: its channels are there."""
    for whole, one in zip(stack.observation.inputs, frame.observation.inputs, strict=True):
        if whole.name in images_of(stack) and whole.shape[-1] != one.shape[-1]:
            msg = (
                f"--channels-last is for networks that take channels first, but the frames of {whole.name} are stacked "
                f"on its last axis, {list(whole.shape)}: callers send {list(one.shape)} without it"
            )
            raise OptionInvalid(msg)


def _turned(space: ObservationSpace, names: tuple[str, ...]) -> ObservationSpace:
    if isinstance(space, Dict):
        entries = (
            entry.model_copy(update={"space": _turned_part(entry.space)}) if f"obs.{entry.key}" in names else entry
            for entry in space.entries
        )
        return Dict(entries=tuple(entries))
    return _turned_part(space)


def _turned_part(space: Fields | Array) -> Fields | Array:
    if isinstance(space, Fields) or len(space.shape) != 3:
        return space
    channels, rows, columns = space.shape
    return space.model_copy(update={"shape": (rows, columns, channels)})


def _asked_so(native: Answers, names: tuple[str, ...]) -> Answers:
    """Give the source framework's answers to the same images, turned for it in NumPy."""

    def answers(inputs: Arrays) -> Arrays:
        return native({**inputs, **{name: inputs[name].transpose(0, 3, 1, 2) for name in names}})

    return answers
