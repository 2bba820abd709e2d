"""What training wrappers keep of an episode, put into the graph as memory: stacks of frames, and a time feature.

The service then carries it per session as it does the state of a recurrent network, and callers send one frame.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.errors import OptionInvalid
from export.meaning import Answers, Arrays
from export.networks import Normalised
from export.sb3.normaliser import Normaliser
from export.spec import Array, Field, Fields, Memory
from export.trained import TrainedPolicy

Padding = Literal["zero", "first"]
# A normalisation of each frame before it is stacked: as a module, and the same in NumPy for the proof.
PerFrame = tuple[nn.Module, Callable[[NDArray[np.generic]], NDArray[np.generic]]]


def size_of(normaliser: Normaliser) -> int | None:
    """Give how many numbers the statistics of a plain observation are of; None for those of a Dict."""
    return normaliser.stats[""].mean.size if "" in normaliser.stats else None


def per_frame_of(normaliser: Normaliser) -> PerFrame:
    """Make the normalisation of each frame out of statistics of one frame."""
    running = normaliser.stats[""]

    def normalise(frame: NDArray[np.generic]) -> NDArray[np.generic]:
        scaled = (frame.astype(np.float64) - running.mean) / np.sqrt(running.var + normaliser.epsilon)
        return np.asarray(np.clip(scaled, -normaliser.clip, normaliser.clip), dtype=np.float32)

    return Normalised(running.mean, running.var, normaliser.epsilon, normaliser.clip), normalise


def stacked(
    policy: TrainedPolicy, frames: int, padding: Padding = "zero", per_frame: PerFrame | None = None
) -> TrainedPolicy:
    """Have a policy over ``frames`` stacked observations take one at a time; the newest stands last.

    Vectors are stacked end to end, images along their first axis (channels). At the start of an episode the places of
    frames that have not been are zeros, as SB3's VecFrameStack fills them, or (``first``) copies of the first one, as
    Gymnasium's FrameStackObservation does. Raises OptionInvalid where the observation is not so many frames.
    """
    space = policy.observation
    if not isinstance(space, (Fields, Array)) or frames < 2 or space.shape[0] % frames:
        shapes = [list(port.shape) for port in space.inputs]
        msg = f"--frame-stack is {frames}, expected a number from 2 that divides the observation, of the shape {shapes}"
        raise OptionInvalid(msg)
    length = space.shape[0] // frames
    one: Fields | Array
    if isinstance(space, Fields):
        one = Fields(fields=tuple(_named_as_first(space, at, length) for at in range(length)), dtype=space.dtype)
    else:
        one = space.model_copy(update={"shape": (length, *space.shape[1:])})
    dtype = "float32" if per_frame is not None or space.dtype == "float64" else space.dtype
    shape = (length * (frames - 1), *space.shape[1:])
    memory = Memory.model_validate(
        {"name": "frames", "shape": shape, "dtype": dtype, "meaning": f"the {frames - 1} frames before, oldest first"}
    )
    begun = Memory(name="begun", shape=(1,), meaning="0 before the first frame of an episode, then 1")
    extra = (memory, begun) if padding == "first" else (memory,)
    return replace(
        policy,
        module=Stacked(policy.module, length, frames, padding, None if per_frame is None else per_frame[0]),
        observation=one,
        memory=(*policy.memory, *extra),
        inside=(f"stack of {frames} frames, newest last, {padding} at the start of an episode", *policy.inside),
        native=None
        if policy.native is None
        else _native_stacked(policy.native, length, frames, padding, None if per_frame is None else per_frame[1]),
    )


def _named_as_first(space: Fields, at: int, length: int) -> Field:
    """The newest frame's bounds and unit under the first frame's name."""
    newest = space.fields[len(space.fields) - length + at]
    return newest.model_copy(update={"name": space.fields[at].name})


class Stacked(nn.Module):
    """Puts the frames before and the newest one together for the network, and hands the newest ones on."""

    def __init__(
        self, network: nn.Module, length: int, frames: int, padding: Padding, per_frame: nn.Module | None
    ) -> None:
        super().__init__()
        self.network, self.length, self.frames = network, length, frames
        self.padding, self.per_frame = padding, per_frame

    def forward(self, obs: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kept = 2 if self.padding == "first" else 1
        rest, before = others[: len(others) - kept], others[len(others) - kept]
        newest = obs if self.per_frame is None else self.per_frame(obs)
        newest = newest.to(before.dtype)
        after: tuple[torch.Tensor, ...] = ()
        if self.padding == "first":
            begun = others[-1]
            copies = torch.cat([newest] * (self.frames - 1), dim=1)
            before = torch.where(begun.reshape(-1, *[1] * (obs.dim() - 1)) > 0, before, copies)
            after = (torch.ones_like(begun),)
        stack = torch.cat([before, newest], dim=1)
        found = self.network(stack, *rest)
        outputs = (found,) if isinstance(found, torch.Tensor) else tuple(found)
        return (*outputs, stack[:, self.length :], *after)


def _native_stacked(
    native: Answers,
    length: int,
    frames: int,
    padding: Padding,
    per_frame: Callable[[NDArray[np.generic]], NDArray[np.generic]] | None,
) -> Answers:
    """The library's answers to a stack that NumPy keeps."""

    def answer(inputs: Arrays) -> Arrays:
        newest = inputs["obs"] if per_frame is None else per_frame(inputs["obs"])
        before = inputs["memory.frames.in"]
        extra: dict[str, NDArray[np.generic]] = {}
        if padding == "first":
            begun = inputs["memory.begun.in"].reshape(-1)
            before = np.array(
                [
                    row if started else np.concatenate([new] * (frames - 1))
                    for row, new, started in zip(before, newest, begun, strict=True)
                ]
            )
            extra["memory.begun.out"] = np.ones_like(inputs["memory.begun.in"])
        stack = np.concatenate([before, newest.astype(before.dtype)], axis=1)
        own = ("memory.frames.in", "memory.begun.in")
        given = {name: array for name, array in inputs.items() if name not in own} | {"obs": stack}
        return {**native(given), "memory.frames.out": stack[:, length:], **extra}

    return answer


def timed(policy: TrainedPolicy, steps: int) -> TrainedPolicy:
    """Have a policy whose last field is the share of the episode that is left take an observation without it.

    At step t of an episode, from 0, the feature is 1 - t / ``steps``, as the TimeFeatureWrapper of sb3-contrib and of
    RL Baselines3 Zoo has it. Raises OptionInvalid where the observation is not a vector of at least two numbers.
    """
    space = policy.observation
    if not isinstance(space, Fields) or space.dtype != "float32" or len(space.fields) < 2 or steps < 1:
        msg = f"--time-feature is {steps}, expected the number of steps of an episode, for a vector of float32 numbers"
        raise OptionInvalid(msg)
    memory = Memory(name="step", shape=(1,), meaning="steps of the episode so far")
    native = policy.native

    def answer(inputs: Arrays) -> Arrays:
        step = inputs["memory.step.in"]
        seen = np.concatenate([inputs["obs"], (1.0 - step.astype(np.float32) / steps)], axis=1)
        given = {name: array for name, array in inputs.items() if name != "memory.step.in"} | {"obs": seen}
        assert native is not None  # noqa: S101 - only then is this asked
        return {**native(given), "memory.step.out": step.astype(np.float32) + 1}

    return replace(
        policy,
        module=Timed(policy.module, steps),
        observation=Fields(fields=space.fields[:-1], dtype=space.dtype),
        memory=(*policy.memory, memory),
        inside=(f"time feature 1 - step / {steps} appended", *policy.inside),
        native=None if native is None else answer,
    )


class Timed(nn.Module):
    """Appends the share of the episode that is left, and counts the step."""

    def __init__(self, network: nn.Module, steps: int) -> None:
        super().__init__()
        self.network, self.steps = network, steps

    def forward(self, obs: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rest, step = others[:-1], others[-1]
        found = self.network(torch.cat([obs, 1.0 - step / self.steps], dim=1), *rest)
        outputs = (found,) if isinstance(found, torch.Tensor) else tuple(found)
        return (*outputs, step + 1.0)
