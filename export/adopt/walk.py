"""Walking back from drawn actions to the distribution that they were drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from export.adopt.original import RANDOM, Original, bodies_of

# What hands its first input on, as far as the meaning of an action goes.
_THROUGH = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
# What gives indices, and which of its outputs they are.
_INDICES = {"ArgMax": 0, "ArgMin": 0, "TopK": 1}


@dataclass(frozen=True, slots=True)
class Choices:
    """The tensors ``[N, A]`` that choices are made from, one for each factor, and whether they are log-probabilities.

    Where they are not, the largest is simply taken: they are values.
    """

    names: tuple[str, ...]
    probabilities: bool


@dataclass(frozen=True, slots=True)
class Normal:
    """A Gaussian in the units of the action: mean and std as tensors times ``scale``, then clipped or squashed."""

    mean: str
    std: str
    scale: float
    low: float | None
    high: float | None
    squashed: bool


def choices_behind(original: Original, output: str) -> Choices | None:
    """Find what an output of choices was taken from, by drawing or by the largest; None where that is not clear."""
    node = _maker(original, _handed(original, output))
    parts = list(node.input) if node is not None and node.op_type == "Concat" else [output]
    found = [_choice(original, part) for part in parts]
    kinds = {kind for name, kind in found if name}
    if len(kinds) != 1 or not all(name for name, _ in found):
        return None
    return Choices(names=tuple(name for name, _ in found), probabilities=kinds.pop())


def chosen_behind(original: Original, output: str) -> tuple[str, ...] | None:
    """Name what an output of indices was taken from by an arg-max, one tensor a choice; None where it is none.

    Empty where it is an index, but not the largest number's of one tensor: an arg-min, the indices of a sort.
    """
    node = _maker(original, _handed(original, output))
    parts = list(node.input) if node is not None and node.op_type == "Concat" else [output]
    names = [_handed(original, part) for part in parts]
    makers = [(name, node) for name in names if (node := _maker(original, name)) is not None]
    if not any(node.op_type in _INDICES and name == node.output[_INDICES[node.op_type]] for name, node in makers):
        return None
    found = [_unnormalised(original, node.input[0]) for _, node in makers if node.op_type == "ArgMax"]
    return tuple(found) if len(found) == len(parts) else ()


def normal_behind(original: Original, output: str) -> Normal | None:
    """Find the Gaussian that an output of real numbers was drawn from; None where that is not clear.

    An output that nothing random goes into has no std.
    """
    name, scale = _scaled(original, _handed(original, output))
    low = high = None
    node, squashed = _maker(original, name), False
    if node is not None and node.op_type == "Clip":
        low, high = (None if bound is None else bound * scale for bound in _bounds(original, node))
        name = node.input[0]
    elif node is not None and node.op_type == "Tanh":
        low, high, squashed = -scale, scale, True
        name, scale = node.input[0], 1.0
    if not random_behind(original, [name]):
        return Normal(mean=name, std="", scale=scale, low=low, high=high, squashed=squashed)
    sides = _sides(original, _handed(original, name))
    if sides is None:
        return None
    return Normal(mean=sides[0], std=sides[1], scale=scale, low=low, high=high, squashed=squashed)


def random_behind(original: Original, names: Sequence[str]) -> tuple[str, ...]:
    """Name the operators that draw random numbers for the named tensors, in the bodies of control flow too."""
    behind = original.behind(names)
    nodes = [node for name, node in original.makers.items() if name in behind]
    return tuple(dict.fromkeys(kind for node in nodes for kind in _random_in(node)))


def value_of(original: Original, output: str) -> np.ndarray | None:
    """Give the value of a constant that is handed on; None where it is none."""
    found = original.constants.get(_handed(original, output))
    return None if found is None else np.asarray(found)


def _random_in(node: onnx.NodeProto) -> list[str]:
    inner = [kind for body in bodies_of(node) for one in body.node for kind in _random_in(one)]
    return [*([node.op_type] if node.op_type in RANDOM else []), *inner]


def _maker(original: Original, name: str) -> onnx.NodeProto | None:
    return original.makers.get(name)


def _handed(original: Original, name: str) -> str:
    """Go back through nodes that only hand a tensor on."""
    while (node := _maker(original, name)) is not None:
        alone = node.op_type == "Concat" and len(node.input) == 1
        if not alone and node.op_type not in _THROUGH:
            break
        name = node.input[0]
    return name


def _choice(original: Original, name: str) -> tuple[str, bool]:
    """Give the tensor that one choice is made from, and whether it holds log-probabilities."""
    node = _maker(original, _handed(original, name))
    if node is None or node.op_type not in ("Multinomial", "ArgMax", "Log", "LogSoftmax"):
        return "", False
    if node.op_type in ("Log", "LogSoftmax"):
        return _unnormalised(original, node.output[0]), True
    found = _unnormalised(original, node.input[0])
    return found, node.op_type == "Multinomial" or found != node.input[0]


def _unnormalised(original: Original, name: str) -> str:
    """Go back through a softmax and a logarithm: what is before them has the same probabilities and no infinities."""
    node = _maker(original, name)
    if node is not None and node.op_type == "Log":
        inner = _maker(original, node.input[0])
        return inner.input[0] if inner is not None and inner.op_type == "Softmax" else name
    return node.input[0] if node is not None and node.op_type in ("LogSoftmax", "Softmax") else name


def _scaled(original: Original, name: str) -> tuple[str, float]:
    """Go back through a division or multiplication by one number."""
    node = _maker(original, name)
    if node is None or node.op_type not in ("Div", "Mul"):
        return name, 1.0
    for at in (1, 0) if node.op_type == "Mul" else (1,):
        value = value_of(original, node.input[at])
        if value is not None and value.size == 1:
            number = float(value.reshape(()))
            return node.input[1 - at], number if node.op_type == "Mul" else 1.0 / number
    return name, 1.0


def _bounds(original: Original, node: onnx.NodeProto) -> tuple[float | None, float | None]:
    """Read the bounds of a Clip, which are attributes up to operator set 10 and inputs after it."""
    given = {attribute.name: attribute.f for attribute in node.attribute}
    bounds: list[float | None] = [given.get("min"), given.get("max")]
    for at, name in enumerate(node.input[1:3]):
        value = value_of(original, name) if name else None
        if value is not None and value.size == 1:
            bounds[at] = float(value.reshape(()))
    return bounds[0], bounds[1]


def _sides(original: Original, name: str) -> tuple[str, str] | None:
    """Take mean and std out of ``mean + random * std``, in whatever order."""
    node = _maker(original, name)
    if node is None or node.op_type != "Add":
        return None
    for mean, noise in (tuple(node.input), tuple(reversed(node.input))):
        product = _maker(original, noise)
        if random_behind(original, [mean]) or product is None or product.op_type != "Mul":
            continue
        for std, drawn in (tuple(product.input), tuple(reversed(product.input))):
            if not random_behind(original, [std]) and _standard(_maker(original, drawn)):
                return mean, std
    return None


def _standard(node: onnx.NodeProto | None) -> bool:
    """Say whether a node draws standard normal numbers."""
    if node is None or node.op_type not in ("RandomNormal", "RandomNormalLike"):
        return False
    given = {attribute.name: attribute.f for attribute in node.attribute}
    return given.get("mean", 0.0) == 0.0 and given.get("scale", 1.0) == 1.0
