"""States that no name tells: inputs that would be taken for observations, though an output has their next value."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from export.adopt.layout import blank
from export.adopt.original import Original
from export.adopt.reading import Reading
from export.adopt.trial import Trial
from export.errors import OptionInvalid


def refuse_forgotten(original: Original, reading: Reading, trial: Trial) -> None:
    """Refuse to take an input for one of several observations where it may be memory; raises OptionInvalid.

    It may be where an output of its shape depends on it and is used for nothing: callers would have to hand back what
    they are never given. Of a single input nothing is asked: without an observation there is no policy.
    """
    if len(reading.observations) < 2:
        return
    given = blank(original)
    found = trial.run(given)
    pairs: dict[str, str] = {}
    for source in reading.observations:
        fitting = [one for one in _alike(original, reading, source, given[source], found) if one not in pairs.values()]
        pairs |= {source: fitting[0]} if fitting else {}
    if not pairs:
        return
    listed = ", ".join(f"{source!r} ({result!r} has its shape)" for source, result in pairs.items())
    msg = (
        f"inputs that may be memory, because an output depends on each that nothing uses: {listed}; say "
        f"--memory {','.join(map('='.join, pairs.items()))} where they are handed back at the next step, or "
        f"--obs {','.join(reading.observations)} if these are the observations"
    )
    raise OptionInvalid(msg)


def _alike(
    original: Original,
    reading: Reading,
    source: str,
    given: NDArray[np.generic],
    found: Mapping[str, NDArray[np.generic]],
) -> Iterator[str]:
    """Name the unused outputs that can be an input's next value; one number a row says nothing, a value is one too."""
    for name in original.outputs:
        array = found[name]
        real = array.dtype.kind == given.dtype.kind == "f"
        if name in reading.wanted or not real or array.shape != given.shape or max(given.shape, default=1) < 2:
            continue
        if source in original.behind([name]):
            yield name
