"""The check: which constraints forbid an action, as what prevents it and by whom, in plain rows."""

import numpy as np
import pytest

from guards.constraints import Budget, Constraint, Cooldown, MaxSwitches, RateLimit, Rule
from guards.records import History, Row, Schema
from guards.shield import Shield, Violation
from tests.acting import ARM, OBSERVATION, SWITCHES
from tests.fakes import NOW, SCHEMA

FRESH = History(known=True, since=NOW)
NO_UP = Rule(name="no up", forbid="action == 'up'")
WARNS = Rule(name="warns", forbid="action == 'up'", mode="warn")
AUDITS = Rule(name="audits", forbid="load >= 0", mode="audit")
SPENT = Budget(name="spent", cost="load if action == 'up' else 1 / (load - 3)", at_most=2, seconds=60)


def row(mask: int | None = None, load: float = 1.0, history: History = FRESH) -> Row:
    """A row of the fakes' schema, with as many bits as there are actions to do."""
    return Row((load, 0.0, 0.0), (np.nan, np.nan), mask, NOW, history)


class TestPreventing:
    """What prevents an action: constraints that deny, and the request's mask."""

    def test_only_what_denies_prevents(self) -> None:
        """Others report what was executed."""
        shield = Shield([WARNS, NO_UP, AUDITS], SCHEMA)

        assert shield.preventing(row(), 1) == [Violation("no up", "prevented", "deny")]
        assert shield.preventing(row(), 0) == []
        assert shield.forbidding(row(), 1) == [("warns", "warn"), ("no up", "deny"), ("audits", "audit")]

    def test_the_requests_mask_is_named_first(self) -> None:
        """As a constraint of its own, where it leaves the action out."""
        shield, mask = Shield([NO_UP], SCHEMA), 0b111101

        assert shield.preventing(row(mask), 1) == [Violation("allowed", "prevented"), Violation("no up", "prevented")]
        assert shield.preventing(row(mask), 0) == []
        assert shield.forbidding(row(mask), 1) == [("allowed", "deny"), ("no up", "deny")]
        assert shield.forbidding(row(mask), 0) == []

    def test_a_constraint_that_is_asked_after_the_draw_refuses(self) -> None:
        """Of those that deny; what masks, or only warns, does not."""
        rules: list[Constraint] = [
            Rule(name="asked", forbid="torque > 0"),
            Rule(name="told", forbid="torque > 0", mode="warn"),
        ]
        shield = Shield(rules, Schema(OBSERVATION, ARM, SCHEMA.facts))

        assert shield.refuses
        assert shield.refusing(row(), (0.5, 0.0, 0.0)) == [Violation("asked", "prevented")]
        assert shield.refusing(row(), (-0.5, 0.0, 0.0)) == []

    def test_what_masks_does_not_refuse(self) -> None:
        """It has left the action out before the draw."""
        assert Shield([NO_UP], SCHEMA).refusing(row(), 1) == []


class TestPassing:
    """Whether an action passes."""

    @pytest.mark.parametrize("action", [-1, 6])
    def test_what_is_no_action_does_not_pass(self, action: int) -> None:
        """Neither with a mask nor without one, whatever the constraints."""
        for mask in (None, 0b111111):
            assert not Shield([], SCHEMA).check(row(mask), action)

    def test_what_only_reports_lets_pass(self) -> None:
        """Also beside what denies another action."""
        shield = Shield([WARNS, AUDITS, Rule(name="no down", forbid="action == 'down'")], SCHEMA)

        assert [shield.check(row(), action) for action in (0, 1, 2)] == [True, True, False]

    def test_a_list_joins_no_factors(self) -> None:
        """A constraint that no single factor is meant by joins where there are several."""
        switches = MaxSwitches(name="calm", at_most=1, seconds=9)

        assert not Shield([switches], SCHEMA).joins
        assert Shield([switches], Schema(OBSERVATION, SWITCHES)).joins

    def test_what_names_no_action_is_about_the_first_factor(self) -> None:
        """It would be the same for every other."""
        (bound,) = Shield([Rule(name="high", forbid="load > 1")], Schema(OBSERVATION, SWITCHES)).bound

        assert bound.factor == 0


class TestFactors:
    """What is left of each factor's choices."""

    @pytest.mark.parametrize(("choice", "bit"), [("pump=on", 1), ("valve=half", 3), ("fan=storm", 8)])
    def test_a_choice_is_masked_in_its_own_factor(self, choice: str, bit: int) -> None:
        """The first as well as the others."""
        shield = Shield([Cooldown(name="rest", actions=(choice,), seconds=9)], Schema(OBSERVATION, SWITCHES))
        used = History(known=True, since=NOW, used={bit: NOW - 1})

        assert shield.judge(row(history=used)) == 1 << bit
        assert shield.judge(row(history=FRESH)) == 0

    def test_nothing_is_left_of_a_number_that_no_limit_is_known_of(self) -> None:
        """Infinity less infinity is no bound."""
        limit = RateLimit(name="slow", of="torque", per_second=1e308)
        region = Shield([limit], Schema(OBSERVATION, ARM)).confines(row(history=History(known=False, since=NOW - 1e9)))

        assert not region.bounded


class TestWeights:
    """What an executed action counts for."""

    def test_each_keeper_has_a_weight(self) -> None:
        """From none to its heaviest, which is also that of what cannot be evaluated."""
        shield = Shield([MaxSwitches(name="calm", at_most=1, seconds=9), SPENT], SCHEMA)

        assert shield.weighs
        assert shield.weights(row(load=1.5), 1) == [0.0, 1.5]
        assert shield.weights(row(load=7), 1) == [0.0, 2.0]
        assert shield.weights(row(load=1), 0) == [0.0, 0.0]
        assert shield.weights(row(load=3), 0) == [0.0, 2.0]

    def test_without_costs_nothing_is_weighed(self) -> None:
        """Constraints that keep numbers need not weigh."""
        assert not Shield([MaxSwitches(name="calm", at_most=1, seconds=9)], SCHEMA).weighs
        assert not Shield([Cooldown(name="rest", actions=("up",), seconds=9)], SCHEMA).weighs
