"""Syntax: the expressions that people write, parsed and type-checked once against the schema, as terms.

A small subset of Python: comparisons, ``and or not``, ``+ - * / %``, ``abs min max``, ``a if c else b``, ``in`` a tuple
of action names, numbers, names, and action names as strings. Of an action that is a choice for each of several factors,
the factors are names: a choice is compared with its name, and counts as its index where a number is asked for. The
numbers of a Box are names too. Nothing else parses: no attributes, no subscripts, no powers, no other calls.
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from export.spec import Box, MultiDiscrete
from export.spec.nearest import DOZEN, one_of
from guards.errors import ExpressionInvalid, setting
from guards.language import terms
from guards.records import Schema

Kind = Literal["number", "truth", "action", "choice", "text"]

MAX_LENGTH = 2000
MAX_PARTS = 400
MAX_DEPTH = 32

_ARITHMETIC: dict[type[ast.AST], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Mod: "%"}
_COMPARE = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
_NOUNS = {"number": "a number", "truth": "a condition", "action": "an action", "choice": "a choice", "text": "a string"}


@dataclass(frozen=True, slots=True)
class Typed:
    """A term with its kind: a string has its text, an action or a choice the names that it can have, a number the unit
    that is declared for it, if one is."""

    kind: Kind
    term: terms.Term
    text: str = ""
    names: tuple[str, ...] = ()
    unit: str = ""


_PAST = {
    "seconds_since_change": Typed("number", terms.Past("seconds_since_change"), unit="s"),
    "step": Typed("number", terms.Past("step")),
}


def parsed(source: str) -> ast.expr:
    """The syntax tree of an expression; raises ExpressionInvalid. One of several lines reads as if in parentheses."""
    if len(source) > MAX_LENGTH:
        msg = f"an expression has {len(source)} characters, expected at most {MAX_LENGTH}"
        raise ExpressionInvalid(msg)
    several = "\n" in source
    try:
        tree = ast.parse(f"(\n{source}\n)" if several else source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line, column = getattr(error, "lineno", None), getattr(error, "offset", None)
        # At the end there is no column.
        column = len(source) if column == 0 else column
        raise _wrong(source, line or 1, column or 1, f"is not an expression ({error})") from error
    parts = sum(1 for _ in ast.walk(tree))
    if parts > MAX_PARTS:
        raise _wrong(source, 1, 1, f"has {parts} parts, expected at most {MAX_PARTS}")
    return tree.body


def term_of(
    source: str, schema: Schema, wanted: Literal["truth", "number"], *, about_action: bool = True
) -> terms.Term:
    """What an expression means; raises ExpressionInvalid, which points at the column.

    ``about_action`` is false where no action is asked about: then ``action`` is not a name.
    """
    return _Reader(source, schema, about_action=about_action).wanted(parsed(source), wanted, 0).term


def amount_of(name: str, written: str | float, schema: Schema) -> terms.Term:
    """The expression, or the number, in a setting that is about no action; raises GuardMisconfigured."""
    with setting(name):
        return term_of(str(written), schema, "number", about_action=False)


def shown(source: str, schema: Schema) -> Iterator[tuple[str, Typed]]:
    """The parts of an expression whose values say most: names as they are written, then the calculated sides of
    comparisons."""
    reader, node = _Reader(source, schema, about_action=True), parsed(source)
    names = [one for one in ast.walk(node) if isinstance(one, ast.Name)]
    calls = [one.func for one in ast.walk(node) if isinstance(one, ast.Call)]
    parts: list[ast.expr] = [one for one in names if one not in calls and one.id != "action"]
    parts.sort(key=lambda one: one.col_offset)
    for link in ast.walk(node):
        sides = (link.left, *link.comparators) if isinstance(link, ast.Compare) else ()
        parts += [side for side in sides if isinstance(side, ast.BinOp | ast.Call | ast.IfExp)]
    yield from ((ast.unparse(part), reader.typed(part, 0)) for part in parts)


class _Reader:
    """One pass over the syntax tree; every refusal names the column."""

    def __init__(self, source: str, schema: Schema, *, about_action: bool) -> None:
        self.source, space = source, schema.action
        self.fields, self.units, self.facts = schema.columns, schema.observation.units, schema.facts
        self.past = _PAST
        if isinstance(space, MultiDiscrete):
            asked = {one.name: Typed("choice", terms.Part(i), names=one.names) for i, one in enumerate(space.factors)}
        elif isinstance(space, Box):
            asked = {one.name: Typed("number", terms.Part(i), unit=one.unit) for i, one in enumerate(space.fields)}
        else:
            asked = {"action": Typed("action", terms.Part(0), names=space.names)}
            # An action that is not one of a list has no name to compare it with.
            before = Typed("action", terms.Past("previous_action"), names=space.names)
            self.past = {"previous_action": before, **_PAST}
        self.asked = asked if about_action else {}

    def invalid(self, node: ast.expr, problem: str) -> ExpressionInvalid:
        """What is wrong with a part, with the column, and with the line if there are several."""
        return _wrong(self.source, node.lineno, node.col_offset + 1, problem)

    def wanted(self, node: ast.expr, kind: Kind, depth: int) -> Typed:
        """Read a part that has to be of a kind."""
        typed = self.typed(node, depth + 1)
        if typed.kind != kind and not (typed.kind == "choice" and kind == "number"):
            raise self.invalid(node, f"is {_NOUNS[typed.kind]}, expected {_NOUNS[kind]}")
        return typed

    def typed(self, node: ast.expr, depth: int) -> Typed:
        """Read a part of any kind."""
        if depth > MAX_DEPTH:
            raise self.invalid(node, f"is nested deeper than {MAX_DEPTH}")
        match node:
            case ast.Constant(value=value):
                return self._constant(node, value)
            case ast.Name(id=name):
                return self._name(node, name)
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                return Typed("truth", terms.opposite(self.wanted(inner, "truth", depth).term))
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                negated = self.wanted(inner, "number", depth)
                return Typed("number", terms.plain("neg", negated.term), unit=negated.unit)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                a, b = (self.wanted(side, "number", depth) for side in (left, right))
                unit = self._unit(node, a, b) if isinstance(op, ast.Add | ast.Sub) else ""
                text = ast.unparse(node)
                return Typed("number", terms.operation(_ARITHMETIC[type(op)], a.term, b.term, text=text), unit=unit)
            case ast.BoolOp(op=op, values=values):
                truths = [self.wanted(value, "truth", depth).term for value in values]
                return Typed("truth", terms.operation("or" if isinstance(op, ast.Or) else "and", *truths))
            case ast.Compare(left=left, ops=[ast.In() | ast.NotIn() as op], comparators=[right]):
                return self._membership(op, left, right, depth)
            case ast.Compare():
                return self._comparison(node, depth)
            case ast.IfExp():
                return self._conditional(node, depth)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return self._call(node, name, args, depth)
        raise self.invalid(node, f"{type(node).__name__} is not part of the rule language")

    def _constant(self, node: ast.expr, value: object) -> Typed:
        if isinstance(value, bool):
            return Typed("truth", terms.Fixed(value))
        if isinstance(value, int | float):
            if not abs(value) <= sys.float_info.max:
                raise self.invalid(node, "is a number that is not finite")
            return Typed("number", terms.number(value))
        if isinstance(value, str):
            return Typed("text", terms.number(0), text=value)
        raise self.invalid(node, f"{value!r} is not a number, a condition or the name of an action")

    def _name(self, node: ast.expr, name: str) -> Typed:
        asked = self.asked.get(name)
        if name in self.fields or name in self.facts:
            if asked is not None and asked.kind != "action":
                part = "number" if asked.kind == "number" else "factor"
                raise self.invalid(node, f"{name!r} is a {part} of the action and an input too, expected one meaning")
            if name in self.fields:
                return Typed("number", terms.Observed(self.fields[name], name), unit=self.units[name])
            return Typed("number", terms.Fact(self.facts.index(name), name))
        if found := asked or self.past.get(name):
            return found
        known = one_of(name, [*self.fields, *self.facts, *self.asked, *self.past], DOZEN)
        raise self.invalid(node, f"the name {name!r} is not known, expected {known}")

    def _unit(self, node: ast.expr, *numbers: Typed) -> str:
        """The unit of numbers that are added or compared: a number that has none goes with any."""
        units = sorted({one.unit for one in numbers} - {""})
        if len(units) > 1:
            raise self.invalid(node, f"has the units {' and '.join(map(repr, units))}, expected numbers of one unit")
        return units[0] if units else ""

    def _conditional(self, node: ast.IfExp, depth: int) -> Typed:
        condition = self.wanted(node.test, "truth", depth)
        body = self.typed(node.body, depth + 1)
        if body.kind not in ("number", "truth"):
            raise self.invalid(node.body, f"is {_NOUNS[body.kind]}, expected a number or a condition")
        otherwise = self.wanted(node.orelse, body.kind, depth)
        unit = self._unit(node, body, otherwise)
        return Typed(body.kind, terms.operation("if", condition.term, body.term, otherwise.term), unit=unit)

    def _call(self, node: ast.expr, name: str, args: Sequence[ast.expr], depth: int) -> Typed:
        if (name == "abs" and len(args) == 1) or (name in ("min", "max") and len(args) > 1):
            numbers = [self.wanted(arg, "number", depth) for arg in args]
            return Typed("number", terms.plain(name, *[one.term for one in numbers]), unit=self._unit(node, *numbers))
        msg = f"{name}() of {len(args)} values is not known, expected abs(x), min(x, y, ...) or max(x, y, ...)"
        raise self.invalid(node, msg)

    def _comparison(self, node: ast.Compare, depth: int) -> Typed:
        nodes = [node.left, *node.comparators]
        sides = [self.typed(side, depth + 1) for side in nodes]
        links: list[terms.Term] = []
        for i, op in enumerate(node.ops):
            left, right = sides[i], sides[i + 1]
            if type(op) not in _COMPARE:
                raise self.invalid(node, f"{type(op).__name__} is not part of the rule language")
            if {left.kind, right.kind} <= {"number", "choice"}:
                self._unit(nodes[i], left, right)
                links.append(terms.compare(left.term, _COMPARE[type(op)], right.term))
            else:
                links.append(self._same_action(op, (nodes[i], left), (nodes[i + 1], right)))
        if all(side.kind != "text" for side in sides):
            ops = tuple(_COMPARE[type(op)] for op in node.ops)
            return Typed("truth", terms.Compare(ops, parts=tuple(side.term for side in sides)))
        return Typed("truth", terms.operation("and", *links))

    def _same_action(self, op: ast.cmpop, a: tuple[ast.expr, Typed], b: tuple[ast.expr, Typed]) -> terms.Term:
        """Compare actions: only for being the same or not, an action with an action or with a name."""
        (left_node, left), (right_node, right) = a, b
        if {left.kind, right.kind} - {"action", "choice", "text"} or left.kind == right.kind == "text":
            msg = f"compares {_NOUNS[left.kind]} with {_NOUNS[right.kind]}, expected two numbers or an action"
            raise self.invalid(left_node, msg)
        if not isinstance(op, ast.Eq | ast.NotEq):
            raise self.invalid(left_node, "orders actions, expected == or != between them")
        for node, text, other in ((left_node, left, right), (right_node, right, left)):
            if text.kind == "text":
                same = _one_of(other, [self._index(node, text.text, other)])
                return same if isinstance(op, ast.Eq) else terms.opposite(same)
        return terms.compare(left.term, _COMPARE[type(op)], right.term)

    def _membership(self, op: ast.cmpop, left: ast.expr, right: ast.expr, depth: int) -> Typed:
        action = self.typed(left, depth + 1)
        if action.kind not in ("action", "choice"):
            raise self.invalid(left, f"is {_NOUNS[action.kind]}, expected an action")
        names = right.elts if isinstance(right, ast.Tuple | ast.List) else []
        if not names:
            raise self.invalid(right, "is not a list of actions, expected ('one', 'other')")
        member = _one_of(action, [self._index(name, self.wanted(name, "text", depth).text, action) for name in names])
        return Typed("truth", terms.opposite(member) if isinstance(op, ast.NotIn) else member)

    def _index(self, node: ast.expr, name: str, named: Typed) -> int:
        if name not in named.names:
            known = one_of(name, named.names, DOZEN)
            raise self.invalid(node, f"the {named.kind} {name!r} is not known, expected {known}")
        return named.names.index(name)


def _one_of(action: Typed, choices: Sequence[int]) -> terms.Term:
    """Whether an action, or a factor's choice, is one of some."""
    if isinstance(action.term, terms.Part):
        return terms.Among(action.term.index, frozenset(choices))
    return terms.operation("or", *[terms.compare(action.term, "==", terms.number(choice)) for choice in choices])


def _wrong(source: str, line: int, column: int, problem: str) -> ExpressionInvalid:
    last = source.count("\n") + 1
    # The parenthesis before it has a line of its own.
    where = f"line {min(max(line - 1, 1), last)}, column {column}" if last > 1 else f"column {column}"
    return ExpressionInvalid(f"expression {source!r}, {where}: {problem}")
