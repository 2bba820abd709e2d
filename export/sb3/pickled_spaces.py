"""The bounds of a Box as they are pickled beside its text, read as data: texts round numbers, and leave some out."""

import base64
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from export.errors import CheckpointRefused
from export.inert import Inert, Named, read_inert
from export.inert_arrays import array_in, mapping_of

# The low and the high ones, as float64 and of the Box's shape.
Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]
_CAP = 64 * 1024 * 1024


def bounds_by_key(serialized: object) -> Mapping[str, Bounds]:
    """Give the bounds of a pickled Box under "", and those of the Boxes in a pickled Dict by their keys.

    ``serialized`` is what SB3 wrote as ``:serialized:``. Nothing in it is made or run. What cannot be read so is left
    out: the space's text then stands alone.
    """
    if not isinstance(serialized, str) or len(serialized) > _CAP:
        return {}
    try:
        space = read_inert(base64.b64decode(serialized), "the pickled space")
        return dict(_boxes(space))
    except (CheckpointRefused, ValueError):
        return {}


def _boxes(space: object) -> Iterator[tuple[str, Bounds]]:
    if not _is(space, "Dict"):
        found = _bounds(space)
        if found is not None:
            yield "", found
        return
    for key, part in mapping_of(_state(space).get("spaces"), "the pickled space").items():
        found = _bounds(part)
        if found is not None:
            yield str(key), found


def _bounds(space: object) -> Bounds | None:
    if not _is(space, "Box"):
        return None
    state = _state(space)
    low, high = (array_in(state.get(side), side).astype(np.float64) for side in ("low", "high"))
    return low, high


def _is(space: object, kind: str) -> bool:
    """Say whether something is a space of gym's or gymnasium's, by the name of its class."""
    of = space.of if isinstance(space, Inert) else None
    return isinstance(of, Named) and of.name == kind and of.module.split(".")[0] in ("gym", "gymnasium")


def _state(space: object) -> Mapping[object, object]:
    return mapping_of(space.state if isinstance(space, Inert) else None, "the pickled space's state")
