"""Acting: what is done for a proposal; how far it was moved in a Box, and whether anybody knows how probable it is."""

import math

import numpy as np
import pytest

from export.spec import Box, Field
from guards.projection import Region
from guards.records import Action
from service.decision.explore.acting import acting_of
from service.decision.explore.choice import PROJECTED, Choice
from service.decision.explore.explorers import Greedy
from service.decision.explore.gaussian import BoxActing
from tests.acting import ARM, SWITCHES
from tests.service.decision.explore.drawing import listed


class TestPlaced:
    """Baselines are not trusted: a proposal that is no action, or is forbidden, comes to nothing."""

    def test_of_a_list(self) -> None:
        """By its index."""
        acting = acting_of(Greedy(), listed(3), "none")

        assert [acting.placed(one, 0b010) for one in (0, 1, 2, 3, -1)] == [0, None, 2, None, None]

    @pytest.mark.parametrize("joint", [False, True])
    def test_of_factors(self, joint: bool) -> None:
        """Apart or as whole actions, of which (0, 1, 0) has index 4."""
        acting = acting_of(Greedy(), SWITCHES, "none", joint=joint)
        forbidden = 1 << 4 if joint else 1 << 3
        proposals: list[Action] = [(1, 2, 3), (0, 1, 0), (0, 0, 4), (-1, 0, 0), (2, 0, 0)]

        assert [acting.placed(one, forbidden) for one in proposals] == [(1, 2, 3), None, None, None, None]

    def test_of_a_box(self) -> None:
        """It is moved, unless it is no number."""
        acting = acting_of(Greedy(), ARM, "none")
        region = Region(ARM.low, ARM.high)

        assert acting.placed((9.0, -1.0, 3.0), region) == (2.0, 0.0, 3.0)
        assert acting.placed((math.nan, 0.0, 0.0), region) is None


class TestMeasure:
    """In ranges; a clip is not a projection."""

    # torque within -2 and 1 (it has a range of 4), grip from 0 on, grip + drift at most 1.
    REGION = Region([-2.0, 0.0, -math.inf], [1.0, math.inf, math.inf], [[0.0, 1.0, 1.0]], [1.0])

    @pytest.mark.parametrize(
        ("proposed", "far", "projected"),
        [
            ((2.0, 0.0, 0.0), 0.25, False),
            ((0.0, 1.0, 1.0), math.sqrt(0.5), True),
            ((0.0, 0.5, 0.4), None, False),
        ],
    )
    def test_it_says_how_far_and_by_what_an_action_was_moved(
        self, proposed: tuple[float, ...], far: float | None, projected: bool
    ) -> None:
        """What was not moved at all says nothing."""
        acting = BoxActing(Greedy(), ARM, "none")
        choice = Choice(proposed, acting.placed(proposed, self.REGION))

        acting.measure(choice, self.REGION)

        assert choice.moved == (None if far is None else pytest.approx(far))
        assert choice.lost == (PROJECTED if projected else None)

    def test_a_last_resort_was_not_moved(self) -> None:
        """It is done as it is."""
        choice = Choice((2.0, 0.0, 0.0), (1.0, 0.0, 0.0), source="last_resort")

        BoxActing(Greedy(), ARM, "none").measure(choice, self.REGION)

        assert (choice.moved, choice.lost) == (None, None)

    def test_a_distance_is_a_number_whatever_it_is(self) -> None:
        """The largest there is where no double can hold it."""
        choice = Choice((0.0, 0.0, -1.7e308), (0.0, 0.0, 1.7e308))

        BoxActing(Greedy(), ARM, "none").measure(choice, Region(ARM.low, ARM.high))

        assert choice.moved == np.finfo(np.float64).max


@pytest.mark.parametrize(
    ("sides", "action", "moved_to"),
    [
        # What is beyond x + y = 4 there lies in the Box, which the bound x <= 4 has narrowed.
        ([(1.0, 1.0, 4.0)], (4.0, 0.0), True),
        ([(1.0, 1.0, 4.0)], (2.0, 2.0), True),
        ([(1.0, 1.0, 4.0)], (2.0, 1.0), False),
        ([(1.0, 1.0, 4.0)], (2.0, 2.0 - 1e-12), True),
        ([(1.0, 1.0, 4.0)], (2.0, 2.0 - 1e-6), False),
        # At a bound of the Box itself it leans out of the Box: nothing that is in it is beyond.
        ([(1.0, 1.0, 8.0)], (8.0, 0.0), False),
        ([(-1.0, 1.0, 0.0)], (0.0, 0.0), False),
        ([(1.0, -1.0, 0.0)], (0.0, 0.0), False),
        ([(1.0, -1.0, 0.0)], (8.0, 8.0), False),
        # It leans inwards.
        ([(-1.0, 1.0, -8.0)], (8.0, 0.0), True),
        # How near is near goes by what its numbers may add up to.
        ([(-1.0, -1.0, -4.0)], (2.0, 2.0 + 1.5e-8), True),
        ([(-1.0, -1.0, -4.0)], (2.0, 2.0 + 2.5e-8), False),
        # At a bound along which it runs it does not lean out.
        ([(1.0, 0.0, 4.0)], (4.0, 0.0), True),
        ([(1.0, 0.0, 4.0)], (4.0, 8.0), True),
        ([(1.0, 0.5, 4.0)], (4.0, 0.0), True),
        # Several that meet, one that is far away, and one that says nothing.
        ([(1.0, 1.0, 4.0), (1.0, 1.0, 99.0)], (4.0, 0.0), True),
        ([(1.0, 1.0, 8.0), (1.0, -1.0, 8.0)], (8.0, 0.0), True),
        ([(0.0, 0.0, 0.0)], (4.0, 4.0), False),
        ([(0.0, 0.0, 0.0), (1.0, 1.0, 8.0)], (8.0, 0.0), False),
    ],
)
def test_an_edge_is_where_what_is_beyond_it_is_moved_to(
    sides: list[tuple[float, float, float]], action: tuple[float, float], moved_to: bool
) -> None:
    """A draw there is as probable as itself and whatever is moved to it."""
    box = Box(fields=(Field(name="x", low=0, high=8), Field(name="y", low=0, high=8)))
    region = Region([0.0, 0.0], [4.0, 8.0], [side[:2] for side in sides], [side[2] for side in sides])
    choice = Choice(action, action, propensity=0.5, measure="density")

    BoxActing(Greedy(), box, "none").measure(choice, region)

    assert (choice.lost, choice.moved) == (PROJECTED if moved_to else None, None)
