"""The translation of rule expressions to SMT: the same meaning over exact reals, for the proof alone.

Each part of an expression becomes two terms: its value, and whether evaluating it fails where Python's own order of
evaluation would have met the failure. Numbers are reals, or integers where they can only be whole; actions are
integers; ``abs``, ``min``, ``max`` and conditionals are if-then-else.
"""

import ast
from fractions import Fraction
from typing import Any, NamedTuple

from guards.errors import ProofUnavailable, Untranslatable
from guards.proof.situation import ranges
from guards.records import NEVER, NO_ACTION, Schema

try:
    import z3 as z3  # the parts of the proof have it from here
except ModuleNotFoundError as error:
    msg = "the proof needs the package 'z3-solver', expected it installed: pip install 'actd[verify]'"
    raise ProofUnavailable(msg) from error

NEVER_FAILS = z3.BoolVal(False)
# What an integer of an observation may be: beyond it the edge refuses it.
_WHOLE = {"int64": (-(2**53), 2**53), "uint8": (0, 255)}


class Translated(NamedTuple):
    """An expression's value (a real, an integer or a Boolean term) and whether evaluating it fails (Boolean)."""

    value: z3.ExprRef
    failed: z3.BoolRef


class Symbols:
    """The unknowns of a question: an action, what is observed and told, and the state of the session's history.

    Each is made when it is first asked for, so a question has no more unknowns than its constraints name. ``gaps``
    says what could not be translated: that may have any value, which keeps whatever is proved true.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.action, self.previous, self.step = z3.Ints("action previous_action step")
        self.since_change, self.known = z3.Real("seconds_since_change"), z3.Bool("known")
        self.fields: dict[str, z3.ArithRef] = {}
        self.facts: dict[str, tuple[z3.ArithRef, z3.BoolRef]] = {}
        self.mentioned: set[int] = set()
        self.gaps: list[str] = []
        self._ranges = ranges(schema)

    def field(self, name: str) -> z3.ArithRef:
        """A number of the observation."""
        if name not in self.fields:
            whole = self._ranges[name][1] in _WHOLE
            self.fields[name] = z3.Int(f"observation.{name}") if whole else z3.Real(f"observation.{name}")
        return self.fields[name]

    def fact(self, name: str) -> Translated:
        """A fact, which fails where it was not given."""
        if name not in self.facts:
            self.facts[name] = z3.Real(f"facts.{name}"), z3.Bool(f"given.{name}")
        value, given = self.facts[name]
        return Translated(value, z3.Not(given))

    def index(self, name: str) -> int:
        """The index of an action that a constraint names."""
        found = self.schema.actions.index(name)
        self.mentioned.add(found)
        return found

    def anything(self, sort: z3.SortRef, why: str) -> z3.ExprRef:
        """A value of a sort that may be any, another one for each action; ``why`` says what it stands for."""
        self.gaps.append(why)
        return z3.FreshFunction(z3.IntSort(), sort)(self.action)

    def happened(self) -> z3.BoolRef:
        """Whether an action may have been executed in the session before, for all that is known."""
        return z3.Or(z3.Not(self.known), self.step > 0)

    def forgotten(self) -> z3.BoolRef:
        """Whether it is not known what was executed last."""
        return z3.And(z3.Not(self.known), self.step == 0)

    def actions(self) -> list[int]:
        """The actions to look at: those that constraints name, and two of the others, who are all alike.

        A constraint can tell actions that none names apart only by one of them being the previous one: whatever holds
        of all of them holds of two, of which the previous one is the first, if it is any of them.
        """
        others = [i for i in range(len(self.schema.actions)) if i not in self.mentioned]
        return sorted({*self.mentioned, *others[:2]})

    def domain(self) -> list[z3.BoolRef]:
        """What is known of the unknowns: ranges of fields, and what a history can be."""
        some = self.actions()
        limits = [
            one_of(self.action, some),
            one_of(self.previous, [NO_ACTION, *some]),
            self.step >= 0,
            self.since_change >= 0,
            # Before the first decision there is no action, and none has changed.
            (self.step == 0) == (self.previous == NO_ACTION),
            z3.Implies(z3.And(self.known, self.step == 0), self.since_change == exact(NEVER)),
        ]
        for name, value in self.fields.items():
            field, dtype = self._ranges[name]
            lowest, highest = _WHOLE.get(dtype, (None, None))
            limits += [value >= exact(low) for low in (field.low, lowest) if low is not None]
            limits += [value <= exact(high) for high in (field.high, highest) if high is not None]
        return limits

    def __repr__(self) -> str:
        return f"<Symbols {len(self.fields)} fields, {len(self.facts)} facts, {len(self.mentioned)} named actions>"


def translate(source: str, symbols: Symbols) -> Translated:
    """Translate an expression that compiles under the symbols' schema, about the action ``symbols.action``.

    Raises Untranslatable for what has no translation.
    """
    return _part(ast.parse(source, mode="eval").body, symbols)


def exact(number: float) -> z3.ArithRef:
    """The very number that a double is, not the decimal that people wrote for it."""
    fraction = Fraction(number)
    return z3.IntVal(fraction.numerator) if fraction.denominator == 1 else z3.RealVal(str(fraction))


def one_of(value: z3.ArithRef, numbers: list[int]) -> z3.BoolRef:
    """Whether a whole number is one of some."""
    return z3.Or([value == number for number in numbers])


def either(*failures: z3.BoolRef) -> z3.BoolRef:
    """Whether any of these fails; left out where it never does, to keep terms small."""
    some = [failed for failed in failures if not z3.is_false(failed)]
    return z3.Or(some) if some else NEVER_FAILS


def _where(condition: z3.BoolRef, failed: z3.BoolRef) -> z3.BoolRef:
    """A failure that counts only where a condition holds."""
    return failed if z3.is_false(failed) else z3.And(condition, failed)


def _part(node: ast.expr, symbols: Symbols) -> Translated:
    match node:
        case ast.Constant(value=constant):
            return Translated(_constant(constant, symbols), NEVER_FAILS)
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


def _constant(constant: Any, symbols: Symbols) -> z3.ExprRef:
    if isinstance(constant, str):
        return z3.IntVal(symbols.index(constant))
    return z3.BoolVal(constant) if isinstance(constant, bool) else exact(float(constant))


def _name(name: str, symbols: Symbols) -> Translated:
    if name in symbols.schema.columns:
        return Translated(symbols.field(name), NEVER_FAILS)
    if name in symbols.schema.facts:
        return symbols.fact(name)
    unknown = z3.Not(symbols.known)
    return {
        "action": Translated(symbols.action, NEVER_FAILS),
        "previous_action": Translated(symbols.previous, symbols.forgotten()),
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
    left, links = _part(node.left, symbols), []
    for op, side in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, ast.In | ast.NotIn):
            names = [_part(name, symbols).value for name in getattr(side, "elts", [])]
            member = z3.Or([left.value == name for name in names])
            return Translated(member if isinstance(op, ast.In) else z3.Not(member), left.failed)
        right = _part(side, symbols)
        a, b = _alike(left.value, right.value)
        values = {"Lt": a < b, "LtE": a <= b, "Gt": a > b, "GtE": a >= b, "Eq": a == b, "NotEq": a != b}
        links.append(Translated(values[type(op).__name__], either(left.failed, right.failed)))
        left = right
    return _joined(links, stop=False)


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
