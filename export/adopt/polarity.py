"""Which value of a file's own mask allows an action, found by forbidding one action after another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.adopt.graph import Plan
from export.adopt.probe import questions
from export.adopt.reference import Reference
from export.errors import AdoptionRefused
from export.questions import sizes_of
from export.spec import MASK

# What the drawn observations are multiplied by: far out a softmax is saturated, near zero it is not. The first two are
# drawn at widths of 1 and 10.
_SCALES = (1.0, 1.0, 0.1, 0.01, 0.0)
# From here on downwards no logit is far from another, so that a forbidden one is the lowest.
_NEAR = 0.1
# Rounding moves a logit by less than this share of it.
_ROUNDING = 1e-5
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What forbidding each action did under one reading of the mask, each ``[W]``.

    ``fell``: at some observation its logit sank, to below all others. ``rose``: at some it went up. ``above``: at some
    observation near zero it stayed above another, allowed one.
    """

    fell: NDArray[np.bool_]
    rose: NDArray[np.bool_]
    above: NDArray[np.bool_]

    @property
    def fault(self) -> str:
        """Say why this reading is not right; empty where it may be."""
        if self.rose.any():
            return f"forbidding {_named(self.rose)} raises its logit"
        if not self.fell.all():
            return f"forbidding {_named(~self.fell)} does not lower its logit"
        return f"{_named(self.above)} is above others when it is forbidden" if self.above.any() else ""


def allowing(plan: Plan, reference: Reference) -> float:
    """Say which value of the file's mask allows an action: 1 or 0.

    Observations far out and near zero are asked: where the logit of an action is at its floor already, as that of an
    improbable one is in ``log(softmax(x) + 1e-7)``, forbidding it shows nothing. Raises AdoptionRefused where an action
    never falls or ever rises under either reading, and where both readings could be right.
    """
    if not plan.reading.scores:
        return _obeying(plan, reference)
    asked = [_rows(plan, at, scale) for at, scale in enumerate(_SCALES)]
    faults = {value: _evidence(plan, reference, asked, value).fault for value in (1.0, 0.0)}
    told = [value for value, fault in faults.items() if not fault]
    if len(told) == 1:
        return told[0]
    if told:
        msg = f"the input {plan.reading.mask!r} is a mask of which both 1 and 0 seem to allow, expected one of them"
    else:
        msg = (
            f"the input {plan.reading.mask!r} is no mask of this head: if 1 allows, {faults[1.0]}; "
            f"if 0 does, {faults[0.0]}; expected each action's logit to fall below the others' as it is forbidden"
        )
    raise AdoptionRefused(msg)


def _obeying(plan: Plan, reference: Reference) -> float:
    """Say which value of a mask allows an action of a file that chooses itself: what alone is allowed is chosen."""
    sizes = sizes_of(plan.meaning)
    width, starts = sum(sizes), np.cumsum([0, *sizes[:-1]])
    factor = np.repeat(np.arange(len(sizes)), sizes)
    # Row j has its factor's other choices forbidden, and those of other factors allowed.
    alone = (factor[:, np.newaxis] != factor) | np.eye(width, dtype=np.bool_)
    asked = {name: np.repeat(array[:1], width, axis=0) for name, array in questions(plan.meaning).items()}
    told = []
    for value, mask in ((1.0, alone), (0.0, ~alone)):
        ones = reference({**asked, MASK: mask})[plan.meaning.head]
        chosen = np.stack([part.argmax(axis=1) for part in np.split(ones, starts[1:], axis=1)], axis=1) + starts
        if (chosen[np.arange(width), factor] == np.arange(width)).all():
            told.append(value)
    if len(told) != 1:
        msg = f"the input {plan.reading.mask!r} is no mask of this action: what alone is allowed is not always chosen"
        raise AdoptionRefused(msg)
    return told[0]


def _rows(plan: Plan, at: int, scale: float) -> dict[str, NDArray[np.generic]]:
    """Give one drawn observation and memory, ``[1, ...]``; real numbers are scaled, states and pixels are not."""
    row = {name: array[at : at + 1] for name, array in questions(plan.meaning).items()}
    return {
        name: (array * np.asarray(scale, array.dtype)) if array.dtype.kind == "f" else array
        for name, array in row.items()
    }


def _evidence(
    plan: Plan, reference: Reference, asked: Sequence[dict[str, NDArray[np.generic]]], value: float
) -> _Evidence:
    """Ask with nothing forbidden, then with each action in turn, if ``value`` is what allows."""
    width = plan.meaning.action.width
    names = next(iter(plan.reading.heads.values())).names
    own = np.eye(width, dtype=np.bool_)
    allowed = np.concatenate([np.ones((1, width), np.bool_), ~own])
    mask = allowed if value == 1.0 else ~allowed
    fell, rose, above = (np.zeros(width, np.bool_) for _ in range(3))
    for row, scale in zip(asked, _SCALES, strict=True):
        given = {name: np.repeat(array, width + 1, axis=0) for name, array in row.items()}
        found = reference.raw({**given, MASK: mask}, names)
        head = np.concatenate([found[name] for name in names], axis=1).astype(np.float64)
        before, after = head[0], np.diagonal(head[1:])
        least = np.where(own, np.inf, head[1:]).min(axis=1)
        rounding = _ROUNDING * np.maximum(1.0, np.abs(np.nan_to_num(before)))
        fell |= (after < before - rounding) & (after < least)
        rose |= after > before + rounding
        if scale <= _NEAR:
            above |= after > least + rounding
    return _Evidence(fell, rose, above)


def _named(which: NDArray[np.bool_]) -> str:
    """Name actions by their places in the head."""
    places = np.flatnonzero(which).tolist()
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return f"action{'s' if len(places) > 1 else ''} {', '.join(map(str, places[:_SHOWN]))}{more}"
