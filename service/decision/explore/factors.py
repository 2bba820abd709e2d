"""Factors: how an action is drawn that is one choice for each of several factors (MultiDiscrete).

What is allowed is the product of what is left of each factor. Where constraints join factors it is no product: the
whole actions are a list then, and each has a score, the sum of its choices' numbers, so that the best is the one of the
greatest product of probabilities.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from export.spec import MultiDiscrete
from guards.actions import whole_actions
from guards.errors import InvalidOutput
from guards.records import Action
from service.decision.explore.choice import IN_A_BLOCK, MOST, Acting, Choice, index_of, parts_of
from service.decision.explore.explorers import (
    GREEDY,
    Chooser,
    ListActing,
    Numbers,
    chosen,
    few,
    finite,
    remembered,
    uniforms,
)


class FactorActing(Acting[list[Numbers], int]):
    """One choice for each of several factors, which nothing joins."""

    def __init__(self, explorer: Chooser, sizes: Sequence[int], *, scores: bool = True) -> None:
        # A coin, and for each factor a number for the proposal and one for the second draw.
        super().__init__(explorer, sum(sizes), 1 + 2 * len(sizes), ranks=scores)
        self._chooser, self._sizes = explorer, sizes
        self._starts = list(accumulate(sizes[:-1], initial=0))
        self._all = [(1 << size) - 1 for size in sizes]
        self.allowed = remembered((self.width,))

    def read(self, head: np.ndarray) -> list[Numbers]:
        heads = [few(head[start : start + size], size) for start, size in zip(self._starts, self._sizes, strict=True)]
        if not all(map(finite, heads)) or not (self.ranks or all(map(chosen, heads))):
            raise InvalidOutput
        return heads

    def choosable(self, left: int) -> bool:
        return all(bits != every for bits, every in zip(self._forbidden(left), self._all, strict=True))

    def choose(self, head: list[Numbers], left: int, digest: bytes, *, explores: bool) -> Choice:
        chooser = self._chooser if explores else GREEDY
        return chooser.choose_each(head, self._forbidden(left), uniforms(digest))

    def placed(self, proposal: Action, left: int) -> Action | None:
        parts = zip(parts_of(proposal), self._sizes, self._forbidden(left), strict=True)
        kept = all(0 <= part < size and not bits >> int(part) & 1 for part, size, bits in parts)
        return proposal if kept else None

    def _forbidden(self, left: int) -> list[int]:
        """The bits of each factor."""
        return [left >> start & every for start, every in zip(self._starts, self._all, strict=True)]


class JointActing(Acting[Numbers, int]):
    """One whole action of several factors, the last factor's choice changing fastest."""

    def __init__(self, explorer: Chooser, space: MultiDiscrete, *, scores: bool = True) -> None:
        super().__init__(explorer, space.width, IN_A_BLOCK, ranks=scores)
        self._factors = FactorActing(explorer, space.sizes, scores=scores)
        self._whole = whole_actions(space)
        self._indices = {action: i for i, action in enumerate(self._whole)}
        self._list = ListActing(explorer, len(self._whole))
        self.allowed = remembered(space.sizes)

    def read(self, head: np.ndarray) -> Numbers:
        """A finite number for each whole action, 0 for the best, so that nothing overflows and nothing cancels."""
        scores = np.zeros(1)
        with np.errstate(over="ignore"):
            for part in map(np.array, self._factors.read(head)):
                scores = (scores[:, None] + (part - part.max())).reshape(-1)
        return few(np.maximum(scores, -MOST), len(scores))

    def choosable(self, left: int) -> bool:
        return self._list.choosable(left)

    def choose(self, head: Numbers, left: int, digest: bytes, *, explores: bool) -> Choice:
        choice = self._list.choose(head, left, digest, explores=explores)
        choice.proposed, choice.action = (self._whole[index_of(one)] for one in (choice.proposed, choice.action))
        return choice

    def placed(self, proposal: Action, left: int) -> Action | None:
        index = self._indices.get(proposal)
        return None if index is None or left >> index & 1 else proposal
