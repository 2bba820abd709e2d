"""Budgets: what may be spent in a window."""

import pytest

from guards.constraints import Budget
from guards.errors import ExpressionInvalid
from tests.fakes import NOW, SCHEMA
from tests.guards.batched import Shield
from tests.guards.constraints.loop import DOWN, DROP, FACTORED, HOLD, JUMP, REST, SPENDS, STRANGE, UP, Loop


class TestBudget:
    """What may be spent in a window."""

    BUDGET = SPENDS

    def test_what_costs_more_than_is_left_is_forbidden(self) -> None:
        """What costs nothing never is."""
        loop = Loop(self.BUDGET).does(JUMP, 0)

        assert loop.left(1) == [HOLD, UP, DOWN, REST, DROP]
        assert loop.does(UP, 1).left(2) == [HOLD, DOWN, REST, DROP]
        assert loop.does(JUMP, 3).left(4) == [HOLD, DOWN, REST, DROP]

    def test_the_window_slides(self) -> None:
        """What was spent is left again when it was long enough ago, to the moment."""
        loop = Loop(self.BUDGET).does(JUMP, 0).does(UP, 10)

        assert loop.left(59.9) == [HOLD, DOWN, REST, DROP]
        assert loop.left(60) == [*SCHEMA.actions]
        assert loop.does(UP, 65).kept == (NOW + 10, 1.0, NOW + 65, 1.0)
        assert loop.left(69.9) == [HOLD, UP, DOWN, REST, DROP]
        assert loop.left(70) == [*SCHEMA.actions]

    def test_what_is_still_in_the_window_counts(self) -> None:
        """When what was spent before it is left again."""
        loop = Loop(self.BUDGET).does(UP, 0).does(JUMP, 10)

        assert loop.left(60) == [HOLD, UP, DOWN, REST, DROP]
        assert loop.left(70) == [*SCHEMA.actions]

    def test_what_costs_nothing_is_never_forbidden(self) -> None:
        """Though more was spent than there is."""
        loop = Loop(self.BUDGET).does(JUMP, 0).does(JUMP, 20)

        assert loop.left(21) == [HOLD, DOWN, REST, DROP]

    def test_what_has_left_the_window_is_not_kept(self) -> None:
        """To the moment."""
        loop = Loop(self.BUDGET).does(UP, 0).does(UP, 10)

        assert loop.does(HOLD, 59.9).kept == (NOW, 1.0, NOW + 10, 1.0)
        assert loop.does(HOLD, 60).kept == (NOW + 10, 1.0)

    def test_a_cost_may_use_the_observation(self) -> None:
        """What it costs is worked out when it is executed."""
        loop = Loop(Budget(name="b", cost="load if action == 'up' else 0", at_most=5, seconds=60))

        assert loop.does(UP, 0, load=4).left(1, load=1) == [*SCHEMA.actions]
        assert loop.left(1, load=2) == [HOLD, DOWN, JUMP, REST, DROP]

    def test_a_cost_below_zero_is_none(self) -> None:
        """Nobody earns."""
        loop = Loop(Budget(name="b", cost="load", at_most=5, seconds=60)).does(UP, 0, load=4).does(UP, 1, load=-9)

        assert loop.kept == (NOW, 4.0)
        assert loop.left(2, load=-1) == [*SCHEMA.actions]
        assert loop.left(2, load=2) == []

    def test_what_cannot_be_evaluated_is_too_dear(self) -> None:
        """It is forbidden, and where it was done all the same, everything was spent."""
        loop = Loop(Budget(name="b", cost="price if action == 'up' else 1", at_most=5, seconds=60))

        assert loop.left(0) == [HOLD, DOWN, JUMP, REST, DROP]
        assert loop.does(UP, 0).kept == (NOW, 5.0)
        assert loop.left(1) == []

    def test_unknown_history_has_spent_all(self) -> None:
        """Until the window has passed since the session was first seen; then what is known counts."""
        loop = Loop(self.BUDGET, history=STRANGE)

        assert loop.left(59) == [HOLD, DOWN, REST, DROP]
        assert loop.does(JUMP, 59).left(60) == [HOLD, UP, DOWN, REST, DROP]

    def test_what_is_kept_is_bounded(self) -> None:
        """One pair a bucket, whose time is the latest in it: never counted for less long than said."""
        loop = Loop(Budget(name="b", cost="1", at_most=1e6, seconds=16))
        for i in range(1000):
            loop.does(UP, i * 0.1)

        times, costs = loop.kept[::2], loop.kept[1::2]
        assert len(times) <= 10 + 1
        assert times[-1] == NOW + 99.9
        assert 160 <= sum(costs) <= 170

    def test_a_bucket_holds_no_more_than_there_is(self) -> None:
        """So the numbers stay numbers whatever is spent against the constraint."""
        budget = Budget(name="b", cost="load", at_most=5, seconds=60)

        assert Loop(budget).does(UP, 0, load=4).does(UP, 0, load=1e300).kept == (NOW, 5.0)
        assert Loop(budget).does(UP, 0, load=1e300).kept == (NOW, 5.0)

    def test_a_clock_that_goes_back_stands_still(self) -> None:
        """What is spent counts from the latest time that was told."""
        loop = Loop(self.BUDGET).does(UP, 50).does(UP, 0)

        assert loop.kept == (NOW + 50, 2.0)
        assert Loop(self.BUDGET).does(UP, 0).does(UP, 50).does(UP, 20).kept == (NOW, 1.0, NOW + 50, 2.0)

    def test_factors_have_a_cost(self) -> None:
        """Of whole actions."""
        loop = Loop(Budget(name="b", cost="fan + (9 if pump == 'on' else 0)", at_most=5, seconds=60), FACTORED)

        assert {action[0] for action in loop.left(0)} == {0}
        assert loop.does((0, 2, 3), 0).kept == (NOW, 3.0)
        assert {action[2] for action in loop.left(1)} == {0, 1, 2}

    def test_an_expression_that_is_no_cost_is_refused(self) -> None:
        """At start."""
        with pytest.raises(ExpressionInvalid, match="is a condition, expected a number"):
            Shield([Budget(name="b", cost="load > 1", at_most=1, seconds=1)], SCHEMA)
