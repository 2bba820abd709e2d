"""Which function builds which policy of Stable-Baselines3 and sb3-contrib."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from pydantic import ValidationError

from export.errors import CheckpointRefused
from export.sb3 import actor_critic, deterministic, q, recurrent, squashed
from export.sb3.checkpoint import Sb3Checkpoint
from export.sb3.native import native_of
from export.sb3.normaliser import Normaliser
from export.sb3.spaces import images_of, precise
from export.spec.nearest import one_of
from export.trained import TrainedPolicy

Family = Callable[[Sb3Checkpoint, Normaliser | None, float | None], TrainedPolicy]
# The policies by the module and the class that the zip names.
SB3_POLICIES: Mapping[tuple[str, str], Family] = {
    **q.POLICIES,
    **actor_critic.POLICIES,
    **squashed.POLICIES,
    **deterministic.POLICIES,
    **recurrent.POLICIES,
}


def of_sb3(found: Sb3Checkpoint, normaliser: Normaliser | None = None, cvar: float | None = None) -> TrainedPolicy:
    """Build the policy of an SB3 zip, with the statistics of its VecNormalize if it was trained with one.

    ``cvar`` asks a distributional network for the mean of its worst share of outcomes, above 0 and up to 1. Raises
    CheckpointRefused for a family that is not in the table, and OptionInvalid where ``cvar`` does not fit.
    """
    key = (found.policy_module, found.policy_class)
    if key not in SB3_POLICIES:
        named = ".".join(key)
        known = one_of(named, (f"{module}.{name}" for module, name in SB3_POLICIES))
        msg = f"the policy class is {named[:200]}, expected {known}"
        raise CheckpointRefused(msg)
    try:
        policy = SB3_POLICIES[key](found, normaliser, cvar)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        msg = f"the zip's spaces do not fit: {first['msg']}, found {str(first['input'])[:60]!r}"
        raise CheckpointRefused(msg) from error
    observation = precise(found, policy.observation, normaliser)
    policy = replace(policy, observation=observation, images=images_of(found, observation))
    native = native_of(found, policy.observation, policy.action, normaliser, recurrent=bool(policy.memory), cvar=cvar)
    return replace(policy, native=native[0], native_name=native[1]) if native is not None else policy
