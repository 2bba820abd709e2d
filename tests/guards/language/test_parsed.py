"""Syntax: what is no expression is refused, and where."""

import ast

import pytest

from guards.errors import ExpressionInvalid
from guards.language.syntax import MAX_LENGTH, MAX_PARTS, parsed, term_of
from tests.fakes import SCHEMA


def test_a_source_that_is_too_long_is_not_even_parsed() -> None:
    """It is not repeated in the message either."""
    with pytest.raises(ExpressionInvalid, match=rf"^an expression has {MAX_LENGTH + 1} characters, expected at most"):
        parsed("1" * (MAX_LENGTH + 1))


@pytest.mark.parametrize("opening", ["(", "-", "not ", "[", "abs("])
def test_a_source_that_would_exhaust_the_parser_is_refused(opening: str) -> None:
    """Deep nesting is a mistake in a file, not a crash of the process."""
    source = (opening * MAX_LENGTH)[: MAX_LENGTH - 1] + "x"

    with pytest.raises(ExpressionInvalid):
        parsed(source)


def test_a_source_at_the_limits_is_parsed() -> None:
    """The limits themselves are allowed, and one more is not."""
    sums = (MAX_PARTS - 3) // 3
    source = "1" + "+1" * sums

    parts = sum(1 for _ in ast.walk(ast.parse(source, mode="eval")))
    assert parts <= MAX_PARTS < parts + 3
    assert isinstance(parsed(source), ast.BinOp)
    assert isinstance(parsed("load".ljust(MAX_LENGTH)), ast.Name)
    with pytest.raises(ExpressionInvalid, match=f"column 1: has {parts + 3} parts, expected at most {MAX_PARTS}"):
        parsed(source + "+1")


@pytest.mark.parametrize("source", ["a\n+ b", "\n\na + b", "a + b\n", "a +  # one\n b  # other", " a\n + b"])
def test_several_lines_are_one_expression(source: str) -> None:
    """As if they stood in parentheses."""
    assert ast.unparse(parsed(source)) == "a + b"


@pytest.mark.parametrize(
    ("source", "where"),
    [
        ("a >", "column 3"),
        ("a > > b", "column 5"),
        ("a > > b\n", "line 1, column 5"),
        ("a\n> > b", "line 2, column 3"),
        ("a\n)", "line 2, column 1"),
        ("", "column 1"),
        ("(a\nb", "line 1, column 2"),
    ],
)
def test_what_is_no_expression_is_refused_where_it_is_wrong(source: str, where: str) -> None:
    """With the line, where there are several."""
    with pytest.raises(ExpressionInvalid) as refusal:
        parsed(source)

    assert str(refusal.value).startswith(f"expression {source!r}, {where}: is not an expression (")


def test_a_part_is_found_in_what_was_written() -> None:
    """By its column, and its line where there are several."""
    one, other = "load > lap", "load\n  > lap"

    for source, where in ((one, "column 8"), (other, "line 2, column 5")):
        with pytest.raises(ExpressionInvalid) as refusal:
            term_of(source, SCHEMA, "truth")
        assert str(refusal.value).startswith(f"expression {source!r}, {where}: the name 'lap' is not known")


def test_the_limits_are_those_of_the_documents() -> None:
    """Two thousand characters, four hundred parts."""
    flat = "max(" + ", ".join(["1"] * 396) + ")"

    assert parsed("load".ljust(2000))
    with pytest.raises(ExpressionInvalid, match="has 2001 characters"):
        parsed("load".ljust(2001))
    assert sum(1 for _ in ast.walk(ast.parse(flat, mode="eval"))) == 400
    assert parsed(flat)
    with pytest.raises(ExpressionInvalid, match="has 401 parts"):
        parsed(flat.replace("1)", "1, 1)"))
