"""Constraints: what each kind forbids, and what holds for all of them."""

from random import Random
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from guards.abstention import AnyConstraint
from guards.actions import Choices
from guards.batched import Context, Shield
from guards.constraints import Bounds, Constraint, Cooldown, Mode, Rule
from guards.errors import ExpressionInvalid, GuardMisconfigured
from guards.records import History
from tests.fakes import NOW, SCHEMA, context_of
from tests.guards.asked import Compiled, binding
from tests.guards.strategies import constraints, contexts

parsed = TypeAdapter[Constraint](AnyConstraint).validate_python
KINDS = get_args(get_args(AnyConstraint)[0])
# One of each kind as it stands in a configuration: a new kind is tested when it has its line here.
EXAMPLES: dict[str, dict[str, Any]] = {
    "rule": {"kind": "rule", "name": "r", "forbid": "action == 'up' and load > 1"},
    "cooldown": {"kind": "cooldown", "name": "c", "actions": ("up", "down"), "seconds": 60.0},
    "bounds": {"kind": "bounds", "name": "b", "of": "pods", "effect": {"up": 1.0, "down": -1.0}, "low": 1.0},
    "linear": {"kind": "linear", "name": "h", "coefficients": {"torque": 1.0, "grip": "pods"}, "at_most": "2 * load"},
    "rate_limit": {"kind": "rate_limit", "name": "l", "per_second": 0.5, "effect": {"up": 1.0, "down": -1.0}},
    "budget": {"kind": "budget", "name": "s", "cost": "load", "at_most": 5.0, "seconds": 60.0},
    "max_switches": {"kind": "max_switches", "name": "m", "at_most": 3, "seconds": 60.0},
    "quorum": {"kind": "quorum", "name": "q", "at_most": 0.1},
    "confidence": {"kind": "confidence", "name": "s", "at_least": 0.05},
    "novelty": {"kind": "novelty", "name": "n", "false_alarms": 0.01},
    "fresh": {"kind": "fresh", "name": "f", "max_age_seconds": 5.0, "missing": "allow"},
}
MISTAKES = [
    {"name": ""},
    {"name": "n" * 101},
    {"mode": "block"},
    {"unknown": 1},
    {"kind": "regex"},
]


def forbidden(constraint: Constraint, context: Context) -> list[list[str]]:
    """The names of the forbidden actions of each row."""
    cells = np.broadcast_to(binding(constraint, SCHEMA)(context, None), (len(context), len(SCHEMA.actions)))
    return [[name for name, no in zip(SCHEMA.actions, row, strict=True) if no] for row in cells]


class TestEveryKind:
    """What every constraint of the union keeps to."""

    def test_every_kind_has_an_example(self) -> None:
        """A new kind is tested the moment it exists."""
        assert {kind.model_fields["kind"].default for kind in KINDS} == set(EXAMPLES)

    @pytest.mark.parametrize("kind", EXAMPLES)
    def test_it_is_what_was_written(self, kind: str) -> None:
        """Nothing is lost or added between the file and the object."""
        constraint = parsed(EXAMPLES[kind])

        assert constraint.model_dump(exclude_unset=True) == EXAMPLES[kind]
        assert constraint.mode == "deny"

    @pytest.mark.parametrize("mistake", MISTAKES, ids=str)
    @pytest.mark.parametrize("kind", EXAMPLES)
    def test_a_mistake_is_refused(self, kind: str, mistake: dict[str, Any]) -> None:
        """Names, modes and settings that do not exist fail at start."""
        with pytest.raises(ValidationError):
            parsed(EXAMPLES[kind] | mistake)

    @pytest.mark.parametrize("kind", EXAMPLES)
    def test_it_cannot_change(self, kind: str) -> None:
        """A configuration is read once."""
        constraint = parsed(EXAMPLES[kind])

        with pytest.raises(ValidationError, match="frozen"):
            constraint.mode = "warn"  # type: ignore[misc] # it is read-only, as mypy says too

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(constraints(), contexts(), st.randoms(use_true_random=False))
    def test_one_action_a_row_is_answered_as_all_at_once(
        self, some: list[Constraint], context: Context, random: Random
    ) -> None:
        """Two questions, one meaning: the check relies on it."""
        shape = (len(context), len(SCHEMA.actions))
        choice = np.array([random.randrange(shape[1]) for _ in range(shape[0])])

        for constraint in some:
            forbids = binding(constraint, SCHEMA)
            cells = np.broadcast_to(forbids(context, None), shape)
            assert cells.dtype == np.bool_
            one = np.broadcast_to(forbids(context, choice), shape[:1])
            assert one.tolist() == cells[np.arange(shape[0]), choice].tolist()

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(constraints(), contexts())
    def test_a_row_is_judged_alike_in_any_batch(self, some: list[Constraint], context: Context) -> None:
        """What else arrived in the same turn of the loop makes no difference."""
        n = len(context)

        for constraint in some:
            forbids = binding(constraint, SCHEMA)
            together = np.broadcast_to(forbids(context, None), (n, len(SCHEMA.actions)))
            for row in range(n):
                alone = np.broadcast_to(forbids(context.rows(np.array([row])), None), (1, len(SCHEMA.actions)))
                assert alone[0].tolist() == together[row].tolist()


class TestRule:
    """An expression that forbids."""

    def test_it_forbids_the_actions_for_which_it_is_true(self) -> None:
        """Row by row, action by action."""
        rule = Rule(name="r", forbid="action == 'up' and load > 1")

        assert forbidden(rule, context_of([[2, 0, 0], [1, 0, 0]])) == [["up"], []]

    def test_it_forbids_where_it_cannot_be_evaluated(self) -> None:
        """What cannot be said to be safe is not done."""
        rule = Rule(name="r", forbid="action in ('up', 'jump') and budget < 1")
        context = context_of([[0, 0, 0]] * 2, facts=[[np.nan, 0], [5, 0]])

        assert forbidden(rule, context) == [["up", "jump"], []]

    def test_it_may_let_pass_what_cannot_be_evaluated(self) -> None:
        """Then it forbids only where it is true, and says which actions it could not judge."""
        rule = Rule(name="r", forbid="action in ('up', 'jump') and budget < 1", on_error="allow")
        context = context_of([[0, 0, 0]] * 3, facts=[[np.nan, 0], [5, 0], [0, 0]])
        excused = rule.excuses(SCHEMA)

        assert forbidden(rule, context) == [[], [], ["up", "jump"]]
        assert excused is not None
        cells, _ = Compiled("", SCHEMA, excused).evaluate(context, None)
        assert [[SCHEMA.actions[i] for i in np.flatnonzero(row)] for row in cells] == [["up", "jump"], [], []]
        assert not Compiled("", SCHEMA, excused).evaluate(context_of([[0, 0, 0]], facts=[[1, 1]]), None)[0].any()

    @pytest.mark.parametrize(("mode", "told"), [("deny", "warn"), ("warn", "warn"), ("audit", "audit")])
    def test_what_it_let_pass_is_reported(self, mode: Any, told: Mode) -> None:
        """Under its name, also where it would deny."""
        rule = Rule(name="r", mode=mode, forbid="budget < 1", on_error="allow")
        shield = Shield([rule], SCHEMA)
        ruling = shield.judge(context_of([[0, 0, 0]] * 2, facts=[[np.nan, 0], [5, 0]]))

        against = ruling.forbidding(np.arange(2), np.array([1, 1]))
        assert shield.reports
        assert ruling.allowed.all()
        assert [(name, mode, hits.tolist()) for name, mode, hits in against] == [
            ("r", mode, [False, False]),
            ("r", told, [True, False]),
        ]

    def test_nothing_is_reported_where_all_can_be_evaluated(self) -> None:
        """In a batch of any size."""
        rule = Rule(name="r", forbid="budget < 1", on_error="allow")
        ruling = Shield([rule], SCHEMA).judge(context_of([[0, 0, 0]] * 3, facts=[[5, 0]] * 3))

        assert not ruling.reported(np.array([0, 1, 2])).any()

    def test_it_needs_no_history_of_uses(self) -> None:
        """Nothing has to be remembered for it."""
        assert Rule(name="r", forbid="True").tracks(SCHEMA) == frozenset()

    def test_an_invalid_expression_is_refused_when_it_is_bound(self) -> None:
        """The schema is known only then, and still before the first request."""
        with pytest.raises(ExpressionInvalid, match="column 1: the name 'cpu' is not known"):
            Rule(name="r", forbid="cpu > 1").term(SCHEMA)


class TestCooldown:
    """Actions that rest after use."""

    COOLDOWN = Cooldown(name="c", actions=("up", "down"), seconds=60)

    @pytest.mark.parametrize(("ago", "resting"), [(0, True), (59.9, True), (60, False), (61, False), (-5, True)])
    def test_it_rests_for_its_seconds(self, ago: float, resting: bool) -> None:
        """Exactly so long; a clock that went back counts as just now."""
        history = History(known=True, since=0, used={1: NOW - ago})

        expected = ["up", "down"] if resting else []
        assert forbidden(self.COOLDOWN, context_of([[0, 0, 0]], histories=[history])) == [expected]

    def test_any_of_its_actions_makes_all_of_them_rest(self) -> None:
        """The latest use of any counts."""
        history = History(known=True, since=0, used={1: NOW - 100, 2: NOW - 1})

        assert forbidden(self.COOLDOWN, context_of([[0, 0, 0]], histories=[history])) == [["up", "down"]]

    def test_other_actions_do_not_count(self) -> None:
        """Each cooldown is about its own actions."""
        history = History(known=True, since=0, used={3: NOW - 1})

        assert forbidden(self.COOLDOWN, context_of([[0, 0, 0]], histories=[history])) == [[]]

    @pytest.mark.parametrize(("seen", "expected"), [(59, ["up", "down"]), (60, [])])
    def test_unknown_history_is_the_worst_state(self, seen: float, expected: list[str]) -> None:
        """It rests until the window has passed since the session was first seen."""
        history = History(known=False, since=NOW - seen)

        assert forbidden(self.COOLDOWN, context_of([[0, 0, 0]], histories=[history])) == [expected]

    def test_the_start_of_an_episode_is_rested(self) -> None:
        """Nothing was executed in it."""
        assert forbidden(self.COOLDOWN, context_of([[0, 0, 0]])) == [[]]

    def test_it_has_its_actions_remembered(self) -> None:
        """By index."""
        assert self.COOLDOWN.tracks(SCHEMA) == {1, 2}

    def test_an_unknown_action_is_refused(self) -> None:
        """With the names there are."""
        with pytest.raises(GuardMisconfigured, match=r"the action 'fly' is not known, expected one of hold, up, down"):
            Cooldown(name="c", actions=("fly",), seconds=1).term(SCHEMA)

    @pytest.mark.parametrize(
        "mistake", [{"actions": ()}, {"seconds": 0}, {"seconds": float("inf")}, {"seconds": 86400 * 366}]
    )
    def test_what_makes_no_cooldown_is_refused(self, mistake: dict[str, Any]) -> None:
        """No actions, no time, or longer than a year."""
        with pytest.raises(ValidationError):
            parsed(EXAMPLES["cooldown"] | mistake)
        assert parsed(EXAMPLES["cooldown"] | {"seconds": 86400 * 365})


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


def test_an_action_is_found_by_its_name() -> None:
    """Its index is what policies speak in."""
    assert Choices(SCHEMA).index("jump") == 3
