"""Runs: the tests that reach a mutant, in a process of its own that has never seen the module as it is.

The libraries are loaded once; each run is a fork that imports everything of ours anew, with one module changed.
"""

import gc
import importlib
import os
import pickle
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from itertools import accumulate
from pathlib import Path
from types import CodeType, ModuleType
from typing import Literal

import pytest

from tests.mutation.mutants import Mutant

ROOT = Path(__file__).resolve().parents[2]
TESTS = "tests/guards"
# Of tests that mirror the module, and of all others: most mutants are killed in less than one.
_SECONDS = 12.0
Outcome = Literal["killed", "timed out", "survived"]
_PLUGINS = ("_hypothesis_pytestplugin", "pytest_asyncio.plugin", "pytest_timeout")
_LIBRARIES = """
coverage cryptography.x509 google.protobuf hypothesis.extra.numpy msgspec onnx onnxruntime pydantic
scipy.optimize scipy.stats z3 export.spec
""".split()
_ARGUMENTS = [
    "-q",
    "-x",
    "-p",
    "no:cacheprovider",
    "-m",
    "not soak and not chaos",
    "--no-header",
    "--tb=no",
    "--assert=plain",
]


@dataclass(frozen=True, slots=True)
class Reached:
    """Which tests reach each line of each module (by file), and how long each test computes (s)."""

    lines: Mapping[str, Mapping[int, Collection[str]]]
    seconds: Mapping[str, float]

    def tests(self, mutant: Mutant, path: Path) -> list[list[str]]:
        """The tests that may kill a mutant, quickest first: those that mirror its module before all others.

        What runs at import may be noticed by any. The slowest are left out.
        """
        mirror = f"{TESTS}/{'/'.join([*mutant.module.split('.')[1:-1], 'test_' + path.stem])}.py::"
        lines = self.lines.get(str(path), {})
        here = set[str]().union(*(lines.get(line, ()) for line in range(mutant.first, mutant.last + 1)))
        found = sorted(here or self.seconds, key=lambda test: self.seconds[test])
        stages = ([one for one in found if one.startswith(mirror) == first] for first in (True, False))
        return [quick for stage in stages if (quick := self._quick(stage))]

    def _quick(self, tests: Sequence[str]) -> list[str]:
        spent = accumulate(self.seconds[test] for test in tests)
        return [test for test, seconds in zip(tests, spent, strict=True) if seconds <= _SECONDS]


class Chosen:
    """Tells pytest to run these tests in this order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._order = {test: i for i, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self._order), key=lambda i: self._order[i.nodeid])


@dataclass
class Observer:
    """Tells coverage which test runs, and takes its time."""

    switch: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.switch(item.nodeid)
        begun = time.process_time()
        told = yield
        self.seconds[item.nodeid] = time.process_time() - begun
        return told


class Changed(MetaPathFinder, Loader):
    """Imports one module from other code than its file's."""

    def __init__(self, name: str, code: CodeType) -> None:
        self._name, self._code = name, code

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        return spec_from_loader(name, self) if name == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)  # noqa: S102 - that is what it is for


def prepare() -> None:
    """Load what is not ours, so that a fork need not."""
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    os.chdir(ROOT)
    for name in (*_PLUGINS, *_LIBRARIES):
        importlib.import_module(name)
    assert "guards" not in sys.modules, "what is to be changed is loaded already"
    settings = importlib.import_module("hypothesis").settings
    phases = importlib.import_module("hypothesis").Phase
    # A failure need not be made small, and is told to nobody.
    settings.register_profile("mutation", phases=(phases.explicit, phases.generate), database=None)
    settings.load_profile("mutation")
    gc.freeze()  # pytest collects at each end, and need not look through all the libraries


def reached() -> Reached:
    """Run all tests on what is there; they have to pass, or nothing can be said."""
    with tempfile.TemporaryDirectory() as there:
        told = Path(there, "reached")
        if _ended(_forked(lambda: _observed(told))) != pytest.ExitCode.OK:
            msg = f"the tests of {TESTS} do not pass, expected it before anything is changed"
            raise RuntimeError(msg)
        return Reached(*pickle.loads(told.read_bytes()))  # noqa: S301 - written by ourselves just now


def _observed(told: Path) -> int:
    measured = importlib.import_module("coverage").Coverage(data_file=None, branch=False, include=["guards/*"])
    observer = Observer(measured.switch_context)
    measured.start()
    code = _tested([TESTS], observer)
    measured.stop()
    data = measured.get_data()
    lines = {
        file: {line: [one for one in tests if one] for line, tests in data.contexts_by_lineno(file).items()}
        for file in data.measured_files()
    }
    told.write_bytes(pickle.dumps((lines, dict(observer.seconds))))
    return code


def outcomes(
    mutants: Sequence[Mutant], paths: Mapping[str, Path], found: Reached, jobs: int
) -> Iterator[tuple[Mutant, Outcome]]:
    """What became of each mutant, in the order in which that is known."""
    waiting, running = list(reversed(mutants)), dict[int, tuple[Mutant, float]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            stages = found.tests(mutant, paths[mutant.module])
            limit = 10 + 5 * sum(found.seconds[test] for stage in stages for test in stage)
            changed = _code(mutant, paths[mutant.module])
            running[_forked(lambda: _judged(mutant, changed, stages))] = mutant, time.monotonic() + limit  # noqa: B023
        time.sleep(0.005)
        for process, (mutant, limit) in list(running.items()):
            code, late = _ended(process, wait=False), time.monotonic() > limit
            if code is None and not late:
                continue
            if code is None:
                os.killpg(process, signal.SIGKILL)
                _ended(process)
            elif code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                msg = f"{mutant}\nended with {code}, expected a judgement"
                raise RuntimeError(msg)
            del running[process]
            yield mutant, "timed out" if code is None else "killed" if code else "survived"


def _code(mutant: Mutant, path: Path) -> CodeType:
    return compile(mutant.applied(path.read_bytes()), str(path), "exec", dont_inherit=True)


def _judged(mutant: Mutant, code: CodeType, stages: Sequence[Sequence[str]]) -> int:
    """Whether any test fails; what cannot even be imported fails too."""
    sys.meta_path.insert(0, Changed(mutant.module, code))
    for tests in stages:
        files = sorted({test.partition("::")[0] for test in tests})
        ended = _tested(files, Chosen(tests))
        if ended in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED):
            return pytest.ExitCode.TESTS_FAILED
        if ended not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return ended
    return pytest.ExitCode.OK


def _tested(files: Sequence[str], plugin: object) -> int:
    plugins = [argument for name in _PLUGINS for argument in ("-p", name)]
    return int(pytest.main([*_ARGUMENTS, *plugins, *files], plugins=[plugin]))


def _forked(run: Callable[[], int]) -> int:
    """Run something in a process, and a group, of its own, which nobody hears; the number of it."""
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        code = run()
    finally:
        os._exit(code)


def _ended(process: int, *, wait: bool = True) -> int | None:
    """The code that a process ended with; None if it has not."""
    which, status = os.waitpid(process, 0 if wait else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if which else None
