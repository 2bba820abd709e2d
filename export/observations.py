"""Observations to try a policy on: recorded ones from a file, and ones sampled from its space."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.archive import TENSOR_CAP, array_of, members_of, read_capped
from export.errors import CheckpointRefused, SampleInvalid
from export.meaning import Arrays, Meaning
from export.spec import MASK, Array, Dict, Fields, ObservationSpace, Port, Recorded

# Unbounded fields are drawn at two widths, ordinary and far out, so that every part of an activation is met.
_WIDTHS = (1.0, 10.0)
_PART = 4_000_000  # numbers that are drawn at once


def read_recorded(path: Path, meaning: Meaning) -> Recorded:
    """Read recorded observations from a ``.npy``, or from a ``.npz`` that may hold actions too.

    A ``.npz`` has ``obs`` (or ``observations``; ``obs.<key>`` for each part of a Dict), and where known ``action`` (or
    ``actions``), ``action_mask`` (or ``action_masks``) and ``starts`` (or ``episode_starts``).
    Raises SampleInvalid where they are not finite numbers of the policy's shapes, one row each.
    """
    try:
        found = _arrays(path, meaning)
    except CheckpointRefused as error:
        msg = f"--observations: {error}"
        raise SampleInvalid(msg) from error
    inputs = {}
    for port in meaning.inputs:
        if port.name in found:
            inputs[port.name] = fitted(found.pop(port.name), port, path.name)
        elif port in meaning.observation.inputs:
            msg = f"--observations: {path.name} has no array {port.name!r}"
            raise SampleInvalid(msg)
    rows = len(next(iter(inputs.values())))
    for name, array in (inputs | found).items():
        if len(array) != rows:
            msg = f"--observations: {path.name}: {name!r} has {len(array)} rows, expected {rows} like the others"
            raise SampleInvalid(msg)
    actions, starts = found.get("action"), found.get("starts")
    return Recorded(
        inputs=inputs,
        actions=None if actions is None else _actions(actions, meaning, path.name),
        starts=None if starts is None else starts.astype(np.bool_).reshape(rows),
        origin=path.name,
    )


def fitted(rows: NDArray[np.generic], port: Port, what: str) -> NDArray[np.generic]:
    """Bring rows to an input's dtype; raises SampleInvalid where that would change what they mean."""
    if rows.shape[1:] != port.shape or rows.shape[0] < 1:
        msg = f"{what} has the shape {list(rows.shape)}, expected [observations, {', '.join(map(str, port.shape))}]"
        raise SampleInvalid(msg)
    with np.errstate(invalid="ignore", over="ignore"):
        found = rows.astype(port.dtype)
    if not np.isfinite(rows.astype(np.float64)).all() or not np.isfinite(found.astype(np.float64)).all():
        msg = f"{what} holds NaN, infinite values or values beyond {port.dtype}"
        raise SampleInvalid(msg)
    if found.dtype.kind in "iub" and not np.array_equal(found, rows):
        msg = f"{what} holds values that are not whole numbers of {port.dtype}"
        raise SampleInvalid(msg)
    return np.ascontiguousarray(found)


def _actions(actions: NDArray[np.generic], meaning: Meaning, what: str) -> NDArray[np.generic]:
    port = meaning.action.port
    if actions[0].size != math.prod(port.shape):
        msg = f"{what}: the actions have the shape {list(actions.shape)}, expected [rows, {list(port.shape)}]"
        raise SampleInvalid(msg)
    return fitted(actions.reshape(len(actions), *port.shape), port, f"{what}: the actions")


def _arrays(path: Path, meaning: Meaning) -> dict[str, NDArray[np.generic]]:
    """Read the arrays of a file that are known here, by the name that we have for them."""
    data = read_capped(path)
    if path.suffix != ".npz":
        return {meaning.observation.inputs[0].name: array_of(data, path.name)}
    names: dict[str, tuple[str, ...]] = {port.name: (port.name,) for port in meaning.inputs}
    if "obs" in names:
        names["obs"] = ("obs", "observations", "arr_0")
    names |= {MASK: (MASK, "action_masks")} if meaning.mask else {}
    names |= {"action": ("action", "actions"), "starts": ("starts", "episode_starts")}
    members = members_of(data, {f"{alias}.npy": TENSOR_CAP for aliases in names.values() for alias in aliases})
    found = {}
    for name, aliases in names.items():
        there = [alias for alias in aliases if f"{alias}.npy" in members]
        if there:
            found[name] = array_of(members[f"{there[0]}.npy"], f"{path.name}: {there[0]}")
    return found


def sampled(space: ObservationSpace, count: int, seed: int = 0) -> Arrays:
    """Draw ``count`` observations ``[count, *shape]`` by the name of their input, the same ones every time.

    Uniform between two bounds; beyond a single bound, and around zero where there is none, normal with a standard
    deviation of 1 for even rows and of 10 for odd ones.
    """
    if isinstance(space, Dict):
        parts = enumerate(space.entries)
        return {f"obs.{entry.key}": _drawn(entry.space, count, (seed, at)) for at, entry in parts}
    return {"obs": _drawn(space, count, (seed,))}


def _drawn(space: Fields | Array, count: int, seed: tuple[int, ...]) -> NDArray[np.generic]:
    """Draw in parts of bounded size: an image as float64 is eight times its size."""
    generator = np.random.default_rng(seed[0] if len(seed) == 1 else seed)
    part = max(1, _PART // space.size)
    drawn = [_part(space, min(part, count - at), at, generator) for at in range(0, count, part)]
    return np.ascontiguousarray(np.concatenate(drawn))


def _part(space: Fields | Array, count: int, first: int, generator: np.random.Generator) -> NDArray[np.generic]:
    low, high = _bounds(space)
    whole = np.dtype(space.dtype).kind in "iu"
    width = np.resize(np.roll(_WIDTHS, -first), count).reshape(-1, *[1] * len(space.shape))
    normal = generator.standard_normal((count, *space.shape)) * width
    uniform = generator.random((count, *space.shape))
    bounded = np.isfinite(low) & np.isfinite(high)
    some_low, some_high = np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 0.0)
    inside = some_low + uniform * (some_high - some_low + (1 if whole else 0))
    above, below = some_low + np.abs(normal), some_high - np.abs(normal)
    free = np.where(np.isfinite(low), above, np.where(np.isfinite(high), below, normal))
    rows = np.where(bounded, inside, free)
    if whole:
        rows = np.clip(np.floor(rows), low, high)
    return rows.astype(space.dtype)


def states(space: ObservationSpace, most: int, *, grid: bool = False) -> Arrays:
    """List every observation ``[S, 1]`` where the space is one whole number with at most ``most`` values; else none.

    With ``grid`` the space may also be several whole numbers, ``[S, K]``, of which every combination is listed.
    """
    if isinstance(space, Dict):
        return {}
    low, high = _bounds(space)
    if grid and len(space.shape) == 1 and space.dtype == "int64" and np.isfinite(low).all() and np.isfinite(high).all():
        sizes = [int(size) for size in high - low + 1]
        count = math.prod(sizes)
        if count <= most:
            rows = np.stack(np.unravel_index(np.arange(count), sizes), axis=1)
            return {"obs": rows + low.astype(np.int64)}
        return {}
    if space.shape == (1,) and space.dtype == "int64" and np.isfinite(low).all() and high[0] - low[0] < most:
        return {"obs": np.arange(int(low[0]), int(high[0]) + 1, dtype=np.int64).reshape(-1, 1)}
    return {}


def _bounds(space: Fields | Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if isinstance(space, Fields):
        pairs = [(field.low, field.high) for field in space.fields]
    else:
        pairs = [(space.low, space.high)]
    least, most = (0.0, 255.0) if space.dtype == "uint8" else (-np.inf, np.inf)
    low = np.array([least if a is None else a for a, _ in pairs])
    high = np.array([most if b is None else b for _, b in pairs])
    if isinstance(space, Array):
        return np.full(space.shape, low[0]), np.full(space.shape, high[0])
    return low, high
