"""What a policy's inputs and outputs mean, whatever answers: a network, or a graph that was there already."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.spec import ActionSpace, Evaluation, Head, Memory, ObservationSpace, Port, Source, Squash, Variant
from export.spec.manifest import inputs_of, outputs_of

_UNKNOWN = Source(library="torch", algorithm="")
# Tensors by the name of their port, each ``[N, ...]``.
Arrays = Mapping[str, NDArray[np.generic]]
Answers = Callable[[Arrays], Arrays]
# What the source's own way of answering is told besides: the rows ``[N]`` where an episode starts.
EPISODE_START = "episode_start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """The meaning of a policy's inputs and outputs.

    ``native``, where given, is the source framework's own answer to the same questions, worked out in another way: it
    takes tensors by name and gives ``action`` or any of the outputs by name, to be compared with. It is asked step by
    step, in the order of the episodes, and is told too where one starts (``episode_start``).
    ``said`` is what people said the source's own output is, where it does not tell itself: ``logits``, ``q_values``,
    ``probabilities`` or ``action``; its answers are held against that. ``scores`` is as in the manifest.
    ``set_aside`` names the tensors of the checkpoint that no action depends on. ``constant`` are the numbers of a Box
    action, by place, that people said never change; None where the source itself knows what its head is. ``remarks``
    are lines for people about what else was found in the checkpoint: they are printed, and are no part of the artefact.
    ``squashed`` says that people asked for a tanh behind a source that may have one itself, and ``exponential`` that
    they said its std is given as its logarithm: the range of its answers is held against both.
    """

    observation: ObservationSpace
    action: ActionSpace
    head: Head = "q_values"
    squash: Squash = "none"
    family: str = "dqn"
    mask: bool = False
    memory: tuple[Memory, ...] = ()
    spread: bool = False
    scores: bool = True
    said: str = ""
    inside: tuple[str, ...] = ()
    source: Source = _UNKNOWN
    variant: Variant | None = None
    native: Answers | None = None
    native_name: str = ""
    set_aside: tuple[str, ...] = ()
    constant: tuple[int, ...] | None = None
    remarks: tuple[str, ...] = ()
    squashed: bool = False
    exponential: bool = False

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What goes in, in order: the observation, the mask, the memory."""
        return inputs_of(self)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What comes out, in order: the head, the spread, the memory."""
        return outputs_of(self)


@dataclass(frozen=True, slots=True)
class About:
    """What people say about a policy: it cannot be read from the network."""

    name: str
    version: str
    author: str = ""
    license: str = ""
    description: str = ""
    date: str = ""
    notes: str = ""
    control_period_s: float | None = None
    evaluation: Evaluation | None = None
