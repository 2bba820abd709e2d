"""Folders laid out as RLlib's ``save_to_path`` lays them out, written without RLlib."""

import io
import itertools
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
DQN = "ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module.DefaultDQNTorchRLModule"
PPO = "ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module.DefaultPPOTorchRLModule"
SAC = "ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module.DefaultSACTorchRLModule"


@dataclass(frozen=True)
class Name:
    """Pickles as the name of a class that need not exist."""

    path: str


@dataclass(frozen=True)
class Made:
    """Pickles as an object of such a class with a state."""

    path: str
    state: object


class Pickler(pickle._Pickler):
    """Python's own pickler in Python, which can be taught names that are not at hand."""

    write: Callable[[bytes], object]
    save: Callable[[object], None]

    dispatch: ClassVar[dict[type, Callable[..., None]]] = dict(pickle._Pickler.dispatch)

    def save_name(self, name: Name) -> None:
        module, _, attribute = name.path.rpartition(".")
        self.write(pickle.GLOBAL + f"{module}\n{attribute}\n".encode())

    def save_made(self, made: Made) -> None:
        self.save_name(Name(made.path))
        self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        self.save(made.state)
        self.write(pickle.BUILD)

    dispatch[Name] = save_name
    dispatch[Made] = save_made


def dumped(value: object) -> bytes:
    """Pickle a value that may hold names and objects of absent classes."""
    stream = io.BytesIO()
    Pickler(stream, 5).dump(value)
    return stream.getvalue()


def box(low: list[float], high: list[float]) -> Made:
    """Give a Box as gymnasium pickles it."""
    bounds = {"low": np.asarray(low, np.float32), "high": np.asarray(high, np.float32)}
    return Made("gymnasium.spaces.box.Box", {"dtype": np.dtype("float32"), "_shape": (len(low),), **bounds})


def discrete(n: int, start: int = 0) -> Made:
    """Give a Discrete as gymnasium pickles it."""
    state = {"n": np.int64(n), "start": np.int64(start), "_shape": (), "dtype": np.dtype("int64")}
    return Made("gymnasium.spaces.discrete.Discrete", state)


def multi_discrete(*sizes: int) -> Made:
    """Give a MultiDiscrete as gymnasium pickles it."""
    return Made("gymnasium.spaces.multi_discrete.MultiDiscrete", {"nvec": np.asarray(sizes, np.int64)})


def mlp(prefix: str, *widths: int, step: int = 2) -> dict[str, Array]:
    """Give the tensors of a stack of layers."""
    draw = np.random.default_rng(len(prefix) + sum(widths))
    found: dict[str, Array] = {}
    for at, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        found[f"{prefix}.net.mlp.{step * at}.weight"] = draw.normal(size=(outputs, inputs)).astype(np.float32)
        found[f"{prefix}.net.mlp.{step * at}.bias"] = draw.normal(size=outputs).astype(np.float32)
    return found


def clip_of(prefix: str) -> dict[str, Array]:
    """Give the constant that every head of RLlib's has."""
    return {f"{prefix}.log_std_clip_param_const": np.array([20.0], np.float32)}


def write_module(
    folder: Path,
    kind: str,
    action: object,
    tensors: Mapping[str, Array],
    config: object = None,
    observation: object = None,
) -> Path:
    """Write a module's folder; the observation is a Box of 5 numbers unless told."""
    folder.mkdir(parents=True)
    kwargs = {
        "observation_space": observation or box([-1.0] * 5, [float("inf")] * 5),
        "action_space": action,
        "model_config": config if config is not None else {"fcnet_hiddens": [8]},
        "catalog_class": Name("ray.rllib.core.models.catalog.Catalog"),
    }
    (folder / "metadata.json").write_text(json.dumps({"ray_version": "2.60.0", "checkpoint_version": "2.1"}))
    arguments = {"class": Name(kind), "ctor_args_and_kwargs": ((), kwargs)}
    (folder / "class_and_ctor_args.pkl").write_bytes(dumped(arguments))
    (folder / "module_state.pkl").write_bytes(pickle.dumps(dict(tensors)))
    return folder


def write_algorithm(folder: Path, *before: tuple[str, Mapping[str, object]], **after: bool) -> Path:
    """Write an algorithm's folder around a place for its module; gives that place.

    ``before`` are connectors to the module besides RLlib's own, ``after`` the settings of NormalizeAndClipActions.
    """
    own: list[tuple[str, Mapping[str, object]]] = [("ray.rllib.connectors.common.numpy_to_tensor.NumpyToTensor", {})]
    scaling = "ray.rllib.connectors.module_to_env.normalize_and_clip_actions.NormalizeAndClipActions"
    for name, pieces in (("env_to_module", [*before, *own]), ("module_to_env", [(scaling, after)])):
        pipeline = folder / "env_runner" / f"{name}_connector"
        pipeline.mkdir(parents=True)
        listed = [(Name(path), (), dict(settings)) for path, settings in pieces]
        arguments = {"class": Name("ray.rllib.Pipeline"), "ctor_args_and_kwargs": ((), {"connectors": listed})}
        (pipeline / "class_and_ctor_args.pkl").write_bytes(dumped(arguments))
    return folder / "learner_group" / "learner" / "rl_module" / "default_policy"


def ppo_tensors(outputs: int) -> dict[str, Array]:
    """Give the tensors of a PPO module with one hidden layer of 8."""
    return mlp("encoder.encoder", 5, 8) | mlp("pi", 8, outputs) | mlp("vf", 8, 1) | clip_of("pi") | clip_of("vf")
