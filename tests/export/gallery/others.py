"""Exhibits of RLlib's folders, TorchScript, torch modules in memory, ensembles and ONNX files of other exporters."""

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.adopt.adoption import adopt
from export.adopt.reading import Said
from export.ensemble import ensemble
from export.meaning import Arrays
from export.module import of_module
from export.rllib import of_rllib, read_rllib
from export.spec import MASK
from export.torchscript import torch_file
from export.trained import TrainedPolicy
from tests.export.adopt.files import simple
from tests.export.adopt.test_adoption import original
from tests.export.adopt.test_dialects import branches, godot
from tests.export.cleanrl import grown
from tests.export.cleanrl import rows as layers
from tests.export.gallery import declared
from tests.export.gallery.exhibit import Begin, Exhibit, Native, adopted, exhibit, forgetful, numbers
from tests.export.rllib.folders import DQN, PPO, SAC, clip_of, discrete, mlp, multi_discrete, ppo_tensors, write_module
from tests.export.rllib.test_rllib import REAL, Real, run
from tests.export.test_executed import BOX, MULTI, SPACE, Gaussian, Masked
from tests.export.test_module import CHOICE, Table, Twofold
from tests.export.test_torchscript import Stateful, scripted
from tests.export.test_torchscript import declared as robot

_MIDDLE, _REACH = np.array([-0.5, 5.0]), np.array([1.5, 5.0])
_FRACTIONS = 16


def of_folder(kind: str, action: object, tensors: Mapping[str, Any], config: object, native: Native) -> Exhibit:
    """Read a module's folder, beside its layers worked out in NumPy: its library is not installed here."""
    with tempfile.TemporaryDirectory() as folder:
        policy = of_rllib(read_rllib(write_module(Path(folder) / "m", kind, action, tensors, config)))
    return exhibit(policy, forgetful(native))


def rllib_ppo(action: object, outputs: int, choose: Callable[[Real], NDArray[np.generic]]) -> Exhibit:
    """Read RLlib's PPO."""
    tensors = ppo_tensors(outputs)

    def native(inputs: Arrays) -> NDArray[np.generic]:
        return choose(run(tensors, "pi.", run(tensors, "encoder.encoder.", numbers(inputs["obs"])), last=True))

    return of_folder(PPO, action, tensors, None, native)


def rllib_sac() -> Exhibit:
    """Read RLlib's SAC."""
    tensors = mlp("pi_encoder", 5, 8) | mlp("pi", 8, 4) | clip_of("pi")

    def native(inputs: Arrays) -> NDArray[np.generic]:
        mean = run(tensors, "pi.", run(tensors, "pi_encoder.", numbers(inputs["obs"])), last=True)[:, :2]
        return np.asarray(_MIDDLE + _REACH * np.tanh(mean))

    return of_folder(SAC, REAL, tensors, None, native)


def rllib_dqn() -> Exhibit:
    """Read RLlib's DQN: dueling, and a distribution over atoms."""
    tensors = mlp("encoder", 5, 8) | mlp("af", 8, 21) | mlp("vf", 8, 1) | clip_of("af")
    config = {"fcnet_hiddens": [8], "dueling": True, "num_atoms": 7, "v_min": -1.0, "v_max": 2.0}

    def native(inputs: Arrays) -> NDArray[np.generic]:
        latent = run(tensors, "encoder.", numbers(inputs["obs"]))
        advantage = run(tensors, "af.", latent, last=True).reshape(-1, 3, 7)
        logits = advantage - advantage.mean(axis=2, keepdims=True) + run(tensors, "vf.", latent, last=True)[:, :, None]
        shares = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
        return np.asarray((shares * np.linspace(-1, 2, 7)).sum(axis=2).argmax(axis=1))

    return of_folder(DQN, discrete(3), tensors, config, native)


def _best(logits: Real) -> NDArray[np.generic]:
    return np.asarray(logits.argmax(axis=1))


def _best_of_each(logits: Real) -> NDArray[np.generic]:
    return np.stack([logits[:, :3].argmax(axis=1), logits[:, 3:].argmax(axis=1)], axis=1)


def _scaled(head: Real) -> NDArray[np.generic]:
    return np.clip(_MIDDLE + _REACH * head[:, :2], [-2, 0], [1, 10])


def script() -> Exhibit:
    """Read TorchScript that keeps nothing."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ELU(), nn.Linear(8, 2)).eval()
    policy = torch_file(scripted(module), "robot.pt", robot(4, 2, unscale={"scale": 0.25, "offset": [1, -1]}))

    def native(inputs: Arrays) -> NDArray[np.generic]:
        with torch.no_grad():
            return np.asarray((torch.tensor([1.0, -1.0]) + 0.25 * module(torch.from_numpy(inputs["obs"]))).numpy())

    return exhibit(policy, forgetful(native), "TorchScript")


def stateful_script() -> Exhibit:
    """Read TorchScript that keeps its state in buffers, beside the module that really does."""
    torch.manual_seed(0)
    module = Stateful()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.6)
    return exhibit(torch_file(scripted(module), "robot.pt", robot(4, 2)), keeping(module), "TorchScript")


def keeping(module: nn.Module) -> Begin:
    """Begin episodes of a module that remembers by itself: one copy for each session."""

    def begin(count: int) -> Native:
        copies = [copy.deepcopy(module) for _ in range(count)]

        def native(inputs: Arrays) -> NDArray[np.generic]:
            rows = [torch.from_numpy(numbers(row[None])) for row in inputs["obs"]]
            with torch.no_grad():
                return np.concatenate([one(row).numpy() for one, row in zip(copies, rows, strict=True)])

        return native

    return begin


class Fractions(nn.Module):
    """An implicit quantile network (Dabney et al., 2018), asked for the middles of so many equal parts.

    Training draws its fractions at random; what is served has to give one answer.
    """

    fractions: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features, self.cosines, self.values = nn.Linear(4, 16), nn.Linear(8, 16), nn.Linear(16, 3)
        self.register_buffer("fractions", (torch.arange(_FRACTIONS) + 0.5) / _FRACTIONS)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        angles = torch.pi * torch.arange(8, dtype=torch.float32) * self.fractions.unsqueeze(1)
        joined = torch.relu(self.features(obs)).unsqueeze(1) * torch.relu(self.cosines(torch.cos(angles)))
        values: torch.Tensor = self.values(joined).mean(dim=1)
        return values


def implicit() -> Exhibit:
    """Take an implicit quantile network as a module in memory."""
    torch.manual_seed(0)
    module = grown(Fractions(), 3.0)
    return exhibit(of_module(module, CHOICE), forgetful(declared.best_of(module)))


def module_q() -> Exhibit:
    """Take a Q-network as a module in memory."""
    torch.manual_seed(0)
    module = grown(layers((4, 24, 3), nn.ReLU))
    return exhibit(of_module(module, CHOICE), forgetful(declared.best_of(module)))


def module_gaussian() -> Exhibit:
    """Take a module that gives a mean and the logarithm of a standard deviation."""
    torch.manual_seed(0)
    module = grown(Twofold(), 3.0)
    table: Table = {
        "observation": {"shape": [4]},
        "action": {"low": [-1, -2], "high": [1, 2]},
        "network": {"kind": "module", "head": "gaussian", "std": {"output": 1}},
    }

    def native(inputs: Arrays) -> NDArray[np.generic]:
        mean = module(torch.from_numpy(numbers(inputs["obs"])))[0].detach().numpy()
        return np.asarray(np.clip(mean, [-1, -2], [1, 2]))

    return exhibit(of_module(module, table), forgetful(native))


def several(members: Sequence[TrainedPolicy], choose: Callable[[list[Arrays]], NDArray[np.generic]]) -> Exhibit:
    """Join policies, beside the mean of their answers worked out in NumPy."""

    def native(inputs: Arrays) -> NDArray[np.generic]:
        return choose([member.answer(inputs) for member in members])

    return exhibit(ensemble(members), forgetful(native))


def shaken(module: nn.Module, seed: int) -> nn.Module:
    """Give the module with weights of its own."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.7 * torch.randn(parameter.shape, generator=generator)
    return module


def q_ensemble() -> Exhibit:
    """Join five DQNs."""

    def choose(answers: list[Arrays]) -> NDArray[np.generic]:
        values = np.stack([numbers(one["q_values"]) for one in answers])
        return np.asarray(values.mean(axis=0).argmax(axis=1))

    return several([declared.dqn(seed) for seed in range(5)], choose)


def logits_ensemble() -> Exhibit:
    """Join three policies of two masked choices."""

    def choose(answers: list[Arrays]) -> NDArray[np.generic]:
        parts = []
        for first, last in ((0, 2), (2, 5)):
            logits = np.stack([one["logits"][:, first:last].astype(np.float64) for one in answers])
            shares = np.exp(logits - logits.max(axis=2, keepdims=True))
            parts.append((shares / shares.sum(axis=2, keepdims=True)).mean(axis=0).argmax(axis=1))
        return np.stack(parts, axis=1)

    members = [
        TrainedPolicy(module=shaken(Masked(5), seed), observation=SPACE, action=MULTI, head="logits", mask=True)
        for seed in range(3)
    ]
    return several(members, choose)


def gaussian_ensemble() -> Exhibit:
    """Join three Gaussian policies."""

    def choose(answers: list[Arrays]) -> NDArray[np.generic]:
        means = np.stack([numbers(one["mean"]) for one in answers])
        return np.asarray(np.clip(means.mean(axis=0), BOX.low, BOX.high))

    members = [
        TrainedPolicy(module=shaken(Gaussian(), seed), observation=SPACE, action=BOX, head="gaussian")
        for seed in range(3)
    ]
    return several(members, choose)


def unity() -> Exhibit:
    """Adopt two masked branches of Unity ML-Agents."""
    data = branches((3, 2), log_probabilities=True).data()
    session = original(data)

    def native(inputs: Arrays) -> NDArray[np.generic]:
        given = {"obs_0": inputs["obs"], "action_masks": inputs[MASK].astype(np.float32)}
        return _best_of_each(session.run(["discrete_actions"], given)[0])

    return adopted(adopt(data, Said()), forgetful(native))


def isaac() -> Exhibit:
    """Adopt the means of rsl_rl, whose batch is fixed to one."""
    data = simple("obs", "actions", batch=1).data()
    session = original(data)

    def native(inputs: Arrays) -> NDArray[np.generic]:
        return np.concatenate([session.run(["actions"], {"obs": row[None]})[0] for row in inputs["obs"]])

    return adopted(adopt(data, Said()), forgetful(native))


def godot_recurrent() -> Exhibit:
    """Adopt a file of Godot RL that uses its state."""
    data = godot(used=True, k=4).data()
    session = original(data)

    def begin(count: int) -> Native:
        state = np.zeros((count, 4), np.float32)

        def native(inputs: Arrays) -> NDArray[np.generic]:
            nonlocal state
            output, state = session.run(["output", "state_outs"], {"obs": inputs["obs"], "state_ins": state})
            return np.asarray(output.argmax(axis=1))

        return native

    return adopted(adopt(data, Said(head="logits")), begin)


TABLE: Mapping[str, Callable[[], Exhibit]] = {
    "PPO (rllib)": partial(rllib_ppo, discrete(3), 3, _best),
    "MultiDiscrete, PPO (rllib)": partial(rllib_ppo, multi_discrete(3, 2), 5, _best_of_each),
    "Gaussian PPO (rllib)": partial(rllib_ppo, REAL, 4, _scaled),
    "C51, dueling DQN (rllib)": rllib_dqn,
    "SAC (rllib)": rllib_sac,
    "deterministic (torchscript)": script,
    "recurrent, state in buffers (torchscript)": stateful_script,
    "DQN (torch module)": module_q,
    "IQN, fixed fractions (torch module)": implicit,
    "Gaussian, mean and std (torch module)": module_gaussian,
    "ensemble of DQN (cleanrl)": q_ensemble,
    "ensemble, masked MultiDiscrete (torch)": logits_ensemble,
    "ensemble, Gaussian (torch)": gaussian_ensemble,
    "masked, ML-Agents (onnx)": unity,
    "deterministic, rsl_rl (onnx)": isaac,
    "recurrent, Godot RL (onnx)": godot_recurrent,
}
