"""Hostile artefacts at the service's door: none is loaded, and the process that tried them lives on."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.versions.engine import VersionRefused, load_version
from tests.hostile import CASES, DEMO, Attempts, tried


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> Attempts:
    """What became of all of them, tried once."""
    return Attempts(tmp_path_factory.mktemp("hostile"), ("load",))


def test_the_demo_itself_is_loaded() -> None:
    """So that a refusal below is a refusal of what was done to it."""
    assert tried("load", DEMO)[0] == "opened"


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_artefact_is_not_served(attempts: Attempts, name: str) -> None:
    """It is a version refused, in bounded time and memory, whatever it was made to do."""
    fate = attempts.at("load", name)

    assert fate.outcome == "VersionRefused", fate
    assert fate.contained, fate


def test_nothing_else_was_touched(attempts: Attempts) -> None:
    """The canary is as it was, and no file is new."""
    assert attempts.canary_lives()


def test_a_run_that_asks_for_too_much_fails_by_itself() -> None:
    """Where the size shows only when it is run, the bound on what runs work in stops it, and no limit of the system."""
    data = CASES["Expand by the batch"].make(Path())

    with ThreadPoolExecutor(1) as pool, pytest.raises(VersionRefused, match="Available memory of"):
        load_version(data, None, pool)
