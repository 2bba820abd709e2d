"""The bench itself: a short run of the whole, and what it refuses."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from loadtests.bench import main, parsed
from loadtests.launch import ROOT
from tests.loadtests.repositories import git, known, worktrees
from tests.needs import need

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
    assert [one["pair"] for one in told["ratios"]] == ["c/a", "c/b"]
    assert all(one[name] > 0 for one in told["ratios"] for name in ("rate", "cpu", "p50", "p99"))
    assert told["services"][0]["mean_batch"] == pytest.approx(1, abs=0.01)
    assert told["services"][0]["explored"] == 1
    assert told["run"]["against"] is None
    assert "CPU us/request" in output.out
    assert not list(scratch.iterdir())


@NEEDS_WRK
def test_another_commit_with_another_configuration_is_measured_beside(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a worktree that is gone afterwards; its configuration is its own."""
    need("git", there=known(ROOT), how="this tree has to be a clone")
    other, results = config.with_name("other.toml"), tmp_path / "bench.json"
    other.write_text(config.read_text("utf-8").replace('name = "demo"', 'name = "other"'), "utf-8")
    brief = ["--connections", "1", "--rounds", "1", "--seconds", "1", "--only", "cd"]
    before = worktrees(ROOT)

    status = main(
        ["--config", str(config), "--against", "HEAD", "--against-config", str(other), *brief, "--json", str(results)]
    )

    output = capsys.readouterr()
    assert status == 0, output.err
    told = json.loads(results.read_text("utf-8"))
    assert [one["server"] for one in told["rows"]] == ["c", "d"]
    assert [one["pair"] for one in told["ratios"]] == ["c/d"]
    assert told["run"]["against"]["commit"] == git(ROOT, "rev-parse", "HEAD")
    assert f"against {git(ROOT, 'rev-parse', 'HEAD')}" in output.err
    assert [one["explored"] for one in told["services"]] == [1, 1]
    assert worktrees(ROOT) == before


@NEEDS_WRK
@pytest.mark.parametrize("option", ["--config", "--against-config"])
def test_a_missing_configuration_is_a_sentence(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is started for a configuration that is not there."""
    missing = tmp_path / "none.toml"

    assert main([option, str(missing)]) == 1
    assert capsys.readouterr().err == f"bench: {option} is {missing}, expected the configuration of a policy\n"


def test_without_wrk_it_names_the_package(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever lacks wrk is told what to install, before anything is started."""
    monkeypatch.setenv("PATH", "")

    assert main(["--config", str(config)]) == 1
    assert "install the Debian package wrk" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [["--connections", "0"], ["--only", "cd"], ["--only", "e"], ["--only", ""], ["--rounds", "-1"], ["--seconds", "0"]],
)
def test_options_are_checked(wrong: list[str]) -> None:
    """What cannot be measured is refused on the command line."""
    with pytest.raises(SystemExit):
        main(wrong)


def test_by_default_it_alternates_at_three_numbers_of_connections_for_nine_rounds() -> None:
    """With three servers, or a fourth where a commit or a configuration is named."""
    options = parsed([])

    assert (options.connections, options.rounds, options.only) == ((1, 16, 64), 9, ("a", "b", "c"))
    assert parsed(["--against", "HEAD~1"]).only == ("a", "b", "c", "d")
    assert parsed(["--against-config", "other.toml"]).only == ("a", "b", "c", "d")


def test_help_says_how_long_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever starts it knows when to come back."""
    with pytest.raises(SystemExit):
        parsed(["--help"])

    assert "takes about" in " ".join(capsys.readouterr().out.split())
