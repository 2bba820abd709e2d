"""Playing an exhibit of the gallery over HTTP: what is asked, what the source does, and what torch says of the odds."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import AffineTransform, Categorical, Normal, TanhTransform, TransformedDistribution

from export.meaning import Arrays, Meaning
from export.questions import Trial, sizes_of, trials
from export.runtime import Session
from export.spec import MASK, Box, Dict
from export.spec.artefact import Artefact
from tests.export.gallery.exhibit import Exhibit, Native

# Posts a request to ``/act`` and gives the answer.
Ask = Callable[[dict[str, object]], Awaitable[Mapping[str, Any]]]
SESSIONS, STEPS, RESET = 2, 24, 9
# Nearer to a bound than this share of its range, an executed number does not say any more what was squashed.
_RESOLVED = 1e-9


@dataclass(frozen=True, slots=True)
class Answered:
    """One decision over HTTP, with what the source does on the same observation and what torch gives for it.

    ``head`` are the outputs of what was read, in torch, and ``served`` those of the file: one row each. Where the
    policy explores there is no ``native``, and where it does not the file is not asked by itself.
    """

    allowed: NDArray[np.generic] | None
    told: Mapping[str, Any]
    native: NDArray[np.generic] | None
    head: Arrays
    served: Arrays | None


def trial_of(meaning: Meaning, count: int) -> Trial:
    """Make observations: ``count`` at once, or for a policy with memory two sessions, one of which begins anew."""
    (trial,) = trials(meaning, None, seed=77)
    if not meaning.memory:
        return Trial({name: rows[:, -count:] for name, rows in trial.inputs.items()}, trial.starts[:, -count:])
    starts = trial.starts[:STEPS, :SESSIONS].copy()
    starts[RESET, 1] = True
    return Trial({name: rows[:STEPS, :SESSIONS] for name, rows in trial.inputs.items()}, starts)


async def played(
    ask: Ask, exhibit: Exhibit, made: Artefact, trial: Trial, *, explore: bool, masks: bool = False
) -> list[Answered]:
    """Play a trial over HTTP, step by step, its sessions interleaved; ``masks`` forbids some of every second choice.

    The source plays beside it, and so does what was read of it, with its memory carried by hand. The file is asked with
    that same memory.
    """
    meaning, file, found = exhibit.meaning, Session(made.data), list[Answered]()
    natives: dict[int, Native] = {}
    carried: dict[int, Arrays] = {}
    previous: dict[int, str | None] = {}
    drawn = np.random.default_rng(5)
    for step, session in np.ndindex(trial.starts.shape):
        inputs = {name: array[step, session : session + 1] for name, array in trial.inputs.items()}
        if trial.starts[step, session]:
            natives[session], carried[session], previous[session] = exhibit.begin(1), _initial(meaning), None
        allowed = inputs[MASK][0] if MASK in inputs else None
        if masks and allowed is None and session % 2 and sizes_of(meaning):
            allowed = _mask(meaning, drawn)
        told = await ask(_request(meaning, inputs, allowed, session, previous[session], explore=explore))
        network = {**inputs, **carried[session]}
        head = exhibit.answers(network)
        native, served = (None, file.run(network)) if explore else (natives[session](inputs), None)
        found.append(Answered(allowed, told, native, head, served))
        carried[session] = {memory.port_in.name: head[memory.port_out.name] for memory in meaning.memory}
        previous[session] = told["decision_id"]
    return found


def _request(
    meaning: Meaning,
    inputs: Arrays,
    allowed: NDArray[np.generic] | None,
    session: int,
    previous: str | None,
    *,
    explore: bool,
) -> dict[str, object]:
    told: dict[str, object] = {
        "session": f"session-{session}",
        "observation": spoken(meaning, inputs),
        "previous": previous,
        "explore": explore,
    }
    return told if allowed is None else told | {"allowed": allowed.tolist()}


def spoken(meaning: Meaning, inputs: Arrays) -> object:
    """Say the first row of an observation as callers do: a list, nested lists, or an object of its parts."""
    if isinstance(meaning.observation, Dict):
        return {entry.key: inputs[f"obs.{entry.key}"][0].tolist() for entry in meaning.observation.entries}
    return inputs["obs"][0].tolist()


def _initial(meaning: Meaning) -> Arrays:
    return {one.port_in.name: np.full((1, *one.shape), one.initial, dtype=one.dtype) for one in meaning.memory}


def _mask(meaning: Meaning, drawn: np.random.Generator) -> NDArray[np.bool_]:
    """Forbid some choices of every factor, never all of one."""
    parts = []
    for size in sizes_of(meaning):
        part = drawn.random(size) < 0.5
        part[drawn.integers(size)] = True
        parts.append(part)
    return np.concatenate(parts)


def resolved(meaning: Meaning, one: Answered) -> bool:
    """Say whether the executed action tells what was drawn: a squashed number on its bound does not."""
    if meaning.squash == "none" or not isinstance(meaning.action, Box):
        return True
    action, low, high = (np.ravel(part) for part in (one.told["action"], meaning.action.low, meaning.action.high))
    return bool((np.minimum(action - low, high - action) > _RESOLVED * (high - low)).all())


def odds(meaning: Meaning, one: Answered, head: Arrays, noise: float) -> tuple[float, str]:
    """Give torch's own probability or density of what was executed, and which of both it is, in double precision.

    ``head`` are the outputs that the distribution is made of, one row each.
    """
    action = torch.tensor(one.told["action"], dtype=torch.float64).reshape(-1)
    if not isinstance(meaning.action, Box):
        return _of_choices(meaning, one.allowed, head, action), "mass"
    mean, std = (torch.from_numpy(head[name][0].astype(np.float64)) for name in ("mean", "std"))
    low, high = (torch.tensor(bound, dtype=torch.float64) for bound in (meaning.action.low, meaning.action.high))
    if noise:
        std = torch.hypot(std, noise * (high - low))
    if not std.any():
        return 1.0, "mass"
    if meaning.squash == "tanh":
        squash = [TanhTransform(cache_size=1), AffineTransform((low + high) / 2, (high - low) / 2)]
        density = TransformedDistribution(Normal(mean, std), squash).log_prob(action)  # type: ignore[no-untyped-call]
        return float(density.sum().exp()), "density"
    return _clipped(Normal(mean, std), action, low, high)


def _clipped(normal: Normal, action: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> tuple[float, str]:
    """A number on a bound has the mass beyond it, any other its density."""
    # The other tail is the mirror image: 1 - cdf would lose what little is left there.
    mirrored = Normal(-normal.loc, normal.scale)
    below, above = normal.cdf(low), mirrored.cdf(-high)  # type: ignore[no-untyped-call]
    inside = normal.log_prob(action).exp()  # type: ignore[no-untyped-call]
    atoms = (action <= low) | (action >= high)
    measure = "mass" if bool(atoms.all()) else "mixed" if bool(atoms.any()) else "density"
    return float(torch.where(action <= low, below, torch.where(action >= high, above, inside)).prod()), measure


def _of_choices(meaning: Meaning, allowed: NDArray[np.generic] | None, head: Arrays, action: torch.Tensor) -> float:
    """The product of what each choice has of its factor, over what is allowed."""
    numbers = torch.from_numpy(head[meaning.outputs[0].name][0].astype(np.float64))
    if allowed is not None:
        numbers = torch.where(torch.from_numpy(allowed), numbers, -torch.inf)
    chances = [
        Categorical(logits=part).log_prob(choice).exp()  # type: ignore[no-untyped-call]
        for part, choice in zip(torch.split(numbers, list(sizes_of(meaning))), action, strict=True)
    ]
    return float(torch.stack(chances).prod())
