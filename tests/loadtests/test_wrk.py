"""wrk's script holds the bodies unharmed, and what wrk reports is believed only where every answer was a 2xx."""

import json
import re

import pytest

from loadtests import wrk
from loadtests.wrk import BenchFailed, Sample, parsed, script

OUTPUT = """Running 2s test @ http://127.0.0.1:40001
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     0.90ms  410.00us  12.00ms   91.00%
Requests/sec:  18955.10

actd-bench {"requests":38000,"us":2004000,"p50_us":754,"p99_us":12419,"errors":ERRORS}
"""
NONE = '{"connect":0,"read":0,"write":0,"timeout":0,"status":0}'


def test_parses_what_the_script_prints() -> None:
    """Counts, seconds and milliseconds come out of the script's own line, whatever wrk prints around it."""
    assert parsed(OUTPUT.replace("ERRORS", NONE)) == Sample(requests=38000, seconds=2.004, p50_ms=0.754, p99_ms=12.419)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("status", "7 answers that were no 2xx"), ("timeout", "7 answers that took"), ("connect", "7 connections that")],
)
def test_an_error_fails_with_a_sentence(kind: str, words: str) -> None:
    """A run with errors is no measurement, and the message says which errors."""
    errors = NONE.replace(f'"{kind}":0', f'"{kind}":7')

    with pytest.raises(BenchFailed, match=f"of 38000 requests wrk saw {words}"):
        parsed(OUTPUT.replace("ERRORS", errors))


def test_no_answer_at_all_fails() -> None:
    """A server that answers nothing in time has no rate."""
    with pytest.raises(BenchFailed, match="no answer at all"):
        parsed(OUTPUT.replace("ERRORS", NONE).replace("38000", "0"))


def test_no_report_fails() -> None:
    """wrk that died before its end has not measured anything."""
    with pytest.raises(BenchFailed, match="reported nothing"):
        parsed("Running 2s test\n")


def test_bodies_stand_in_the_script_as_they_are() -> None:
    """Nested brackets, quotes and backslashes mean the same in Lua as in the body."""
    bodies = ['{"session":"s0","observation":[[1,2],[3,4]]}', '{"session":"a\\"\\\\b"}']

    lines = re.findall(r'^".*"(?=,?$)', script(bodies), re.MULTILINE)

    assert [json.loads(line) for line in lines] == bodies


def test_missing_wrk_is_a_sentence_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lacks wrk is told what to install."""
    monkeypatch.setenv("PATH", "")

    with pytest.raises(BenchFailed, match="install the Debian package wrk"):
        wrk.found()
