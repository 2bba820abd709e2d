"""Layers of a declared network, taken by name in an order that is sure."""

import math
import re
from collections.abc import Sequence

from torch import nn

from export.declaration import Encoder, Network
from export.errors import DeclarationInvalid
from export.networks import ACTIVATIONS, Tensors

Shape = tuple[int, ...]


def activation_named(name: str) -> type[nn.Module]:
    """Give the activation of that name in torch.nn, whatever its case; raises DeclarationInvalid."""
    for known, kind in ACTIVATIONS.items():
        if known.lower() == name.lower():
            return kind
    msg = f"network.activation is {name!r}, expected one of {', '.join(ACTIVATIONS)}"
    raise DeclarationInvalid(msg)


def ordered(tensors: Tensors, named: Sequence[str], count: int, without: Sequence[str] = ()) -> Sequence[str]:
    """Give the names of ``count`` layers in an order that is sure, those ``named`` or all that are left.

    Raises DeclarationInvalid.
    """
    names = named or tuple(name for name in tensors.layers() if name not in without)
    if len(names) != count:
        where = "it names" if named else "the state dict has"
        msg = f"the declaration expects {count} linear layers here, {where} {len(names)}: {', '.join(names)}"
        raise DeclarationInvalid(msg)
    if not named and _unsure(tensors, names):
        msg = (
            f"layers of one shape, and neither their names nor their order in the file say which comes first "
            f"({', '.join(names)}): name them in order in the declaration"
        )
        raise DeclarationInvalid(msg)
    return names


def _unsure(tensors: Tensors, names: Sequence[str]) -> bool:
    """Say whether layers of one shape could change places: their names have to count them, and in this order.

    Layers of different shapes cannot: each place in a network has its own.
    """
    alike: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        alike.setdefault(tensors.shape(f"{name}.weight"), []).append(name)
    return any(
        group != sorted(group, key=natural) or len({re.sub(r"\d+", "", name) for name in group}) > 1
        for group in alike.values()
    )


def natural(name: str) -> list[tuple[int, str]]:
    """Give what sorts ``fc10`` after ``fc2``."""
    return [(int(part or 0), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def chain(
    tensors: Tensors, names: Sequence[str], shape: Shape, network: Network | Encoder, *, last: bool = True
) -> tuple[nn.Sequential, int]:
    """Take convolutions, then linear layers, each followed by the activation (but for the last one, if not ``last``).

    Gives them with the width that comes out of them. ``shape`` is what goes in: a row, or an image with channels first.
    """
    activation = activation_named(network.activation)
    modules: list[nn.Module] = []
    for name, convolution in zip(names, network.convolutions, strict=False):
        if len(shape) != 3:
            msg = f"network.convolutions needs an image [channels, height, width], the observation is {list(shape)}"
            raise DeclarationInvalid(msg)
        channels, kernel, stride, padding = shape[0], convolution.kernel, convolution.stride, convolution.padding
        layer = nn.Conv2d(channels, convolution.channels, kernel, stride, padding)
        layer.weight = nn.Parameter(
            tensors.take(f"{name}.weight", (convolution.channels, channels, kernel, kernel)), requires_grad=False
        )
        layer.bias = nn.Parameter(tensors.take(f"{name}.bias", (convolution.channels,)), requires_grad=False)
        modules += [layer, activation()]
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in shape[1:])
        if height < 1 or width < 1:
            msg = f"network.convolutions: nothing is left of an image of {list(shape)} after {name!r}"
            raise DeclarationInvalid(msg)
        shape = (convolution.channels, height, width)
    if len(shape) > 1:
        modules.append(nn.Flatten())
    inputs = math.prod(shape)
    for name, outputs in zip(names[len(network.convolutions) :], network.hidden, strict=True):
        modules += [tensors.linear(name, inputs, outputs), activation()]
        inputs = outputs
    if not last and network.hidden:
        modules.pop()
    return nn.Sequential(*modules), inputs


def row(tensors: Tensors, names: Sequence[str], widths: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """Take linear layers ``widths[0] -> widths[1] -> ...`` with the activation between them, not behind them."""
    modules: list[nn.Module] = []
    for name, inputs, outputs in zip(names, widths[:-1], widths[1:], strict=True):
        modules += [tensors.linear(name, inputs, outputs), activation()]
    return nn.Sequential(*modules[:-1])
