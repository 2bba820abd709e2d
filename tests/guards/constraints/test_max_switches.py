"""Limits on how often the executed action changes."""

from guards.constraints import MaxSwitches
from tests.fakes import NOW, SCHEMA
from tests.guards.constraints.loop import DOWN, FACTORED, STRANGE, TWICE, UP, Loop


class TestMaxSwitches:
    """How often the action may change."""

    TWICE = TWICE

    def test_only_the_action_before_is_left_when_they_are_used_up(self) -> None:
        """The first action of an episode is no switch."""
        loop = Loop(self.TWICE).does(UP, 0).does(DOWN, 1)

        assert loop.left(2) == [*SCHEMA.actions]
        assert loop.does(UP, 3).left(4) == [UP]
        assert loop.does(UP, 5).left(60.9) == [UP]
        assert loop.left(61) == [*SCHEMA.actions]

    def test_as_many_times_are_kept_as_there_may_be(self) -> None:
        """Those of the last switches within the window."""
        loop = Loop(self.TWICE)
        for i, action in enumerate((UP, DOWN, UP, UP, DOWN)):
            loop.does(action, i)

        assert loop.kept == (NOW + 2, NOW + 4)
        assert loop.does(DOWN, 62).kept == (NOW + 4,)

    def test_unknown_history_leaves_nothing_but_time(self) -> None:
        """It is not known what would be no switch."""
        loop = Loop(self.TWICE, history=STRANGE)

        assert loop.left(59) == []
        assert loop.left(60) == [*SCHEMA.actions]

    def test_what_was_done_here_is_known(self) -> None:
        """It may have been a switch; doing the same again is none."""
        loop = Loop(self.TWICE, history=STRANGE).does(UP, 10)

        assert (loop.kept, loop.left(11)) == ((NOW + 10,), [UP])
        assert loop.left(60) == [*SCHEMA.actions]
        assert loop.does(DOWN, 60).left(61) == [DOWN]
        assert loop.left(70) == [*SCHEMA.actions]

    def test_times_are_kept_in_order_whatever_the_clock_does(self) -> None:
        """The oldest of the last ones is the first to leave."""
        loop = Loop(self.TWICE).does(UP, 9).does(DOWN, 9).does(UP, 5)

        assert loop.kept == (NOW + 5, NOW + 9)

    def test_a_whole_action_is_another_when_any_factor_is(self) -> None:
        """Only the same again is left."""
        loop = Loop(MaxSwitches(name="m", at_most=1, seconds=60), FACTORED).does((0, 1, 2), 0).does((0, 1, 3), 1)

        assert loop.left(2) == [(0, 1, 3)]
