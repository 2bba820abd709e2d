"""Recurrent state: what a policy carries from step to step, on its way into a run, out of it and into the record.

A memory is known where an episode starts, and after a step that the same version was run for. Nobody makes one up: a
row whose memory is not here falls back, until an episode starts.
"""

from collections.abc import Sequence

import numpy as np

from guards.errors import InferenceFailed, PolicyUnavailable
from service.decision.batch import Request
from service.decision.sessions import RecurrentState
from service.log.records import MEMORY_LIMIT, Decision, Packed, packed_rows, unlisted
from service.versions.engine import Engine, ModelOutput

# So many steps are run together where those of earlier processes are.
REPLAYED_ROWS = 32


def split_by_state(requests: Sequence[Request], engine: Engine) -> tuple[list[Request], list[Request]]:
    """The requests whose memory is here, and those whose memory is not."""
    known: list[Request] = []
    lost: list[Request] = []
    for request in requests:
        (lost if _before(request, engine) is None else known).append(request)
    return known, lost


def stacked_states(requests: Sequence[Request], engine: Engine) -> tuple[np.ndarray, ...]:
    """What goes into the network for requests whose memory is here: one [N, ...] for each that the policy has."""
    values = [before for request in requests if (before := _before(request, engine)) is not None]
    return tuple(np.stack(rows) for rows in zip(*values, strict=True))


def logged_states(requests: Sequence[Request], engine: Engine) -> list[dict[str, Packed]]:
    """What the log says of it, by name and row: nothing where it is too large to be logged."""
    if sum(one.size for one in engine.initial) > MEMORY_LIMIT:
        return [{}] * len(requests)
    names = [one.name for one in engine.manifest.memory]
    packed = [packed_rows(memory) for memory in stacked_states(requests, engine)]
    return [dict(zip(names, row, strict=True)) for row in zip(*packed, strict=True)]


def states_after(answer: ModelOutput | PolicyUnavailable, digest: str) -> dict[int, RecurrentState]:
    """What is known after the step, by row; where it holds what is no number, it is lost."""
    if not isinstance(answer, ModelOutput):
        return {}
    count = len(answer.head)
    finite = np.all([np.isfinite(one).reshape(count, -1).all(axis=1) for one in answer.memory], axis=0)
    # Copies: a row of the batch would keep all of it alive.
    return {
        i: RecurrentState(digest, tuple(one[i].copy() for one in answer.memory))
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
