"""Q-tables as policies: a row of values for each state."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.errors import CheckpointRefused
from export.meaning import Answers, Arrays
from export.networks import Rows
from export.spec import Discrete, Field, Fields, Source
from export.tables import NO_TABLE, Table, of_array
from export.tables.keys import said
from export.trained import TrainedPolicy

# Of the range of all values: what is less than this share is taken for rounding.
_COUNTS = 1e-5


class Cells(nn.Module):
    """Gathers the row of a table ``[S, A]`` that whole numbers ``obs[N, K]`` name; NaN where one is out of range.

    The states lie row-major over axes of ``sizes`` that begin at ``lows``. Each number is held to its own axis before
    the row is counted: one too high would else be a row of the next.
    """

    table: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor
    strides: torch.Tensor

    def __init__(self, table: torch.Tensor, lows: tuple[int, ...], sizes: tuple[int, ...]) -> None:
        super().__init__()
        strides = [math.prod(sizes[at + 1 :]) for at in range(len(sizes))]
        self.register_buffer("table", table)
        self.register_buffer("first", torch.tensor(lows))
        self.register_buffer("last", torch.tensor([low + size - 1 for low, size in zip(lows, sizes, strict=True)]))
        self.register_buffer("strides", torch.tensor(strides))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        known = (obs >= self.first) & (obs <= self.last)
        inside = torch.minimum(torch.maximum(obs, self.first), self.last) - self.first
        rows = torch.index_select(self.table, 0, (inside * self.strides).sum(dim=1))
        return torch.where(known.all(dim=1, keepdim=True), rows, torch.nan)


def tabular(given: NDArray[np.generic] | Table, sha256: str, library: str = "numpy") -> TrainedPolicy:
    """Build a policy from a Q-table ``[*axes, A]``: its observation is a whole number for each axis of states.

    One axis is the field ``state``, several are ``state_0``, ``state_1`` and so on. Raises CheckpointRefused where a
    value is none that float32 has.
    """
    table = given if isinstance(given, Table) else of_array(given, "the table", NO_TABLE)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = table.values.astype(np.float32).reshape(-1, table.values.shape[-1])
    if not np.isfinite(rounded).all():
        msg = "the table holds values that are NaN, infinite or beyond float32"
        raise CheckpointRefused(msg)
    _refuse_lost(table, rounded)
    plain = table.lows == (0,)
    rows = torch.from_numpy(rounded)
    what = "row of the table" if len(table.sizes) == 1 else f"row of the table, over {len(table.sizes)} axes row-major"
    return TrainedPolicy(
        module=Rows(rows) if plain else Cells(rows, table.lows, table.sizes),
        observation=Fields(fields=_fields(table), dtype="int64"),
        action=Discrete(names=_names(table)),
        family="tabular",
        inside=(f"{what}; NaN for a state that it does not have", *([table.missing] if table.missing else [])),
        source=Source(library=library, algorithm="Q-table", checkpoint_sha256=sha256),
        native=_array_answers(table) if table.by_state is None else _dict_answers(table, table.by_state),
        native_name=f"numpy {np.__version__}" if table.by_state is None else "the values of the file, state by state",
        remarks=table.told,
    )


def _refuse_lost(table: Table, rounded: NDArray[np.float32]) -> None:
    """Refuse values that float32 makes one where they differ by what counts in the table: another action is best then.

    Values that only rounding keeps apart in the file are ties there already.
    """
    values = table.values.reshape(rounded.shape).astype(np.float64)
    rows = np.arange(len(values))
    lost = values.max(axis=1) - values[rows, rounded.argmax(axis=1)]
    counts = lost > _COUNTS * (values.max() - values.min())
    if counts.any():
        worst = int(lost.argmax())
        state = np.unravel_index(worst, table.sizes)
        where = said(tuple(int(at) + low for at, low in zip(state, table.lows, strict=True)))
        msg = (
            f"float32 cannot tell the best actions of {int(counts.sum())} states apart: in the state {where} they "
            f"differ by {lost[worst]:.2g} at values of {np.abs(values[worst]).max():.6g}; subtract the same number "
            "from all values of a state, its largest for instance, and save the table so"
        )
        raise CheckpointRefused(msg)


def _fields(table: Table) -> tuple[Field, ...]:
    several = len(table.sizes) > 1
    return tuple(
        Field(name=f"state_{at}" if several else "state", low=low, high=low + size - 1)
        for at, (low, size) in enumerate(zip(table.lows, table.sizes, strict=True))
    )


def _names(table: Table) -> tuple[str, ...]:
    """Name the actions as the file does, where its names can stand in an artefact."""
    count = table.values.shape[-1]
    plain = tuple(f"action_{index}" for index in range(count))
    fit = all(name and len(name) <= 64 and all("!" <= sign <= "~" for sign in name) for name in table.actions)
    return table.actions if table.actions and fit else plain


def _array_answers(table: Table) -> Answers:
    """Index the table as NumPy does, in its own precision."""

    def answers(inputs: Arrays) -> Arrays:
        places = inputs["obs"].astype(np.int64) - np.array(table.lows)
        rows = np.asarray(table.values[tuple(places.T)])
        return {"q_values": rows, "action": rows.argmax(axis=1)}

    return answers


def _dict_answers(table: Table, by_state: Mapping[tuple[int, ...], NDArray[np.float64]]) -> Answers:
    """Look each state up in the rows as the file has them: no axis and no order of them has a part in that."""

    def answers(inputs: Arrays) -> Arrays:
        states = [tuple(state) for state in inputs["obs"].astype(np.int64).tolist()]
        rows = np.array([by_state.get(state, table.other) for state in states])
        return {"q_values": rows, "action": rows.argmax(axis=1)}

    return answers
