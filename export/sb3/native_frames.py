"""The frame stacks of the real libraries, where they are installed: SB3's VecFrameStack and Gymnasium's own."""

import importlib
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from export.errors import OptionInvalid

# Takes the newest frames ``[N, *frame]`` and where an episode starts ``[N]``, in order; gives the stacks.
Stack = Callable[[NDArray[np.generic], NDArray[np.bool_]], NDArray[np.generic]]


def vec_frame_stack(
    frame: tuple[int, ...],
    dtype: str,
    frames: int,
    *,
    image: bool,
    order: Literal["first", "last"] | None,
    expected: tuple[int, ...],
) -> Stack | None:
    """Give what VecFrameStack does to frames of a shape; None where SB3 is not installed.

    Without an ``order`` the library finds the axis itself. Raises OptionInvalid where its stack has not the shape
    ``expected``, which the network takes.
    """
    spaces, module = _library("gymnasium.spaces"), _library("stable_baselines3.common.vec_env.stacked_observations")
    if spaces is None or module is None:
        return None
    # Bytes are an image in SB3 where they go up to 255.
    low, high = (0, 255 if image else 1) if dtype == "uint8" else (-1, 1)
    space = spaces.Box(low, high, frame, np.dtype(dtype).type)
    with warnings.catch_warnings():
        # It says so where it guesses which axis the channels are.
        warnings.simplefilter("ignore")
        begun = module.StackedObservations(1, frames, space, order)
    if begun.stacked_shape != expected:
        msg = (
            f"SB3's VecFrameStack makes {list(begun.stacked_shape)} of {frames} frames {list(frame)}, but the policy "
            f"takes {list(expected)}: say with --frame-axis which axis they were stacked on"
        )
        raise OptionInvalid(msg)

    def stack(newest: NDArray[np.generic], starts: NDArray[np.bool_]) -> NDArray[np.generic]:
        nonlocal begun
        if len(newest) != len(begun.stacked_obs):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                begun = module.StackedObservations(len(newest), frames, space, order)
            return np.array(begun.reset(newest))
        # An environment that has ended gives the first frame of its next episode, and its last one beside it.
        ended = [{"terminal_observation": row} if start else {} for row, start in zip(newest, starts, strict=True)]
        found, _ = begun.update(newest, starts, ended)
        return np.array(found)

    return stack


def frame_stack_observation(frame: tuple[int, ...], dtype: str, frames: int, axis: int) -> Stack | None:
    """Give what FrameStackObservation does to frames, put side by side on an axis; None without Gymnasium."""
    library, wrappers = _library("gymnasium"), _library("gymnasium.wrappers")
    if library is None or not hasattr(wrappers, "FrameStackObservation"):
        return None
    episodes: list[_Episode] = []

    def stack(newest: NDArray[np.generic], starts: NDArray[np.bool_]) -> NDArray[np.generic]:
        if len(episodes) != len(newest):
            episodes[:] = [_Episode(library, frame, dtype, frames) for _ in newest]
        rows = zip(episodes, newest, starts, strict=True)
        return np.stack([np.concatenate(list(one.seen(row, bool(start))), axis=axis) for one, row, start in rows])

    return stack


class _Episode:
    """An environment that shows the frames it is told, behind Gymnasium's wrapper."""

    def __init__(self, library: ModuleType, frame: tuple[int, ...], dtype: str, frames: int) -> None:
        kind = np.dtype(dtype)
        low, high = (0, 255) if kind.kind in "iu" else (-np.inf, np.inf)
        env = library.Env()
        env.observation_space = library.spaces.Box(low, high, frame, kind.type)
        env.action_space = library.spaces.Discrete(1)
        env.reset = lambda **_: (self._frame, {})
        env.step = lambda _: (self._frame, 0.0, False, False, {})
        self._frame: NDArray[np.generic] = np.zeros(frame, kind)
        self._wrapper = library.wrappers.FrameStackObservation(env, frames)

    def __repr__(self) -> str:
        return f"<_Episode {self._wrapper}>"

    def seen(self, frame: NDArray[np.generic], start: bool) -> NDArray[np.generic]:
        """Give the frames ``[frames, *frame]`` that the wrapper gives for the newest one."""
        self._frame = frame.copy()
        found = self._wrapper.reset() if start else self._wrapper.step(0)
        return np.asarray(found[0])


def _library(name: str) -> ModuleType | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            return None
