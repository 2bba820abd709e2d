"""Domains: what is an action in each kind of space, whatever an array holds."""

from typing import Any

import numpy as np
import pytest

from export.spec import ActionSpace, Discrete, Factor, MultiDiscrete
from guards.errors import GuardMisconfigured
from guards.records import NO_ACTION, Schema
from tests.acting import ARM, OBSERVATION, SWITCHES
from tests.fakes import context_of
from tests.guards.batched import Domain, Shield

NAMES = Discrete(names=("hold", "up", "down"))
HUGE = np.iinfo(np.int64)
SPACES: dict[str, ActionSpace] = {"discrete": NAMES, "multi_discrete": SWITCHES, "box": ARM}


@pytest.mark.parametrize(
    ("space", "written", "action"),
    [
        (NAMES, "up", 1),
        (SWITCHES, ("on", "half", "storm"), [1, 1, 3]),
        (SWITCHES, (0, 2, "still"), [0, 2, 0]),
        (ARM, (-2, 0.5, 1e300), [-2.0, 0.5, 1e300]),
    ],
)
def test_a_written_action_is_read(space: ActionSpace, written: Any, action: Any) -> None:
    """By name, by names or indices of each factor, or by its numbers."""
    assert Domain(space).read(written).tolist() == action


@pytest.mark.parametrize(
    ("space", "written", "problem"),
    [
        (NAMES, "fly", "'fly' is not known, expected one of hold, up, down"),
        (NAMES, ("hold",), "['hold'] is a list"),
        (SWITCHES, "on", "'on' is not known, expected a list of a choice for each of ['pump', 'valve', 'fan']"),
        (SWITCHES, "off", "'off' is not known, expected a list of a choice for each"),
        (SWITCHES, ("on", "half"), "['on', 'half'] is not known, expected a list of a choice for each"),
        (SWITCHES, ("on", True, 0), "the choice of 'valve' True is not known"),
        (SWITCHES, ("on", "half", "storms"), "the choice of 'fan' 'storms' is not known"),
        (SWITCHES, ("on", 3, 0), "the choice of 'valve' 3 is not known"),
        (SWITCHES, ("on", -1, 0), "the choice of 'valve' -1 is not known"),
        (SWITCHES, ("on", 1.0, 0), "the choice of 'valve' 1.0 is not known"),
        (ARM, "up", "'up' is not known, expected a list of a number for each of ['torque', 'grip', 'drift']"),
        (ARM, (1.0, 2.0), "expected a list of a number for each"),
        (ARM, (1.0, "2", 3.0), "expected a list of a number for each"),
        (ARM, (2.1, 0.0, 0.0), "out of bounds"),
        (ARM, (0.0, -1e-9, 0.0), "out of bounds"),
        (ARM, (0.0, 0.0, float("nan")), "out of bounds"),
    ],
)
def test_what_is_no_action_is_refused_by_name(space: ActionSpace, written: Any, problem: str) -> None:
    """With what was expected."""
    with pytest.raises(GuardMisconfigured) as refused:
        Domain(space).read(written)

    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("space", "actions", "expected"),
    [
        (NAMES, [0, 2, 3, -1, HUGE.min, HUGE.max], [True, True, False, False, False, False]),
        (
            SWITCHES,
            [[0, 0, 0], [1, 2, 3], [2, 0, 0], [0, 3, 0], [0, 0, 4], [-1, 0, 0], [0, HUGE.min, 0], [0, 0, HUGE.max]],
            [True, True, *[False] * 6],
        ),
        (
            ARM,
            [[-2, 0, -1e308], [2, 1e308, 0], [2.0001, 0, 0], [0, -1e-300, 0], [np.nan, 0, 0], [0, np.inf, 0]],
            [True, True, False, False, False, False],
        ),
    ],
)
def test_what_an_array_holds_is_an_action_or_not(space: ActionSpace, actions: Any, expected: list[bool]) -> None:
    """Every index has to exist, every number to be finite and within its bounds."""
    assert Domain(space).holds(np.array(actions), None).tolist() == expected


def test_a_mask_forbids_actions_of_a_list() -> None:
    """What does not exist is never looked up in it."""
    mask = np.array([[True, False, True]] * 4)

    assert Domain(NAMES).holds(np.array([0, 1, 3, -1]), mask).tolist() == [True, False, False, False]
    assert Domain(NAMES).holds(np.array([0, 1, 2, 0]), mask).tolist() == [True, False, True, True]


def test_a_mask_forbids_choices_of_factors() -> None:
    """One masked choice is enough, wherever it stands."""
    mask = np.array([[True, False, True, True, False, True, False, True, True]] * 5)
    actions = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 1], [9, 9, 9]])

    assert Domain(SWITCHES).holds(actions, mask).tolist() == [True, False, False, False, False]


def test_columns_find_an_action_in_a_mask() -> None:
    """No action at all is at some column that exists."""
    assert Domain(NAMES).columns(np.array([2, NO_ACTION])).tolist() == [2, 0]
    assert Domain(SWITCHES).columns(np.array([[1, 2, 3], [-1, -1, -1]])).tolist() == [[1, 4, 8], [0, 2, 5]]
    assert Domain(ARM).columns(np.array([[1.0, 0.5, -2.0]])).tolist() == [[1.0, 0.5, -2.0]]


def test_a_row_is_choosable_where_an_action_is_left() -> None:
    """Every factor needs a choice; a Box has nothing to mask."""
    allowed = np.array([[True, False, False, False, True, False, True, False, False]] * 2)
    allowed[1, 6] = False

    assert Domain(NAMES).choosable(np.array([[False] * 3, [False, True, False]])).tolist() == [False, True]
    assert Domain(SWITCHES).choosable(allowed).tolist() == [True, False]
    assert Domain(ARM).choosable(np.empty((2, 0), dtype=np.bool_)).tolist() == [True, True]


@pytest.mark.parametrize(
    ("space", "one", "other"),
    [(NAMES, 1, 2), (SWITCHES, [1, 2, 3], [1, 2, 0]), (ARM, [0.5, 0.25, -1.0], [0.5, 0.25, -2.0])],
)
def test_actions_are_compared_and_told_row_by_row(space: ActionSpace, one: Any, other: Any) -> None:
    """A row that holds none differs from every action, and is told as none."""
    domain = Domain(space)
    actions, others = np.stack([one, one, domain.nothing]), np.stack([one, other, np.array(one)])

    assert domain.differ(actions, others).tolist() == [False, True, True]
    assert domain.there(actions).tolist() == [True, True, False]
    told = domain.told(actions)
    assert told == [tuple(one) if isinstance(one, list) else one] * 2 + [None]
    assert domain.told(others)[1] == (tuple(other) if isinstance(other, list) else other)


def test_the_shield_checks_factors_by_itself() -> None:
    """From the request's mask, which it judges by too."""
    shield = Shield([], Schema(observation=OBSERVATION, action=SWITCHES))
    mask = [[True, False, True, True, True, True, True, True, True]] * 3
    context = context_of([[0, 0, 0]] * 3, mask=mask)
    actions = np.array([[0, 0, 0], [1, 0, 0], [0, 3, 0]])
    ruling = shield.judge(context)
    rows, columns = np.arange(3), shield.domain.columns(actions)

    assert ruling.allowed.tolist() == mask
    assert shield.check(context, actions).tolist() == [True, False, False]
    assert ruling.permits(rows, columns)[:2].tolist() == [True, False]
    assert [(name, hits.tolist()) for name, _, hits in ruling.forbidding(rows, columns)] == [
        ("allowed", [False, True, False])
    ]
    assert not ruling.reported(columns).any()


def test_the_shield_checks_numbers_by_itself() -> None:
    """There is nothing to mask, and everything to check."""
    shield = Shield([], Schema(observation=OBSERVATION, action=ARM))
    context = context_of([[0, 0, 0]] * 2)
    actions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, np.inf]])
    ruling = shield.judge(context)

    assert ruling.allowed.shape == (2, 0)
    assert shield.check(context, actions).tolist() == [True, False]
    assert ruling.permits(np.arange(2), shield.domain.columns(actions)).tolist() == [True, True]
    assert ruling.forbidding(np.arange(2), shield.domain.columns(actions)) == []


@pytest.mark.parametrize(
    ("kind", "action", "columns"),
    [("discrete", 2, [2]), ("multi_discrete", (1, 0, 3), [1, 2, 8]), ("box", (0.5, 1.0, 0.0), [])],
)
def test_an_action_stands_in_the_columns_of_its_choices(kind: str, action: Any, columns: list[int]) -> None:
    """By them constraints remember when each was last executed."""
    assert Shield([], Schema(OBSERVATION, SPACES[kind])).one.chosen(action) == columns


def test_a_choice_of_one_is_looked_up_like_any_other() -> None:
    """What does not exist is looked up nowhere, though there is but one place."""
    one, last = (
        Discrete(names=("only",)),
        MultiDiscrete(factors=(*SWITCHES.factors[:1], Factor(name="x", names=("y",)))),
    )

    assert Domain(one).holds(np.array([0, -1, 1]), np.array([[True]] * 3)).tolist() == [True, False, False]
    assert Domain(last).holds(np.array([[1, 0], [1, 1]]), np.array([[True] * 3] * 2)).tolist() == [True, False]


def test_a_row_that_lacks_a_part_holds_no_action() -> None:
    """Every factor has a choice, every number a value."""
    assert Domain(SWITCHES).there(np.array([[0, NO_ACTION, 2], [0, 0, 0]])).tolist() == [False, True]
    assert Domain(ARM).there(np.array([[0.0, np.nan, 1.0], [0.0, 0.0, 0.0]])).tolist() == [False, True]


def test_bounds_that_meet_leave_a_number() -> None:
    """One; where they cross, none."""
    leaves = np.array([[[0.0, 1.0, 0.0], [2.0, 1.0, 9.0]], [[0.0, 1.0, 0.0], [2.0, 0.9, 9.0]]])

    assert Domain(ARM).choosable(leaves).tolist() == [True, False]


def test_a_box_has_no_columns_in_a_mask() -> None:
    """A request cannot bring one."""
    assert (Domain(ARM).width, Domain(ARM).shape) == (0, (0,))
