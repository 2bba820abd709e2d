"""The spaces of a Stable-Baselines3 zip as ours, with names for what has none in it."""

import re

import numpy as np

from export.errors import CheckpointRefused
from export.sb3.checkpoint import Sb3Checkpoint
from export.sb3.normaliser import Normaliser, Running
from export.sb3.texts import Space, space_of
from export.spec import Array, Box, Dict, Discrete, Entry, Factor, Field, Fields, MultiDiscrete
from export.spec.spaces import ActionSpace, ObservationSpace

# More numbers than this are one array without names.
_NAMED = 4096
# A share of an observation's deviation.
_MOVED = 1e-4


def actions_of(found: Sb3Checkpoint) -> ActionSpace:
    """Read the action space; actions are named ``action_0`` and so on.

    SB3 counts actions from 0 whatever ``start`` the space has, and so do we.
    """
    space = space_of(found, "action_space")
    if space.kind == "Discrete":
        return Discrete(names=tuple(f"action_{index}" for index in range(space.sizes[0])))
    if space.kind == "MultiDiscrete":
        return MultiDiscrete(
            factors=tuple(
                Factor(name=f"factor_{at}", names=tuple(f"choice_{index}" for index in range(size)))
                for at, size in enumerate(space.sizes)
            )
        )
    if space.kind == "MultiBinary" and len(space.shape) == 1:
        return MultiDiscrete(
            factors=tuple(Factor(name=f"bit_{at}", names=("off", "on")) for at in range(space.shape[0]))
        )
    if space.kind != "Box":
        msg = f"the action space is {space.kind}, expected Discrete, MultiDiscrete, MultiBinary (one axis) or Box"
        raise CheckpointRefused(msg)
    if not space.low or not space.high:
        msg = "the bounds of the action space are not printed in full, so that actions cannot be scaled or clipped"
        raise CheckpointRefused(msg)
    if len(space.low) > _NAMED:
        msg = f"the action space has {len(space.low)} numbers, expected at most {_NAMED}"
        raise CheckpointRefused(msg)
    return Box(fields=_named(space, "action"), shape=space.shape)


def observations_of(found: Sb3Checkpoint) -> ObservationSpace:
    """Read the observation space: vectors are fields ``obs_0`` and so on, a Discrete is the one field ``state``."""
    space = space_of(found, "observation_space")
    if space.kind != "Dict":
        return _part(space, "obs", "state")
    prefixes: list[str] = []
    for key, _ in space.spaces:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,63}", key):
            msg = f"the observation space has the key {key!r}, expected letters, digits and _ . / - (64 at most)"
            raise CheckpointRefused(msg)
        prefixes.append(_identifier(key, prefixes))
    if len({key for key, _ in space.spaces}) < len(prefixes) or len(prefixes) > 64:
        msg = "the observation space has a key twice or more than 64 of them, expected distinct ones, 64 at most"
        raise CheckpointRefused(msg)
    parts = zip(space.spaces, prefixes, strict=True)
    return Dict(
        entries=tuple(Entry(key=key, space=_part(part, prefix, f"{prefix}_0")) for (key, part), prefix in parts)
    )


def precise(found: Sb3Checkpoint, observation: ObservationSpace, normaliser: Normaliser | None) -> ObservationSpace:
    """Have callers send float64 where float32 would lose what VecNormalize magnifies, and training had more than that.

    A number around 5,000 that varies by 0.01 has no third digit of its variation left in float32.
    """
    if normaliser is None or not normaliser.norm_obs:
        return observation
    space = space_of(found, "observation_space")
    lossy = {key for key, part in space.spaces or (("", space),) if _loses(part, normaliser.stats.get(key), normaliser)}
    if isinstance(observation, Dict):
        entries = (
            entry.model_copy(update={"space": entry.space.model_copy(update={"dtype": "float64"})})
            if entry.key in lossy
            else entry
            for entry in observation.entries
        )
        return Dict(entries=tuple(entries))
    return observation.model_copy(update={"dtype": "float64"}) if lossy else observation


def _loses(part: Space, running: Running | None, normaliser: Normaliser) -> bool:
    """Say whether float32 moves an observation about the mean by a share of its deviation that counts."""
    if running is None or part.kind != "Box" or part.dtype not in ("float64", "int64", "int32", "uint32", "uint64"):
        return False
    moved = np.abs(running.mean) * 2.0**-24 / np.sqrt(running.var + normaliser.epsilon)
    return bool((moved > _MOVED).any())


def images_of(found: Sb3Checkpoint, observation: ObservationSpace) -> tuple[str, ...]:
    """Name the observation's tensors that SB3 takes for images."""
    space = space_of(found, "observation_space")
    parts = zip(observation.inputs, space.spaces or (("", space),), strict=True)
    return tuple(port.name for port, (_, part) in parts if part.image)


def _part(space: Space, prefix: str, single: str) -> Fields | Array:
    """Give the space of one tensor; ``prefix`` names its numbers, ``single`` that of a Discrete."""
    if space.kind in ("Discrete", "MultiDiscrete"):
        if set(space.starts) - {0}:
            starts = ", ".join(map(str, space.starts))
            msg = f"the {space.kind} observation space starts at {starts}, expected 0: SB3 does not shift it"
            raise CheckpointRefused(msg)
        names = [single] if space.kind == "Discrete" else [f"{prefix}_{at}" for at in range(len(space.sizes))]
        named = zip(names, space.sizes, strict=True)
        return Fields(fields=tuple(Field(name=n, low=0, high=size - 1) for n, size in named), dtype="int64")
    if space.kind == "MultiBinary":
        if len(space.shape) > 1 or space.shape[0] > _NAMED:
            return Array(shape=space.shape, dtype="int64", low=0, high=1)
        fields = tuple(Field(name=f"{prefix}_{at}", low=0, high=1) for at in range(space.shape[0]))
        return Fields(fields=fields, dtype="int64")
    if space.kind != "Box":
        msg = f"the observation space is {space.kind} inside a Dict, expected Box, Discrete and other flat spaces"
        raise CheckpointRefused(msg)
    if len(space.shape) == 1 and space.shape[0] <= _NAMED:
        return Fields(fields=_named(space, prefix))
    if space.dtype == "uint8":
        return Array(shape=space.shape, dtype="uint8", low=0, high=255)
    # Three axes of floats may be an image that VecNormalize changed: SB3 then saves the bounds of what comes out of
    # it. In any other case they are of little use, since they are seldom one number for all.
    low, high = _one(space.low), _one(space.high)
    return Array(shape=space.shape) if len(space.shape) == 3 else Array(shape=space.shape, low=low, high=high)


def _named(space: Space, prefix: str) -> tuple[Field, ...]:
    count = space.shape[0] if len(space.shape) == 1 else len(space.low)
    low, high = (side or (None,) * count for side in (space.low, space.high))
    return tuple(Field(name=f"{prefix}_{at}", low=low[at], high=high[at]) for at in range(count))


def _one(values: tuple[float | None, ...]) -> float | None:
    """Give the bound that all numbers share, if there is one."""
    return values[0] if len(set(values)) == 1 else None


def _identifier(key: str, taken: list[str]) -> str:
    """Make a key the beginning of a field's name, other than those taken."""
    name = re.sub(r"\W", "_", key)[:56]
    name = f"_{name}" if name[0].isdigit() else name
    while name in taken:
        name += "_"
    return name
