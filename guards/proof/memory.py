"""Memory: the numbers that constraints would have kept of a session, from what people say happened in it."""

from collections.abc import Iterator, Sequence
from math import fsum

from guards.constraints import Constraint
from guards.histories import Budget, MaxSwitches, RateLimit
from guards.proof.situation import Past


def remembered(constraints: Sequence[Constraint], past: Past) -> dict[str, tuple[float, ...]]:
    """What constraints keep at the time 0; nothing of what was not said, and first what the past itself has."""
    kept: dict[str, tuple[float, ...]] = {}
    for one in constraints:
        if isinstance(one, RateLimit):
            ago = list(_moves(one, past))
            kept[one.name] = (-min(ago),) if ago else ()
        elif isinstance(one, Budget):
            kept[one.name] = (0.0, past.spent[one.name]) if one.name in past.spent else ()
        elif isinstance(one, MaxSwitches):
            kept[one.name] = tuple(-ago for ago in sorted(_switches(past), reverse=True))
    return {**{name: numbers for name, numbers in kept.items() if numbers}, **past.kept}


def spent(budget: Budget, past: Past) -> float:
    """What was spent in a budget's window."""
    numbers = past.kept.get(budget.name, ())
    return fsum(cost for at, cost in zip(numbers[::2], numbers[1::2], strict=True) if -at < budget.seconds)


def switched(limit: MaxSwitches, past: Past) -> int:
    """How many changes of action were made in a limit's window."""
    return sum(-at < limit.seconds for at in past.kept.get(limit.name, ()))


def _moves(limit: RateLimit, past: Past) -> Iterator[float]:
    """How many seconds ago the value changed: as it is said, or as it follows from what was executed."""
    if limit.name in past.changed:
        yield past.changed[limit.name]
        return
    yield from (ago for name, ago in past.used.items() if limit.effect.get(name))
    # A change to an action that adds nothing has not changed the value.
    if limit.levels or limit.effect.get(str(past.previous)):
        yield from _change(past)


def _switches(past: Past) -> set[float]:
    """How many seconds ago the executed action changed."""
    return {*past.switched, *_change(past)}


def _change(past: Past) -> Iterator[float]:
    """When the executed action last changed, where that is said: of an unknown history it is the first sight of it."""
    if past.known and past.seconds_since_change is not None:
        yield past.seconds_since_change
