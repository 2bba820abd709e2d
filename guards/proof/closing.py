"""What a constraint may forbid, as SMT over a state and an action: one function for each kind, in the table below.

A constraint with a history is taken at its worst: it may forbid whatever it can, at any time at which anything may have
been executed before. A kind that is not in the table may forbid anything.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from guards.constraints import Bounds, Constraint, Cooldown, Rule
from guards.doubts import Confidence, Fresh, Novelty, Quorum
from guards.errors import Untranslatable
from guards.histories import Budget, MaxSwitches, RateLimit
from guards.proof.smt import Symbols, exact, one_of, translate, z3
from guards.records import NEVER, NO_ACTION

Closing: TypeAlias = Callable[[Any, Symbols], z3.BoolRef]


def may_forbid(constraint: Constraint, symbols: Symbols) -> z3.BoolRef:
    """Whether a constraint that binds to the schema may forbid ``symbols.action``."""
    closing: Closing = CLOSING.get(type(constraint), _unknown)
    try:
        return closing(constraint, symbols)
    except Untranslatable as gap:
        symbols.mentioned.update(range(len(symbols.schema.actions)))
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
    resting = one_of(symbols.action, [symbols.index(name) for name in cooldown.actions])
    return z3.And(symbols.happened(), resting)


def _bounds(bounds: Bounds, symbols: Symbols) -> z3.BoolRef:
    low, high = bounds.low, bounds.high
    if isinstance(low, str) or isinstance(high, str):
        msg = "bounds that are expressions are for a Box, and have no translation"
        raise Untranslatable(msg)
    quantity = translate(bounds.of, symbols)
    beyond = [quantity.failed]
    for name, change in bounds.effect.items():
        chosen = symbols.action == symbols.index(name)
        if change > 0 and high is not None:
            beyond.append(z3.And(chosen, quantity.value > exact(high - change)))
        if change < 0 and low is not None:
            beyond.append(z3.And(chosen, quantity.value < exact(low - change)))
    return z3.Or(beyond)


def _rate_limit(limit: RateLimit, symbols: Symbols) -> z3.BoolRef:
    """Any change is too fast right after another one; without one before, those that take longer than for ever."""
    moves = {symbols.index(name): abs(change) for name, change in limit.effect.items() if change != 0}
    steep = [action for action, change in moves.items() if change > NEVER * limit.per_second]
    changing = [z3.And(symbols.happened(), one_of(symbols.action, list(moves))), one_of(symbols.action, steep)]
    at: dict[float, list[int]] = {}
    for name, level in limit.levels.items():
        at.setdefault(level, []).append(symbols.index(name))
    for same in at.values() if len(at) > 1 else ():
        # From another level; or from one that is not known. Before the first action there is none to change from.
        elsewhere = z3.And(symbols.previous != NO_ACTION, z3.Not(one_of(symbols.previous, same)))
        changing.append(z3.And(one_of(symbols.action, same), z3.Or(elsewhere, symbols.forgotten())))
    return z3.Or(changing)


def _budget(budget: Budget, symbols: Symbols) -> z3.BoolRef:
    """Whatever costs anything is too dear when all is spent."""
    cost = translate(budget.cost, symbols)
    dear = z3.Or(z3.And(cost.value > 0, symbols.happened()), cost.value > exact(budget.at_most))
    return z3.Or(dear, cost.failed)


def _max_switches(_: MaxSwitches, symbols: Symbols) -> z3.BoolRef:
    return z3.And(symbols.happened(), symbols.action != symbols.previous)


def _nothing(_: Constraint, __: Symbols) -> z3.BoolRef:
    """A doubt is about the policy's answer: it leaves the baseline all actions."""
    return z3.BoolVal(False)


CLOSING: dict[type[Constraint], Closing] = {
    Rule: _rule,
    Cooldown: _cooldown,
    Bounds: _bounds,
    RateLimit: _rate_limit,
    Budget: _budget,
    MaxSwitches: _max_switches,
    Quorum: _nothing,
    Confidence: _nothing,
    Novelty: _nothing,
    Fresh: _nothing,
}


def executed_just_now(constraints: Sequence[Constraint], symbols: Symbols) -> list[str]:
    """The actions whose uses close most: those that constraints remember, executed just now."""
    tracked = sorted({index for constraint in constraints for index in constraint.tracks(symbols.schema)})
    return [symbols.schema.actions[index] for index in tracked]


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
