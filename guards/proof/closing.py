"""What a constraint may forbid, as SMT over a state and an action: one function for each kind, in the table below.

A constraint with a history is taken at its worst: it may forbid whatever it can, at any time at which anything may have
been executed before. A kind that is not in the table may forbid anything.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from export.spec import Box
from guards.boxes import Amount, Linear
from guards.constraints import Bounds, Constraint, Cooldown, Rule
from guards.doubts import Confidence, Fresh, Novelty, Quorum
from guards.errors import Untranslatable
from guards.histories import Budget, MaxSwitches, RateLimit
from guards.proof.smt import either, translate
from guards.proof.symbols import Symbols, Translated, exact, z3
from guards.records import NEVER

Closing: TypeAlias = Callable[[Any, Symbols], z3.BoolRef]


def may_forbid(constraint: Constraint, symbols: Symbols) -> z3.BoolRef:
    """Whether a constraint that binds to the schema may forbid the action ``symbols.acted``."""
    closing: Closing = CLOSING.get(type(constraint), _unknown)
    try:
        return closing(constraint, symbols)
    except Untranslatable as gap:
        symbols.mentioned.update(range(len(symbols.schema.choices) or len(symbols.acted)))
        return symbols.anything(z3.BoolSort(), f"{constraint.name!r}: {gap}")


def _unknown(constraint: Constraint, _: Symbols) -> z3.BoolRef:
    msg = f"the proof does not know what a {type(constraint).__name__} forbids"
    raise Untranslatable(msg)


def _rule(rule: Rule, symbols: Symbols) -> z3.BoolRef:
    condition = translate(rule.forbid, symbols)
    if rule.on_error == "allow":
        return z3.And(condition.value, z3.Not(condition.failed))
    return z3.Or(condition.value, condition.failed)


def _cooldown(cooldown: Cooldown, symbols: Symbols) -> z3.BoolRef:
    resting = z3.Or([symbols.chosen(symbols.index(name)) for name in cooldown.actions])
    return z3.And(symbols.happened(), resting)


def _bounds(bounds: Bounds, symbols: Symbols) -> z3.BoolRef:
    low, high = bounds.low, bounds.high
    if isinstance(symbols.schema.action, Box):
        number = symbols.part(bounds.of)
        least, most = (None if limit is None else _amount(limit, symbols) for limit in (low, high))
        beyond = [] if least is None else [least.failed, number < least.value]
        return z3.Or(beyond if most is None else [*beyond, most.failed, number > most.value])
    if isinstance(low, str) or isinstance(high, str):
        msg = "bounds that are expressions are for a Box, and have no translation"
        raise Untranslatable(msg)
    quantity = translate(bounds.of, symbols)
    beyond = [quantity.failed]
    # Where a limit is too large for a double every number is beyond it.
    for change, chosen in symbols.totals(bounds.effect).items():
        if change > 0 and high is not None:
            limit = high - change
            beyond.append(chosen if math.isinf(limit) else z3.And(chosen, quantity.value > exact(limit)))
        if change < 0 and low is not None:
            limit = low - change
            beyond.append(chosen if math.isinf(limit) else z3.And(chosen, quantity.value < exact(limit)))
    return z3.Or(beyond)


def _linear(linear: Linear, symbols: Symbols) -> z3.BoolRef:
    slopes = {name: _amount(slope, symbols) for name, slope in linear.coefficients.items()}
    most = _amount(linear.at_most, symbols)
    total = z3.Sum([slope.value * symbols.part(name) for name, slope in slopes.items()])
    return z3.Or(either(most.failed, *[slope.failed for slope in slopes.values()]), total > most.value + symbols.slack)


def _amount(written: Amount, symbols: Symbols) -> Translated:
    """A number in a setting, or an expression that is about no action."""
    return translate(str(written), symbols, about_action=False)


def _rate_limit(limit: RateLimit, symbols: Symbols) -> z3.BoolRef:
    """Any change is too fast right after another one; without one before, those that take longer than for ever."""
    if isinstance(symbols.schema.action, Box):
        return _reach(limit, symbols)
    moves = {change: chosen for change, chosen in symbols.totals(limit.effect).items() if change != 0}
    steep = [chosen for change, chosen in moves.items() if abs(change) > NEVER * limit.per_second]
    changing = [z3.And(symbols.happened(), z3.Or(list(moves.values()))), *steep]
    at, before = symbols.totals(limit.levels), symbols.totals(limit.levels, symbols.before)
    for level, chosen in at.items() if len(at) > 1 else ():
        # From another level; or from one that is not known. Before the first action there is none to change from.
        elsewhere = z3.And(symbols.step > 0, z3.Not(before[level]))
        changing.append(z3.And(chosen, z3.Or(elsewhere, symbols.forgotten())))
    return z3.Or(changing)


def _reach(limit: RateLimit, symbols: Symbols) -> z3.BoolRef:
    """No time has passed: only the number as it stands is within reach, or what all that it may be have in common."""
    number = symbols.part(str(limit.of))
    moved = z3.And(symbols.step > 0, number != symbols.before[symbols.parts[str(limit.of)]])
    if limit.assume is None:
        return z3.Or(moved, symbols.forgotten())
    least, most = map(exact, limit.assume)
    return z3.Or(moved, z3.And(symbols.forgotten(), z3.Or(number < most, number > least)))


def _budget(budget: Budget, symbols: Symbols) -> z3.BoolRef:
    """Whatever costs anything is too dear when all is spent."""
    cost = translate(budget.cost, symbols)
    dear = z3.Or(z3.And(cost.value > 0, symbols.happened()), cost.value > exact(budget.at_most))
    return z3.Or(dear, cost.failed)


def _max_switches(_: MaxSwitches, symbols: Symbols) -> z3.BoolRef:
    both = zip(symbols.acted, symbols.before, strict=True)
    return z3.And(symbols.happened(), z3.Or([now != before for now, before in both]))


def _nothing(_: Constraint, __: Symbols) -> z3.BoolRef:
    """A doubt is about the policy's answer: it leaves the baseline all actions."""
    return z3.BoolVal(False)


CLOSING: dict[type[Constraint], Closing] = {
    Rule: _rule,
    Cooldown: _cooldown,
    Bounds: _bounds,
    Linear: _linear,
    RateLimit: _rate_limit,
    Budget: _budget,
    MaxSwitches: _max_switches,
    Quorum: _nothing,
    Confidence: _nothing,
    Novelty: _nothing,
    Fresh: _nothing,
}


def executed_just_now(constraints: Sequence[Constraint], symbols: Symbols) -> list[str]:
    """The choices whose uses close most: those that constraints remember, executed just now."""
    tracked = sorted({index for constraint in constraints for index in constraint.tracks(symbols.schema)})
    return [symbols.schema.choices[index] for index in tracked]


def used_up(constraints: Sequence[Constraint]) -> dict[str, tuple[float, ...]]:
    """What constraints keep when all that they allow was done just now, at the time 0."""
    kept: dict[str, tuple[float, ...]] = {}
    for constraint in constraints:
        if isinstance(constraint, RateLimit):
            kept[constraint.name] = (0.0,)
        elif isinstance(constraint, Budget):
            kept[constraint.name] = (0.0, constraint.at_most)
        elif isinstance(constraint, MaxSwitches):
            kept[constraint.name] = (0.0,) * constraint.at_most
    return kept
