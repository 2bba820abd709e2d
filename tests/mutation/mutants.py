"""Mutants: a module with one small change in it, in what runs: no message, no docstring, no type, no ``__repr__``."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from tests.mutation.changes import changes, is_message, negated

_TYPES = {"Annotated", "Literal", "Callable", "NDArray", "ClassVar"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: the bytes from ``start`` to ``end`` become ``text``, on the lines ``first`` to ``last``.

    It is known by where it is and by how the changed lines read; ``function`` is empty for what runs at import.
    """

    module: str
    function: str
    was: str
    now: str
    first: int
    last: int
    start: int
    end: int
    text: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is known by when other lines move."""
        return self.module, self.function, self.was, self.now

    def applied(self, source: bytes) -> bytes:
        """The module's source with the change in it."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def __str__(self) -> str:
        return f"{self.module}:{self.first} {self.function or 'at import'}\n- {self.was}\n+ {self.now}"


def mutants(module: str, path: Path) -> list[Mutant]:
    """All mutants of a module, in its order."""
    source = path.read_bytes()
    starts = [0, *accumulate(map(len, source.splitlines(keepends=True)))]
    found: dict[tuple[int, int, str], Mutant] = {}
    for function, node, text in _visited(ast.parse(source), ""):
        first, last = node.lineno, node.end_lineno or node.lineno
        start, end = starts[first - 1] + node.col_offset, starts[last - 1] + (node.end_col_offset or 0)
        before, after = source[starts[first - 1] : start].decode(), source[end : starts[last]].decode()
        was, now = _line(source[starts[first - 1] : starts[last]].decode()), _line(before + text + after)
        found[start, end, text] = Mutant(module, function, was, now, first, last, start, end, text)
    return sorted(found.values(), key=lambda mutant: (mutant.start, mutant.end))


def _line(text: str) -> str:
    return " ".join(text.split())


Place = ast.expr | ast.stmt
Change = tuple[str, Place, str]


def _visited(node: ast.AST, function: str) -> Iterator[Change]:
    """The function, the place and its new text, for every change of a node and of what is in it."""
    if isinstance(node, ast.stmt | ast.expr) and (not is_message(node) or isinstance(node, ast.Raise)):
        yield from ((function, node, _written(changed)) for changed in changes(node))
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield from ((function, node.test, _written(changed)) for changed in negated(node.test))
    for part, inner in _parts(node, function):
        yield from _visited(part, inner)


def _parts(node: ast.AST, function: str) -> Iterator[tuple[ast.AST, str]]:
    """The parts of a node that run, and the function that they are in."""
    inner = f"{function}.{node.name}".lstrip(".") if isinstance(node, ast.FunctionDef | ast.ClassDef) else function
    parts: list[ast.AST | None] = []
    match node:
        case ast.FunctionDef(name=name, args=args, body=body):
            parts = [] if name == "__repr__" else [*args.defaults, *args.kw_defaults, *body]
        case ast.ClassDef(body=body) | ast.Module(body=body):
            parts = list(body)
        case ast.AnnAssign(annotation=annotation, value=value):
            parts = [*_calls(annotation), value]
        case ast.Subscript(value=ast.Name(id=name)) if name in _TYPES:
            parts = list(_calls(node))
        case ast.Call(func=ast.Name(id="isinstance"), args=[what, _]):
            parts = [what]
        case ast.Assign(value=ast.BinOp(op=ast.BitOr())) if not function:
            parts = []  # a union of types
        case ast.keyword(arg="strict" | "repr" | "copy"):
            parts = []  # an assertion; for people; only slower
        case ast.Call(func=ast.Attribute(value=value, attr="reshape")):
            parts = [value]  # any number below zero means the same
        case ast.match_case(guard=guard, body=body):
            parts = [guard, *body]
        case _ if not is_message(node):
            parts = list(ast.iter_child_nodes(node))
    yield from ((part, inner) for part in parts if part is not None)


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    """In a type only calls, as the limits of a field, are more than a type."""
    if isinstance(node, ast.Call):
        yield node
    else:
        for child in ast.iter_child_nodes(node):
            yield from _calls(child)


def _written(node: Place) -> str:
    """The text of a node that may stand where another one stood."""
    plain = ast.Name | ast.Constant | ast.Attribute | ast.Call | ast.Slice
    text = ast.unparse(ast.fix_missing_locations(node))
    return text if isinstance(node, ast.stmt | plain) else f"({text})"
