"""The reference interpreter: what an expression means, for one situation and one action, straight from its syntax tree.

It shares no code with the compiler (``guards.expressions``, ``guards.terms``) but the parser; tests hold the two to the
same answer, and ``guards.proof.explanation`` shows the values of an expression's parts with it. An expression is taken
to have been compiled: what is not part of the rule language never comes here.
"""

import ast
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from export.spec import Box, MultiDiscrete
from guards.domains import Written
from guards.errors import EvaluationFailed
from guards.proof.situation import Situation
from guards.records import NEVER, Schema

# A number (a factor's choice counts as its index), a condition, or an action: its name, None where there was none yet.
Value = float | bool | str | None

_ARITHMETIC: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.AST], Callable[..., bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_CALLS: dict[str, Callable[..., float]] = {"abs": abs, "min": min, "max": max}


class Choice(float):
    """A factor's choice: a number, which is its index, that is the same as its name too."""

    def __new__(cls, names: Sequence[str], index: int) -> Self:
        choice = super().__new__(cls, index)
        choice.name = names[index]
        return choice

    name: str

    def __eq__(self, other: object) -> bool:
        return self.name == other if isinstance(other, str) else float(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = float.__hash__


@dataclass(frozen=True, slots=True)
class Asked:
    """A situation and the action asked about, as people write it (None where no action is)."""

    schema: Schema
    situation: Situation
    action: Written | None = None

    def named(self, name: str) -> Value:
        """What a name stands for; raises EvaluationFailed for what is not known here."""
        observation, past = self.situation.observation, self.situation.past
        if name in self.schema.columns:
            return observation[name]
        if name in self.schema.facts:
            fact = self.situation.facts.get(name)
            if fact is None:
                raise EvaluationFailed(f"the fact {name} was not given")
            return fact
        if isinstance(self.action, tuple) and name in self._parts:
            return self._part(name, self.action)
        if name == "action" and not isinstance(self.action, tuple):
            return self.action
        if name == "seconds_since_change":
            never = NEVER if past.known else 0.0
            return never if past.seconds_since_change is None else past.seconds_since_change
        if not past.known and (name == "step" or past.step == 0):
            raise EvaluationFailed(f"{name} is not known, because the session's history is not here")
        # (Only where actions are those of a list has the one before a name.)
        return float(past.step) if name == "step" else str(past.previous) if past.previous else None

    @property
    def _parts(self) -> list[str]:
        """The names of an action's factors or numbers."""
        action = self.schema.action
        if isinstance(action, MultiDiscrete):
            return [factor.name for factor in action.factors]
        return [field.name for field in action.fields] if isinstance(action, Box) else []

    def _part(self, name: str, action: tuple[str | float, ...]) -> Value:
        space, at = self.schema.action, self._parts.index(name)
        part = action[at]
        if isinstance(space, MultiDiscrete):
            names = space.factors[at].names
            return Choice(names, names.index(part) if isinstance(part, str) else int(part))
        return float(part)


def value_of(node: ast.expr, asked: Asked) -> Value:
    """The value of an expression, or of a part of one; raises EvaluationFailed."""
    match node:
        case ast.Constant(value=bool() | str() as constant):
            return constant
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return asked.named(name)
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return not value_of(inner, asked)
        case ast.UnaryOp(operand=inner):
            return -_number(inner, asked)
        case ast.BinOp():
            return _arithmetic(node, asked)
        case ast.BoolOp(op=op, values=parts):
            truths = (bool(value_of(part, asked)) for part in parts)
            return any(truths) if isinstance(op, ast.Or) else all(truths)
        case ast.Compare():
            return all(_links(node, asked))
        case ast.IfExp(test=test, body=body, orelse=otherwise):
            return value_of(body if value_of(test, asked) else otherwise, asked)
        case ast.Call(func=ast.Name(id=name), args=args):
            return _CALLS[name](*[_number(arg, asked) for arg in args])
    msg = f"{type(node).__name__} is not part of the rule language"
    raise EvaluationFailed(msg)


def text_of(node: ast.expr) -> str:
    """A part of an expression as people write it."""
    return ast.unparse(node)


def _number(node: ast.expr, asked: Asked) -> float:
    value = value_of(node, asked)
    if isinstance(value, float):
        return value
    msg = f"{text_of(node)} is not a number"
    raise EvaluationFailed(msg)


def _arithmetic(node: ast.BinOp, asked: Asked) -> float:
    """Doubles, whose result has to be finite."""
    left, right = _number(node.left, asked), _number(node.right, asked)
    try:
        value = _ARITHMETIC[type(node.op)](left, right)
    except ZeroDivisionError:
        raise EvaluationFailed(f"{text_of(node)} divides by zero") from None
    if not math.isfinite(value):
        raise EvaluationFailed(f"{text_of(node)} is too large a number")
    return value


def _links(node: ast.Compare, asked: Asked) -> Iterator[bool]:
    """A chain of comparisons, one after another: the first that is false ends it."""
    left = value_of(node.left, asked)
    for op, side in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, ast.In | ast.NotIn):
            names = [part.value for part in getattr(side, "elts", []) if isinstance(part, ast.Constant)]
            yield (left in names) is isinstance(op, ast.In)
            return
        right = value_of(side, asked)
        yield _COMPARE[type(op)](left, right)
        left = right
