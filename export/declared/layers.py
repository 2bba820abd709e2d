"""Layers of a declared network, taken by name in an order that is sure."""

import math
from collections.abc import Sequence

from torch import nn

from export.declaration import Encoder, Network
from export.declaration.networks import Convolution
from export.declared.norms import Norms
from export.errors import DeclarationInvalid
from export.networks import ACTIVATIONS, Tensors
from export.spec.nearest import one_of

Shape = tuple[int, ...]


def activation_named(name: str) -> type[nn.Module]:
    """Give the activation of that name in torch.nn, whatever its case; raises DeclarationInvalid."""
    for known, kind in ACTIVATIONS.items():
        if known.lower() == name.lower():
            return kind
    msg = f"network.activation is {name!r}, expected {one_of(name, ACTIVATIONS)}"
    raise DeclarationInvalid(msg)


def chain(
    tensors: Tensors,
    names: Sequence[str],
    shape: Shape,
    network: Network | Encoder,
    norms: Norms,
    *,
    last: bool = True,
) -> tuple[nn.Sequential, int]:
    """Take convolutions, then linear layers, each followed by the activation (but for the last one, if not ``last``).

    Gives them with the width that comes out of them. ``shape`` is what goes in: a row, or an image with channels first.
    ``norms`` stand where they were declared.
    """
    activation = activation_named(network.activation)
    modules = norms.on_input(shape)
    for at, (name, convolution) in enumerate(zip(names, network.convolutions, strict=False)):
        layer, shape = _convolution(tensors, name, convolution, shape, bias=_has_bias(tensors, name, norms, at))
        modules += norms.around(at, name, layer, activation(), shape)
    if len(shape) > 1:
        modules.append(nn.Flatten())
    inputs, first = math.prod(shape), len(network.convolutions)
    for at, (name, outputs) in enumerate(zip(names[first:], network.hidden, strict=True), first):
        act = activation() if last or at + 1 < len(names) else None
        linear = tensors.linear(name, inputs, outputs, bias=_has_bias(tensors, name, norms, at))
        modules += norms.around(at, name, linear, act, (outputs,))
        inputs = outputs
    return nn.Sequential(*modules), inputs


def _has_bias(tensors: Tensors, name: str, norms: Norms, at: int) -> bool:
    """Say whether a layer has a bias: where a normalisation follows it is often left out, elsewhere it is missed."""
    return tensors.has(f"{name}.bias") or not norms.behind(at)


def _convolution(
    tensors: Tensors, name: str, said: Convolution, shape: Shape, *, bias: bool
) -> tuple[nn.Conv2d, Shape]:
    """Take a convolution, and give the shape that comes out of it."""
    if len(shape) != 3:
        msg = f"network.convolutions needs an image [channels, height, width], the observation is {list(shape)}"
        raise DeclarationInvalid(msg)
    channels, kernel, stride, padding = shape[0], said.kernel, said.stride, said.padding
    layer = nn.Conv2d(channels, said.channels, kernel, stride, padding, bias=bias)
    weight = tensors.take(f"{name}.weight", (said.channels, channels, kernel, kernel))
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias:
        layer.bias = nn.Parameter(tensors.take(f"{name}.bias", (said.channels,)), requires_grad=False)
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in shape[1:])
    if height < 1 or width < 1:
        msg = f"network.convolutions: nothing is left of an image of {list(shape)} after {name!r}"
        raise DeclarationInvalid(msg)
    return layer, (said.channels, height, width)


def row(tensors: Tensors, names: Sequence[str], widths: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """Take linear layers ``widths[0] -> widths[1] -> ...`` with the activation between them, not behind them."""
    modules: list[nn.Module] = []
    for name, inputs, outputs in zip(names, widths[:-1], widths[1:], strict=True):
        modules += [tensors.linear(name, inputs, outputs), activation()]
    return nn.Sequential(*modules[:-1])
