"""The witness: the real shield says what it leaves, of all actions or of as many as there is time for."""

from dataclasses import replace

import numpy as np

from export.spec import Box, Field
from guards.proof.scenario import Before, Scenario
from guards.proof.witness import Witness
from tests.guards.box_holes import BROAD, HEATER, bounds, linear
from tests.guards.factor_holes import ROOM, WIDE
from tests.guards.holes import PLANT, rules

HOT = Scenario({"cpu": 0.95, "temp": 60})


def test_of_a_list_each_action_has_all_that_deny_it() -> None:
    """In the list's order."""
    found = Witness(PLANT, rules("cpu > 0.9", "action == 'up' and temp > 50")).closing(HOT)

    assert found is not None
    assert [(one.action, one.constraints) for one in found.closed] == [
        ("hold", ("rule 0",)),
        ("up", ("rule 0", "rule 1")),
        ("down", ("rule 0",)),
    ]


def test_where_something_is_left_there_is_no_counterexample() -> None:
    """One action is enough."""
    assert Witness(PLANT, rules("cpu > 0.9 and action != 'down'")).closing(HOT) is None


def test_of_factors_each_constraint_has_a_line_for_what_it_closes_of_the_rest() -> None:
    """By choices where those say it, else by a number and an example; what adds nothing has none."""
    constraints = rules("heat != fan", "heat == 'off'", "cool == 'on'", "heat != 'off' and cool == 'off'")

    found = Witness(ROOM, constraints).closing(HOT)

    assert found is not None
    assert [(one.action, one.constraints) for one in found.closed] == [
        ("12 whole actions, as heat=off, cool=off, fan=low", ("rule 0",)),
        ("3 whole actions, as heat=off, cool=on, fan=off", ("rule 2",)),
        ("2 whole actions, as heat=low, cool=off, fan=low", ("rule 3",)),
        ("heat=off, cool=off, fan=off", ("rule 1",)),
    ]


def test_of_too_many_whole_actions_some_are_tried() -> None:
    """The one before among them; it is said how many, and not all factors are told."""
    past = Before(step=3, previous=("c1",) * 40)
    witness = Witness(WIDE, rules("k0 + k1 >= 0"))

    tried, found = witness.tried(replace(HOT, past=past)), witness.closing(replace(HOT, past=past))

    assert tried.actions[0].tolist() == [1] * 40
    assert found is not None
    assert found.closed[0].action == "every whole action"
    assert found.tried.startswith("1024 of the 1000")
    some = Witness(WIDE, rules("k0 + k1 > 3", "k0 + k1 <= 3")).closing(HOT)
    assert some is not None
    assert all(one.action.endswith(", and 32 more factors") for one in some.closed)


def test_of_a_box_points_all_over_it_are_tried() -> None:
    """And where the shield moves them to; all are in the Box, also where it has no bounds."""
    witness = Witness(HEATER, (bounds("heat", low="cpu * 5"), *rules("heat != 3", "fan > 200")))

    points = witness.tried(replace(HOT, past=Before(step=1, previous=(1.0, 2.0, 3.0)))).actions

    low, high = np.array(HEATER.action.low), np.array(HEATER.action.high)  # type: ignore[union-attr]
    assert ((points >= low) & (points <= high)).all()
    assert (points[:, 0] == 4.75).any()
    assert [1, 2, 3] in points.tolist()
    assert points[:, 2].min() < -1e5
    assert points[:, 2].max() > 1e5


def test_many_numbers_have_some_corners() -> None:
    """Not two to the power of their number."""
    tried = Witness(BROAD, ()).tried(HOT)

    assert len(tried.actions) < 3000
    assert tried.passes.all()


def test_a_box_with_nothing_to_move_into_is_told_as_one() -> None:
    """No rule had to be asked."""
    found = Witness(HEATER, (linear("none", -1, heat=1),)).closing(HOT)

    assert found is not None
    assert found.tried == "the shield finds no point that an action could be moved to"
    assert [one.constraints for one in found.closed] == [("none",)]


def test_a_number_that_may_be_only_one_is_that_one() -> None:
    """Without a range there is no share of it."""
    schema = replace(HEATER, action=Box(fields=(Field(name="heat", low=4, high=4),)))

    assert set(Witness(schema, ()).tried(HOT).actions[:, 0]) == {4.0}


def test_who_is_against_one_action_is_told() -> None:
    """By name; and whether it passes."""
    witness = Witness(ROOM, rules("heat == 'high'", "fan == 'high'", "cpu > 2"))

    assert witness.against(HOT, (2, 0, 2)) == ("rule 0", "rule 1")
    assert not witness.passes(HOT, (2, 0, 0))
    assert witness.passes(HOT, (0, 1, 0))
