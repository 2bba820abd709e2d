"""What training adds to the network on its way to the checkpoint changes no value."""

from pathlib import Path

import numpy as np
import pytest
import torch

from examples.autoscaler.checkpoint import as_network, read_network
from examples.autoscaler.dynamics import ACTIONS, FIELDS
from examples.autoscaler.environment import AutoscalerEnv
from examples.autoscaler.evaluate import CHECKPOINT
from examples.autoscaler.train import Shaped, folded, save, standardised


def parameters() -> dict[str, torch.Tensor]:
    """A random Q-network of the trained shape, under Stable-Baselines3's names."""
    rng = np.random.default_rng(1)
    sizes = {"0": (64, len(FIELDS)), "2": (64, 64), "4": (len(ACTIONS), 64)}
    weights = {f"q_net.{n}.weight": rng.normal(0, 0.2, size) for n, size in sizes.items()}
    biases = {f"q_net.{n}.bias": rng.normal(0, 0.2, size[0]) for n, size in sizes.items()}
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in {**weights, **biases}.items()}


def test_folding_the_scaling_in_changes_no_value() -> None:
    """The folded network on raw observations gives what the trained one gives on standardised ones."""
    raw = np.load(CHECKPOINT.parent / "observations.npz")["observations"]
    trained = parameters()
    expected = as_network(trained).q_values(standardised(raw))

    assert np.abs(as_network(folded(trained)).q_values(raw) - expected).max() < 1e-4


def test_a_saved_checkpoint_reads_back(tmp_path: Path) -> None:
    """What SB3 writes is what the NumPy reader finds."""
    weights = parameters()
    save(weights, tmp_path / "checkpoint.zip")
    read = read_network(tmp_path / "checkpoint.zip")

    assert len(read.layers) == 3
    assert all(np.array_equal(weight, weights[f"q_net.{2 * n}.weight"]) for n, (weight, _) in enumerate(read.layers))


def test_shaping_leaves_calm_minutes_their_cost() -> None:
    """Without a breach the shaped reward is the cost less that of the arrivals at 72 %, scaled."""
    inner = AutoscalerEnv()
    env = Shaped(inner)
    env.reset(seed=3)
    _, reward, _, _, info = env.step(np.int64(4))
    fair = 0.02 * info["arrivals"] / 60 / 50 / 0.72

    assert not info["breached"]
    assert reward == pytest.approx(Shaped.REWARD_SCALE * (fair - 0.02 * inner.state.replicas))
