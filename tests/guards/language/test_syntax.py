"""Rule expressions: what parses, what it means, and that it means what Python means."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings

from export.spec import ActionSpace, Box, Discrete, Field, Fields
from guards.errors import ExpressionInvalid
from guards.language.syntax import MAX_DEPTH, MAX_LENGTH, MAX_PARTS
from guards.records import NO_ACTION, History, Schema
from tests.acting import ARM, SWITCHES
from tests.fakes import NOW, SCHEMA, context_of, schema_of
from tests.guards.asked import Result, compile_expression
from tests.guards.batched import Context, Integers
from tests.guards.strategies import contexts, numbers, truths

REFUSED = {
    # It is no expression.
    "": (1, "is not an expression"),
    "load = 1": (6, "is not an expression"),
    "import os": (1, "is not an expression"),
    "load > 1; lag > 1": (9, "is not an expression"),
    "load\0 > 1": (1, "is not an expression"),
    "load > '\ud800": (1, "is not an expression"),
    # It is too large.
    "load" + " + load" * 200 + " > 1": (1, f"has 806 parts, expected at most {MAX_PARTS}"),
    "not " * (MAX_DEPTH + 1) + "True": (4 * MAX_DEPTH + 1, f"is nested deeper than {MAX_DEPTH}"),
    # It is Python, and no part of the rule language.
    "load ** 2 > 1": (1, "BinOp is not part of the rule language"),
    "1 < load // 2": (5, "BinOp is not part of the rule language"),
    "load @ lag > 1": (1, "BinOp is not part of the rule language"),
    "load << 2 > 1": (1, "BinOp is not part of the rule language"),
    "1 > load | lag": (5, "BinOp is not part of the rule language"),
    "1 > +load": (5, "UnaryOp is not part of the rule language"),
    "1 > ~load": (5, "UnaryOp is not part of the rule language"),
    "load.real > 1": (1, "Attribute is not part of the rule language"),
    "load[0] > 1": (1, "Subscript is not part of the rule language"),
    "(lambda: True)()": (1, "Call is not part of the rule language"),
    "lambda: True": (1, "Lambda is not part of the rule language"),
    "load.is_integer()": (1, "Call is not part of the rule language"),
    "1 > max(load, lag, key=abs)": (5, "Call is not part of the rule language"),
    "1 > max(load, *lag)": (15, "Starred is not part of the rule language"),
    "'up' == action == 'fly'": (19, "the action 'fly' is not known"),
    "(x := load) > 1": (2, "NamedExpr is not part of the rule language"),
    "[load for load in lag]": (1, "ListComp is not part of the rule language"),
    "all(x for x in pods)": (1, "all() of 1 values is not known"),
    "f'{load}' == action": (1, "JoinedStr is not part of the rule language"),
    "{'up': 1} == action": (1, "Dict is not part of the rule language"),
    "(load, lag) == action": (1, "Tuple is not part of the rule language"),
    "load is lag": (1, "Is is not part of the rule language"),
    "1 < load in lag": (1, "In is not part of the rule language"),
    "await load": (1, "Await is not part of the rule language"),
    # It calls what is not there, or not like that.
    "1 > round(load)": (5, "round() of 1 values is not known"),
    "1 > abs(load, lag)": (5, "abs() of 2 values is not known"),
    "1 > abs()": (5, "abs() of 0 values is not known"),
    "1 > max(load)": (5, "max() of 1 values is not known"),
    "1 > min()": (5, "min() of 0 values is not known"),
    "eval('1')": (1, "eval() of 1 values is not known"),
    # It has a constant that is nothing a rule knows.
    "load > 1e999": (8, "is a number that is not finite"),
    "load > 1" + "0" * 400: (8, "is a number that is not finite"),
    "load > 1j": (8, "1j is not a number, a condition or the name of an action"),
    "action == None": (11, "None is not a number"),
    "action == b'up'": (11, "b'up' is not a number"),
    "load > ...": (8, "Ellipsis is not a number"),
    # It has a part of another kind than that place needs.
    "load": (1, "is a number, expected a condition"),
    "action": (1, "is an action, expected a condition"),
    "'up'": (1, "is a string, expected a condition"),
    "not load": (5, "is a number, expected a condition"),
    "load > 1 and lag": (14, "is a number, expected a condition"),
    "action or load > 1": (1, "is an action, expected a condition"),
    "1 > -(load > 1)": (7, "is a condition, expected a number"),
    "1 > load + action": (12, "is an action, expected a number"),
    "1 > 'up' * 2": (5, "is a string, expected a number"),
    "1 > abs(action)": (9, "is an action, expected a number"),
    "1 > max(load, True)": (15, "is a condition, expected a number"),
    "1 > (load if lag else pods)": (14, "is a number, expected a condition"),
    "1 > (load if lag > 1 else True)": (27, "is a condition, expected a number"),
    "action == ('up' if lag > 1 else 'down')": (12, "is a string, expected a number or a condition"),
    "(action if lag > 1 else action) == 'up'": (2, "is an action, expected a number or a condition"),
    # It compares what cannot be compared.
    "load == 'up'": (1, "compares a number with a string, expected two numbers or an action"),
    "action == 1": (1, "compares an action with a number"),
    "'up' == 'up'": (1, "compares a string with a string"),
    "(load > 1) == (lag > 1)": (2, "compares a condition with a condition"),
    "load < 1 < action": (8, "compares a number with an action"),
    "action < 'up'": (1, "orders actions, expected == or != between them"),
    "previous_action >= action": (1, "orders actions"),
    "load in ('up', 'down')": (1, "is a number, expected an action"),
    "action in 'up'": (11, "is not a list of actions, expected ('one', 'other')"),
    "action in ()": (11, "is not a list of actions"),
    "action in load": (11, "is not a list of actions"),
    "action in {'up'}": (11, "is not a list of actions"),
    "action in ('up', load)": (18, "is a number, expected a string"),
    # It names what is not there.
    "cpu > 1": (
        1,
        "the name 'cpu' is not known, expected one of load, lag, pods, budget, price, action, ",
    ),
    "1 > __import__": (5, "the name '__import__' is not known"),
    "action == 'fly'": (11, "the action 'fly' is not known, expected one of hold, up, down, jump, rest, drop"),
    "'fly' != action": (1, "the action 'fly' is not known"),
    "action not in ('up', 'fly')": (22, "the action 'fly' is not known"),
}

# Expressions over actions and the row of `load` 0.5, `lag` 0, `pods` -3, and what they are for each of the actions.
MEANINGS = {
    "True": [1, 1, 1, 1, 1, 1],
    "not True": [0, 0, 0, 0, 0, 0],
    "load < 0.5": [0, 0, 0, 0, 0, 0],
    "load <= 0.5": [1, 1, 1, 1, 1, 1],
    "load > 0.4": [1, 1, 1, 1, 1, 1],
    "load >= 0.6": [0, 0, 0, 0, 0, 0],
    "load == 0.5": [1, 1, 1, 1, 1, 1],
    "load != 0.5": [0, 0, 0, 0, 0, 0],
    "0 <= lag < load < 1": [1, 1, 1, 1, 1, 1],
    "0 < lag < 1": [0, 0, 0, 0, 0, 0],
    "load + pods == -2.5": [1, 1, 1, 1, 1, 1],
    "load - pods == 3.5": [1, 1, 1, 1, 1, 1],
    "load * pods == -1.5": [1, 1, 1, 1, 1, 1],
    "pods / load == -6": [1, 1, 1, 1, 1, 1],
    "pods % 2 == 1": [1, 1, 1, 1, 1, 1],
    "-pods == abs(pods)": [1, 1, 1, 1, 1, 1],
    "min(load, lag, pods) == pods": [1, 1, 1, 1, 1, 1],
    "max(load, lag, pods) == load": [1, 1, 1, 1, 1, 1],
    "(load if lag > 0 else pods) == pods": [1, 1, 1, 1, 1, 1],
    "action == 'up' if lag == 0 else False": [0, 1, 0, 0, 0, 0],
    "action == 'up'": [0, 1, 0, 0, 0, 0],
    "'up' == action": [0, 1, 0, 0, 0, 0],
    "action != 'up'": [1, 0, 1, 1, 1, 1],
    "action in ('up', 'drop')": [0, 1, 0, 0, 0, 1],
    "action in ['up']": [0, 1, 0, 0, 0, 0],
    "action not in ('up', 'drop')": [1, 0, 1, 1, 1, 0],
    "action == previous_action": [0, 0, 1, 0, 0, 0],
    "action != previous_action": [1, 1, 0, 1, 1, 1],
    "previous_action == 'down'": [1, 1, 1, 1, 1, 1],
    "previous_action in ('up', 'hold')": [0, 0, 0, 0, 0, 0],
    "previous_action not in ('up', 'hold')": [1, 1, 1, 1, 1, 1],
    "'down' == previous_action == action": [0, 0, 1, 0, 0, 0],
    "action == action": [1, 1, 1, 1, 1, 1],
    "action == 'up' or action == 'drop' and load > 1": [0, 1, 0, 0, 0, 0],
    "(action == 'up' or action == 'drop') and load < 1": [0, 1, 0, 0, 0, 1],
    "step == 2 and seconds_since_change == 4": [1, 1, 1, 1, 1, 1],
    "budget - price > 1": [1, 1, 1, 1, 1, 1],
}

FAILURES = {
    "1 / lag > 3": True,
    "1 % lag > 3": True,
    "lag / lag == 1": True,
    "1e308 * 10 * load > 1": True,
    "-(1 / lag) < 0": True,
    "abs(1 / lag) < 0": True,
    "min(1, 1 / lag) < 0": True,
    "not 1 / lag > 0": True,
    "lag != 0 and 1 / lag > 3": False,
    "1 / lag > 3 and lag != 0": True,
    "lag == 0 or 1 / lag > 3": False,
    "lag != 0 or 1 / lag > 3": True,
    "lag > 0 and 1 / lag > 3 and load > 1": False,
    "(1 / lag if lag != 0 else 0) > 3": False,
    "(1 / lag if lag == 0 else 0) > 3": True,
    "(0 if 1 / lag > 3 else 0) > 3": True,
    "1 < lag < 1 / lag": False,
    "-1 < lag < 1 / lag": True,
    "price > 3": True,
    "price > 3 or True": True,
    "True or price > 3": False,
    "budget > 3": False,
}


def evaluated(source: str, context: Context, choice: Integers | None = None, schema: Schema = SCHEMA) -> np.ndarray:
    """Evaluate a condition that does not fail anywhere."""
    value, failed = compile_expression(source, schema, "truth").evaluate(context, choice)

    assert failed is None or not failed.any()
    return value


@pytest.mark.parametrize("source", REFUSED)
def test_a_refusal_points_at_the_column(source: str) -> None:
    """Whoever wrote the rule reads what is wrong, and where."""
    column, problem = REFUSED[source]

    with pytest.raises(ExpressionInvalid) as refusal:
        compile_expression(source, SCHEMA, "truth")

    assert str(refusal.value).startswith(f"expression {source!r}, column {column}: ")
    assert problem in str(refusal.value)


@pytest.mark.parametrize("part", ["load > 1", "action in ('up',)", "action == 'up'", "(True if True else False)"])
def test_every_part_is_one_step_deeper(part: str) -> None:
    """Whatever it is a part of: at the limit it compiles, and one deeper it does not."""
    assert compile_expression("not " * (MAX_DEPTH - 2) + part, SCHEMA, "truth")
    with pytest.raises(ExpressionInvalid, match="is nested deeper than 32"):
        compile_expression("not " * (MAX_DEPTH - 1) + part, SCHEMA, "truth")


@pytest.mark.parametrize("around", ["({} if True else 0)", "(0 if True else {})", "(1 if {} > 0 else 0)", "-{}"])
def test_nothing_is_nested_without_end(around: str) -> None:
    """In whichever place of whatever part."""
    source = "load"
    for _ in range(MAX_DEPTH):
        source = around.format(source)

    with pytest.raises(ExpressionInvalid, match="is nested deeper than 32"):
        compile_expression(source, SCHEMA, "number")


@pytest.mark.parametrize(
    ("action", "about_action", "known"),
    [
        (SCHEMA.action, True, "load, budget, action, previous_action, seconds_since_change, step"),
        (SCHEMA.action, False, "load, budget, previous_action, seconds_since_change, step"),
        (SWITCHES, True, "load, budget, pump, valve, fan, seconds_since_change, step"),
        (SWITCHES, False, "load, budget, seconds_since_change, step"),
        (ARM, True, "load, budget, torque, grip, drift, seconds_since_change, step"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_are_known(
    action: ActionSpace, about_action: bool, known: str
) -> None:
    """In each kind of space, and where no action is asked about."""
    schema = Schema(observation=Fields(fields=(Field(name="load"),)), action=action, facts=("budget",))

    for name in ("cpu", *(name for name in ("pump", "torque", "action", "previous_action") if name not in known)):
        with pytest.raises(ExpressionInvalid, match=f"the name '{name}' is not known, expected one of {known}$"):
            compile_expression(f"{name} > 1", schema, "truth", about_action=about_action)


def test_of_many_known_names_the_nearest_are_said() -> None:
    """Of fields and of actions beyond a dozen: a page of names hides the one that was meant."""
    fields = tuple(Field(name=f"sensor_{at}") for at in range(40))
    actions = Discrete(names=tuple(f"level_{at}" for at in range(40)))
    schema = Schema(observation=Fields(fields=(*fields, Field(name="load"))), action=actions)

    for text, expected in (("laod > 1", "load, "), ("action == 'levl_7'", "level_7, ")):
        with pytest.raises(
            ExpressionInvalid, match=rf"is not known, expected one of {expected}.*\(the nearest of \d+\)$"
        ):
            compile_expression(text, schema, "truth")


def test_numbers_are_doubles() -> None:
    """However they are written: whole ones do not run over, and are not cut off."""
    context = context_of([[1, 0, 0]])

    assert evaluated("load < 9223372036854775807 + 1", context).all()
    assert evaluated("load < 10000000000000000000000000", context).all()
    assert evaluated("load < 1.7976931348623157e308", context).all()


def test_a_source_at_the_limits_compiles() -> None:
    """The limits themselves are allowed."""
    deep = "not " * (MAX_DEPTH - 1) + "True"
    long = "load > 1".ljust(MAX_LENGTH)

    assert not evaluated(deep, context_of([[1, 0, 0]])).all()
    assert not evaluated(long, context_of([[1, 0, 0]])).all()


UNITS = Schema(
    observation=Fields(
        fields=(
            Field(name="cpu", unit="ratio"),
            Field(name="load", unit="ratio"),
            Field(name="wait", unit="s"),
            Field(name="pods"),
        )
    ),
    action=Discrete(names=("hold", "up")),
    facts=("price",),
)


@pytest.mark.parametrize(
    ("source", "column", "units"),
    [
        ("cpu > wait", 1, ("ratio", "s")),
        ("pods > 1 and wait < load", 14, ("ratio", "s")),
        ("0 < cpu < seconds_since_change", 5, ("ratio", "s")),
        ("pods + (cpu - wait) > 1", 9, ("ratio", "s")),
        ("pods + cpu > wait", 1, ("ratio", "s")),
        ("2 > max(cpu, pods, wait)", 5, ("ratio", "s")),
        ("-cpu > wait", 1, ("ratio", "s")),
        ("abs(cpu) > wait", 1, ("ratio", "s")),
        ("1 > (cpu if pods > 1 else wait)", 6, ("ratio", "s")),
        ("wait > (cpu if pods > 1 else 0)", 1, ("ratio", "s")),
    ],
)
def test_units_are_not_mixed(source: str, column: int, units: tuple[str, str]) -> None:
    """A ratio is no number of seconds: comparing or adding them is a mistake, which is found at start."""
    with pytest.raises(ExpressionInvalid) as refusal:
        compile_expression(source, UNITS, "truth")

    said = f"expression {source!r}, column {column}: has the units {units[0]!r} and {units[1]!r}, expected numbers of "
    assert str(refusal.value) == said + "one unit"


@pytest.mark.parametrize(
    "source",
    [
        "cpu > load and wait > seconds_since_change",
        "cpu > 0.8 or wait > pods or wait > price or step > cpu",
        "cpu * 60 > wait and wait / 60 < cpu and cpu % 2 < wait",
        "max(cpu, load) - min(cpu, 1) > abs(load)",
        "(cpu if pods > 1 else load) > load",
    ],
)
def test_what_has_no_unit_goes_with_any(source: str) -> None:
    """Constants, facts, fields without a unit, and what is multiplied, which may have been converted."""
    assert compile_expression(source, UNITS, "truth").term


def test_the_numbers_of_a_box_have_their_units() -> None:
    """They are compared like fields."""
    box = Box(fields=(Field(name="heat", unit="kW", low=0, high=1),))
    schema = Schema(observation=UNITS.observation, action=box)

    with pytest.raises(ExpressionInvalid, match="has the units 'kW' and 's'"):
        compile_expression("heat > wait", schema, "truth")


def test_the_middle_of_a_chain_is_evaluated_once() -> None:
    """Or chains inside chains would take for ever, as short as they are."""
    source = "load"
    for _ in range(15):
        source = f"(1 if 0 < {source} < 3 else 0)"

    assert evaluated(f"{source} > 0", context_of([[1, 0, 0], [5, 0, 0]])).tolist() == [[True], [False]]
    asked = compile_expression("0 < load / lag < 3", SCHEMA, "truth")
    assert [None if x is None else x.tolist() for x in asked.evaluate(context_of([[1, 1, 0], [1, 0, 0]]), None)] == [
        [[True], [False]],
        [[False], [True]],
    ]


def test_an_expression_may_have_several_lines() -> None:
    """They make one, and a comment ends with its line."""
    source = "\n  load > 1  # busy\n  and lag > 2\n"

    assert evaluated(source, context_of([[2, 3, 0], [2, 1, 0], [0, 3, 0]])).tolist() == [[True], [False], [False]]
    with pytest.raises(ExpressionInvalid, match=r"line 2, column 12: the name 'huge' is not known"):
        compile_expression("load > 1\n  or lag > huge\n", SCHEMA, "truth")


def test_a_number_may_be_asked_for() -> None:
    """A bound's quantity is a number, and a condition is none."""
    value, failed = compile_expression("load * 2", SCHEMA, "number").evaluate(context_of([[1, 0, 0], [2, 0, 0]]), None)

    assert value.tolist() == [[2], [4]]
    assert failed is None
    with pytest.raises(ExpressionInvalid, match="is a condition, expected a number"):
        compile_expression("load > 2", SCHEMA, "number")


def test_a_compiled_expression_keeps_what_people_wrote() -> None:
    """Reports show the source."""
    assert compile_expression("load > 2", SCHEMA, "truth").source == "load > 2"


@pytest.mark.parametrize("source", MEANINGS)
def test_an_expression_means_what_it_says(source: str) -> None:
    """For every action, whether all are asked about at once or each alone."""
    history = History(known=True, since=NOW - 9, step=2, action=2, changed_at=NOW - 4)
    context = context_of([[0.5, 0, -3]], facts=[[3, 1]], histories=[history])
    expected = [bool(truth) for truth in MEANINGS[source]]

    assert np.broadcast_to(evaluated(source, context), (1, 6))[0].tolist() == expected
    for action, truth in enumerate(expected):
        assert evaluated(source, context, np.array([action])).tolist() == [truth]


@pytest.mark.parametrize("source", FAILURES)
def test_a_failure_counts_where_python_would_have_met_it(source: str) -> None:
    """``and``, ``or``, conditionals and chains stop where Python stops."""
    context = context_of([[0.5, 0, 3]], facts=[[3, np.nan]])

    _, failed = compile_expression(source, SCHEMA, "truth").evaluate(context, None)

    assert bool(np.any(failed)) is FAILURES[source]


def test_a_failure_is_of_its_own_cell() -> None:
    """The other rows of the batch are unharmed."""
    context = context_of([[1, 0, 0], [1, 0.25, 0]])

    value, failed = compile_expression("load / lag > 3", SCHEMA, "truth").evaluate(context, None)

    assert failed is not None
    assert failed.tolist() == [[True], [False]]
    assert value[1].tolist() == [True]


@pytest.mark.parametrize("source", ["previous_action == 'up'", "step > 3", "action == previous_action"])
def test_history_that_is_not_here_fails(source: str) -> None:
    """It is not assumed: a rule about it cannot be evaluated."""
    context = context_of([[0, 0, 0]], histories=[History(known=False, since=NOW)])

    _, failed = compile_expression(source, SCHEMA, "truth").evaluate(context, None)

    assert failed is not None
    assert failed.all()


def test_before_the_first_decision_no_action_is_the_previous_one() -> None:
    """It equals none of them, and that is known."""
    context = context_of([[0, 0, 0]])

    assert not evaluated("previous_action == action", context).any()
    assert evaluated("previous_action != action", context).all()
    assert evaluated("seconds_since_change > 86400 and step == 0", context).all()


def test_a_field_named_like_something_of_ours_is_the_field() -> None:
    """What the policy observes is not renamed by what this service remembers."""
    schema = schema_of(("step",), ("a", "b"))

    assert evaluated("step == 7", context_of([[7]]), schema=schema).all()


def python_says(source: str, context: Context, row: int, action: int) -> float | bool | str:
    """What Python's own evaluation gives for a row and an action; "failed" where it, or a name in it, has no value."""
    told = Told(context, row, action)
    try:
        value: float | bool = eval(source, {"__builtins__": {"abs": abs, "min": min, "max": max}}, told)  # noqa: S307
    except (ZeroDivisionError, NameError):
        return "failed"
    return value


class Told(dict[str, float | str | None]):
    """The names of a row as Python values; what is not known raises when it is asked for."""

    def __init__(self, context: Context, row: int, action: int) -> None:
        names = (*SCHEMA.fields, *SCHEMA.facts)
        values = (*context.observation[row].tolist(), *context.facts[row].tolist())
        super().__init__((name, value) for name, value in zip(names, values, strict=True) if not np.isnan(value))
        history = context.histories[row]
        self["action"] = SCHEMA.actions[action]
        self["seconds_since_change"] = history.since_change(context.now[row].item())
        if history.known:
            self["step"] = history.step
        if history.known or history.step:
            self["previous_action"] = None if history.action == NO_ACTION else SCHEMA.actions[int(str(history.action))]


def compare(source: str, kind: Literal["truth", "number"], context: Context) -> None:
    """Compare a batch with Python cell by cell: all actions at once, and one a row."""
    shape = n, actions = len(context), len(SCHEMA.actions)
    expression = compile_expression(source, SCHEMA, kind)
    said = [[python_says(source, context, row, action) for action in range(actions)] for row in range(n)]

    assert found(expression.evaluate(context, None), shape) == said
    for action in range(actions):
        one = found(expression.evaluate(context, np.full(n, action)), (n,))
        assert one == [row[action] for row in said]


def found(result: Result, shape: tuple[int, ...]) -> list[object]:
    """A result as nested lists, "failed" where it failed."""
    value, failed = result
    cells = np.broadcast_to(value, shape).astype(object)
    cells[np.broadcast_to(False if failed is None else failed, shape)] = "failed"
    told: list[object] = cells.tolist()
    return told


@settings(max_examples=250, deadline=None, derandomize=True)
@given(truths(), contexts())
def test_conditions_mean_what_python_means(source: str, context: Context) -> None:
    """Every cell of the batch is what Python's own evaluation gives, and fails where that has no value."""
    compare(source, "truth", context)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(numbers(), contexts())
def test_numbers_mean_what_python_means(source: str, context: Context) -> None:
    """Bit for bit: both count in IEEE doubles."""
    compare(source, "number", context)
