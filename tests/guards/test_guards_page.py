"""The page about the guards: its examples over choices bind, and do what the page says."""

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from export.spec import Discrete, Factor, MultiDiscrete
from guards.abstention import AnyConstraint
from guards.constraints import Constraint
from guards.records import NO_ACTION, History, Schema
from tests.fakes import NOW, context_of, schema_of
from tests.guards.batched import Shield

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guards.md"
parsed = TypeAdapter[Constraint](AnyConstraint).validate_json
SCALER = schema_of(("cpu", "queue", "replicas"), ("hold", "scale_up", "scale_down"), ("price",))
VALVE = Schema(SCALER.observation, Discrete(names=("closed", "half", "open")))
LEVELS = ("off", "low", "high")
HEATER = MultiDiscrete(
    factors=(
        Factor(name="heat", names=LEVELS),
        Factor(name="cool", names=("off", "on")),
        Factor(name="fan", names=LEVELS),
    )
)


def examples() -> dict[str, dict[str, Any]]:
    """The constraints over choices that the page shows, by name."""
    text = PAGE.read_text("utf-8").partition("\n## Numbers")[0]
    tables = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
    return {one["name"]: one for table in tables for one in table.get("constraints", [])}


def shield_of(name: str) -> Shield:
    """The shield of one example."""
    told = examples()[name]
    names = " ".join([*told.get("actions", []), told.get("forbid", "")])
    factored = "=on" in names or "heat" in names
    schema = Schema(SCALER.observation, HEATER) if factored else VALVE if "levels" in told else SCALER
    return Shield([parsed(TypeAdapter(dict[str, Any]).dump_json(told))], schema)


def left(shield: Shield, at: float, history: History, replicas: float = 5.0, price: float = 4.0) -> list[int]:
    """The columns of the actions that are left."""
    context = context_of([[0.5, 0, replicas]], facts=[[price]], now=[NOW + at], histories=[history])
    return np.flatnonzero(shield.judge(context).allowed[0]).tolist()


def after(shield: Shield, *done: tuple[float, int]) -> History:
    """The history after actions at some times."""
    history = History(known=True, since=NOW)
    for at, action in done:
        context = context_of([[0.5, 0, 5]], facts=[[4.0]], now=[NOW + at], histories=[history])
        weights = shield.weights(context, np.array([action]))[0] if shield.weighs else None
        history = shield.advanced(history, action, NOW + at, weights)
    return history


@pytest.mark.parametrize("name", examples())
def test_every_example_binds(name: str) -> None:
    """Names and settings are those that there are."""
    assert repr(shield_of(name)).startswith("<Shield 1 constraints")


HOLD, UP, DOWN = 0, 1, 2


@pytest.mark.parametrize(
    ("name", "done", "at", "replicas", "expected"),
    [
        ("keep two replicas", [], 0, 2, [HOLD, UP]),
        ("keep two replicas", [], 0, 3, [HOLD, UP, DOWN]),
        ("scale-down rests", [(0, DOWN)], 59, 5, [HOLD, UP]),
        ("scale-down rests", [(0, DOWN)], 60, 5, [HOLD, UP, DOWN]),
        ("2 to 30 replicas", [], 0, 30, [HOLD, DOWN]),
        ("2 to 30 replicas", [], 0, 35, [HOLD, DOWN]),
        ("a replica in 20 s", [(0, UP), (10, HOLD)], 19, 5, [HOLD]),
        ("a replica in 20 s", [(0, UP), (10, HOLD)], 20, 5, [HOLD, UP, DOWN]),
        ("the valve turns slowly", [(-9, 1), (0, 0)], 10, 5, [0, 1]),
        ("the valve turns slowly", [(-9, 1), (0, 0)], 20, 5, [0, 1, 2]),
        ("20 a minute", [(0, UP), (10, UP)], 59, 5, [HOLD, DOWN]),
        ("20 a minute", [(0, UP), (10, UP)], 60, 5, [HOLD, UP, DOWN]),
        ("no flapping", [(0, HOLD), (1, UP), (2, HOLD), (3, UP), (4, DOWN)], 60, 5, [DOWN]),
        ("no flapping", [(0, HOLD), (1, UP), (2, HOLD), (3, UP), (4, DOWN)], 61, 5, [HOLD, UP, DOWN]),
    ],
)
def test_an_example_does_what_the_page_says(
    name: str, done: list[tuple[float, int]], at: float, replicas: float, expected: list[int]
) -> None:
    """To the second."""
    shield = shield_of(name)

    assert left(shield, at, after(shield, *done), replicas) == expected


def test_factors_are_joined() -> None:
    """No heat without air."""
    shield = shield_of("no heat without air")
    shape = HEATER.sizes

    found = {tuple(map(int, np.unravel_index(i, shape))) for i in left(shield, 0, History(True, NOW, action=NO_ACTION))}

    assert found == {a for a in np.ndindex(shape) if not (a[0] == 2 and a[2] < 2)}
