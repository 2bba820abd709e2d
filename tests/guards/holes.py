"""Forty configurations of a shield: in half of them a hole is planted, the others always leave something to do."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from export.spec import Dict, Discrete, Entry, Field, Fields
from guards.abstention import AnyConstraint, Fresh, Novelty
from guards.actions import Written
from guards.constraints import Bounds, Budget, Constraint, Cooldown, MaxSwitches, Mode, RateLimit, Rule
from guards.records import Schema

_MEASURED = (
    Field(name="cpu", low=0, high=1),
    Field(name="replicas", low=1, high=30),
    Field(name="temp", low=-20, high=120),
    Field(name="rate"),
)
_COUNTED = (Field(name="queue", low=0, high=1000),)
PLANT = Schema(
    observation=Dict(
        entries=(
            Entry(key="measured", space=Fields(fields=_MEASURED)),
            Entry(key="counted", space=Fields(fields=_COUNTED, dtype="int64")),
        )
    ),
    action=Discrete(names=("hold", "up", "down")),
    facts=("price", "budget"),
)
# A thousand actions: no constraint names most of them.
MANY = Schema(observation=PLANT.observation, action=Discrete(names=tuple(f"a{i}" for i in range(1000))))


class Case(NamedTuple):
    """A configuration; of one with a hole, a condition that holds inside of it alone, or cannot be evaluated there."""

    constraints: tuple[Constraint, ...]
    hole: str = ""
    last_resort: Written | None = "hold"
    schema: Schema = PLANT


def rules(*forbid: str, mode: Mode = "deny") -> tuple[AnyConstraint, ...]:
    """Rules with these conditions."""
    return tuple(Rule(name=f"rule {i}", forbid=one, mode=mode) for i, one in enumerate(forbid))


def bounds(effect: Mapping[str, float], **said: Any) -> Bounds:
    """Bounds of the replicas."""
    return Bounds(name="bounds", of="replicas", effect=dict(effect), **said)


def cooldown(*actions: str) -> Cooldown:
    """A cooldown of a minute."""
    return Cooldown(name=f"cooldown of {' and '.join(actions)}", actions=actions, seconds=60)


def spending(cost: str, name: str = "spending") -> Budget:
    """A budget of 10 a minute."""
    return Budget(name=name, cost=cost, at_most=10, seconds=60)


LEVELS = {"hold": 0.0, "up": 1.0, "down": -1.0}
CALM = rules("action == 'hold' and cpu > 0.9")

HOLES = {
    "a rule that forgot its action": Case(rules("cpu > 0.9"), "cpu > 0.9"),
    "bounds and a rule": Case(
        (bounds({"up": 25, "down": -25}, low=1, high=30), *rules("action == 'hold' and cpu > 0.9")),
        "5 < replicas < 26 and cpu > 0.9",
    ),
    "bounds, a cooldown and a rule": Case(
        (bounds({"up": 1}, high=30), cooldown("down"), *rules("action == 'hold' and cpu > 0.9")),
        "replicas > 29 and cpu > 0.9",
    ),
    "two cooldowns": Case((cooldown("up"), cooldown("down"), *rules("action == 'hold' and cpu > 0.9")), "cpu > 0.9"),
    "a cooldown of everything": Case((cooldown("hold", "up", "down"),), "True"),
    "a fact that may not be given": Case(rules("price > 3"), "price > 3"),
    "a fact for each action": Case(
        rules("action == 'hold' and price > 3", "action == 'up' and price > 2", "action == 'down' and budget < 1"),
        "price > 3 and budget < 1",
    ),
    "a division by zero": Case(rules("replicas / queue > 5 and action == 'up'"), "queue == 0"),
    "a division by the wrong zero": Case(
        rules("temp != 0 and replicas / (temp - 1) > 50 and action == 'up'"), "temp == 1"
    ),
    "a history that is not here": Case(rules("previous_action == 'up' and action == 'down'"), "step < 0"),
    "a step that comes once": Case(rules("step == 77"), "step == 77"),
    "no action twice": Case(
        rules("action == previous_action", "action != 'hold' and cpu >= 0.5"),
        "cpu >= 0.5 and previous_action == 'hold' or step < 0",
    ),
    "no change too soon": Case(
        rules("seconds_since_change < 10 and action != previous_action", "action == previous_action and cpu > 0.99"),
        "seconds_since_change < 10 and cpu > 0.99 or step < 0",
    ),
    "a thin slice": Case(rules("0.7 < cpu < 0.7000001"), "0.7 < cpu < 0.7000001"),
    "a single point": Case(rules("cpu == 0.3"), "cpu == 0.3"),
    "a corner of two fields": Case(rules("cpu * 2 + temp / 10 > 13.9"), "cpu > 0.9 and temp > 118"),
    "a product": Case(rules("replicas * cpu > 29.5"), "replicas > 29 and cpu > 0.98"),
    "a remainder": Case(rules("queue % 7 == 3 and queue % -5 == -1"), "queue % 35 == 24"),
    "calls and a conditional": Case(
        rules("abs(temp) > 119 and max(cpu, 0.5) > min(replicas, 0.6)", "(temp if cpu > 0.5 else -temp) < -19.5"),
        "abs(temp) > 19.5",
    ),
    "a field without a range": Case(rules("rate > 1e12"), "rate > 1e12"),
    "a rate limit and a rule": Case(
        (RateLimit(name="slowly", per_second=1, levels=LEVELS), *rules("action == previous_action and cpu > 0.9")),
        "cpu > 0.9 or step < 0",
    ),
    "two budgets": Case(
        (spending("1 if action == 'up' else 0"), spending("0.5 if action == 'down' else 0", "less"), *CALM),
        "cpu > 0.9",
    ),
    "a budget that something costs that nobody knows": Case((spending("price"),), "price > 0"),
    "switches": Case((MaxSwitches(name="calm", at_most=3, seconds=60), *CALM), "cpu > 0.9 or step < 0"),
    "a thousand actions": Case(
        rules("action not in ('a1', 'a7')", "action == 'a1' and cpu < 0.2", "action == 'a7' and cpu < 0.1"),
        "cpu < 0.1",
        last_resort=None,
        schema=MANY,
    ),
}

SOUND = {
    "no constraints": Case(()),
    "a limit on one action": Case(rules("action == 'down' and replicas <= 2")),
    "bounds, a cooldown and a rule": Case(
        (
            bounds({"up": 1, "down": -1}, low=2, high=30),
            cooldown("down"),
            *rules("action == 'down' and cpu > 0.9"),
        )
    ),
    "cooldowns of all but one": Case((cooldown("up"), cooldown("down"), cooldown("up", "down"))),
    "a hole beyond the range": Case(rules("cpu > 1", "replicas < 1", "queue > 1000")),
    "bounds that close every move": Case((bounds({"up": 100, "down": -100}, low=1, high=30),)),
    "a fact that is asked for last": Case(rules("action != 'hold' and price > 3", "action == 'up' and budget < 1")),
    "a division that is guarded": Case(rules("queue != 0 and replicas / queue > 5 and action == 'up'")),
    "what only reports": Case(
        (*rules("True", mode="warn"), cooldown("hold", "up", "down").model_copy(update={"mode": "audit"}))
    ),
    "two halves": Case(rules("action == 'hold'", "action == 'up' and cpu < 0.5", "action == 'down' and cpu >= 0.5")),
    "three parts": Case(
        rules("action != 'up' and temp < 0", "action != 'hold' and 0 <= temp < 50", "action != 'down' and temp >= 50")
    ),
    "a history that is asked for last": Case(rules("action != 'hold' and previous_action == 'up'")),
    "no action twice but one": Case(rules("action != 'hold' and action == previous_action")),
    "odd and even": Case(
        rules("action == 'hold'", "action == 'up' and queue % 2 == 0", "action == 'down' and queue % 2 == 1")
    ),
    "between two whole numbers": Case(rules("4 < queue < 5")),
    "a square": Case(rules("(cpu - 0.5) * (cpu - 0.5) < 0")),
    "a product within its range": Case(rules("replicas * cpu > 30")),
    "calls": Case(rules("abs(temp) < 0", "max(cpu, 0.5) < min(cpu, 0.5)")),
    "a conditional": Case(rules("(cpu if cpu > 0.5 else 1 - cpu) < 0.5")),
    "time and steps": Case(rules("seconds_since_change < 0", "action != 'hold' and step < 5")),
    "a rate limit": Case((RateLimit(name="slowly", per_second=1, effect={"up": 1, "down": -1}),)),
    "a budget of some actions": Case((spending("0 if action == 'hold' else 1"),)),
    "what cannot be evaluated is let pass": Case(
        (Rule(name="dear", forbid="price > 3 and action != 'hold'", on_error="allow"),)
    ),
    "doubts about the policy": Case((Fresh(name="fresh", max_age_seconds=1), Novelty(name="novel"))),
    "a remainder that does not matter": Case(rules("action == 'up' and temp % 7 > 3")),
    "a thousand actions": Case(
        (
            *rules("action != 'a0' and action == previous_action", "action in ('a1', 'a7')"),
            cooldown("a9"),
        ),
        last_resort="a0",
        schema=MANY,
    ),
}
