"""The manifest: everything an artefact says about itself, as one canonical JSON text inside the file."""

import base64
import json
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Constrained

from export.spec.spaces import ActionSpace, Fields, Frozen, Label, ObservationSpace

FORMAT: Final = 1
Head = Literal["q_values", "logits"]
Positive = Annotated[float, Constrained(gt=0)]


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


class Statistics(Frozen):
    """What the observations looked like in training, per field: the reference for drift and novelty.

    ``quantiles[f][k]`` is field f's quantile at ``probabilities[k]``; ``source`` says where the sample came from.
    """

    count: Annotated[int, Constrained(ge=1)]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    probabilities: tuple[float, ...]
    quantiles: tuple[tuple[float, ...], ...]
    source: str = ""


class Golden(Frozen):
    """Inputs and the outputs they must give, row by row: replayed at every load."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


class Parity(Frozen):
    """The proof that the graph answers as the source does, taken before the file was written.

    Errors are measured in the head's own scale: the error of row i may be at most
    ``tolerance`` x max(``scale``, the row's largest absolute value), where ``scale`` is the median over all
    observations of that largest value. The same rule holds for golden rows and for repeated runs.
    ``action_agreement`` is the share of all rows with the same arg-max; the others, ``near_ties`` of them, are rows
    whose two best values are closer to each other, in the source itself, than the tolerance.
    """

    reference: str
    observations: Annotated[int, Constrained(ge=1)]
    max_abs_error: Annotated[float, Constrained(ge=0)]
    action_agreement: Annotated[float, Constrained(ge=0, le=1)]
    tolerance: Positive
    scale: Positive = 1.0
    max_scaled_error: Annotated[float, Constrained(ge=0)] = 0.0
    near_ties: Annotated[int, Constrained(ge=0)] = 0

    def scales(self, expected: NDArray[np.generic]) -> NDArray[np.float64]:
        """Give the scale of each row of a head, ``expected[N, A]`` -> ``[N]``."""
        return np.asarray(np.maximum(self.scale, np.abs(expected.astype(np.float64)).max(axis=1, initial=0.0)))

    def errors(self, expected: NDArray[np.generic], found: NDArray[np.generic]) -> NDArray[np.float64]:
        """Give the largest error of each row of ``found[N, A]`` in units of the row's scale; NaN where one is NaN."""
        difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
        return np.asarray(difference.max(axis=1, initial=0.0) / self.scales(expected))

    def close(self, expected: NDArray[np.generic], found: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Say for each row whether ``found[N, A]`` is within the tolerance of ``expected[N, A]``; NaN never is."""
        return np.asarray(self.errors(expected, found) <= self.tolerance)


class Source(Frozen):
    """Where the policy came from."""

    library: str
    algorithm: str
    library_version: str = ""
    checkpoint_sha256: Annotated[str, Constrained(pattern=r"^[0-9a-f]{64}$")] | None = None
    commit: str = ""


class Evaluation(Frozen):
    """How good the policy was when somebody measured it (the keys of Hugging Face's results.json)."""

    env: str
    mean_reward: float
    std_reward: float
    is_deterministic: bool
    n_eval_episodes: Annotated[int, Constrained(ge=1)]
    eval_datetime: str


class Manifest(Frozen):
    """Everything an artefact says about itself."""

    format: Literal[1] = FORMAT
    name: Label
    version: Label
    family: str
    head: Head
    observation: ObservationSpace
    action: ActionSpace
    inside: tuple[str, ...] = ()
    control_period_s: Positive | None = None
    statistics: Statistics | None = None
    golden: Golden
    parity: Parity
    opset: int
    source: Source
    evaluation: Evaluation | None = None
    author: str = ""
    license: str = ""
    description: str = ""
    date: str = ""
    notes: str = ""

    def text(self) -> str:
        """The canonical JSON text: sorted keys, no spaces, ASCII, so that one manifest has one spelling."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
        )

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the observation's fields in the network's order; empty for an array."""
        return self.observation.names if isinstance(self.observation, Fields) else ()
