"""A scenario: one decision as people write it down, by name, and the row that the guards see of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, nan

from export.spec import Array, Dict, Field, Fields
from guards.actions import Written, read
from guards.constraints import Constraint
from guards.constraints.constraint import Recounted
from guards.constraints.constraint import shown as shown
from guards.records import NO_ACTION, History, Row, Schema

# What an integer of an observation may be: beyond it the edge refuses it.
WHOLE = {"int64": (-(2**53), 2**53), "uint8": (0, 255)}


@dataclass(frozen=True, slots=True)
class Before:
    """What happened in the session before: nothing, if nothing is said.

    ``previous`` is the action of the last decision, as people write it. ``seconds_since_change`` is None where the
    executed action has not changed; ``used`` says how many seconds ago an action, or a factor's choice, was last
    executed. Where the history is not ``known``, the session was first seen as long ago as the action is taken to have
    changed. ``kept`` is what constraints keep, by their names, of the time before 0, which is now.

    People say it in other words: ``spent`` of which budget, how many seconds ago the executed action ``switched``, and
    a rate-limited value ``changed``.
    """

    known: bool = True
    step: int = 0
    previous: Written | None = None
    seconds_since_change: float | None = None
    used: Mapping[str, float] = field(default_factory=dict)
    kept: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    spent: Mapping[str, float] = field(default_factory=dict)
    switched: tuple[float, ...] = ()
    changed: Mapping[str, float] = field(default_factory=dict)

    def history(self, schema: Schema) -> History:
        """The history as the guards keep it, at the time 0: so a number of seconds ago is exactly that."""
        ago = self.seconds_since_change
        return History(
            known=self.known,
            since=0.0 if ago is None or self.known else -ago,
            step=self.step,
            action=NO_ACTION if self.previous is None else read(self.previous, schema.action),
            changed_at=-ago if self.known and ago is not None else None,
            used={schema.choices.index(name): -seconds for name, seconds in self.used.items()},
            kept=self.kept,
        )

    def remembered(self, constraints: Sequence[Constraint]) -> dict[str, tuple[float, ...]]:
        """What constraints would have kept at the time 0; nothing of what was not said, and first what is ``kept``."""
        change = self.seconds_since_change if self.known else None
        switched = {*self.switched, *(() if change is None else (change,))}
        told, found = Recounted(str(self.previous), self.used, change, tuple(sorted(switched))), dict(self.kept)
        for one in constraints:
            own = replace(told, changed=self.changed.get(one.name), spent=self.spent.get(one.name))
            if numbers := one.recounted(own):
                found.setdefault(one.name, numbers)
        return found

    def lines(self) -> Iterator[str]:
        """It in words."""
        if not self.known:
            yield "the session's history is not known here (a restart, another replica, a session that is new)"
        if self.step == 0:
            yield "the first decision of an episode" if self.known else "the first decision here"
        else:
            decisions = "decision" if self.step == 1 else "decisions"
            yield f"after {self.step} {decisions}, the last one {written(self.previous)}"
        ago = self.seconds_since_change
        if ago is not None:
            what = "the action changed" if self.known else "the session was first seen"
            yield f"{what} {shown(ago)} s ago"
        if self.used:
            when_ = {name: f"{shown(seconds)} s ago" if seconds else "just now" for name, seconds in self.used.items()}
            yield "executed " + ", ".join(f"{name!r} {when}" for name, when in when_.items())
        if self.switched:
            yield f"before that it changed {' and '.join(f'{shown(seconds)} s' for seconds in self.switched)} ago"
        yield from (f"the value of {name!r} changed {shown(seconds)} s ago" for name, seconds in self.changed.items())
        yield from (f"spent {shown(amount)} of {name!r}" for name, amount in self.spent.items())
        if self.kept:
            yield f"used up just now: {', '.join(map(repr, self.kept))}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is observed, which facts a request gave (None: declared and not given), and what happened before.

    A field that is not said is as near to 0 as its range lets it be. The request has no mask of its own.
    """

    observation: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, float | None] = field(default_factory=dict)
    past: Before = Before()

    def row(self, schema: Schema) -> Row:
        """What the guards see."""
        observation, named = [0.0] * schema.observation.size, ranges(schema)
        for name, at in schema.columns.items():
            observation[at] = float(self.observation.get(name, nearest(0.0, named[name][0])))
        facts = [self.facts.get(name) for name in schema.facts]
        told = [nan if fact is None else float(fact) for fact in facts]
        return Row(observation, told, None, 0.0, self.past.history(schema))

    def lines(self) -> Iterator[str]:
        """It in words."""
        if self.observation:
            yield "observation: " + ", ".join(f"{name} = {shown(value)}" for name, value in self.observation.items())
        if self.facts:
            told = [f"{n} was not given" if v is None else f"{n} = {shown(v)}" for n, v in self.facts.items()]
            yield "facts: " + ", ".join(told)
        yield "history: " + "; ".join(self.past.lines())


def ranges(schema: Schema) -> dict[str, tuple[Field, str]]:
    """Each named number of the observation: its field, which has its range, and its dtype."""
    space = schema.observation
    parts: list[Fields | Array] = [entry.space for entry in space.entries] if isinstance(space, Dict) else [space]
    named = [part for part in parts if isinstance(part, Fields)]
    return {one.name: (one, part.dtype) for part in named for one in part.fields}


def nearest(value: float, within: Field) -> float:
    """The number within a range that is nearest to a value."""
    low = -inf if within.low is None else within.low
    return float(min(max(value, low), inf if within.high is None else within.high))


def written(action: Written | None) -> str:
    """An action as people write it in the configuration."""
    if not isinstance(action, tuple):
        return repr(action)
    return f"[{', '.join(shown(part) if isinstance(part, float) else repr(part) for part in action)}]"
