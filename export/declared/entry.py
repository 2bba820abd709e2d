"""What happens to an observation before a declared network's first layer."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from export.declaration import Normalise, Numbers, Part
from export.declared.leaves import checked, shown
from export.errors import DeclarationInvalid
from export.networks import OneHots

# Gives the tensors of the part of a file that a key names: None is the part that the network is in.
Stored = Callable[[str | int | None], dict[str, torch.Tensor]]
# How far a file's std may be from the root of its var: both are float32 in most.
_ALIKE = 1e-4


class Normaliser(nn.Module):
    """Normalises in float64: single precision loses two digits where a variance is tiny beside its mean."""

    mean: torch.Tensor
    divisor: torch.Tensor

    def __init__(self, mean: torch.Tensor, divisor: torch.Tensor, clip: float | None) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("divisor", divisor)
        self.clip = clip

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        found = (obs.to(torch.float64) - self.mean) / self.divisor
        if self.clip is not None:
            found = found.clamp(-self.clip, self.clip)
        return found.to(torch.float32)


class Divided(nn.Module):
    """Divides single precision numbers, as ``x / 255.0`` does."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return obs / self.scale


class Single(nn.Module):
    """Brings numbers of any kind to float32."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return obs.to(torch.float32)


class ChannelsFirst(nn.Module):
    """Turns ``[N, height, width, channels]`` into ``[N, channels, height, width]``."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return obs.permute(0, 3, 1, 2)


def prepared(part: Part, stored: Stored) -> tuple[nn.Sequential, tuple[int, ...], tuple[str, ...]]:
    """Give what happens to one part of the observation, the shape that comes out, and how to name it."""
    name = f"{part.key}: " if part.key else ""
    if part.states:
        said = f"{name}one-hot of state over {', '.join(map(str, part.states))} states; NaN for any other"
        return nn.Sequential(OneHots(part.states)), (sum(part.states),), (said,)
    steps: list[nn.Module] = []
    inside: list[str] = []
    scaled = part.scale is not None and part.scale != 1
    if scaled and part.scale is not None:
        steps += [Single(), Divided(part.scale)]
        inside.append(f"{name}divide by {part.scale:g}")
    if part.normalise is not None:
        steps.append(_normaliser(part, part.normalise, stored))
        limit = "" if part.normalise.clip is None else f" and clip to +-{part.normalise.clip:g}"
        inside.append(f"{name}normalise in float64{limit}")
    elif part.space.dtype != "float32" and not scaled:
        steps.append(Single())
        inside.append(f"{name}{part.space.dtype} to float32")
    shape = tuple(part.space.shape)
    if part.layout == "NHWC":
        if len(shape) != 3:
            msg = f"{name}layout is 'NHWC', which needs a shape [height, width, channels], found {list(shape)}"
            raise DeclarationInvalid(msg)
        steps.append(ChannelsFirst())
        shape = (shape[2], shape[0], shape[1])
        inside.append(f"{name}channels first")
    return nn.Sequential(*steps), shape, tuple(inside)


def _normaliser(part: Part, said: Normalise, stored: Stored) -> Normaliser:
    shape = tuple(part.space.shape)
    tensors: Mapping[str, torch.Tensor] = {}
    if any(isinstance(numbers, str) for numbers in (said.mean, said.var, said.std)):
        tensors = stored(said.key)
    mean = _statistic(said.mean, "mean", tensors, shape)
    var, std = (
        None if numbers is None else _spread(_statistic(numbers, what, tensors, shape))
        for what, numbers in (("var", said.var), ("std", said.std))
    )
    if var is not None and std is not None and not torch.allclose(std, var.sqrt(), rtol=_ALIKE, atol=_ALIKE):
        msg = "normalise: std is not the square root of var, expected both of one normaliser"
        raise DeclarationInvalid(msg)
    if said.epsilon_place == "var":
        divisor = torch.sqrt((var if var is not None else _given(std) ** 2) + said.epsilon)
    else:
        divisor = (std if std is not None else _given(var).sqrt()) + said.epsilon
    if bool((divisor == 0).any()):
        msg = "normalise: var or std is 0 in places, expected above 0, or an epsilon"
        raise DeclarationInvalid(msg)
    return Normaliser(mean, divisor, said.clip)


def _given(numbers: torch.Tensor | None) -> torch.Tensor:
    assert numbers is not None  # noqa: S101 - a declaration has one of var and std
    return numbers


def _spread(numbers: torch.Tensor) -> torch.Tensor:
    if bool((numbers < 0).any()):
        msg = "normalise: var or std is negative in places, expected none below 0"
        raise DeclarationInvalid(msg)
    return numbers


def _statistic(
    numbers: Numbers, what: str, tensors: Mapping[str, torch.Tensor], shape: tuple[int, ...]
) -> torch.Tensor:
    if isinstance(numbers, str):
        if numbers not in tensors:
            there = (
                ", ".join(shown(name) for name in list(tensors)[:12])
                or "those at another key: there are none at this one"
            )
            msg = f"normalise.{what}: the file has no tensor {numbers!r}, expected one of {there}"
            raise DeclarationInvalid(msg)
        found = checked(tensors[numbers], f"normalise.{what}: {numbers}")
    else:
        found = torch.tensor(numbers, dtype=torch.float64)
    if found.numel() not in (1, math.prod(shape)):
        msg = f"normalise.{what} has {found.numel()} numbers, expected 1 or {math.prod(shape)}, as the observation has"
        raise DeclarationInvalid(msg)
    return found.reshape(shape) if found.numel() > 1 else found.reshape(1)


class Joined(nn.Module):
    """Prepares the parts of an observation, encodes those with a network of their own, and joins them into one row.

    An image alone stays an image where convolutions come next.
    """

    def __init__(self, parts: Sequence[nn.Module], *, flat: bool) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.flat = flat

    def forward(self, *obs: torch.Tensor) -> torch.Tensor:
        found = [part(one) for part, one in zip(self.parts, obs, strict=True)]
        if self.flat:
            found = [torch.flatten(one, 1) for one in found]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)


class Within(nn.Module):
    """Encodes some columns of a row in their place: ``[before, encoder(columns), behind]``."""

    def __init__(self, encoder: nn.Module, first: int, count: int) -> None:
        super().__init__()
        self.encoder, self.first, self.count = encoder, first, count

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        end = self.first + self.count
        return torch.cat([row[:, : self.first], self.encoder(row[:, self.first : end]), row[:, end:]], dim=1)
