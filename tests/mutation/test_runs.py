"""Runs: which tests a mutant meets first, and that the changed module is what they import."""

import importlib
import sys
from pathlib import Path

import pytest

from tests.mutation.mutants import Mutant
from tests.mutation.runs import Changed, Reached

BOXES = Path("guards/boxes.py")
MIRROR, SLOW, OTHER = "tests/guards/test_boxes.py::a", "tests/guards/test_boxes.py::b", "tests/guards/test_shield.py::c"
REACHED = Reached(
    lines={str(BOXES): {7: [SLOW, OTHER, MIRROR], 8: [OTHER], 9: []}},
    seconds={
        MIRROR: 0.5,
        SLOW: 2.0,
        OTHER: 0.1,
        "tests/guards/test_boxes.py::elsewhere": 1.0,
        "tests/guards/x.py::d": 0,
    },
)


def mutant(first: int, last: int) -> Mutant:
    """One that changes these lines."""
    return Mutant("guards.boxes", "f", "a", "b", first, last, 0, 1, "b")


def test_tests_that_mirror_the_module_come_first() -> None:
    """Then the others that reach the changed lines; the quickest first of each."""
    assert REACHED.tests(mutant(6, 7), BOXES) == [[MIRROR, SLOW], [OTHER]]
    assert REACHED.tests(mutant(8, 8), BOXES) == [[OTHER]]


def test_what_runs_at_import_may_be_noticed_by_any() -> None:
    """Also by those that run no line of the module."""
    assert REACHED.tests(mutant(9, 9), BOXES) == [
        [MIRROR, "tests/guards/test_boxes.py::elsewhere", SLOW],
        ["tests/guards/x.py::d", OTHER],
    ]


def test_the_slowest_are_left_out() -> None:
    """A mutant that survives would take them all."""
    slow = Reached(lines=REACHED.lines, seconds={**REACHED.seconds, SLOW: 60.0, "tests/guards/x.py::d": 60.0})

    assert slow.tests(mutant(9, 9), BOXES) == [[MIRROR, "tests/guards/test_boxes.py::elsewhere"], [OTHER]]


def test_a_changed_module_is_imported_instead_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever imports it from then on."""
    code = compile("x = 1", "this.py", "exec")
    monkeypatch.setattr(sys, "meta_path", [Changed("this", code), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "this", raising=False)

    module = importlib.import_module("this")

    monkeypatch.delitem(sys.modules, "this")
    assert module.x == 1
