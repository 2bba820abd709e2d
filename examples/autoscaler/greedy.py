"""The trained network in plain NumPy, greedy over the actions that the recommended constraints allow."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from examples.autoscaler.dynamics import ACTIONS, STEP_SECONDS, Service, State, observation, vector

COOLDOWN_SECONDS: Final = 150.0  # of simulated time, between two scale-downs
MIN_REPLICAS: Final = 2
MAX_REPLICAS: Final = 30

Layers = tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]


@dataclass(frozen=True, slots=True)
class Network:
    """A multi-layer perceptron with ReLU between its layers: weights [out, in] and biases [out], first layer first."""

    layers: Layers

    def q_values(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """The value of every action, float32 [N, A], for observations [N, F] in raw units."""
        hidden = observations
        for weights, bias in self.layers[:-1]:
            hidden = np.maximum(hidden @ weights.T + bias, 0)
        weights, bias = self.layers[-1]
        return hidden @ weights.T + bias


def allowed(state: State, since_down_seconds: float) -> NDArray[np.bool_]:
    """Which actions the constraints of the README leave, bool [A]: replica limits, and the scale-down cooldown."""
    cooling = since_down_seconds < COOLDOWN_SECONDS
    after = [state.replicas + change for change in ACTIONS]
    return np.array(
        [
            MIN_REPLICAS <= count <= MAX_REPLICAS and not (change < 0 and cooling)
            for change, count in zip(ACTIONS, after, strict=True)
        ]
    )


class Greedy:
    """The controller that the service is without exploration: the best allowed action, with the cooldown's memory."""

    def __init__(self, network: Network, service: Service) -> None:
        self._network, self._service = network, service
        self._since_down = float("inf")

    def __repr__(self) -> str:
        return f"<Greedy, {self._since_down:.0f} s since the last scale-down>"

    def change(self, state: State) -> int:
        """How many replicas to add (or, negative, to remove) for the next minute."""
        self._since_down += STEP_SECONDS
        values = self._network.q_values(vector(observation(state, self._service))[np.newaxis])[0]
        change = ACTIONS[int(np.argmax(np.where(allowed(state, self._since_down), values, -np.inf)))]
        if change < 0:
            self._since_down = 0.0
        return change
