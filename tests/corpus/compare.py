"""Comparing: what two trees decided, line by line and bit for bit, but for the arithmetic that may differ at its end.

Bit for bit is everything; only propensities of softmax, and numbers of a Box, may differ by ``TOLERANCE`` (relative),
and how far they do is told.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from tests.corpus.table import Cell
from tests.corpus.worlds import World

TOLERANCE = 1e-12
# Numbers of a Box's decision that its draw is worked out with, or that follow from it.
_DRAWN = ("action", "proposed", "propensity", "moved", "state.action", "state.other", "state.kept")
_SHOWN = 20


@dataclass(slots=True)
class Comparison:
    """What differs: examples of what must not, by field; and the largest relative difference of what may, by cell."""

    lines: int = 0
    wrong: Counter[Cell] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    largest: dict[Cell, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, world: World) -> None:
        """Compare two lines, the second of which may be missing."""
        self.lines += 1
        for where, one, other in differences("", before, after):
            short = where.removeprefix("record.").split("[")[0]
            cell = (world.kind, world.space, world.explorer, short)
            far = apart(one, other) if may_differ(short, world) else None
            if far is not None and far <= TOLERANCE:
                self.largest[cell] = max(self.largest[cell], far)
                continue
            self.wrong[cell] += 1
            if len(self.examples) < _SHOWN:
                row = (before or after or {}).get("n")
                told = f" (by {far:.1e})" if far is not None else ""
                self.examples.append(f"{world.name} row {row}: {where} was {shown(one)}, is {shown(other)}{told}")

    def report(self) -> str:
        """What differs, for people."""
        told = [f"{self.lines} decisions compared; {sum(self.wrong.values())} differences that must not be"]
        told += [f"  {count:7d} {' / '.join(cell)}" for cell, count in self.wrong.most_common(_SHOWN)]
        told += self.examples
        for cell, far in sorted(self.largest.items()):
            told.append(f"  may differ, by {far:.1e} at most: {' / '.join(cell)}")
        return "\n".join(told)


def compared(
    before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]], worlds: Mapping[str, World]
) -> Comparison:
    """Compare what was decided before with what is decided after."""
    told = Comparison()
    for one, other in zip_longest(before, after):
        told.add(one, other, worlds[(one or other)["world"]])
    return told


def differences(where: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """Every place in which two decoded JSON texts differ; 1 is not 1.0, and 0.0 is not -0.0."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            yield from differences(f"{where}.{name}" if where else name, one.get(name), other.get(name))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(f"{where}[{i}]", *pair)
    elif isinstance(one, float) and isinstance(other, float):
        if one.hex() != other.hex():
            yield where, one, other
    elif type(one) is not type(other) or one != other:
        yield where, one, other


def may_differ(where: str, world: World) -> bool:
    """Whether a field's last bits are those of an arithmetic that may change."""
    if world.space == "box":
        return where.startswith(_DRAWN)
    return where == "propensity" and world.explorer == "softmax"


def apart(one: object, other: object) -> float | None:
    """How far apart two numbers are, as a share of the larger; None where they are none."""
    if not (isinstance(one, float) and isinstance(other, float)):
        return None
    return abs(one - other) / max(abs(one), abs(other), 5e-324)


def shown(told: object) -> str:
    """A value; a double with its bits."""
    return f"{told!r} ({told.hex()})" if isinstance(told, float) else repr(told)
