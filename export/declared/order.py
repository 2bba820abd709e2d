"""The order of a network's layers, where the names and the order of the file make it sure."""

import re
from collections.abc import Sequence

from export.errors import DeclarationInvalid
from export.networks import Tensors


def ordered(tensors: Tensors, named: Sequence[str], count: int, without: Sequence[str] = ()) -> Sequence[str]:
    """Give the names of ``count`` layers in an order that is sure, those ``named`` or all that are left.

    Raises DeclarationInvalid.
    """
    names = named or tuple(name for name in tensors.layers() if name not in without)
    if len(names) != count:
        where = "it names" if named else "the state dict has"
        msg = f"the declaration expects {count} linear layers here, {where} {len(names)}: {', '.join(names)}"
        odd = [name for name in names if len(tensors.shape(f"{name}.weight")) in (1, 3)]
        if odd:
            kind = "batch" if tensors.shape(f"{odd[0]}.running_mean") else "layer"
            msg = f"{msg}; {', '.join(odd)} look like normalisations, which are declared as norm = {kind!r}"
        raise DeclarationInvalid(msg)
    if not named and unsure(tensors, names):
        msg = (
            f"layers of one shape, and neither their names nor their order in the file say which comes first "
            f"({', '.join(names)}): name them in order in the declaration"
        )
        raise DeclarationInvalid(msg)
    return names


def unsure(tensors: Tensors, names: Sequence[str], of: str = "weight") -> bool:
    """Say whether layers of one shape could change places: their names have to count them, and in this order.

    Layers of different shapes cannot: each place in a network has its own.
    """
    alike: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        alike.setdefault(tensors.shape(f"{name}.{of}"), []).append(name)
    return any(
        group != sorted(group, key=natural) or len({re.sub(r"\d+", "", name) for name in group}) > 1
        for group in alike.values()
    )


def natural(name: str) -> list[tuple[int, str]]:
    """Give what sorts ``fc10`` after ``fc2``."""
    return [(int(part or 0), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
