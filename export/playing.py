"""Whole episodes of a Gymnasium environment, played by an artefact: the home of Gymnasium."""

from typing import Any

import numpy as np

from export.errors import OptionInvalid
from export.runtime import Session
from export.spec.artefact import Artefact
from export.spec.extras import install


def mean_return(env: str, policy: Artefact, episodes: int) -> tuple[float, float]:
    """Play whole episodes of a Gymnasium environment, seeds 0, 1, ..., and give the returns' mean and deviation.

    Raises OptionInvalid where Gymnasium does not have it or it does not fit the policy.
    """
    try:
        import gymnasium  # noqa: PLC0415 - only who asks for an environment needs it
    except ModuleNotFoundError as error:
        msg = f"--env needs the package 'gymnasium', expected it installed: {install('train')}"
        raise OptionInvalid(msg) from error
    session = Session(policy.data)
    try:
        world = gymnasium.make(env)
    except gymnasium.error.Error as error:
        msg = f"--env is {env!r}, which Gymnasium cannot make: {error}"
        raise OptionInvalid(msg) from error
    returns = [_played(world, session, seed) for seed in range(episodes)]
    world.close()
    return float(np.mean(returns)), float(np.std(returns))


def _played(world: Any, session: Session, seed: int) -> float:  # gymnasium ships no types
    seen, _ = world.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        action = session.run({"obs": np.asarray(seen, dtype=np.float32)[None]})["action"][0]
        seen, reward, terminated, truncated, _ = world.step(action)
        total += float(reward)
        ended = bool(terminated or truncated)
    return total
