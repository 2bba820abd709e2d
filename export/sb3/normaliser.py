"""The observation statistics of a ``vecnormalize.pkl``, read without making any object that the file names."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.errors import CheckpointRefused
from export.inert import Inert, Named, read_inert
from export.inert_arrays import array_in, kind_of, mapping_of, number_of


@dataclass(frozen=True, slots=True)
class Running:
    """The running mean and variance of an observation, both float64 and of its shape."""

    mean: NDArray[np.float64]
    var: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Normaliser:
    """What VecNormalize does to an observation: clip((obs - mean) / sqrt(var + epsilon), -clip, clip).

    ``stats`` has the statistics by the key of a Dict observation, or under "" for an observation without keys.
    ``norm_obs_keys`` are the keys that are normalised, () for an observation without keys. Where ``norm_obs`` is false
    observations go through unchanged. ``name`` is what messages call the file.
    """

    stats: Mapping[str, Running]
    clip: float
    epsilon: float
    norm_obs: bool
    norm_obs_keys: tuple[str, ...] = ()
    name: str = "the normalisation statistics"


def read_normaliser(data: bytes, what: str = "the file of normalisation statistics") -> Normaliser:
    """Read what ``VecNormalize.save`` wrote, of any release of Stable-Baselines3; ``what`` names it in messages.

    Raises CheckpointRefused.
    """
    loaded = read_inert(data, what)
    if not isinstance(loaded, Inert) or not isinstance(loaded.of, Named) or loaded.of.name != "VecNormalize":
        msg = f"{what} holds {kind_of(loaded)}, expected a VecNormalize of Stable-Baselines3"
        raise CheckpointRefused(msg)
    state = mapping_of(loaded.state, f"{what}: the VecNormalize's state")
    norm_obs = bool(number_of(_taken(state, "norm_obs", what), f"{what}: norm_obs"))
    stats = _stats(state.get("obs_rms"), what, norm_obs=norm_obs)
    return Normaliser(
        stats=stats,
        clip=_positive(_taken(state, "clip_obs", what), f"{what}: clip_obs"),
        epsilon=_positive(_taken(state, "epsilon", what), f"{what}: epsilon"),
        norm_obs=norm_obs,
        norm_obs_keys=_keys(state.get("norm_obs_keys"), stats, what),
        name=what,
    )


def _taken(state: Mapping[object, object], name: str, what: str) -> object:
    if name not in state:
        msg = f"{what}: the statistics have no {name}, expected what VecNormalize.save writes"
        raise CheckpointRefused(msg)
    return state[name]


def _positive(value: object, what: str) -> float:
    number = number_of(value, what)
    if not 0 < number < np.inf:
        msg = f"{what} is {number}, expected a number above 0"
        raise CheckpointRefused(msg)
    return number


def _stats(value: object, what: str, *, norm_obs: bool) -> dict[str, Running]:
    if not norm_obs:
        return {}
    if isinstance(value, Inert) and isinstance(value.of, Named) and value.of.name == "RunningMeanStd":
        return {"": _running(value, f"{what}: obs_rms")}
    stats: dict[str, Running] = {}
    for key, running in mapping_of(value, f"{what}: obs_rms").items():
        if not isinstance(key, str) or not key:
            msg = f"{what}: obs_rms has {kind_of(key)} as a key, expected a text"
            raise CheckpointRefused(msg)
        stats[key] = _running(running, f"{what}: obs_rms of {key!r}")
    return stats


def _running(value: object, what: str) -> Running:
    if not isinstance(value, Inert):
        msg = f"{what} is {kind_of(value)}, expected a RunningMeanStd"
        raise CheckpointRefused(msg)
    state = mapping_of(value.state, f"{what}: the RunningMeanStd's state")
    mean, var = (
        np.array(array_in(_taken(state, name, what), f"{what}: {name}"), dtype=np.float64) for name in ("mean", "var")
    )
    if mean.shape != var.shape:
        msg = f"{what}: mean has the shape {list(mean.shape)}, expected that of var, which is {list(var.shape)}"
        raise CheckpointRefused(msg)
    if not (np.isfinite(mean).all() and np.isfinite(var).all()):
        msg = f"{what} holds NaN or infinite values, expected finite ones"
        raise CheckpointRefused(msg)
    if (var < 0).any():
        msg = f"{what}: var has {var.min()}, expected no variance below 0"
        raise CheckpointRefused(msg)
    return Running(mean, var)


def _keys(value: object, stats: Mapping[str, Running], what: str) -> tuple[str, ...]:
    """Give the keys that are normalised: those that the file lists, or all that have statistics."""
    known = tuple(key for key in stats if key)
    if value is None:
        return known
    listed = tuple(str(key) for key in value) if isinstance(value, (list, tuple)) else ()
    if set(listed) != set(known) or len(listed) != len(known):
        msg = f"{what}: obs_rms is of {list(known)}, expected the keys of norm_obs_keys: {list(listed)}"
        raise CheckpointRefused(msg)
    return listed
