"""The questions that a policy is asked for its proof: recorded and sampled observations, step by step of episodes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.meaning import EPISODE_START, Answers, Arrays, Meaning
from export.observations import sampled, states
from export.spec import MASK, Discrete, MultiDiscrete, Recorded

SAMPLES = 2000
LARGE_SAMPLES = 1000
_LARGE = 4096  # numbers in one observation, from which on fewer are asked
_STEPS = 100
_ALL_STATES = 65536
_OPEN = 0.6  # the share of actions that a random mask leaves open


@dataclass(frozen=True, slots=True)
class Trial:
    """Episodes side by side: each input ``[T, S, ...]`` (memory left out), and where an episode starts ``[T, S]``."""

    inputs: Mapping[str, NDArray[np.generic]]
    starts: NDArray[np.bool_]

    def __repr__(self) -> str:
        steps, episodes = self.starts.shape
        return f"<Trial {episodes} episodes of {steps} steps>"


@dataclass(frozen=True, slots=True)
class Played:
    """What was asked in a trial, and what was answered, each ``[T * S, ...]``, all episodes of a step together."""

    inputs: Arrays
    outputs: Arrays

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def trials(meaning: Meaning, recorded: Recorded | None, seed: int = 0) -> list[Trial]:
    """Make the questions for a policy: what was recorded first, then what is sampled, the same every time.

    A policy with memory is asked in episodes of 100 steps, any other all at once.
    """
    found = [] if recorded is None else [_of_recorded(meaning, recorded)]
    count = SAMPLES if meaning.observation.size <= _LARGE else LARGE_SAMPLES
    steps = _STEPS if meaning.memory else 1
    rows: dict[str, NDArray[np.generic]] = dict(sampled(meaning.observation, count, seed))
    grid = meaning.family == "tabular"
    everything = {} if meaning.memory else states(meaning.observation, _ALL_STATES, grid=grid)
    rows |= {name: np.concatenate([array, rows[name]]) for name, array in everything.items()}
    if meaning.mask:
        rows[MASK] = _masks(meaning, len(next(iter(rows.values()))), seed)
    return [*found, _trial(rows, steps)]


def _of_recorded(meaning: Meaning, recorded: Recorded) -> Trial:
    """Recorded rows are one long series of steps where they have to be in order, else they are asked all at once."""
    rows = dict(recorded.inputs)
    if meaning.mask and MASK not in rows:
        rows[MASK] = np.ones((len(recorded), meaning.action.width), dtype=np.bool_)
    if not meaning.memory:
        return _trial(rows, 1)
    starts = np.zeros((len(recorded), 1), dtype=np.bool_) if recorded.starts is None else recorded.starts[:, None]
    starts = starts.copy()
    starts[0] = True
    return Trial(inputs={name: array[:, None] for name, array in rows.items()}, starts=starts)


def _trial(rows: Arrays, steps: int) -> Trial:
    episodes = len(next(iter(rows.values()))) // steps
    starts = np.zeros((steps, episodes), dtype=np.bool_)
    starts[0] = True
    inputs = {
        name: array[: steps * episodes].reshape(steps, episodes, *array.shape[1:]) for name, array in rows.items()
    }
    return Trial(inputs=inputs, starts=starts)


def _masks(meaning: Meaning, count: int, seed: int) -> NDArray[np.bool_]:
    """Draw masks[count, W] that leave every factor something; each fourth one forbids nothing."""
    generator = np.random.default_rng(seed + 1)
    parts = []
    for size in sizes_of(meaning):
        part = generator.random((count, size)) < _OPEN
        part[np.arange(count), generator.integers(0, size, count)] = True
        parts.append(part)
    masks = np.concatenate(parts, axis=1)
    masks[::4] = True
    return masks


def sizes_of(meaning: Meaning) -> tuple[int, ...]:
    """The sizes of the choices that an action makes at once; none for a Box."""
    if isinstance(meaning.action, Discrete):
        return (meaning.action.n,)
    return meaning.action.sizes if isinstance(meaning.action, MultiDiscrete) else ()


def play(answers: Answers, meaning: Meaning, trial: Trial, *, starting: bool = False) -> Played:
    """Ask a trial's questions in order, carrying the memory that is answered from step to step.

    Who is ``starting`` its episodes itself is told where they start.
    """
    steps, episodes = trial.starts.shape
    carried = {memory.name: _initial(memory.shape, memory.dtype, memory.initial, episodes) for memory in meaning.memory}
    asked: list[Arrays] = []
    told: list[Arrays] = []
    for step in range(steps):
        inputs = {name: array[step] for name, array in trial.inputs.items()}
        for memory in meaning.memory:
            first = trial.starts[step].reshape(-1, *[1] * len(memory.shape))
            initial = _initial(memory.shape, memory.dtype, memory.initial, episodes)
            inputs[memory.port_in.name] = np.where(first, initial, carried[memory.name])
        outputs = answers(inputs | {EPISODE_START: trial.starts[step]} if starting else inputs)
        carried = {memory.name: outputs[memory.port_out.name] for memory in meaning.memory}
        asked.append(inputs)
        told.append(outputs)
    return Played(inputs=joined(asked), outputs=joined(told))


def _initial(shape: tuple[int, ...], dtype: str, value: float, count: int) -> NDArray[np.generic]:
    return np.full((count, *shape), value, dtype=dtype)


def joined(parts: list[Arrays]) -> Arrays:
    """Put arrays of the same names one after another."""
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
