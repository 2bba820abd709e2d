"""The Kubernetes HorizontalPodAutoscaler's rule on CPU, with the defaults that Kubernetes ships."""

from collections import deque
from math import ceil
from typing import Final

from examples.autoscaler.dynamics import State

TARGET: Final = 0.70  # of the sweep in the README: with 0.72 best on generated days, and better on the real one
SYNC_LOOKS: Final = 4  # a minute: --horizontal-pod-autoscaler-sync-period is 15 s
TOLERANCE: Final = 0.1  # --horizontal-pod-autoscaler-tolerance
STABILISATION_MINUTES: Final = 5  # behavior.scaleDown.stabilizationWindowSeconds: 300; scale-up has none


def recommended(ready: int, pending: int, cpu: float, target: float) -> int:
    """The replicas that one look at the metrics asks for: ceil(ready * cpu / target), with Kubernetes' corrections.

    `cpu` is the mean utilisation of the ready replicas. As in Kubernetes' replica calculator a ratio within the
    tolerance changes nothing, and on the way up pending replicas count as idle ones, so none is asked for twice.
    """
    replicas = ready + pending
    ratio = cpu / target
    if ratio <= 1 or not pending:
        return replicas if abs(ratio - 1) <= TOLERANCE else ceil(round(ratio * ready, 9))
    ratio = ratio * ready / replicas
    return replicas if ratio <= 1 + TOLERANCE else ceil(round(ratio * replicas, 9))


class Hpa:
    """The rule with its memory: of the last five minutes' recommendations the highest one holds on the way down.

    `looks` is how often a minute it looks at the metrics: once, as the policy does, or four times, Kubernetes' default.

    Kubernetes' default scaling policies (per 15 s: up by four replicas or 100 %, down by any number) bind nothing over
    a whole minute at these sizes, so a change is not limited.
    """

    def __init__(self, target: float, *, looks: int = 1) -> None:
        self.target = target
        self._recent: deque[int] = deque(maxlen=STABILISATION_MINUTES * looks)

    def __repr__(self) -> str:
        return f"<Hpa target {self.target:.0%}, recent recommendations {list(self._recent)}>"

    def change(self, state: State) -> int:
        """How many replicas to add (or, negative, to remove) until the next look."""
        wanted = recommended(state.ready, len(state.starting), state.cpu, self.target)
        self._recent.append(wanted)
        if wanted < state.replicas:
            wanted = min(state.replicas, max(self._recent))
        return wanted - state.replicas
