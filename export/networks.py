"""The networks that checkpoints hold, as torch modules: built from tensors that are each taken once, by name."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.errors import TensorsUnaccounted
from export.spec import Array, Fields

# By the name of the class in torch.nn, with its defaults and without weights of its own.
ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        nn.ELU,
        nn.GELU,
        nn.Hardsigmoid,
        nn.Hardswish,
        nn.Hardtanh,
        nn.Identity,
        nn.LeakyReLU,
        nn.LogSigmoid,
        nn.Mish,
        nn.ReLU,
        nn.ReLU6,
        nn.SELU,
        nn.SiLU,
        nn.Sigmoid,
        nn.Softplus,
        nn.Softsign,
        nn.Tanh,
        nn.Tanhshrink,
    )
}


class Tensors:
    """The tensors of a checkpoint, each to be taken once or set aside; at the end none may be left over."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], what: str) -> None:
        self._left = dict(tensors)
        self._what = what
        self._aside: list[str] = []

    def __repr__(self) -> str:
        return f"<Tensors {self._what}: {len(self._left)} not taken yet, {len(self._aside)} set aside>"

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Take the tensor ``name``; raises TensorsUnaccounted where it is missing or has another shape or dtype."""
        if name not in self._left:
            msg = f"{self._what} has no tensor {name!r}, expected one of shape {list(shape)}"
            raise TensorsUnaccounted(msg)
        tensor = self._left.pop(name)
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            kind = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
            msg = f"{self._what}: the tensor {name!r} is {kind}, expected float32{list(shape)}"
            raise TensorsUnaccounted(msg)
        return tensor

    def linear(self, name: str, inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
        """Take ``name.weight`` and ``name.bias`` as a linear layer; without ``bias`` the weight alone."""
        # On the meta device nothing is allocated, and no random weights are drawn that would be thrown away.
        layer = nn.Linear(inputs, outputs, bias=bias, device="meta")
        layer.weight = nn.Parameter(self.take(f"{name}.weight", (outputs, inputs)), requires_grad=False)
        if bias:
            layer.bias = nn.Parameter(self.take(f"{name}.bias", (outputs,)), requires_grad=False)
        return layer

    def conv(self, name: str, inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
        """Take ``name.weight`` and ``name.bias`` as a convolution without padding."""
        layer = nn.Conv2d(inputs, outputs, kernel, stride, device="meta")
        layer.weight = nn.Parameter(self.take(f"{name}.weight", (outputs, inputs, kernel, kernel)), requires_grad=False)
        layer.bias = nn.Parameter(self.take(f"{name}.bias", (outputs,)), requires_grad=False)
        return layer

    def layers(self) -> tuple[str, ...]:
        """Name the layers that have a weight and were not taken yet, in the order of the file."""
        return tuple(name.removesuffix(".weight") for name in self._left if name.endswith(".weight"))

    def shape(self, name: str) -> tuple[int, ...]:
        """Give the shape of a tensor that was not taken yet; empty where there is none."""
        return tuple(self._left[name].shape) if name in self._left else ()

    def ending(self, suffix: str) -> tuple[str, ...]:
        """Name what tensors that were not taken yet belong to, those whose names end so, in the order of the file."""
        return tuple(name.removesuffix(suffix) for name in self._left if name.endswith(suffix))

    def apart(self, owners: Sequence[str]) -> "Tensors":
        """Take the tensors of these layers out, to be taken one by one from what is given."""
        found = {name: tensor for name, tensor in self._left.items() if name.rpartition(".")[0] in owners}
        for name in found:
            del self._left[name]
        return Tensors(found, self._what)

    def has(self, prefix: str) -> bool:
        """Say whether a tensor whose name starts with ``prefix`` is left."""
        return any(name.startswith(prefix) for name in self._left)

    def set_aside(self, prefix: str) -> None:
        """Set all tensors aside whose names start with ``prefix``: no action depends on them."""
        names = [name for name in self._left if name.startswith(prefix)]
        self._aside.extend(names)
        for name in names:
            del self._left[name]

    def set_copy_aside(self, prefix: str, of: str) -> None:
        """Set the tensors under ``prefix`` aside, each a copy of one under ``of`` not taken yet; refuses other ones."""
        for name in [name for name in self._left if name.startswith(prefix)]:
            same = self._left.get(of + name.removeprefix(prefix))
            if same is None or not torch.equal(self._left[name], same):
                msg = f"{self._what}: the tensor {name!r} is not the same as the one under {of!r}, expected a copy"
                raise TensorsUnaccounted(msg)
        self.set_aside(prefix)

    def finish(self) -> tuple[str, ...]:
        """Give the names set aside; raises TensorsUnaccounted where a tensor was neither taken nor set aside."""
        if self._left:
            names = ", ".join(sorted(self._left)[:8])
            batch = "; a batch normalisation is declared as norm = 'batch'" if self.ending(".running_var") else ""
            msg = f"{self._what} has tensors that this network does not use: {names}{batch}"
            raise TensorsUnaccounted(msg)
        return tuple(self._aside)


def stack(
    tensors: Tensors, names: Sequence[str], widths: Sequence[int], activation: type[nn.Module]
) -> list[nn.Module]:
    """Take linear layers ``widths[0] -> widths[1] -> ...``, each followed by the activation."""
    modules: list[nn.Module] = []
    for name, inputs, outputs in zip(names, widths, widths[1:], strict=False):
        modules += [tensors.linear(name, inputs, outputs), activation()]
    return modules


class OneHot(nn.Module):
    """Turns a state ``obs[N, 1]`` (int64) into ``[N, count]`` with a single one; NaN for a state out of range."""

    states: torch.Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("states", torch.arange(count))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        found = obs == self.states
        return torch.where(found.any(dim=1, keepdim=True), found.to(torch.float32), torch.nan)


class OneHots(nn.Module):
    """Turns several whole numbers ``obs[N, K]`` into their one-hots side by side, ``[N, sum(counts)]``."""

    def __init__(self, counts: Sequence[int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(OneHot(count) for count in counts)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return torch.cat([part(obs[:, at : at + 1]) for at, part in enumerate(self.parts)], dim=1)


class Normalised(nn.Module):
    """Brings observations to mean 0 and variance 1 and clips them, in float64: (obs - mean) / sqrt(var + epsilon).

    In float32 a feature whose mean is far larger than its deviation loses most of its digits.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: NDArray[np.float64], var: NDArray[np.float64], epsilon: float, clip: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(np.asarray(mean, dtype=np.float64)))
        self.register_buffer("std", torch.from_numpy(np.sqrt(np.asarray(var, dtype=np.float64) + epsilon)))
        self.clip = clip

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return ((obs.to(torch.float64) - self.mean) / self.std).clamp(-self.clip, self.clip).to(torch.float32)


class Float(nn.Module):
    """Casts to float32, and divides by ``divisor`` where that is not 1."""

    def __init__(self, divisor: float = 1.0) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        number = obs.to(torch.float32)
        return number if self.divisor == 1 else number / self.divisor


class Joined(nn.Module):
    """Gives each input to a part of its own and joins what comes out, ``[N, sum of widths]``."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, *observations: torch.Tensor) -> torch.Tensor:
        joined = [part(obs) for part, obs in zip(self.parts, observations, strict=True)]
        return joined[0] if len(joined) == 1 else torch.cat(joined, dim=1)


class After(nn.Module):
    """Gives what comes out of the first network, which may have several inputs, to the second."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, *observations: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(self.first(*observations))
        return found


class Rows(nn.Module):
    """Gathers the row of a table ``[S, A]`` that a state ``obs[N, 1]`` names; NaN for a state out of range.

    An index below zero would wrap to the last rows, and one too high would fail the whole batch: a row of NaN fails
    alone.
    """

    table: torch.Tensor

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        last = self.table.shape[0] - 1
        rows = torch.index_select(self.table, 0, obs[:, 0].clamp(0, last))
        return torch.where((obs >= 0) & (obs <= last), rows, torch.nan)


class Dueling(nn.Module):
    """Joins a state's value and its actions' advantages: q = v + a - mean(a) (Wang et al., 2016, equation 9)."""

    def __init__(self, trunk: nn.Module, value: nn.Module, advantage: nn.Module) -> None:
        super().__init__()
        self.trunk, self.value, self.advantage = trunk, value, advantage

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        features = self.trunk(obs)
        advantage: torch.Tensor = self.advantage(features)
        value: torch.Tensor = self.value(features)
        return value + advantage - advantage.mean(dim=1, keepdim=True)


def entry(observation: Fields | Array) -> tuple[list[nn.Module], int, tuple[str, ...]]:
    """Give what happens to an observation before the first layer, that layer's width, and how to name it."""
    if isinstance(observation, Array):
        size = int(np.prod(observation.shape))
        return [nn.Flatten()], size, (f"flatten {list(observation.shape)} to {size} numbers",)
    if observation.dtype == "int64":
        count = int(observation.fields[0].high or 0) + 1
        return [OneHot(count)], count, (f"one-hot of state over {count} states; NaN for any other",)
    return [], len(observation.fields), ()
