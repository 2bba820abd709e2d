"""Everything that a checkpoint holds, by dotted name: tensors, lists of numbers, numbers, and what is none of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from export.archive import tensors_of
from export.errors import CheckpointRefused

_DEPTH_CAP = 32
_LEAVES_CAP = 200_000
# Longer lists of other things than numbers are memories of transitions: nobody keeps statistics so.
_LIST_CAP = 1000
_SHOWN = 80
_MOST_BITS = 1000
# Lists are taken for numbers up to so many axes, as many as an observation has.
_AXES = 4


@dataclass(frozen=True, slots=True)
class Opaque:
    """Something that is no number: it is only named. ``kind`` says of what type it is."""

    kind: str


def leaves_of(loaded: object, what: str) -> dict[str, object]:
    """Give what lies in dicts and lists by dotted name, places in lists as ``0``, ``1``, ...

    A leaf is a tensor, a number, a list of numbers (of one length, where it is a list of lists), or Opaque. ``what``
    names the file in messages. Raises CheckpointRefused where it nests too deeply or holds too much.
    """
    found: dict[str, object] = {}
    for at, (name, leaf) in enumerate(_walk(loaded, "", 0, what)):
        if at >= _LEAVES_CAP:
            msg = f"{what} holds more than {_LEAVES_CAP} things, expected at most that"
            raise CheckpointRefused(msg)
        found[name] = leaf
    return found


def _walk(value: object, name: str, depth: int, what: str) -> Iterator[tuple[str, object]]:
    if depth > _DEPTH_CAP:
        msg = f"{what} nests deeper than {_DEPTH_CAP}, expected less"
        raise CheckpointRefused(msg)
    if isinstance(value, (torch.Tensor, Opaque)) or is_number(value) or _numbers(value, _AXES) is not None:
        yield name, value
    elif isinstance(value, (list, tuple)) and len(value) > _LIST_CAP:
        yield name, Opaque("long list")
    elif isinstance(value, (Mapping, list, tuple)) and value:
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in parts:
            yield from _walk(part, f"{name}.{key}" if name else str(key), depth + 1, what)
    else:
        yield name, Opaque(type(value).__name__)


def is_number(value: object) -> bool:
    """Say whether it is a plain number that a float can hold; truths are none."""
    if isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= _MOST_BITS)


def _numbers(value: object, axes: int) -> tuple[int, ...] | None:
    """Give the shape of a list of numbers, or of lists of one shape; none for anything else."""
    if not isinstance(value, (list, tuple)) or not value or axes == 0:
        return None
    if all(is_number(part) for part in value):
        return (len(value),)
    first = _numbers(value[0], axes - 1)
    alike = first is not None and all(_numbers(part, axes - 1) == first for part in value)
    return (len(value), *first) if alike and first is not None else None


def is_array(leaf: object) -> bool:
    """Say whether a leaf is more than one number by its form: a tensor with axes, or a list."""
    return leaf.ndim > 0 if isinstance(leaf, torch.Tensor) else isinstance(leaf, (list, tuple))


def numbers_under(leaves: Mapping[str, object], key: str) -> dict[str, torch.Tensor]:
    """Give the numbers below ``key`` (everywhere, where it is empty) as tensors, by what their names go on with."""
    found: dict[str, torch.Tensor] = {}
    for name, leaf in leaves.items():
        if below(name, key) and not isinstance(leaf, Opaque):
            rest = name[len(key) + 1 :] if key else name
            found[rest] = leaf if isinstance(leaf, torch.Tensor) else torch.from_numpy(np.asarray(leaf, np.float64))
    return found


def below(name: str, key: str) -> bool:
    """Say whether a dotted name lies below ``key``; everything lies below the empty one."""
    return not key or name.startswith(f"{key}.")


def checked(tensor: torch.Tensor, what: str) -> torch.Tensor:
    """Give a tensor's numbers in float64; raises CheckpointRefused where they are not dense and finite."""
    return tensors_of({what: tensor}, "the file")[what].to(torch.float64)


def shown(name: str) -> str:
    """Give a name out of a file for a line of text: without control characters, and not too long."""
    plain = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)
    return plain if len(plain) <= _SHOWN else f"{plain[:_SHOWN]}..."
