"""A trained policy in memory, whatever it was read from: what every source gives and the writer takes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.spec import ActionSpace, Evaluation, Head, ObservationSpace, Source

_UNKNOWN = Source(library="torch", algorithm="")
Answers = Callable[[NDArray[np.generic]], NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class TrainedPolicy:
    """A network with the meaning of its inputs and outputs.

    ``module`` maps ``obs[N, *observation.shape]`` to the head ``[N, A]`` in float32.
    ``reference``, where given, is the source's own answer to the same question, to be compared with;
    else the module itself is. ``set_aside`` names the tensors of the checkpoint that no action depends on.
    """

    module: nn.Module
    observation: ObservationSpace
    action: ActionSpace
    head: Head = "q_values"
    family: str = "dqn"
    inside: tuple[str, ...] = ()
    source: Source = _UNKNOWN
    reference: Answers | None = None
    reference_name: str = f"torch {torch.__version__}"
    set_aside: tuple[str, ...] = ()

    def answer(self, observations: NDArray[np.generic]) -> NDArray[np.generic]:
        """Give the source's head for ``observations[N, ...]`` as ``[N, A]``."""
        if self.reference is not None:
            return self.reference(observations)
        with torch.no_grad():
            head: torch.Tensor = self.module(torch.from_numpy(observations))
        return np.asarray(head.numpy())


@dataclass(frozen=True, slots=True)
class About:
    """What people say about a policy: it cannot be read from the network."""

    name: str
    version: str
    author: str = ""
    license: str = ""
    description: str = ""
    date: str = ""
    notes: str = ""
    control_period_s: float | None = None
    evaluation: Evaluation | None = None
