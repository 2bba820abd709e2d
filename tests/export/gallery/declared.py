"""Exhibits of files that hold tensors alone, read with a declaration, beside the torch modules that they are of."""

import copy
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from export.archive import sha256_of
from export.declaration import parsed
from export.declared import cleanrl, state_dict
from export.meaning import Arrays
from export.spec import MASK
from export.tabular import tabular
from export.tensorfile import tensor_file
from export.trained import TrainedPolicy
from tests.export.cleanrl import (
    ACTIONS,
    HIGH,
    LOW,
    OBS,
    Actor,
    Agent,
    ContinuousAgent,
    Critic,
    LstmAgent,
    QNetwork,
    SoftActor,
    grown,
)
from tests.export.cleanrl import rows as layers
from tests.export.gallery.exhibit import Exhibit, Native, exhibit, forgetful, numbers
from tests.export.test_declared_cleanrl import BOX, CHOICE, FRAMES, GAUSSIAN, PPO, ROW, SAC, TD3, Table, saved

_QUANTILES = 10


def dqn(seed: int = 0) -> TrainedPolicy:
    """Read CleanRL's dqn."""
    return _cleanrl(_q(seed).state_dict(), {"hidden": [120, 84]}, CHOICE)


def _q(seed: int = 0) -> QNetwork:
    torch.manual_seed(seed)
    return grown(QNetwork(layers((OBS, 120, 84, ACTIONS), nn.ReLU)))


def double() -> Exhibit:
    """Read double DQN: the network of a DQN, beside the target network that its training needed."""
    torch.manual_seed(0)
    network = grown(layers((OBS, 32, ACTIONS), nn.ReLU))
    target = layers((OBS, 32, ACTIONS), nn.ReLU)
    tensors = {f"online.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"target.{name}": tensor for name, tensor in target.state_dict().items()}
    told: Table = {"hidden": [32], "layers": ["online.0", "online.2"], "ignore": ["target."]}
    return exhibit(_plain(saved(tensors), told, CHOICE), forgetful(best_of(network)))


class Dueling(nn.Module):
    """A trunk, a state's value and its actions' advantages."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.value, self.advantage = nn.Linear(OBS, 24), nn.Linear(24, 1), nn.Linear(24, ACTIONS)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.trunk(obs))
        advantage = self.advantage(features)
        found: torch.Tensor = self.value(features) + advantage - advantage.mean(dim=1, keepdim=True)
        return found


def dueling() -> Exhibit:
    """Read a dueling network."""
    torch.manual_seed(0)
    module = grown(Dueling())
    policy = _safe(module, {"kind": "dueling", "hidden": [24]}, CHOICE)
    return exhibit(policy, forgetful(best_of(module)))


def c51() -> Exhibit:
    """Read CleanRL's c51."""
    torch.manual_seed(0)
    module = grown(QNetwork(layers((OBS, 120, 84, ACTIONS * 51), nn.ReLU), torch.linspace(-10, 10, 51)), 3.0)
    told: Table = {"kind": "c51", "hidden": [120, 84], "n_atoms": 51, "v_min": -10, "v_max": 10, "key": "model_weights"}
    value = {"model_weights": module.state_dict(), "args": {"exp_name": "c51"}}
    return exhibit(_cleanrl(value, told, CHOICE), forgetful(best_of(module)))


def quantiles() -> Exhibit:
    """Read a network of quantiles."""
    torch.manual_seed(0)
    module = grown(layers((OBS, 32, ACTIONS * _QUANTILES), nn.ReLU))
    told: Table = {"kind": "quantile", "hidden": [32], "n_quantiles": _QUANTILES, "order": "actions_first"}

    def native(inputs: Arrays) -> NDArray[np.generic]:
        values = module(torch.from_numpy(numbers(inputs["obs"]))).view(-1, ACTIONS, _QUANTILES).mean(2)
        return np.asarray(values.argmax(1).numpy())

    return exhibit(_safe(module, told, CHOICE), forgetful(native))


def ppo() -> Exhibit:
    """Read CleanRL's ppo."""
    torch.manual_seed(0)
    module = grown(Agent())
    return exhibit(_cleanrl(module.state_dict(), PPO | {"head": "logits"}, CHOICE), forgetful(best_of(module.actor)))


def reinforce() -> Exhibit:
    """Read REINFORCE: one network that gives logits."""
    torch.manual_seed(0)
    module = grown(layers((OBS, 32, ACTIONS), nn.Tanh))
    told: Table = {"hidden": [32], "activation": "tanh", "head": "logits"}
    return exhibit(_plain(saved(module.state_dict()), told, CHOICE), forgetful(best_of(module)))


def masked() -> Exhibit:
    """Read logits of which only some may be chosen."""
    torch.manual_seed(1)
    module = grown(layers((OBS, 32, ACTIONS), nn.Tanh))
    told: Table = {"hidden": [32], "activation": "tanh", "head": "logits"}

    def native(inputs: Arrays) -> NDArray[np.generic]:
        logits = module(torch.from_numpy(numbers(inputs["obs"]))).detach().numpy()
        return np.asarray(np.where(inputs[MASK], logits, -np.inf).argmax(axis=1))

    return exhibit(_plain(saved(module.state_dict()), told, CHOICE, mask=True), forgetful(native))


def continuous() -> Exhibit:
    """Read CleanRL's ppo_continuous_action."""
    torch.manual_seed(0)
    module = grown(ContinuousAgent())
    return exhibit(_cleanrl(module.state_dict(), GAUSSIAN, BOX), forgetful(_clipped(module.actor_mean)))


def sac() -> Exhibit:
    """Read CleanRL's sac_continuous_action, which saves the actor before its critics."""
    torch.manual_seed(0)
    module = grown(SoftActor(), 1.5)

    def native(inputs: Arrays) -> NDArray[np.generic]:
        mean = module.normal(torch.from_numpy(numbers(inputs["obs"]))).mean
        return np.asarray((torch.tanh(mean) * module.action_scale + module.action_bias).detach().numpy())

    value = (module.state_dict(), Critic().state_dict(), Critic().state_dict())
    return exhibit(_cleanrl(value, SAC, BOX), forgetful(native))


def deterministic(critics: int) -> Exhibit:
    """Read CleanRL's td3 or ddpg, which differ in how many critics stand behind the actor."""
    torch.manual_seed(0)
    module = grown(Actor())

    def native(inputs: Arrays) -> NDArray[np.generic]:
        return np.asarray(module(torch.from_numpy(numbers(inputs["obs"]))).detach().numpy())

    value = (module.state_dict(), *(Critic().state_dict() for _ in range(critics)))
    return exhibit(_cleanrl(value, TD3, BOX), forgetful(native))


def lstm() -> Exhibit:
    """Read CleanRL's ppo_atari_lstm."""
    torch.manual_seed(0)
    module = grown(LstmAgent())
    told: Table = {"kind": "lstm", "convolutions": "nature", "hidden": [512], "units": 128, "head": "logits"}

    def begin(count: int) -> Native:
        state = (torch.zeros(1, count, 128), torch.zeros(1, count, 128))

        def native(inputs: Arrays) -> NDArray[np.generic]:
            nonlocal state
            found, state = module.step(torch.from_numpy(np.ascontiguousarray(inputs["obs"])), state)
            return np.asarray(found.logits.argmax(1).numpy())

        return native

    observation = FRAMES | {"shape": [1, 84, 84]}
    return exhibit(_cleanrl(module.state_dict(), told | {"ignore": ["critic."]}, CHOICE, observation), begin)


def q_table() -> Exhibit:
    """Read a Q-table."""
    values = np.random.default_rng(0).normal(size=(16, 4))

    def native(inputs: Arrays) -> NDArray[np.generic]:
        return np.asarray(values[inputs["obs"][:, 0].astype(np.int64)].argmax(axis=1))

    return exhibit(tabular(values, sha256_of(values.tobytes())), forgetful(native), "numpy")


def best_of(module: nn.Module) -> Native:
    """Take the best of a module's values or logits."""

    def native(inputs: Arrays) -> NDArray[np.generic]:
        return np.asarray(module(torch.from_numpy(numbers(inputs["obs"]))).argmax(1).numpy())

    return native


def _clipped(module: nn.Module) -> Native:
    def native(inputs: Arrays) -> NDArray[np.generic]:
        mean = module(torch.from_numpy(numbers(inputs["obs"])))
        return np.asarray(mean.clamp(torch.tensor(LOW), torch.tensor(HIGH)).detach().numpy())

    return native


def _cleanrl(value: object, network: Table, action: Table, observation: Table = ROW) -> TrainedPolicy:
    table: Table = {"observation": observation, "action": action, "network": network}
    return cleanrl(saved(value), "agent.cleanrl_model", parsed(table, "agent.toml"))


def _plain(data: bytes, network: Table, action: Table, *, mask: bool = False) -> TrainedPolicy:
    table: Table = {"observation": ROW, "action": action, "network": network, "mask": mask}
    return state_dict(data, "agent.pt", parsed(table, "agent.toml"))


def _safe(module: nn.Module, network: Table, action: Table) -> TrainedPolicy:
    table: Table = {"observation": ROW, "action": action, "network": network}
    data = save(copy.deepcopy(dict(module.state_dict())))
    return tensor_file(data, "agent.safetensors", parsed(table, "agent.toml"))


TABLE: Mapping[str, Callable[[], Exhibit]] = {
    "tabular Q (npy)": q_table,
    "DQN (cleanrl)": lambda: exhibit(dqn(), forgetful(best_of(_q()))),
    "double DQN (state dict)": double,
    "dueling (safetensors)": dueling,
    "C51 (cleanrl)": c51,
    "QR-DQN (safetensors)": quantiles,
    "PPO (cleanrl)": ppo,
    "REINFORCE (state dict)": reinforce,
    "masked (state dict)": masked,
    "Gaussian PPO (cleanrl)": continuous,
    "SAC (cleanrl)": sac,
    "TD3 (cleanrl)": partial(deterministic, 2),
    "DDPG (cleanrl)": partial(deterministic, 1),
    "recurrent, PPO with LSTM (cleanrl)": lstm,
}
