"""A judge of actions to choose from: every constraint once more, one action at a time, over all that really happened.

It shares no code with the guards: it knows the whole log of a session, wherever it was executed, and asks Python itself
what an expression means. So it can say of an executed action that it was unsafe, whatever the guards remembered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import CodeType
from typing import Any

from export.spec import Discrete, MultiDiscrete
from guards.constraints import Bounds, Budget, Constraint, Cooldown, MaxSwitches, RateLimit, Rule
from guards.records import NEVER, Action, Schema

# Sums and products of doubles are rounded; what is so little beyond a limit is not beyond it.
SLACK = 1e-9


class Failed(Exception):
    """An expression cannot be evaluated."""


class Picked(float):
    """A factor's choice, which is its index and its name."""

    name: str

    def __new__(cls, index: int, name: str) -> "Picked":
        picked = super().__new__(cls, index)
        picked.name = name
        return picked

    def __eq__(self, other: object) -> bool:
        return self.name == other if isinstance(other, str) else float(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = float.__hash__


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was executed, with what was known then."""

    at: float
    action: Action
    named: Mapping[str, float]
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Session:
    """What really happened in an episode, and how much of it whoever decides may know.

    ``since`` is when they first saw it, where they did not see all of it.
    """

    events: list[Event] = field(default_factory=list)
    since: float | None = None

    @property
    def here(self) -> Sequence[Event]:
        """What they saw."""
        return [event for event in self.events if self.since is None or event.at > self.since]


class Names(dict[str, Any]):
    """What an expression's names stand for; a fact that was not given cannot be evaluated."""

    def __missing__(self, name: str) -> Any:
        raise Failed(name)


class Judge:
    """All constraints of a configuration, read by hand."""

    def __init__(self, constraints: Sequence[Constraint], schema: Schema) -> None:
        self.schema = schema
        self.constraints = [one for one in constraints if one.mode == "deny"]
        self._codes: dict[str, CodeType] = {}

    def unsafe(self, session: Session, now: float, named: Mapping[str, float], action: Action) -> list[str]:
        """The constraints that an action would break."""
        event = Event(now, action, named)
        return [one.name for one in self.constraints if _BREAKS[type(one)](self, one, session, event)]

    def did(self, session: Session, now: float, named: Mapping[str, float], action: Action) -> None:
        """Take in that something was executed."""
        event = Event(now, action, named)
        costs = {one.name: self._cost(one, session, event) for one in self.constraints if isinstance(one, Budget)}
        session.events.append(Event(now, action, named, costs))

    def parts(self, action: Action) -> set[str]:
        """What an action is called, or what its choices are."""
        space = self.schema.action
        if isinstance(space, Discrete):
            assert isinstance(action, int)
            return {space.names[action]}
        assert isinstance(space, MultiDiscrete)
        assert isinstance(action, tuple)
        return {f"{one.name}={one.names[int(i)]}" for one, i in zip(space.factors, action, strict=True)}

    def total(self, amounts: Mapping[str, float], action: Action) -> float:
        return sum(amounts.get(part, 0.0) for part in self.parts(action))

    def value(self, source: str, session: Session, event: Event) -> Any:
        """What an expression is worth; raises Failed."""
        code = self._codes.get(source)
        if code is None:
            code = self._codes[source] = compile(source, "rule", "eval")
        names = Names(event.named)
        space, here = self.schema.action, session.here
        if isinstance(space, MultiDiscrete):
            assert isinstance(event.action, tuple)
            for one, i in zip(space.factors, event.action, strict=True):
                names[one.name] = Picked(int(i), one.names[int(i)])
        else:
            names["action"] = next(iter(self.parts(event.action)))
            if here or session.since is None:
                names["previous_action"] = next(iter(self.parts(here[-1].action))) if here else None
        if session.since is None:
            names["step"] = float(len(here))
        names["seconds_since_change"] = event.at - _changed(here, session.since)
        try:
            return eval(code, {"__builtins__": {}, "abs": abs, "min": min, "max": max}, names)  # noqa: S307 - ours
        except ZeroDivisionError as error:
            raise Failed(source) from error

    def _rule(self, rule: Rule, session: Session, event: Event) -> bool:
        try:
            return bool(self.value(rule.forbid, session, event))
        except Failed:
            return rule.on_error == "deny"

    def _cooldown(self, cooldown: Cooldown, session: Session, event: Event) -> bool:
        resting = set(cooldown.actions)
        if not self.parts(event.action) & resting:
            return False
        return any(event.at - e.at < cooldown.seconds and self.parts(e.action) & resting for e in session.events)

    def _bounds(self, bounds: Bounds, session: Session, event: Event) -> bool:
        try:
            now = self.value(bounds.of, session, event)
        except Failed:
            return True
        change = self.total(bounds.effect, event.action)
        low, high = bounds.low, bounds.high
        assert not isinstance(low, str)
        assert not isinstance(high, str)
        above = high is not None and change > 0 and now + change > high + SLACK
        return bool(above or (low is not None and change < 0 and now + change < low - SLACK))

    def _cost(self, budget: Budget, session: Session, event: Event) -> float:
        try:
            return min(max(float(self.value(budget.cost, session, event)), 0.0), budget.at_most)
        except Failed:
            return budget.at_most

    def _budget(self, budget: Budget, session: Session, event: Event) -> bool:
        try:
            cost = float(self.value(budget.cost, session, event))
        except Failed:
            return True
        spent = sum(e.costs[budget.name] for e in session.events if event.at - e.at < budget.seconds)
        return cost > 0 and spent + cost > budget.at_most * (1 + SLACK)

    def _max_switches(self, limit: MaxSwitches, session: Session, event: Event) -> bool:
        events = session.events
        if not events or events[-1].action == event.action:
            return False
        switched = sum(a.action != b.action and event.at - b.at < limit.seconds for a, b in pairwise(events))
        return switched + 1 > limit.at_most

    def _rate_limit(self, limit: RateLimit, session: Session, event: Event) -> bool:
        value = limit.levels or limit.effect
        times, level = [], None
        for e in session.events:
            total = self.total(value, e.action)
            if (total != 0) if limit.effect else (level is not None and total != level):
                times.append(e.at)
            level = total
        total = self.total(value, event.action)
        change = abs(total) if limit.effect else 0.0 if level is None else abs(total - level)
        return bool(times) and change > max(0.0, event.at - times[-1]) * limit.per_second * (1 + SLACK)


_BREAKS: dict[type[Constraint], Callable[..., bool]] = {
    Rule: Judge._rule,
    Cooldown: Judge._cooldown,
    Bounds: Judge._bounds,
    Budget: Judge._budget,
    MaxSwitches: Judge._max_switches,
    RateLimit: Judge._rate_limit,
}


def _changed(here: Sequence[Event], since: float | None) -> float:
    """When the action last changed, as far as it may be known."""
    times = [b.at for a, b in pairwise(here) if a.action != b.action]
    return times[-1] if times else -NEVER if since is None else since
