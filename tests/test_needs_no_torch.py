"""Serving and guarding need no torch, and neither do their tests: who changes those alone installs none."""

import ast
import os
import subprocess
import sys

import pytest

from tests.test_imports import MODULES, ROOT, Module, modules

# Imports every module that it is told, with torch as in a Python that has none.
_IMPORT = """
import importlib, sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("there is no torch")
sys.meta_path.insert(0, Absent)
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: {error}")
"""
TESTS = ("tests.service", "tests.guards")


def imported_without_torch(*names: str) -> list[str]:
    """Import modules in an interpreter of their own, where torch cannot be; what each failed with."""
    command = [sys.executable, "-c", _IMPORT, *names]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def naming_torch(module: Module) -> list[str]:
    """Where a module asks for torch while it runs, as an import in a function or by its name in a text."""
    imports = [module.at(line, name) for line, name in module.imports() if name.partition(".")[0] == "torch"]
    constants = [node for node in ast.walk(module.tree) if isinstance(node, ast.Constant)]
    return imports + [module.at(node.lineno, "'torch'") for node in constants if node.value == "torch"]


def test_every_test_of_service_and_guards_is_imported_without_torch() -> None:
    """With all that they import, in an interpreter of their own."""
    found = modules(*TESTS)

    assert len(found) > 100
    assert imported_without_torch(*sorted(module.name for module in found)) == []


def test_no_test_of_service_and_guards_asks_for_torch_while_it_runs() -> None:
    """What a test imports in its own body is not met by importing it."""
    assert [line for module in modules(*TESTS) for line in naming_torch(module)] == []


def test_what_needs_torch_is_found() -> None:
    """The two looks above see what they are there for."""
    assert imported_without_torch("export.observations", "export.spec.recorded", "torch") == [
        "export.observations: there is no torch",
        "torch: there is no torch",
    ]
    assert naming_torch(MODULES["export.trained"]) != []


@pytest.mark.parametrize("line", ["def f():\n    from torch import nn", "t = pytest.importorskip('torch')"])
def test_torch_in_a_function_is_found(line: str) -> None:
    """In either way that a test can ask for it."""
    module = Module("tests.service.some", ROOT / "some.py", ast.parse(line))

    assert len(naming_torch(module)) == 1
