"""The shield: all constraints together as a mask, and the check that does not trust the mask."""

import numpy as np
import pytest
from hypothesis import given, settings

from export.spec import Factor, MultiDiscrete
from guards.constraints import Budget, Constraint, Cooldown, MaxSwitches, Mode, RateLimit, Rule
from guards.errors import ExpressionInvalid, GuardMisconfigured
from guards.records import History, Schema
from guards.shield import Violation, violation
from tests.acting import OBSERVATION, SWITCHES
from tests.fakes import NOW, SCHEMA, Fickle, context_of, schema_of
from tests.guards.batched import Context, Shield
from tests.guards.strategies import constraints, contexts

ACTIONS = range(len(SCHEMA.actions))
ROW = context_of([[0, 0, 0]])
NO_UP = Rule(name="no up", forbid="action == 'up'")
NO_DOWN = Rule(name="no down", forbid="action in ('up', 'down') and load >= 0")


def allowed(shield: Shield, context: Context) -> list[list[str]]:
    """The names of the allowed actions of each row."""
    return [
        [name for name, yes in zip(SCHEMA.actions, row, strict=True) if yes] for row in shield.judge(context).allowed
    ]


def test_without_constraints_everything_is_allowed() -> None:
    """The whole mask is there all the same, one row a decision."""
    shield = Shield([], SCHEMA)

    assert allowed(shield, context_of([[0, 0, 0]] * 2)) == [list(SCHEMA.actions)] * 2
    assert shield.judge(ROW).forbidding(np.array([0]), np.array([0])) == []


def test_what_any_constraint_denies_is_not_allowed() -> None:
    """Constraints and the request's own mask add up."""
    mask = [[True, True, True, True, False, True]]

    assert allowed(Shield([NO_UP, NO_DOWN], SCHEMA), context_of([[0, 0, 0]], mask=mask)) == [["hold", "jump", "drop"]]


@pytest.mark.parametrize("mode", ["warn", "audit"])
def test_what_only_reports_denies_nothing(mode: Mode) -> None:
    """It is counted where it would have spoken, and the check lets it pass."""
    shield = Shield([NO_UP.model_copy(update={"mode": mode})], SCHEMA)

    ruling = shield.judge(ROW)

    assert shield.reports
    assert ruling.allowed.all()
    assert shield.check(ROW, np.array([1])).tolist() == [True]
    assert ruling.reported(np.array([1])).tolist() == [True]
    assert ruling.reported(np.array([2])).tolist() == [False]


def test_what_denies_does_not_report() -> None:
    """It prevents: there is nothing left to report."""
    shield = Shield([NO_UP], SCHEMA)

    assert not shield.reports
    assert shield.judge(ROW).reported(np.array([1])).tolist() == [False]


def test_a_ruling_names_who_is_against_an_action() -> None:
    """The request's mask, every constraint and its mode, in the order of the configuration, row by row."""
    audit = Rule(name="audit", forbid="True", mode="audit")
    mask = [[True, False, True, True, True, True]] * 3

    ruling = Shield([NO_UP, audit, NO_DOWN], SCHEMA).judge(context_of([[0, 0, 0], [0, 0, 0], [-1, 0, 0]], mask=mask))

    against = ruling.forbidding(np.array([2, 0]), np.array([2, 1]))
    assert [(name, mode, hits.tolist()) for name, mode, hits in against] == [
        ("allowed", "deny", [False, True]),
        ("no up", "deny", [False, True]),
        ("audit", "audit", [True, True]),
        ("no down", "deny", [False, True]),
    ]


def test_one_violation_is_made_of_each_that_can_be() -> None:
    """Records share it: they are many, and it cannot change."""
    assert violation("a", "prevented", "deny") is violation("a", "prevented", "deny")
    assert violation("a", "prevented", "deny") == Violation("a", "prevented")


def test_a_constraint_that_cannot_be_bound_is_named() -> None:
    """The error keeps its kind: what is wrong with an expression still points at the column."""
    with pytest.raises(ExpressionInvalid, match=r"^0, 'no cpu': expression 'cpu > 1', column 1: "):
        Shield([Rule(name="no cpu", forbid="cpu > 1")], SCHEMA)


@pytest.mark.parametrize("names", [("same", "same"), ("allowed",)])
def test_a_name_is_taken_once(names: tuple[str, ...]) -> None:
    """Violations are told apart by it; the request's mask has one too."""
    same = [Rule(name=name, forbid="False") for name in names]

    with pytest.raises(GuardMisconfigured, match=f"^{len(names) - 1}.name: '{names[0]}' is taken"):
        Shield(same, SCHEMA)


def test_it_tracks_what_its_constraints_need() -> None:
    """Uses of other actions are not remembered."""
    cooldowns = [Cooldown(name=name, actions=(name, "up"), seconds=1) for name in ("jump", "drop")]

    assert Shield([*cooldowns, NO_UP], SCHEMA).tracked == {1, 3, 5}


def test_it_reads_like_a_status_line() -> None:
    """How much there is of what it has."""
    shield = Shield([NO_UP, Cooldown(name="c", actions=("up", "down"), seconds=1)], SCHEMA)

    assert repr(shield) == "<Shield 2 constraints, 2 tracked actions>"


@pytest.mark.parametrize("action", [-2, -1, 6, 7])
def test_what_is_no_action_does_not_pass(action: int) -> None:
    """No index wraps around to another action, in no row."""
    context = context_of([[0, 0, 0]] * 2, mask=[[True] * 6] * 2)

    assert Shield([NO_UP], SCHEMA).check(context, np.array([action, 0])).tolist() == [False, True]


def test_the_check_does_not_trust_the_mask() -> None:
    """A constraint that the mask missed is found by asking it anew."""
    shield = Shield([Fickle(name="f", action=1)], SCHEMA)

    assert shield.judge(ROW).allowed.all()
    assert [shield.check(ROW, np.array([action])).item() for action in (0, 1)] == [True, False]


def test_a_cooldown_holds_in_a_batch_of_sessions() -> None:
    """Each row goes by its own history."""
    histories = [History(known=True, since=NOW, used={1: NOW - ago}) for ago in (1, 100)]
    shield = Shield([Cooldown(name="c", actions=("up",), seconds=60)], SCHEMA)

    assert shield.check(context_of([[0, 0, 0]] * 2, histories=histories), np.array([1, 1])).tolist() == [False, True]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(constraints(), contexts())
def test_the_check_agrees_with_the_mask(some: list[Constraint], context: Context) -> None:
    """For every action of every row, whatever the constraints, their modes and the request's mask."""
    shield = Shield(some, SCHEMA)

    mask = shield.judge(context).allowed

    for action in ACTIONS:
        assert shield.check(context, np.full(len(context), action)).tolist() == mask[:, action].tolist()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(constraints(), contexts())
def test_an_action_is_allowed_where_nobody_who_denies_is_against_it(some: list[Constraint], context: Context) -> None:
    """Every action that is masked has a constraint to name, and reports are of the other modes."""
    ruling = Shield(some, SCHEMA).judge(context)

    rows = np.arange(len(context))
    for action in ACTIONS:
        actions = np.full(len(context), action)
        against = ruling.forbidding(rows, actions)
        denied = np.any([hits for _, mode, hits in against if mode == "deny"], axis=0)
        reported = np.any([hits for _, mode, hits in against if mode != "deny"], axis=0)
        assert np.array_equal(ruling.allowed[:, action], np.broadcast_to(~denied, rows.shape))
        assert np.array_equal(ruling.reported(actions), np.broadcast_to(reported, rows.shape))


def test_what_has_no_mask_is_asked_about_what_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many whole actions for a list, masks and prohibitions are told together."""
    monkeypatch.setattr("guards.actions.JOINT_LIMIT", 23)
    some: list[Constraint] = [
        Cooldown(name="rest", actions=("fan=storm",), seconds=9),
        Rule(name="both", forbid="pump == 'on' and fan == 'storm'"),
        Rule(name="told", mode="warn", forbid="valve == fan"),
    ]
    shield = Shield(some, Schema(observation=OBSERVATION, action=SWITCHES))
    history = History(known=True, since=NOW, used={8: NOW - 1})
    ruling = shield.judge(context_of([[0, 0, 0]] * 3, histories=[history] * 2 + [History(known=True, since=NOW)]))
    columns = shield.domain.columns(np.array([[1, 0, 3], [0, 0, 0], [1, 2, 2]]))

    assert (shield.joins, shield.refuses, shield.reports) == (False, True, True)
    assert {name: hits.tolist() for name, _, hits in ruling.forbidding(np.arange(3), columns)} == {
        "rest": [True, False, False],
        "both": [True, False, False],
        "told": [False, True, True],
    }
    assert ruling.reported(columns).tolist() == [False, True, True]
    assert ruling.permits(np.arange(3), columns).tolist() == [False, True, True]


def test_what_is_about_one_factor_masks_its_choices() -> None:
    """Those of the others are left, and the check says the same of whole actions."""
    some: list[Constraint] = [
        Cooldown(name="rest", actions=("fan=fast", "fan=storm"), seconds=9),
        Rule(name="half", forbid="valve == 'half' and load > 1"),
    ]
    shield = Shield(some, Schema(observation=OBSERVATION, action=SWITCHES))
    histories = [History(known=True, since=NOW, used={7: NOW - 1}), History(known=True, since=NOW)]
    context = context_of([[2, 0, 0], [0, 0, 0]], histories=histories)

    assert (shield.joins, shield.refuses) == (False, False)
    assert shield.judge(context).allowed.tolist() == [
        [True, True, True, False, True, True, True, False, False],
        [True] * 9,
    ]
    for action in ([1, 0, 1], [0, 1, 0], [0, 2, 2], [1, 0, 3]):
        assert shield.check(context, np.array([action] * 2)).tolist() == [action == [1, 0, 1], True]


def test_what_is_not_weighed_counts_for_nothing() -> None:
    """Beside a budget; and where no weights are told, nothing is spent."""
    some = [MaxSwitches(name="m", at_most=1, seconds=9), Budget(name="b", cost="load", at_most=9, seconds=9)]
    shield, history = Shield(some, SCHEMA), History(known=True, since=NOW)

    assert shield.weights(context_of([[2, 0, 0], [3, 0, 0]]), np.array([0, 1])) == [[0.0, 2.0], [0.0, 3.0]]
    assert shield.advanced(history, 1, NOW).kept == {}
    assert shield.advanced(history, 1, NOW, [0.0, 2.0]).kept == {"b": (NOW, 2.0)}


def test_no_action_of_one_does_not_pass() -> None:
    """It is asked about by no constraint."""
    shield = Shield([Rule(name="r", forbid="action == 'only' and load > 1")], schema_of(("load",), ("only",)))
    context = context_of([[0, 0, 0], [0, 0, 0], [2, 0, 0]])

    assert shield.check(context, np.array([0, -1, 0])).tolist() == [True, False, False]


def test_many_factors_with_few_whole_actions_are_asked_one_by_one() -> None:
    """A list of them would have more axes than an array can have."""
    space = MultiDiscrete(factors=tuple(Factor(name=f"f{i}", names=("off", "on")[: 1 + (i < 3)]) for i in range(70)))
    schema = Schema(observation=SCHEMA.observation, action=space)
    shield = Shield([Rule(name="both", forbid="f0 == 'on' and f1 == 'on'")], schema)
    actions = np.zeros((2, 70), dtype=np.int64)
    actions[:, :2] = [[1, 0], [1, 1]]

    assert not shield.joins
    assert shield.check(context_of([[0, 0, 0]] * 2), actions).tolist() == [True, False]


@pytest.mark.parametrize("by", [4096.0, -4096.0])
@pytest.mark.parametrize("known", [True, False])
def test_a_history_by_another_clock_allows_the_same(by: float, known: bool) -> None:
    """Whatever was done before, by whichever constraint: all times move, and no amount does."""
    names, random = SCHEMA.actions, np.random.default_rng(5)
    shield = Shield(
        [
            Cooldown(name="rests", actions=names[1:3], seconds=3),
            RateLimit(name="slow", per_second=0.4, effect={names[1]: 1.0, names[2]: -1.0}),
            Budget(name="spent", cost=f"1.5 if action == '{names[3]}' else 0", at_most=4, seconds=6),
            MaxSwitches(name="switched", at_most=2, seconds=4),
            Rule(name="soon", forbid=f"action == '{names[4]}' and seconds_since_change < 2"),
        ],
        SCHEMA,
    )
    history, now, seen = History(known=known, since=NOW), NOW, set()
    for _ in range(200):
        now += random.choice((0.25, 0.5, 2.0))
        ours = context_of([[0.0, 0.0, 3.0]], histories=[history], now=[now])
        theirs = context_of([[0.0, 0.0, 3.0]], histories=[shield.shifted(history, by)], now=[now + by])
        allowed = shield.judge(ours).allowed
        assert np.array_equal(shield.judge(theirs).allowed, allowed)
        seen.add(allowed.tobytes())
        action = int(random.choice(np.flatnonzero(allowed[0])) if allowed.any() else 0)
        (weights,) = shield.weights(ours, np.array([action]))
        history = shield.advanced(history, action, now, weights)

    assert len(seen) > 10
    assert {"slow", "spent", "switched"} >= set(history.kept) > set()
    assert shield.shifted(shield.shifted(history, by), -by) == history


def test_by_another_clock_only_what_is_of_constraints_here_is_kept() -> None:
    """A number of somebody else's may be a time or not."""
    shield = Shield([MaxSwitches(name="switched", at_most=2, seconds=4)], SCHEMA)
    history = History(known=True, since=NOW, kept={"switched": (NOW, NOW + 1), "": (0.5, 0.1, NOW)})

    assert shield.shifted(history, 2.0) == History(known=True, since=NOW + 2, kept={"switched": (NOW + 2, NOW + 3)})
