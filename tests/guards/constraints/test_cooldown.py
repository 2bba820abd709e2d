"""Cooldowns: actions that rest."""

from typing import Any

import pytest
from pydantic import ValidationError

from guards.constraints import Cooldown
from guards.errors import GuardMisconfigured
from guards.records import History
from tests.fakes import NOW, SCHEMA, context_of
from tests.guards.constraints.loop import forbidden, parsed

EXAMPLE = {"kind": "cooldown", "name": "c", "actions": ("up", "down"), "seconds": 60.0}


class TestCooldown:
    """Actions that rest after use."""

    COOLDOWN = Cooldown(name="c", actions=("up", "down"), seconds=60)

    @pytest.mark.parametrize(("ago", "resting"), [(0, True), (59.9, True), (60, False), (61, False), (-5, True)])
    def test_it_rests_for_its_seconds(self, ago: float, resting: bool) -> None:
        """Exactly so long; a clock that went back counts as just now."""
        history = History(known=True, since=0, used={1: NOW - ago})

        expected = ["up", "down"] if resting else []
        assert forbidden(self.COOLDOWN, context_of([[0, 0, 0]], histories=[history])) == [expected]

    def test_any_of_its_actions_makes_all_of_them_rest(self) -> None:
        """The latest use of any counts."""
        history = History(known=True, since=0, used={1: NOW - 100, 2: NOW - 1})

        assert forbidden(self.COOLDOWN, context_of([[0, 0, 0]], histories=[history])) == [["up", "down"]]

    def test_other_actions_do_not_count(self) -> None:
        """Each cooldown is about its own actions."""
        history = History(known=True, since=0, used={3: NOW - 1})

        assert forbidden(self.COOLDOWN, context_of([[0, 0, 0]], histories=[history])) == [[]]

    @pytest.mark.parametrize(("seen", "expected"), [(59, ["up", "down"]), (60, [])])
    def test_unknown_history_is_the_worst_state(self, seen: float, expected: list[str]) -> None:
        """It rests until the window has passed since the session was first seen."""
        history = History(known=False, since=NOW - seen)

        assert forbidden(self.COOLDOWN, context_of([[0, 0, 0]], histories=[history])) == [expected]

    def test_the_start_of_an_episode_is_rested(self) -> None:
        """Nothing was executed in it."""
        assert forbidden(self.COOLDOWN, context_of([[0, 0, 0]])) == [[]]

    def test_it_has_its_actions_remembered(self) -> None:
        """By index."""
        assert self.COOLDOWN.tracks(SCHEMA) == {1, 2}

    def test_an_unknown_action_is_refused(self) -> None:
        """With the names there are."""
        with pytest.raises(GuardMisconfigured, match=r"the action 'fly' is not known, expected one of hold, up, down"):
            Cooldown(name="c", actions=("fly",), seconds=1).term(SCHEMA)

    @pytest.mark.parametrize(
        "mistake", [{"actions": ()}, {"seconds": 0}, {"seconds": float("inf")}, {"seconds": 86400 * 366}]
    )
    def test_what_makes_no_cooldown_is_refused(self, mistake: dict[str, Any]) -> None:
        """No actions, no time, or longer than a year."""
        with pytest.raises(ValidationError):
            parsed(EXAMPLE | mistake)
        assert parsed(EXAMPLE | {"seconds": 86400 * 365})
