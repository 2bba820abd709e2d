"""The shape of the code: which way imports go, where libraries live, how long things are, and that all is described."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ("export", "guards", "service")
OURS = (*SOURCE, "examples", "loadtests", "tests")
# About 300 is a hint that a second noun hides in a file; this is the limit.
LONGEST_MODULE = 450
LONGEST_FUNCTION = 40
SHAPELESS = set("util utils helper helpers manager managers handler handlers base common misc".split())

# What the modules under a name may import of ours; the longest name that fits a module counts.
DIRECTIONS: dict[str, tuple[str, ...]] = {
    "export.spec": ("export.spec",),
    "export": ("export",),
    "guards": ("guards", "export.spec"),
    "service.agent": ("service", "guards", "export.spec"),
    "service": ("service", "guards", "export.spec"),
    "loadtests": ("loadtests",),
    "examples": OURS,
    "tests": OURS,
}
# What they may not, although it is under one of those names.
EXCEPTIONS = {"service": ("service.agent",)}
# One third-party library, one home: the modules that may import it, by name or by the package that they are in.
HOMES = {
    "fastapi": ("service.api.routes", "service.agent.admin", "loadtests"),
    "starlette": ("service.api.routes", "service.agent.admin", "loadtests"),
    "onnxruntime": ("service.versions.engine", "export", "loadtests", "examples"),
    "prometheus_client": ("service.telemetry.metrics", "loadtests"),
    "redis": ("service.agent.stores",),
    "uvicorn": ("service.server", "service.api.fast_path", "service.agent", "loadtests"),
    "torch": ("export", "examples"),
    "stable_baselines3": ("export.sb3.native", "export.sb3.native_frames", "examples"),
    "sb3_contrib": ("export.sb3.native",),
    "gymnasium": ("export.sb3.native", "export.sb3.native_frames", "export.playing", "examples"),
    "cryptography": ("export.spec.signature",),
    "safetensors": ("export.tensorfile",),
    "ruamel": ("export.inert_yaml",),
    "onnx": ("export",),
    "z3": ("guards.proof.symbols",),
}

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Described: TypeAlias = Function | ast.ClassDef | ast.Module


class Module(NamedTuple):
    """A module of ours: its dotted name, its file and its syntax tree."""

    name: str
    path: Path
    tree: ast.Module

    def within(self, *names: str) -> bool:
        """Whether it is one of the named modules, or in one of the named packages."""
        return any(inside(self.name, name) for name in names)

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and full name of everything it imports, wherever in it, submodules of packages by their own name."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                package = self.origin(node)
                for alias in node.names:
                    inner = f"{package}.{alias.name}"
                    yield node.lineno, inner if inner in MODULES else package

    def origin(self, node: ast.ImportFrom) -> str:
        """The package or module that names are imported from, relative ones made absolute."""
        if not node.level:
            return node.module or ""
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        parts = package.split(".")[: len(package.split(".")) - node.level + 1]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def functions(self) -> Iterator[Function]:
        """All functions and methods, however deep."""
        yield from (n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))

    def at(self, line: int, what: str) -> str:
        """What is wrong, where an editor finds it."""
        return f"{self.path.relative_to(ROOT)}:{line}: {what}"


def read(path: Path) -> Module:
    """Parse a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name, path, ast.parse(path.read_text("utf-8"), str(path)))


MODULES = {module.name: module for top in OURS for module in map(read, sorted((ROOT / top).rglob("*.py")))}


def modules(*names: str) -> list[Module]:
    """The modules in the named packages."""
    return [module for module in MODULES.values() if module.within(*names)]


def inside(name: str, package: str) -> bool:
    """Whether a dotted name is a package's, or something in it."""
    return name == package or name.startswith(package + ".")


def wrong_direction(module: Module, imported: str) -> bool:
    """Whether a module may not import something of ours."""
    if not any(inside(imported, top) for top in OURS):
        return False
    rule = max((name for name in DIRECTIONS if module.within(name)), key=len)
    forbidden = any(inside(imported, name) for name in EXCEPTIONS.get(rule, ()))
    return forbidden or not any(inside(imported, name) for name in DIRECTIONS[rule])


def far_from_home(module: Module, imported: str) -> bool:
    """Whether a module imports a library that lives elsewhere; tests and their tools use what they like."""
    library = imported.partition(".")[0]
    return library in HOMES and not module.within("tests", *HOMES[library])


def body_length(function: Function) -> int:
    """Lines of a function without its signature and its docstring."""
    first = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - first[0].lineno + 1 if first else 0


def undescribed(node: Described, name: str) -> Iterator[tuple[int, str]]:
    """Public modules, classes and functions without a docstring; a method is described by its class or its name."""
    if ast.get_docstring(node) is None:
        yield getattr(node, "lineno", 1), name
    if not isinstance(node, Function):
        for child in node.body:
            named = isinstance(child, ast.ClassDef) or (isinstance(child, Function) and isinstance(node, ast.Module))
            if named and not child.name.startswith("_"):  # type: ignore[attr-defined]
                yield from undescribed(child, child.name)  # type: ignore[arg-type,attr-defined]


def homes(of: list[Module]) -> dict[str, set[str]]:
    """Where each class is defined, by its name."""
    found: dict[str, set[str]] = {}
    for module in of:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).add(module.name)
    return found


def room(name: str) -> str:
    """The package directly under ``service`` that a module is in; a module that is in none is a room of its own."""
    return ".".join(name.split(".")[:2])


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """The sets of names each of which leads back to itself by way of the others."""
    reached: dict[str, set[str]] = {}
    for start, there in edges.items():
        seen, ahead = set[str](), [*there]
        while ahead:
            name = ahead.pop()
            if name not in seen:
                seen.add(name)
                ahead += edges.get(name, ())
        reached[start] = seen
    found: list[set[str]] = []
    for name, seen in reached.items():
        if name in seen and not any(name in one for one in found):
            found.append({other for other in seen if name in reached.get(other, ())})
    return found


def edges_of(of: list[Module], named: Callable[[str], str] = str) -> dict[str, set[str]]:
    """Who imports whom, by module or by what ``named`` says that a module is part of."""
    edges: dict[str, set[str]] = {}
    for module in of:
        ahead = edges.setdefault(named(module.name), set())
        ahead |= {named(name) for _, name in module.imports()} - {named(module.name)}
    return edges


def imported_wrongly(of: list[Module], wrong: Callable[[Module, str], bool]) -> list[str]:
    """Where modules import what they may not."""
    return [module.at(line, name) for module in of for line, name in module.imports() if wrong(module, name)]


def test_all_modules_are_found() -> None:
    """Or the tests below would say nothing."""
    assert {
        "export.spec",
        "guards.shield",
        "service.decision.decide",
        "service.agent",
        "examples",
        "tests.fakes",
    } <= set(MODULES)


def test_imports_go_one_way() -> None:
    """export ← guards ← service, and nothing of ours is imported by what stands before it."""
    assert imported_wrongly(modules(*OURS), wrong_direction) == []


def test_libraries_stay_at_home() -> None:
    """Each is imported in one place, so that it can be replaced there."""
    assert imported_wrongly(modules(*OURS), far_from_home) == []


@pytest.mark.parametrize(
    ("name", "line", "wrong"),
    [
        ("export.spec.manifest", "from export import errors", True),
        ("export.spec.manifest", "from export import spec", False),
        ("export.spec", "from .spaces import Discrete", False),
        ("export.spec", "from ..errors import ExportError", True),
        ("export.spec.artefact", "from . import spaces", False),
        ("export.sb3", "import guards.errors", True),
        ("guards.shield", "from export.spec.spaces import Frozen", False),
        ("guards.shield", "def f():\n    import export.sb3", True),
        ("guards.shield", "from service.log.ids import Key", True),
        ("service.decision.decide", "from service import agent", True),
        ("service.decision.decide", "import service.agent.stores", True),
        ("service.decision.decide", "import examples", True),
        ("service.agent.stores", "from service import agent", False),
        ("service.agent.stores", "from service.log.records import Decision", False),
        ("service.agent.stores", "import export.sb3", True),
        ("loadtests", "from service.log.ids import Key", True),
        ("tests.fakes", "from service.agent import stores", False),
        ("service.decision.decide", "import exporters", False),
    ],
)
def test_a_wrong_import_is_found(name: str, line: str, wrong: bool) -> None:
    """In every way it can be written."""
    path = (
        ROOT / Path(*name.split(".")) / "__init__.py" if name in {"export.spec", "loadtests"} else ROOT / f"{name}.py"
    )
    module = Module(name, path, ast.parse(line))

    assert bool(imported_wrongly([module], wrong_direction)) == wrong


@pytest.mark.parametrize(
    ("name", "line", "wrong"),
    [
        ("service.api.routes", "from fastapi import FastAPI", False),
        ("service.application", "import fastapi", True),
        ("service.api.asgi", "from starlette.types import Scope", True),
        ("service.agent.stores.redis_streams", "import redis.asyncio", False),
        ("service.agent.ship", "import redis", True),
        ("service.versions.engine", "import torch", True),
        ("tests.fakes", "import torch", False),
    ],
)
def test_a_library_away_from_home_is_found(name: str, line: str, wrong: bool) -> None:
    """By its top name, whatever is taken from it."""
    module = Module(name, ROOT / f"{name}.py", ast.parse(line))

    assert bool(imported_wrongly([module], far_from_home)) == wrong


def test_no_import_goes_in_a_circle() -> None:
    """Neither from module to module nor from room to room of the service: each can be read without what uses it."""
    assert circles(edges_of(modules(*OURS))) == []
    assert circles(edges_of(modules("service"), room)) == []


def test_the_rooms_of_the_service_are_built_on_one_another() -> None:
    """A room imports what stands below it: log, versions, decision, telemetry, api, recovery, from the ground up."""
    order = ["log", "versions", "decision", "telemetry", "api", "recovery"]
    height = {f"service.{name}": i for i, name in enumerate(order)}
    above = set(height) | {f"service.{name}" for name in ("startup", "application", "server", "supervisor", "__main__")}

    edges = edges_of(modules("service"), room)
    assert set(height) <= set(edges)
    for name, level in height.items():
        upwards = {other for other in edges[name] & above if height.get(other, len(order)) > level}
        assert upwards == set(), name


def test_a_class_has_one_home() -> None:
    """A name of a class says one thing, wherever in the service or the guards it is read."""
    assert {name: where for name, where in homes(modules("service", "guards")).items() if len(where) > 1} == {}


def test_circles_and_second_homes_are_found() -> None:
    """The measures above measure: a circle of two and one of three, none in a diamond, a class in a function."""
    diamond = {"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set[str]()}
    round_about = {"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"e"}, "e": {"c"}}
    one = Module("service.a.x", ROOT / "x.py", ast.parse("from service.b import y\nclass A: ..."))
    two = Module("service.b.y", ROOT / "y.py", ast.parse("def f():\n    import service.a.x\n    class A: ..."))

    assert circles(diamond) == []
    assert sorted(map(sorted, circles(round_about))) == [["a", "b"], ["c", "d", "e"]]
    assert homes([one, two]) == {"A": {"service.a.x", "service.b.y"}}
    assert circles(edges_of([one, two], room)) == [{"service.a", "service.b"}]


def test_no_module_is_long() -> None:
    """At most 450 lines: what is longer is two things."""
    lines = {m: len(m.path.read_text("utf-8").splitlines()) for m in modules(*SOURCE, "loadtests", "examples")}

    assert [module.at(n, "too long") for module, n in lines.items() if n > LONGEST_MODULE] == []


def test_no_function_is_long() -> None:
    """At most 40 lines beside its signature and docstring: it does one thing."""
    functions = [(module, f) for module in modules(*SOURCE, "loadtests", "examples") for f in module.functions()]

    long = [(m, f, n) for m, f in functions if (n := body_length(f)) > LONGEST_FUNCTION]
    assert [module.at(f.lineno, f"{f.name} has {n} lines") for module, f, n in long] == []


def test_whatever_is_public_is_described() -> None:
    """Every module, class and function says in a sentence what it is."""
    found = [(module, *gap) for module in modules(*SOURCE) for gap in undescribed(module.tree, module.name)]

    assert [module.at(line, name) for module, line, name in found] == []


def test_every_test_says_what_it_shows() -> None:
    """In a docstring: the behaviour, not the name again."""
    tests = [(module, f) for module in modules("tests") for f in module.functions() if f.name.startswith("test_")]

    assert [module.at(f.lineno, f.name) for module, f in tests if ast.get_docstring(f) is None] == []


def test_no_module_is_named_after_nothing() -> None:
    """A module is one noun; such names say that nobody knew which."""
    parts = [(module, part) for module in modules(*OURS) for part in module.name.split(".")]

    assert [module.at(1, part) for module, part in parts if part.removeprefix("test_") in SHAPELESS] == []


def test_long_and_undescribed_things_are_found() -> None:
    """The measures above measure."""
    long = ast.parse('def f(\n    a,\n):\n    """One.\n\n    Two.\n    """\n    x = 1\n\n    return x').body[0]
    empty = ast.parse('def f():\n    """One."""').body[0]
    bare = ast.parse('"""M."""\nclass A:\n    def m(self): ...\n    class B: ...\ndef f(): ...\ndef _g(): ...')

    assert isinstance(long, ast.FunctionDef)
    assert isinstance(empty, ast.FunctionDef)
    assert (body_length(long), body_length(empty)) == (3, 0)
    assert [name for _, name in undescribed(bare, "m")] == ["A", "B", "f"]
