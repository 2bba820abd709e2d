"""An exhibit: a policy as it is read from its source, and the source's own way of answering beside it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.adopt.adoption import Adoption
from export.meaning import About, Answers, Arrays, Meaning
from export.spec.artefact import Artefact
from export.trained import TrainedPolicy
from export.write import build, finish

ABOUT = About(name="exhibit", version="1")
# The executed actions[N, ...] for observations by the name of their port. What is to be remembered, it remembers.
Native = Callable[[Arrays], NDArray[np.generic]]
# Begins an episode for so many sessions side by side.
Begin = Callable[[int], Native]


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A policy as it was read, its file, and what the source does with the same observations.

    ``answers`` are the outputs of what was read, in torch or as the file was found; ``library`` is the real library
    that the proof of the file has to name, where there is one.
    """

    meaning: Meaning
    answers: Answers
    begin: Begin
    artefact: Callable[[], Artefact]
    library: str = ""


def exhibit(policy: TrainedPolicy, begin: Begin, library: str = "") -> Exhibit:
    """Put a policy beside its source."""
    return Exhibit(policy, policy.answer, begin, lambda: build(policy, ABOUT), library)


def adopted(adoption: Adoption, begin: Begin) -> Exhibit:
    """Put an adopted file beside the file as it was."""

    def artefact() -> Artefact:
        return finish(adoption.meaning, adoption.model, adoption.answers, ABOUT, answers_name=adoption.answers_name)

    return Exhibit(adoption.meaning, adoption.answers, begin, artefact, adoption.answers_name)


def forgetful(native: Native) -> Begin:
    """Begin episodes of a source that remembers nothing."""
    return lambda _: native


def numbers(rows: NDArray[np.generic]) -> NDArray[np.float32]:
    """Give observations as torch takes them."""
    return np.ascontiguousarray(rows, dtype=np.float32)
