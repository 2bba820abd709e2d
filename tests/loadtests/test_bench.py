"""The bench itself: a short run of the whole, and what it refuses."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from loadtests.bench import main

NEEDS_WRK = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (Debian package wrk)")


@NEEDS_WRK
def test_a_short_run_measures_all_three(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One second each against the real service: a table, the JSON of it, and no folder left behind."""
    scratch, results = tmp_path / "scratch", tmp_path / "bench.json"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    brief = ["--connections", "1", "--rounds", "1", "--seconds", "1"]

    status = main(["--config", str(config), *brief, "--json", str(results)])

    output = capsys.readouterr()
    assert status == 0, output.err
    told = json.loads(results.read_text("utf-8"))
    assert [one["server"] for one in told["rows"]] == ["a", "b", "c"]
    assert all(one["cpu_us_per_request"] > 1 and one["requests_per_second"] > 1 for one in told["rows"])
    assert told["ratios"][0]["mean_batch"] == pytest.approx(1, abs=0.01)
    assert told["ratios"][0]["rate_c_by_b"] > 0
    assert "CPU us/request" in output.out
    assert not list(scratch.iterdir())


@NEEDS_WRK
def test_a_missing_configuration_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is started for a configuration that is not there."""
    missing = tmp_path / "none.toml"

    assert main(["--config", str(missing)]) == 1
    assert capsys.readouterr().err == f"bench: --config is {missing}, expected the configuration of a policy\n"


def test_without_wrk_it_names_the_package(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever lacks wrk is told what to install, before anything is started."""
    monkeypatch.setenv("PATH", "")

    assert main(["--config", str(config)]) == 1
    assert "install the Debian package wrk" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--connections", "0"], ["--only", "d"], ["--only", ""], ["--rounds", "-1"]])
def test_options_are_checked(wrong: list[str]) -> None:
    """What cannot be measured is refused on the command line."""
    with pytest.raises(SystemExit):
        main(wrong)
