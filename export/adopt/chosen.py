"""An output that is the action already chosen: refused with its cause, or taken as that for ``--head action``."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from export.adopt.layout import blank, exposed, open_axes, rows_of
from export.adopt.original import Original
from export.adopt.reading import Reading, Said, means
from export.adopt.trial import Trial
from export.adopt.walk import chosen_behind
from export.errors import AdoptionRefused, HeadImplausible, OptionInvalid

_WHOLE = "iub"
_ANYWAY = "or say --head action with --actions A,B,... (or --factors N,M,...), which serves it without scores"


def settled(original: Original, reading: Reading, trial: Trial, said: Said) -> Reading:
    """Give the reading with ``--head action`` understood; raises HeadImplausible where a chosen action is to be a head.

    Whole numbers are choices, and so is what an arg-max made, and what names or sizes of choices were told for; other
    numbers are those of a Box: their mean, without spread.
    """
    open_axes(original)  # or there is nothing that could be run
    found = trial.run(blank(original))
    choices = next((p for p in reading.heads.values() if p.form == "choices"), None)
    if choices is None:
        _refuse_chosen(original, reading, found, said)
        return reading
    whole = any(_why(original, name, found[name]) for name in choices.names)
    named = bool(said.actions) and not (said.action_low or said.action_high)
    if whole or said.sizes or reading.sizes or named:
        return replace(reading, scores=False)
    if reading.mask:
        msg = f"the input {reading.mask!r} looks like a mask, expected none for an action of numbers: say --obs"
        raise OptionInvalid(msg)
    inside = (*reading.inside, "the action itself as the mean, and a std of 0")
    return replace(reading, head="gaussian", heads=means(*choices.names), scores=False, inside=inside)


def _refuse_chosen(original: Original, reading: Reading, found: Mapping[str, NDArray[np.generic]], said: Said) -> None:
    declared = {name: array.shape for name, array in blank(original).items()}
    for pieces in reading.heads.values():
        alone = [_alone(found[name], rows_of(found[name], reading, declared)[0]) for name in pieces.names]
        # Beside others a choice of one may be, and several are the scores of one choice where people say so.
        told = reading.head == "gaussian" or not all(alone) or (len(alone) > 1 and bool(said.sizes))
        for name, one in zip(pieces.names, alone, strict=True):
            why = _why(original, name, found[name]) or ("" if told else one)
            if why:
                msg = (
                    f"the output {name!r} is the action already chosen ({why}), expected {_wanted(reading)}: export "
                    f"the scores before the arg-max{_before(original, reading, name)}, {_ANYWAY}"
                )
                raise HeadImplausible(msg)


def _wanted(reading: Reading) -> str:
    return "the mean of each number" if reading.head == "gaussian" else f"{reading.said} of every action"


def _why(original: Original, name: str, found: NDArray[np.generic]) -> str:
    """Say why a tensor is a choice that was made; an empty text where nothing says so."""
    if chosen_behind(original, name) is not None:
        return f"an arg-max makes it, as {found.dtype.name}{list(found.shape)}"
    if found.dtype.kind in _WHOLE:
        return f"its numbers are {found.dtype.name}; scores of whole numbers have to be cast to float32"
    return ""


def _alone(found: NDArray[np.generic], rows: int) -> str:
    """Say why a head is a choice of one: for one number a row the arg-max is its index, which is always 0."""
    if found.size != rows:
        return ""
    return f"it has one number a row, of the shape {['B', *found.shape[1:]] if found.ndim else []}".replace("'", "")


def _before(original: Original, reading: Reading, name: str) -> str:
    """Name the tensors that the arg-max took, and how to adopt them where that can be done."""
    names = chosen_behind(original, name) or ()
    if not names:
        return ""
    listed = ", ".join(repr(one) for one in names)
    if not all(_usable(original, one) for one in names):
        return f" (here {listed})"
    word = reading.said if reading.head != "gaussian" and len(names) == 1 else "logits"
    return f" (here {listed}: say --output-name {','.join(names)} --head {word})"


def _usable(original: Original, name: str) -> bool:
    """Say whether a tensor inside the graph can be adopted as scores: rows of several real numbers."""
    if name not in original.makers or "," in name:
        return False
    try:
        found = Trial(exposed(original, [name])).run(blank(original), [name])[name]
    except AdoptionRefused:
        return False
    return found.dtype.kind == "f" and found.ndim == 2 and found.shape[1] > 1
