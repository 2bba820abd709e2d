"""The symbols: the unknowns of a question to the solver, and what is known of them before any constraint.

An action is one unknown for each part of it: an integer for a choice, a real for a number of a Box.
"""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import accumulate, pairwise

from export.spec import ActionSpace, Box, Discrete, MultiDiscrete
from export.spec.extras import install
from guards.errors import ProofUnavailable, Untranslatable
from guards.language.terms import Of, Table
from guards.proof.scenario import WHOLE, ranges
from guards.records import NEVER, NO_ACTION, Schema

try:
    import z3 as z3  # the parts of the proof have it from here
except ModuleNotFoundError as error:
    msg = f"the proof needs the package 'z3-solver', expected it installed: {install('verify')}"
    raise ProofUnavailable(msg) from error
except Exception as error:  # a package that is broken raises anything
    msg = f"the proof needs the package 'z3-solver', which cannot be loaded ({type(error).__name__}: {error})"
    raise ProofUnavailable(msg) from error

NEVER_FAILS = z3.BoolVal(False)
# So many different sums of effects over several factors are told apart.
_MOST_SUMS = 1024


class Symbols:
    """The unknowns of a question: an action, what is observed and told, and the state of the session's history.

    Fields and facts are made when they are first asked for, so a question has no more of them than its constraints
    name. ``mentioned`` has the choices, or the numbers of a Box, that constraints name. ``gaps`` says what could not be
    translated: that may have any value, which keeps whatever is proved true.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema, space = schema, schema.action
        self.acted, self.before = _unknowns(space, "action", "action"), _unknowns(space, "previous", "previous_action")
        self.step, self.since_change = z3.Int("step"), z3.Real("seconds_since_change")
        self.known = z3.Bool("known")
        # By how much a half-space has to be exceeded: by anything, but a hole that is clear of rounding has more.
        self.slack = z3.Real("slack")
        self.fields: dict[str, z3.ArithRef] = {}
        self.facts: dict[str, tuple[z3.ArithRef, z3.BoolRef]] = {}
        self.mentioned: set[int] = set()
        self.gaps: list[str] = []
        self._ranges = ranges(schema)
        # Where each factor's choices begin, and where the last one's end.
        self._starts = tuple(accumulate(space.sizes, initial=0))

    def field(self, name: str) -> z3.ArithRef:
        """A number of the observation."""
        if name not in self.fields:
            whole = self._ranges[name][1] in WHOLE
            self.fields[name] = z3.Int(f"observation.{name}") if whole else z3.Real(f"observation.{name}")
        return self.fields[name]

    def fact(self, name: str) -> tuple[z3.ArithRef, z3.BoolRef]:
        """A fact, and whether it was not given."""
        if name not in self.facts:
            self.facts[name] = z3.Real(f"facts.{name}"), z3.Bool(f"given.{name}")
        value, given = self.facts[name]
        return value, z3.Not(given)

    def part(self, at: int, of: Of = "action") -> z3.ArithRef:
        """A part of an action: a number of a Box, or a factor's choice, any of which whoever asks may tell apart."""
        if isinstance(self.schema.action, Box):
            self.mentioned.add(at)
        elif isinstance(self.schema.action, MultiDiscrete):
            self.mentioned.update(range(self._starts[at], self._starts[at + 1]))
        return self.acted[at] if of == "action" else self.before[at]

    def choice(self, factor: int, choice: int, of: Of = "action") -> z3.BoolRef:
        """Whether a factor's choice is a certain one, which is named."""
        self.mentioned.add(self._starts[factor] + choice)
        return (self.acted if of == "action" else self.before)[factor] == choice

    def chosen(self, choice: int) -> z3.BoolRef:
        """Whether the action asked about is made of a choice."""
        at = max(i for i, start in enumerate(self._starts) if start <= choice)
        return self.acted[at] == choice - self._starts[at]

    def totals(self, table: Table) -> dict[float, z3.BoolRef]:
        """The sums, as doubles, that an action's choices can have of what a table has, and when they do."""
        sums = {0.0: z3.BoolVal(True)}
        if math.isinf(sum(max(map(abs, column)) for _, column in table.columns)):
            msg = "its effects have sums that may be too large for a double"
            raise Untranslatable(msg)
        for factor, column in table.columns:
            here = [i for i in range(len(column)) if self._starts[factor] + i in table.named]
            ways = [(column[i], self.choice(factor, i, table.of)) for i in here]
            if len(here) < len(column):
                ways.append((0.0, z3.Not(z3.Or([is_it for _, is_it in ways]))))
            sums = _added(sums, ways)
        return sums

    def anything(self, sort: z3.SortRef, why: str) -> z3.ExprRef:
        """A value of a sort that may be any, another one for each action; ``why`` says what it stands for."""
        self.gaps.append(why)
        return z3.FreshFunction(*[one.sort() for one in self.acted], sort)(*self.acted)

    def happened(self) -> z3.BoolRef:
        """Whether an action may have been executed in the session before, for all that is known."""
        return z3.Or(z3.Not(self.known), self.step > 0)

    def forgotten(self) -> z3.BoolRef:
        """Whether it is not known what was executed last."""
        return z3.And(z3.Not(self.known), self.step == 0)

    def actions(self) -> list[int]:
        """The actions of a list to look at: those that constraints name, and two of the others, who are all alike.

        A constraint can tell actions that none names apart only by one of them being the previous one: whatever holds
        of all of them holds of two, of which the previous one is the first, if it is any of them.
        """
        others = [i for i in range(len(self.schema.actions)) if i not in self.mentioned]
        return sorted({*self.mentioned, *others[:2]})

    def alike(self) -> list[list[int]]:
        """Choices that no constraint tells apart, for each part of an action; the others alone."""
        groups: list[list[int]] = []
        for start, end in pairwise(self._starts):
            others = [i for i in range(start, end) if i not in self.mentioned]
            groups += [[i] for i in range(start, end) if i in self.mentioned]
            groups += [others] if others else []
        return sorted(groups)

    def whole(self) -> z3.BoolRef:
        """Whether the action asked about is an action of the space."""
        box = isinstance(self.schema.action, Box)
        return z3.And(self._possible(self.acted, sorted(self.mentioned) if box else range(len(self.acted)), 0))

    def _possible(self, parts: Sequence[z3.ArithRef], at: Iterable[int], least: int) -> list[z3.BoolRef]:
        """That some of the parts are those of an action of the space; an index is none below ``least``."""
        space = self.schema.action
        if isinstance(space, Discrete):
            return [z3.Or([parts[0] == one for one in (*range(least, 0), *self.actions())])]
        whole = [(least, size - 1) for size in space.sizes]
        ranges = [(field.low, field.high) for field in space.fields] if isinstance(space, Box) else whole
        return [limit for i in at for limit in _between(parts[i], ranges[i])]

    def domain(self) -> list[z3.BoolRef]:
        """What is known of the unknowns beside the action: ranges of fields, and what a history can be."""
        limits = [
            self.step >= 0,
            self.since_change >= 0,
            self.slack >= 0,
            z3.Implies(z3.And(self.known, self.step == 0), self.since_change == exact(NEVER)),
            *self._possible(self.before, range(len(self.before)), NO_ACTION),
        ]
        if not isinstance(self.schema.action, Box):
            limits += [(self.step == 0) == (one == NO_ACTION) for one in self.before]
        for name, value in self.fields.items():
            field, dtype = self._ranges[name]
            limits += _between(value, (field.low, field.high), WHOLE.get(dtype, (None, None)))
        return limits

    def __repr__(self) -> str:
        what = "numbers" if isinstance(self.schema.action, Box) else "actions"
        return f"<Symbols {len(self.fields)} fields, {len(self.facts)} facts, {len(self.mentioned)} named {what}>"


def exact(number: float) -> z3.ArithRef:
    """The very number that a double is, not the decimal that people wrote for it; raises Untranslatable for none."""
    if not math.isfinite(number):
        msg = f"{number} is no number"
        raise Untranslatable(msg)
    fraction = Fraction(number)
    return z3.IntVal(fraction.numerator) if fraction.denominator == 1 else z3.RealVal(str(fraction))


def _unknowns(space: ActionSpace, which: str, alone: str) -> tuple[z3.ArithRef, ...]:
    """The parts of an action."""
    if isinstance(space, Discrete):
        return (z3.Int(alone),)
    if isinstance(space, Box):
        return tuple(z3.Real(f"{which}.{one.name}") for one in space.fields)
    return tuple(z3.Int(f"{which}.{one.name}") for one in space.factors)


def _between(number: z3.ArithRef, *ranges: tuple[float | None, float | None]) -> list[z3.BoolRef]:
    """That a number is within ranges; None is no limit."""
    lows = [number >= exact(low) for low, _ in ranges if low is not None]
    return lows + [number <= exact(high) for _, high in ranges if high is not None]


def _added(sums: dict[float, z3.BoolRef], ways: list[tuple[float, z3.BoolRef]]) -> dict[float, z3.BoolRef]:
    """Sums with one of several amounts added to each."""
    found: dict[float, list[z3.BoolRef]] = {}
    for amount, is_it in ways:
        for total, were in sums.items():
            found.setdefault(total + amount, []).append(is_it if z3.is_true(were) else z3.And(were, is_it))
    if len(found) > _MOST_SUMS:
        msg = f"its effects have more than {_MOST_SUMS} different sums"
        raise Untranslatable(msg)
    return {total: ways[0] if len(ways) == 1 else z3.Or(ways) for total, ways in found.items()}
