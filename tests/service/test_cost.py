"""What the guards cost is measured over configurations that are what they are called, and said as it was measured."""

import shutil
from typing import get_args

import pytest

from loadtests.summary import Measurement, Served
from service.config import Config
from tests.service.cost import CASES, FEW, MANY, constraints, levels, line, main, parsed
from tests.service.served_cost import cost

# Of numbers alone, and doubts, which judge a policy's answer and no action.
OTHERS = {"linear", "quorum", "confidence", "novelty", "fresh"}


def measured(server: str, number: int, cpu: float, p50: float) -> Measurement:
    """A run at one connection."""
    return Measurement(server, 1, number, 1000, 1.0, cpu, 0.0, p50, 9.0)


def test_ten_constraints_are_of_all_kinds_that_judge_a_discrete_action() -> None:
    """A new kind has to be measured too; ``linear`` is for numbers, and a doubt judges a policy's answer."""
    one_of_them = get_args(Config.model_fields["constraints"].annotation)[0]
    kinds = {kind.model_fields["kind"].default for kind in get_args(get_args(one_of_them)[0])}

    assert kinds >= OTHERS
    assert {one["kind"] for one in constraints(10)} == kinds - OTHERS


@pytest.mark.parametrize("told", [constraints(100), levels(1000)])
def test_the_constraints_are_a_configurations(told: list[dict[str, object]]) -> None:
    """Each has its own name, and is taken as it stands."""
    config = Config.model_validate(
        {"name": "demo", "policy": "x.onnx", "baseline": {"kind": "constant", "action": "a0"}, "constraints": told}
    )

    assert len({one.name for one in config.constraints}) == len(told)


def test_what_is_asked_is_measured() -> None:
    """None, 10 and 100 over few actions; none, 100 and a rate limit of as many levels as actions over many."""
    counts = {actions: [len(case.constraints) for case in cases] for actions, cases in CASES.items()}

    assert counts == {FEW: [0, 10, 100], MANY: [0, 100, 1]}
    assert len(set(CASES[MANY][2].constraints[0]["levels"].values())) == 1000


def test_what_constraints_add_is_the_median_over_paired_rounds() -> None:
    """And not what two medians differ by: a round that was slow for both counts as any other."""
    runs = [measured("0", n, cpu, p50) for n, cpu, p50 in ((1, 100, 0.1), (2, 200, 0.2), (3, 300, 0.3))]
    runs += [measured("1", n, cpu, p50) for n, cpu, p50 in ((1, 110, 0.115), (2, 260, 0.23), (3, 315, 0.31))]

    found = cost(runs, 1, 1, Served(decisions=30, flights=20, fallbacks=3))

    assert (found.cpu_us, found.cpu_more_us, found.cpu_times) == (260, 15, 1.1)
    assert found.p50_more_us == pytest.approx(15)
    assert (found.rows, found.fallbacks) == (1.5, 0.1)
    assert line(found, 8, "10").split() == [
        "1",
        "8",
        "10",
        "260.0",
        "15.0",
        "10.0%",
        "1.10",
        "230",
        "15",
        "1.5",
        "10.00%",
    ]


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--seconds", "-1"], ["--starts", "x"]])
def test_options_are_checked(wrong: list[str]) -> None:
    """What cannot be measured is refused on the command line."""
    with pytest.raises(SystemExit):
        parsed(wrong)


def test_without_wrk_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured."""
    monkeypatch.setenv("PATH", "")

    assert main([]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "install the Debian package wrk" in output.err


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (Debian package wrk)")
def test_a_short_run_measures_all(capsys: pytest.CaptureFixture[str]) -> None:
    """In process, in servers at 16 connections and at one, and their starts."""
    status = main(["--rounds", "1", "--seconds", "1", "--starts", "1"])

    output = capsys.readouterr()
    assert status == 0, output.err
    tables = [text.splitlines() for text in output.out.strip().split("\n\n")]
    assert [len(lines) - 2 for lines in tables] == [12, 8, 6]
    assert [text.split()[0] for text in tables[1][2:]] == ["16", "16", "16", "1", "1", "16", "16", "16"]
