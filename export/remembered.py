"""What training wrappers keep of an episode, put into the graph as memory: stacks of frames, and a time feature.

The service then carries it per session as it does the state of a recurrent network, and callers send one frame.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.errors import OptionInvalid
from export.frames import Axes, Axis, Cut, Padding, cuts_of, images_of, key_of, one_frame, parts_of
from export.meaning import EPISODE_START, Answers, Arrays
from export.networks import Normalised
from export.sb3.native_frames import Stack, frame_stack_observation, vec_frame_stack
from export.sb3.normaliser import Normaliser
from export.spec import Array, Dict, Entry, Field, Fields, Memory
from export.trained import TrainedPolicy


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of the observation under a stack: how it is cut, and what it becomes.

    ``network`` is the space of what the network takes, ``frame`` that of what callers send. ``memory`` holds the frames
    before; ``normaliser`` has, where they were normalised one by one, the statistics of a frame.
    """

    name: str
    cut: Cut
    frames: int
    network: Fields | Array
    frame: Fields | Array
    memory: Memory
    normaliser: Normaliser | None

    def normalise(self, frame: NDArray[np.generic]) -> NDArray[np.generic]:
        """Normalise one frame as VecNormalize does, in NumPy for the proof."""
        if self.normaliser is None:
            return frame.astype(self.memory.dtype)
        running = self.normaliser.stats[key_of(self.name)]
        scaled = (frame.astype(np.float64) - running.mean) / np.sqrt(running.var + self.normaliser.epsilon)
        return np.asarray(np.clip(scaled, -self.normaliser.clip, self.normaliser.clip), dtype=np.float32)

    def module(self) -> nn.Module | None:
        """Give the same as a torch module; None where frames are not normalised."""
        if self.normaliser is None:
            return None
        running = self.normaliser.stats[key_of(self.name)]
        return Normalised(running.mean, running.var, self.normaliser.epsilon, self.normaliser.clip)


def is_of_frames(normaliser: Normaliser, policy: TrainedPolicy, frames: int) -> bool:
    """Say whether statistics are those of one of so many frames that the policy takes as a stack."""
    return one_frame({key: normaliser.stats[key].mean.size for key in _normalised(normaliser)}, policy, frames)


def stacked(
    policy: TrainedPolicy,
    frames: int,
    padding: Padding = "zero",
    *,
    axes: Axes | None = None,
    of_frame: Normaliser | None = None,
) -> TrainedPolicy:
    """Have a policy over ``frames`` stacked observations take one at a time; the newest stands last.

    Vectors are stacked end to end, images along their channels, other arrays along their last axis, and the entries of
    a Dict each along its own (see ``cuts_of``); ``axes`` says otherwise. At the start of an episode the places of
    frames that have not been are zeros, as SB3's VecFrameStack fills them, or (``first``) copies of the first one, as
    Gymnasium's FrameStackObservation does. ``of_frame`` are statistics by which each frame is normalised before it is
    stacked. Raises OptionInvalid where the observation is not so many frames.
    """
    parts = _parts(policy, frames, padding, axes, of_frame)
    begun = Memory(name="begun", shape=(1,), meaning="0 before the first frame of an episode, then 1")
    extra = (*(part.memory for part in parts), *((begun,) if padding == "first" else ()))
    space = policy.observation
    return replace(
        policy,
        module=Stacked(policy.module, parts, padding),
        observation=Dict(entries=tuple(Entry(key=key_of(part.name), space=part.frame) for part in parts))
        if isinstance(space, Dict)
        else parts[0].frame,
        memory=(*policy.memory, *extra),
        inside=(*(_said(part, padding) for part in parts), *policy.inside),
        native=None if policy.native is None else _native_stacked(policy, parts, padding),
    )


def _parts(
    policy: TrainedPolicy, frames: int, padding: Padding, axes: Axes | None, of_frame: Normaliser | None
) -> tuple[Part, ...]:
    known = {} if of_frame is None else _known(policy, of_frame)
    cuts = cuts_of(policy, frames, padding, axes=axes, known=known)
    found: list[Part] = []
    for name, space in parts_of(policy):
        cut, normaliser = cuts[name], of_frame if name in known else None
        before = (*cut.frame[: cut.axis], cut.length * (frames - 1), *cut.frame[cut.axis + 1 :])
        told = {
            "name": _memory_name(name, [part.memory.name for part in found]),
            "shape": before,
            "dtype": "float32" if normaliser is not None or space.dtype == "float64" else space.dtype,
            "meaning": f"the {frames - 1} frames{f' of {name}' if key_of(name) else ''} before, oldest first",
        }
        found.append(Part(name, cut, frames, space, _one(space, cut), Memory.model_validate(told), normaliser))
    return tuple(found)


def _known(policy: TrainedPolicy, of_frame: Normaliser) -> dict[str, tuple[int, ...]]:
    """Give the shapes of the frames that there are statistics of."""
    keys = {name: key_of(name) for name, _ in parts_of(policy)}
    return {name: of_frame.stats[key].mean.shape for name, key in keys.items() if key in _normalised(of_frame)}


def _normalised(normaliser: Normaliser) -> tuple[str, ...]:
    return tuple(normaliser.norm_obs_keys or normaliser.stats) if normaliser.norm_obs else ()


def _memory_name(port: str, taken: list[str]) -> str:
    """Name the memory of a tensor's frames: an identifier, other than those taken."""
    name = "frames" + re.sub(r"\W", "_", port.removeprefix("obs").replace(".", "_", 1))[:50]
    while name in taken:
        name += "_"
    return name


def _one(space: Fields | Array, cut: Cut) -> Fields | Array:
    """Give the space of one frame; fields have the newest frame's bounds and units under the first frame's names."""
    if isinstance(space, Array):
        return space.model_copy(update={"shape": cut.frame})
    named = zip(space.fields[: cut.length], space.fields[-cut.length :], strict=True)
    fields: tuple[Field, ...] = tuple(newest.model_copy(update={"name": first.name}) for first, newest in named)
    return Fields(fields=fields, dtype=space.dtype)


def _said(part: Part, padding: Padding) -> str:
    """Say for people what is stacked; an axis only where it is not the first."""
    of = f"{part.name}: " if key_of(part.name) else ""
    on = " on the last axis" if part.cut.axis else ""
    return f"{of}stack of {part.frames} frames{on}, newest last, {padding} at the start of an episode"


class Stacked(nn.Module):
    """Puts the frames before and the newest one together for the network, and hands the newest ones on."""

    def __init__(self, network: nn.Module, parts: Sequence[Part], padding: Padding) -> None:
        super().__init__()
        self.network, self.padding = network, padding
        self.parts = [(part.frames, part.cut.axis + 1, part.cut.length) for part in parts]
        # The first by itself, so that its tensors keep the names that they have in files written before.
        self.per_frame, *others = (part.module() or nn.Identity() for part in parts)
        self.per_other = nn.ModuleList(others)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        count = len(self.parts)
        kept = inputs[len(inputs) - count - (self.padding == "first") :]
        rest = inputs[count : len(inputs) - len(kept)]
        newest = [
            normalise(obs).to(memory.dtype)
            for normalise, obs, memory in zip((self.per_frame, *self.per_other), inputs, kept, strict=False)
        ]
        before: Sequence[torch.Tensor] = kept[:count]
        after: tuple[torch.Tensor, ...] = ()
        if self.padding == "first":
            begun = kept[-1]
            before = [self._filled(*one, begun) for one in zip(self.parts, newest, before, strict=True)]
            after = (torch.ones_like(begun),)
        stacks = [
            torch.cat([old, new], dim=axis) for (_, axis, _), old, new in zip(self.parts, before, newest, strict=True)
        ]
        found = self.network(*stacks, *rest)
        outputs = (found,) if isinstance(found, torch.Tensor) else tuple(found)
        ends = [(slice(None),) * axis + (slice(length, None),) for _, axis, length in self.parts]
        return (*outputs, *(stack[end] for stack, end in zip(stacks, ends, strict=True)), *after)

    @staticmethod
    def _filled(
        part: tuple[int, int, int], newest: torch.Tensor, before: torch.Tensor, begun: torch.Tensor
    ) -> torch.Tensor:
        """Give the frames before, or copies of the newest one where an episode has not begun."""
        copies = torch.cat([newest] * (part[0] - 1), dim=part[1])
        return torch.where(begun.reshape(-1, *[1] * (newest.dim() - 1)) > 0, before, copies)


def _native_stacked(policy: TrainedPolicy, parts: Sequence[Part], padding: Padding) -> Answers:
    """The library's answers to stacks that the library of the wrapper keeps, where it is installed, else NumPy."""
    native, images = policy.native, images_of(policy)
    stacks = {part.name: _stack_of(part, padding, image=part.name in images) for part in parts}

    def answer(inputs: Arrays) -> Arrays:
        given, after = dict(inputs), {}
        for part in parts:
            stack = stacks[part.name](part.normalise(inputs[part.name]), inputs[EPISODE_START].astype(np.bool_))
            given[part.name] = stack
            after[part.memory.port_out.name] = np.split(stack, [part.cut.length], axis=part.cut.axis + 1)[1]
        if padding == "first":
            after["memory.begun.out"] = np.ones_like(inputs["memory.begun.in"])
        assert native is not None  # noqa: S101 - only then is this asked
        return {**native(given), **after}

    return answer


def _stack_of(part: Part, padding: Padding, *, image: bool) -> Stack:
    cut, dtype = part.cut, part.memory.dtype
    if padding == "first":
        found = frame_stack_observation(cut.frame, dtype, part.frames, cut.axis)
    else:
        order: Axis | None = None if cut.by_rule else "last" if cut.axis else "first"
        found = vec_frame_stack(cut.frame, dtype, part.frames, image=image, order=order, expected=part.network.shape)
    return found or _numpy_stack(part, padding)


def _numpy_stack(part: Part, padding: Padding) -> Stack:
    """Keep a stack in NumPy, where no library is there to do it."""
    axis, before = part.cut.axis + 1, np.zeros(0)

    def stack(newest: NDArray[np.generic], starts: NDArray[np.bool_]) -> NDArray[np.generic]:
        nonlocal before
        blank = newest if padding == "first" else np.zeros_like(newest)
        fresh = np.concatenate([blank] * (part.frames - 1), axis=axis)
        kept = before if before.shape == fresh.shape else fresh
        before = np.where(starts.reshape(-1, *[1] * (newest.ndim - 1)), fresh, kept)
        found = np.concatenate([before, newest], axis=axis)
        before = np.split(found, [part.cut.length], axis=axis)[1]
        return found

    return stack


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
