"""Observations to try a policy on: recorded ones from a file, and ones sampled from its space."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.archive import TENSOR_CAP, array_of, members_of, read_capped
from export.errors import CheckpointRefused, SampleInvalid
from export.spec import Array, Fields, ObservationSpace, Statistics

PROBABILITIES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# Unbounded fields are drawn at two widths, ordinary and far out, so that every part of an activation is met.
_WIDTHS = (1.0, 10.0)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Observations ``[K, *shape]`` that the policy saw, in its own dtype, and the name of the file they came from."""

    rows: NDArray[np.generic]
    origin: str = ""


def read_recorded(path: Path, space: ObservationSpace) -> Recorded:
    """Read recorded observations from a ``.npy``, or from ``obs`` (or the only array) of a ``.npz``.

    Raises SampleInvalid where they are not finite numbers of shape ``[K, *space.shape]``, K >= 1.
    """
    try:
        rows = _array(path)
    except CheckpointRefused as error:
        msg = f"--observations: {error}"
        raise SampleInvalid(msg) from error
    return Recorded(rows=fitted(rows, space, path.name), origin=path.name)


def fitted(rows: NDArray[np.generic], space: ObservationSpace, what: str) -> NDArray[np.generic]:
    """Bring rows to the space's dtype; raises SampleInvalid where that would change what they mean."""
    if rows.shape[1:] != space.shape or rows.shape[0] < 1:
        msg = f"{what} has the shape {list(rows.shape)}, expected [observations, {', '.join(map(str, space.shape))}]"
        raise SampleInvalid(msg)
    with np.errstate(invalid="ignore", over="ignore"):
        found = rows.astype(space.dtype)
    if not np.isfinite(rows.astype(np.float64)).all() or not np.isfinite(found.astype(np.float64)).all():
        msg = f"{what} holds NaN, infinite values or values beyond {space.dtype}"
        raise SampleInvalid(msg)
    if found.dtype.kind in "iu" and not np.array_equal(found, rows):
        msg = f"{what} holds values that are not whole numbers of {space.dtype}"
        raise SampleInvalid(msg)
    return np.ascontiguousarray(found)


def _array(path: Path) -> NDArray[np.generic]:
    data = read_capped(path)
    if path.suffix != ".npz":
        return array_of(data, path.name)
    members = members_of(data, {"obs.npy": TENSOR_CAP, "observations.npy": TENSOR_CAP, "arr_0.npy": TENSOR_CAP})
    if not members:
        msg = f"{path.name} has no array named 'obs' (or 'observations')"
        raise CheckpointRefused(msg)
    name, member = next(iter(members.items()))
    return array_of(member, f"{path.name}: {name}")


def sampled(space: ObservationSpace, count: int, seed: int = 0) -> NDArray[np.generic]:
    """Draw ``count`` observations ``[count, *shape]``, the same ones every time.

    Uniform between two bounds; beyond a single bound, and around zero where there is none, normal with a standard
    deviation of 1 for even rows and of 10 for odd ones.
    """
    generator = np.random.default_rng(seed)
    low, high = _bounds(space)
    whole = np.dtype(space.dtype).kind in "iu"
    width = np.resize(np.asarray(_WIDTHS), count).reshape(-1, *[1] * len(space.shape))
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
    return np.ascontiguousarray(rows.astype(space.dtype))


def states(space: ObservationSpace, most: int) -> NDArray[np.generic]:
    """List every observation ``[S, 1]`` where the space is one whole number with at most ``most`` values; else none."""
    low, high = _bounds(space)
    if space.shape == (1,) and space.dtype == "int64" and np.isfinite(low).all() and high[0] - low[0] < most:
        return np.arange(int(low[0]), int(high[0]) + 1, dtype=np.int64).reshape(-1, 1)
    return np.empty((0, *space.shape), dtype=space.dtype)


def _bounds(space: ObservationSpace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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


def statistics(recorded: Recorded) -> Statistics:
    """Summarise recorded observations per field (per element of an array, in row-major order)."""
    rows = recorded.rows.reshape(len(recorded.rows), -1).astype(np.float64)
    return Statistics(
        count=len(rows),
        mean=tuple(rows.mean(axis=0).tolist()),
        std=tuple(rows.std(axis=0).tolist()),
        probabilities=PROBABILITIES,
        quantiles=tuple(tuple(row) for row in np.quantile(rows, PROBABILITIES, axis=0).T.tolist()),
        source=recorded.origin,
    )
