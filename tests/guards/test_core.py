"""The trusted core: what decides which action may leave is small, and needs little else."""

import ast
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.test_imports import MODULES, Module, inside

# From here all of it is reached: what forbids actions, and what is made of it.
ENTRANCES = ("guards.check", *sorted(name for name in MODULES if inside(name, "guards.constraints")))
BESIDE = (
    "guards.proof",
    "guards.baselines",
    "guards.breaker",
    "guards.abstention",
    "guards.projection",
    "guards.language.judge",
    "guards.shield",
    "guards.__main__",
)
MOST_LINES = 1500
LIBRARIES = {"numpy", "pydantic", "msgspec"}
# What pydantic itself is made of.
ITS_OWN = {"pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def core() -> list[Module]:
    """The modules of guards that the entrances import, and what those import."""
    found, left = dict[str, Module](), list(ENTRANCES)
    while left:
        name = left.pop()
        if name not in found and inside(name, "guards"):
            found[name] = MODULES[name]
            left += [imported for _, imported in MODULES[name].imports()]
    return [found[name] for name in sorted(found)]


def documented(tree: ast.Module) -> Iterator[int]:
    """The lines of all docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            yield from range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)


def code_lines(path: Path) -> int:
    """Lines with code on them: no blank ones, no comments, no docstrings."""
    with path.open("rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type not in _NO_CODE]
    held = {line for token in tokens[1:] for line in range(token.start[0], token.end[0] + 1)}
    return len(held - set(documented(ast.parse(path.read_text("utf-8")))))


def test_lines_of_code_are_counted() -> None:
    """A line counts if something on it runs."""
    lines = {module.name: code_lines(module.path) for module in core()}

    assert code_lines(Path(__file__).parent / "__init__.py") == 0
    assert lines["guards.constraints.linear"] == 16


def test_the_core_is_small() -> None:
    """Few enough lines of code to be read by whoever has to trust them."""
    lines = {module.name: code_lines(module.path) for module in core()}

    assert {"guards.check", "guards.language.syntax", "guards.language.python", "guards.constraints.budget"} <= set(
        lines
    )
    assert sum(lines.values()) <= MOST_LINES, lines


def test_the_core_knows_nothing_beside_it() -> None:
    """Proof, baselines, doubts, breaker and judge may fail in any way without an unsafe action leaving."""
    assert [module.name for module in core() if module.within(*BESIDE)] == []


def test_the_core_needs_three_libraries() -> None:
    """Whatever it loads, directly or not, is the standard library's, NumPy's, pydantic's or msgspec's."""
    program = f"import sys, {', '.join(ENTRANCES)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()

    tops = {name.partition(".")[0] for name in loaded}
    known = sys.stdlib_module_names | LIBRARIES | ITS_OWN | {"guards", "export"}
    assert {top for top in tops if top not in known and not top.startswith(("_", "sitecustomize"))} == set()
    assert "export.spec.spaces" in loaded
