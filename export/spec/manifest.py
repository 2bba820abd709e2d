"""The manifest: everything an artefact says about itself, as one canonical JSON text inside the file."""

import base64
import json
from typing import Annotated, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Constrained
from pydantic import model_validator

from export.spec.spaces import (
    ActionSpace,
    Box,
    Dict,
    Fields,
    Frozen,
    Identifier,
    Label,
    MultiDiscrete,
    ObservationSpace,
    Port,
    Size,
)
from export.spec.statistics import Statistics

FORMAT: Final = 1
Head = Literal["q_values", "logits", "gaussian"]
Squash = Literal["none", "tanh"]
Positive = Annotated[float, Constrained(gt=0)]
NotNegative = Annotated[float, Constrained(ge=0)]
Digest = Annotated[str, Constrained(pattern=r"^[0-9a-f]{64}$")]
# The tensors that each head is made of.
HEADS: Final = {"q_values": ("q_values",), "logits": ("logits",), "gaussian": ("mean", "std")}
MASK: Final = "action_mask"
# What the logit of a masked action is inside the graph (as in sb3-contrib and most others): no error, and no scale.
MASKED: Final = -1e8


class Tensor(Frozen):
    """An array as text: base64 of its little-endian bytes in row-major order."""

    dtype: Literal["float32", "float64", "int64", "uint8", "bool"]
    shape: tuple[int, ...]
    data: str

    @classmethod
    def of(cls, array: NDArray[np.generic]) -> "Tensor":
        """Encode an array of any shape."""
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        return cls.model_validate(
            {
                "dtype": array.dtype.name,
                "shape": array.shape,
                "data": base64.b64encode(little.tobytes()).decode("ascii"),
            }
        )

    def array(self) -> NDArray[np.generic]:
        """Decode to an array of ``shape``; raises ValueError where the bytes do not fill it."""
        raw = base64.b64decode(self.data, validate=True)
        dtype = np.dtype(self.dtype).newbyteorder("<")
        return np.frombuffer(raw, dtype=dtype).reshape(self.shape).astype(self.dtype)


class Golden(Frozen):
    """Inputs and the outputs they must give, row by row: replayed at every load."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


class Memory(Frozen):
    """What a policy carries from one step of an episode to the next, ``[N, *shape]``.

    It goes in as ``memory.<name>.in`` and comes out as ``memory.<name>.out``; every episode starts with ``initial`` in
    every place. ``meaning`` says for people what it holds.
    """

    name: Identifier
    shape: Annotated[tuple[Size, ...], Constrained(min_length=1, max_length=4)]
    dtype: Literal["float32", "int64", "uint8"] = "float32"
    initial: float = 0.0
    meaning: str = ""

    @property
    def port_in(self) -> Port:
        return Port(f"memory.{self.name}.in", self.dtype, self.shape)

    @property
    def port_out(self) -> Port:
        return Port(f"memory.{self.name}.out", self.dtype, self.shape)


class Parity(Frozen):
    """The proof that the graph answers as the source does, taken before the file was written.

    Errors are measured in each output's own scale: the error of row i may be at most ``tolerance`` x max(``scale``, the
    row's largest absolute value), where ``scale`` is the median over all observations of that largest value. The same
    rule holds for golden rows and for repeated runs; ``scales`` has the scale of every output but the head's first.
    ``action_agreement`` is the share of all rows with the same action (the same arg-max; for a Box, each number within
    ``tolerance`` of its range); the others, ``near_ties`` of them, are rows whose two best values are closer to each
    other, in the source itself, than the tolerance. ``recorded`` counts the rows among them whose actions were
    recorded from the source, ``recorded_ties`` those of them that are near ties. Where the source's own float32 answer
    is off by more than that, as its float64 answer shows, a row may differ by as much: ``reference`` says in how many.
    """

    reference: str
    observations: Annotated[int, Constrained(ge=1)]
    max_abs_error: NotNegative
    action_agreement: Annotated[float, Constrained(ge=0, le=1)]
    tolerance: Positive
    scale: Positive = 1.0
    max_scaled_error: NotNegative = 0.0
    near_ties: Annotated[int, Constrained(ge=0)] = 0
    scales: dict[str, Positive] = Constrained(default_factory=dict)
    recorded: Annotated[int, Constrained(ge=0)] = 0
    recorded_ties: Annotated[int, Constrained(ge=0)] = 0
    steps: Annotated[int, Constrained(ge=1)] = 1

    def row_scales(self, expected: NDArray[np.generic], output: str = "") -> NDArray[np.float64]:
        """Give the scale of each row of an output (the head's first unless named), ``expected[N, ...]`` -> ``[N]``."""
        flat = magnitudes(expected)
        return np.asarray(np.maximum(self.scales.get(output, self.scale), flat.max(axis=1, initial=0.0)))

    def errors(
        self, expected: NDArray[np.generic], found: NDArray[np.generic], output: str = ""
    ) -> NDArray[np.float64]:
        """Give the largest error of each row of ``found[N, ...]`` in units of the row's scale; NaN where one is NaN."""
        difference = np.abs(found.astype(np.float64) - expected.astype(np.float64)).reshape(len(expected), -1)
        return np.asarray(difference.max(axis=1, initial=0.0) / self.row_scales(expected, output))

    def close(self, expected: NDArray[np.generic], found: NDArray[np.generic], output: str = "") -> NDArray[np.bool_]:
        """Say for each row whether ``found[N, ...]`` is within the tolerance of ``expected``; NaN never is."""
        return np.asarray(self.errors(expected, found, output) <= self.tolerance)


def magnitudes(array: NDArray[np.generic]) -> NDArray[np.float64]:
    """Give the absolute values of each row, ``[N, ...]`` -> ``[N, M]``; those of masked actions are 0."""
    flat = array.astype(np.float64).reshape(len(array), -1)
    return np.asarray(np.abs(np.where(flat == MASKED, 0.0, flat)))


class Source(Frozen):
    """Where the policy came from."""

    library: str
    algorithm: str
    library_version: str = ""
    checkpoint_sha256: Digest | None = None
    commit: str = ""


class Evaluation(Frozen):
    """How good the policy was when somebody measured it (the keys of Hugging Face's results.json)."""

    env: str
    mean_reward: float
    std_reward: float
    is_deterministic: bool
    n_eval_episodes: Annotated[int, Constrained(ge=1)]
    eval_datetime: str


class Variant(Frozen):
    """How a faster variant was made of another artefact, its mother, and how often it answers alike."""

    kind: Literal["int8", "float16", "distilled"]
    mother: Digest
    observations: Annotated[int, Constrained(ge=1)]
    agreement: Annotated[float, Constrained(ge=0, le=1)]
    floor: Annotated[float, Constrained(ge=0, le=1)]
    note: str = ""


class Manifest(Frozen):
    """Everything an artefact says about itself.

    ``scores`` is false where the source gives the action that it chose and nothing about the others: the head then has
    a one for each choice that was made and zeros (of a Box, the action as its mean and a std of zero), so that nothing
    can be drawn from it and there is no second best.
    """

    format: Literal[1] = FORMAT
    name: Label
    version: Label
    family: str
    head: Head
    squash: Squash = "none"
    observation: ObservationSpace
    action: ActionSpace
    mask: bool = False
    memory: Annotated[tuple[Memory, ...], Constrained(max_length=16)] = ()
    spread: bool = False
    # Left out of the text where it is true: files that were written before it was known keep their digests.
    scores: Annotated[bool, Constrained(exclude_if=bool)] = True
    inside: tuple[str, ...] = ()
    control_period_s: Positive | None = None
    statistics: Statistics | None = None
    golden: Golden
    parity: Parity
    opset: int
    source: Source
    variant: Variant | None = None
    evaluation: Evaluation | None = None
    author: str = ""
    license: str = ""
    description: str = ""
    date: str = ""
    notes: str = ""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Manifest":
        refuse_misfit(self)
        return self

    def text(self) -> str:
        """The canonical JSON text: sorted keys, no spaces, ASCII, so that one manifest has one spelling."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
        )

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the observation's fields in the network's order; empty for an array."""
        return self.observation.names if isinstance(self.observation, (Fields, Dict)) else ()

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What goes into the graph: the observation, then the mask, then the memory."""
        return inputs_of(self)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What comes out of the graph and is served: the head, then the spread, then the memory."""
        return outputs_of(self)


class Shaped(Protocol):
    """What decides a graph's inputs and outputs: a manifest, and a trained policy before it has one."""

    @property
    def head(self) -> Head: ...
    @property
    def squash(self) -> Squash: ...
    @property
    def observation(self) -> ObservationSpace: ...
    @property
    def action(self) -> ActionSpace: ...
    @property
    def mask(self) -> bool: ...
    @property
    def memory(self) -> tuple[Memory, ...]: ...
    @property
    def spread(self) -> bool: ...
    @property
    def scores(self) -> bool: ...


def inputs_of(policy: Shaped) -> tuple[Port, ...]:
    """The inputs of a policy's graph, in order."""
    mask = (Port(MASK, "bool", (policy.action.width,)),) if policy.mask else ()
    return (*policy.observation.inputs, *mask, *(memory.port_in for memory in policy.memory))


def outputs_of(policy: Shaped) -> tuple[Port, ...]:
    """The outputs of a policy's graph that are served, in order; ``action`` comes after them and is not."""
    heads = tuple(Port(name, "float32", (policy.action.width,)) for name in HEADS[policy.head])
    spread = (Port("spread", "float32", ()),) if policy.spread else ()
    return (*heads, *spread, *(memory.port_out for memory in policy.memory))


def refuse_misfit(policy: Shaped) -> None:
    """Raise ValueError where head, spaces, mask and memory do not go together."""
    box = isinstance(policy.action, Box)
    if box != (policy.head == "gaussian"):
        msg = f"head is {policy.head!r}, expected 'gaussian' for a Box action and q_values or logits for others"
        raise ValueError(msg)
    if isinstance(policy.action, MultiDiscrete) and policy.head != "logits":
        msg = f"head is {policy.head!r}, expected 'logits' for a MultiDiscrete action"
        raise ValueError(msg)
    if policy.squash == "tanh" and not (isinstance(policy.action, Box) and _bounded(policy.action)):
        msg = "squash is 'tanh', which needs a Box action with both bounds on every number, and low below high"
        raise ValueError(msg)
    if policy.mask and box:
        msg = "mask is true, expected no mask for a Box action"
        raise ValueError(msg)
    if not policy.scores and (policy.head == "q_values" or policy.squash != "none" or policy.spread):
        found = f"head {policy.head!r}, squash {policy.squash!r}, spread {policy.spread}"
        msg = f"scores is false beside {found}, expected 'logits' or 'gaussian', no squash and no spread"
        raise ValueError(msg)
    names = [memory.name for memory in policy.memory]
    if len(set(names)) < len(names):
        msg = f"memory names stand twice among {names}, expected distinct names"
        raise ValueError(msg)


def _bounded(action: Box) -> bool:
    return all(f.low is not None and f.high is not None and f.low < f.high for f in action.fields)
