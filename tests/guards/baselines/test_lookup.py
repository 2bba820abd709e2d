"""Lookup: holding, looking up, and asking an older policy."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from guards.baselines.baseline import Propose
from guards.baselines.lookup import Axis, Hold, Lookup, Policy
from guards.errors import GuardMisconfigured
from guards.records import Action, History, Row, Schema
from tests.acting import ARM, OBSERVATION, SWITCHES
from tests.fakes import NOW, SCHEMA, context_of
from tests.guards.batched import Context

FRESH = History(known=True, since=NOW)
STRANGE = History(known=False, since=NOW)


def after(action: Action, history: History = FRESH) -> History:
    """The history after an action."""
    return history.advanced(action, NOW - 1, frozenset())


def names(propose: Propose, context: Context) -> list[str | None]:
    """What is proposed in each row, by name."""
    proposed = map(propose, context.each)
    return [SCHEMA.actions[action] if isinstance(action, int) else None for action in proposed]


class TestHold:
    """What was executed before, once more."""

    def test_it_repeats_the_executed_action(self) -> None:
        """The first action where there was none or where it is not known; then what was done here."""
        histories = [FRESH, after(3), STRANGE, after(5, STRANGE)]
        context = context_of([[0, 0, 0]] * 4, histories=histories)

        assert names(Hold(first="rest").bind(SCHEMA), context) == ["rest", "jump", "rest", "drop"]

    @pytest.mark.parametrize(
        ("space", "first", "before", "expected"),
        [
            (SWITCHES, ("on", "half", 0), (0, 2, 3), [(1, 1, 0), (0, 2, 3)]),
            (ARM, (1, 0, 0), (0.5, 1.25, -3.0), [(1, 0, 0), (0.5, 1.25, -3)]),
        ],
    )
    def test_it_repeats_whole_actions(self, space: Any, first: Any, before: Any, expected: Any) -> None:
        """Of every kind of space."""
        propose = Hold(first=first).bind(Schema(observation=OBSERVATION, action=space))
        context = context_of([[0, 0, 0]] * 2, histories=[FRESH, after(before)])

        assert list(map(propose, context.each)) == expected

    def test_a_first_action_that_does_not_exist_is_refused(self) -> None:
        """Before the first request, by the name of the setting."""
        with pytest.raises(GuardMisconfigured, match=r"^first: the action 'fly' is not known"):
            Hold(first="fly").bind(SCHEMA)


TABLE = Lookup(
    axes=(Axis(of="load", edges=(1, 2)), Axis(of="budget - lag", edges=(0,))),
    actions=("hold", "up", "down", "jump", "rest", "drop"),
)


class TestLookup:
    """A table of actions."""

    def test_every_bin_has_its_action(self) -> None:
        """Row by row: the last axis runs fastest."""
        context = context_of(
            [[load, 0, 0] for load in (-9, 0.5, 1.5, 1.5, 9, 9)],
            facts=[[budget, 0] for budget in (-1, 1, -1, 1, -9, 9)],
        )

        assert names(TABLE.bind(SCHEMA), context) == ["hold", "up", "down", "jump", "rest", "drop"]

    def test_a_number_on_an_edge_is_in_the_bin_above(self) -> None:
        """As in numpy.digitize."""
        context = context_of([[1, 0, 0], [2, 0, 0]], facts=[[0, 0], [0, 0]])

        assert names(TABLE.bind(SCHEMA), context) == ["jump", "drop"]

    def test_what_is_not_known_has_no_bin(self) -> None:
        """It makes no proposal; the other rows are as they were."""
        context = context_of([[0, 0, 0], [0, 0, 0]], facts=[[np.nan, 0], [1, 0]])

        assert names(TABLE.bind(SCHEMA), context) == [None, "up"]

    @pytest.mark.parametrize(("space", "low", "high"), [(SWITCHES, (0, 0, 0), (1, 2, 3)), (ARM, (-2, 0, 0), (2, 0, 1))])
    def test_it_proposes_whole_actions(self, space: Any, low: Any, high: Any) -> None:
        """And none where nothing is known."""
        schema = Schema(observation=OBSERVATION, action=space, facts=("budget",))
        propose = Lookup(axes=(Axis(of="budget", edges=(0,)),), actions=(low, high)).bind(schema)
        context = replace(context_of([[0, 0, 0]] * 3), facts=np.array([[-1.0], [1.0], [np.nan]]))

        assert list(map(propose, context.each)) == [low, high, None]

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"actions": ("hold",) * 5}, "^actions: are 5, expected 6, one for each of 3 x 2 bins"),
            ({"actions": ("hold", "fly") * 3}, "^actions.1: the action 'fly' is not known"),
            ({"axes": (Axis(of="load", edges=(2, 1)),)}, r"^axes.0.edges: are \[2.0, 1.0\], expected each to be great"),
            ({"axes": (Axis(of="load", edges=(1, 1)),)}, r"^axes.0.edges: are \[1.0, 1.0\], expected"),
            ({"axes": (Axis(of="cpu", edges=(1, 2)),)}, "^axes.0.of: expression 'cpu', column 1: the name 'cpu'"),
        ],
    )
    def test_a_mistake_is_refused_by_name(self, changes: dict[str, Any], problem: str) -> None:
        """Before the first request."""
        with pytest.raises(GuardMisconfigured, match=problem):
            TABLE.model_copy(update=changes).bind(SCHEMA)


def asked(schema: Schema, heads: Sequence[Sequence[float]]) -> list[Action | None]:
    """What is proposed where a policy says each of these."""
    said = iter(np.array(heads))

    def head(_: Row) -> np.ndarray:
        return next(said)

    propose = Policy(path="older.onnx").bind(schema, head)
    return [propose(row) for row in context_of([[0, 0, 0]] * len(heads)).each]


class TestPolicy:
    """What an older policy thinks best."""

    def test_the_greatest_number_is_proposed(self) -> None:
        """Nothing where the numbers are not all finite: an arg-max would pick the NaN."""
        heads: list[list[float]] = [
            [0, 1, 5, 2, 3, 4],
            [1, 0, 0, 0, 0, 0],
            [0, 9, np.nan, 0, 0, 0],
            [np.inf, 0, 0, 0, 0, 0],
        ]

        assert asked(SCHEMA, heads) == [SCHEMA.actions.index("down"), SCHEMA.actions.index("hold"), None, None]

    def test_it_is_asked_about_the_row(self) -> None:
        """By its observation as it came."""
        propose = Policy(path="older.onnx").bind(SCHEMA, lambda row: np.asarray(row.raw) @ np.eye(3, 6))

        assert names(propose, context_of([[0, 0, 1], [0, 1, 0]])) == ["down", "up"]

    def test_of_several_choices_each_has_its_greatest(self) -> None:
        """The factors' numbers stand one after another."""
        schema = Schema(observation=OBSERVATION, action=SWITCHES)
        heads = [[0, 1, 5, 2, 3, 9, 8, 7, 10.0], [1, 0, 0, 0, 1, 0, 0, np.nan, 0]]

        assert asked(schema, heads) == [(1, 0, 3), None]

    def test_of_numbers_the_means_are_kept_within_bounds(self) -> None:
        """Where they are numbers."""
        schema = Schema(observation=OBSERVATION, action=ARM)
        heads = [[9, -1, 1e6], [0.5, 1, 0], [0, np.inf, 0]]

        assert asked(schema, heads) == [(2, 0, 1e6), (0.5, 1, 0), None]

    def test_without_the_artefact_it_is_refused(self) -> None:
        """Nobody serves a baseline that is not there."""
        with pytest.raises(GuardMisconfigured, match=r"^path: the policy 'older\.onnx' is not here"):
            Policy(path="older.onnx").bind(SCHEMA)

    def test_it_has_a_path(self) -> None:
        """Which is not empty."""
        assert Policy(path="p").path == "p"
        with pytest.raises(ValidationError):
            Policy(path="")
