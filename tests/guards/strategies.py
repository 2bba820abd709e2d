"""Random expressions of the rule language, random batches and random constraints, for property tests."""

from functools import cache
from random import Random

import numpy as np
from hypothesis import strategies as st

from guards.constraints import Bounds, Budget, Constraint, Cooldown, MaxSwitches, RateLimit, Rule
from guards.records import NO_ACTION, History
from tests.fakes import NOW, SCHEMA, context_of
from tests.guards.batched import Context

# Few values, so that rows are often equal to each other, to a constant, and to zero. Powers and products of them stay
# exact or nearly so: where Python counts in whole numbers it gives what doubles give.
VALUES = (-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0)
NUMBERS = ("0", "1", "2", "3", "0.5", "2.5", "-1", *SCHEMA.fields, *SCHEMA.facts, "step", "seconds_since_change")
ACTIONS = ("action", "previous_action")
Text = st.SearchStrategy[str]


def quoted() -> Text:
    """The name of an action as a rule writes it."""
    return st.sampled_from(SCHEMA.actions).map(repr)


def joined(separator: str, parts: Text, most: int = 3) -> Text:
    """Some parts with something between them."""
    return st.lists(parts, min_size=2, max_size=most).map(lambda some: f"({separator.join(some)})")


@cache
def numbers(depth: int = 4) -> Text:
    """Expressions that are a number."""
    leaf = st.sampled_from(NUMBERS)
    if depth == 0:
        return leaf
    inner = numbers(depth - 1)
    return st.one_of(
        leaf,
        st.builds("({} {} {})".format, inner, st.sampled_from(("+", "-", "*", "/", "%")), inner),
        inner.map("(-{})".format),
        inner.map("abs({})".format),
        joined(", ", inner).flatmap(lambda some: st.sampled_from(("min", "max")).map(lambda name: name + some)),
        st.builds("({} if {} else {})".format, inner, truths(depth - 1), inner),
    )


@cache
def truths(depth: int = 4) -> Text:
    """Expressions that are a condition."""
    leaf = st.one_of(st.sampled_from(("True", "False")), same_actions())
    if depth == 0:
        return leaf
    inner, number = truths(depth - 1), numbers(depth - 1)
    compare = st.sampled_from((" < ", " <= ", " > ", " >= ", " == ", " != "))
    return st.one_of(
        leaf,
        compare.flatmap(lambda sign: joined(sign, number)),
        st.builds("({} < {} {} {})".format, number, number, st.sampled_from(("!=", ">=")), number),
        inner.map("(not {})".format),
        joined(" and ", inner),
        joined(" or ", inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
    )


def same_actions() -> Text:
    """Conditions about the action asked about and the previous one."""
    action, sign = st.sampled_from(ACTIONS), st.sampled_from(("==", "!="))
    return st.one_of(
        st.builds("({} {} {})".format, action, sign, st.one_of(action, quoted())),
        st.builds("({} {} {})".format, quoted(), sign, action),
        st.builds("({} {} {} {} {})".format, quoted(), sign, action, sign, st.one_of(action, quoted())),
        st.builds("({} {} {})".format, action, st.sampled_from(("in", "not in")), joined(", ", quoted())),
    )


def history_of(random: Random) -> History:
    """What happened before: nothing, something, or something elsewhere."""
    actions = range(len(SCHEMA.actions))
    step = random.randrange(4)
    ago = (0.0, 1.0, 2.5, 100.0)
    return History(
        known=random.random() < 0.7,
        since=NOW - random.choice(ago),
        step=step,
        action=random.choice(actions) if step else NO_ACTION,
        changed_at=NOW - random.choice(ago) if step > 1 and random.random() < 0.5 else None,
        used={a: NOW - random.choice(ago) for a in random.sample(actions, random.randrange(4))} if step else {},
        kept={f"c{i}": kept_of(random) for i in range(4) if step and random.random() < 0.7},
    )


def kept_of(random: Random) -> tuple[float, ...]:
    """Numbers that a constraint kept: times in order, each with an amount."""
    times = sorted(NOW - random.choice((0.0, 0.5, 1.0, 30.0, 90.0)) for _ in range(random.randrange(4)))
    return tuple(number for time in times for number in (time, random.choice((0.5, 1.0, 3.0))))


def context_from(seed: int) -> Context:
    """A batch of one to four decisions under ``SCHEMA``."""
    random = Random(seed)  # noqa: S311 - a test that repeats itself
    n, actions = random.randint(1, 4), len(SCHEMA.actions)
    facts = (*VALUES, np.nan, np.nan)
    masked = random.random() < 0.5
    return context_of(
        [random.choices(VALUES, k=3) for _ in range(n)],
        facts=[random.choices(facts, k=2) for _ in range(n)],
        mask=[random.choices((True, False), k=actions) for _ in range(n)] if masked else None,
        histories=[history_of(random) for _ in range(n)],
    )


def contexts() -> st.SearchStrategy[Context]:
    """Batches; made from a seed, which is a hundred times faster than drawing every number."""
    return st.integers(0, 2**32 - 1).map(context_from)


def constraints() -> st.SearchStrategy[list[Constraint]]:
    """Up to four constraints of the kinds listed here, in any mode."""
    some = st.sampled_from(SCHEMA.actions)
    mode = st.sampled_from(("deny", "deny", "warn", "audit"))
    bound = st.none() | st.sampled_from(VALUES)
    rules = st.builds(Rule, name=st.just("x"), mode=mode, forbid=truths(2))
    cooldowns = st.builds(
        Cooldown,
        name=st.just("x"),
        mode=mode,
        actions=st.lists(some, min_size=1, max_size=3).map(tuple),
        seconds=st.sampled_from((1.0, 2.0, 60.0)),
    )
    bounds: st.SearchStrategy[Bounds] = st.builds(
        Bounds,
        name=st.just("x"),
        mode=mode,
        of=numbers(2),
        effect=st.dictionaries(some, st.sampled_from(VALUES), max_size=4),
        low=bound,
        high=bound,
    ).filter(lambda b: not (isinstance(b.low, float) and isinstance(b.high, float) and b.low > b.high))
    limits = st.builds(
        RateLimit,
        name=st.just("x"),
        mode=mode,
        per_second=st.sampled_from((0.5, 1.0, 100.0)),
        effect=st.dictionaries(some, st.sampled_from(VALUES), min_size=1),
    )
    levels = limits.map(
        lambda one: one.model_copy(
            update={"levels": {name: one.effect.get(name, 0.5) for name in SCHEMA.actions}, "effect": {}}
        )
    )
    budgets = st.builds(
        Budget,
        name=st.just("x"),
        mode=mode,
        cost=numbers(2),
        at_most=st.sampled_from((1.0, 3.0, 10.0)),
        seconds=st.sampled_from((1.0, 60.0)),
    )
    switches = st.builds(
        MaxSwitches,
        name=st.just("x"),
        mode=mode,
        at_most=st.integers(1, 4),
        seconds=st.sampled_from((1.0, 60.0)),
    )
    kinds = st.one_of(rules, cooldowns, bounds, limits, levels, budgets, switches)
    named = st.lists(kinds, max_size=4)
    return named.map(lambda many: [one.model_copy(update={"name": f"c{i}"}) for i, one in enumerate(many)])
