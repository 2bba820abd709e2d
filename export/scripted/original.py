"""The module that torch loaded, to be compared with: asked with its states set, or left to keep them itself."""

from collections.abc import Sequence

import torch
from torch import nn

from export.errors import CheckpointRefused
from export.scripted.module import Scripted
from export.scripted.rows import carried, given_by, stored
from export.scripted.states import initial_of
from export.scripted.tree import Held

_TOLERANCE = 1e-5
Tensors = list[torch.Tensor]


class Original(nn.Module):
    """The module that torch loaded, asked row by row with its states set before and read after each."""

    def __init__(self, script: torch.jit.ScriptModule, owners: Sequence[Held], scripted: Scripted) -> None:
        super().__init__()
        self.script, self.owners, self.memory = script, tuple(owners), scripted.memory
        self.shapes = tuple(scripted.shape(place) for place, _ in scripted.memory)

    def __repr__(self) -> str:
        return f"<the original module, states={','.join(owner.path for owner in self.owners)}>"

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not self.memory:
            return given_by(self.script(*inputs))
        split = len(inputs) - len(self.memory)
        found = []
        for at in range(len(inputs[0])):
            row = [part[at : at + 1] for part in inputs]
            self.begin(row[split:])
            given = self.step(row[:split])
            states = zip(self.owners, self.memory, strict=True)
            found.append([*given, *(carried(owner.tensor, axis).clone() for owner, (_, axis) in states)])
        return tuple(torch.cat(column) for column in zip(*found, strict=True))

    def begin(self, memory: Sequence[torch.Tensor]) -> None:
        """Set the states, each ``[1, ...]``."""
        for state, owner, shape, (_, axis) in zip(memory, self.owners, self.shapes, self.memory, strict=True):
            owner.put(stored(state, shape, axis).clone())

    def step(self, row: Sequence[torch.Tensor]) -> Tensors:
        """Answer the next step of an episode, the module keeping its state itself."""
        return [tensor.detach() for tensor in given_by(self.script(*row))]


def refuse_changed(script: torch.jit.ScriptModule, row: Sequence[torch.Tensor]) -> None:
    """Refuse a loaded module that changes what it holds where its code said that it does not."""
    before = {name: tensor.clone() for name, tensor in script.state_dict().items()}
    with torch.no_grad():
        script(*(part.clone() for part in row))
    after = script.state_dict()
    changed = [name for name, tensor in after.items() if name not in before or not torch.equal(before[name], tensor)]
    if changed:
        msg = f"the module changes {', '.join(changed[:4])} when torch runs it, which its code does not say"
        raise CheckpointRefused(msg)


def refuse_divergent(scripted: Scripted, original: Original, rows: Sequence[Tensors]) -> None:
    """Play the rows from an episode's beginning with both, the original keeping its state itself.

    Raises CheckpointRefused where they differ.
    """
    memory = []
    for place, axis in scripted.memory:
        state = scripted.get_buffer(f"tensor_{place}")
        memory.append(carried(torch.full_like(state, initial_of(scripted, place, "")), axis))
    original.begin(memory)
    with torch.no_grad():
        for at, row in enumerate(rows):
            expected = original.step([part.clone() for part in row])
            found = list(scripted(*(part.clone() for part in row), *memory))
            memory = found[len(found) - len(memory) :]
            for one, other in zip(expected, found, strict=False):
                limit = _TOLERANCE * max(1.0, float(one.abs().max()))
                if not bool(((one - other).abs() <= limit).all()):
                    msg = f"with its state as an input the module differs from the original at step {at + 1}"
                    raise CheckpointRefused(msg)
