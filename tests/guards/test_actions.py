"""Choices: whole actions of several factors, how constraints name what they are made of, and rules that join them."""

import itertools
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from export.spec import Box, Discrete, Factor, Field, MultiDiscrete
from guards import shield
from guards.actions import JOINT_LIMIT, Choices, listed, whole_actions
from guards.constraints import Bounds, Budget, Constraint, Cooldown, MaxSwitches, RateLimit, Rule
from guards.errors import ExpressionInvalid, GuardMisconfigured
from guards.language.terms import Fixed, Table
from guards.records import NO_ACTION, History, Schema
from tests.acting import ARM, OBSERVATION, SWITCHES
from tests.fakes import NOW, SCHEMA, context_of
from tests.guards.asked import spread
from tests.guards.batched import Context, Domain, Shield

FACTORED = Schema(observation=OBSERVATION, action=SWITCHES)
PUMP, VALVE, FAN = (factor.names for factor in SWITCHES.factors)
WHOLE = list(itertools.product(PUMP, VALVE, FAN))
FRESH = History(known=True, since=NOW)


def forbidden(constraint: Constraint, context: Context, row: int = 0) -> set[tuple[str, ...]]:
    """The whole actions that a constraint forbids in a row, each by the names of its choices."""
    shield, n = Shield([constraint], FACTORED), len(context)
    passes = {
        whole: shield.check(context, np.array([parts] * n))[row]
        for whole, parts in zip(WHOLE, np.ndindex(*SWITCHES.sizes), strict=True)
    }
    return {whole for whole, yes in passes.items() if not yes}


def sized(*sizes: int) -> Schema:
    """A schema of factors of these sizes."""
    factors = [Factor(name=f"f{i}", names=tuple(f"c{j}" for j in range(n))) for i, n in enumerate(sizes)]
    return Schema(observation=OBSERVATION, action=MultiDiscrete(factors=tuple(factors)))


class TestChoices:
    """What there is to choose from, one column an action."""

    def test_those_of_a_list_are_its_actions(self) -> None:
        """Each is made of itself."""
        choices = Choices(SCHEMA)

        assert (choices.names, choices.sizes, choices.starts) == (SCHEMA.actions, (6,), (0,))
        assert whole_actions(SCHEMA.action) == [0, 1, 2, 3, 4, 5]

    def test_those_of_factors_are_whole_actions(self) -> None:
        """The last factor's choice changes fastest, and each is named beside its factor."""
        choices, whole = Choices(FACTORED), whole_actions(SWITCHES)

        assert choices.names[:4] == ("pump=off", "pump=on", "valve=closed", "valve=half")
        assert (choices.sizes, choices.starts) == ((2, 3, 4), (0, 2, 5))
        assert len(whole) == 24
        assert [whole[i] for i in (0, 1, 4, 23)] == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 2, 3)]

    def test_what_may_have_been_executed_last_is_what_is_gone_on_from_and_what_came_after(self) -> None:
        """Where there is nothing else it is that alone."""
        one = History(known=True, since=NOW, step=1, action=(1, 2, 3))
        lasts = [history.last for history in (FRESH, one, replace(one, other=(0, 1, 0)))]

        assert lasts == [(NO_ACTION, NO_ACTION), ((1, 2, 3), (1, 2, 3)), ((1, 2, 3), (0, 1, 0))]

    def test_a_space_says_how_many_choices_each_factor_has(self) -> None:
        """A list is one factor, and a Box has none."""
        assert [space.sizes for space in (SCHEMA.action, SWITCHES, ARM)] == [(6,), (2, 3, 4), ()]

    def test_a_list_has_no_more_axes_than_an_array(self) -> None:
        """However few whole actions there are."""
        many = MultiDiscrete(factors=tuple(Factor(name=f"f{i}", names=("on",)) for i in range(33)))

        assert listed(SWITCHES)
        assert not listed(many)

    def test_a_list_may_be_long_and_an_array_has_an_axis_a_factor(self) -> None:
        """What is one of a list is listed however many there are; of factors there are one to as many as axes."""
        long = Discrete(names=tuple(f"a{i}" for i in range(JOINT_LIMIT + 1)))

        assert listed(long)
        assert listed(sized(7).action)
        assert listed(sized(*[1] * 32).action)
        assert not listed(ARM)

    def test_amounts_are_summed_in_the_order_of_the_factors(self) -> None:
        """However people wrote them down: another order gives another last bit."""
        choices = Choices(FACTORED)
        amounts = {"fan=slow": 0.3, "valve=half": 0.2, "pump=on": 0.1}

        table = choices.table(amounts)

        assert isinstance(table, Table)
        assert [factor for factor, _ in table.columns] == [0, 1, 2]
        assert choices.summed(amounts)((1, 1, 1)) == (0.1 + 0.2) + 0.3 != 0.1 + (0.2 + 0.3)
        assert choices.summed({"valve=half": 0.2})((1, 1, 1)) == 0.2
        assert choices.table({}) == Fixed(0.0)

    def test_choices_without_an_amount_are_missing_where_others_of_their_factor_have_one(self) -> None:
        """In their order; a factor that has none at all lacks none."""
        choices = Choices(FACTORED)
        whole = {f"valve={name}": 1.0 for name in VALVE}

        assert choices.missing({}) == []
        assert choices.missing(whole) == []
        assert choices.missing({**whole, "fan=fast": 1.0}) == [f"fan={name}" for name in FAN if name != "fast"]

    def test_as_many_are_counted_as_said_and_no_more(self) -> None:
        """Beyond the limit they have no columns, and what joins them is asked about single actions."""
        rule = Rule(name="r", forbid="f0 == f1")

        assert len(whole_actions(sized(64, 64).action)) == JOINT_LIMIT
        assert [listed(sized(64, n).action) for n in (64, 65)] == [True, False]
        assert [(one.joins, one.refuses) for one in (Shield([rule], sized(64, n)) for n in (64, 65))] == [
            (True, False),
            (False, True),
        ]
        assert not Shield([], sized(64, 64)).joins

    @pytest.mark.parametrize(
        ("constraint", "joins"),
        [
            (Cooldown(name="x", actions=("fan=slow", "fan=storm"), seconds=1), False),
            (RateLimit(name="x", per_second=1, effect={"fan=slow": 1}), False),
            (Bounds(name="x", of="load", effect={"fan=slow": 1}, high=1), False),
            (Rule(name="x", forbid="fan == 'slow'"), False),
            (Budget(name="x", cost="fan", at_most=1, seconds=1), False),
            (Cooldown(name="x", actions=("fan=slow", "pump=on"), seconds=1), True),
            (MaxSwitches(name="x", at_most=1, seconds=1), True),
        ],
    )
    def test_what_is_about_one_factor_joins_none(self, constraint: Constraint, joins: bool) -> None:
        """It is asked about that factor's choices alone."""
        assert Shield([constraint], FACTORED).joins == joins

    def test_one_factor_of_too_many_whole_actions_is_listed(self) -> None:
        """What is about it alone is known before a draw."""
        shield = Shield([Cooldown(name="c", actions=("f0=c1",), seconds=1)], sized(64, 65))

        assert (shield.joins, shield.refuses) == (False, False)

    def test_numbers_cannot_be_listed(self) -> None:
        """A Box has no choices."""
        schema = Schema(observation=OBSERVATION, action=Box(fields=(Field(name="torque"),)))

        with pytest.raises(GuardMisconfigured, match="is for actions to choose from, and a box action has none"):
            Choices(schema)


class TestRules:
    """Rules that join factors."""

    @pytest.mark.parametrize(
        ("forbid", "expected"),
        [
            ("pump == 'on' and fan == 'storm'", lambda w: w[0] == "on" and w[2] == "storm"),
            ("fan in ('slow', 'fast') and valve != 'open'", lambda w: w[2] in ("slow", "fast") and w[1] != "open"),
            ("'on' != pump or valve not in ('half', 'open')", lambda w: w[0] != "on" or w[1] == "closed"),
            ("pump + valve + fan > 4", lambda w: PUMP.index(w[0]) + VALVE.index(w[1]) + FAN.index(w[2]) > 4),
            ("valve == fan", lambda w: VALVE.index(w[1]) == FAN.index(w[2])),
            ("max(valve, -fan) >= load", lambda w: VALVE.index(w[1]) >= 2),
            ("load > 1", lambda _: True),
        ],
    )
    def test_they_name_factors_as_choices_and_as_numbers(self, forbid: str, expected: Any) -> None:
        """By the name of a choice, or by its index."""
        found = forbidden(Rule(name="r", forbid=forbid), context_of([[2, 0, 0]]))

        assert found == {whole for whole in WHOLE if expected(whole)}

    @pytest.mark.parametrize(
        ("forbid", "problem"),
        [
            (
                "action == 'on'",
                "column 1: the name 'action' is not known, expected one of load, lag, pods, pump, valve",
            ),
            ("previous_action == 'on'", "the name 'previous_action' is not known"),
            ("pump == 'half'", "column 9: the choice 'half' is not known, expected one of off, on"),
            ("pump in ('half', 'on')", "the choice 'half' is not known, expected one of off, on"),
            ("pump > 'off'", "orders actions"),
            ("load in ('off', 'on')", "is a number, expected an action"),
            ("pump", "is a choice, expected a condition"),
            ("(pump if load > 1 else fan) > 1", "is a choice, expected a number or a condition"),
        ],
    )
    def test_a_mistake_points_at_the_column(self, forbid: str, problem: str) -> None:
        """At start."""
        with pytest.raises(ExpressionInvalid, match=problem):
            Shield([Rule(name="r", forbid=forbid)], FACTORED)

    @pytest.mark.parametrize("facts", [(), ("load",)])
    def test_a_name_with_two_meanings_is_refused(self, facts: tuple[str, ...]) -> None:
        """A field or a fact, and a factor of the action."""
        action = MultiDiscrete(factors=(Factor(name="load", names=("off", "on")),))
        observation = OBSERVATION if not facts else OBSERVATION.model_copy(update={"fields": OBSERVATION.fields[1:]})

        with pytest.raises(ExpressionInvalid, match="'load' is a factor of the action and an input too"):
            Shield([Rule(name="r", forbid="load == 'on'")], Schema(observation, action, facts))


class TestNamed:
    """Constraints that name choices of factors."""

    def test_a_cooldown_rests_choices(self) -> None:
        """Every whole action with one of them, after any whole action with one of them."""
        cooldown = Cooldown(name="c", actions=("pump=on", "fan=storm"), seconds=60)
        shield = Shield([cooldown], FACTORED)

        after = shield.advanced(FRESH, (1, 0, 0), NOW)

        assert shield.tracked == {1, 8}
        assert after.used == {1: NOW}
        context = context_of([[0, 0, 0]] * 2, now=[NOW + 59, NOW + 60], histories=[after] * 2)
        assert forbidden(cooldown, context) == {whole for whole in WHOLE if whole[0] == "on" or whole[2] == "storm"}
        assert forbidden(cooldown, context, 1) == set()
        assert shield.advanced(FRESH, (0, 2, 1), NOW).used == {}

    def test_effects_on_a_quantity_add_up(self) -> None:
        """Of all choices of a whole action."""
        bounds = Bounds(name="b", of="pods", effect={"pump=on": 1, "fan=slow": 1, "fan=fast": -1}, high=4)

        found = forbidden(bounds, context_of([[0, 0, 3]]))

        assert found == {whole for whole in WHOLE if whole[0] == "on" and whole[2] == "slow"}

    @pytest.mark.parametrize("name", ["on", "pump", "pump=half", "pump=1"])
    def test_a_choice_is_named_beside_its_factor(self, name: str) -> None:
        """Or two factors could mean it."""
        with pytest.raises(GuardMisconfigured, match=f"the action '{name}' is not known, expected one of pump=off, pu"):
            Shield([Cooldown(name="c", actions=(name,), seconds=1)], FACTORED)


class TestJointDomain:
    """Whole actions as columns."""

    DOMAIN = Domain(SWITCHES, joined=True)

    def test_a_mask_of_choices_leaves_their_product(self) -> None:
        """Whatever the factors' sizes."""
        rng = np.random.default_rng(0)
        masks = rng.random((20, SWITCHES.width)) < 0.6

        whole = spread(shield.Shield([Rule(name="r", forbid="valve == fan")], FACTORED), masks)

        for mask, row in zip(masks, whole, strict=True):
            parts = np.split(mask, [2, 5])
            assert row.tolist() == [bool(p and v and f) for p, v, f in itertools.product(*parts)]

    def test_a_whole_action_has_one_column(self) -> None:
        """In the order of counting; what is no action has any."""
        actions = np.array([[0, 0, 0], [0, 0, 1], [1, 2, 3], [-1, -1, -1], [9, 9, 9]])

        assert self.DOMAIN.columns(actions).tolist() == [0, 1, 23, 0, 23]
        assert self.DOMAIN.shape == (2, 3, 4)

    def test_something_is_left_where_any_whole_action_is(self) -> None:
        """Factors that each have something left may have nothing together."""
        pumping = Rule(name="a", forbid="pump == 'off' or valve == 'closed' or fan == 'still'")
        closed = Rule(name="b", forbid="pump == 'on'")
        context = context_of([[0, 0, 0]])

        for rules, left in (([pumping], True), ([pumping, closed], False)):
            shield = Shield(rules, FACTORED)
            assert shield.domain.choosable(shield.judge(context).allowed).tolist() == [left]

    def test_the_check_agrees_with_the_mask(self) -> None:
        """For every whole action, with and without a request's mask, and what is no action passes neither."""
        rules = [
            Rule(name="a", forbid="pump == 'on' and fan > 1"),
            Cooldown(name="b", actions=("fan=slow",), seconds=9),
        ]
        shield = Shield(rules, FACTORED)
        mask = np.random.default_rng(1).random((3, 9)) < 0.7
        histories = [FRESH, History(known=False, since=NOW), FRESH]
        for masks in (None, mask.tolist()):
            context = context_of([[0, 0, 0]] * 3, mask=masks, histories=histories)
            allowed = shield.judge(context).allowed
            for i, whole in enumerate(itertools.product(range(2), range(3), range(4))):
                assert shield.check(context, np.array([whole] * 3)).tolist() == allowed[:, i].tolist()
            assert shield.check(context, np.array([[0, 0, 4], [-1, 0, 0], [2, 0, 0]])).tolist() == [False] * 3


# Each joins factors, so that it is asked about whole actions.
JOINING: dict[str, Constraint] = {
    "levels": RateLimit(
        name="x",
        per_second=0.5,
        levels={"pump=off": 0, "pump=on": 4, "fan=still": 0, "fan=slow": 1, "fan=fast": 2, "fan=storm": 5},
    ),
    "effect": RateLimit(name="x", per_second=0.5, effect={"pump=on": 2, "fan=slow": -1, "fan=fast": -2}),
    "budget": Budget(name="x", cost="fan + (3 if pump == 'on' else 0)", at_most=9, seconds=8),
    "failing": Budget(name="x", cost="fan / valve", at_most=9, seconds=8),
    "switches": MaxSwitches(name="x", at_most=3, seconds=6),
    "cooldown": Cooldown(name="x", actions=("pump=on", "fan=storm"), seconds=3),
    "bounds": Bounds(name="x", of="load", effect={"pump=on": 1, "fan=slow": -1}, low=0, high=1),
    "names": Rule(name="x", forbid="fan in ('slow', 'fast') and valve != 'open' or pump == fan"),
    "numbers": Rule(name="x", forbid="max(valve, -fan) >= load + pump"),
    "lenient": Rule(name="x", forbid="fan / valve > pump", on_error="allow"),
}


@pytest.mark.parametrize("constraint", JOINING.values(), ids=list(JOINING))
@pytest.mark.parametrize("known", [True, False])
def test_whole_actions_that_are_not_listed_are_judged_as_those_that_are(
    constraint: Constraint, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a row, whatever was done before; and the same is kept of what is done."""
    listed = Shield([constraint], FACTORED)
    monkeypatch.setattr("guards.actions.JOINT_LIMIT", 23)
    unlisted = Shield([constraint], FACTORED)
    every = np.array(list(itertools.product(range(2), range(3), range(4))))
    rng, history, at = np.random.default_rng(3), History(known=known, since=NOW), NOW

    for wait in range(24):
        context = context_of([[0, 0, 0]] * 24, now=[NOW + wait] * 24, histories=[history] * 24)
        assert unlisted.check(context, every).tolist() == listed.check(context, every).tolist()
    left = []
    for _ in range(40):
        row = [rng.choice([-1.0, 0.0, 0.5, 1.0, 3.0]), 0, 0]
        context = context_of([row] * 24, now=[at] * 24, histories=[history] * 24)
        left.append(listed.check(context, every).tolist())
        assert unlisted.check(context, every).tolist() == left[-1]
        weights = [shield.weights(context, every) if shield.weighs else None for shield in (listed, unlisted)]
        assert weights[0] == weights[1]
        i = int(rng.integers(24))
        told = [
            shield.advanced(history, tuple(every[i].tolist()), at, weight[i] if weight else None)
            for shield, weight in zip((listed, unlisted), weights, strict=True)
        ]
        assert told[0] == told[1]
        history, at = told[0], at + float(rng.choice([0.0, 0.5, 1.0, 4.0, -1.0]))

    assert (listed.joins, unlisted.joins) == (True, False)
    assert 0 < sum(map(sum, left)) < 40 * 24


def test_who_is_against_a_whole_action_is_asked_of_its_choices() -> None:
    """Where constraints join factors it stands in one column."""
    shield = Shield([Rule(name="r", forbid="valve == fan")], FACTORED)
    ruling, actions = shield.judge(context_of([[0, 0, 0]] * 2)), np.array([[0, 1, 1], [0, 1, 2]])

    said = ruling.forbidding(np.arange(2), shield.domain.columns(actions))

    assert [(name, mode, hits.tolist()) for name, mode, hits in said] == [("r", "deny", [True, False])]
