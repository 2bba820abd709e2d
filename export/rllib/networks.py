"""RLlib's default networks as torch modules: one function each for PPO, DQN and SAC, and a table at the end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from export.errors import CheckpointRefused
from export.inert_arrays import kind_of, number_of
from export.networks import ACTIVATIONS, Dueling, Normalised, Tensors, stack
from export.rllib.checkpoint import RllibCheckpoint
from export.rllib.heads import Atoms, FreeStd, Halves, Scaled, scaling_of
from export.rllib.spaces import actions_of, observations_of
from export.spec import ActionSpace, Box, Discrete, Source
from export.spec.manifest import Head, Squash
from export.spec.nearest import one_of
from export.trained import TrainedPolicy

# Settings that make other networks than those built here.
_OTHERS = ("use_lstm", "use_attention", "fcnet_use_layernorm", "head_fcnet_use_layernorm", "noisy")
# RLlib's own spellings; others are names of torch.nn.
_ACTIVATIONS = {"relu": "ReLU", "tanh": "Tanh", "elu": "ELU", "swish": "SiLU", "silu": "SiLU", "linear": "Identity"}
_CLIP = "log_std_clip_param_const"
_MOST_ATOMS = 4096


@dataclass(frozen=True, slots=True)
class _Network:
    """A network from the (normalised) observation to a head, and what it is."""

    module: nn.Module
    family: str
    head: Head
    squash: Squash = "none"
    inside: tuple[str, ...] = ()


def ppo(found: RllibCheckpoint, tensors: Tensors, inputs: int, action: ActionSpace) -> _Network:
    """Build PPO's actor: logits of a Discrete or MultiDiscrete action, mean and std of a Box."""
    shared = tensors.has("encoder.encoder.")
    trunk, width = _trunk(found, tensors, "encoder.encoder" if shared else "encoder.actor_encoder", inputs)
    tensors.set_aside("encoder.critic_encoder.")
    tensors.set_aside("vf.")
    if not isinstance(action, Box):
        head = _head(found, tensors, "pi", width, action.width)
        tensors.set_aside(f"pi.{_CLIP}")
        family = "categorical" if isinstance(action, Discrete) else "multi_categorical"
        return _Network(nn.Sequential(trunk, head), family, "logits")
    scaling = scaling_of(action, found.connectors)
    clip = _log_std_clip(found, tensors)
    if found.config.get("free_log_std") is True:
        layer = _head(found, tensors, "pi", width, action.width)
        gaussian: nn.Module = FreeStd(layer, tensors.take("pi.log_std", (action.width,)), -clip, clip)
    else:
        gaussian = Halves(_head(found, tensors, "pi", width, 2 * action.width), -clip, clip)
    return _Network(nn.Sequential(trunk, Scaled(gaussian, scaling)), "gaussian", "gaussian", inside=scaling.inside)


def sac(found: RllibCheckpoint, tensors: Tensors, inputs: int, action: ActionSpace) -> _Network:
    """Build SAC's actor: mean and std before the squash, or logits where the action is Discrete.

    The executed action of a Box is squashed with exploration and without. RLlib's own, without exploration, leaves the
    tanh out (https://github.com/ray-project/ray/issues/51544), which is not the policy that was trained.
    """
    scaled = isinstance(action, Box) and found.connectors.normalised and found.config.get("free_log_std") is not True
    if not isinstance(action, Discrete) and not scaled:
        msg = "the SAC module has another action than a Box that is scaled to its bounds, expected RLlib's default"
        raise CheckpointRefused(msg)
    trunk, width = _trunk(found, tensors, "pi_encoder", inputs)
    for critic in ("qf", "target_qf"):
        tensors.set_aside(critic)
    if not isinstance(action, Box):
        head = _head(found, tensors, "pi", width, action.width)
        tensors.set_aside(f"pi.{_CLIP}")
        return _Network(nn.Sequential(trunk, head), "categorical", "logits")
    inside = ("tanh, also without exploration", *scaling_of(action, found.connectors).inside[:1])
    halves = Halves.squashed(_head(found, tensors, "pi", width, 2 * action.width), _log_std_clip(found, tensors))
    return _Network(nn.Sequential(trunk, halves), "squashed_gaussian", "gaussian", "tanh", inside)


def dqn(found: RllibCheckpoint, tensors: Tensors, inputs: int, action: ActionSpace) -> _Network:
    """Build DQN's online network: dueling or not, expected values or a distribution over atoms (C51)."""
    if not isinstance(action, Discrete):
        msg = f"the DQN module has a {action.kind} action, expected a Discrete one"
        raise CheckpointRefused(msg)
    atoms = int(_setting(found, "num_atoms", 1))
    dueling = found.config.get("dueling") is True
    if not 1 <= atoms <= _MOST_ATOMS:
        msg = f"num_atoms is {atoms}, expected 1 to {_MOST_ATOMS}"
        raise CheckpointRefused(msg)
    trunk, width = _trunk(found, tensors, "encoder", inputs)
    advantage = _head(found, tensors, "af", width, action.n * atoms)
    value = _head(found, tensors, "vf", width, 1) if dueling else None
    for aside in ("_target_", f"af.{_CLIP}", f"vf.{_CLIP}"):
        tensors.set_aside(aside)
    if atoms > 1:
        low, high = _setting(found, "v_min", -10.0), _setting(found, "v_max", 10.0)
        support = low + torch.arange(atoms, dtype=torch.float32) * (high - low) / float(atoms - 1)
        distribution = Atoms(advantage, value, action.n, support)
        return _Network(
            nn.Sequential(trunk, distribution), "c51", "q_values", inside=(f"expectation of {atoms} atoms",)
        )
    if value is not None:
        inside = ("advantages and value joined",)
        return _Network(Dueling(trunk, value, advantage), "dueling_dqn", "q_values", inside=inside)
    return _Network(nn.Sequential(trunk, advantage), "dqn", "q_values")


def _trunk(found: RllibCheckpoint, tensors: Tensors, prefix: str, inputs: int) -> tuple[nn.Module, int]:
    """Build an encoder, an activation after each of its layers; gives it and the width of its latent."""
    widths = (inputs, *_hiddens(found, "fcnet_hiddens", (256, 256)))
    if len(widths) < 2:
        msg = "fcnet_hiddens is empty, expected the widths of at least one layer"
        raise CheckpointRefused(msg)
    kind = _activation(found, "fcnet_activation", "tanh")
    names = _names(f"{prefix}.net.mlp", len(widths) - 1, kind)
    return nn.Sequential(*stack(tensors, names, widths, kind)), widths[-1]


def _head(found: RllibCheckpoint, tensors: Tensors, prefix: str, inputs: int, outputs: int) -> nn.Module:
    """Build a head: hidden layers, if any, and a last layer without an activation."""
    widths = (inputs, *_hiddens(found, "head_fcnet_hiddens", ()))
    kind = _activation(found, "head_fcnet_activation", "relu")
    names = _names(f"{prefix}.net.mlp", len(widths), kind)
    layers = stack(tensors, names, widths, kind)
    return nn.Sequential(*layers, tensors.linear(names[-1], widths[-1], outputs))


def _names(prefix: str, count: int, activation: type[nn.Module]) -> list[str]:
    """Name a stack's layers: RLlib leaves a linear activation out, so that the layers are counted without it."""
    step = 1 if activation is nn.Identity else 2
    return [f"{prefix}.{step * index}" for index in range(count)]


def _log_std_clip(found: RllibCheckpoint, tensors: Tensors) -> float:
    if tensors.has(f"pi.{_CLIP}"):
        return float(tensors.take(f"pi.{_CLIP}", (1,))[0])
    return _setting(found, "log_std_clip_param", 20.0)


def _setting(found: RllibCheckpoint, name: str, default: float) -> float:
    return number_of(found.config[name], f"model_config: {name}") if name in found.config else default


def _hiddens(found: RllibCheckpoint, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    listed = found.config.get(name, default)
    if not isinstance(listed, (list, tuple)) or len(listed) > 64:
        msg = f"model_config: {name} is {kind_of(listed)}, expected the widths of layers"
        raise CheckpointRefused(msg)
    widths = tuple(number_of(width, f"model_config: {name}") for width in listed)
    if any(not 1 <= width <= 65536 or width != int(width) for width in widths):
        msg = f"model_config: {name} is {list(widths)}, expected whole numbers from 1 on"
        raise CheckpointRefused(msg)
    return tuple(int(width) for width in widths)


def _activation(found: RllibCheckpoint, name: str, default: str) -> type[nn.Module]:
    told = found.config.get(name, default)
    text = "linear" if told is None else told
    if isinstance(text, str):
        kind = ACTIVATIONS.get(text) or ACTIVATIONS.get(_ACTIVATIONS.get(text.lower(), ""))
        if kind is not None:
            return kind
    msg = f"model_config: {name} is {text[:40]!r}" if isinstance(text, str) else f"{name} is {kind_of(text)}"
    msg = f"{msg}, expected {one_of(text, [*_ACTIVATIONS, *ACTIVATIONS])}"
    raise CheckpointRefused(msg)


# RLlib's default modules by the name of their class.
MODULES: Mapping[str, tuple[str, Callable[[RllibCheckpoint, Tensors, int, ActionSpace], _Network]]] = {
    "DefaultPPOTorchRLModule": ("PPO", ppo),
    "PPOTorchRLModule": ("PPO", ppo),
    "DefaultDQNTorchRLModule": ("DQN", dqn),
    "DefaultSACTorchRLModule": ("SAC", sac),
}


def of_rllib(found: RllibCheckpoint) -> TrainedPolicy:
    """Build the policy of an RLlib checkpoint; raises CheckpointRefused for a module that is not in the table."""
    if found.module.name not in MODULES or not found.module.module.startswith("ray.rllib.algorithms."):
        msg = f"the module is a {found.module}, expected of RLlib's own {one_of(found.module.name, MODULES)}"
        raise CheckpointRefused(msg)
    for setting in _OTHERS:
        if found.config.get(setting):
            msg = f"model_config: {setting} is set, which makes another network than those known, expected it unset"
            raise CheckpointRefused(msg)
    observation, action = observations_of(found.observation), actions_of(found.action)
    algorithm, build = MODULES[found.module.name]
    tensors = Tensors(found.tensors, "module_state")
    network = build(found, tensors, len(observation.fields), action)
    module, inside = _normalised(found, network.module, len(observation.fields))
    return TrainedPolicy(
        module=module,
        observation=observation,
        action=action,
        head=network.head,
        squash=network.squash,
        family=network.family,
        inside=(*inside, *network.inside),
        source=Source(
            library="rllib", algorithm=algorithm, library_version=found.version, checkpoint_sha256=found.sha256
        ),
        set_aside=tensors.finish(),
    )


def _normalised(found: RllibCheckpoint, network: nn.Module, width: int) -> tuple[nn.Module, tuple[str, ...]]:
    filter_ = found.connectors.mean_std
    if filter_ is None:
        return network, ()
    if filter_.mean.shape != (width,):
        msg = f"the MeanStdFilter is of shape {list(filter_.mean.shape)}, expected {[width]}"
        raise CheckpointRefused(msg)
    first = Normalised(filter_.mean, filter_.std**2, 0.0, filter_.clip)
    return nn.Sequential(first, network), ("normalise as RLlib's MeanStdFilter, in float64",)
