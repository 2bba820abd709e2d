"""The simulated service as a Gymnasium environment: every episode is some hours of a newly generated trace."""

from collections.abc import Callable
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import NDArray

from examples.autoscaler.dynamics import (
    ACTIONS,
    FIELDS,
    STEP_SECONDS,
    Service,
    observation,
    start,
    step,
    vector,
)
from examples.autoscaler.greedy import COOLDOWN_SECONDS
from examples.autoscaler.traces import Trace, generate

Seen: TypeAlias = NDArray[np.float32]
Info: TypeAlias = dict[str, Any]
Draw: TypeAlias = Callable[[np.random.Generator], Trace]


class AutoscalerEnv(gymnasium.Env[Seen, np.int64]):
    """Keep a service's latency objective with few replicas; nothing terminates, the trace's end truncates.

    `draw` gives the trace of each episode from the environment's own generator. Replica limits are the dynamics'; a
    scale-down within `cooldown_seconds` of the last one is carried out as `hold`, as the deployed constraint would.
    """

    def __init__(
        self,
        draw: Draw | None = None,
        *,
        service: Service | None = None,
        cooldown_seconds: float = COOLDOWN_SECONDS,
    ) -> None:
        self.service = service or Service()
        self._draw: Draw = draw or (lambda rng: generate(rng, 360, replica_rps=self.service.replica_rps))
        self._cooldown = cooldown_seconds
        self._low, self._high = (
            np.array([getattr(field, end) for field in FIELDS], dtype=np.float32) for end in ("low", "high")
        )
        self.observation_space = gymnasium.spaces.Box(self._low, self._high, dtype=np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Seen, Info]:
        del options  # the interface's; this environment has none
        super().reset(seed=seed)
        self._requests = self._draw(self.np_random).requests
        self._minute, self._since_down = 0, np.inf
        rps = self._requests[0] / STEP_SECONDS
        need = rps / self.service.replica_rps / self.np_random.uniform(0.5, 0.9)
        replicas = int(np.clip(np.ceil(need), self.service.min_replicas, self.service.max_replicas))
        self.state = start(rps, replicas)
        return self._see(), {}

    def step(self, action: np.int64) -> tuple[Seen, float, bool, bool, Info]:
        change = ACTIONS[int(action)]
        self._since_down += STEP_SECONDS
        if change < 0 and self._since_down < self._cooldown:
            change = 0
        if change < 0:
            self._since_down = 0.0
        self.state, outcome = step(self.state, change, float(self._requests[self._minute]), self.service)
        self._minute += 1
        truncated = self._minute == len(self._requests)
        info = {"arrivals": outcome.arrivals, "breached": outcome.breached}
        return self._see(), outcome.reward, False, truncated, info

    def _see(self) -> Seen:
        return np.clip(vector(observation(self.state, self.service)), self._low, self._high)
