"""Rate limits: values that change no faster than they may."""

from typing import Any

import pytest

from guards.constraints import RateLimit
from guards.errors import GuardMisconfigured
from tests.fakes import NOW, SCHEMA, schema_of
from tests.guards.batched import Shield
from tests.guards.constraints.loop import DOWN, DROP, EFFECT, FACTORED, HOLD, JUMP, LEVELS, REST, STRANGE, UP, Loop


class TestRateLimit:
    """A value that changes no faster than it may."""

    EFFECT, LEVELS = EFFECT, LEVELS

    @pytest.mark.parametrize(
        ("at", "expected"),
        [(0, [HOLD, REST, DROP]), (1.9, [HOLD, REST, DROP]), (2, [HOLD, UP, DOWN, REST, DROP]), (6, [*SCHEMA.actions])],
    )
    def test_a_change_needs_its_seconds_since_the_last(self, at: float, expected: list[str]) -> None:
        """One in two seconds, three in six, either way; what changes nothing is no change."""
        assert Loop(self.EFFECT).does(UP, 0).left(at) == expected

    def test_what_changes_nothing_does_not_start_it_again(self) -> None:
        """Or a loop that holds every second could never change anything."""
        loop = Loop(self.EFFECT).does(UP, 0).does(HOLD, 1).does(REST, 1.9)

        assert (loop.kept, loop.left(2)) == ((NOW,), [HOLD, UP, DOWN, REST, DROP])

    def test_the_first_change_of_an_episode_is_free(self) -> None:
        """Nothing changed before it."""
        assert Loop(self.EFFECT).left(0) == [*SCHEMA.actions]
        assert Loop(self.LEVELS).left(0) == [*SCHEMA.actions]

    def test_it_is_free_however_slow_the_change(self) -> None:
        """There is nothing yet that could change."""
        assert Loop(self.LEVELS.model_copy(update={"per_second": 1e-12})).left(0) == [*SCHEMA.actions]

    def test_one_action_alone_never_changes_anything(self) -> None:
        """Not even where it is not known what was done."""
        schema = schema_of(("load",), ("only",))

        assert Loop(RateLimit(name="r", per_second=1, levels={"only": 3}), schema, STRANGE).left(0) == ["only"]

    @pytest.mark.parametrize(
        ("at", "expected"), [(0, [UP, REST]), (1, [HOLD, UP, DOWN, REST]), (4, [*SCHEMA.actions][:5])]
    )
    def test_a_level_is_reached_no_faster(self, at: float, expected: list[str]) -> None:
        """From the level of the action before; actions of the same level are no change."""
        assert Loop(self.LEVELS).does(DROP, -99).does(UP, 0).left(at) == expected

    def test_an_action_of_the_same_level_is_no_change(self) -> None:
        """The time of the last change stays."""
        loop = Loop(self.LEVELS).does(HOLD, 0).does(UP, 1).does(REST, 1.5)

        assert loop.kept == (NOW + 1,)

    def test_the_first_action_is_a_change_only_where_it_is_not_known_what_was_before(self) -> None:
        """And the next of a stranger is compared with it."""
        assert Loop(self.LEVELS).does(UP, 0).kept == ()
        assert Loop(self.LEVELS, history=STRANGE).does(UP, 0).does(REST, 1).kept == (NOW,)
        assert Loop(self.LEVELS, history=STRANGE).does(UP, 0).does(HOLD, 1).kept == (NOW + 1,)

    def test_unknown_history_changed_just_before_it_was_seen(self) -> None:
        """Until the longest change has had its time."""
        assert Loop(self.EFFECT, history=STRANGE).left(1) == [HOLD, REST, DROP]
        assert Loop(self.EFFECT, history=STRANGE).left(6) == [*SCHEMA.actions]

    def test_an_unknown_level_is_the_farthest(self) -> None:
        """It may have been at either end; from the first action here on it is known."""
        loop = Loop(self.LEVELS, history=STRANGE)

        assert loop.left(4) == []
        assert loop.left(5) == [JUMP]
        assert loop.left(10) == [*SCHEMA.actions]
        assert loop.does(JUMP, 5).left(5) == [JUMP]
        assert loop.kept == (NOW + 5,)
        assert loop.left(9) == [UP, DOWN, JUMP, REST]

    def test_a_clock_that_goes_back_stands_still(self) -> None:
        """What changes nothing is allowed even so."""
        loop = Loop(self.EFFECT).does(UP, 0).does(DOWN, -50)

        assert (loop.kept, loop.left(-50)) == ((NOW,), [HOLD, REST, DROP])

    def test_a_factor_has_levels(self) -> None:
        """The other factors are no matter."""
        levels = {"fan=still": 0.0, "fan=slow": 1.0, "fan=fast": 2.0, "fan=storm": 5.0}
        loop = Loop(RateLimit(name="r", per_second=1, levels=levels), FACTORED).does((0, 0, 0), -9)
        loop.does((0, 0, 1), 0)

        assert {action[2] for action in loop.left(0)} == {1}
        assert {action[2] for action in loop.left(1)} == {0, 1, 2}
        assert len(loop.left(1)) == 18
        assert loop.does((1, 2, 1), 1).kept == (NOW,)

    @pytest.mark.parametrize(
        ("told", "expected"),
        [
            ({}, "levels and effect are both here or both missing, expected one of them"),
            ({"levels": {UP: 1.0}, "effect": {UP: 1.0}}, "both here or both missing"),
            ({"levels": {UP: 1.0, DOWN: 2.0}}, "levels: has none for hold, jump, rest, drop, expected one for each"),
            ({"effect": {"fly": 1.0}}, "the action 'fly' is not known, expected one of hold"),
        ],
    )
    def test_what_limits_nothing_is_refused(self, told: dict[str, Any], expected: str) -> None:
        """When it is bound."""
        with pytest.raises(GuardMisconfigured, match=expected):
            Shield([RateLimit(name="r", per_second=1, **told)], SCHEMA)
