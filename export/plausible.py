"""Whether a source's answers can be the head that people said they are: probabilities are no logits, choices no scores.

A softmax of probabilities is another policy than they are, and the first index of a chosen action is no action at all.
The proof of the graph cannot see either, because both sides of it are read the same wrong way; the numbers can.
"""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from export.errors import HeadImplausible
from export.meaning import Arrays, Meaning
from export.questions import sizes_of
from export.spec import HEADS, MASK, Box

Kind = Literal["scores", "probabilities", "sigmoids", "choices"]
# What stands for a probability of zero, whose logarithm is no number: the least float32 that all processors keep.
FLOOR: Final = float(np.finfo(np.float32).tiny)
# So far below zero a probability may be rounded; what is lower is none.
ROUNDED: Final = -1e-6
# So far from 1 sums may be: of halves, of eight bits, of shares that something small was added to.
_SLACK = 0.01
_CHOSEN = (
    "export the scores before the arg-max, or say --head action with --actions or --factors "
    "(head = 'action' in a declaration), which serves the action without scores"
)


def refuse_implausible(meaning: Meaning, inputs: Arrays, outputs: Arrays) -> None:
    """Raise HeadImplausible where the head among the outputs ``[N, ...]`` is not what people said (``meaning.said``).

    Of a Box nothing can be seen: means may be anything. With a mask only rows that nothing is forbidden in are asked.
    """
    head = outputs.get(HEADS[meaning.head][0])
    if not meaning.said or isinstance(meaning.action, Box) or head is None or head.ndim != 2:
        return
    numbers, sizes = head.astype(np.float64), sizes_of(meaning)
    if MASK in inputs:
        numbers = numbers[inputs[MASK].astype(np.bool_).all(axis=1)]
    refuse = {"probabilities": _refuse_no_probabilities, "action": _refuse_no_action}.get(meaning.said)
    if refuse is not None:
        refuse(numbers, sizes)
        return
    numbers = numbers[np.isfinite(numbers).all(axis=1)]
    kind = kind_of(numbers, sizes)
    if kind != "scores":
        _refuse_other(meaning.said, kind, numbers)
    elif together := _choices_together(numbers):
        msg = (
            f"the head was said to be {meaning.said!r}, but in all of {len(numbers)} answers its numbers are between 0 "
            f"and 1 and sum to {together}, as {_shown(numbers)} do: these are probabilities of {together} choices side "
            "by side (say --head probabilities with their sizes, --factors; in a declaration head = 'probabilities' "
            "with nvec), or those of the outcomes of each action, whose value has to be worked out of them"
        )
        raise HeadImplausible(msg)


def _refuse_other(said: str, kind: Kind, numbers: NDArray[np.float64]) -> None:
    """Refuse what was said to be scores and is something else."""
    if kind == "choices":
        _refuse_chosen(said, numbers)
    if kind == "probabilities":
        msg = (
            f"the head was said to be {said!r}, but in all of {len(numbers)} answers no number is below 0 and "
            f"those of a choice sum to 1, as {_shown(numbers)} do: these are probabilities, and their softmax is "
            "another policy; say --head probabilities (head = 'probabilities' in a declaration), which takes their "
            "logarithm inside the graph"
        )
        raise HeadImplausible(msg)
    msg = (
        f"the head was said to be {said!r}, but in all of {len(numbers)} answers every switch is between 0 "
        f"and 1, as in {_shown(numbers[:, 1::2])}: these are probabilities, expected the numbers before the sigmoid"
    )
    raise HeadImplausible(msg)


def kind_of(numbers: NDArray[np.float64], sizes: Sequence[int]) -> Kind:
    """Tell what finite rows ``[N, W]`` of choices of these sizes can be, whatever they are called.

    Logarithms of probabilities are scores. One choice of several that is no scores is enough; a choice of one says
    nothing. Switches, whose one number l stands as (0, l), are sigmoids where l is never below 0 nor above 1.
    """
    parts = [part for part in _parts(numbers, sizes) if part.shape[1] > 1]
    if not parts or not len(numbers):
        return "scores"
    shares = [part for part in (*parts, numbers) if _sums_to_one(part)]
    if shares:
        return "choices" if all(_only_ones_and_zeros(part) for part in shares) else "probabilities"
    switches = numbers[:, 1::2]
    if set(sizes) == {2} and not numbers[:, ::2].any() and switches.min() >= ROUNDED and switches.max() <= 1 - ROUNDED:
        return "choices" if _only_ones_and_zeros(switches) else "sigmoids"
    return "scores"


def _choices_together(numbers: NDArray[np.float64]) -> int:
    """Say of how many choices, whatever their sizes, numbers are probabilities side by side; 0 where of none."""
    if not len(numbers) or numbers.min() < ROUNDED or numbers.max() > 1 - ROUNDED:
        return 0
    sums = numbers.sum(axis=1)
    count = round(float(sums[0]))
    # So many rows do not sum to one whole number by themselves, but where they are the same.
    moving = bool((numbers.max(axis=0) - numbers.min(axis=0)).max() > _SLACK)
    return count if 2 <= count < numbers.shape[1] and moving and (np.abs(sums - count) <= _SLACK).all() else 0


def _parts(numbers: NDArray[np.float64], sizes: Sequence[int]) -> list[NDArray[np.float64]]:
    return np.split(numbers, np.cumsum(sizes)[:-1], axis=1)


def _sums_to_one(part: NDArray[np.float64]) -> bool:
    return bool(part.min() >= ROUNDED and (np.abs(part.sum(axis=1) - 1) <= _SLACK).all())


def _only_ones_and_zeros(part: NDArray[np.float64]) -> bool:
    return bool(((part == 0) | (part == 1)).all())


def _without_number(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(~np.isfinite(rows).all(axis=1))


def _refuse_no_probabilities(logits: NDArray[np.float64], sizes: Sequence[int]) -> None:
    """Refuse logarithms of what are no probabilities; what was below zero is NaN in them."""
    lost = _without_number(logits)
    if lost.any():
        msg = (
            f"the head was said to be 'probabilities', but {int(lost.sum())} of {len(lost)} answers have a number "
            "below 0, or none: numbers before a softmax are logits, say --head logits "
            "(head = 'logits' in a declaration)"
        )
        raise HeadImplausible(msg)
    shares = np.exp(logits)
    # Probabilities that one softmax gives for all factors together are those of each once they are put in proportion.
    together = np.abs(shares.sum(axis=1) - 1) <= _SLACK
    off = ~np.all([np.abs(part.sum(axis=1) - 1) <= _SLACK for part in _parts(shares, sizes)], axis=0)
    if off.any() and not together.all():
        worst = shares[off][:1]
        msg = (
            f"the head was said to be 'probabilities', but in {int(off.sum())} of {len(off)} answers those of a choice "
            f"do not sum to 1, as {_shown(worst)}: numbers before a softmax are logits, say --head logits "
            "(head = 'logits' in a declaration)"
        )
        raise HeadImplausible(msg)
    plain = np.where(shares <= 2 * FLOOR, 0.0, shares)
    if len(plain) and max(sizes) > 1 and _only_ones_and_zeros(plain):
        _refuse_chosen("probabilities", plain)


def _refuse_no_action(hot: NDArray[np.float64], sizes: Sequence[int]) -> None:
    lost = _without_number(hot)
    if lost.any():
        told = " x ".join(map(str, sizes))
        each = f"0 to {sizes[0] - 1}" if len(set(sizes)) == 1 else f"of choices among {', '.join(map(str, sizes))}"
        msg = (
            f"the head was said to be 'action', but {int(lost.sum())} of {len(lost)} answers are none of the {told} "
            f"actions that were told, expected whole numbers {each}, or rows with one 1 and zeros: tell all actions "
            "(--actions or --factors; the numbers of a Box are --head mean)"
        )
        raise HeadImplausible(msg)


def _refuse_chosen(said: str, rows: NDArray[np.float64]) -> None:
    msg = (
        f"the head was said to be {said!r}, but in all of {len(rows)} answers every number is 0 or 1, as "
        f"{_shown(rows)}: this output is the action already chosen; {_CHOSEN}"
    )
    raise HeadImplausible(msg)


def _shown(rows: NDArray[np.float64]) -> str:
    row = rows[0]
    return f"[{', '.join(f'{value:.4g}' for value in row[:8])}{', ...' if len(row) > 8 else ''}]"
