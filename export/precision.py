"""A policy's torch module in float64: what it would answer if it rounded nowhere, whatever it casts on its way."""

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from export.executed import WithAction
from export.meaning import Arrays
from export.trained import TrainedPolicy


class Precise:
    """Answers as ``TrainedPolicy.answer`` does, from a copy of the module in float64; made when it is first asked.

    It knows nothing of the graph. Raises what torch does where the module cannot be run so.
    """

    def __init__(self, policy: TrainedPolicy) -> None:
        self._policy = policy
        self._network: WithAction | None = None

    def __repr__(self) -> str:
        return f"<Precise {self._policy.family} in float64>"

    def __call__(self, inputs: Arrays) -> Arrays:
        """Give outputs and the executed ``action``, each ``[N, ...]``: float64 where they are no whole numbers."""
        if self._network is None:
            self._network = copy.deepcopy(WithAction(self._policy.module, self._policy)).double()
        tensors = [_doubled(torch.from_numpy(np.ascontiguousarray(inputs[port.name]))) for port in self._policy.inputs]
        with torch.no_grad(), _Float64():
            found = self._network(*tensors)
        names = [port.name for port in (*self._policy.outputs, self._policy.action.port)]
        return {name: np.asarray(tensor.numpy()) for name, tensor in zip(names, found, strict=True)}


def _doubled(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


class _Float64(TorchFunctionMode):
    """Makes every cast to float32 one to float64: ``to(torch.float32)``, ``float()``, ``dtype=torch.float32``."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        del types
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(*map(_wider, args), **{key: _wider(value) for key, value in (kwargs or {}).items()})


def _wider(value: object) -> object:
    return torch.float64 if value is torch.float32 else value
