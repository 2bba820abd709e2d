"""The families of networks: one function each that builds the head, and one line each in the tables at the end."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.errors import CheckpointRefused
from export.networks import ACTIVATIONS, Rows, Tensors, entry, stack
from export.sb3 import Sb3Checkpoint, actions_of, layers, literal, observations_of
from export.spec import Discrete, Field, Fields, Source
from export.trained import TrainedPolicy


def tabular(table: NDArray[np.generic], sha256: str) -> TrainedPolicy:
    """Build a policy from a Q-table ``[S, A]``: its observation is one field, ``state``."""
    if table.ndim != 2 or 0 in table.shape or table.dtype.kind not in "iuf":
        msg = f"the table is {table.dtype}{list(table.shape)}, expected numbers [states, actions]"
        raise CheckpointRefused(msg)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = table.astype(np.float32)
    if not np.isfinite(rounded).all():
        msg = "the table holds values that are NaN, infinite or beyond float32"
        raise CheckpointRefused(msg)
    states, actions = table.shape
    return TrainedPolicy(
        module=Rows(torch.from_numpy(rounded)),
        observation=Fields(fields=(Field(name="state", low=0, high=states - 1),), dtype="int64"),
        action=Discrete(names=tuple(f"action_{index}" for index in range(actions))),
        family="tabular",
        inside=("row of the table; NaN for a state that it does not have",),
        source=Source(library="numpy", algorithm="Q-table", checkpoint_sha256=sha256),
        reference=lambda observations: np.asarray(table[observations[:, 0].astype(np.int64)]),
        reference_name=f"numpy {np.__version__}",
    )


def dqn(found: Sb3Checkpoint) -> TrainedPolicy:
    """Build SB3's DQN: the online network ``q_net``, never the target; head ``q_values``."""
    observation, action = observations_of(found), actions_of(found)
    first, width, inside = entry(observation)
    arch = layers(literal(found.kwargs.get("net_arch", [64, 64])), "")
    tensors = Tensors(found.tensors, "policy.pth")
    names = [f"q_net.q_net.{2 * index}" for index in range(len(arch) + 1)]
    modules = [*first, *stack(tensors, names, (width, *arch), _activation(found, "ReLU"))]
    modules.append(tensors.linear(names[-1], (width, *arch)[-1], action.n))
    tensors.set_aside("q_net_target.")
    return TrainedPolicy(
        module=nn.Sequential(*modules),
        observation=observation,
        action=action,
        head="q_values",
        family="dqn",
        inside=inside,
        source=_source(found, "DQN"),
        set_aside=tensors.finish(),
    )


def actor_critic(found: Sb3Checkpoint) -> TrainedPolicy:
    """Build SB3's PPO, A2C or TRPO with discrete actions: the actor alone; head ``logits``."""
    observation, action = observations_of(found), actions_of(found)
    first, width, inside = entry(observation)
    tensors = Tensors(found.tensors, "policy.pth")
    shared, actor = _actor_layers(found, shared=tensors.has("mlp_extractor.shared_net."))
    widths = (width, *shared, *actor)
    names = [f"mlp_extractor.shared_net.{2 * index}" for index in range(len(shared))]
    names += [f"mlp_extractor.policy_net.{2 * index}" for index in range(len(actor))]
    modules = [*first, *stack(tensors, names, widths, _activation(found, "Tanh"))]
    modules.append(tensors.linear("action_net", widths[-1], action.n))
    tensors.set_aside("mlp_extractor.value_net.")
    tensors.set_aside("value_net.")
    return TrainedPolicy(
        module=nn.Sequential(*modules),
        observation=observation,
        action=action,
        head="logits",
        family="categorical",
        inside=inside,
        source=_source(found, _actor_critic_algorithm(found)),
        set_aside=tensors.finish(),
    )


def _activation(found: Sb3Checkpoint, default: str) -> type[nn.Module]:
    text = found.kwargs.get("activation_fn")
    if text is None:
        return ACTIVATIONS[default]
    for name, kind in ACTIVATIONS.items():
        if text == f"<class 'torch.nn.modules.activation.{name}'>" or text == str(kind):
            return kind
    msg = f"the activation is {str(text)[:80]}, expected one of torch.nn's: {', '.join(ACTIVATIONS)}"
    raise CheckpointRefused(msg)


def _actor_layers(found: Sb3Checkpoint, *, shared: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the widths of the layers that actor and critic share (SB3 < 1.8) and of the actor's own."""
    arch = literal(found.kwargs.get("net_arch", {"pi": [64, 64]}))
    if isinstance(arch, dict):
        return (), layers(arch.get("pi", []), "['pi']")
    if isinstance(arch, (list, tuple)) and arch and isinstance(arch[-1], dict):
        return layers(arch[:-1], "[:-1]"), layers(arch[-1].get("pi", []), "[-1]['pi']")
    # A list of numbers alone was shared by both networks before SB3 1.8, and stands for two like networks since.
    return (layers(arch, ""), ()) if shared else ((), layers(arch, ""))


def _actor_critic_algorithm(found: Sb3Checkpoint) -> str:
    """Three algorithms use this policy; the settings that they saved tell them apart."""
    if "clip_range" in found.texts:
        return "PPO"
    return "TRPO" if "cg_max_steps" in found.texts else "A2C"


def _source(found: Sb3Checkpoint, algorithm: str) -> Source:
    return Source(
        library="stable-baselines3",
        algorithm=algorithm,
        library_version=found.version,
        checkpoint_sha256=found.sha256,
    )


# SB3's policies by the module and the class that the zip names.
SB3_POLICIES: Mapping[tuple[str, str], Callable[[Sb3Checkpoint], TrainedPolicy]] = {
    ("stable_baselines3.dqn.policies", "DQNPolicy"): dqn,
    ("stable_baselines3.common.policies", "ActorCriticPolicy"): actor_critic,
}


def of_sb3(found: Sb3Checkpoint) -> TrainedPolicy:
    """Build the policy of an SB3 zip; raises CheckpointRefused for a family that is not in the table."""
    key = (found.policy_module, found.policy_class)
    if key not in SB3_POLICIES:
        known = ", ".join(f"{module}.{name}" for module, name in SB3_POLICIES)
        msg = f"the policy class is {'.'.join(key)}, expected one of {known}"
        raise CheckpointRefused(msg)
    return SB3_POLICIES[key](found)
