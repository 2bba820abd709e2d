"""The folder that RLlib's ``save_to_path`` writes: which module it holds, of what spaces, settings and tensors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch

from export.archive import TENSOR_CAP, read_member, sha256_of, tensors_of
from export.errors import CheckpointRefused
from export.inert import Inert, Named, read_inert
from export.inert_arrays import array_in, kind_of, mapping_of
from export.rllib.connectors import Connectors, read_connectors
from export.rllib.msgpack_arrays import packed_array

# Where a module lies within an algorithm's folder, a learner's, a multi-agent module's, or its own.
_INSIDE = ("learner_group", "learner", "rl_module", "default_policy")
_TEXT_CAP = 16 * 1024 * 1024
_STATE_CAP = 256 * 1024 * 1024
_STATES = ("module_state.pkl", "module_state.msgpack")
_ARGUMENTS = "class_and_ctor_args.pkl"


@dataclass(frozen=True, slots=True)
class RllibCheckpoint:
    """A module as it lies in its folder: nothing in it was run.

    ``config`` has the settings that were given, defaults left out; ``sha256`` is that of the file with the tensors.
    """

    module: Named
    observation: object
    action: object
    config: Mapping[object, object]
    tensors: Mapping[str, torch.Tensor]
    connectors: Connectors
    version: str
    sha256: str


def read_rllib(path: Path) -> RllibCheckpoint:
    """Read a folder of RLlib's: an algorithm's, a learner's, or a module's own; raises CheckpointRefused."""
    folder = _module_folder(path)
    name = next(name for name in _STATES if (folder / name).exists())
    state = read_member(folder / name, _STATE_CAP)
    written = mapping_of(read_inert(read_member(folder / _ARGUMENTS, _TEXT_CAP), _ARGUMENTS), _ARGUMENTS)
    kwargs = constructed(written, _ARGUMENTS)
    module = written.get("class")
    if not isinstance(module, Named):
        msg = f"{_ARGUMENTS}: class is {kind_of(module)}, expected the name of a module's class"
        raise CheckpointRefused(msg)
    return RllibCheckpoint(
        module=module,
        observation=kwargs.get("observation_space"),
        action=kwargs.get("action_space"),
        config=_config(kwargs.get("model_config")),
        tensors=_tensors(state, name),
        connectors=read_connectors(_algorithm_folder(folder)),
        version=_version(folder),
        sha256=sha256_of(state),
    )


def constructed(written: Mapping[object, object], what: str) -> Mapping[object, object]:
    """Give the keyword arguments that an object is made again with; positional ones are not expected."""
    arguments = written.get("ctor_args_and_kwargs")
    if not isinstance(arguments, tuple) or len(arguments) != 2 or arguments[0] not in ((), []):
        msg = f"{what}: ctor_args_and_kwargs is {kind_of(arguments)}, expected a pair: no arguments, and those by name"
        raise CheckpointRefused(msg)
    return mapping_of(arguments[1], f"{what}: ctor_args_and_kwargs")


def _module_folder(path: Path) -> Path:
    found = [path.joinpath(*_INSIDE[start:]) for start in range(len(_INSIDE) + 1)]
    for folder in found:
        if any((folder / name).exists() for name in _STATES) and (folder / _ARGUMENTS).exists():
            if not any(folder.glob("*/module_state.*")):
                return folder
            names = ", ".join(sorted(inner.parent.name for inner in folder.glob("*/module_state.*"))[:8])
            if not (folder / _INSIDE[-1]).exists():
                msg = f"{path.name} holds the modules {names}, expected the folder of one of them"
                raise CheckpointRefused(msg)
            return folder / _INSIDE[-1]
    msg = f"{path.name} is a folder without {_STATES[0]} and {_ARGUMENTS}, expected one that RLlib's save_to_path wrote"
    raise CheckpointRefused(msg)


def _algorithm_folder(folder: Path) -> Path | None:
    """Find the algorithm's folder that a module's folder lies in, because what is done around the module is there."""
    algorithm = folder.absolute().parents[len(_INSIDE) - 1] if len(folder.absolute().parents) >= len(_INSIDE) else None
    if algorithm is None or folder.absolute().relative_to(algorithm).parts[:-1] != _INSIDE[:-1]:
        return None
    return algorithm if (algorithm / "env_runner").is_dir() else None


def _version(folder: Path) -> str:
    if not (folder / "metadata.json").exists():
        return ""
    try:
        found = json.loads(read_member(folder / "metadata.json", _TEXT_CAP))
        return str(found["ray_version"])[:40]
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        msg = "metadata.json cannot be read as RLlib's metadata, expected a JSON object with ray_version"
        raise CheckpointRefused(msg) from error


def _config(value: object) -> Mapping[object, object]:
    """Give the model's settings: a plain dict, or the fields of a DefaultModelConfig."""
    if isinstance(value, Inert) and isinstance(value.of, Named) and value.of.name == "DefaultModelConfig":
        return mapping_of(value.state, f"{_ARGUMENTS}: model_config")
    return {} if value is None else mapping_of(value, f"{_ARGUMENTS}: model_config")


def _tensors(state: bytes, name: str) -> dict[str, torch.Tensor]:
    packed = name.endswith(".msgpack")
    loaded = _unpacked(state, name) if packed else read_inert(state, name)
    tensors: dict[object, object] = {}
    left = 2 * TENSOR_CAP
    for key, value in mapping_of(loaded, name).items():
        what = f"{name}: {key!r}" if isinstance(key, str) else name
        array = packed_array(value, what) if packed else array_in(value, what)
        left -= array.nbytes
        if left < 0:
            msg = f"{name} holds more than {2 * TENSOR_CAP} bytes of tensors, expected at most that"
            raise CheckpointRefused(msg)
        tensors[key] = torch.from_numpy(np.array(array))
    return tensors_of(tensors, name)


def _unpacked(state: bytes, name: str) -> object:
    try:
        loaded: object = msgspec.msgpack.decode(state)
    except (msgspec.DecodeError, RecursionError, TypeError, ValueError) as error:
        msg = f"{name} cannot be read as msgpack ({type(error).__name__})"
        raise CheckpointRefused(msg) from error
    return loaded
