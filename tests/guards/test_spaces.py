"""Actions in each kind of space: how they are written, what is one, and what the shield says of them."""

from typing import Any

import numpy as np
import pytest

from export.spec import ActionSpace, Discrete, Factor, MultiDiscrete
from guards.actions import holder_of, read
from guards.errors import GuardMisconfigured
from guards.records import Schema
from tests.acting import ARM, OBSERVATION, SWITCHES
from tests.fakes import context_of
from tests.guards.batched import Shield

NAMES = Discrete(names=("hold", "up", "down"))
SPACES: dict[str, ActionSpace] = {"discrete": NAMES, "multi_discrete": SWITCHES, "box": ARM}


@pytest.mark.parametrize(
    ("space", "written", "action"),
    [
        (NAMES, "up", 1),
        (SWITCHES, ("on", "half", "storm"), (1, 1, 3)),
        (SWITCHES, (0, 2, "still"), (0, 2, 0)),
        (ARM, (-2, 0.5, 1e300), (-2.0, 0.5, 1e300)),
    ],
)
def test_a_written_action_is_read(space: ActionSpace, written: Any, action: Any) -> None:
    """By name, by names or indices of each factor, or by its numbers."""
    assert read(written, space) == action


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
        read(written, space)

    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("space", "actions", "expected"),
    [
        (NAMES, [0, 2, 3, -1, -(2**63), 2**63, 1.0, (0,)], [True, True, *[False] * 6]),
        (
            SWITCHES,
            [
                (0, 0, 0),
                (1, 2, 3),
                (2, 0, 0),
                (0, 3, 0),
                (0, 0, 4),
                (-1, 0, 0),
                (0, -(2**63), 0),
                (0, 0, 2**63),
                (0, 0),
            ],
            [True, True, *[False] * 7],
        ),
        (
            ARM,
            [
                (-2, 0, -1e308),
                (2, 1e308, 0),
                (2.0001, 0, 0),
                (0, -1e-300, 0),
                (np.nan, 0, 0),
                (0, np.inf, 0),
                (0, 0),
                0,
            ],
            [True, True, *[False] * 6],
        ),
    ],
)
def test_what_is_an_action_is_known(space: ActionSpace, actions: Any, expected: list[bool]) -> None:
    """Every index has to exist, every number to be finite and within its bounds."""
    assert list(map(holder_of(space), actions)) == expected


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


def test_a_mask_forbids_actions_of_a_list() -> None:
    """What does not exist is never looked up in it."""
    shield = Shield([], Schema(observation=OBSERVATION, action=NAMES))
    context = context_of([[0, 0, 0]] * 4, mask=[[True, False, True]] * 4)

    assert shield.check(context, np.array([0, 1, 3, -1])).tolist() == [True, False, False, False]
    assert shield.check(context, np.array([0, 1, 2, 0])).tolist() == [True, False, True, True]


def test_a_mask_forbids_choices_of_factors() -> None:
    """One masked choice is enough, wherever it stands."""
    shield = Shield([], Schema(observation=OBSERVATION, action=SWITCHES))
    mask = [[True, False, True, True, False, True, False, True, True]] * 5
    actions = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 1], [9, 9, 9]])

    assert shield.check(context_of([[0, 0, 0]] * 5, mask=mask), actions).tolist() == [True, False, False, False, False]


def test_a_choice_of_one_is_looked_up_like_any_other() -> None:
    """What does not exist is looked up nowhere, though there is but one place."""
    one = Discrete(names=("only",))
    last = MultiDiscrete(factors=(*SWITCHES.factors[:1], Factor(name="x", names=("y",))))
    shield, other = (Shield([], Schema(observation=OBSERVATION, action=space)) for space in (one, last))
    here, there = context_of([[0, 0, 0]] * 3, mask=[[True]] * 3), context_of([[0, 0, 0]] * 2, mask=[[True] * 3] * 2)

    assert shield.check(here, np.array([0, -1, 1])).tolist() == [True, False, False]
    assert other.check(there, np.array([[1, 0], [1, 1]])).tolist() == [True, False]
