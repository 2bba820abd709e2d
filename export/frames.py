"""How a stack of frames is cut into frames: which axis training stacked them on, and what one frame is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from export.errors import OptionInvalid
from export.spec import Array, Fields
from export.trained import TrainedPolicy

Axis = Literal["first", "last"]
Padding = Literal["zero", "first"]
# The axis that was asked for by the key of a Dict's entry, or under "" for all that have no other.
Axes = Mapping[str, Axis]
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Cut:
    """One tensor of a stack: frames of the shape ``frame`` side by side on its axis number ``axis``, the batch aside.

    ``by_rule`` says that nobody named the axis: it is the one that the library would take itself.
    """

    axis: int
    frame: tuple[int, ...]
    by_rule: bool

    @property
    def length(self) -> int:
        """How much of the axis one frame has."""
        return self.frame[self.axis]


def key_of(port: str) -> str:
    """Give the key of a Dict's entry by the name of its tensor; "" for an observation without keys."""
    return port.partition(".")[2]


def parts_of(policy: TrainedPolicy) -> tuple[tuple[str, Fields | Array], ...]:
    """Give the observation's tensors: their names and their spaces."""
    space = policy.observation
    if isinstance(space, (Fields, Array)):
        return (("obs", space),)
    return tuple((f"obs.{entry.key}", entry.space) for entry in space.entries)


def images_of(policy: TrainedPolicy) -> tuple[str, ...]:
    """Name the tensors that are images as Stable-Baselines3 sees them: three axes of bytes from 0 to 255."""
    if policy.images is not None:
        return policy.images
    return tuple(
        name
        for name, space in parts_of(policy)
        if isinstance(space, Array)
        and space.dtype == "uint8"
        and len(space.shape) == 3
        and space.low in (None, 0)
        and space.high in (None, 255)
    )


def cuts_of(
    policy: TrainedPolicy,
    frames: int,
    padding: Padding = "zero",
    *,
    axes: Axes | None = None,
    known: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Cut]:
    """Say for every tensor of the observation, by its name, how ``frames`` of them are stacked in it.

    SB3's VecFrameStack stacks images on their channels and any other array on its last axis, Gymnasium's
    FrameStackObservation (padding ``first``) on a new first axis. ``axes`` are the axes that were asked for; ``known``
    are frames' shapes that statistics of one frame show. Raises OptionInvalid where a tensor is not so many frames, or
    may be so many in two ways.
    """
    parts, asked = dict(parts_of(policy)), axes or {}
    keys = [key_of(name) for name in parts if key_of(name)]
    if unknown := sorted(asked.keys() - {*keys, ""}):
        there = ", ".join(keys) or "it has none"
        msg = f"--frame-axis names {', '.join(unknown)}, expected keys of the observation: {there}"
        raise OptionInvalid(msg)
    images = images_of(policy)
    found = {}
    for name, space in parts.items():
        shown = (known or {}).get(name)
        axis = asked.get(key_of(name), asked.get(""))
        if shown is not None:
            found[name] = _shown(name, space.shape, frames, axis, shown)
        else:
            found[name] = _cut(name, space.shape, frames, axis, padding, image=name in images)
    return found


def _cut(name: str, shape: tuple[int, ...], frames: int, asked: Axis | None, padding: Padding, *, image: bool) -> Cut:
    last = len(shape) - 1
    fits = {axis: frame for axis in (0, last) if (frame := _frame(shape, frames, axis)) is not None}
    if asked is not None or last == 0:
        axis = 0 if asked == "first" else last
        if axis not in fits:
            raise OptionInvalid(_odd(name, shape, frames, axis))
        return Cut(axis, fits[axis], by_rule=asked is None)
    # A frame whose channels, as SB3 finds them, are on another axis was never stacked on this one.
    readings = {axis: frame for axis, frame in fits.items() if not image or _channels(frame) == axis}
    if len(readings) > 1:
        raise OptionInvalid(_two(name, shape, frames, readings))
    rule = _channels(shape) if image else 0 if padding == "first" else last
    if not readings or (not image and rule not in readings):
        other = "".join(f"; {_told(axis, frame)}" for axis, frame in fits.items())
        raise OptionInvalid(_odd(name, shape, frames, rule) + other)
    ((axis, frame),) = readings.items()
    return Cut(axis, frame, by_rule=True)


def _shown(name: str, shape: tuple[int, ...], frames: int, asked: Axis | None, frame: tuple[int, ...]) -> Cut:
    """Cut as the statistics of one frame show."""
    for axis in (0, len(shape) - 1):
        if _frame(shape, frames, axis) == frame and asked in (None, "first" if axis == 0 else "last"):
            return Cut(axis, frame, by_rule=False)
    where = f" on the {asked} axis" if asked is not None else ""
    msg = f"the statistics of {name} are of frames {list(frame)}, of which {frames}{where} do not make {list(shape)}"
    raise OptionInvalid(msg)


def _frame(shape: tuple[int, ...], frames: int, axis: int) -> tuple[int, ...] | None:
    """Give the shape of one of so many frames on an axis; None where it is not that many."""
    if frames < 2 or shape[axis] % frames:
        return None
    return (*shape[:axis], shape[axis] // frames, *shape[axis + 1 :])


def _channels(shape: tuple[int, ...]) -> int:
    """Give the axis of an image's channels as SB3 does (``is_image_space_channels_first``): where it is smallest."""
    return 0 if shape.index(min(shape)) == 0 else 2


def _odd(name: str, shape: tuple[int, ...], frames: int, axis: int) -> str:
    length = shape[axis]
    divisors = [str(n) for n in range(2, length + 1) if length % n == 0]
    fitting = f"{', '.join(divisors[:_SHOWN])}{', ...' if len(divisors) > _SHOWN else ''}" or "none"
    which = "" if len(shape) == 1 else f"the {'first' if axis == 0 else 'last'} axis of "
    return (
        f"--frame-stack is {frames}, expected a number from 2 that divides {which}{name} {list(shape)}, "
        f"which is {length} ({fitting})"
    )


def _two(name: str, shape: tuple[int, ...], frames: int, fits: Mapping[int, tuple[int, ...]]) -> str:
    return (
        f"--frame-stack {frames} fits {name} {list(shape)} in two ways: "
        f"{', or '.join(_told(axis, frame) for axis, frame in fits.items())} "
        "(SB3's VecFrameStack stacks images of bytes on their channels and other arrays on the last axis, "
        "Gymnasium's FrameStackObservation on the first)"
    )


def _told(axis: int, frame: tuple[int, ...]) -> str:
    which = "first" if axis == 0 else "last"
    return f"say --frame-axis {which} for frames {list(frame)} on the {which} axis"


def axes_of(words: Sequence[str]) -> dict[str, Axis]:
    """Read ``first``, ``last`` or ``key=first`` for entries of a Dict; raises OptionInvalid for anything else."""
    found: dict[str, Axis] = {}
    for word in words:
        key, _, axis = word.rpartition("=")
        if axis not in ("first", "last") or key in found:
            msg = f"--frame-axis is {','.join(words)!r}, expected first or last, or KEY=first,... for a Dict's entries"
            raise OptionInvalid(msg)
        found[key] = "first" if axis == "first" else "last"
    return found


def one_frame(sizes: Mapping[str, int], policy: TrainedPolicy, frames: int) -> bool:
    """Say whether statistics of so many numbers by key are those of one frame of what the policy takes."""
    known = {key_of(name): math.prod(space.shape) for name, space in parts_of(policy)}
    return bool(sizes) and all(key in known and size * frames == known[key] for key, size in sizes.items())
