"""Numerics: which arithmetic draws are made with, and what it gives here for some numbers that are always the same.

Both stand in a writer's first record. Where they are the same as here, whatever was drawn is drawn again bit for bit;
else within 1e-12 (relative), because exponentials and logarithms are as the processor and NumPy have them.
"""

import hashlib
from typing import Final, get_args

import numpy as np

from export.spec import Box, Field, Squash
from guards.projection import Region
from service.decision.explore.explorers import chances_of
from service.decision.explore.gaussian import Gaussian

# Counts changes of the arithmetic: 0 was in arrays of a batch, sums pair by pair; in 1 sums are one after another.
NUMERICS: Final = 1
_WIDTHS = (2, 3, 5, 8, 17, 64)


def fingerprint() -> str:
    """What tells the arithmetic of this process from another's, as 16 hex digits: of the probabilities of some heads,
    and of draws in a Box, clipped and squashed."""
    found = hashlib.blake2b(digest_size=8)
    for width in _WIDTHS:
        scores = [((i * 37 + width) % 29) / 7 - 2 for i in range(width)]
        for temperature in (0.3, 1.0, 7.0):
            found.update(np.array(chances_of(scores, 0, temperature), dtype="<f8").tobytes())
    space = Box(fields=(Field(name="a", low=-1, high=1), Field(name="b", low=0, high=7)))
    head = np.array([0.3, -0.7, 0.9, 0.4])
    left = Region(space.low, space.high)
    for squash in get_args(Squash):
        for at in range(16):
            drawn = Gaussian(space, squash).draw(head, left, [(2 * at + n + 0.37) / 33 for n in range(2)])
            numbers = (*drawn.action, drawn.propensity) if isinstance(drawn.action, tuple) else ()
            found.update(np.array(numbers, dtype="<f8").tobytes())
    return found.hexdigest()
