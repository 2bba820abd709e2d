"""Rows of a batch in what a module gives, and in its states: as the module keeps them, and as they go in and out."""

import torch

from export.errors import CheckpointRefused


def stored(state: torch.Tensor, shape: tuple[int, ...], axis: int) -> torch.Tensor:
    """Bring a state ``[N, ...]`` to the shape in which the module keeps it, its rows along ``axis``."""
    kept = shape[:axis] + shape[axis + 1 :]
    return state.reshape(state.shape[0], *kept).movedim(0, axis)


def carried(state: torch.Tensor, axis: int) -> torch.Tensor:
    """Bring a state from the shape in which the module keeps it to ``[N, ...]`` without axes of length 1."""
    rows = state.movedim(axis, 0)
    return rows.reshape(rows.shape[0], *carried_shape(tuple(state.shape), axis))


def carried_shape(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Give the shape of a state without its batch and without axes of length 1."""
    rest = shape[:axis] + shape[axis + 1 :]
    return tuple(size for size in rest if size != 1) or (1,)


def given_by(found: object) -> tuple[torch.Tensor, ...]:
    """Give the tensors that a module gave, but for None at their end; raises CheckpointRefused for anything else."""
    given = list(found) if isinstance(found, (tuple, list)) else [found]
    while given and given[-1] is None:
        given.pop()
    tensors = [item for item in given if isinstance(item, torch.Tensor)]
    if not tensors or len(tensors) < len(given):
        shown = ", ".join(type(item).__name__ for item in given) or "nothing"
        msg = f"the module gives {shown}, expected its head, a tensor, or a tuple of tensors that begins with it"
        raise CheckpointRefused(msg)
    return tuple(tensors)
