"""Heads of modules that give probabilities, or the action that they chose, instead of scores."""

from collections.abc import Sequence

import torch
from torch import nn

from export.plausible import FLOOR, ROUNDED

_MASKED = -1e8


class Probabilities(nn.Module):
    """Logits ``[N, W]`` of probabilities: their logarithm.

    What is less than the least float32 counts as that, and what is below 0 by more than rounding is NaN. Masked choices
    get -1e8.
    """

    inside = f"logarithm of the probabilities, of {FLOOR:.2g} where they are less"

    def forward(self, found: Sequence[torch.Tensor], mask: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        shares = found[0]
        nothing = torch.full_like(shares, float("nan"))
        numbers = torch.where(shares >= ROUNDED, shares.clamp(min=FLOOR), nothing).log()
        if mask is not None:
            numbers = torch.where(mask, numbers, torch.full_like(numbers, _MASKED))
        return (numbers,)


class Chosen(nn.Module):
    """A row ``[N, W]`` with a one for each choice that was made, of ``[N]`` or ``[N, K]`` indices or of such rows.

    A row in which something is no choice of its factor is NaN: there is nothing to be taken instead.
    """

    inside = "a one for each choice that was made, zeros for the others; NaN for one that does not exist"

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        for at, size in enumerate(self.sizes):
            self.register_buffer(f"choices_{at}", torch.arange(size, dtype=torch.float64))

    def forward(self, found: Sequence[torch.Tensor], mask: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        del mask
        numbers = found[0].to(torch.float64)
        if numbers.ndim == 1:
            numbers = numbers.unsqueeze(1)
        if numbers.shape[1] == len(self.sizes):
            parts = [numbers[:, at : at + 1] == self.get_buffer(f"choices_{at}") for at in range(len(self.sizes))]
            good = [part.to(torch.float64).sum(dim=1, keepdim=True) == 1 for part in parts]
        else:
            rows = torch.split(numbers, list(self.sizes), dim=1)
            parts = [part == 1 for part in rows]
            good = [
                (part.to(torch.float64).sum(dim=1, keepdim=True) == 1) & (row.abs().sum(dim=1, keepdim=True) == 1)
                for part, row in zip(parts, rows, strict=True)
            ]
        every = good[0]
        for other in good[1:]:
            every = every & other
        ones = torch.cat(parts, dim=1).to(torch.float32)
        return (torch.where(every, ones, torch.full_like(ones, float("nan"))),)
