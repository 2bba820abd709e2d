"""Probing: what a file and the graph made of it do when they are run, before anybody believes what it declares."""

import numpy as np
import onnx
from numpy.typing import NDArray

from export.adopt.graph import Plan
from export.adopt.reference import Reference
from export.adopt.trial import Trial
from export.errors import AdoptionRefused, HeadImplausible
from export.meaning import Arrays, Meaning
from export.observations import sampled
from export.plausible import refuse_implausible
from export.questions import sizes_of
from export.spec import HEADS, MASK, Box
from export.spec.manifest import magnitudes

_ROWS = 8
# A chosen action may be the same for many observations.
_CHOICES = 400
_SIZES = (1, 2, _ROWS)
# Other batch sizes change the last bits; rows that are mixed change more.
_TOLERANCE = 1e-4


def questions(meaning: Meaning, count: int = _ROWS, seed: int = 11) -> dict[str, NDArray[np.generic]]:
    """Draw inputs of all kinds, ``[count, ...]``, the same every time; nothing is forbidden."""
    generator = np.random.default_rng(seed)
    rows = dict(sampled(meaning.observation, count, seed))
    if meaning.mask:
        rows[MASK] = np.ones((count, meaning.action.width), dtype=np.bool_)
    for memory in meaning.memory:
        drawn = generator.standard_normal((count, *memory.shape)) * 0.5
        rows[memory.port_in.name] = drawn.astype(np.float32)
    return rows


def refuse_unsteady(plan: Plan, reference: Reference) -> None:
    """Refuse a file whose head is not finite, not the same twice, or the same whatever it is asked."""
    asked = questions(plan.meaning, _ROWS if plan.meaning.scores else _CHOICES)
    first, second = reference(asked), reference(asked)
    if not plan.meaning.scores and not isinstance(plan.meaning.action, Box):
        _refuse_unknown(plan, reference, asked, first[plan.meaning.head])
    for name in HEADS[plan.meaning.head]:
        if not np.isfinite(first[name].astype(np.float64)).all():
            # Where it was said to be probabilities, what is below 0 is no number: then that is what is wrong.
            refuse_implausible(plan.meaning, asked, first)
            msg = f"the file answers {name!r} with NaN or infinity for finite observations, expected numbers"
            raise AdoptionRefused(msg)
        if not np.array_equal(first[name], second[name]):
            msg = f"the file answers the same observations differently each time ({name!r}), expected the same"
            raise AdoptionRefused(msg)
    head = first[HEADS[plan.meaning.head][0]]
    if (head == head[0]).all():
        msg = f"the file answers every observation alike ({_shown(head[0])}), expected a head that depends on it"
        raise AdoptionRefused(msg)


def _refuse_unknown(plan: Plan, reference: Reference, asked: Arrays, ones: NDArray[np.generic]) -> None:
    """Refuse chosen actions that are none of those that were told."""
    lost = np.asarray(~np.isfinite(ones.astype(np.float64)).all(axis=1))
    if lost.any():
        names = plan.reading.heads[plan.reading.head].names
        found = reference.raw({name: array[lost][:1] for name, array in asked.items()}, names)
        shown = _shown(np.concatenate([found[name][0] for name in names]))
        sizes = " x ".join(str(size) for size in sizes_of(plan.meaning))
        msg = (
            f"the file chooses {shown} for one of {int(lost.sum())} such observations of {len(lost)}, expected one of "
            f"the {sizes} actions that were told, counted from 0 (--actions or --factors; a Box is --head mean)"
        )
        raise HeadImplausible(msg)


def refuse_mixed(plan: Plan, reference: Reference, model: onnx.ModelProto) -> None:
    """Refuse a graph that does not answer batches of 1, 2 and 8 rows as the file answers each row alone."""
    asked = questions(plan.meaning)
    expected = reference(asked)
    trial = Trial(model)
    names = [port.name for port in plan.meaning.outputs]
    known = {value.name for value in model.graph.input}
    for size in _SIZES:
        for start in range(0, _ROWS, size):
            found = trial.run({n: a[start : start + size] for n, a in asked.items() if n in known}, names)
            for name in names:
                _refuse_other(name, size, expected[name][start : start + size], found[name])


def _refuse_other(name: str, size: int, expected: NDArray[np.generic], found: NDArray[np.generic]) -> None:
    if found.shape != expected.shape:
        shapes = f"{list(found.shape)}, expected {list(expected.shape)}"
        msg = f"{size} rows at once are answered with {name!r} of the shape {shapes}"
        raise AdoptionRefused(msg)
    error = magnitudes(found.astype(np.float64) - expected.astype(np.float64)).max(axis=1, initial=0.0)
    scale = np.maximum(magnitudes(expected).max(axis=1, initial=0.0), 1e-3)
    if not (error <= _TOLERANCE * scale).all():
        row = int(np.argmax(~(error <= _TOLERANCE * scale)))
        msg = (
            f"{size} rows at once are mixed: {name!r} of row {row} is {_shown(found[row])}, "
            f"of the same row alone {_shown(expected[row])}"
        )
        raise AdoptionRefused(msg)


def _shown(row: NDArray[np.generic]) -> str:
    flat = np.asarray(row).reshape(-1)
    return f"[{', '.join(f'{value:.6g}' for value in flat[:6])}{', ...' if len(flat) > 6 else ''}]"
