"""The actor of SB3's policies that have nothing but continuous actions: its action space and its hidden layers."""

from export.errors import CheckpointRefused
from export.networks import Tensors
from export.sb3.checkpoint import Sb3Checkpoint, layers
from export.sb3.features import arch_of
from export.sb3.spaces import actions_of
from export.spec import Box


def box_of(found: Sb3Checkpoint) -> Box:
    """Read the action space, which has to be a Box."""
    action = actions_of(found)
    if not isinstance(action, Box):
        msg = f"the action space is {action.kind}, expected Box: {found.policy_module} has no other"
        raise CheckpointRefused(msg)
    return action


def refuse_unbounded(action: Box) -> None:
    """Raise CheckpointRefused where an action cannot be scaled from [-1, 1] to its bounds, because it lacks some."""
    for field in action.fields:
        if field.low is None or field.high is None or field.low >= field.high:
            msg = (
                f"the action's number {field.name!r} has the bounds {field.low} and {field.high}, expected a low below"
            )
            msg += " a high: what the network answers is scaled to them"
            raise CheckpointRefused(msg)


def hidden(found: Sb3Checkpoint, tensors: Tensors, prefix: str, *, last: bool) -> tuple[int, ...]:
    """Give the widths of the hidden layers ``prefix.0``, ``prefix.2`` and so on, as ``net_arch`` says them.

    Where it says none, releases of SB3 differ in what they take, so the file's own layers say it; ``last`` tells
    whether the last of them is the output and no hidden one.
    """
    arch = arch_of(found)
    if isinstance(arch, dict):
        return layers(arch.get("pi"), "['pi']")
    if arch is not None:
        return layers(arch, "")
    widths: list[int] = []
    while shape := tensors.shape(f"{prefix}.{2 * len(widths)}.weight"):
        widths.append(shape[0])
    return tuple(widths[:-1] if last else widths)
