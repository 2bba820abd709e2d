"""Random pairs of an expression and a situation whose numbers are dyadic: doubles count with them without rounding.

Numbers are multiples of 1/64 of moderate size, a product has two factors that are names or constants, and what is
divided by is a power of two or zero. So the compiler and the plain interpreter, which count in doubles, and the SMT
translation, which counts in exact reals, have to say the same.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np

from export.spec import Box, Dict, Discrete, Entry, Factor, Field, Fields, MultiDiscrete
from guards.actions import Written
from guards.proof.scenario import Before, Scenario, ranges
from guards.records import Schema
from tests.guards.batched import Context

DYADIC = Schema(
    observation=Dict(
        entries=(
            Entry(key="real", space=Fields(fields=(Field(name="load"), Field(name="lag")), dtype="float64")),
            Entry(key="whole", space=Fields(fields=(Field(name="pods"), Field(name="jobs")), dtype="int64")),
        )
    ),
    action=Discrete(names=("hold", "up", "down", "jump")),
    facts=("budget", "price"),
)
FACTORED = replace(
    DYADIC,
    action=MultiDiscrete(
        factors=(Factor(name="fan", names=("off", "low", "high")), Factor(name="heat", names=("off", "on")))
    ),
)
NUMBERED = replace(DYADIC, action=Box(fields=(Field(name="power", low=-8, high=8), Field(name="tilt"))))
# What is divided by: `lag` is one of these too.
_POWERS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, -0.5, -2.0)
_DIVISORS = ("lag", "abs(lag)", "(-lag)", "2", "0.5", "4", "(lag if pods > 0 else 2)", "0")
_FACTORS = ("load", "lag", "pods", "jobs", "budget", "price", "step", "3", "0.5", "-1.25", "2.015625")
_WHOLE = ("pods", "jobs", "step", "2", "3", "-3", "7", "0")
_COMPARE = ("<", "<=", ">", ">=", "==", "!=")


def condition(random: Random, depth: int, *, remainders: bool = True, schema: Schema = DYADIC) -> str:
    """A condition; with ``remainders`` of numbers that are not whole too."""

    def inner() -> str:
        return condition(random, depth - 1, remainders=remainders, schema=schema)

    def number() -> str:
        return _number(random, depth, remainders=remainders, schema=schema)

    sign = random.choice(_COMPARE)
    if depth == 0:
        return random.choice((f"({number()} {sign} {number()})", _same_actions(random, schema), "True"))
    forms = [
        lambda: f"({number()} {sign} {number()})",
        lambda: f"({number()} {sign} {number()} {random.choice(_COMPARE)} {number()})",
        lambda: _same_actions(random, schema),
        lambda: f"(not {inner()})",
        lambda: f"({inner()} and {inner()})",
        lambda: f"({inner()} or {inner()} or {inner()})",
        lambda: f"({inner()} if {inner()} else {inner()})",
    ]
    return random.choice(forms)()


def _number(random: Random, depth: int, *, remainders: bool, schema: Schema) -> str:
    factors, whole = (*_FACTORS, *_parts(schema)), (*_WHOLE, *_parts(schema, whole=True))

    def inner() -> str:
        return _number(random, depth - 1, remainders=remainders, schema=schema)

    leaf = random.choice((*factors, "seconds_since_change"))
    if depth <= 0:
        return leaf
    forms = [
        lambda: leaf,
        lambda: f"({random.choice(factors)} * {random.choice(factors)})",
        lambda: f"({inner()} {random.choice('+-')} {inner()})",
        lambda: f"({inner()} / {random.choice(_DIVISORS)})",
        lambda: f"({_whole(random, depth - 1, whole)} % {_whole(random, depth - 1, whole)})",
        lambda: f"(-{inner()})",
        lambda: f"abs({inner()})",
        lambda: f"{random.choice(('min', 'max'))}({inner()}, {inner()}, {leaf})",
        lambda: f"(-{inner()} if {condition(random, depth - 1, remainders=remainders, schema=schema)} else {inner()})",
    ]
    if remainders:
        forms.append(lambda: f"({inner()} % {inner()})")
    return random.choice(forms)()


def _parts(schema: Schema, *, whole: bool = False) -> tuple[str, ...]:
    """The numbers that an action is made of."""
    action = schema.action
    if isinstance(action, MultiDiscrete):
        return tuple(factor.name for factor in action.factors)
    return tuple(field.name for field in action.fields) if isinstance(action, Box) and not whole else ()


def _whole(random: Random, depth: int, leaves: Sequence[str]) -> str:
    """A number that can only be whole."""
    leaf = random.choice(leaves)
    if depth <= 0:
        return leaf
    other = _whole(random, depth - 1, leaves)
    return random.choice((leaf, f"({leaf} + {other})", f"({leaf} * {leaf})", f"abs({other})", f"(-{other})"))


def _same_actions(random: Random, schema: Schema) -> str:
    if isinstance(schema.action, Box):
        return f"({random.choice(_parts(schema))} > {random.choice(_FACTORS)})"
    if isinstance(schema.action, MultiDiscrete):
        factor, sign = random.choice(schema.action.factors), random.choice(("==", "!="))
        name, other = (repr(random.choice(factor.names)) for _ in range(2))
        return random.choice(
            (
                f"({factor.name} {sign} {name})",
                f"({name} {sign} {factor.name})",
                f"({factor.name} {random.choice(('in', 'not in'))} ({name}, {other}))",
                f"(fan {sign} heat)",
            )
        )
    action, sign = random.choice(("action", "previous_action")), random.choice(("==", "!="))
    name, other = (repr(random.choice(DYADIC.actions)) for _ in range(2))
    return random.choice(
        (f"({action} {sign} {name})", f"(action {sign} previous_action)", f"({action} in ({name}, {other}))")
    )


def situation(random: Random, schema: Schema = DYADIC) -> Scenario:
    """Anything that may be observed and told, after anything that may have happened."""
    observation = {
        name: _observed(random, name, dtype, field.low, field.high) for name, (field, dtype) in ranges(schema).items()
    }
    facts = {name: None if random.random() < 0.25 else _dyadic(random, -8, 8) for name in schema.facts}
    step = random.choice((0, 0, 1, 2, 5, 77))
    known = random.random() < 0.7
    ago = None if step == 0 or random.random() < 0.2 else _dyadic(random, 0, 8)
    used = {random.choice(schema.choices): 0.0 for _ in range(3)} if step and schema.choices else {}
    past = Before(
        known=known,
        step=step,
        previous=acted(random, schema) if step else None,
        seconds_since_change=ago,
        used=used,
    )
    return Scenario(observation, facts, past)


def acted(random: Random, schema: Schema) -> Written:
    """Any action."""
    action = schema.action
    if isinstance(action, Discrete):
        return random.choice(action.names)
    if isinstance(action, MultiDiscrete):
        return tuple(random.choice(factor.names) for factor in action.factors)
    ranges_ = [(-8 if one.low is None else one.low, 8 if one.high is None else one.high) for one in action.fields]
    return tuple(_dyadic(random, low, high) for low, high in ranges_)


def _observed(random: Random, name: str, dtype: str, low: float | None, high: float | None) -> float:
    if name == "lag":
        return random.choice(_POWERS)
    lowest, highest = (-8.0 if low is None else low), (8.0 if high is None else high)
    if dtype == "int64":
        return float(random.randint(int(lowest), int(highest)))
    return random.choice((lowest, highest, _dyadic(random, lowest, highest)))


def _dyadic(random: Random, low: float, high: float) -> float:
    return random.randint(int(low * 64), int(high * 64)) / 64


def together(schema: Schema, situations: Sequence[Scenario]) -> Context:
    """Situations as one batch."""
    rows = [one.row(schema) for one in situations]
    return Context(
        observation=np.array([row.observation for row in rows]),
        facts=np.array([row.facts for row in rows]).reshape(len(rows), -1),
        mask=None,
        now=np.zeros(len(rows)),
        histories=[row.history for row in rows],
    )
