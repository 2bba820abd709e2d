"""Hostile artefacts at the exporter's doors: refused or contained, each in a process that lives on."""

import pytest

from tests.hostile import CASES, DEMO, Attempts, Fate, tried


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> Attempts:
    """What became of all of them, tried once at each door."""
    return Attempts(tmp_path_factory.mktemp("hostile"), ("open", "verify"))


def test_there_are_enough_of_them() -> None:
    """At least thirty, and whatever was done to it, the demo itself is sound."""
    assert len(CASES) >= 30
    assert tried("open", DEMO)[0] == tried("verify", DEMO)[0] == "opened"


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_artefact_is_not_opened(attempts: Attempts, name: str) -> None:
    """It is refused for what its bytes say, at once and with a sentence; or it is found out when it is run."""
    fate = attempts.at("open", name)

    expected = (
        {"opened"} if CASES[name].opens else {"NotAnArtefact", "DigestMismatch", "ManifestInvalid", "StructureRefused"}
    )
    assert fate.outcome in expected, fate
    assert fate.contained, fate


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_artefact_is_not_verified(attempts: Attempts, name: str) -> None:
    """A check fails, in bounded time and memory."""
    fate = attempts.at("verify", name)

    assert fate.outcome == "Report", fate
    assert fate.contained, fate


def test_nothing_else_was_touched(attempts: Attempts) -> None:
    """The canary is as it was, and no file is new."""
    assert attempts.canary_lives()


def test_a_death_would_be_seen() -> None:
    """A process that ends without a word, takes long or takes much is not contained."""
    assert not Fate("x", outcome="died", message="", seconds=0, mib=0).contained
    assert not Fate("x", outcome="escaped", message="MemoryError", seconds=0, mib=0).contained
    assert not Fate("x", outcome="Report", message="", seconds=100, mib=0).contained
    assert not Fate("x", outcome="Report", message="", seconds=0, mib=10_000).contained
