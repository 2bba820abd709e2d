"""Rule expressions: a small subset of Python, parsed and type-checked once against the schema.

The subset: comparisons, ``and or not``, ``+ - * / %``, ``abs min max``, ``a if c else b``, ``in`` a tuple of action
names, numbers, names, and action names as strings. Of an action that is a choice for each of several factors, the
factors are names: a choice is compared with its name, and counts as its index where a number is asked for. The numbers
of a Box are names too. Nothing else parses: no attributes, no subscripts, no powers, no other calls.
"""

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Literal

import numpy as np

from export.spec import Box, MultiDiscrete
from export.spec.nearest import DOZEN, one_of
from guards import terms
from guards.choices import choices_of
from guards.errors import ExpressionInvalid, setting
from guards.records import HISTORY_NAMES, NO_ACTION, Context, Floats, Integers, Schema
from guards.syntax import invalid, parsed
from guards.terms import Evaluate, Kind, Operator, Result, Scene, Term

# Numbers[N] worked out of a context, NaN where they could not be.
Numbers = Callable[[Context], Floats]

MAX_DEPTH = 32
_LARGEST = float(np.finfo(np.float64).max)

_ARITHMETIC: dict[type[ast.AST], Operator] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Mod: np.mod,
}
_COMPARE: dict[type[ast.AST], Operator] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
_EXTREMES: dict[str, Operator] = {"min": np.minimum, "max": np.maximum}
_NOUNS: dict[Kind, str] = {
    "number": "a number",
    "truth": "a condition",
    "action": "an action",
    "choice": "a choice",
    "text": "a string",
}


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression; ``source`` is what people wrote."""

    source: str
    term: Term

    def evaluate(self, context: Context, choice: Integers | None) -> Result:
        """Values and failed cells: broadcastable to [N, A] for all actions (``choice`` None), to [N] for one a row."""
        return self.term.evaluate(Scene(context, choice))


def compile_expression(
    source: str, schema: Schema, wanted: Literal["truth", "number"], *, about_action: bool = True
) -> Expression:
    """Parse and check an expression against the schema; raises ExpressionInvalid, which points at the column.

    ``about_action`` is false where no action is asked about: then ``action`` is not a name.
    """
    compiler = _Compiler(source, schema, about_action=about_action)
    term = compiler.wanted(parsed(source), wanted, 0)
    return Expression(source=source, term=term)


def numbers_of(name: str, written: str | float, schema: Schema) -> Numbers:
    """The expression, or the number, in a setting; raises GuardMisconfigured."""
    with setting(name):
        expression = compile_expression(str(written), schema, "number", about_action=False)

    def numbers(context: Context) -> Floats:
        value, failed = expression.evaluate(context, np.full(len(context), NO_ACTION, dtype=np.int64))
        known = value if failed is None else np.where(failed, np.nan, value)
        return np.broadcast_to(known, (len(context),))

    return numbers


class _Compiler:
    """One pass over the syntax tree; every refusal names the column."""

    def __init__(self, source: str, schema: Schema, *, about_action: bool) -> None:
        self.source = source
        self.about_action = about_action
        self.fields = schema.columns
        self.units = schema.observation.units
        self.facts = {name: i for i, name in enumerate(schema.facts)}
        self.actions = schema.actions
        self.asked = terms.tabled(np.arange(len(self.actions)), "action", self.actions)
        self.factors: dict[str, Term] = {}
        if about_action and isinstance(schema.action, MultiDiscrete):
            choices = choices_of(schema)
            own = [one for one in schema.action.factors if one.name in choices.factors]
            self.factors = {one.name: terms.tabled(choices.chosen(one.name), "choice", one.names) for one in own}
        if about_action and isinstance(schema.action, Box):
            numbers = enumerate(schema.action.fields)
            self.factors = {one.name: Term("number", terms.acted(i), unit=one.unit) for i, one in numbers}

    def invalid(self, node: ast.expr, problem: str) -> ExpressionInvalid:
        return invalid(self.source, node, problem)

    def wanted(self, node: ast.expr, kind: Kind, depth: int) -> Term:
        """Compile a part that has to be of a kind."""
        term = self.term(node, depth + 1)
        if term.kind == "choice" and kind == "number":
            return term
        if term.kind != kind:
            raise self.invalid(node, f"is {_NOUNS[term.kind]}, expected {_NOUNS[kind]}")
        return term

    def term(self, node: ast.expr, depth: int) -> Term:
        """Compile a part of any kind."""
        if depth > MAX_DEPTH:
            raise self.invalid(node, f"is nested deeper than {MAX_DEPTH}")
        match node:
            case ast.Constant(value=value):
                return self._constant(node, value)
            case ast.Name(id=name):
                return self._name(node, name)
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                return Term("truth", terms.mapped(np.logical_not, self.wanted(inner, "truth", depth).evaluate))
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                number = self.wanted(inner, "number", depth)
                return Term("number", terms.mapped(np.negative, number.evaluate), unit=number.unit)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                a, b = (self.wanted(side, "number", depth) for side in (left, right))
                unit = self._unit(node, a, b) if isinstance(op, ast.Add | ast.Sub) else ""
                return Term("number", terms.computed(_ARITHMETIC[type(op)], a.evaluate, b.evaluate), unit=unit)
            case ast.BoolOp(op=op, values=values):
                parts = [self.wanted(value, "truth", depth).evaluate for value in values]
                return Term("truth", terms.joined(parts, stop=isinstance(op, ast.Or)))
            case ast.Compare(left=left, ops=[ast.In() | ast.NotIn() as op], comparators=[right]):
                return self._membership(op, left, right, depth)
            case ast.Compare():
                return self._comparison(node, depth)
            case ast.IfExp():
                return self._conditional(node, depth)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return self._call(node, name, args, depth)
        raise self.invalid(node, f"{type(node).__name__} is not part of the rule language")

    def _constant(self, node: ast.expr, value: object) -> Term:
        if isinstance(value, bool):
            return Term("truth", terms.constant(value))
        if isinstance(value, int | float):
            if not abs(value) <= _LARGEST:
                raise self.invalid(node, "is a number that is not finite")
            return Term("number", terms.constant(float(value)))
        if isinstance(value, str):
            return Term("text", terms.constant(0.0), text=value)
        raise self.invalid(node, f"{value!r} is not a number, a condition or the name of an action")

    def _name(self, node: ast.expr, name: str) -> Term:
        if name in self.factors:
            if name in self.fields or name in self.facts:
                part = "number" if self.factors[name].kind == "number" else "factor"
                raise self.invalid(node, f"{name!r} is a {part} of the action and an input too, expected one meaning")
            return self.factors[name]
        if name in self.fields:
            return Term("number", terms.observed(self.fields[name]), unit=self.units[name])
        if name in self.facts:
            index = self.facts[name]
            return Term("number", terms.fallible(lambda context: context.facts[:, index]))
        if name == "action" and self.about_action and not self.factors:
            return self.asked
        # An action that is not one of a list has no name to compare it with.
        if name == "previous_action" and self.actions:
            return Term("action", terms.previous_action, names=self.actions)
        if name == "seconds_since_change":
            return Term("number", terms.fallible(Context.seconds_since_change), unit="s")
        if name == "step":
            return Term("number", terms.fallible(Context.step))
        asked = list(self.factors) or (["action"] if self.about_action else [])
        history = [one for one in HISTORY_NAMES if self.actions or one != "previous_action"]
        known = one_of(name, [*self.fields, *self.facts, *asked, *history], DOZEN)
        raise self.invalid(node, f"the name {name!r} is not known, expected {known}")

    def _unit(self, node: ast.expr, *numbers: Term) -> str:
        """The unit of numbers that are added or compared: a number that has none goes with any."""
        units = sorted({number.unit for number in numbers} - {""})
        if len(units) > 1:
            raise self.invalid(node, f"has the units {' and '.join(map(repr, units))}, expected numbers of one unit")
        return units[0] if units else ""

    def _conditional(self, node: ast.IfExp, depth: int) -> Term:
        condition = self.wanted(node.test, "truth", depth)
        body = self.term(node.body, depth + 1)
        if body.kind not in ("number", "truth"):
            raise self.invalid(node.body, f"is {_NOUNS[body.kind]}, expected a number or a condition")
        otherwise = self.wanted(node.orelse, body.kind, depth)
        unit = self._unit(node, body, otherwise)
        return Term(body.kind, terms.chosen(condition.evaluate, body.evaluate, otherwise.evaluate), unit=unit)

    def _call(self, node: ast.expr, name: str, args: Sequence[ast.expr], depth: int) -> Term:
        if name == "abs" and len(args) == 1:
            number = self.wanted(args[0], "number", depth)
            return Term("number", terms.mapped(np.abs, number.evaluate), unit=number.unit)
        if name in _EXTREMES and len(args) > 1:
            numbers = [self.wanted(arg, "number", depth) for arg in args]
            whole = reduce(partial(terms.combined, _EXTREMES[name]), [number.evaluate for number in numbers])
            return Term("number", whole, unit=self._unit(node, *numbers))
        msg = f"{name}() of {len(args)} values is not known, expected abs(x), min(x, y, ...) or max(x, y, ...)"
        raise self.invalid(node, msg)

    def _comparison(self, node: ast.Compare, depth: int) -> Term:
        nodes = [node.left, *node.comparators]
        sides = [self.term(side, depth + 1) for side in nodes]
        # Those in the middle of a chain stand in two links.
        sides[1:-1] = [replace(side, evaluate=terms.once(side.evaluate)) for side in sides[1:-1]]
        links: list[Evaluate] = []
        for i, op in enumerate(node.ops):
            left, right = sides[i], sides[i + 1]
            if type(op) not in _COMPARE:
                raise self.invalid(node, f"{type(op).__name__} is not part of the rule language")
            if {left.kind, right.kind} <= {"number", "choice"}:
                self._unit(nodes[i], left, right)
                links.append(terms.combined(_COMPARE[type(op)], left.evaluate, right.evaluate))
            else:
                links.append(self._same_action(op, (nodes[i], left), (nodes[i + 1], right)))
        return Term("truth", links[0] if len(links) == 1 else terms.joined(links, stop=False))

    def _same_action(self, op: ast.cmpop, a: tuple[ast.expr, Term], b: tuple[ast.expr, Term]) -> Evaluate:
        """Compare actions: only for being the same or not, an action with an action or with a name."""
        (left_node, left), (right_node, right) = a, b
        if {left.kind, right.kind} - {"action", "choice", "text"} or left.kind == right.kind == "text":
            msg = f"compares {_NOUNS[left.kind]} with {_NOUNS[right.kind]}, expected two numbers or an action"
            raise self.invalid(left_node, msg)
        if not isinstance(op, ast.Eq | ast.NotEq):
            raise self.invalid(left_node, "orders actions, expected == or != between them")
        named = [
            (self._index(n, t.text, o), o)
            for n, t, o in ((left_node, left, right), (right_node, right, left))
            if t.kind == "text"
        ]
        if named:
            return self._is(*named[0], same=isinstance(op, ast.Eq))
        return terms.combined(_COMPARE[type(op)], left.evaluate, right.evaluate)

    def _membership(self, op: ast.cmpop, left: ast.expr, right: ast.expr, depth: int) -> Term:
        action = self.term(left, depth + 1)
        if action.kind not in ("action", "choice"):
            raise self.invalid(left, f"is {_NOUNS[action.kind]}, expected an action")
        names = right.elts if isinstance(right, ast.Tuple | ast.List) else []
        if not names:
            raise self.invalid(right, "is not a list of actions, expected ('one', 'other')")
        indices = [self._index(name, self.wanted(name, "text", depth).text, action) for name in names]
        if action.table is not None:
            member = terms.per_action(np.isin(action.table, indices))
        else:
            member = terms.joined([self._is(index, action, same=True) for index in indices], stop=True)
        return Term("truth", terms.mapped(np.logical_not, member) if isinstance(op, ast.NotIn) else member)

    def _is(self, index: int, action: Term, *, same: bool) -> Evaluate:
        """Whether an action is a named one; for ``action`` itself that is known per action before any request."""
        if action.table is not None:
            table = action.table == index
            return terms.per_action(table if same else ~table)
        return terms.combined(np.equal if same else np.not_equal, action.evaluate, terms.constant(index))

    def _index(self, node: ast.expr, name: str, named: Term) -> int:
        if name not in named.names:
            known = one_of(name, named.names, DOZEN)
            raise self.invalid(node, f"the {named.kind} {name!r} is not known, expected {known}")
        return named.names.index(name)
