"""Normalisations of declared networks, with the statistics of evaluation: batch norms are folded, layer norms stay."""

import math
import re
from collections.abc import Sequence

import torch
from torch import nn

from export.declaration import Encoder, Network, Norm
from export.declared.order import unsure
from export.errors import DeclarationInvalid
from export.networks import Tensors

Shape = tuple[int, ...]
_WORDS = {"batch": "batch normalisation by its running statistics", "layer": "layer normalisation"}


class Standard(nn.Module):
    """Normalises each channel of a row or an image by numbers that do not change: (x - mean) * scale + shift."""

    mean: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, axes: int) -> None:
        super().__init__()
        for name, numbers in (("mean", mean), ("scale", scale), ("shift", shift)):
            self.register_buffer(name, numbers.to(torch.float32).reshape(-1, *[1] * (axes - 1)))

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        return (found - self.mean) * self.scale + self.shift


class Norms:
    """The normalisations of one stack of layers, taken out of the file before its layers are counted.

    Raises DeclarationInvalid where the file has others than those declared, or nothing says where they stand.
    """

    def __init__(self, stack: Network | Encoder, tensors: Tensors, *, named: bool = False) -> None:
        self._norm, self._first = stack.norm, stack.input_norm
        count = len(stack.convolutions) + len(stack.hidden)
        self._at = _places(stack.norm, count)
        first, names = _names(stack, tensors, len(self._at), named=named)
        self._tensors = tensors.apart([*first, *names])
        self._of_input = first[0] if first else ""
        self._names = dict(zip(self._at, names or [""] * len(self._at), strict=True))
        self._layers = tensors.layers()
        self._where = ""

    def __repr__(self) -> str:
        return f"<Norms at {list(self._at)}{' and on the input' if self._first else ''}>"

    def behind(self, at: int) -> bool:
        """Say whether one stands behind the layer at this place."""
        return at in self._names

    @property
    def inside(self) -> tuple[str, ...]:
        """What they are, for people, once they have been built."""
        said = [f"{_WORDS[self._first.kind]} of what comes in"] if self._first is not None else []
        if self._norm is not None:
            said.append(f"{_WORDS[self._norm.kind]} {self._where} the activation of {len(self._at)} layers")
        return tuple(said)

    def on_input(self, shape: Shape) -> list[nn.Module]:
        """Build the one in front of the first layer, if there is one, for what has this shape."""
        if self._first is None:
            return []
        if self._first.kind == "layer":
            return [self._layer(self._first, self._of_input, shape)]
        return [Standard(*self._standard(self._first, self._of_input, shape), len(shape))]

    def around(
        self, at: int, name: str, layer: nn.Linear | nn.Conv2d, activation: nn.Module | None, shape: Shape
    ) -> list[nn.Module]:
        """Give a layer with its activation and the normalisation that stands there; ``shape`` is the layer's output."""
        acts = [] if activation is None else [activation]
        norm = self._norm
        if norm is None or at not in self._names:
            return [layer, *acts]
        where = self._side(norm, name, self._names[at])
        if norm.kind == "layer":
            built: nn.Module = self._layer(norm, self._names[at], shape)
        else:
            mean, scale, shift = self._standard(norm, self._names[at], shape)
            if where == "before":
                return [_folded(layer, mean, scale, shift), *acts]
            built = Standard(mean, scale, shift, len(shape))
        return [layer, built, *acts] if where == "before" else [layer, *acts, built]

    def finish(self) -> None:
        """Raise TensorsUnaccounted where a tensor of theirs was not used."""
        self._tensors.finish()

    def _side(self, norm: Norm, layer: str, name: str) -> str:
        """Say on which side of the activation one stands: as declared, and as the names of the file have it."""
        seen = _seen(layer, name, self._layers)
        if norm.where is None and seen is None:
            told = f"{name!r} stands" if name else "they stand"
            msg = (
                f"network.norm: nothing says if {told} before or after the activation: say where = 'before' or 'after'"
            )
            raise DeclarationInvalid(msg)
        if norm.where is not None and seen is not None and norm.where != seen:
            here = f"{name!r} stands {seen} the activation of {layer!r}"
            msg = f"network.norm.where is {norm.where!r}, but by its name {here}"
            raise DeclarationInvalid(msg)
        found = norm.where or seen or ""
        if self._where and found != self._where:
            msg = f"network.norm: by its name {name!r} stands {found} the activation and others {self._where} it"
            raise DeclarationInvalid(msg)
        self._where = found
        return found

    def _standard(self, norm: Norm, name: str, shape: Shape) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Take a batch norm's mean, and what it multiplies by and adds, ``[channels]`` each, in float64."""
        channels = (shape[0],)
        mean = self._tensors.take(f"{name}.running_mean", channels).to(torch.float64)
        var = self._tensors.take(f"{name}.running_var", channels).to(torch.float64)
        self._tensors.set_aside(f"{name}.num_batches_tracked")
        if bool((var < 0).any()):
            msg = f"the tensor {name + '.running_var'!r} is negative in places, expected variances"
            raise DeclarationInvalid(msg)
        scale, shift = (var + norm.epsilon).rsqrt(), torch.zeros_like(mean)
        if self._tensors.has(f"{name}."):
            scale = scale * self._tensors.take(f"{name}.weight", channels).to(torch.float64)
            shift = self._tensors.take(f"{name}.bias", channels).to(torch.float64)
        return mean, scale, shift

    def _layer(self, norm: Norm, name: str, shape: Shape) -> nn.LayerNorm:
        """Take a layer norm over the whole of a row or an image; that of an image may lie flat in the file."""
        built = nn.LayerNorm(shape, eps=norm.epsilon, elementwise_affine=norm.affine)
        if not norm.affine:
            return built
        flat = (math.prod(shape),)
        stored = flat if self._tensors.shape(f"{name}.weight") == flat else shape
        weight = self._tensors.take(f"{name}.weight", stored).reshape(shape)
        bias = torch.zeros(shape)
        if self._tensors.has(f"{name}.bias"):
            bias = self._tensors.take(f"{name}.bias", stored).reshape(shape)
        built.weight = nn.Parameter(weight, requires_grad=False)
        built.bias = nn.Parameter(bias, requires_grad=False)
        return built


def _places(norm: Norm | None, count: int) -> tuple[int, ...]:
    """Give the layers that have one."""
    if norm is None:
        return ()
    if not count:
        msg = "network.norm stands behind convolutions and hidden layers, of which there are none (see input_norm)"
        raise DeclarationInvalid(msg)
    places = tuple(range(count)) if norm.at is None else norm.at
    if places and places[-1] >= count:
        msg = f"network.norm.at has {places[-1]}, expected less than {count}, which is how many layers there are"
        raise DeclarationInvalid(msg)
    return places


def _names(
    stack: Network | Encoder, tensors: Tensors, count: int, *, named: bool
) -> tuple[Sequence[str], Sequence[str]]:
    """Name the one on the input and those behind layers: as declared, else by what the file has, in its order."""
    first, norm = stack.input_norm, stack.norm
    wanted = {"input_norm": (first, int(first is not None)), "norm": (norm, count)}
    found: dict[str, Sequence[str]] = {}
    left: dict[str, list[str]] = {}
    given = {name for one in (first, norm) if one is not None for name in one.names}
    for key, (one, many) in wanted.items():
        if one is None or not one.affine:
            found[key] = ()
        elif one.names or named:
            found[key] = one.names
            if len(one.names) != many:
                msg = f"network.{key}.names has {len(one.names)} names, expected {many}"
                raise DeclarationInvalid(msg)
        else:
            there = left.setdefault(one.kind, [name for name in _stored(one.kind, tensors) if name not in given])
            found[key], left[one.kind] = tuple(there[:many]), there[many:]
            _refuse_other(one.kind, key, found[key], many, tensors)
    for kind, more in left.items():
        if more:
            msg = (
                f"the state dict has {kind} normalisations that are not declared: {', '.join(more)}; say which layers "
                f"have one (norm.at), name them (norm.names), add input_norm, or ignore them"
            )
            raise DeclarationInvalid(msg)
    return found["input_norm"], found["norm"]


def _stored(kind: str, tensors: Tensors) -> list[str]:
    """Name the normalisations of a kind that a file has: those with running statistics, or with a weight in a row."""
    batch = tensors.ending(".running_mean")
    if kind == "batch":
        return list(batch)
    rows = [name for name in tensors.layers() if len(tensors.shape(f"{name}.weight")) in (1, 3)]
    return [name for name in rows if name not in batch]


def _refuse_other(kind: str, key: str, names: Sequence[str], count: int, tensors: Tensors) -> None:
    if len(names) != count:
        listed = ", ".join(names) or "none"
        msg = f"network.{key} is {kind!r} in {count} places, the state dict has {len(names)}: {listed}"
        raise DeclarationInvalid(msg)
    if unsure(tensors, names, "running_mean" if kind == "batch" else "weight"):
        msg = (
            f"network.{key}: normalisations of one shape, and neither their names nor their order in the file say "
            f"which comes first ({', '.join(names)}): name them in order, names = [...]"
        )
        raise DeclarationInvalid(msg)


def _folded(
    layer: nn.Linear | nn.Conv2d, mean: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> nn.Linear | nn.Conv2d:
    """Put what follows a layer into its weights, in float64: a float32 shift loses digits where means are large."""
    weight = layer.weight.to(torch.float64)
    bias = torch.zeros_like(mean) if layer.bias is None else layer.bias.to(torch.float64)
    found = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    layer.weight = nn.Parameter(found.to(torch.float32), requires_grad=False)
    layer.bias = nn.Parameter(((bias - mean) * scale + shift).to(torch.float32), requires_grad=False)
    return layer


def _seen(layer: str, name: str, layers: Sequence[str]) -> str | None:
    """Say where a normalisation stands by the numbers in names, as nn.Sequential counts; None where they do not say.

    A place between the layer and the normalisation, or between that and the next layer, is the activation's.
    """
    own, other = _counted(layer), _counted(name)
    if own is None or other is None or own[0] != other[0]:
        return None
    if other[1] < own[1]:
        msg = (
            f"network.norm: by its name {name!r} stands in front of {layer!r}, expected behind it (see input_norm, at)"
        )
        raise DeclarationInvalid(msg)
    places = [counted[1] for one in layers if (counted := _counted(one)) is not None and counted[0] == own[0]]
    following = min((place for place in places if place > own[1]), default=None)
    if following is not None and following < other[1]:
        msg = f"network.norm: by its name {name!r} stands behind another layer than {layer!r}: say at, or names"
        raise DeclarationInvalid(msg)
    close, next_ = other[1] == own[1] + 1, following == other[1] + 1
    return None if close == next_ else "before" if close else "after"


def _counted(name: str) -> tuple[str, int] | None:
    """Split ``net.12`` into its module and its place."""
    match = re.fullmatch(r"(.*?)\.?(\d+)", name)
    return (match[1], int(match[2])) if match is not None and (match[1] == "" or name[match.end(1)] == ".") else None
