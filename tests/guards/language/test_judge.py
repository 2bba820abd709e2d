"""The judge: walk, check and judge say the same, bit for bit, of any configuration, row and action."""

from random import Random
from typing import Any

import pytest

from export.spec import ActionSpace, MultiDiscrete
from guards.constraints import Bounds, Budget, Constraint, Cooldown, Linear, MaxSwitches, RateLimit, Rule
from guards.language.judge import FAILS, Block, Listing, folded, split
from guards.language.python import Source
from guards.language.terms import (
    FALSE,
    TRUE,
    Among,
    Compare,
    Fixed,
    Observed,
    Part,
    Table,
    Term,
    compare,
    number,
    operation,
    opposite,
    plain,
)
from guards.records import NO_ACTION, Action, History, Row, Schema
from guards.shield import Shield
from tests.acting import ARM, OBSERVATION, SWITCHES
from tests.fakes import NOW, SCHEMA, schema_of
from tests.guards.asked import FAILED, walked

FACTORED = Schema(observation=OBSERVATION, action=SWITCHES, facts=SCHEMA.facts)
VALUES = (-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0)
LEAVES = ("0", "1", "2.5", "-1", *SCHEMA.fields, *SCHEMA.facts, "step", "seconds_since_change")
LOAD = Observed(0, "load")
SIX = Listing(SCHEMA.action, range(6), [1 << i for i in range(6)], 0b111111)
FRESH = History(known=True, since=NOW)


def amount(random: Random, depth: int, space: ActionSpace) -> str:
    """An expression that is a number."""
    leaves = [*LEAVES, *([one.name for one in space.factors] if isinstance(space, MultiDiscrete) else [])]
    if depth == 0:
        return random.choice(leaves)
    a, b = (amount(random, depth - 1, space) for _ in range(2))
    return random.choice(
        (
            f"({a} {random.choice('+-*/%')} {b})",
            f"(-{a})",
            f"abs({a})",
            f"{random.choice(('min', 'max'))}({a}, {b})",
            f"(-{a} if {condition(random, depth - 1, space)} else -{b})",
        )
    )


def condition(random: Random, depth: int, space: ActionSpace) -> str:
    """An expression that is a condition."""
    if depth == 0:
        return random.choice(("True", "False", about_action(random, space), about_action(random, space)))
    a, b, c = (condition(random, depth - 1, space) for _ in range(3))
    x, y, z = (amount(random, depth - 1, space) for _ in range(3))
    sign, other = (random.choice(("<", "<=", ">", ">=", "==", "!=")) for _ in range(2))
    return random.choice(
        (
            about_action(random, space),
            f"({x} {sign} {random.choice(VALUES)})",
            f"({x} {sign} {y})",
            f"({x} {sign} {y} {other} {z})",
            f"(not {a})",
            f"({a} and {b} and {c})",
            f"({a} or {b})",
            f"({a} if {b} else {c})",
        )
    )


def about_action(random: Random, space: ActionSpace) -> str:
    """A condition on the action asked about, or on the one before."""
    if isinstance(space, MultiDiscrete):
        factor = random.choice(space.factors)
        one, other = (repr(random.choice(factor.names)) for _ in range(2))
        return random.choice((f"{factor.name} == {one}", f"{factor.name} in ({one}, {other})", "fan != valve"))
    one, other = (repr(random.choice(SCHEMA.actions)) for _ in range(2))
    name = random.choice(("action", "previous_action"))
    return random.choice((f"{name} == {one}", f"{name} not in ({one}, {other})", "action == previous_action"))


def constraint(random: Random, schema: Schema, name: str) -> Constraint:
    """A constraint of any kind and mode."""
    space, choices = schema.action, schema.choices
    some = {one: random.choice(VALUES) for one in random.sample(choices, random.randint(1, 4))}
    low, high = sorted(random.choices(VALUES, k=2))
    levels = {one: random.choice(VALUES) for one in choices[: 6 if schema is SCHEMA else random.choice((2, 5, 9))]}
    told: dict[str, Any] = {"name": name, "mode": random.choice(("deny", "deny", "deny", "warn", "audit"))}
    seconds, fast = random.choice((1.0, 2.0, 60.0)), random.choice((0.5, 1.0, 100.0))
    kinds: list[Constraint] = [
        Rule(forbid=condition(random, 3, space), on_error=random.choice(("deny", "deny", "allow")), **told),
        Rule(forbid=condition(random, 2, space), **told),
        Cooldown(actions=tuple(some), seconds=seconds, **told),
        Bounds(of=amount(random, 2, space), effect=some, low=random.choice((low, None)), high=high, **told),
        RateLimit(per_second=fast, effect=some, **told),
        RateLimit(per_second=fast, levels=levels, **told),
        Budget(cost=amount(random, 3, space), at_most=random.choice((1.0, 3.0)), seconds=seconds, **told),
        MaxSwitches(at_most=random.randint(1, 4), seconds=seconds, **told),
    ]
    return random.choice(kinds)


def row_of(random: Random, schema: Schema, actions: list[Action]) -> Row:
    """A decision after anything that may have happened."""
    step, ago, width = random.randrange(4), (0.0, 1.0, 2.5, 100.0), len(schema.choices)

    def kept() -> tuple[float, ...]:
        times = sorted(NOW - random.choice((0.0, 0.5, 1.0, 30.0, 90.0)) for _ in range(random.randrange(4)))
        return tuple(number for time in times for number in (time, random.choice((0.5, 1.0, 3.0))))

    history = History(
        known=random.random() < 0.7,
        since=NOW - random.choice(ago),
        step=step,
        action=random.choice(actions) if step else NO_ACTION,
        changed_at=NOW - random.choice(ago) if step > 1 and random.random() < 0.5 else None,
        used={one: NOW - random.choice(ago) for one in random.sample(range(width), min(3, width))} if step else {},
        kept={f"c{i}": kept() for i in range(5) if step and random.random() < 0.7},
        other=random.choice(actions) if step and random.random() < 0.3 else None,
    )
    facts = [random.choice((*VALUES, float("nan"), float("nan"))) for _ in schema.facts]
    mask = random.getrandbits(width) if random.random() < 0.4 else None
    return Row(random.choices(VALUES, k=3), facts, mask, NOW, history)


def compare_all(seed: int, least: int) -> int:
    """Hold judge, check and who forbids to the walk; gives the number of pairs of a row and an action."""
    random, pairs = Random(seed), 0  # noqa: S311 - a test that repeats itself
    while pairs < least:
        schema = random.choice((SCHEMA, FACTORED))
        some = [constraint(random, schema, f"c{i}") for i in range(random.randint(0, 5))]
        shield, terms = Shield(some, schema), {one.name: one.term(schema) for one in some}
        modes = {one.name: one.mode for one in some}
        actions: list[Action] = list(range(6))
        if schema is FACTORED:
            actions = [(a, b, c) for a in range(2) for b in range(3) for c in range(4)]
        for _ in range(4):
            row = row_of(random, schema, actions)
            forbidden = shield.judge(row)
            for at, action in enumerate(actions):
                said = {name for name, term in terms.items() if walked(term, row, action) in (True, FAILED)}
                denied = any(modes[name] == "deny" for name in said) or shield.masks(row, action)
                bits = [at] if shield.joins or schema is SCHEMA else shield.chosen(action)
                assert any(forbidden >> bit & 1 for bit in bits) is denied, (some, row, action)
                assert shield.check(row, action) is not denied, (some, row, action)
                told = [name for name, _ in shield.forbidding(row, action)]
                assert said <= set(told)
                assert set(told) - said <= {"allowed", *(one.name for one in some if isinstance(one, Rule))}
                pairs += 1
    return pairs


def test_walk_check_and_judge_say_the_same() -> None:
    """Of random configurations, rows and actions: what is judged is what each term means, and so is the check."""
    assert compare_all(seed=1, least=20_000) >= 20_000


@pytest.mark.soak
def test_walk_check_and_judge_say_the_same_for_long() -> None:
    """Of a million."""
    assert compare_all(seed=2, least=1_000_000) >= 1_000_000


def judged(term: Term, row: Row, listing: Listing = SIX) -> int:
    """The bits that a term forbids."""
    block, source = Block(), Source(SCHEMA.action)
    block.add(term, listing, listing.every)
    found: int = source.function("judge", "row", ["deny = 0", *block.lines(source), "return deny"])(row)
    return found


def row(load: float = 0.0, lag: float = 0.0, history: History = FRESH) -> Row:
    """A row under the schema."""
    return Row((load, lag, 3.0), (float("nan"),) * 2, None, NOW, history)


@pytest.mark.parametrize("op", ["<", "<=", ">", ">=", "==", "!="])
@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("turned", [False, True])
def test_many_limits_on_one_number_are_one_search(op: str, count: int, turned: bool) -> None:
    """However many there are, and on whichever side they stand; what is no number is below and above none."""
    limits = tuple(float(min(i, count - 1)) for i in range(6))
    table = Table(((0, limits),), frozenset(range(6)))
    term = compare(table, op, LOAD) if turned else compare(LOAD, op, table)

    for load in (-1.0, 0.0, 0.5, 1.0, 2.0, 4.0, 5.0, 9.0, float("nan"), float("inf"), -float("inf")):
        expected = sum(1 << i for i in range(6) if walked(term, row(load), i))
        assert judged(term, row(load)) == expected


def test_the_same_number_is_looked_up_apart_in_each_place() -> None:
    """What it forbids where one thing holds is not what it forbids where another does."""
    one, other = compare(Part(0), "==", LOAD), compare(Part(0), "!=", LOAD)
    term = operation(
        "if", compare(Observed(1, "lag"), ">", number(0)), one, operation("and", Among(0, frozenset({1, 2})), one)
    )

    assert [judged(term, row(load, lag)) for load, lag in ((1.0, 1.0), (3.0, 1.0), (1.0, 0.0), (3.0, 0.0))] == [
        0b000010,
        0b001000,
        0b000010,
        0b000000,
    ]
    assert judged(operation("or", one, operation("and", compare(LOAD, ">", number(2)), other)), row(3.0)) == 0b111111


def test_where_all_that_is_left_fails_there_is_nothing_to_compare() -> None:
    """It is forbidden, whatever the row."""
    shield = Shield([Rule(name="r", forbid="fan == 'still' and 6 / fan > load")], FACTORED)

    assert shield.judge(row()) == 0b000100000
    assert not shield.check(row(), (0, 0, 0))
    assert shield.check(row(), (0, 0, 1))


def test_a_condition_under_which_nothing_is_forbidden_forbids_nothing() -> None:
    """Though it has to be asked whether it fails."""
    nothing, high = operation("and", Among(0, frozenset({1})), FALSE), compare(LOAD, ">", number(1))
    fails = compare(operation("/", LOAD, Observed(1, "lag")), ">", number(1))

    assert judged(operation("some", nothing), row(2.0)) == 0
    assert judged(operation("and", high, nothing), row(2.0)) == 0
    assert [judged(operation("and", fails, nothing), row(2.0, lag)) for lag in (0.0, 1.0)] == [0b111111, 0]


LAG = Observed(1, "lag")
MOVED = Table(((0, (0.0, 1.0, 2.0, 4.0, 7.0, 9.0)),), frozenset(range(6)))


def distance(to: Term, before: Term) -> Term:
    """How far one number is from another."""
    return plain("abs", plain("-", to, before))


@pytest.mark.parametrize(
    "term",
    [
        compare(distance(MOVED, LOAD), ">", LAG),
        compare(distance(MOVED, LOAD), ">=", LAG),
        compare(distance(MOVED, LOAD), "<", LAG),
        compare(LAG, "<", distance(MOVED, LOAD)),
        compare(distance(plain("*", MOVED, LOAD), LAG), ">", number(1)),
        compare(distance(MOVED, plain("*", MOVED, LOAD)), ">", LAG),
        compare(distance(LOAD, MOVED), ">", LAG),
        compare(distance(operation("/", number(4), MOVED), LOAD), ">", LAG),
        compare(distance(MOVED, LOAD), ">", operation("/", LOAD, LAG)),
        compare(plain("abs", operation("-", MOVED, LOAD)), ">", LAG),
        compare(operation("*", MOVED, LOAD), ">", LAG),
        compare(MOVED, ">", plain("*", MOVED, LOAD)),
        operation("if", compare(MOVED, ">", LOAD), compare(LOAD, ">", LAG), compare(LAG, ">", number(1))),
        operation("and", compare(LOAD, ">", LAG), compare(MOVED, ">", LOAD)),
        operation("and", compare(MOVED, ">", LOAD), compare(LOAD, ">", LAG)),
        operation("and", compare(MOVED, ">", LOAD), compare(operation("/", LOAD, LAG), ">", number(1))),
    ],
)
def test_comparisons_of_actions_with_a_row_are_what_terms_mean(term: Term) -> None:
    """Whether the judge has a shorter way for them or not, and where they fail."""
    for load, lag in ((0.0, 0.0), (1.0, 0.0), (2.0, 1.0), (-2.0, 3.0), (4.0, 2.0), (0.5, -1.0)):
        here = row(load, lag)
        assert judged(term, here) == sum(1 << i for i in range(6) if walked(term, here, i) in (True, FAILED))


def test_what_fails_within_some_actions_forbids_those_alone() -> None:
    """As it is only asked about them."""
    some, high = Among(0, frozenset({1, 2})), compare(Observed(1, "lag"), ">", number(2))
    fails = compare(operation("/", number(1), LOAD), ">", number(1))

    term = operation("and", some, operation("and", fails, operation("or", high, compare(Part(0), "==", LOAD))))

    assert [judged(term, row(load, lag)) for load, lag in ((0.0, 0.0), (0.5, 3.0), (0.5, 0.0))] == [0b110, 0b110, 0]


def test_a_branch_that_no_action_takes_forbids_nothing() -> None:
    """Where a test is about the action alone and holds for all of them."""
    term = operation("if", Among(0, frozenset(range(6))), compare(LOAD, ">", number(1)), TRUE)

    assert [judged(term, row(load)) for load in (0.0, 2.0)] == [0, 0b111111]


def test_numbers_are_not_taken_for_bits() -> None:
    """Though some of the one may be equal to some of the other."""
    moves = dict(zip(SCHEMA.actions, (0.0, 1.0, 3.0, 7.0, 15.0, 63.0), strict=True))
    grows = dict(zip(SCHEMA.actions, (5.0, 4.0, 3.0, 2.0), strict=False))
    some = [RateLimit(name="r", per_second=1, effect=moves), Bounds(name="b", of="load", effect=grows, high=3)]

    assert Shield(some, SCHEMA).judge(row(0.5)) == 0b000111


@pytest.mark.parametrize("count", [3, 600])
def test_moves_from_a_number_of_the_row_are_a_search_too(count: int) -> None:
    """To the bit: a difference of doubles grows with what it is taken from."""
    random = Random(4)  # noqa: S311 - a test that repeats itself
    levels = tuple(random.uniform(0, 1) for _ in range(count))
    schema = schema_of(SCHEMA.fields, [f"a{i}" for i in range(count)])
    listing = Listing(schema.action, range(count), [1 << i for i in range(count)], (1 << count) - 1)
    term = compare(plain("abs", plain("-", Table(((0, levels),), frozenset()), LOAD)), ">", Observed(1, "lag"))

    for _ in range(300):
        load = random.choice((*levels, random.uniform(-0.5, 1.5)))
        here = row(load, random.choice((0.0, abs(random.choice(levels) - load), random.random(), -1.0)))
        assert judged(term, here, listing) == sum(1 << i for i in range(count) if walked(term, here, i))


def test_a_thousand_levels_are_no_loop() -> None:
    """What is generated does not grow with them."""
    schema = schema_of(SCHEMA.fields, [f"a{i}" for i in range(1000)])
    block, source = Block(), Source(schema.action)
    listing = Listing(schema.action, range(1000), [1 << i for i in range(1000)], (1 << 1000) - 1)

    limit = RateLimit(name="r", per_second=1, levels={name: i / 7 for i, name in enumerate(schema.actions)})
    block.add(limit.term(schema), listing, listing.every)

    assert len(list(block.lines(source))) < 12


def test_equal_conditions_are_asked_once() -> None:
    """Whichever constraints they come from, with the bits of all."""
    block, source = Block(), Source(SCHEMA.action)
    term = compare(plain("*", LOAD, LOAD), ">", Observed(1, "lag"))
    for choice in (1, 4):
        block.add(operation("and", Among(0, frozenset({choice})), term), SIX, SIX.every)

    assert list(block.lines(source)) == ["y = ((x0 * x0) > x1)", "if y:", "    deny |= 0x12"]


def test_what_is_known_of_the_action_is_known_before_any_row() -> None:
    """And what always fails for it fails in its place."""
    term = operation("/", number(6), operation("-", Part(0), number(2)))

    assert split(term, SIX)[FAILS] == 0b100
    assert split(term, SIX)[Fixed(6.0)] == 0b001000
    assert split(LOAD, SIX) == {LOAD: 0b111111}
    assert judged(compare(term, ">", LOAD), row(2.5)) == 0b011100
    assert judged(compare(LOAD, ">", LOAD), row(2.5)) == 0


FAILING = operation("/", LOAD, Observed(1, "lag"))


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (operation("and", TRUE, compare(LOAD, ">", number(1))), compare(LOAD, ">", number(1))),
        (operation("and", compare(LOAD, ">", number(1)), FALSE), FALSE),
        (operation("or", compare(LOAD, ">", number(1)), TRUE, compare(FAILING, ">", LOAD)), TRUE),
        (operation("and", TRUE, TRUE), TRUE),
        (operation("or", FALSE, FALSE), FALSE),
        (operation("if", TRUE, LOAD, FAILING), LOAD),
        (operation("if", FALSE, LOAD, FAILING), FAILING),
        (operation("fails", LOAD), FALSE),
        (opposite(FALSE), TRUE),
        (FAILS, FAILS),
    ],
)
def test_what_makes_no_difference_is_left_out(term: Term, expected: Term) -> None:
    """An ``and`` is without what is true, and ends at what is false."""
    assert folded(term) == expected


def test_what_may_fail_before_the_end_stays() -> None:
    """It would have been met."""
    fails = compare(FAILING, ">", LOAD)

    assert folded(operation("and", fails, FALSE, fails)) == operation("and", fails, FALSE)
    assert folded(operation("or", fails, TRUE)) == operation("or", fails, TRUE)
    assert folded(operation("fails", fails)) == operation("fails", fails)


def test_a_chain_of_comparisons_is_one_condition() -> None:
    """It is no limit on one number."""
    chain = Compare(("<", "<"), parts=(number(0), LOAD, number(1)))

    assert [judged(chain, row(load)) for load in (0.0, 0.5, 1.0)] == [0, 0b111111, 0]


def of_a_box(random: Random, name: str) -> Constraint:
    """A constraint over the numbers of an arm."""
    told: dict[str, Any] = {"name": name, "mode": random.choice(("deny", "deny", "warn"))}
    a, b = (f"({random.choice(LEAVES)} {random.choice('+-*/')} {random.choice(LEAVES)})" for _ in range(2))
    kinds: list[Constraint] = [
        Rule(forbid=f"torque * {random.choice(VALUES)} > {a} or grip < {b}", **told),
        Bounds(of=random.choice(("torque", "grip", "drift")), low=random.choice((None, a, -1.0)), high=b, **told),
        Linear(coefficients={"torque": a, "drift": 1.0, "grip": b}, at_most=random.choice((a, 1.0)), **told),
        RateLimit(of="torque", per_second=0.5, assume=random.choice((None, (-1.0, 1.0))), **told),
        Budget(cost=f"abs(torque) - {a}", at_most=2.0, seconds=60.0, **told),
    ]
    return random.choice(kinds)


def test_of_a_box_walk_check_and_region_say_the_same() -> None:
    """Of random points: what is in the region, and passes where there is none, is what every term lets pass."""
    random, schema, passed = Random(3), Schema(OBSERVATION, ARM, SCHEMA.facts), 0  # noqa: S311 - it repeats itself
    points = [(t, g, d) for t in (-2.0, -0.5, 0.0, 1.0) for g in (0.0, 1.0) for d in (-3.0, 0.0, 0.5)]
    for _ in range(300):
        some = [of_a_box(random, f"c{i}") for i in range(random.randint(0, 3))]
        shield, terms = Shield(some, schema), {one.name: one.term(schema) for one in some}
        here = row_of(random, schema, list(points))
        here = Row(here.observation, here.facts, None, here.now, here.history)
        region = shield.confines(here)
        for point in points:
            said = {name for name, term in terms.items() if walked(term, here, point) in (True, FAILED)}
            denied = {one.name for one in some if one.mode == "deny"} & said
            unlisted = {one.name for one in shield.unlisted if one.mode == "deny"} & said
            assert {name for name, _ in shield.forbidding(here, point)} == said, (some, here, point)
            assert {one.constraint for one in shield.refusing(here, point)} == unlisted, (some, here, point)
            assert shield.check(here, point) is not bool(denied), (some, here, point)
            assert region.holds(point) is not bool(denied - unlisted), (some, here, point)
            passed += not denied

    assert 1000 < passed < 300 * len(points) - 1000


@pytest.mark.parametrize("action", [0, (0, 0), (0, 0, 4), (-1, 0, 0), (0.5, 0, 0), (0.0, float("nan"), 0.0)])
def test_what_is_no_action_of_the_space_passes_nothing(action: Action) -> None:
    """Whatever constraints say."""
    for space in (SWITCHES, ARM):
        here = row()
        assert not Shield([], Schema(OBSERVATION, space)).check(here, action if space is SWITCHES else (0.0, -1.0, 0.0))
    assert not Shield([], SCHEMA).check(row(), (0, 0))
