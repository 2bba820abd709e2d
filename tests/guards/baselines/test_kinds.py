"""Baselines: what each proposes, and what holds for all of them."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from pydantic import TypeAdapter, ValidationError

from export.spec import Box, Fields
from export.spec import Field as Column
from guards.baselines import KEPT, AnyBaseline, Baseline, Constant, Policy, Propose, Rules
from guards.baselines.lookup import When
from guards.errors import ExpressionInvalid, GuardMisconfigured
from guards.records import History, Schema
from tests.acting import ARM, OBSERVATION, SWITCHES
from tests.fakes import NOW, SCHEMA, context_of, schema_of
from tests.guards.batched import Context
from tests.guards.strategies import contexts

parsed = TypeAdapter[Baseline](AnyBaseline).validate_python
KINDS = get_args(get_args(AnyBaseline)[0])
EXAMPLES: dict[str, dict[str, Any]] = {
    "constant": {"kind": "constant", "action": "rest", "last_resort": "hold"},
    "rules": {
        "kind": "rules",
        "rules": ({"when": "load > 1 / lag", "action": "up"}, {"when": "budget < 1", "action": "down"}),
        "otherwise": "rest",
        "last_resort": "hold",
    },
    "hold": {"kind": "hold", "first": "rest", "last_resort": "hold"},
    "threshold": {
        "kind": "threshold",
        "of": "load / lag",
        "below": {"limit": 0.5, "action": "down"},
        "above": {"limit": 1.5, "action": "up"},
        "otherwise": "rest",
        "between": "previous",
        "last_resort": "hold",
    },
    "proportional": {
        "kind": "proportional",
        "current": "pods",
        "metric": "load / lag",
        "target": 0.5,
        "tolerance": 0.1,
        "low": 1.0,
        "high": 9.0,
        "effect": {"hold": 0.0, "up": 1.0, "jump": 3.0, "down": -1.0, "drop": -3.0},
        "last_resort": "hold",
    },
    "pid": {
        "kind": "pid",
        "of": "load",
        "target": "budget",
        "kp": 2.0,
        "ki": 0.5,
        "kd": 0.1,
        "low": -3.0,
        "high": 3.0,
        "effect": {"hold": 0.0, "up": 1.0, "jump": 3.0, "down": -1.0, "drop": -3.0},
        "start": 0.5,
        "forget_seconds": 5.0,
        "last_resort": "hold",
    },
    "lookup": {
        "kind": "lookup",
        "axes": ({"of": "load", "edges": (0.0, 1.0)}, {"of": "budget", "edges": (0.0,)}),
        "actions": ("hold", "up", "down", "jump", "rest", "drop"),
        "last_resort": "hold",
    },
    "policy": {"kind": "policy", "path": "older.onnx", "last_resort": "hold"},
}


def bound(baseline: Baseline) -> Propose:
    """A baseline under the schema; an older policy likes the first three actions for what is high, the others for what
    is low."""
    if isinstance(baseline, Policy):
        return baseline.bind(SCHEMA, lambda row: np.array([*row.observation, *(-one for one in row.observation)]))
    return baseline.bind(SCHEMA)


def proposals(baseline: Baseline, context: Context) -> list[str | None]:
    """What is proposed in each row, by name."""
    proposed = map(baseline.bind(SCHEMA), context.each)
    return [SCHEMA.actions[action] if isinstance(action, int) else None for action in proposed]


class TestEveryKind:
    """What every baseline of the union keeps to."""

    def test_every_kind_has_an_example(self) -> None:
        """A new kind is tested the moment it exists."""
        assert {kind.model_fields["kind"].default for kind in KINDS} == set(EXAMPLES)

    @pytest.mark.parametrize("kind", EXAMPLES)
    def test_it_is_what_was_written(self, kind: str) -> None:
        """Nothing is lost or added between the file and the object."""
        assert parsed(EXAMPLES[kind]).model_dump() == EXAMPLES[kind]

    @pytest.mark.parametrize("kind", EXAMPLES)
    def test_an_unknown_setting_is_refused(self, kind: str) -> None:
        """A slip of the pen fails at start."""
        with pytest.raises(ValidationError):
            parsed(EXAMPLES[kind] | {"last": "hold"})

    @pytest.mark.parametrize("kind", EXAMPLES)
    def test_its_last_resort_is_an_action(self, kind: str) -> None:
        """By index; none where none is declared, and none that does not exist."""
        assert parsed(EXAMPLES[kind]).last(SCHEMA) == 0
        assert parsed(EXAMPLES[kind] | {"last_resort": None}).last(SCHEMA) is None
        with pytest.raises(GuardMisconfigured, match=r"^last_resort: the action 'fly' is not known"):
            parsed(EXAMPLES[kind] | {"last_resort": "fly"}).last(SCHEMA)

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(contexts())
    def test_it_proposes_an_action_of_the_schema_or_nothing(self, context: Context) -> None:
        """As a plain number, and the same for the same row."""
        for example in EXAMPLES.values():
            propose = bound(parsed(example))
            proposed = list(map(propose, context.each))

            assert all(action is None or type(action) is int for action in proposed)
            assert {action for action in proposed if action is not None} <= set(range(len(SCHEMA.actions)))
            assert proposed == list(map(propose, context.each))


class TestConstant:
    """The same action always."""

    def test_it_proposes_its_action_in_every_row(self) -> None:
        """Whatever was observed."""
        assert proposals(Constant(action="jump"), context_of([[0, 0, 0], [9, 9, 9]])) == ["jump", "jump"]

    def test_an_unknown_action_is_refused(self) -> None:
        """Before the first request."""
        with pytest.raises(GuardMisconfigured, match=r"^action: the action 'fly' is not known"):
            Constant(action="fly").bind(SCHEMA)


class TestRules:
    """The first rule whose condition holds."""

    def test_the_first_rule_that_holds_proposes(self) -> None:
        """In the order of the file, and what is otherwise done where none holds."""
        rules = Rules(
            rules=(When(when="load > 2", action="jump"), When(when="load > 1", action="up")), otherwise="rest"
        )

        assert proposals(rules, context_of([[3, 0, 0], [2, 0, 0], [1, 0, 0]])) == ["jump", "up", "rest"]

    def test_a_condition_without_a_value_makes_no_proposal(self) -> None:
        """What stands below it was written for when it is false, what stands above it still decides."""
        rules = Rules(
            rules=(
                When(when="load > 2", action="jump"),
                When(when="budget > 1", action="up"),
                When(when="True", action="down"),
            ),
            otherwise="rest",
        )
        context = context_of([[3, 0, 0], [0, 0, 0], [0, 0, 0]], facts=[[np.nan, 0], [np.nan, 0], [0, 0]])

        assert proposals(rules, context) == ["jump", None, "down"]

    def test_without_rules_it_does_what_is_otherwise_done(self) -> None:
        """No rules at all are a constant."""
        assert proposals(Rules(rules=(), otherwise="rest"), context_of([[0, 0, 0]] * 2)) == ["rest", "rest"]

    def test_a_condition_about_the_action_asked_about_is_refused(self) -> None:
        """A proposer is asked about none: the condition would have no meaning."""
        with pytest.raises(ExpressionInvalid, match="'action'"):
            Rules(rules=(When(when="action == 'up'", action="up"),), otherwise="rest").bind(SCHEMA)

    def test_the_previous_action_may_be_used(self) -> None:
        """It is history, not the action asked about."""
        rules = Rules(rules=(When(when="previous_action != 'up'", action="up"),), otherwise="rest")

        assert proposals(rules, context_of([[0, 0, 0]])) == ["up"]

    @pytest.mark.parametrize(
        ("rule", "otherwise", "problem"),
        [
            (When(when="True", action="fly"), "rest", r"^rules\.1\.action: the action 'fly'"),
            (When(when="cpu > 1", action="up"), "rest", r"^rules\.1\.when: expression 'cpu > 1'"),
            (When(when="load", action="up"), "rest", r"^rules\.1\.when: expression 'load'"),
            (When(when="True", action="up"), "fly", "^otherwise: the action 'fly'"),
        ],
        ids=["action", "name", "number", "otherwise"],
    )
    def test_a_mistake_is_refused_by_name_when_it_is_bound(self, rule: When, otherwise: str, problem: str) -> None:
        """Before the first request."""
        rules = Rules(rules=(When(when="load > 1", action="up"), rule), otherwise=otherwise)

        with pytest.raises(GuardMisconfigured, match=problem):
            rules.bind(SCHEMA)


class TestOtherSpaces:
    """Baselines over actions that are not one of a list."""

    @pytest.mark.parametrize(
        ("space", "written", "other", "actions"),
        [
            (SWITCHES, ("on", "half", 0), (0, 0, "storm"), [(1, 1, 0), (0, 0, 3), None]),
            (ARM, (0.5, 1.0, -3.0), (0, 0, 0), [(0.5, 1.0, -3.0), (0.0, 0.0, 0.0), None]),
        ],
    )
    def test_rules_propose_whole_actions(self, space: Any, written: Any, other: Any, actions: Any) -> None:
        """The first rule's that holds, the other one, or none where a condition cannot be evaluated."""
        schema = Schema(observation=OBSERVATION, action=space, facts=("budget",))
        rules = Rules(rules=(When(when="load > budget", action=written),), otherwise=other, last_resort=other)
        told = [[1.0], [3.0], [np.nan]]
        context = replace(context_of([[2, 0, 0]] * 3), facts=np.array(told))

        assert list(map(rules.bind(schema), context.each)) == actions
        assert rules.last(schema) == actions[1]

    def test_a_constant_proposes_the_same_whole_action(self) -> None:
        """In every row."""
        schema = Schema(observation=OBSERVATION, action=SWITCHES)

        proposed = map(Constant(action=("on", 0, 0)).bind(schema), context_of([[0, 0, 0]] * 2).each)

        assert list(proposed) == [(1, 0, 0), (1, 0, 0)]

    def test_what_was_done_before_has_no_name(self) -> None:
        """So rules cannot ask for it, and are told what they can ask for."""
        schema = Schema(observation=OBSERVATION, action=SWITCHES)
        rules = Rules(rules=(When(when="previous_action == previous_action", action=(0, 0, 0)),), otherwise=(0, 0, 0))

        with pytest.raises(ExpressionInvalid, match="'previous_action' is not known, expected one of load, lag, pods"):
            rules.bind(schema)

    @pytest.mark.parametrize("written", [3, True, None, [True], [["a"]], {"a": 1}])
    def test_what_is_no_way_to_write_an_action_is_refused(self, written: object) -> None:
        """Before anything is known of the schema."""
        with pytest.raises(ValidationError, match="the name of an action, or a list of names, indices or numbers"):
            Constant.model_validate({"action": written})

    @pytest.mark.parametrize("written", ["hold", ("a", 1), (0.5, 2)])
    def test_what_was_written_survives_its_text(self, written: Any) -> None:
        """As the configuration is kept by its text."""
        baseline = Constant(action=written, last_resort=written)

        assert Constant.model_validate_json(baseline.model_dump_json()) == baseline


DOCUMENT = (Path(__file__).parents[3] / "docs" / "baselines.md").read_text("utf-8")
AUTOSCALER = schema_of(
    fields=("cpu", "queue", "replicas"),
    actions=("hold", "scale_up_1", "scale_up_2", "scale_down_1", "scale_down_2"),
    facts=("price",),
)
HEATER = Schema(
    observation=Fields(fields=(Column(name="temperature"),)),
    action=Box(fields=(Column(name="power", low=0, high=100),)),
)


def documented(heading: str, *, example: int = 0) -> Baseline:
    """An example of the document under a heading, as the service reads it."""
    section = DOCUMENT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    told = tomllib.loads(section.split("```toml\n")[1 + example].partition("```")[0])
    return TypeAdapter[Baseline](AnyBaseline).validate_json(json.dumps(told["baseline"]), strict=True)


class TestDocument:
    """What docs/baselines.md shows."""

    def test_every_kind_has_an_example_in_the_document(self) -> None:
        """And a line in its table."""
        for kind in EXAMPLES:
            assert documented(kind).model_dump()["kind"] == kind
            assert f"\n| `{kind}` |" in DOCUMENT

    @pytest.mark.parametrize(
        ("kind", "example", "observed", "action"),
        [
            ("constant", 0, [0.5, 0, 2], "hold"),
            ("hold", 0, [0.5, 0, 2], "hold"),
            ("rules", 0, [0.95, 0, 2], "scale_up_2"),
            ("rules", 0, [0.8, 0, 2], "scale_up_1"),
            ("rules", 0, [0.5, 0, 2], "hold"),
            ("threshold", 0, [0, 30, 2], "scale_up_1"),
            ("threshold", 0, [0, 30, 4], "hold"),
            ("threshold", 0, [0, 30, 20], "scale_down_1"),
            ("threshold", 0, [0, 30, 0], None),
            ("threshold", 1, [0, 30, 2], "hold"),
            ("proportional", 0, [0.9, 0, 10], "scale_up_2"),
            ("proportional", 0, [0.7, 0, 6], "scale_up_1"),
            ("proportional", 0, [0.65, 0, 10], "hold"),
            ("lookup", 0, [0.5, 80, 2], "scale_up_1"),
            ("lookup", 0, [0.3, 0, 2], "scale_down_1"),
        ],
    )
    def test_its_examples_do_what_it_says(
        self, kind: str, example: int, observed: list[float], action: str | None
    ) -> None:
        """With the numbers in the text."""
        (row,) = context_of([observed]).each

        proposed = documented(kind, example=example).bind(AUTOSCALER)(row)

        assert proposed == (None if action is None else AUTOSCALER.actions.index(action))

    def test_its_heater_does_what_it_says(self) -> None:
        """Step by step."""
        pid = documented("pid")
        propose, remember = pid.bind(HEATER), pid.remembers(HEATER)
        assert remember is not None

        (row,) = context_of([[20.0]], now=[NOW]).each
        first = propose(row)
        kept = {KEPT: remember(row, (38.0,), True)}
        (row,) = context_of([[20.5]], now=[NOW + 10], histories=[History(known=True, since=NOW, kept=kept)]).each

        assert first == (38.0,)
        assert propose(row) == pytest.approx((33.25,))
