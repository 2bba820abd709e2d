"""What SB3 pickles beside the texts of a zip, read as data: bounds, which texts round, and types of observations."""

import base64
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from export.errors import CheckpointRefused
from export.inert import Inert, Named, read_inert
from export.inert_arrays import array_in, is_array, mapping_of

# The low and the high ones, as float64 and of the Box's shape.
Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]
_CAP = 64 * 1024 * 1024


def bounds_by_key(serialized: object) -> Mapping[str, Bounds]:
    """Give the bounds of a pickled Box under "", and those of the Boxes in a pickled Dict by their keys.

    ``serialized`` is what SB3 wrote as ``:serialized:``. Nothing in it is made or run. What cannot be read so is left
    out: the space's text then stands alone.
    """
    try:
        return dict(_boxes(_read(serialized)))
    except (CheckpointRefused, ValueError):
        return {}


def types_in(serialized: object) -> Mapping[str, str]:
    """Give the type of a pickled observation under "", and those of the parts of a Dict's by their keys.

    What cannot be read as data is left out.
    """
    try:
        found = _read(serialized)
        parts = {"": found} if is_array(found) else mapping_of(found, "the pickled observation")
        return {str(key): str(array_in(part, str(key)).dtype) for key, part in parts.items()}
    except (CheckpointRefused, ValueError):
        return {}


def _read(serialized: object) -> object:
    if not isinstance(serialized, str) or len(serialized) > _CAP:
        msg = "there is no pickle, expected one"
        raise ValueError(msg)
    return read_inert(base64.b64decode(serialized), "the pickle in the zip")


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
