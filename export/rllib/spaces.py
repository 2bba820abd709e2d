"""Gymnasium's spaces out of an inert pickle as ours, with names for what has none in it."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from export.errors import CheckpointRefused
from export.inert import Inert, Named
from export.inert_arrays import array_in, is_array, kind_of, mapping_of, number_of
from export.spec import ActionSpace, Box, Discrete, Factor, Field, Fields, MultiDiscrete

_MOST = 4096


def observations_of(space: object) -> Fields:
    """Read the observation space that the module sees: a Box with one axis, its numbers named ``obs_0`` and so on."""
    kind, state = _space(space, "the observation space")
    if kind != "Box":
        msg = f"the observation space is {kind}, expected a Box with one axis"
        raise CheckpointRefused(msg)
    low, high = _bounds(state, "the observation space")
    if low.ndim != 1:
        msg = f"the observation space is a Box of shape {list(low.shape)}, expected one axis"
        raise CheckpointRefused(msg)
    return Fields(fields=_fields(low, high, "obs"))


def actions_of(space: object) -> ActionSpace:
    """Read the action space: Discrete, MultiDiscrete, or a Box of floating point numbers."""
    kind, state = _space(space, "the action space")
    if kind == "Discrete":
        size, start = _whole(state.get("n"), "n"), _whole(state.get("start", 0), "start")
        if start != 0:
            msg = f"the action space starts at {start}, expected 0"
            raise CheckpointRefused(msg)
        return Discrete(names=tuple(f"action_{index}" for index in range(size)))
    if kind == "MultiDiscrete":
        sizes = array_in(state.get("nvec"), "the action space: nvec")
        shifted = is_array(state.get("start")) and array_in(state["start"], "the action space: start").any()
        if sizes.ndim != 1 or not 0 < len(sizes) <= 1024 or shifted:
            msg = f"the action space is a MultiDiscrete of shape {list(sizes.shape)}, expected one axis, from 0 on"
            raise CheckpointRefused(msg)
        return MultiDiscrete(factors=tuple(_factor(at, int(size)) for at, size in enumerate(sizes.tolist())))
    if kind != "Box":
        msg = f"the action space is {kind}, expected Discrete, MultiDiscrete or Box"
        raise CheckpointRefused(msg)
    low, high = _bounds(state, "the action space")
    return Box(fields=_fields(low.reshape(-1), high.reshape(-1), "action"), shape=low.shape)


def _factor(at: int, size: int) -> Factor:
    return Factor(name=f"factor_{at}", names=tuple(f"choice_{index}" for index in range(_whole(size, "nvec"))))


def _space(space: object, what: str) -> tuple[str, Mapping[object, object]]:
    if not isinstance(space, Inert) or not isinstance(space.of, Named) or ".spaces" not in space.of.module:
        msg = f"{what} is {kind_of(space)}, expected one of gymnasium"
        raise CheckpointRefused(msg)
    return space.of.name, mapping_of(space.state, what)


def _whole(value: object, what: str) -> int:
    number = number_of(value, f"the action space: {what}")
    if not 0 <= number <= 65536 or number != int(number):
        msg = f"the action space has {number} as its {what}, expected a whole number up to 65536"
        raise CheckpointRefused(msg)
    return int(number)


def _bounds(state: Mapping[object, object], what: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = (array_in(state.get(side), f"{what}: {side}") for side in ("low", "high"))
    if low.dtype.kind != "f" or low.dtype != high.dtype:
        msg = f"{what} is a Box of {low.dtype}, expected floating point numbers"
        raise CheckpointRefused(msg)
    if low.shape != high.shape or not 0 < low.size <= _MOST or np.isnan(low).any() or np.isnan(high).any():
        msg = (
            f"{what} has bounds of shapes {list(low.shape)} and {list(high.shape)}, expected like ones, {_MOST} at most"
        )
        raise CheckpointRefused(msg)
    return low.astype(np.float64), high.astype(np.float64)


def _fields(low: NDArray[np.float64], high: NDArray[np.float64], prefix: str) -> tuple[Field, ...]:
    bounds = zip(low.tolist(), high.tolist(), strict=True)
    return tuple(Field(name=f"{prefix}_{at}", low=_finite(a), high=_finite(b)) for at, (a, b) in enumerate(bounds))


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None
