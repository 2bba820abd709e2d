"""A trained policy in memory, whatever it was read from: what every source gives and the writer takes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from export.errors import CheckpointRefused, ExportError
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
        """Give the network's outputs and the executed ``action``, each ``[N, ...]``.

        What is given stays as it is: the network gets copies, and no gradients, whatever its parameters ask for.
        Raises CheckpointRefused where the network cannot be run.
        """
        tensors = [torch.from_numpy(np.array(inputs[port.name], order="C")) for port in self.inputs]
        try:
            with torch.no_grad():
                found = WithAction(self.module, self)(*tensors)
        except ExportError:
            raise
        except Exception as error:  # somebody's module may raise anything
            shapes = ", ".join(
                f"{port.name} {list(tensor.shape)}" for port, tensor in zip(self.inputs, tensors, strict=True)
            )
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            msg = f"the network cannot be run on {shapes}: {reason}"
            raise CheckpointRefused(msg) from error
        names = [port.name for port in (*self.outputs, self.action.port)]
        return {name: np.asarray(tensor.detach().numpy()) for name, tensor in zip(names, found, strict=True)}
