"""Models with discrete actions whose actions really differ from observation to observation."""

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from tests.export.sb3.models import seen_by


def balanced(model: BaseAlgorithm, count: int = 200) -> np.ndarray | dict[str, np.ndarray]:
    """Shift the biases of the model's last layer so that no action is best everywhere; give the observations used."""
    seen = seen_by(model, count)
    last = [module for name, module in model.policy.named_modules() if _is_head(name) and isinstance(module, nn.Linear)]
    outputs: list[torch.Tensor] = []
    hook = last[-1].register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    model.predict(seen, deterministic=True)
    hook.remove()
    with torch.no_grad():
        last[-1].bias.sub_(outputs[0].mean(dim=0))
    return seen


def _is_head(name: str) -> bool:
    return name.startswith(("q_net.q_net.", "quantile_net.quantile_net.", "action_net"))
