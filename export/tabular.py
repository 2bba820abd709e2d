"""Q-tables as policies: a row of values for each state."""

import numpy as np
import torch
from numpy.typing import NDArray

from export.errors import CheckpointRefused
from export.meaning import Arrays
from export.networks import Rows
from export.spec import Discrete, Field, Fields, Source
from export.trained import TrainedPolicy


def tabular(table: NDArray[np.generic], sha256: str) -> TrainedPolicy:
    """Build a policy from a Q-table ``[S, A]``: its observation is one field, ``state``."""
    if table.ndim != 2 or 0 in table.shape or table.dtype.kind not in "iuf":
        msg = f"the table is {table.dtype}{list(table.shape)}, expected numbers [states, actions]"
        raise CheckpointRefused(msg)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = table.astype(np.float32)
    if not np.isfinite(rounded).all():
        msg = "the table holds values that are NaN, infinite or beyond float32"
        raise CheckpointRefused(msg)
    states, actions = table.shape

    def answers(inputs: Arrays) -> Arrays:
        rows = np.asarray(table[inputs["obs"][:, 0].astype(np.int64)])
        return {"q_values": rows, "action": rows.argmax(axis=1)}

    return TrainedPolicy(
        module=Rows(torch.from_numpy(rounded)),
        observation=Fields(fields=(Field(name="state", low=0, high=states - 1),), dtype="int64"),
        action=Discrete(names=tuple(f"action_{index}" for index in range(actions))),
        family="tabular",
        inside=("row of the table; NaN for a state that it does not have",),
        source=Source(library="numpy", algorithm="Q-table", checkpoint_sha256=sha256),
        native=answers,
        native_name=f"numpy {np.__version__}",
    )
