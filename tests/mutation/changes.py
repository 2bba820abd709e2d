"""Changes: what a slip of the hand makes of one part of a program.

Changed are comparisons, arithmetic, conditions, constants, filters, what is returned, and names that have a
counterpart; statements that do something are left out. Texts with a space in them are prose, which is left alone.
"""

import ast
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_PAIRS = """
max min, maximum minimum, fmax fmin, argmax argmin, any all, some every, logical_or logical_and, add subtract,
multiply divide, less less_equal, greater greater_equal, equal not_equal, floor ceil, zeros ones, isfinite isnan,
zeros_like ones_like, union intersection, cumsum cumprod, prod sum, concatenate stack
"""
_COUNTERPARTS = {name: other for pair in map(str.split, _PAIRS.split(",")) for name, other in (pair, pair[::-1])}
# Calls that may be forgotten: what they are called with stands for what they give.
_FORGOTTEN = {"abs", "sorted", "clip", "float", "int", "maximum", "minimum", "max", "min"}
# Text in calls of these is a message.
_MESSAGES = {"invalid", "setting"}


def changes(node: ast.stmt | ast.expr) -> Iterator[ast.stmt | ast.expr]:
    """What may stand in a node's place; what is inside it stays."""
    yield from _operations(node) if isinstance(node, ast.expr) else _statements(node)
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            # One more of what is counted, twice what is measured.
            yield ast.Constant(value + 1 if abs(value) < 100 and isinstance(value, int) else 2 * value or 1.0)
            if value not in (0, 1):
                yield ast.Constant(type(value)(0))
        case ast.Constant(value=str(value)) if " " not in value:
            yield ast.Constant(f"not {value}")
        case ast.Name(id=name, ctx=ast.Load()) if name in _COUNTERPARTS:
            yield ast.Name(_COUNTERPARTS[name])
        case ast.Attribute(attr="inf"):
            yield ast.Constant(0.0)
        case ast.Attribute(value=value, attr=name) if name in _COUNTERPARTS:
            yield ast.Attribute(value, _COUNTERPARTS[name])
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[first, *_]) if name in _FORGOTTEN:
            yield first
        case ast.Slice(lower, upper, step):
            yield from (ast.Slice(None, upper, step) for _ in range(lower is not None))
            yield from (ast.Slice(lower, None, step) for _ in range(upper is not None))
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
            for i, loop in enumerate(node.generators):
                if loop.ifs:
                    unfiltered = ast.comprehension(loop.target, loop.iter, [], loop.is_async)
                    yield type(node)(node.elt, _with(node.generators, i, unfiltered))


def _operations(node: ast.expr) -> Iterator[ast.expr]:
    """Of operators and conditions."""
    match node:
        case ast.Compare(left, ops, comparators):
            for i, op in enumerate(ops):
                for other in _COMPARISONS[type(op)]:
                    yield ast.Compare(left, _with(ops, i, other()), comparators)
        case ast.BinOp(left, op, right):
            yield ast.BinOp(left, _OPERATORS[type(op)](), right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            for i in range(len(values)):
                others = values[:i] + values[i + 1 :]
                yield ast.BoolOp(op, others) if len(others) > 1 else others[0]
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield operand
        case ast.IfExp(body=body, orelse=otherwise):
            yield body
            yield otherwise


def _statements(node: ast.stmt) -> Iterator[ast.stmt]:
    """Of statements: to leave out what they do."""
    match node:
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.AugAssign(target, op, value):
            yield ast.AugAssign(target, _OPERATORS[type(op)](), value)
            yield ast.Pass()
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Break() | ast.Continue():
            yield ast.Pass()
        case ast.Assign(
            targets=[ast.Attribute() | ast.Subscript() | ast.Tuple(elts=[ast.Attribute() | ast.Subscript(), *_])]
        ):
            yield ast.Pass()


def negated(condition: ast.expr) -> Iterator[ast.expr]:
    """The contrary of what is asked by an ``if`` or a ``while``, where no other change is that."""
    if not isinstance(condition, ast.Compare | ast.UnaryOp):
        yield ast.UnaryOp(ast.Not(), condition)


def is_message(node: ast.AST) -> bool:
    """Whether a node is a text for people, or only there to make one."""
    match node:
        case ast.JoinedStr() | ast.Raise() | ast.Assign(targets=[ast.Name(id="msg")]):
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
            return name in _MESSAGES
    return False


def _with(items: Sequence[T], i: int, other: T) -> list[T]:
    return [*items[:i], other, *items[i + 1 :]]
