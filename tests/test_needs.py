"""What tests need: without it they are skipped, unless it is said that it has to be there."""

from pathlib import Path

import pytest

from tests.needs import need

RUN = Path(__file__).resolve().parents[1] / ".ci" / "run"


@pytest.mark.parametrize("named", ["", "redis", "faketimes,redis"])
def test_what_is_not_there_skips_a_test_by_name(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    """On a user's machine, or where something else has to be there."""
    monkeypatch.setenv("ACTD_TESTS_NEED", named)

    with pytest.raises(pytest.skip.Exception, match="needs faketime, which is not there: install it"):
        need("faketime", there=False, how="install it")


@pytest.mark.parametrize("named", ["faketime", "redis,faketime"])
def test_what_has_to_be_there_fails_a_test(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    """A skip would pass for a test that was run."""
    monkeypatch.setenv("ACTD_TESTS_NEED", named)

    with pytest.raises(pytest.fail.Exception, match="needs faketime"):
        need("faketime", there=False, how="install it")


def test_what_is_there_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it has to be or not."""
    monkeypatch.setenv("ACTD_TESTS_NEED", "faketime")

    need("faketime", there=True, how="install it")


def test_ci_says_what_it_installs() -> None:
    """So no test there is skipped for lack of it."""
    told = RUN.read_text("utf-8")

    assert "export ACTD_TESTS_NEED=faketime\n" in told
    assert "faketime" in next(line for line in told.splitlines() if line.startswith("for package in"))
