"""The proof that an ONNX graph answers as the source framework does, before anything is written."""

from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.errors import ParityFailed
from export.meaning import Answers, Meaning
from export.questions import Played, Trial, joined, play, sizes_of
from export.runtime import Session
from export.spec import HEADS, Box, Parity
from export.spec.manifest import magnitudes

TOLERANCE = 1e-5


def prove(
    meaning: Meaning,
    session: Session,
    answers: Answers,
    asked: Sequence[Trial],
    tolerance: float = TOLERANCE,
    *,
    answers_name: str = "the source",
    recorded: NDArray[np.generic] | None = None,
) -> tuple[Parity, Played]:
    """Compare every output and the executed action with the source's over all trials; give what the graph answered.

    The source is ``answers`` and, where there is one, the policy's own ``native``; ``recorded[K, ...]`` are the actions
    recorded for the first K rows. Raises ParityFailed, showing the worst row, where an output is off by more than the
    tolerance (see ``Parity``), or where another action is executed in a row that is no near tie.
    """
    graph = _played(session.run, meaning, asked)
    source = _played(answers, meaning, asked)
    for what, played in ((answers_name, source), ("the graph", graph)):
        _refuse_malformed(meaning, what, played)
    parity = _measured(meaning, source, graph, tolerance)
    parity = parity.model_copy(
        update={
            "reference": f"{_named(meaning, answers_name)} against onnxruntime {onnxruntime.__version__}",
            "steps": asked[-1].starts.shape[0],
        }
    )
    differ = _compare(meaning, parity, answers_name, source, graph, source)
    if meaning.native is not None:
        native = _played(meaning.native, meaning, asked, starting=True)
        differ |= _compare(meaning, parity, meaning.native_name, native, graph, source)
    parity = parity.model_copy(update={"action_agreement": float(1.0 - differ.mean()), "near_ties": int(differ.sum())})
    if recorded is not None:
        parity = _against_recorded(meaning, parity, recorded, graph, source)
    return parity, graph


def _named(meaning: Meaning, answers_name: str) -> str:
    return answers_name if meaning.native is None else f"{meaning.native_name} and {answers_name}"


def _played(answers: Answers, meaning: Meaning, asked: Sequence[Trial], *, starting: bool = False) -> Played:
    parts = [play(answers, meaning, trial, starting=starting) for trial in asked]
    return Played(inputs=joined([part.inputs for part in parts]), outputs=joined([part.outputs for part in parts]))


def _measured(meaning: Meaning, source: Played, graph: Played, tolerance: float) -> Parity:
    """Work out the scales and the errors."""
    first, *others = [port.name for port in meaning.outputs]
    scales = {name: _scale(source.outputs[name]) for name in (first, *others)}
    parity = Parity(
        reference="",
        observations=len(source),
        max_abs_error=0.0,
        action_agreement=1.0,
        tolerance=tolerance,
        scale=scales[first],
        scales={name: scales[name] for name in others},
    )
    pairs = [(name, source.outputs[name], graph.outputs[name]) for name in scales]
    heads = [np.abs(a.astype(np.float64) - b.astype(np.float64)) for name, a, b in pairs if name in HEADS[meaning.head]]
    return parity.model_copy(
        update={
            "max_abs_error": float(max(error.max() for error in heads)),
            "max_scaled_error": float(max(parity.errors(a, b, name).max() for name, a, b in pairs)),
        }
    )


def _scale(array: NDArray[np.generic]) -> float:
    return float(np.median(magnitudes(array).max(axis=1, initial=0.0))) or 1.0


def _compare(
    meaning: Meaning, parity: Parity, what: str, expected: Played, found: Played, source: Played
) -> NDArray[np.bool_]:
    """Refuse a graph whose outputs or actions are not those of ``expected``, as far as it says them.

    Gives the rows of another action, which are near ties.
    """
    for port in meaning.outputs:
        if port.name not in expected.outputs:
            continue
        told, seen = expected.outputs[port.name], found.outputs[port.name]
        close = parity.close(told, seen, port.name)
        if not close.all():
            worst = int(np.argmax(parity.errors(told, seen, port.name)))
            reason = (
                f"{int((~close).sum())} of {len(close)} rows of {port.name!r} differ by more than "
                f"{parity.tolerance:g} of their scale"
            )
            raise ParityFailed(_case(reason, what, found, worst, told[worst], seen[worst]))
    if "action" not in expected.outputs:
        return np.zeros(len(found), dtype=np.bool_)
    return _compare_actions(meaning, parity, what, expected.outputs["action"], found, source)


def _compare_actions(
    meaning: Meaning, parity: Parity, what: str, told: NDArray[np.generic], found: Played, source: Played
) -> NDArray[np.bool_]:
    seen = found.outputs["action"][: len(told)]
    wrong = differ = differing(meaning, parity.tolerance, told, seen)
    if not isinstance(meaning.action, Box):
        wrong = differ & ~near_ties(meaning, parity, source.outputs[HEADS[meaning.head][0]][: len(told)])
    if wrong.any():
        worst = int(np.argmax(wrong))
        reason = f"{int(wrong.sum())} of {len(wrong)} rows have another action"
        raise ParityFailed(_case(reason, what, found, worst, told[worst], seen[worst]))
    return differ


def _against_recorded(
    meaning: Meaning, parity: Parity, recorded: NDArray[np.generic], found: Played, source: Played
) -> Parity:
    ties = _compare_actions(meaning, parity, "the recorded action", recorded, found, source)
    return parity.model_copy(update={"recorded": len(recorded), "recorded_ties": int(ties.sum())})


def differing(
    meaning: Meaning, tolerance: float, told: NDArray[np.generic], seen: NDArray[np.generic]
) -> NDArray[np.bool_]:
    """Say for each row whether another action is executed; for a Box, by more than ``tolerance`` of its range."""
    if not isinstance(meaning.action, Box):
        return np.asarray((told != seen).reshape(len(told), -1).any(axis=1))
    low, high = np.array(meaning.action.low), np.array(meaning.action.high)
    a, b = (array.reshape(len(told), -1).astype(np.float64) for array in (told, seen))
    width = np.where(np.isfinite(high - low), high - low, np.maximum(1.0, np.abs(a)))
    return np.asarray(~(np.abs(a - b) <= tolerance * np.maximum(width, 1e-12)).all(axis=1))


def near_ties(meaning: Meaning, parity: Parity, head: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Say for each row of a head ``[N, W]`` whether the best two of a choice are within the tolerance of each other."""
    return np.asarray(gaps(meaning, head) <= parity.tolerance * parity.row_scales(head))


def gaps(meaning: Meaning, head: NDArray[np.generic]) -> NDArray[np.float64]:
    """Give how far the best of each row is ahead of the second, ``[N, W]`` -> ``[N]``: the least of its choices.

    Infinite where there is nothing to choose.
    """
    least = np.full(len(head), np.inf)
    at = 0
    for size in sizes_of(meaning):
        part = head[:, at : at + size].astype(np.float64)
        at += size
        if size > 1:
            top = np.partition(part, -2, axis=1)
            least = np.minimum(least, top[:, -1] - top[:, -2])
    return least


def _refuse_malformed(meaning: Meaning, what: str, played: Played) -> None:
    count = len(played)
    for port in (*meaning.outputs, meaning.action.port):
        found = played.outputs.get(port.name)
        if found is None or found.shape != (count, *port.shape):
            shape = "nothing" if found is None else f"numbers of the shape {list(found.shape)}"
            msg = f"{what} answers {count} observations with {shape} as {port.name!r}, expected {[count, *port.shape]}"
            raise ParityFailed(msg)
        finite = np.isfinite(found.astype(np.float64)).reshape(count, -1).all(axis=1)
        if not finite.all():
            msg = f"{what} answers {int((~finite).sum())} of {count} rows with NaN or infinity as {port.name!r}"
            raise ParityFailed(msg)


def _case(reason: str, what: str, found: Played, row: int, told: NDArray[np.generic], seen: NDArray[np.generic]) -> str:
    def text(array: NDArray[np.generic]) -> str:
        flat = np.asarray(array).reshape(-1)
        shown = ", ".join(f"{value:.8g}" for value in flat[:16])
        return f"[{shown}{', ...' if len(flat) > 16 else ''}]"

    asked = ", ".join(f"{name} {text(array[row])}" for name, array in found.inputs.items())
    return (
        f"the graph does not answer as the source does, so nothing was written: {reason}; "
        f"for {asked} {what} says {text(told)}, the graph {text(seen)}"
    )
