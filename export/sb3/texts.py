"""Spaces as gym and gymnasium of all times print them, read back from those texts."""

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from export.errors import CheckpointRefused
from export.sb3.checkpoint import Sb3Checkpoint, literal, whole
from export.sb3.pickled_spaces import Bounds

# What gym once wrote for "no bound": the largest float32.
_UNBOUNDED = 3.4e38
_MOST = 65536
# An image's bounds, and how much a text rounds a number of float32 (with NumPy's eight digits) at most.
_PIXELS = (0.0, 255.0)
_ROUNDED = 1e-6
# So many numbers NumPy prints in full, unless training told it otherwise.
_IN_FULL = 1000
_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_ENTRY = re.compile(rf"({_QUOTED})\s*[:,]\s*(\w+)\(")


@dataclass(frozen=True, slots=True)
class Space:
    """What a text says of a gym space.

    ``sizes`` are the numbers of choices of a Discrete or MultiDiscrete, ``starts`` where they begin to count.
    ``low`` and ``high`` are a Box's bounds row by row, None where a number has none; empty where NumPy left out the
    middle of a long array. ``pixels`` says that nothing that is known of the bounds differs from 0 and 255.
    ``spaces`` are the parts of a Dict, in its order.
    """

    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    sizes: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    pixels: bool = field(default=True, compare=False)
    spaces: tuple[tuple[str, "Space"], ...] = ()

    @property
    def image(self) -> bool:
        """Whether SB3 takes it for an image: three axes of whole numbers from 0 to 255, unless it is seen to differ."""
        return self.kind == "Box" and len(self.shape) == 3 and self.dtype == "uint8" and self.pixels


def space_of(found: Sb3Checkpoint, key: str) -> Space:
    """Read ``observation_space`` or ``action_space``; raises CheckpointRefused where the text does not say it all."""
    text = found.texts.get(key)
    named = re.search(r"(\w+)'>$", str(text.get(":type:", ""))) if isinstance(text, dict) else None
    if named is None or not isinstance(text, dict):
        msg = f"the zip's {key} exists only in pickled form, which is never opened"
        raise CheckpointRefused(msg)
    return _of_attributes(named[1], text, f"the {key.replace('_', ' ')}", found.bounds.get(key, {}))


def _of_attributes(kind: str, text: Mapping[str, object], what: str, exact: Mapping[str, Bounds]) -> Space:
    """Read a space whose attributes SB3 wrote one by one; ``exact`` are bounds by key that were pickled beside them."""
    if kind == "Discrete":
        sizes = (whole(literal(text.get("n")), "the space's n", _MOST),)
        return Space(kind, sizes=sizes, starts=integers(text.get("start", 0), what))
    if kind == "MultiDiscrete":
        return _multi_discrete(text.get("nvec"), text.get("start", 0), what)
    if kind == "MultiBinary":
        return _multi_binary(text.get("n"), what)
    if kind == "Dict":
        return Space(kind, spaces=tuple(_parts(text.get("spaces"), what, exact)))
    if kind != "Box":
        msg = f"{what} is {kind}, expected Box, Discrete, MultiDiscrete, MultiBinary or Dict"
        raise CheckpointRefused(msg)
    shape = _shape(text.get("_shape", text.get("shape")), what)
    told = [text.get(f"{side}_repr") or text.get(side) for side in ("low", "high")]
    return _box(shape, str(text.get("dtype", "float32")), told, what, exact.get(""))


def _box(shape: tuple[int, ...], dtype: str, told: Sequence[object], what: str, exact: Bounds | None) -> Space:
    """Make a Box of the texts of its bounds, and of the ``exact`` ones where there are some of its shape.

    Texts are rounded, to whatever precision training had NumPy print, and may leave the middle of an array out.
    """
    sides = [bounds(text, math.prod(shape), what) for text in told]
    pixels = [set(_words(text)) - {"..."} for text in told]
    if exact is None or any(side.shape != shape for side in exact):
        seen = all({float(word) for word in words} <= {value} for words, value in zip(pixels, _PIXELS, strict=True))
        return Space("Box", shape, dtype, sides[0], sides[1], pixels=seen)
    low, high = (_closer(side, array) for side, array in zip(sides, exact, strict=True))
    seen = all(bool((array == value).all()) for array, value in zip(exact, _PIXELS, strict=True))
    return Space("Box", shape, dtype, low, high, pixels=seen)


def _closer(told: tuple[float | None, ...], exact: NDArray[np.float64]) -> tuple[float | None, ...]:
    """Give bounds as they are told, or the exact ones where what was told is rounded by more than float32 rounds.

    No rounding makes an infinite bound: where another number has none, the pickle is of another space than the text.
    """
    numbers = tuple(value if abs(value) < _UNBOUNDED else None for value in exact.reshape(-1).tolist())
    if not told:
        return numbers if len(numbers) <= _IN_FULL and not np.isnan(exact).any() else told
    pairs = list(zip(told, numbers, strict=True))
    if np.isnan(exact).any() or any((a is None) != (b is None) for a, b in pairs):
        return told
    rounded = any(a is not None and b is not None and abs(a - b) > _ROUNDED * abs(b) for a, b in pairs)
    return numbers if rounded else told


def _parts(text: object, what: str, exact: Mapping[str, Bounds]) -> Iterator[tuple[str, Space]]:
    """Read the parts of a Dict, which SB3 wrote as one text: ``{'a': Box(...), ...}`` or ``OrderedDict([('a', ...``."""
    if not isinstance(text, str) or len(text) > _MOST * 16:
        msg = f"{what} is a Dict whose parts exist only in pickled form, which is never opened"
        raise CheckpointRefused(msg)
    at = 0
    while entry := _ENTRY.search(text, at):
        arguments, at = _arguments(text, entry.end(), what)
        key = str(ast.literal_eval(entry[1]))
        yield key, _of_arguments(entry[2], arguments, f"{what}'s part {key!r}", exact.get(key))
    if at == 0:
        msg = f"{what} is a Dict with the parts {text[:60]!r}, which cannot be read"
        raise CheckpointRefused(msg)


def _arguments(text: str, at: int, what: str) -> tuple[list[str], int]:
    """Split what stands between an open bracket before ``at`` and its close at the commas outside other brackets."""
    parts, depth, start = [], 0, at
    for end in range(at, len(text)):
        letter = text[end]
        if letter in "([":
            depth += 1
        elif depth == 0 and letter in "),":
            parts.append(text[start:end].strip())
            start = end + 1
            if letter == ")":
                return parts, start
        elif letter in ")]":
            depth -= 1
    msg = f"{what} is a Dict with the parts {text[:60]!r}, which end in the middle"
    raise CheckpointRefused(msg)


def _of_arguments(kind: str, arguments: list[str], what: str, exact: Bounds | None) -> Space:
    """Read a space from the arguments of its ``repr``."""
    start = arguments[-1].removeprefix("start=") if arguments[-1].startswith("start=") else 0
    if kind == "Discrete":
        return Space(kind, sizes=integers(arguments[0], what), starts=integers(start, what))
    if kind == "MultiDiscrete":
        return _multi_discrete(arguments[0], start, what)
    if kind == "MultiBinary":
        return _multi_binary(arguments[0], what)
    if kind != "Box" or len(arguments) != 4:
        msg = f"{what} is {kind}({', '.join(arguments)[:60]}), expected Box(low, high, shape, dtype) or whole numbers"
        raise CheckpointRefused(msg)
    return _box(_shape(arguments[2], what), arguments[3], arguments[:2], what, exact)


def _multi_discrete(sizes: object, starts: object, what: str) -> Space:
    found = integers(sizes, what)
    if str(sizes).count("[") > 1 or not found or not all(1 <= size <= _MOST for size in found):
        msg = f"{what} has the numbers of choices {str(sizes)[:60]!r}, expected one list of them"
        raise CheckpointRefused(msg)
    return Space("MultiDiscrete", (len(found),), "int64", sizes=found, starts=integers(starts, what))


def _multi_binary(size: object, what: str) -> Space:
    return Space("MultiBinary", _shape(integers(size, what), what), "int64")


def integers(text: object, what: str) -> tuple[int, ...]:
    """Read whole numbers from a number, a list, or the text of either; refuses a text with a part left out."""
    words = re.sub(r"[][(),]", " ", str(text)).split()
    if not words or not all(re.fullmatch(r"-?\d{1,9}", word) for word in words):
        msg = f"{what} has {str(text)[:60]!r}, expected whole numbers"
        raise CheckpointRefused(msg)
    return tuple(int(word) for word in words)


def bounds(text: object, count: int, what: str = "the observation space") -> tuple[float | None, ...]:
    """Read ``count`` bounds from the text of an array, or of the one number that all of them are.

    None stands for a bound that is infinite; empty is what comes of a text that leaves the middle of an array out.
    """
    words = _words(text)
    # NumPy prints long arrays with "..." in the middle.
    if "..." in words:
        return ()
    try:
        known = tuple(value if abs(value) < _UNBOUNDED else None for value in map(float, words))
    except ValueError as error:
        msg = f"the bounds {str(text)[:60]!r} of {what} are not numbers"
        raise CheckpointRefused(msg) from error
    if len(known) == count:
        return known
    return known * count if len(known) == 1 else ()


def _words(text: object) -> list[str]:
    return str(text).replace("[", " ").replace("]", " ").split() if text is not None else []


def _shape(value: object, what: str) -> tuple[int, ...]:
    shape = literal(value)
    if not isinstance(shape, (list, tuple)) or not 1 <= len(shape) <= 4:
        msg = f"{what} has the shape {shape!r}, expected one to four sizes"
        raise CheckpointRefused(msg)
    sizes = tuple(whole(size, f"a size of {what}", _MOST) for size in shape)
    if math.prod(sizes) > 1 << 24:
        msg = f"{what} has the shape {shape!r}, expected at most {1 << 24} numbers"
        raise CheckpointRefused(msg)
    return sizes
