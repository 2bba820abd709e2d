"""The walk over a term: what it means for one row and one action. All else that is made of terms is held to it."""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise

from guards.errors import EvaluationFailed
from guards.language import terms
from guards.records import NO_ACTION, Action, Row

COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
ARITHMETIC: dict[str, Callable[..., float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": operator.mod,
    "abs": abs,
    "min": min,
    "max": max,
    "neg": operator.neg,
}


@dataclass(frozen=True, slots=True)
class Scene:
    """A row, the action asked about, and which one is taken to have been executed last where any of several may be."""

    row: Row
    action: Action = NO_ACTION
    previous: Action = NO_ACTION

    def acted(self, of: terms.Of) -> Action:
        """The action that a part is of."""
        return self.action if of == "action" else self.previous


def value(term: terms.Term, scene: Scene) -> terms.Value:
    """The value of a term; raises EvaluationFailed where it has none."""
    match term:
        case terms.Fixed():
            return term.value
        case terms.Observed():
            return scene.row.observation[term.index]
        case terms.Fact():
            return _finite(scene.row.facts[term.index], f"the fact {term.name} was not given")
        case terms.Past():
            return _past(term, scene.row)
        case terms.Recall():
            return term.read(scene.row.history, scene.row.now)
        case terms.Part():
            return float(part_of(scene.acted(term.of), term.index))
        case terms.Whole():
            return scene.acted(term.of)
        case terms.Among():
            return part_of(scene.action, term.index) in term.choices
        case terms.Table():
            action = scene.acted(term.of)
            return left_to_right([column[int(part_of(action, i))] for i, column in term.columns])
        case terms.Compare():
            # One after another: the first that is false ends it.
            sides = pairwise(value(part, scene) for part in term.parts)
            return all(COMPARE[op](left, right) for op, (left, right) in zip(term.ops, sides, strict=False))
        case terms.Within():
            *slopes, most = (number(part, scene) for part in term.parts)
            point = [float(part_of(scene.action, i)) for i in term.numbers]
            return within(slopes, point, most, term.tolerance)
    assert isinstance(term, terms.Operation)  # noqa: S101 - there are no others
    return _operation(term, scene)


def number(term: terms.Term, scene: Scene) -> float:
    """The value of a term that is a number."""
    found = value(term, scene)
    assert not isinstance(found, tuple)  # noqa: S101 - no number is a whole action
    return found


def part_of(action: Action, index: int) -> float:
    """A part of an action; one of a list is its own only part."""
    return action[index] if isinstance(action, tuple) else action


def left_to_right(amounts: Sequence[float]) -> float:
    """The sum in the order of the factors."""
    return reduce(operator.add, amounts)


def within(slopes: Sequence[float], point: Sequence[float], most: float, tolerance: float) -> bool:
    """Whether a point is in a half-space; bounds, which have no tolerance, may be infinite."""
    total = scale = 0.0
    for slope, here in zip(slopes, point, strict=True):
        total += slope * here
        scale += abs(slope) * max(abs(here), 1.0)
    scale = max(abs(most), scale)
    return total <= most if not tolerance else math.isfinite(scale) and total - most <= tolerance * scale


def _past(term: terms.Past, row: Row) -> terms.Value:
    history = row.history
    unknown = not (history.known or history.step)
    if term.what == "seconds_since_change":
        return _finite(history.since_change(row.now), "the clock is no number")
    if (term.what == "step" and not history.known) or (term.what == "previous_action" and unknown):
        raise EvaluationFailed(f"{term.what} is not known, because the session's history is not here")
    told: dict[str, terms.Value] = {
        "step": float(history.step),
        "previous_action": history.action,
        "unknown": unknown,
        "begins": history.action == NO_ACTION,
        "happened": not history.known or history.step > 0,
    }
    return told[term.what]


def _operation(term: terms.Operation, scene: Scene) -> terms.Value:
    match term.op:
        case "and":
            return all(value(part, scene) for part in term.parts)
        case "or":
            return any(value(part, scene) for part in term.parts)
        case "not":
            return not value(term.parts[0], scene)
        case "if":
            test, body, otherwise = term.parts
            return value(body if value(test, scene) else otherwise, scene)
        case "fails":
            try:
                value(term.parts[0], scene)
            except EvaluationFailed:
                return True
            return False
        case "some":
            return any(value(term.parts[0], replace(scene, previous=action)) for action in scene.row.history.last)
    numbers = [number(part, scene) for part in term.parts]
    try:
        result = ARITHMETIC[term.op](*numbers)
    except ZeroDivisionError:
        raise EvaluationFailed(f"{term.text} divides by zero") from None
    return _finite(result, f"{term.text} is too large a number") if term.checked else result


def _finite(result: float, otherwise: str) -> float:
    """A number that has to be finite."""
    if not math.isfinite(result):
        raise EvaluationFailed(otherwise)
    return result
