"""Recorded: the observations that a policy saw, and what it did about them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the policy saw, ``[K, *shape]`` by the name of its input, and what it did, where that was recorded too.

    ``actions`` are what the source framework executed without exploration, ``[K]`` or ``[K, *form]``; ``starts[K]``
    says where an episode begins; ``origin`` is the name of the file.
    """

    inputs: Mapping[str, NDArray[np.generic]]
    actions: NDArray[np.generic] | None = None
    starts: NDArray[np.bool_] | None = None
    origin: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))
