"""What happens to an observation before the network sees it: clip, scale and history, term by term."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.adopt.sheet import Sheet
from export.spec import Memory

HISTORY = "memory.history"
STARTED = "memory.started"


@dataclass(frozen=True, slots=True)
class Term:
    """One part of an observation: its numbers are clipped, scaled, and shown with the ``history - 1`` before them."""

    name: str
    scale: tuple[float, ...]
    clip: tuple[float, float] | None = None
    history: int = 1
    scale_first: bool = False

    @property
    def width(self) -> int:
        return len(self.scale)

    @property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """The clip in scaled units, whichever comes first."""
        if self.clip is None:
            return None
        factor = np.ones(self.width) if self.scale_first else np.asarray(self.scale)
        sides = np.stack([factor * self.clip[0], factor * self.clip[1]])
        return sides.min(axis=0).astype(np.float32), sides.max(axis=0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Preparation:
    """The terms in the network's order, oldest frame first: all frames of a term together, or frame by frame."""

    terms: tuple[Term, ...]
    by_frame: bool = False

    @property
    def width(self) -> int:
        """How many numbers one observation has."""
        return sum(term.width for term in self.terms)

    @property
    def depth(self) -> int:
        """How many observations the network sees at once."""
        return max(term.history for term in self.terms)

    @property
    def size(self) -> int:
        """How many numbers the network takes."""
        return sum(term.width * term.history for term in self.terms)

    @property
    def memory(self) -> tuple[Memory, ...]:
        """The earlier observations, and whether there are any yet: an episode starts with the first one repeated."""
        if self.depth == 1:
            return ()
        history = Memory(
            name="history", shape=(self.depth - 1, self.width), meaning="earlier observations, scaled; oldest first"
        )
        return history, Memory(name="started", shape=(1,), meaning="1 once the episode has an observation")

    @property
    def inside(self) -> tuple[str, ...]:
        """What is done, for people."""
        done = [f"scale{' and clip' if any(t.clip for t in self.terms) else ''} {len(self.terms)} observation terms"]
        frames = f"history of {self.depth} observations"
        return (*done, frames) if self.depth > 1 else tuple(done)

    def answer(
        self, observation: NDArray[np.generic], memory: Mapping[str, NDArray[np.generic]]
    ) -> NDArray[np.generic]:
        """Give what the network takes, ``[N, size]``, for ``observation[N, width]`` and the memory that went in."""
        frame = self._frame(observation)
        if self.depth == 1:
            return frame
        window = self._window(frame, memory)
        if self.by_frame:
            return window.reshape(len(frame), -1)
        parts = [window[:, self.depth - t.history :, at : at + t.width] for at, t in self._places()]
        return np.concatenate([part.reshape(len(frame), -1) for part in parts], axis=1)

    def remember(
        self, observation: NDArray[np.generic], memory: Mapping[str, NDArray[np.generic]]
    ) -> dict[str, NDArray[np.generic]]:
        """Give the memory that comes out, by the names of its ports."""
        if self.depth == 1:
            return {}
        window = self._window(self._frame(observation), memory)
        return {f"{HISTORY}.out": window[:, 1:], f"{STARTED}.out": np.ones((len(window), 1), np.float32)}

    def draw(self, sheet: Sheet, observation: str) -> str:
        """Put the same into a graph; gives the name of the tensor that the network takes."""
        frame = self._draw_frame(sheet, observation)
        if self.depth == 1:
            return frame
        now = sheet.add("Unsqueeze", frame, sheet.whole([1]))
        repeated = sheet.add("Expand", now, sheet.whole([1, self.depth - 1, 1]))
        started = sheet.add("Unsqueeze", sheet.add("Greater", f"{STARTED}.in", sheet.real([0.5])), sheet.whole([2]))
        past = sheet.add("Where", started, f"{HISTORY}.in", repeated)
        window = sheet.add("Concat", past, now, axis=1)
        sheet.add(
            "Slice", window, sheet.whole([1]), sheet.whole([self.depth]), sheet.whole([1]), output=f"{HISTORY}.out"
        )
        one = sheet.ones()
        sheet.add("ConstantOfShape", sheet.add("Shape", f"{STARTED}.in"), value=one, output=f"{STARTED}.out")
        if self.by_frame:
            return sheet.add("Flatten", window, axis=1)
        parts = []
        for at, term in self._places():
            starts, ends = [self.depth - term.history, at], [self.depth, at + term.width]
            part = sheet.add("Slice", window, sheet.whole(starts), sheet.whole(ends), sheet.whole([1, 2]))
            parts.append(sheet.add("Flatten", part, axis=1))
        return sheet.add("Concat", *parts, axis=1)

    def _places(self) -> list[tuple[int, Term]]:
        starts = np.cumsum([0, *(term.width for term in self.terms)])
        return [(int(at), term) for at, term in zip(starts, self.terms, strict=False)]

    def _frame(self, observation: NDArray[np.generic]) -> NDArray[np.generic]:
        parts = []
        for at, term in self._places():
            part = observation[:, at : at + term.width].astype(np.float32)
            scale = np.asarray(term.scale, np.float32)
            part = part * scale if term.scale_first else part
            part = np.clip(part, *term.clip) if term.clip is not None else part
            parts.append((part if term.scale_first else part * scale).astype(np.float32))
        return np.concatenate(parts, axis=1)

    def _window(self, frame: NDArray[np.generic], memory: Mapping[str, NDArray[np.generic]]) -> NDArray[np.generic]:
        rows = []
        for at, now in enumerate(frame):
            begun = memory[f"{STARTED}.in"][at, 0] > 0.5
            past = memory[f"{HISTORY}.in"][at] if begun else np.stack([now] * (self.depth - 1))
            rows.append(np.concatenate([past, now[np.newaxis]]))
        return np.stack(rows)

    def _draw_frame(self, sheet: Sheet, observation: str) -> str:
        scale = np.concatenate([np.asarray(term.scale, np.float32) for term in self.terms])
        found = sheet.add("Mul", observation, sheet.real(scale))
        if all(term.clip is None for term in self.terms):
            return found
        free = np.float32(np.inf)
        sides = [t.bounds or (np.full(t.width, -free), np.full(t.width, free)) for t in self.terms]
        low, high = (np.concatenate([side[at] for side in sides]) for at in (0, 1))
        return sheet.add("Min", sheet.add("Max", found, sheet.real(low)), sheet.real(high))
