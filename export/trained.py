"""A trained policy in memory, whatever it was read from: what every source gives and the writer takes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from export.executed import WithAction
from export.meaning import About, Answers, Arrays, Meaning

__all__ = ["About", "Answers", "Arrays", "TrainedPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedPolicy(Meaning):
    """A network with the meaning of its inputs and outputs.

    ``module`` takes the tensors of ``inputs`` in their order, each ``[N, *shape]`` (observation, mask, memory), and
    gives those of ``outputs`` in theirs (head, spread, memory): one tensor, or a tuple where there are several. The
    executed action is worked out of the head by the writer, the same way for all. ``images`` names the inputs that the
    source takes for images of bytes, with channels; None where it does not say.
    """

    module: nn.Module
    images: tuple[str, ...] | None = None

    def answer(self, inputs: Arrays) -> Arrays:
        """Give the network's outputs and the executed ``action``, each ``[N, ...]``."""
        tensors = [torch.from_numpy(np.ascontiguousarray(inputs[port.name])) for port in self.inputs]
        with torch.no_grad():
            found = WithAction(self.module, self)(*tensors)
        names = [port.name for port in (*self.outputs, self.action.port)]
        return {name: np.asarray(tensor.numpy()) for name, tensor in zip(names, found, strict=True)}
