"""The proof that an ONNX graph answers as the source framework does, before anything is written."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.errors import ParityFailed
from export.runtime import Session
from export.spec import Parity
from export.trained import TrainedPolicy

TOLERANCE = 1e-5


def prove(
    policy: TrainedPolicy, session: Session, observations: NDArray[np.generic], tolerance: float = TOLERANCE
) -> Parity:
    """Compare head and action with the source's on every row of ``observations[N, ...]``.

    Raises ParityFailed, showing the worst row, where an error exceeds the tolerance (see ``Parity``), where the
    arg-max differs in a row that is no near tie, or where ``action`` is not the arg-max of the graph's own head.
    """
    expected = policy.answer(observations)
    outputs = session.run(observations)
    found, action = outputs[policy.head], outputs["action"]
    _refuse_malformed(policy, expected, found, len(observations))
    parity = _measured(policy, expected, found, tolerance)
    close = parity.close(expected, found)
    if not close.all():
        worst = int(np.argmax(parity.errors(expected, found)))
        reason = f"{int((~close).sum())} of {len(close)} rows differ by more than {tolerance:g} of their scale"
        raise ParityFailed(_case(reason, observations[worst], expected[worst], found[worst]))
    if not np.array_equal(action, found.argmax(axis=1)):
        worst = int(np.argmax(action != found.argmax(axis=1)))
        reason = f"the output 'action' says {action[worst]}, which is not the arg-max of the head"
        raise ParityFailed(_case(reason, observations[worst], expected[worst], found[worst]))
    differ = (expected.argmax(axis=1) != found.argmax(axis=1)) & ~near_ties(parity, expected)
    if differ.any():
        worst = int(np.argmax(differ))
        reason = f"{int(differ.sum())} of {len(differ)} rows have another best action"
        raise ParityFailed(_case(reason, observations[worst], expected[worst], found[worst]))
    return parity


def near_ties(parity: Parity, expected: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Say for each row of ``[N, A]`` whether its two best values are closer to each other than the tolerance."""
    return np.asarray(gaps(expected) <= parity.tolerance * parity.scales(expected))


def gaps(head: NDArray[np.generic]) -> NDArray[np.float64]:
    """Give how far the best value of each row is ahead of the second, ``[N, A]`` -> ``[N]``; infinite for A = 1."""
    if head.shape[1] < 2:
        return np.full(len(head), np.inf)
    top = np.partition(head.astype(np.float64), -2, axis=1)
    return np.asarray(top[:, -1] - top[:, -2])


def _measured(
    policy: TrainedPolicy, expected: NDArray[np.generic], found: NDArray[np.generic], tolerance: float
) -> Parity:
    error = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max()
    magnitude = float(np.median(np.abs(expected).max(axis=1)))
    agree = expected.argmax(axis=1) == found.argmax(axis=1)
    parity = Parity(
        reference=f"{policy.reference_name} against onnxruntime {onnxruntime.__version__}",
        observations=len(expected),
        max_abs_error=float(error),
        action_agreement=float(agree.mean()),
        tolerance=tolerance,
        scale=magnitude or 1.0,
        near_ties=int((~agree).sum()),
    )
    return parity.model_copy(update={"max_scaled_error": float(parity.errors(expected, found).max())})


def _refuse_malformed(
    policy: TrainedPolicy, expected: NDArray[np.generic], found: NDArray[np.generic], count: int
) -> None:
    shape = (count, policy.action.n)
    for what, head in (("the source", expected), ("the graph", found)):
        if head.shape != shape:
            msg = f"{what} answers {count} observations with {list(head.shape)} numbers, expected {list(shape)}"
            raise ParityFailed(msg)
        if not np.isfinite(head).all():
            msg = f"{what} answers {int((~np.isfinite(head)).any(axis=1).sum())} of {count} rows with NaN or infinity"
            raise ParityFailed(msg)


def _case(
    reason: str, observation: NDArray[np.generic], expected: NDArray[np.generic], found: NDArray[np.generic]
) -> str:
    def text(array: NDArray[np.generic]) -> str:
        flat = array.reshape(-1)
        shown = ", ".join(f"{value:.8g}" for value in flat[:16])
        return f"[{shown}{', ...' if len(flat) > 16 else ''}]"

    return (
        f"the graph does not answer as the source does, so nothing was written: {reason}; "
        f"for the observation {text(observation)} the source says {text(expected)}, the graph {text(found)}"
    )
