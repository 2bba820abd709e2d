"""Run by a Python that has RLlib: saves checkpoints of its own modules, and its own answers to observations."""

# The library is only in the environment that runs this file.
# mypy: ignore-errors

import os
import sys
from pathlib import Path

import gymnasium
import numpy as np
import torch
from ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module import DefaultDQNTorchRLModule
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module import DefaultSACTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.utils.spaces.space_utils import unsquash_action

ROWS = 1000
SEEN = gymnasium.spaces.Box(-2.0, 2.0, (5,), np.float32)
FEW = gymnasium.spaces.Discrete(3)
REAL = gymnasium.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32))
DQN = {"double_q": True, "epsilon": [(0, 1.0), (10, 0.1)], "v_min": -5.0, "v_max": 7.0, "std_init": 0.1}


def module(kind, action, config):
    """Make a module with weights that are far from their start, so that nothing is nearly zero."""
    torch.manual_seed(7)
    made = kind(observation_space=SEEN, action_space=action, model_config=config)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.add_(torch.randn_like(weight) * (0.1 if "log_std" not in name else 0.5))
    return made


def answers(made, obs):
    """Ask the module as RLlib does without exploration, through its own distribution and its own scaling."""
    with torch.no_grad():
        given = made.forward_inference({Columns.OBS: torch.from_numpy(obs)})
        if Columns.ACTIONS in given:
            values = made.compute_q_values({Columns.OBS: torch.from_numpy(obs)})
            return {"action": given[Columns.ACTIONS].numpy(), "q_values": values["qf_preds"].numpy()}
        inputs = given[Columns.ACTION_DIST_INPUTS]
        chosen = made.get_inference_action_dist_cls().from_logits(inputs)
        action = chosen.to_deterministic().sample().numpy()
    if not isinstance(made.action_space, gymnasium.spaces.Box):
        return {"action": action, "logits": inputs.numpy()}
    told = {"scale": chosen._dist.scale.numpy(), "loc": chosen._dist.loc.numpy()}
    if isinstance(made, DefaultSACTorchRLModule):
        # RLlib's own deterministic action leaves the squash out (ray issue 51544); samples have it.
        told["greedy"] = np.stack([unsquash_action(row, made.action_space) for row in action])
        action = chosen._squash(chosen._dist.loc).numpy()
    return told | {"action": np.stack([unsquash_action(row, made.action_space) for row in action])}


CASES = {
    "ppo-discrete": (DefaultPPOTorchRLModule, FEW, DefaultModelConfig()),
    "ppo-own-layers": (DefaultPPOTorchRLModule, FEW, {"fcnet_hiddens": [16], "vf_share_layers": False}),
    "ppo-relu-heads": (
        DefaultPPOTorchRLModule,
        FEW,
        {"fcnet_hiddens": [16, 8], "fcnet_activation": "relu", "head_fcnet_hiddens": [12]},
    ),
    "ppo-linear": (DefaultPPOTorchRLModule, FEW, {"fcnet_hiddens": [16, 8], "fcnet_activation": "linear"}),
    "ppo-box": (DefaultPPOTorchRLModule, REAL, {"fcnet_hiddens": [32]}),
    "ppo-free-std": (DefaultPPOTorchRLModule, REAL, {"fcnet_hiddens": [32], "free_log_std": True}),
    "ppo-multi-discrete": (
        DefaultPPOTorchRLModule,
        gymnasium.spaces.MultiDiscrete([3, 2, 4]),
        {"fcnet_hiddens": [32], "fcnet_activation": "silu"},
    ),
    "dqn": (DefaultDQNTorchRLModule, FEW, DQN | {"dueling": False, "num_atoms": 1}),
    "dqn-dueling": (DefaultDQNTorchRLModule, FEW, DQN | {"dueling": True, "num_atoms": 1}),
    "dqn-atoms": (DefaultDQNTorchRLModule, FEW, DQN | {"dueling": False, "num_atoms": 21}),
    "dqn-dueling-atoms": (DefaultDQNTorchRLModule, FEW, DQN | {"dueling": True, "num_atoms": 21}),
    "sac-box": (DefaultSACTorchRLModule, REAL, {"twin_q": True, "fcnet_hiddens": [32, 32]}),
    "sac-discrete": (DefaultSACTorchRLModule, FEW, {"twin_q": True, "fcnet_hiddens": [32, 32]}),
}


def main(folder):
    """Write one folder a case, and ``answers.npz`` in each of them."""
    obs = np.random.default_rng(3).uniform(-2, 2, (ROWS, 5)).astype(np.float32)
    for name, (kind, action, config) in CASES.items():
        made = module(kind, action, config)
        made.save_to_path(str(folder / name))
        np.savez(folder / name / "answers.npz", obs=obs, **answers(made, obs))


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    main(Path(sys.argv[1]).resolve())
