"""What the columns of a Gaussian give away: numbers that never change are a log-std or dead, and no std is negative."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from export.errors import HeadImplausible, OptionInvalid
from export.meaning import Answers, Arrays, Meaning
from export.questions import Played, Trial, play
from export.spec import ActionSpace, Box

# Drawn observations are brought so much nearer to their middle: far out a tanh is saturated, near it none is.
_SCALES = (0.1, 0.01, 0.001)
# Rounding moves a number by less than this share of it.
_ROUNDING = 1e-6
_SHOWN = 6


def constant_columns(rows: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Say of each number of ``rows[N, ...]`` whether it is the same in all rows, but for rounding: ``[D]``."""
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    span = flat.max(axis=0) - flat.min(axis=0)
    return np.asarray(span <= _ROUNDING * np.abs(flat).max(axis=0))


def columns_named(action: ActionSpace, words: Sequence[str | int], what: str) -> tuple[int, ...]:
    """Give the places of numbers of an action that are named, or given by place; ``what`` says where.

    Raises OptionInvalid where one is not there.
    """
    if not words:
        return ()
    if not isinstance(action, Box):
        msg = f"{what} names numbers of a Box action, found an action of kind {action.kind}: leave it out"
        raise OptionInvalid(msg)
    names = [field.name for field in action.fields]
    found = []
    for word in words:
        place = names.index(word) if word in names else int(word) if str(word).isdecimal() else -1
        if not 0 <= place < len(names):
            msg = f"{what} has {word!r}, expected one of {', '.join(names[:12])}, or a place from 0 to {len(names) - 1}"
            raise OptionInvalid(msg)
        found.append(place)
    return tuple(found)


def refuse_constant(meaning: Meaning, answers: Answers, asked: Sequence[Trial], played: Played) -> None:
    """Refuse a mean or action of which numbers never change, unless people said that they do not.

    ``played`` is what was answered to ``asked``; where numbers look constant there, observations nearer to each other
    are asked too. Sources that know their head themselves are not asked (``meaning.constant`` is None), and a constant
    std is none of this. Raises HeadImplausible.
    """
    if meaning.constant is None or not isinstance(meaning.action, Box):
        return
    told = np.zeros(meaning.action.width, np.bool_)
    told[list(meaning.constant)] = True
    more: list[Arrays] = [played.outputs]
    for scale in (1.0, *_SCALES):
        if scale < 1.0:
            more.append(play(answers, meaning, _nearer(meaning, asked[-1], scale)).outputs)
        mean, action = (_constant(more, name) & ~told for name in ("mean", "action"))
        if not (mean | action).any():
            return
    raise HeadImplausible(_said(meaning.action, mean, action, played))


def refuse_negative_std(played: Played) -> None:
    """Refuse a std that is below 0 for some observation: it is the logarithm of one. Raises HeadImplausible."""
    if "std" not in played.outputs:
        return
    std = played.outputs["std"].astype(np.float64)
    negative = (std < 0).any(axis=1)
    if negative.any():
        shown = ", ".join(f"{value:.6g}" for value in std[int(np.argmax(negative))][:_SHOWN])
        msg = (
            f"the std is negative for {int(negative.sum())} of {len(std)} observations ([{shown}] for "
            "one), expected 0 or more: where it is its logarithm, say --head mean_log_std (of = 'log_std' in a "
            "declaration)"
        )
        raise HeadImplausible(msg)


def _constant(parts: Sequence[Arrays], name: str) -> NDArray[np.bool_]:
    return constant_columns(np.concatenate([part[name].reshape(len(part[name]), -1) for part in parts]))


def _nearer(meaning: Meaning, trial: Trial, scale: float) -> Trial:
    """Bring real observations nearer to their middle, which is within their bounds; others stay as they are."""
    inputs = dict(trial.inputs)
    for port in meaning.observation.inputs:
        rows = inputs[port.name]
        if rows.dtype.kind == "f":
            middle = rows.mean(axis=(0, 1), dtype=np.float64)
            inputs[port.name] = (middle + (rows - middle) * scale).astype(rows.dtype)
    return Trial(inputs, trial.starts)


def _said(space: Box, mean: NDArray[np.bool_], action: NDArray[np.bool_], played: Played) -> str:
    """Name what never changes, with its value and the ways out."""
    places = np.flatnonzero(mean if mean.any() else action).tolist()
    shown = played.outputs["mean" if mean.any() else "action"].reshape(len(played), -1)[0]
    listed = ", ".join(f"{space.fields[at].name} = {shown[at]:.6g}" for at in places[:_SHOWN])
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    numbers = ",".join(map(str, places))
    msg = f"of the action's {space.width} numbers {len(places)} never change ({listed}{more}), "
    if mean.any():
        msg += "far out, near the middle and in what was recorded: that is mostly a log-std, a padding or a dead output"
    else:
        msg += "though the network's own do: they are always beyond the bounds, which may be others than training's"
    if mean.any() and _in_second_half(places, space.width) and not played.outputs["std"].any():
        msg += (
            "; where the second half of an output is the logarithm of the std, say --head mean_log_std "
            "(in a declaration: head = 'mean_log_std' under [network]), and bounds for the first half alone"
        )
    return f"{msg}; where it is right so, say --constant {numbers} (constant = [{numbers}] under [action])"


def _in_second_half(places: Sequence[int], width: int) -> bool:
    return width % 2 == 0 and min(places) >= width // 2
