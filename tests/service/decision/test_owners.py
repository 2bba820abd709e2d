"""Owners: whose decision stands at a place in the log."""

from dataclasses import replace

import pytest

from service.decision.sessions import OWNERS_KEPT, Owners
from service.log.ids import Place


def place(seq: int, writer: str = "w") -> Place:
    """A place in a log."""
    return Place(key=1, writer=writer, ms=1, seq=seq, track="stable")


def test_a_decision_is_its_session_s() -> None:
    """As long as it is one of the last; of other writers' logs, and of what is still to come, nothing is known."""
    owners = Owners("w")
    for seq, session in ((2, "a"), (3, "b"), (7, "a")):
        owners.note(seq, session)

    assert [owners.session_of(place(seq)) for seq in (2, 3, 7)] == ["a", "b", "a"]
    assert owners.session_of(place(2, "v")) is None
    assert owners.session_of(place(8)) is None
    assert repr(owners) == "<Owners of decisions up to 7>"


@pytest.mark.parametrize("beyond", [0, 1, 5])
def test_what_is_too_far_back_is_nobody_s(beyond: int) -> None:
    """Whose it was is forgotten, never mistaken for that of the decision that took its place."""
    owners = Owners("w")
    owners.note(5, "a")
    owners.note(6, "b")
    owners.note(5 + OWNERS_KEPT + beyond, "c")

    assert owners.session_of(place(5)) is None
    assert owners.session_of(place(6)) == ("b" if beyond == 0 else None)
    assert owners.session_of(place(5 + OWNERS_KEPT + beyond)) == "c"


def test_what_is_in_no_log_is_nobody_s() -> None:
    """Its number is not that of a place in the log, where another session's decision may stand."""
    owners = Owners("w")
    owners.note(2, "a")

    assert owners.session_of(replace(place(2), unlogged=True)) is None
