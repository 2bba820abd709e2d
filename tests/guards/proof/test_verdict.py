"""The answers in words: a verdict and what it comes to; of one situation each action, with reasons that show values."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from export.spec import Box, Field
from guards.abstention import Fresh
from guards.constraints import Bounds, Budget, Constraint, Cooldown, MaxSwitches, RateLimit, Rule
from guards.errors import GuardMisconfigured
from guards.proof.scenario import Before, Scenario
from guards.proof.verdict import Closed, Counterexample, Explanation, Finding, Outcome, Statement, Verdict, explain
from guards.records import Schema
from tests.fakes import SCHEMA, Fickle
from tests.guards.batched import Shield
from tests.guards.holes import PLANT, rules
from tests.guards.pairs import DYADIC, condition, situation, together

OBSERVED = {"cpu": 0.95, "replicas": 2.0, "temp": 20.0, "rate": 0.0, "queue": 0.0}


def why(constraint: Constraint, action: str = "up", past: Before = Before(), **facts: float) -> str:  # noqa: B008 - frozen
    """What one constraint says of an action, and why."""
    told = {"price": None, "budget": None, **facts}
    explanation = explain(PLANT, [constraint], Scenario(OBSERVED, told, past))
    said = next(one for one in explanation.actions if one.action == action).said[0]
    return f"{'forbids' if said.forbids else 'allows'}: {said.why}"


def rule(forbid: str, action: str = "up", past: Before = Before(), **facts: float) -> str:  # noqa: B008 - frozen
    """What a rule says of an action after its own text."""
    text = why(rules(forbid)[0], action, past, **facts)
    return text.replace(f"{forbid!r} ", "")


@pytest.mark.parametrize(
    ("forbid", "said"),
    [
        ("cpu > 0.9", "forbids: is true where cpu = 0.95"),
        ("cpu > 0.9 and action == 'hold'", "allows: is false where cpu = 0.95"),
        ("action == 'up'", "forbids: is true"),
        (
            "cpu * replicas > temp / 40",
            "forbids: is true where cpu = 0.95, replicas = 2, temp = 20, cpu * replicas = 1.9, temp / 40 = 0.5",
        ),
        (
            "max(cpu, 2) < (3 if temp > 1 else 4)",
            "forbids: is true where cpu = 0.95, temp = 20, max(cpu, 2) = 2, 3 if temp > 1 else 4 = 3",
        ),
        (
            "cpu / queue > 3",
            "forbids: cannot be evaluated, because cpu / queue divides by zero where cpu = 0.95, queue = 0",
        ),
        ("price > 3", "forbids: cannot be evaluated, because the fact price was not given"),
        ("budget > 3", "allows: is false where budget = 1.5"),
        ("previous_action == 'up'", "allows: is false where previous_action = none"),
    ],
)
def test_a_rule_shows_the_values_of_what_it_names(forbid: str, said: str) -> None:
    """And of what it calculates, where that has a value."""
    assert rule(forbid, budget=1.5) == said


def test_a_rule_shows_the_previous_action() -> None:
    """By its name."""
    past = Before(step=2, previous="down")

    assert rule("action != previous_action", past=past) == "forbids: is true where previous_action = 'down'"


@pytest.mark.parametrize(
    ("past", "said"),
    [
        (Before(), "allows: none of its actions was executed in this episode"),
        (
            Before(step=3, previous="hold", used={"up": 59, "down": 4, "hold": 0}),
            "forbids: 'down' was executed 4 s ago; it rests for 60 s",
        ),
        (
            Before(step=3, previous="hold", used={"up": 61}),
            "allows: 'up' was executed 61 s ago; it rests for 60 s",
        ),
        (
            Before(known=False),
            (
                "forbids: one of its actions is taken to have been executed when the session was first "
                "seen, 0 s ago, because the history is not here; it rests for 60 s"
            ),
        ),
        (
            Before(known=False, step=1, previous="up", seconds_since_change=100, used={"up": 7}),
            "forbids: 'up' was executed 7 s ago; it rests for 60 s",
        ),
    ],
)
def test_a_cooldown_says_what_was_executed_when(past: Before, said: str) -> None:
    """Or what is taken to have been."""
    rest = Cooldown(name="rest", actions=("up", "down"), seconds=60)

    assert why(rest, "up", past) == said
    assert why(rest, "hold", past) == "allows: is not about this action"


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("hold", "allows: replicas is 2, which this action does not move"),
        ("up", "allows: replicas is 2, and this action adds 1: expected anything"),
        ("down", "forbids: replicas is 2, and this action adds -1: expected at least 2"),
    ],
)
def test_bounds_say_where_an_action_would_end(action: str, said: str) -> None:
    """Beside the limit that is on its way."""
    assert why(Bounds(name="b", of="replicas", effect={"up": 1, "down": -1}, low=2), action) == said


def test_bounds_of_what_has_no_value_say_so() -> None:
    """They forbid everything then."""
    said = why(Bounds(name="b", of="price", effect={"up": 1}, high=2), "hold")

    assert said == "forbids: 'price' cannot be evaluated, because the fact price was not given"


@pytest.mark.parametrize(
    ("constraint", "action", "said"),
    [
        (
            RateLimit(name="c", per_second=2, effect={"up": 3}),
            "up",
            (
                "allows: this action changes the value by 3: expected at most 2 for each second since the last change, "
                "as if there had been none before"
            ),
        ),
        (
            RateLimit(name="c", per_second=2, levels={"hold": 0, "up": 3, "down": 0}),
            "up",
            (
                "allows: the value stood at 0, and this action sets it to 3: "
                "expected at most 2 for each second since the last change, as if there had been none before"
            ),
        ),
        (
            Budget(name="c", cost="replicas * 6", at_most=10, seconds=60),
            "up",
            (
                "forbids: replicas * 6 is 12: expected no more than is left of 10 in 60 s, "
                "as if nothing had been spent before"
            ),
        ),
        (
            Budget(name="c", cost="price", at_most=10, seconds=60),
            "up",
            (
                "forbids: 'price' cannot be evaluated, because the fact price was not given: "
                "expected no more than is left of 10 in 60 s, as if nothing had been spent before"
            ),
        ),
        (
            MaxSwitches(name="c", at_most=3, seconds=60),
            "up",
            (
                "allows: another action than the one before: expected at most 3 changes in 60 s, "
                "as if none had been made before"
            ),
        ),
        (MaxSwitches(name="c", at_most=3, seconds=60), "hold", "allows: this is the action of the decision before"),
        (Fresh(name="c", max_age_seconds=2), "up", "allows: is about the policy's answer, and forbids no action"),
    ],
)
def test_what_has_a_history_says_what_it_counts(constraint: Constraint, action: str, said: str) -> None:
    """And what it expects."""
    assert why(constraint, action, Before(step=2, previous="hold")) == said


MOVES = RateLimit(name="c", per_second=0.05, effect={"up": 1})
SPENDS = Budget(name="c", cost="1 if action == 'up' else 0", at_most=1, seconds=60)
CALM = MaxSwitches(name="c", at_most=1, seconds=60)
CHANGES = "this action changes the value by 1: expected at most 0.05 for each second since the last change, "
COSTS = "1 if action == 'up' else 0 is 1: expected no more than is left of 1 in 60 s, "
OTHER = "another action than the one before: expected at most 1 changes in 60 s, "
UP = Before(step=3, previous="up", seconds_since_change=1)
SEEN = "when the session was first seen, 5 s ago, because the history is not here"


@pytest.mark.parametrize(
    ("constraint", "action", "past", "said"),
    [
        (MOVES, "up", UP, f"forbids: {CHANGES}which was 1 s ago"),
        (
            MOVES,
            "up",
            Before(step=3, previous="hold", used={"up": 7, "hold": 1}),
            f"forbids: {CHANGES}which was 7 s ago",
        ),
        (MOVES, "up", replace(UP, changed={"c": 20}), f"allows: {CHANGES}which was 20 s ago"),
        (MOVES, "up", replace(UP, previous="hold"), f"allows: {CHANGES}as if there had been none before"),
        (MOVES, "up", Before(), f"allows: {CHANGES}and there was none"),
        (
            MOVES,
            "up",
            Before(known=False, seconds_since_change=5),
            f"forbids: {CHANGES}which is taken to have been {SEEN}",
        ),
        (
            MOVES,
            "up",
            Before(known=False, step=1, previous="up", seconds_since_change=5, changed={"c": 3}),
            f"forbids: {CHANGES}which was 3 s ago",
        ),
        (
            RateLimit(name="c", per_second=2, levels={"hold": 0, "up": 3, "down": 0}),
            "hold",
            UP,
            (
                "forbids: the value stood at 3, and this action sets it to 0: "
                "expected at most 2 for each second since the last change, which was 1 s ago"
            ),
        ),
        (SPENDS, "up", replace(UP, spent={"c": 1}), f"forbids: {COSTS}of which 1 was spent"),
        (SPENDS, "up", UP, f"allows: {COSTS}as if nothing had been spent before"),
        (SPENDS, "up", Before(), f"allows: {COSTS}of which nothing was spent"),
        (
            SPENDS,
            "up",
            Before(known=False, seconds_since_change=5),
            f"forbids: {COSTS}all of which is taken to have been spent {SEEN}",
        ),
        (SPENDS, "up", Before(known=False, seconds_since_change=60), f"allows: {COSTS}of which nothing was spent"),
        (CALM, "down", UP, f"forbids: {OTHER}and 1 were made"),
        (CALM, "down", replace(UP, switched=(59,), seconds_since_change=None), f"forbids: {OTHER}and 1 were made"),
        (CALM, "down", replace(UP, seconds_since_change=60), f"allows: {OTHER}as if none had been made before"),
        (CALM, "down", Before(), f"allows: {OTHER}and 0 were made"),
        (
            CALM,
            "down",
            Before(known=False, seconds_since_change=5),
            f"forbids: {OTHER}and so many are taken to have been made {SEEN}",
        ),
    ],
)
def test_what_is_said_to_have_happened_counts(constraint: Constraint, action: str, past: Before, said: str) -> None:
    """And what is not said is named."""
    assert why(constraint, action, past) == said


def test_some_switches_leave_others() -> None:
    """Those that are said are counted."""
    limit = MaxSwitches(name="c", at_most=3, seconds=60)

    assert why(limit, "down", replace(UP, switched=(9,))).endswith("in 60 s, as if 2 had been made before")
    assert why(limit, "down", replace(UP, switched=(9, 59))).startswith("forbids")
    assert why(limit, "down", replace(UP, switched=(9, 60))).startswith("allows")


def test_a_level_may_not_be_known() -> None:
    """Before the first action, and where the history is not here."""
    limit = RateLimit(name="c", per_second=2, levels={"hold": 0, "up": 3, "down": 0})

    assert why(limit, "up", Before(known=False)).startswith("forbids: the value is not known, and this action sets it")


def test_a_lenient_rule_lets_pass_what_it_cannot_evaluate() -> None:
    """And gives the reason."""
    said = why(Rule(name="r", forbid="price > 3", on_error="allow"))

    assert said == "allows: 'price > 3' cannot be evaluated, because the fact price was not given"


def test_a_kind_without_words_says_what_it_does() -> None:
    """Whether it forbids is the shield's to say."""
    explanation = explain(SCHEMA, [Fickle(name="fickle", action=1)], Scenario({"load": 0, "lag": 0, "pods": 0}))

    assert explanation.actions[1].said[0].why == "there are no words for this kind"


def test_an_explanation_reads_as_words() -> None:
    """The situation, then every action with every constraint; what only reports says that it does."""
    constraints = [*rules("action == 'up' and cpu > 0.9"), rules("cpu > 0.5", mode="audit")[0]]
    constraints[1] = constraints[1].model_copy(update={"name": "seen"})

    lines = list(explain(PLANT, constraints, Scenario(OBSERVED)).lines())

    assert lines[:2] == [
        "observation: cpu = 0.95, replicas = 2, temp = 20, rate = 0, queue = 0",
        "history: the first decision of an episode",
    ]
    assert lines[2:8] == [
        "hold: allowed",
        """  allows 'rule 0' (rule): "action == 'up' and cpu > 0.9" is false where cpu = 0.95""",
        "  forbids 'seen' (rule, only reports): 'cpu > 0.5' is true where cpu = 0.95",
        "up: not allowed",
        """  forbids 'rule 0' (rule): "action == 'up' and cpu > 0.9" is true where cpu = 0.95""",
        "  forbids 'seen' (rule, only reports): 'cpu > 0.5' is true where cpu = 0.95",
    ]


def test_what_is_allowed_is_what_the_shield_allows() -> None:
    """Of any constraints in any situation; and the reasons of rules agree with it."""
    random = Random(8)  # noqa: S311 - a test that repeats itself

    for _ in range(200):
        constraints, one = rules(condition(random, 2), condition(random, 2)), situation(random)
        explanation = explain(DYADIC, constraints, one)

        allowed = Shield(constraints, DYADIC).judge(together(DYADIC, [one])).allowed[0]
        assert [action.allowed for action in explanation.actions] == allowed.tolist()
        assert agrees(explanation)


def agrees(explanation: Explanation) -> bool:
    """Whether every reason says the same as the shield."""
    said = [said for action in explanation.actions for said in action.said]
    return bool(np.all([one.forbids is ("' is false" not in one.why and '" is false' not in one.why) for one in said]))


def test_over_other_actions_there_is_nothing_to_list() -> None:
    """It says so."""
    schema = Schema(observation=PLANT.observation, action=Box(fields=(Field(name="power", low=0, high=1),)))

    with pytest.raises(GuardMisconfigured, match="the action space is box, expected discrete"):
        explain(schema, [], Scenario(OBSERVED))


HOLE = Counterexample(
    Scenario({"cpu": 0.95}, {}, Before()),
    (Closed("hold", ("a",)), Closed("up", ("a", "b")), Closed("down", ("a",))),
)


@pytest.mark.parametrize(
    ("left", "last_resort", "outcome"),
    [
        ("proved", None, "proved"),
        ("proved", "proved", "proved"),
        ("undecided", "proved", "undecided"),
        ("undecided", "counterexample", "counterexample"),
    ],
)
def test_the_outcome_is_the_worst_of_the_answers(left: Outcome, last_resort: Outcome | None, outcome: Outcome) -> None:
    """The exit code says it."""
    other = None if last_resort is None else Statement("other", last_resort)

    assert Verdict(Statement("left", left), other).outcome == outcome


def test_a_verdict_reads_as_words() -> None:
    """The claim, where it fails, which constraints close which actions there, and what else was found."""
    verdict = Verdict(
        Statement("something is left", "counterexample", counterexample=HOLE),
        Statement("the last resort is", "counterexample", "not there either"),
        (Finding("never", ("b",), "'b' is never true"),),
    )

    assert str(verdict).splitlines() == [
        "counterexample: something is left",
        "  observation: cpu = 0.95",
        "  history: the first decision of an episode",
        "  hold, down: closed by 'a'",
        "  up: closed by 'a' and 'b'",
        "counterexample: the last resort is (not there either)",
        "note: 'b' is never true",
    ]


def test_what_was_tried_is_said_where_it_was_not_everything() -> None:
    """So that nobody takes it for more."""
    hole = replace(HOLE, tried="3 points were tried")

    assert list(hole.lines())[-1] == "3 points were tried"


def test_a_verdict_without_a_last_resort_is_one_answer() -> None:
    """There is nothing to say of what is not declared."""
    assert str(Verdict(Statement("something is left", "proved"))) == "proved: something is left"
