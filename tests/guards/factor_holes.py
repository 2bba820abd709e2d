"""Configurations over several factors: in the first table a hole is planted, the others always leave something."""

from collections.abc import Mapping
from typing import Any

from export.spec import Factor, MultiDiscrete
from guards.abstention import Fresh
from guards.constraints import Bounds, Constraint, Cooldown, MaxSwitches, RateLimit, Rule
from guards.records import Schema
from tests.guards.holes import PLANT, Case, rules, spending

_LEVELS = ("off", "low", "high")
ROOM = Schema(
    observation=PLANT.observation,
    action=MultiDiscrete(
        factors=(
            Factor(name="heat", names=_LEVELS),
            Factor(name="cool", names=("off", "on")),
            Factor(name="fan", names=_LEVELS),
        )
    ),
    facts=PLANT.facts,
)


def _square(names: tuple[str, ...], choices: int) -> Schema:
    factors = tuple(Factor(name=name, names=tuple(f"c{i}" for i in range(choices))) for name in names)
    return Schema(observation=PLANT.observation, action=MultiDiscrete(factors=factors))


SWITCHES = _square(tuple(f"s{i}" for i in range(12)), 2)
GRID = _square(("a", "b"), 64)
# More whole actions than anybody can list.
WIDE = _square(tuple(f"k{i}" for i in range(40)), 10)
_SUM = " + ".join(f"s{i}" for i in range(12))


def case(*constraints: Constraint, hole: str = "", last: tuple[str, ...] = ("off", "off", "off")) -> Case:
    """A configuration of the room."""
    return Case(constraints, hole, last, ROOM)


def cooldown(*actions: str) -> Cooldown:
    """A cooldown of a minute."""
    return Cooldown(name=f"cooldown of {' and '.join(actions)}", actions=actions, seconds=60)


def bounds(effect: Mapping[str, float], **said: Any) -> Bounds:
    """Bounds of the replicas."""
    return Bounds(name="bounds", of="replicas", effect=dict(effect), **said)


_HEATS = {"heat=off": 0.0, "heat=low": 1.0, "heat=high": 3.0}
_RATE = RateLimit(name="slowly", per_second=1, levels=_HEATS)
_MOVES = {"heat=low": 1, "heat=high": 2, "fan=low": -1, "fan=high": -2}

FACTOR_HOLES = {
    "a rule that forgot its factor": case(*rules("cpu > 0.9"), hole="cpu > 0.9"),
    "each choice of a factor": case(
        *rules("heat == 'off' and cpu > 0.9", "heat == 'low' and cpu > 0.5", "'high' == heat and temp > 50"),
        hole="cpu > 0.9 and temp > 50",
    ),
    "factors that need each other": case(
        *rules("heat != 'off' and fan == 'off'", "fan != 'off' and temp > 100", "heat == 'off' and cpu > 0.9"),
        hole="temp > 100 and cpu > 0.9",
    ),
    "a cooldown of all choices": case(cooldown("heat=off", "heat=low", "heat=high"), hole="step > 0 or step < 0"),
    "choices as numbers": case(*rules("heat + cool + fan > 4 - 5 * cpu"), hole="cpu > 0.8"),
    "a division by a choice": case(*rules("queue / heat > 5"), hole="queue > 10"),
    "bounds of sums": case(
        bounds({"heat=low": 40, "heat=high": 50, "fan=low": 50, "fan=high": 40}, high=30),
        *rules("heat == 'off' and fan == 'off' and cpu > 0.5"),
        hole="cpu > 0.5",
    ),
    "a fact for each choice": case(
        *rules("heat == 'off' and price > 3", "heat != 'off' and price > 2"), hole="price > 3"
    ),
    "some of several": case(
        *rules("heat in ('off', 'low') and cpu > 0.5", "heat not in ('off', 'low') and cpu > 0.4"), hole="cpu > 0.5"
    ),
    "a budget of sums": case(spending("heat + fan + 1"), hole="step > 0 or step < 0"),
    "switches": case(
        MaxSwitches(name="calm", at_most=3, seconds=60), *rules("cpu > 0.9 and heat == 'off'"), hole="step != 0"
    ),
    "a rate limit of levels": case(_RATE, *rules("heat != 'off' and cpu > 0.9"), hole="step != 0"),
    "a rate limit of effects": case(
        RateLimit(name="slowly", per_second=1, effect=_MOVES),
        *rules("cpu > 0.9 and heat == fan"),
        hole="cpu > 0.9",
    ),
    "twelve switches": Case(
        rules(f"{_SUM} > 11 - 20 * cpu", "s3 == 'c0' and s4 == 'c0' and temp > 3"), "cpu > 0.5", None, SWITCHES
    ),
    "one of all whole actions": Case(rules("a + 64 * b != 5 * queue"), "queue > 819", None, GRID),
    "more than a list can have": Case(
        rules("k0 + k1 + k2 < 5", "k0 >= 2 and cpu > 0.9", "k1 + k2 > 0 and cpu > 0.9"), "cpu > 0.9", None, WIDE
    ),
}

FACTOR_SOUND = {
    "no constraints": case(),
    "a limit on one choice": case(*rules("heat == 'high' and replicas <= 2")),
    "factors that need each other": case(
        *rules("heat != 'off' and fan == 'off'", "fan != 'off' and temp > 100", "heat == 'off' and 50 < temp < 100")
    ),
    "cooldowns of all but one": case(cooldown("heat=low", "heat=high"), cooldown("cool=on", "fan=low")),
    "choices as numbers": case(*rules("heat + cool + fan > 5 - 5 * cpu")),
    "a division that is guarded": case(*rules("heat != 0 and queue / heat > 5")),
    "bounds of sums": case(bounds(_MOVES, low=1, high=30)),
    "steep bounds of sums": case(
        bounds({"heat=low": 50, "heat=high": 90, "fan=low": -50, "fan=high": -90}, low=1, high=30),
        *rules("heat == 'off' and fan == 'off'"),
    ),
    "a fact that is asked for last": case(*rules("heat != 'off' and price > 2", "heat == 'low' and budget < 1")),
    "a budget of sums": case(spending("heat + fan")),
    "a rate limit of effects": case(RateLimit(name="slowly", per_second=1, effect=_MOVES), *rules("cool == 'on'")),
    "what only reports": case(*rules("True", mode="warn")),
    "what cannot be evaluated is let pass": case(
        Rule(name="dear", forbid="price > 3 and heat != 'off'", on_error="allow"),
        Fresh(name="fresh", max_age_seconds=1),
    ),
    "two halves": case(*rules("heat == 'off' and cpu < 0.5", "heat != 'off' and cpu >= 0.5")),
    "a remainder of a choice": case(*rules("(heat + 3 * fan) % 4 != 2 and queue % 2 == 0")),
    "twelve switches": Case(rules(f"{_SUM} > 12 * cpu", "s3 == s4 and cpu > 0.5"), "", ("c0",) * 12, SWITCHES),
    "one of all whole actions": Case(rules("a + 64 * b != queue"), "", ("c0", "c0"), GRID),
    "more than a list can have": Case(
        (
            *rules("k0 + k1 + k2 < 5", "k0 >= 2 and cpu > 0.9", "k1 == k2 and k3 == 'c7'"),
            cooldown("k5=c0", "k9=c1"),
        ),
        "",
        ("c0",) * 40,
        WIDE,
    ),
}
