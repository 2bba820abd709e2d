"""Mutants: which changes are made, where none is, and how they are known again."""

import ast
from pathlib import Path

import pytest

from tests.mutation.mutants import mutants


def changed(source: str, there: Path) -> list[str]:
    """How the changed lines of a module read."""
    path = there / "module.py"
    path.write_text(source, "utf-8")
    for mutant in mutants("module", path):
        ast.parse(mutant.applied(path.read_bytes()))
    return [mutant.now for mutant in mutants("module", path)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", ["(a <= b)", "(a >= b)"]),
        ("a == b", ["(a != b)"]),
        ("a in b", ["(a not in b)"]),
        ("a < b < c", ["(a <= b < c)", "(a >= b < c)", "(a < b <= c)", "(a < b >= c)"]),
        ("a + b", ["(a - b)"]),
        ("a & b", ["(a | b)"]),
        ("a and b", ["(a or b)", "b", "a"]),
        ("not a", ["a"]),
        ("-a", ["a"]),
        ("a if b else c", ["a", "c", "a if (not b) else c"]),
        ("5", ["6", "0"]),
        ("500", ["1000", "0"]),
        ("0.5", ["1.0", "0.0"]),
        ("0", ["1"]),
        ("0.0", ["1.0"]),
        ("True", ["False"]),
        ("'deny'", ["'not deny'"]),
        ("'x: what it was'", []),
        ("f'{a}'", []),
        ("min(a, b)", ["max(a, b)", "a"]),
        ("np.maximum(a, b)", ["np.minimum(a, b)", "a"]),
        ("np.inf", ["0.0"]),
        ("a[b:c]", ["a[:c]", "a[b:]"]),
        ("[a for a in b if c]", ["([a for a in b])"]),
        ("zip(a, strict=True)", []),
        ("isinstance(a, B | C)", []),
    ],
)
def test_an_expression_is_changed(source: str, expected: list[str], tmp_path: Path) -> None:
    """By one part of it at a time."""
    assert changed(f"x = {source}", tmp_path) == [f"x = {one}" for one in expected]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("return a", ["return None"]),
        ("return None", []),
        ("a += b", ["a -= b", "pass"]),
        ("a.b = c", ["pass"]),
        ("a = b", []),
        ("a(b)", ["pass"]),
        ("raise A('b')", ["pass"]),
        ("if a: b", ["if (not a): b"]),
        ("while a and b: c", ["while (a or b): c", "while b: c", "while a: c", "while (not (a and b)): c"]),
        ("msg = 'one' + a[1]", []),
        ("self.invalid(a, 'b')", ["pass"]),
        ("'''What it is.'''", []),
    ],
)
def test_a_statement_is_changed(source: str, expected: list[str], tmp_path: Path) -> None:
    """What it does is left out, or turned round."""
    assert sorted(changed(f"def f():\n    {source}", tmp_path)) == sorted(expected)


@pytest.mark.parametrize(
    "source",
    [
        "x: Literal['a', 'b'] = y",
        "X = Annotated[int | float, Literal[3]]",
        "X = A | B",
        "def f(a: Literal[1]) -> Literal['b']: ...",
        "class A:\n    def __repr__(self):\n        return 1 + self.a",
        "from a import b",
    ],
)
def test_what_does_not_run_is_left(source: str, tmp_path: Path) -> None:
    """Types, and what is for people."""
    assert changed(source, tmp_path) == []


def test_limits_of_a_field_are_changed_in_its_type(tmp_path: Path) -> None:
    """They are more than a type."""
    assert changed("x: Annotated[int, Field(ge=1)] = y", tmp_path) == ["x: Annotated[int, Field(ge=2)] = y"]


def test_a_mutant_is_known_by_how_its_lines_read(tmp_path: Path) -> None:
    """Not by their numbers: other lines may move; but another text of its own line makes it another mutant."""
    path = tmp_path / "module.py"
    keys = []
    for source in (
        "class A:\n    def b(self):\n        c(1)",
        "# ü\n\nclass A:\n  def b(self):\n    c( 1)",
        "class A:\n  d(1)",
    ):
        path.write_text(source, "utf-8")
        keys.append({mutant.key for mutant in mutants("module", path) if "2" in mutant.now})

    assert keys[0] == {("module", "A.b", "c(1)", "c(2)")}
    assert keys[1] == {("module", "A.b", "c( 1)", "c( 2)")}
    assert keys[2] == {("module", "A", "d(1)", "d(2)")}


def test_a_change_may_span_lines(tmp_path: Path) -> None:
    """It is told on one."""
    path = tmp_path / "module.py"
    path.write_text("x = (\n    a\n    + b\n)\n", "utf-8")

    (mutant,) = mutants("module", path)

    assert (mutant.was, mutant.now, mutant.first, mutant.last) == ("a + b", "(a - b)", 2, 3)
    assert str(mutant) == "module:2 at import\n- a + b\n+ (a - b)"
