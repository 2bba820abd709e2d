"""How the parts of an observation come together before a declared network's first layer."""

import math
from collections.abc import Sequence

from torch import nn

from export.declaration import Encoder, Network, Part
from export.declared.entry import Joined, Stored, Within, prepared
from export.declared.layers import chain
from export.declared.norms import Norms
from export.declared.order import ordered
from export.errors import DeclarationInvalid
from export.networks import Tensors

Shape = tuple[int, ...]


def joined_of(
    parts: Sequence[Part], network: Network, tensors: Tensors, stored: Stored
) -> tuple[Joined, Shape, tuple[str, ...]]:
    """Prepare the parts, encode those that have an encoder, and say what shape comes out and what was done."""
    _refuse_lost(network.encoders, parts)
    encoders = {encoder.entry: encoder for encoder in network.encoders}
    modules, inside = [], list[str]()
    shapes: list[Shape] = []
    for part in parts:
        steps, shape, said = prepared(part, stored)
        inside.extend(said)
        encoder = encoders.get(part.key)
        if encoder is not None:
            own, shape = _encoded(encoder, part.key or "obs", shape, tensors)
            steps = nn.Sequential(steps, own)
            inside.append(f"{part.key or 'obs'}: an encoder of its own, to {math.prod(shape)} numbers")
        modules.append(steps)
        shapes.append(shape)
    flat = len(shapes) > 1 or not network.convolutions
    width = sum(math.prod(shape) for shape in shapes)
    if flat and any(len(shape) > 1 for shape in shapes):
        inside.append(f"flatten to {width} numbers")
    return Joined(modules, flat=flat), (width,) if flat else shapes[0], tuple(inside)


def _refuse_lost(encoders: Sequence[Encoder], parts: Sequence[Part]) -> None:
    keys, named = [part.key for part in parts], [encoder.entry for encoder in encoders]
    for at, name in enumerate(named):
        if name not in keys or name in named[:at]:
            known = ", ".join(map(repr, keys)) if keys != [""] else "none, for it is one row: leave entry out"
            msg = f"network.encoders[{at}].entry is {name!r}, expected each of the observation's entries once ({known})"
            raise DeclarationInvalid(msg)


def _encoded(encoder: Encoder, what: str, shape: Shape, tensors: Tensors) -> tuple[nn.Module, Shape]:
    norms = Norms(encoder, tensors, named=True)
    names = ordered(tensors, encoder.layers, len(encoder.convolutions) + len(encoder.hidden))
    if encoder.count is None:
        own, width = chain(tensors, names, shape, encoder, norms, last=encoder.last_activation)
        norms.finish()
        return own, (width,)
    whole = math.prod(shape)
    if encoder.first + encoder.count > whole:
        end = encoder.first + encoder.count
        msg = f"network.encoders: it takes numbers {encoder.first} to {end} of {what}, which has {whole}"
        raise DeclarationInvalid(msg)
    own, width = chain(tensors, names, (encoder.count,), encoder, norms, last=encoder.last_activation)
    norms.finish()
    return Within(own, encoder.first, encoder.count), (whole - encoder.count + width,)
