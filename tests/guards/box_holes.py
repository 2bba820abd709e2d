"""Configurations over a Box: in the first table a hole is planted, the others always leave something to do."""

from typing import Any

from export.spec import Box, Field
from guards.abstention import Fresh
from guards.constraints import Bounds, Constraint, Linear, RateLimit, Rule
from guards.records import Schema
from tests.guards.holes import PLANT, Case, rules, spending

HEATER = Schema(
    observation=PLANT.observation,
    action=Box(fields=(Field(name="heat", low=0, high=10), Field(name="fan", low=0, high=100), Field(name="free"))),
    facts=PLANT.facts,
)
LAST = (0.0, 0.0, 0.0)
_BROAD = tuple(Field(name=f"x{i}", low=-1, high=1) for i in range(24))
BROAD = Schema(observation=PLANT.observation, action=Box(fields=_BROAD))


def case(*constraints: Constraint, hole: str = "") -> Case:
    """A configuration of the heater."""
    return Case(constraints, hole, LAST, HEATER)


def bounds(of: str, **said: Any) -> Bounds:
    """Bounds of a number."""
    return Bounds(name=f"bounds of {of}", of=of, **said)


def linear(name: str, at_most: float | str, **coefficients: float | str) -> Linear:
    """A half-space."""
    return Linear(name=name, coefficients=dict(coefficients), at_most=at_most)


def slowly(of: str, **said: Any) -> RateLimit:
    """A rate limit."""
    return RateLimit(name=f"slowly {of}", of=of, per_second=1, **said)


_FUSE = linear("fuse", 9, heat=1, fan=0.02)
_ALL = {f"x{i}": 1.0 for i in range(24)}

BOX_HOLES = {
    "a rule that forgot its number": case(*rules("cpu > 0.9"), hole="cpu > 0.9"),
    "bounds that cross": case(
        bounds("heat", low="temp / 10"),
        bounds("fan", low=1).model_copy(update={"name": "b"}),
        Bounds(name="most", of="heat", high=5),
        hole="temp > 50",
    ),
    "one kind of bounds that crosses": case(bounds("heat", low="temp / 20", high=5), hole="temp > 100"),
    "bounds beyond the Box": case(bounds("heat", low="temp / 10"), hole="temp > 100"),
    "bounds and a half-space": case(
        _FUSE, bounds("heat", low="8 * cpu"), bounds("fan", low="80 * cpu"), hole="cpu > 0.93"
    ),
    "two half-spaces": case(
        linear("most", 5, heat=1, fan=1), linear("least", "-6 * cpu", heat=-1, fan=-1), hole="cpu > 0.83"
    ),
    "a coefficient of a fact": case(linear("worth", -1, heat="price"), hole="price > -0.1"),
    "a limit that cannot be evaluated": case(bounds("heat", high="replicas / queue"), hole="queue == 0"),
    "a rate limit after a restart": case(slowly("heat"), hole="step < 0"),
    "a rate limit and a rule": case(slowly("heat", assume=(5, 5)), *rules("heat > 2 and cpu > 0.5"), hole="cpu > 0.5"),
    "a rate limit and bounds": case(slowly("heat", assume=(1, 1)), bounds("heat", high="cpu * 10"), hole="cpu < 1"),
    "a budget": case(spending("heat + 1"), hole="step > 0 or step < 0"),
    "rules of numbers": case(
        *rules("heat > 2 and fan < 10", "fan >= 10 and cpu > 0.5", "heat <= 2 and temp < 0"),
        hole="cpu > 0.5 and temp < 0",
    ),
    "a division by a number": case(*rules("cpu / heat > 0.05"), hole="cpu > 0.5"),
    "a product of numbers": case(*rules("heat * fan > 50", "heat < 1", "fan < 100 * cpu"), hole="cpu > 0.5"),
    "a single point": case(*rules("heat != 5", "heat == 5 and cpu > 0.95"), hole="cpu > 0.95"),
    "a number without bounds": case(
        bounds("free", low="rate"), linear("below", "rate - 1 + cpu", free=1), hole="cpu < 1"
    ),
    "bounds and a rule": case(bounds("heat", low=2), *rules("heat >= 2 and fan >= 0 and temp > 20"), hole="temp > 20"),
    "calls and a conditional": case(
        *rules("abs(heat - 5) < 6 * cpu", "(fan if cpu > 0.5 else -fan) > 50 - 40 * cpu and heat > 4"),
        hole="cpu > 0.8",
    ),
    "many numbers": Case(
        (linear("sum", "-20", **_ALL), *(bounds(f"x{i}", low="cpu - 1") for i in range(24))), "cpu > 0.15", None, BROAD
    ),
}

BOX_SOUND = {
    "no constraints": case(),
    "bounds": case(bounds("heat", low=0, high="max(0, 24 - temp) * 2")),
    "bounds that touch": case(bounds("heat", low="temp / 20", high=6)),
    "bounds and a half-space": case(_FUSE, bounds("heat", low="7 * cpu"), bounds("fan", low="80 * cpu")),
    "two half-spaces": case(linear("most", 5, heat=1, fan=1), linear("least", "-5 * cpu", heat=-1, fan=-1)),
    "coefficients that are expressions": case(linear("worth", "2 + 0.1 * temp", heat="cpu", fan="temp / 100")),
    "a rate limit that knows": case(slowly("heat", assume=(0, 0)), *rules("heat > 2 and fan > 50")),
    "a limit that is guarded": case(bounds("heat", high="replicas / queue if queue > 0 else 1")),
    "a budget": case(spending("heat"), _FUSE),
    "rules of numbers": case(
        *rules("heat > 2 and fan < 10", "fan > 5 and heat < 1 and cpu > 0.5", "heat < 1 and temp < 0")
    ),
    "a fact that is asked for last": case(*rules("heat > 1 and price > 3", "fan > 1 and budget < 1")),
    "a product of numbers": case(*rules("heat * fan > 50", "heat < 1", "fan < 49")),
    "a division by a number": case(*rules("cpu / heat > 0.11")),
    "what only reports": case(*rules("True", mode="warn"), Fresh(name="fresh", max_age_seconds=1)),
    "what cannot be evaluated is let pass": case(Rule(name="dear", forbid="price * heat > 3", on_error="allow")),
    "a single point": case(*rules("heat != 5", "fan != 7 * cpu")),
    "a number without bounds": case(bounds("free", low="rate"), linear("below", "rate + cpu", free=1)),
    "many numbers": Case(
        (linear("sum", -20, **_ALL), *(bounds(f"x{i}", high="-0.9 + cpu / 30") for i in range(24))),
        "",
        (-1.0,) * 24,
        BROAD,
    ),
}
