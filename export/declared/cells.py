"""Recurrent cells as plain formulas: one step, with the state going in and coming out."""

import torch
from torch import nn
from torch.nn.functional import linear

from export.networks import Tensors

_GATES = {"lstm": 4, "gru": 3}


class Cell(nn.Module):
    """One layer's weights, named as in torch.nn; ``[gates * units, inputs]`` and ``[gates * units, units]``."""

    weight_ih: torch.Tensor
    weight_hh: torch.Tensor
    bias_ih: torch.Tensor
    bias_hh: torch.Tensor

    def __init__(self, tensors: Tensors, name: str, layer: int, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        gates, inputs, units = sizes
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (gates * units, inputs), "weight_hh": (gates * units, units)}
        shapes |= {"bias_ih": (gates * units,), "bias_hh": (gates * units,)}
        for kind, shape in shapes.items():
            tensor = tensors.take(f"{name}.{kind}_l{layer}", shape)
            self.register_buffer(kind, tensor)

    def gates(self, row: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return linear(row, self.weight_ih, self.bias_ih), linear(state, self.weight_hh, self.bias_hh)


class LstmCell(Cell):
    """A step of torch.nn.LSTM."""

    def forward(self, row: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        new, old = self.gates(row, hidden)
        keep, forget, content, output = (new + old).chunk(4, dim=1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(keep) * torch.tanh(content)
        return torch.sigmoid(output) * torch.tanh(cell), cell


class GruCell(Cell):
    """A step of torch.nn.GRU."""

    def forward(self, row: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor]:
        new, old = self.gates(row, hidden)
        new_reset, new_update, new_content = new.chunk(3, dim=1)
        old_reset, old_update, old_content = old.chunk(3, dim=1)
        reset, update = torch.sigmoid(new_reset + old_reset), torch.sigmoid(new_update + old_update)
        content = torch.tanh(new_content + reset * old_content)
        return ((1 - update) * content + update * hidden,)


class Recurrent(nn.Module):
    """Layers of cells, one above the other; each state is ``[N, units]``, or ``[N, depth, units]`` where depth > 1."""

    def __init__(self, cells: list[nn.Module], *, states: int) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)
        self.states = states

    def forward(self, row: torch.Tensor, *memory: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        if len(self.cells) == 1:
            found = self.cells[0](row, *memory)
            return found[0], tuple(found)
        kept: list[list[torch.Tensor]] = [[] for _ in range(self.states)]
        for at, cell in enumerate(self.cells):
            found = cell(row, *(state[:, at] for state in memory))
            row = found[0]
            for states, state in zip(kept, found, strict=True):
                states.append(state)
        return row, tuple(torch.stack(states, dim=1) for states in kept)


def recurrent(tensors: Tensors, name: str, kind: str, widths: tuple[int, int], depth: int) -> Recurrent:
    """Take ``depth`` layers of cells of ``widths`` = (inputs, units), named as torch.nn.LSTM and GRU name them."""
    inputs, units = widths
    made: type[LstmCell] | type[GruCell] = LstmCell if kind == "lstm" else GruCell
    sizes = [(_GATES[kind], inputs if layer == 0 else units, units) for layer in range(depth)]
    cells: list[nn.Module] = [made(tensors, name, layer, size) for layer, size in enumerate(sizes)]
    return Recurrent(cells, states=2 if kind == "lstm" else 1)
