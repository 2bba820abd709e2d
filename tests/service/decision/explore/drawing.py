"""Drawing: rows of heads through one acting, each drawn alone, with uniform numbers that a test says."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import structs

from export.spec import Discrete
from guards.projection import Region
from guards.records import Booleans, Floats
from service.decision.explore.choice import AnyActing, Choice, Explorer
from service.decision.explore.explorers import Chooser


@dataclass(frozen=True)
class Drawn:
    """What was drawn, row by row."""

    choices: Sequence[Choice]

    def __getattr__(self, name: str) -> np.ndarray:
        """What they all say of one thing."""
        return np.array([getattr(choice, name) for choice in self.choices])


def digest_of(uniform: Any, blocks: int = 1) -> bytes:
    """A digest that gives these numbers first, and zeros behind them."""
    bits = [math.ceil(one * 2.0**53) << 11 for one in np.asarray(uniform).tolist()][: 4 * blocks]
    return b"".join(one.to_bytes(8, "little") for one in bits).ljust(32 * blocks, b"\0")


def bits_of(allowed: Any) -> int:
    """The bits of what is forbidden of some choices."""
    return sum(1 << i for i, one in enumerate(np.asarray(allowed).tolist()) if not one)


def listed(count: int) -> Discrete:
    """So many actions."""
    return Discrete(names=tuple(f"a{i}" for i in range(count)))


def drawn(acting: AnyActing, head: Any, left: Iterable[Any], uniform: Any, *, explores: bool = True) -> Drawn:
    """Draw from heads[N, W] inside what is left of each: truths[N, W], or a region."""
    made = []
    for one, inside, numbers in zip(np.asarray(head), left, np.asarray(uniform), strict=True):
        place = inside if isinstance(inside, Region) else bits_of(inside)
        made.append(acting.choose(acting.read(one), place, digest_of(numbers, acting.blocks), explores=explores))
    return Drawn(made)


def of_list(explorer: Explorer, head: Floats, allowed: Booleans, uniform: Floats) -> Drawn:
    """Draw one of a list, in plain numbers and in arrays: both are the same to the last bit."""
    assert isinstance(explorer, Chooser)
    made = []
    for one, permits, numbers in zip(head, allowed, uniform, strict=True):
        bits, digest = bits_of(permits), digest_of(numbers)
        plain, array = explorer.choose(one.tolist(), bits, digest), explorer.choose(one.copy(), bits, digest)
        assert structs.asdict(plain) == structs.asdict(array)
        made.append(plain)
    return Drawn(made)
