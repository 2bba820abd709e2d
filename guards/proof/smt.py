"""The translation of rule expressions to SMT: the same meaning over exact reals, for the proof alone.

Each part of an expression becomes two terms: its value, and whether evaluating it fails where Python's own order of
evaluation would have met the failure. Numbers are reals, or integers where they can only be whole; actions and choices
are integers; ``abs``, ``min``, ``max`` and conditionals are if-then-else.
"""

import ast
from copy import copy
from typing import Any

from guards.errors import Untranslatable
from guards.proof.symbols import NEVER_FAILS, Symbols, Translated, exact, z3
from guards.syntax import parsed


def translate(source: str, symbols: Symbols, *, about_action: bool = True) -> Translated:
    """Translate an expression that compiles under the symbols' schema, about the action ``symbols.acted``.

    ``about_action`` is false where no action is asked about: then its parts have no names. Raises Untranslatable for
    what has no translation.
    """
    if not about_action:
        symbols = copy(symbols)
        symbols.parts = {}
    return _part(parsed(source), symbols)


def either(*failures: z3.BoolRef) -> z3.BoolRef:
    """Whether any of these fails; left out where it never does, to keep terms small."""
    some = [failed for failed in failures if not z3.is_false(failed)]
    return z3.Or(some) if some else NEVER_FAILS


def _where(condition: z3.BoolRef, failed: z3.BoolRef) -> z3.BoolRef:
    """A failure that counts only where a condition holds."""
    return failed if z3.is_false(failed) else z3.And(condition, failed)


def _part(node: ast.expr, symbols: Symbols) -> Translated:
    match node:
        case ast.Constant(value=bool() | int() | float() as constant):
            value = z3.BoolVal(constant) if isinstance(constant, bool) else exact(float(constant))
            return Translated(value, NEVER_FAILS)
        case ast.Name(id=name):
            return _name(name, symbols)
        case ast.UnaryOp(op=op, operand=operand):
            inner = _part(operand, symbols)
            return Translated(z3.Not(inner.value) if isinstance(op, ast.Not) else -inner.value, inner.failed)
        case ast.BinOp(left=left, op=op, right=right):
            return _arithmetic(op, _part(left, symbols), _part(right, symbols), ast.unparse(node), symbols)
        case ast.BoolOp(op=op, values=values):
            return _joined([_part(value, symbols) for value in values], stop=isinstance(op, ast.Or))
        case ast.Compare():
            return _comparison(node, symbols)
        case ast.IfExp(test=test, body=body, orelse=otherwise):
            return _chosen(*[_part(one, symbols) for one in (test, body, otherwise)])
        case ast.Call(func=ast.Name(id=name), args=args):
            return _call(name, [_part(arg, symbols) for arg in args])
    msg = f"{ast.unparse(node)} is not part of the translation"
    raise Untranslatable(msg)


def _name(name: str, symbols: Symbols) -> Translated:
    if name in symbols.schema.columns:
        return Translated(symbols.field(name), NEVER_FAILS)
    if name in symbols.schema.facts:
        return symbols.fact(name)
    # What is an input and a part of the action too does not compile where both are meant.
    if name in symbols.parts:
        return Translated(symbols.part(name), NEVER_FAILS)
    unknown = z3.Not(symbols.known)
    return {
        "action": Translated(symbols.acted[0], NEVER_FAILS),
        "previous_action": Translated(symbols.before[0], symbols.forgotten()),
        "seconds_since_change": Translated(symbols.since_change, NEVER_FAILS),
        "step": Translated(symbols.step, unknown),
    }[name]


def _arithmetic(op: ast.operator, a: Translated, b: Translated, text: str, symbols: Symbols) -> Translated:
    """Exact: only a division by zero fails. Of numbers that need not be whole, ``%`` is not translated."""
    (left, right), failed = _alike(a.value, b.value), either(a.failed, b.failed)
    match op:
        case ast.Add():
            return Translated(left + right, failed)
        case ast.Sub():
            return Translated(left - right, failed)
        case ast.Mult():
            return Translated(left * right, failed)
        case ast.Div():
            value = _real(left) / _real(right)
        case _ if z3.is_int(left):
            # The sign of the result is that of the divisor; SMT's is never negative.
            value = z3.If(right > 0, left % right, -(-left % -right))
        case _:
            value = symbols.anything(z3.RealSort(), f"{text} is a remainder of numbers that need not be whole")
    return Translated(value, either(failed, z3.simplify(right == 0)))


def _joined(parts: list[Translated], *, stop: bool) -> Translated:
    """``and`` (stop at the first false) or ``or`` (stop at the first true), left to right."""
    value, failed = parts[0]
    for part in parts[1:]:
        reached = z3.Not(value) if stop else value
        failed = either(failed, _where(reached, part.failed))
        value = z3.Or(value, part.value) if stop else z3.And(value, part.value)
    return Translated(value, failed)


def _chosen(test: Translated, body: Translated, otherwise: Translated) -> Translated:
    """``body if test else otherwise``: only the branch taken can fail."""
    a, b = _alike(body.value, otherwise.value)
    taken = either(_where(test.value, body.failed), _where(z3.Not(test.value), otherwise.failed))
    return Translated(z3.If(test.value, a, b), either(test.failed, taken))


def _comparison(node: ast.Compare, symbols: Symbols) -> Translated:
    links, sides = [], [node.left, *node.comparators]
    for op, one, other in zip(node.ops, sides, sides[1:], strict=False):
        links.append(_named(op, one, other, symbols) or _compared(op, _part(one, symbols), _part(other, symbols)))
    return _joined(links, stop=False)


def _named(op: ast.cmpop, one: ast.expr, other: ast.expr, symbols: Symbols) -> Translated | None:
    """Whether an action, or a factor's choice, is one of some names; None where a comparison has no names."""
    texts = _texts(other)
    side, texts = (one, texts) if texts else (other, _texts(one))
    if not texts:
        return None
    if isinstance(side, ast.Name) and side.id in symbols.parts:
        named = Translated(z3.Or([symbols.choice(side.id, text) for text in texts]), NEVER_FAILS)
    else:
        action, failed = _part(side, symbols)
        named = Translated(z3.Or([action == symbols.index(text) for text in texts]), failed)
    return named._replace(value=z3.Not(named.value)) if isinstance(op, ast.NotEq | ast.NotIn) else named


def _texts(node: ast.expr) -> list[str]:
    """The names that an action is compared with."""
    parts = node.elts if isinstance(node, ast.Tuple | ast.List) else [node]
    return [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def _compared(op: ast.cmpop, left: Translated, right: Translated) -> Translated:
    a, b = _alike(left.value, right.value)
    values = {"Lt": a < b, "LtE": a <= b, "Gt": a > b, "GtE": a >= b, "Eq": a == b, "NotEq": a != b}
    return Translated(values[type(op).__name__], either(left.failed, right.failed))


def _call(name: str, args: list[Translated]) -> Translated:
    value, failed = args[0].value, either(*[arg.failed for arg in args])
    if name == "abs":
        return Translated(z3.If(value >= 0, value, -value), failed)
    for arg in args[1:]:
        a, b = _alike(value, arg.value)
        value = z3.If(b < a if name == "min" else b > a, b, a)
    return Translated(value, failed)


def _alike(a: z3.ExprRef, b: z3.ExprRef) -> tuple[Any, Any]:
    """Two terms of one sort: both integers, both truths, or else both reals."""
    return (a, b) if a.sort() == b.sort() else (_real(a), _real(b))


def _real(value: z3.ExprRef) -> z3.ArithRef:
    return z3.ToReal(value) if z3.is_int(value) else value
