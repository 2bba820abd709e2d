"""Syntax: the text of an expression as a tree, no larger than it may be, and where in it something is wrong."""

import ast

from guards.errors import ExpressionInvalid

MAX_LENGTH = 2000
MAX_PARTS = 400


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


def invalid(source: str, node: ast.expr, problem: str) -> ExpressionInvalid:
    """What is wrong with a part of an expression, with the column, and with the line if there are several."""
    return _wrong(source, node.lineno, node.col_offset + 1, problem)


def _wrong(source: str, line: int, column: int, problem: str) -> ExpressionInvalid:
    last = source.count("\n") + 1
    # The parenthesis before it has a line of its own.
    where = f"line {min(max(line - 1, 1), last)}, column {column}" if last > 1 else f"column {column}"
    return ExpressionInvalid(f"expression {source!r}, {where}: {problem}")
