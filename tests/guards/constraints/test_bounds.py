"""Bounds: a quantity that actions move."""

import pytest
from pydantic import ValidationError

from guards.constraints import Bounds
from guards.errors import ExpressionInvalid, GuardMisconfigured
from tests.fakes import SCHEMA, context_of
from tests.guards.constraints.loop import forbidden


class TestBounds:
    """A quantity that stays where it may be."""

    BOUNDS = Bounds(name="b", of="pods", effect={"up": 1, "down": -1, "jump": 3, "drop": -3}, low=1, high=5)

    @pytest.mark.parametrize(
        ("pods", "expected"),
        [
            (3, ["jump", "drop"]),
            (4, ["jump"]),
            (5, ["up", "jump"]),
            (1, ["down", "drop"]),
            (2, ["drop"]),
            (7, ["up", "jump"]),
            (-1, ["down", "drop"]),
        ],
    )
    def test_it_forbids_leaving_and_going_further_out(self, pods: float, expected: list[str]) -> None:
        """Staying, also outside, and coming nearer, also past the other side's start, are allowed."""
        assert forbidden(self.BOUNDS, context_of([[0, 0, pods]])) == [expected]

    @pytest.mark.parametrize(("low", "high", "expected"), [(3, None, ["down", "drop"]), (None, 3, ["up", "jump"])])
    def test_a_side_may_be_open(self, low: float | None, high: float | None, expected: list[str]) -> None:
        """A bound that was not given does not bound."""
        bounds = self.BOUNDS.model_copy(update={"low": low, "high": high})

        assert forbidden(bounds, context_of([[0, 0, 3]])) == [expected]

    @pytest.mark.parametrize("load", [-1, 0, 1])
    @pytest.mark.parametrize("side", ["low", "high"])
    def test_a_quantity_without_a_value_forbids_everything(self, load: float, side: str) -> None:
        """Where it is not known how much there is, nothing may change it, not even by nothing."""
        bounds = Bounds.model_validate({"name": "b", "of": "load / lag", "effect": {"up": 1}, side: 0})

        assert forbidden(bounds, context_of([[load, 0, 0], [0, 1, 0]])) == [
            list(SCHEMA.actions),
            ["up"] if side == "high" else [],
        ]

    def test_a_quantity_may_depend_on_the_action(self) -> None:
        """What an action costs, for instance."""
        bounds = Bounds(name="b", of="load + (2 if action == 'up' else 0)", effect={"up": 1}, high=2)

        assert forbidden(bounds, context_of([[0, 0, 0], [-2, 0, 0]])) == [["up"], []]

    def test_bounds_that_cross_are_refused(self) -> None:
        """Nothing could be within them."""
        with pytest.raises(GuardMisconfigured, match=r"^low is 5\.0, expected at most high, which is 1\.0$"):
            Bounds(name="b", of="pods", effect={}, low=5, high=1).term(SCHEMA)

    def test_an_effect_of_an_unknown_action_is_refused(self) -> None:
        """With the names there are."""
        with pytest.raises(GuardMisconfigured, match="the action 'fly' is not known"):
            Bounds(name="b", of="pods", effect={"fly": 1}).term(SCHEMA)

    def test_a_quantity_that_is_no_number_is_refused(self) -> None:
        """A condition cannot be bounded."""
        with pytest.raises(ExpressionInvalid, match="is a condition, expected a number"):
            Bounds(name="b", of="pods > 1", effect={}).term(SCHEMA)

    @pytest.mark.parametrize("change", [float("nan"), float("inf")])
    def test_an_effect_that_is_not_finite_is_refused(self, change: float) -> None:
        """Nothing can be said of where it leads."""
        with pytest.raises(ValidationError):
            Bounds(name="b", of="pods", effect={"up": change})
