"""Choices: what is chosen for a row, and what chooses: an explorer in an action space."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import numpy as np
from msgspec import Struct

from export.spec import Squash
from export.spec.spaces import Frozen
from guards.check import Violation
from guards.errors import PolicyUnavailable
from guards.projection import Region
from guards.records import Action
from service.log.records import Bits, DecisionSource, Measure

# Beyond these a double cannot hold a probability or a density as exactly as it holds others.
LEAST: Final = float(np.finfo(np.float64).tiny)
MOST: Final = float(np.finfo(np.float64).max)
# Why a propensity is not ok where the policy decided: it is smaller or larger than any number there is.
NOT_REPRESENTABLE: Final = "not_representable"
# Or a half-space moved the action of whoever decided: then nobody knows how probable it is.
PROJECTED: Final = "Projected"
# Or it may come from a draw that was refused, and how often draws are refused takes a list of all whole actions.
NOT_LISTED: Final = "NotListed"
# Uniform numbers in 32 bytes, which is what one hash gives.
IN_A_BLOCK: Final = 4

# What constraints leave of a row: the bits of the choices that they forbid, or a region of a Box.
Left = TypeVar("Left", int, Region)
# A head in the form that is drawn from.
Head = TypeVar("Head")


class Choice(Struct, eq=False):
    """What is chosen for a row: what was proposed, what is done, with which probability, and whether that is another
    than the best allowed action. None stands for no action.

    ``measure`` says what the probability is of, which may be ``beyond`` what a double holds; ``moved`` is how far the
    constraints of a Box moved it. ``why`` is why the policy did not decide, ``doubted`` what is to be said of its
    answer. Nobody knows how probable it is for the reason in ``lost``.
    """

    proposed: Action | None = None
    action: Action | None = None
    propensity: float = 1.0
    explored: bool = False
    measure: Measure = "mass"
    beyond: bool = False
    source: DecisionSource = "policy"
    why: PolicyUnavailable | None = None
    doubted: list[Violation] = []
    moved: float | None = None
    lost: str | None = None


class Explorer(Frozen):
    """Draws actions of some spaces."""

    kind: str


class Acting(ABC, Generic[Head, Left]):
    """An explorer in an action space, beside greed for the rows that may not explore; a Box may have a ``squash``.

    ``blocks`` of 32 random bytes are what a row's uniform numbers are made from; a head has ``width`` numbers.
    ``ranks`` says whether it has a second best choice where the best one may not be done: of a chosen action, a one
    among zeros, it has none. The numbers of a Box need none, because they are moved. ``allowed`` is what a record says
    of what is left.
    """

    allowed: Callable[[Left], Bits]
    squash: Squash = "none"

    def __init__(self, explorer: Explorer, width: int, uniform: int, *, ranks: bool = True) -> None:
        """``uniform`` numbers are what a draw takes at most."""
        self.explorer, self.width, self.blocks, self.ranks = explorer, width, -(-uniform // IN_A_BLOCK), ranks

    @abstractmethod
    def read(self, head: np.ndarray) -> Head:
        """A network's head[W] as it is drawn from; raises InvalidOutput where nothing can be."""

    @abstractmethod
    def choosable(self, left: Left) -> bool:
        """Whether there is an action."""

    @abstractmethod
    def choose(self, head: Head, left: Left, digest: bytes, *, explores: bool) -> Choice:
        """Draw inside what is left, by the explorer where the row ``explores``."""

    @abstractmethod
    def placed(self, proposal: Action, left: Left) -> Action | None:
        """What is done for a proposal: itself where it is left, or moved to the nearest number; None for nothing."""

    def measure(self, choice: Choice, left: Left) -> None:
        """Say how far the constraints of a Box moved what was proposed, and whether a half-space did."""


AnyActing = Acting[Any, Any]


def index_of(action: Action | None) -> int:
    """An action of a list, as the number that it is."""
    assert isinstance(action, int)  # noqa: S101 - the space says so
    return action


def parts_of(action: Action | None) -> tuple[int | float, ...]:
    """An action of factors, or of a Box, as the numbers that it is."""
    assert isinstance(action, tuple)  # noqa: S101 - the space says so
    return action
