"""Explanation: for one situation each action, each constraint, and whether it is allowed or why not, in words."""

import ast
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from export.spec import Discrete
from guards.constraints import Bounds, Constraint, Cooldown, Mode, Rule
from guards.doubts import Doubt
from guards.errors import EvaluationFailed, GuardMisconfigured
from guards.histories import Budget, MaxSwitches, RateLimit
from guards.proof.memory import remembered, spent, switched
from guards.proof.reference import Asked, Value, text_of, value_of
from guards.proof.situation import Situation, shown
from guards.records import Schema
from guards.shield import Ruling, Shield
from guards.syntax import parsed


@dataclass(frozen=True, slots=True)
class Said:
    """What one constraint says of one action, and why."""

    constraint: str
    kind: str
    mode: Mode
    forbids: bool
    why: str


@dataclass(frozen=True, slots=True)
class Explained:
    """Whether an action is allowed, and what every constraint says of it."""

    action: str
    allowed: bool
    said: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A situation and what it leaves."""

    situation: Situation
    actions: tuple[Explained, ...]

    def lines(self) -> Iterator[str]:
        """It in words."""
        yield from self.situation.lines()
        for one in self.actions:
            yield f"{one.action}: {'allowed' if one.allowed else 'not allowed'}"
            for said in one.said:
                does = "forbids" if said.forbids else "allows"
                only = "" if said.mode == "deny" else ", only reports"
                yield f"  {does} {said.constraint!r} ({said.kind}{only}): {said.why}"


def explain(schema: Schema, constraints: Sequence[Constraint], situation: Situation) -> Explanation:
    """Explain what the shield leaves in a situation that names every field.

    What is allowed is the shield's own answer; the reasons are the reference interpreter's. Raises GuardMisconfigured
    for constraints that do not bind to the schema, and for actions that are not one of a list.
    """
    if not isinstance(schema.action, Discrete):
        msg = f"the action space is {schema.action.kind}, expected discrete: only then there is a list of actions"
        raise GuardMisconfigured(msg)
    told = replace(situation, past=replace(situation.past, kept=remembered(constraints, situation.past)))
    ruling = Shield(constraints, schema).judge(told.context(schema))
    assert isinstance(ruling, Ruling)  # noqa: S101 - the space is Discrete
    # A doubt forbids nothing. What a rule lets pass although it cannot be evaluated stands after what it forbids.
    forbidden = {one.name: np.zeros(len(schema.actions), dtype=np.bool_) for one in constraints}
    forbidden |= {
        name: np.broadcast_to(cells, ruling.allowed.shape)[0] for name, _, cells in reversed(ruling.forbidden)
    }
    explained = []
    for i, action in enumerate(schema.actions):
        asked = Asked(schema, told, action)
        said = [
            Said(one.name, _kind(one), one.mode, bool(forbidden[one.name][i]), _why(one, asked)) for one in constraints
        ]
        explained.append(Explained(action, bool(ruling.allowed[0, i]), tuple(said)))
    return Explanation(situation, tuple(explained))


def _kind(constraint: Constraint) -> str:
    """What its kind is called in the file."""
    return str(type(constraint).model_fields["kind"].default)


def _why(constraint: Constraint, asked: Asked) -> str:
    if isinstance(constraint, Doubt):
        return "is about the policy's answer, and forbids no action"
    why = _REASONS.get(type(constraint))
    return "there are no words for this kind" if why is None else why(constraint, asked)


def _rule(rule: Rule, asked: Asked) -> str:
    node = parsed(rule.forbid)
    try:
        outcome = "is true" if value_of(node, asked) else "is false"
    except EvaluationFailed as error:
        outcome = f"cannot be evaluated, because {error}"
    where = _values(node, asked)
    return f"{rule.forbid!r} {outcome}" + (f" where {where}" if where else "")


def _cooldown(cooldown: Cooldown, asked: Asked) -> str:
    past = asked.situation.past
    if asked.action not in cooldown.actions:
        return "is not about this action"
    uses = {name: past.used[name] for name in cooldown.actions if name in past.used}
    seen = past.seconds_since_change or 0.0
    rests = f"it rests for {shown(cooldown.seconds)} s"
    if not past.known and seen <= min(uses.values(), default=seen):
        when = f"when the session was first seen, {shown(seen)} s ago"
        return f"one of its actions is taken to have been executed {when}, because the history is not here; {rests}"
    if not uses:
        return "none of its actions was executed in this episode"
    last = min(uses, key=lambda name: uses[name])
    return f"{last!r} was executed {shown(uses[last])} s ago; {rests}"


def _bounds(bounds: Bounds, asked: Asked) -> str:
    node = parsed(bounds.of)
    try:
        now = value_of(node, asked)
    except EvaluationFailed as error:
        return f"{bounds.of!r} cannot be evaluated, because {error}"
    change = bounds.effect.get(str(asked.action), 0.0)
    if change == 0:
        return f"{bounds.of} is {_told(now)}, which this action does not move"
    limit = _limit("at most", bounds.high) if change > 0 else _limit("at least", bounds.low)
    return f"{bounds.of} is {_told(now)}, and this action adds {shown(change)}: expected {limit}"


def _rate_limit(limit: RateLimit, asked: Asked) -> str:
    action, previous = str(asked.action), asked.situation.past.previous
    allowed = f"expected at most {shown(limit.per_second)} for each second since the last change{_since(limit, asked)}"
    if limit.effect:
        return f"this action changes the value by {shown(abs(limit.effect.get(action, 0.0)))}: {allowed}"
    before = "is not known" if previous is None else f"stood at {shown(limit.levels[str(previous)])}"
    return f"the value {before}, and this action sets it to {shown(limit.levels[action])}: {allowed}"


def _since(limit: RateLimit, asked: Asked) -> str:
    """When the value last changed."""
    past = asked.situation.past
    kept, seen = past.kept.get(limit.name), past.seconds_since_change or 0.0
    if not past.known and (not kept or -kept[0] >= seen):
        return f", which is taken to have been {_at_first_sight(seen)}"
    if kept:
        return f", which was {shown(-kept[0])} s ago"
    return ", as if there had been none before" if past.step else ", and there was none"


def _at_first_sight(seen: float) -> str:
    """When the worst is taken to have happened."""
    return f"when the session was first seen, {shown(seen)} s ago, because the history is not here"


def _budget(budget: Budget, asked: Asked) -> str:
    try:
        cost = f"{budget.cost} is {_told(value_of(parsed(budget.cost), asked))}"
    except EvaluationFailed as error:
        cost = f"{budget.cost!r} cannot be evaluated, because {error}"
    past = asked.situation.past
    seen = past.seconds_since_change or 0.0
    if not past.known and seen < budget.seconds:
        before = f"all of which is taken to have been spent {_at_first_sight(seen)}"
    elif past.kept.get(budget.name):
        before = f"of which {shown(spent(budget, past))} was spent"
    else:
        before = "as if nothing had been spent before" if past.step else "of which nothing was spent"
    most = f"expected no more than is left of {shown(budget.at_most)} in {shown(budget.seconds)} s"
    return f"{cost}: {most}, {before}"


def _max_switches(limit: MaxSwitches, asked: Asked) -> str:
    past = asked.situation.past
    seen, made = past.seconds_since_change or 0.0, switched(limit, past)
    if past.previous == asked.action:
        return "this is the action of the decision before"
    if not past.known and seen < limit.seconds:
        before = f"and so many are taken to have been made {_at_first_sight(seen)}"
    elif made >= limit.at_most or not past.step:
        before = f"and {made} were made"
    else:
        before = f"as if {made or 'none'} had been made before"
    most = f"expected at most {limit.at_most} changes in {shown(limit.seconds)} s"
    return f"another action than the one before: {most}, {before}"


_REASONS: dict[type[Constraint], Callable[[Any, Asked], str]] = {
    Rule: _rule,
    Cooldown: _cooldown,
    Bounds: _bounds,
    RateLimit: _rate_limit,
    Budget: _budget,
    MaxSwitches: _max_switches,
}


def _limit(side: str, limit: float | str | None) -> str:
    return "anything" if limit is None else f"{side} {limit if isinstance(limit, str) else shown(limit)}"


def _values(node: ast.expr, asked: Asked) -> str:
    """The values of the names and of the calculated sides of comparisons in an expression, where they have one."""
    told: dict[str, Value] = {}
    for part in _parts(node):
        with suppress(EvaluationFailed):
            told[text_of(part)] = value_of(part, asked)
    return ", ".join(f"{text} = {_told(value)}" for text, value in told.items())


def _parts(node: ast.expr) -> Iterator[ast.expr]:
    """Names first, in the order in which they are written, then what is calculated of them."""
    below = [
        one for one in ast.walk(node) if isinstance(one, ast.Name) and one.id not in ("action", "abs", "min", "max")
    ]
    yield from sorted(below, key=lambda name: name.col_offset)
    for compare in ast.walk(node):
        if isinstance(compare, ast.Compare):
            for side in (compare.left, *compare.comparators):
                if isinstance(side, ast.BinOp | ast.Call | ast.IfExp):
                    yield side


def _told(value: Value) -> str:
    """A value as people read it."""
    if isinstance(value, float):
        return shown(value)
    return "none" if value is None else repr(value)
