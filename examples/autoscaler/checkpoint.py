"""Reads the Q-network out of a Stable-Baselines3 DQN checkpoint."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from examples.autoscaler.greedy import Network


class CheckpointError(Exception):
    """A checkpoint could not be read; the message says which and why."""


def as_network(weights: Mapping[str, torch.Tensor], *, prefix: str = "") -> Network:
    """The layers `{prefix}q_net.N.weight` and `.bias` in NumPy, in order."""
    start = f"{prefix}q_net."
    places = sorted(
        int(name.removeprefix(start).split(".")[0])
        for name in weights
        if name.startswith(start) and name.endswith(".bias")
    )
    return Network(
        tuple((weights[f"{start}{place}.weight"].numpy(), weights[f"{start}{place}.bias"].numpy()) for place in places)
    )


def read_network(path: Path) -> Network:
    """The trained network of a checkpoint; read with `weights_only`, so nothing in the file is run.

    Raises `CheckpointError` for a file that is missing or is something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read("policy.pth")
        return as_network(torch.load(io.BytesIO(content), weights_only=True), prefix="q_net.")
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        message = f"cannot read the checkpoint {path}: {error}"
        raise CheckpointError(message) from error
