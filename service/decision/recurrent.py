"""Recurrent state: what a policy carries from step to step, on its way into a run, out of it and into the record.

A memory is known where an episode starts, and after a step that the same version was run for. Nobody makes one up: a
row whose memory is not here falls back, until an episode starts.
"""

from collections.abc import Sequence

import numpy as np

from guards.errors import InferenceFailed, PolicyUnavailable
from service.decision.batch import Batch, Request
from service.decision.record import packed_rows
from service.decision.sessions import RecurrentState
from service.log.records import MEMORY_LIMIT, Decision, Packed, unlisted
from service.versions.engine import Engine, ModelOutput

# So many steps are run together where those of earlier processes are.
REPLAYED_ROWS = 32


def lost_rows(batch: Batch) -> list[int]:
    """The rows whose memory is not here."""
    return [i for i, request in enumerate(batch.requests) if _before(request, batch.engine) is None]


def stacked_states(batch: Batch) -> tuple[np.ndarray, ...]:
    """What goes into the network for rows whose memory is here: one [N, ...] for each that the policy has."""
    values = [before for one in batch.requests if (before := _before(one, batch.engine)) is not None]
    return tuple(np.stack(rows) for rows in zip(*values, strict=True))


def logged_states(batch: Batch) -> list[dict[str, Packed]] | None:
    """What the log says of it, by name and row: nothing where it is too large to be logged, None where it has none."""
    engine = batch.engine
    if not engine.initial or not isinstance(batch.output, ModelOutput):
        return None
    if sum(one.size for one in engine.initial) > MEMORY_LIMIT:
        return [{}] * len(batch.requests)
    names = [one.name for one in engine.manifest.memory]
    packed = [packed_rows(memory) for memory in stacked_states(batch)]
    return [dict(zip(names, row, strict=True)) for row in zip(*packed, strict=True)]


def states_after(output: ModelOutput | PolicyUnavailable, digest: str) -> dict[int, RecurrentState]:
    """What is known after the step, by row; where it holds what is no number, it is lost."""
    if not isinstance(output, ModelOutput) or not output.memory:
        return {}
    count = len(output.head)
    finite = np.all([np.isfinite(one).reshape(count, -1).all(axis=1) for one in output.memory], axis=0)
    # Copies: a row of the batch would keep all of it alive.
    return {
        i: RecurrentState(digest, tuple(one[i].copy() for one in output.memory))
        for i in np.flatnonzero(finite).tolist()
    }


def replayed_states(
    decisions: Sequence[Decision], observation: np.ndarray, engine: Engine
) -> dict[int, RecurrentState]:
    """What is known after the steps of earlier decisions, by row: the version is run once more for what was logged.

    Not of a step that it was not run for, or another version was; nor of one whose memory was too large for the log,
    unless an episode began with it.
    """
    before = {i: values for i, one in enumerate(decisions) if (values := _logged(one, engine)) is not None}
    rows, found = list(before), dict[int, RecurrentState]()
    for at in range(0, len(rows), REPLAYED_ROWS):
        part = rows[at : at + REPLAYED_ROWS]
        mask = np.array([_mask(decisions[i], engine) for i in part]) if engine.masked else None
        try:
            memory = tuple(np.stack(values) for values in zip(*(before[i] for i in part), strict=True))
            inputs = engine.inputs(observation[part], mask, memory)
            answer = engine.infer(inputs) if engine.inline else engine.run(inputs, None)
        except (InferenceFailed, ValueError):
            continue
        found |= {part[i]: memory for i, memory in states_after(answer, engine.digest).items()}
    return found


def _logged(decision: Decision, engine: Engine) -> tuple[np.ndarray, ...] | None:
    """The memory before a decision's step, None where it is not known or the version was not run."""
    if decision.memory is None or decision.digest != engine.digest:
        return None
    if decision.memory:
        names = [one.name for one in engine.manifest.memory]
        return tuple(decision.memory[name].array() for name in names) if set(names) <= set(decision.memory) else None
    return engine.initial if decision.state.known and decision.state.step == 0 else None


def _mask(decision: Decision, engine: Engine) -> np.ndarray:
    if decision.mask is None:
        return np.ones(engine.manifest.action.width, dtype=np.bool_)
    return unlisted(decision.mask, "bool")


def _before(request: Request, engine: Engine) -> tuple[np.ndarray, ...] | None:
    return None if request.entry is None else request.entry.split_by_state(engine.digest, engine.initial)
