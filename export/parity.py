"""The proof that an ONNX graph answers as the source framework does, before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.errors import ParityFailed
from export.meaning import Answers, Meaning
from export.plausible import refuse_implausible
from export.questions import Played, Trial, joined, play, sizes_of
from export.rounding import Rounding, ranged
from export.runtime import Session
from export.spec import HEADS, Box, Parity
from export.spec.manifest import magnitudes

TOLERANCE = 1e-5


class Proof(NamedTuple):
    """What was measured, and what the graph answered.

    Of the rows ``[N]``, ``plain`` are within the tolerance by themselves and ``steady`` on other machines too.
    """

    parity: Parity
    played: Played
    plain: NDArray[np.bool_]
    steady: NDArray[np.bool_]


def prove(
    meaning: Meaning,
    session: Session,
    answers: Answers,
    asked: Sequence[Trial],
    tolerance: float = TOLERANCE,
    *,
    answers_name: str = "the source",
    precise: Answers | None = None,
    recorded: NDArray[np.generic] | None = None,
) -> Proof:
    """Compare every output and the executed action with the source's over all trials; give what the graph answered.

    The source is ``answers`` and, where there is one, the policy's own ``native``; ``recorded[K, ...]`` are the actions
    recorded for the first K rows. ``precise`` is the source in float64, asked only where a row differs too much: a row
    in which the source's own float32 answer is off itself is judged by that (see ``Rounding``). Raises HeadImplausible
    where the source's head is not what people said it is, and ParityFailed, showing the worst row, where an output is
    off by more than the tolerance (see ``Parity``), or where another action is executed in a row that is no near tie.
    """
    graph = _played(session.run, meaning, asked)
    source = _played(answers, meaning, asked)
    refuse_implausible(meaning, source.inputs, source.outputs)
    for what, played in ((answers_name, source), ("the graph", graph)):
        _refuse_malformed(meaning, what, played)
    parity = _measured(meaning, source, graph, tolerance)
    parity = parity.model_copy(
        update={
            "reference": f"{_named(meaning, answers_name)} against onnxruntime {onnxruntime.__version__}",
            "steps": asked[-1].starts.shape[0],
        }
    )
    rounding = Rounding(meaning, parity, source, answers, precise, lambda asked_of: _played(asked_of, meaning, asked))
    comparison = _Comparison(meaning, parity, graph, source, rounding)
    differ = comparison.compare(answers_name, source)
    if meaning.native is not None:
        native = _played(meaning.native, meaning, asked, starting=True)
        differ |= comparison.compare(meaning.native_name, native)
    parity = parity.model_copy(update={"action_agreement": float(1.0 - differ.mean()), "near_ties": int(differ.sum())})
    if recorded is not None:
        ties = int(comparison.compare_actions("the recorded action", recorded).sum())
        parity = parity.model_copy(update={"recorded": len(recorded), "recorded_ties": ties})
    parity = parity.model_copy(update={"reference": parity.reference + rounding.said})
    return Proof(parity, graph, rounding.plain, rounding.steady)


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


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A graph's answers, to be compared with what others say to the same questions."""

    meaning: Meaning
    parity: Parity
    graph: Played
    source: Played
    rounding: Rounding

    def compare(self, what: str, expected: Played) -> NDArray[np.bool_]:
        """Refuse a graph whose outputs or actions are not those of ``expected``, as far as it says them.

        Gives the rows of another action, which are near ties.
        """
        for port in self.meaning.outputs:
            if port.name not in expected.outputs:
                continue
            told, seen = expected.outputs[port.name], self.graph.outputs[port.name]
            wrong = ~self.parity.close(told, seen, port.name)
            if not wrong.any():
                continue
            judged = self.rounding.output(port.name, told, seen, wrong)
            wrong &= ~judged.excused
            if wrong.any():
                worst = int(np.argmax(np.where(wrong, self.parity.errors(told, seen, port.name), -1)))
                reason = (
                    f"{int(wrong.sum())} of {len(wrong)} rows of {port.name!r} differ by more than "
                    f"{self.parity.tolerance:g} of their scale (--tolerance): {judged.why(worst)}"
                )
                raise ParityFailed(_case(reason, what, self.graph, worst, told[worst], seen[worst]))
        if "action" not in expected.outputs:
            return np.zeros(len(self.graph), dtype=np.bool_)
        return self.compare_actions(what, expected.outputs["action"])

    def compare_actions(self, what: str, told: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Compare the executed actions of the first rows with those told; see ``compare``.

        Numbers of a Box that rounding explains are the same action; choices that it explains are near ties.
        """
        meaning, seen = self.meaning, self.graph.outputs["action"][: len(told)]
        wrong = differ = differing(meaning, self.parity.tolerance, told, seen)
        if not isinstance(meaning.action, Box):
            head = self.source.outputs[HEADS[meaning.head][0]][: len(told)]
            wrong = differ & ~near_ties(meaning, self.parity, head)
        if not wrong.any():
            return differ
        judged = self.rounding.action(told, seen, wrong)
        wrong = wrong & ~judged.excused
        if wrong.any():
            worst = int(np.argmax(wrong))
            reason = (
                f"{int(wrong.sum())} of {len(wrong)} rows have another action, by more than {self.parity.tolerance:g} "
                f"(--tolerance): {judged.why(worst)}"
            )
            raise ParityFailed(_case(reason, what, self.graph, worst, told[worst], seen[worst]))
        return differ if not isinstance(meaning.action, Box) else np.zeros_like(differ)


def differing(
    meaning: Meaning, tolerance: float, told: NDArray[np.generic], seen: NDArray[np.generic]
) -> NDArray[np.bool_]:
    """Say for each row whether another action is executed; for a Box, by more than ``tolerance`` of its range."""
    if not isinstance(meaning.action, Box):
        return np.asarray((told != seen).reshape(len(told), -1).any(axis=1))
    return np.asarray(~(ranged(meaning.action, told, seen) <= tolerance))


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
