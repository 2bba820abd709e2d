"""What a run of a network answered, row by row."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from guards.errors import PolicyUnavailable

Heads = np.ndarray[Any, np.dtype[np.float32]]


class ModelOutput(Struct, frozen=True, eq=False, gc=False):
    """The answer of a run for N rows.

    ``head[N, W]`` (mean and std one after the other, ``[N, 2D]``, of a gaussian head), ``spread[N]`` where the members
    of an ensemble disagree, and the ``memory`` after the step, one ``[N, ...]`` for each that the policy has.
    """

    head: Heads
    spread: Heads | None = None
    memory: tuple[np.ndarray, ...] = ()

    @classmethod
    def of(cls, outputs: Sequence[np.ndarray], heads: int, spread: bool) -> "ModelOutput":
        """What a graph's outputs say, in their order: the tensors of the head, the spread, the memory."""
        head = outputs[0] if heads == 1 else np.concatenate(outputs[:heads], axis=1)
        return cls(head, outputs[heads] if spread else None, tuple(outputs[heads + spread :]))

    @classmethod
    def joined(cls, parts: "Sequence[ModelOutput]") -> "ModelOutput":
        """The answers of several runs, one after another."""
        spreads = [part.spread for part in parts if part.spread is not None]
        return cls(
            np.concatenate([part.head for part in parts]),
            np.concatenate(spreads) if spreads else None,
            tuple(np.concatenate(memory) for memory in zip(*(part.memory for part in parts), strict=True)),
        )

    def rows(self, index: Sequence[int]) -> "ModelOutput":
        """The answer for some of the rows."""
        at = list(index)
        spread = None if self.spread is None else self.spread[at]
        return ModelOutput(self.head[at], spread, tuple(memory[at] for memory in self.memory))


def spread_of(answer: ModelOutput | PolicyUnavailable) -> list[float | None] | None:
    """A number for each row where the policy gives one; None for what is no number."""
    if not isinstance(answer, ModelOutput) or answer.spread is None:
        return None
    return [one if math.isfinite(one) else None for one in answer.spread.tolist()]
