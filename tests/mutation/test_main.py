"""The account of the mutants: what counts as killed, and that the list of equivalent ones is about what is there."""

from collections import Counter

from tests.mutation.__main__ import equivalents, scopes, share, tally, told
from tests.mutation.mutants import Mutant, mutants

ONE = Mutant("guards.boxes", "f", "a", "b", 1, 1, 0, 1, "b")
OTHER = Mutant("guards.boxes", "g", "a", "b", 1, 1, 0, 1, "b")


def test_equivalent_mutants_do_not_count() -> None:
    """Only those that are listed, and survived."""
    found = [(ONE, "survived"), (OTHER, "survived"), (ONE, "killed"), (OTHER, "timed out")]

    rows = tally(found, {ONE.key: "says nothing else"})  # type: ignore[arg-type]

    assert rows == {"guards.boxes": Counter({"equivalent": 1, "survived": 1, "killed": 1, "timed out": 1})}
    assert share(rows["guards.boxes"]) == 2 / 3
    assert share(Counter()) == 1.0
    assert told(rows).splitlines()[-1].split() == ["all", "1", "1", "1", "1", "66.7%"]


def test_the_scopes_are_the_core_and_the_proof() -> None:
    """Breaker and baselines are asked as much as what decides."""
    core, proof = scopes()["core"], scopes()["proof"]

    assert {"guards.shield", "guards.breaker", "guards.baselines.controllers"} <= set(core)
    assert "guards.proof.encoding" in proof
    assert not set(core) & set(proof)


def test_every_listed_mutant_is_one() -> None:
    """A line that has changed makes its entry stale: look at it again, or take it out."""
    listed = equivalents()
    paths = {name: path for scope in scopes().values() for name, path in scope.items()}

    found = {mutant.key for name in {key[0] for key in listed} for mutant in mutants(name, paths[name])}

    assert [key for key in listed if key not in found] == []
    assert all(why for why in listed.values())
