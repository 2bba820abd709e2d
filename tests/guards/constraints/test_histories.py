"""Constraints with a history of their own: what holds for all of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from export.spec import Box, Field
from guards.batched import BoxRuling, Shield
from guards.constraints import Budget, Constraint, MaxSwitches, RateLimit
from guards.records import History, Schema
from tests.fakes import NOW, SCHEMA, context_of
from tests.guards.constraints.loop import (
    DOWN,
    DROP,
    EFFECT,
    FRESH,
    HOLD,
    JUMP,
    LEVELS,
    REST,
    SPENDS,
    STRANGE,
    TWICE,
    UP,
    Loop,
    parsed,
)


@pytest.mark.parametrize("kind", ["budget", "max_switches"])
def test_a_window_is_a_millisecond_or_more(kind: str) -> None:
    """So short that nothing fits into it, it would be divided into nothing."""
    told = {"kind": kind, "name": "short", "at_most": 1} | ({"cost": "1"} if kind == "budget" else {})

    assert parsed(told | {"seconds": 0.001}).name == "short"
    with pytest.raises(ValidationError, match=r"greater than or equal to 0\.001"):
        parsed(told | {"seconds": 1e-300})


class TestWhatElseMayHaveBeenDone:
    """The caller goes on from one decision, and a later one may have been carried out all the same."""

    def test_a_switch_from_either_counts(self) -> None:
        """A controller that never names its last decision may not go to and fro for that."""
        loop = Loop(MaxSwitches(name="calm", at_most=2, seconds=60)).does("hold", 0).does("up", 1)
        loop.history = replace(loop.history, action=0, other=1)

        assert loop.left(2) == list(SCHEMA.actions)
        loop.does("hold", 2)
        assert loop.kept == (NOW + 1, NOW + 2)
        assert loop.left(3) == ["hold"]
        loop.history = replace(loop.history, other=1)
        assert loop.left(3) == []
        assert loop.left(61.5) == list(SCHEMA.actions)

    def test_a_level_is_left_from_either(self) -> None:
        """What is near to one may be far from the other."""
        levels = {HOLD: 0.0, UP: 1.0, DOWN: 2.0, JUMP: 3.0, REST: 4.0, DROP: 5.0}
        loop = Loop(RateLimit(name="slow", per_second=1, levels=levels)).does("hold", 0)
        loop.does("down", 2)
        loop.history = replace(loop.history, action=0, other=2)

        assert loop.left(2.5) == []
        assert loop.left(3) == ["up"]
        assert loop.left(4) == ["hold", "up", "down"]
        loop.does("hold", 4)
        assert loop.kept == (NOW + 4,)

    def test_a_number_is_within_reach_of_both(self) -> None:
        """What is left of a Box is where both reaches meet."""
        box = Schema(observation=SCHEMA.observation, action=Box(fields=(Field(name="heat", low=0, high=100),)))
        shield = Shield([RateLimit(name="slow", per_second=10, of="heat")], box)
        history = shield.advanced(FRESH, (50.0,), NOW)
        either = replace(history, other=(80.0,))

        def left(history: History, at: float) -> list[float]:
            ruling = shield.judge(context_of([[0, 0, 0]], histories=[history], now=[NOW + at]))
            assert isinstance(ruling, BoxRuling)
            return [ruling.regions[0].low[0], ruling.regions[0].high[0]]

        assert left(history, 2) == [30, 70]
        assert left(either, 2) == [60, 70]
        assert left(either, 1) == [70, 60]


@pytest.mark.parametrize(
    "mistake",
    [
        {"kind": "rate_limit", "per_second": 0},
        {"kind": "budget", "cost": "1", "at_most": 0, "seconds": 1},
        {"kind": "budget", "cost": "1", "at_most": 1.1e12, "seconds": 1},
        {"kind": "budget", "cost": "1", "at_most": 1, "seconds": 86400 * 366},
        {"kind": "max_switches", "at_most": 0, "seconds": 1},
        {"kind": "max_switches", "at_most": 101, "seconds": 1},
    ],
)
def test_what_is_no_limit_is_refused(mistake: dict[str, Any]) -> None:
    """No amount, no time, or more than can be kept."""
    with pytest.raises(ValidationError):
        parsed({"name": "x", **mistake})


def test_a_window_may_be_a_year() -> None:
    """And no longer."""
    assert Budget(name="x", cost="1", at_most=1e12, seconds=86400 * 365).seconds == 86400 * 365
    assert MaxSwitches(name="x", at_most=100, seconds=86400 * 365).at_most == 100


KINDS: Sequence[Constraint] = (EFFECT, LEVELS, SPENDS, TWICE)


@pytest.mark.parametrize("constraint", KINDS, ids=lambda one: str(one.kind))
@pytest.mark.parametrize("mode", ["warn", "audit"])
def test_what_only_reports_forbids_nothing(constraint: Constraint, mode: str) -> None:
    """And keeps its history all the same: it says what it would have done on what was."""
    loop = Loop(constraint.model_copy(update={"mode": mode}))
    for at, action in enumerate((UP, JUMP, UP, JUMP)):
        loop.does(action, at)

    assert loop.left(4) == [*SCHEMA.actions]
    assert loop.shield.judge(loop.context(4)).reported(np.array([1])).tolist() == [True]
    assert loop.kept


@pytest.mark.parametrize("constraint", KINDS, ids=lambda one: str(one.kind))
def test_a_batch_is_judged_row_by_row(constraint: Constraint) -> None:
    """Histories of all kinds side by side."""
    loop = Loop(constraint)
    histories = [FRESH, STRANGE, loop.does(UP, -3).history, loop.does(JUMP, -2).history, loop.does(UP, -1).history]
    context = context_of([[0, 0, 0]] * 5, histories=histories)

    together = loop.shield.judge(context).allowed

    for row in range(5):
        assert together[row].tolist() == loop.shield.judge(context.rows(np.array([row]))).allowed[0].tolist()
