"""Proving at start: a shield that can close on itself is refused, told, or let be, as the configuration says."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from export.spec.extras import install
from service.config import ConfigInvalid
from service.processes import MISCONFIGURED
from tests.in_process import asking, serving
from tests.service.test_supervisor import serve
from tests.system.serving import MINIMAL, ROOT, demo

HOLE = [{"kind": "rule", "name": "busy", "forbid": "cpu > 0.9"}]
SOUND = [{"kind": "rule", "name": "busy", "forbid": "cpu > 0.9 and action != 'hold'"}]
CALM = [{"kind": "max_switches", "name": "calm", "at_most": 3, "seconds": 60}]
SITUATION = "history: the first decision of an episode; scale_down, hold, scale_up: closed by 'busy'"
Told = list[tuple[str, str]]
Constraints = Sequence[Mapping[str, object]]


def started(folder: Path, constraints: Constraints, **proof: object) -> None:
    """Start a service, which answers."""
    with serving(folder, constraints=constraints, proof=proof) as service:
        assert asyncio.run(service.post("/act", asking(previous=None))).status == 200


def refused(folder: Path, constraints: Constraints, **proof: object) -> str:
    """Why a service does not start."""
    with pytest.raises(ConfigInvalid) as error, serving(folder, constraints=constraints, proof=proof):
        pass
    return str(error.value)


def said(caplog: pytest.LogCaptureFixture) -> Told:
    """What the log has of it."""
    return [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "service.startup"]


def test_nothing_is_proved_unless_it_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The hole is there, and nobody looks for it."""
    caplog.set_level(logging.INFO)

    started(tmp_path, HOLE)

    assert said(caplog) == []


def test_what_nobody_asks_for_is_not_loaded() -> None:
    """The solver takes its memory only where it is used."""
    program = "import sys, service.application; print('z3' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)

    assert done.stdout == "False\n"


@pytest.mark.parametrize("at_start", ["refuse", "strict"])
def test_a_counterexample_refuses_to_start(tmp_path: Path, at_start: str) -> None:
    """The message has the situation, on one line."""
    told = refused(tmp_path, HOLE, at_start=at_start)

    assert told.startswith("constraints: counterexample: for every observation within the declared ranges")
    assert told.endswith(f"{SITUATION}, expected it proved: proof.at_start is {at_start!r}")
    assert "\n" not in told


def test_a_counterexample_may_be_only_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The service serves."""
    started(tmp_path, HOLE, at_start="warn")

    ((level, told),) = said(caplog)
    assert level == "WARNING"
    assert told.endswith(SITUATION)


def test_a_proof_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """For whoever reads what the service was started with."""
    caplog.set_level(logging.INFO)

    started(tmp_path, SOUND, at_start="strict")

    claim = "proved: for every observation within the declared ranges, at least one action is allowed"
    assert said(caplog) == [("INFO", claim)]


def test_what_is_not_decided_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Or, under the strictest setting, refused."""
    started(tmp_path / "told", SOUND, at_start="refuse", seconds=1e-9)

    assert [level for level, _ in said(caplog)] == ["WARNING"]
    assert "(no answer within 1e-09 s)" in said(caplog)[0][1]
    assert refused(tmp_path / "refused", SOUND, at_start="strict", seconds=1e-9).startswith("constraints: undecided: ")


def test_what_is_closed_after_a_restart_alone_may_be_left_out(tmp_path: Path) -> None:
    """There the last resort is what leaves."""
    assert "the session's history is not known here" in refused(tmp_path / "any", CALM, at_start="refuse")
    started(tmp_path / "known", CALM, at_start="refuse", history="known")


def test_without_z3_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof that is asked for is not left out in silence."""
    for name in ("symbols", "smt", "closing", "solving", "findings"):
        monkeypatch.delitem(sys.modules, f"guards.proof.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "z3", None)

    told = refused(tmp_path, SOUND, at_start="warn")

    assert told == (
        "proof.at_start: was 'warn', and the proof needs the package 'z3-solver', expected it installed: "
        + install("verify")
    )


def test_the_command_ends_with_the_situation(tmp_path: Path) -> None:
    """As it ends with any mistake in the configuration: nothing is served."""
    rule = '[[constraints]]\nkind = "rule"\nname = "busy"\nforbid = "cpu > 0.9"\n'
    config = demo(tmp_path, f'{MINIMAL}{rule}[proof]\nat_start = "refuse"\n')

    ended = serve(config, tmp_path / "data", "--port", "0")

    assert ended.returncode == MISCONFIGURED
    assert SITUATION in ended.stderr
