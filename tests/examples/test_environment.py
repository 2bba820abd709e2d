"""The environment is a proper Gymnasium one."""

import numpy as np
from gymnasium.utils.env_checker import check_env

from examples.autoscaler.dynamics import ACTION_NAMES
from examples.autoscaler.environment import AutoscalerEnv
from examples.autoscaler.traces import Trace

DOWN, HOLD = np.int64(ACTION_NAMES.index("scale_down_1")), np.int64(ACTION_NAMES.index("hold"))


def quiet(rng: np.random.Generator) -> Trace:
    """Eight minutes of a steady 200 requests per second."""
    del rng
    return Trace("quiet", np.full(8, 12_000.0), 0.0)


def test_gymnasium_accepts_it() -> None:
    """Gymnasium's own checker finds nothing: spaces, seeding, the five values of a step."""
    check_env(AutoscalerEnv(), skip_render_check=True)


def test_the_end_of_the_trace_truncates_and_never_terminates() -> None:
    """The service lives on after the trace: bootstrapping must go on too."""
    env = AutoscalerEnv(quiet)
    env.reset(seed=1)
    ends = [env.step(HOLD)[2:4] for _ in range(8)]

    assert ends == [(False, False)] * 7 + [(False, True)]


def test_a_scale_down_within_the_cooldown_is_a_hold() -> None:
    """At 150 s every third minute may scale down, no other."""
    env = AutoscalerEnv(quiet)
    env.reset(seed=1)
    counts = [env.state.replicas]
    for _ in range(6):
        env.step(DOWN)
        counts.append(env.state.replicas)

    assert np.diff(counts).tolist() == [-1, 0, 0, -1, 0, 0]
