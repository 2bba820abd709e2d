"""Acting: which explorer draws in which action space."""

from export.spec import ActionSpace, Box, MultiDiscrete, Squash
from guards.errors import GuardMisconfigured
from service.decision.explore.choice import AnyActing, Explorer
from service.decision.explore.explorers import Chooser, Greedy, ListActing, Normal
from service.decision.explore.factors import FactorActing, JointActing
from service.decision.explore.gaussian import BoxActing


def acting_of(
    explorer: Explorer, space: ActionSpace, squash: Squash, *, joint: bool = False, scores: bool = True
) -> AnyActing:
    """Bind an explorer; raises GuardMisconfigured where it does not fit the space, or compares what has no scores.

    ``joint`` says that what is allowed of several factors is said of whole actions.
    """
    if isinstance(space, Box) and isinstance(explorer, Greedy | Normal):
        return BoxActing(explorer, space, squash)
    if isinstance(space, Box) or not isinstance(explorer, Chooser):
        msg = f"kind: {explorer.kind!r} does not draw {space.kind} actions, expected an explorer that does"
        raise GuardMisconfigured(msg)
    if explorer.compares and not scores:
        told = "the policy has no scores, only the action that it chose"
        msg = f"kind: was {explorer.kind!r}, expected 'greedy' or 'epsilon_greedy': {told}"
        raise GuardMisconfigured(msg)
    if not isinstance(space, MultiDiscrete):
        return ListActing(explorer, space.n, scores=scores)
    if joint:
        return JointActing(explorer, space, scores=scores)
    return FactorActing(explorer, space.sizes, scores=scores)
