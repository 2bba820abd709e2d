"""The check: all constraints together as a test of one action, worked out anew from the row and not from what was left.

It is what an action has to pass before it may leave, and all that has to be trusted: it knows nothing of how actions
are chosen.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate
from typing import Literal, NamedTuple

from msgspec import Struct

from export.spec import Box, Discrete, MultiDiscrete
from guards.actions import holder_of, listed
from guards.boxes import sides_of
from guards.constraints.constraint import NOTHING, Constraint, Keeper, Mode
from guards.errors import GuardMisconfigured, setting
from guards.language.python import Source
from guards.language.terms import Among, Part, Table, Term, Whole, every
from guards.records import Action, History, Row, Schema

# What a request's own mask is called among the constraints.
MASK = "allowed"
Verdict = Literal["prevented", "executed", "reported"]


class Violation(Struct, frozen=True, gc=False):
    """A constraint that spoke: it prevented the proposal, was executed against, or only reports (warn, audit)."""

    constraint: str
    verdict: Verdict
    mode: Mode = "deny"


# One object for each that can be: they are the same in every record.
violation = cache(Violation)


class Bound(NamedTuple):
    """A constraint's term; ``factor`` is whose choices it masks, None where it is about whole actions."""

    name: str
    mode: Mode
    term: Term
    factor: int | None


class Check:
    """Constraints bound to a schema.

    Of several factors, a constraint about one masks its choices. Where any joins factors, all are asked about every
    whole action (``joins``); or, where those are too many for a list, it is asked about what was drawn (``refuses``).
    So is a constraint over a Box that leaves no region.
    """

    def __init__(self, constraints: Sequence[Constraint], schema: Schema) -> None:
        self.schema, space = schema, schema.action
        self._keepers: dict[str, Keeper] = {}
        names, tracked, bound = [MASK], set[int](), list[Bound]()
        for i, constraint in enumerate(constraints):
            if constraint.name in names:
                msg = f"{i}.name: {constraint.name!r} is taken, expected a name of its own for each constraint"
                raise GuardMisconfigured(msg)
            names.append(constraint.name)
            with setting(f"{i}, {constraint.name!r}"):
                bound += self._said(constraint)
                tracked |= constraint.tracks(schema)
        self.tracked = frozenset(tracked)
        joined = isinstance(space, MultiDiscrete) and any(one.factor is None for one in bound)
        self.joins = joined and listed(space)
        # What nothing can be left of before a draw: it is asked about what was drawn.
        unlisted = [joined and not self.joins and one.factor is None for one in bound]
        if isinstance(space, Box):
            unlisted = [one.mode != "deny" or not sides_of(one.term) for one in bound]
        self.unlisted = [one for one, late in zip(bound, unlisted, strict=True) if late]
        self.masking = [one for one, late in zip(bound, unlisted, strict=True) if not late]
        # All of them, the unlisted last.
        self.bound = self.masking + self.unlisted
        source, keepers = Source(space), self._keepers.values()
        # Which of them forbid an action of the space, by their places.
        self.against = source.against([one.term for one in self.bound])
        # What an executed action counts for, for each constraint that keeps numbers: its heaviest at most.
        self.weights = source.weights([(keeper.weigh, keeper.heaviest) for keeper in keepers])
        self.weighs = any(keeper.weigh != NOTHING for keeper in keepers)
        denies = (one.name if one.mode == "deny" else None for one in self.bound)
        self._prevented = [violation(name, "prevented", "deny") if name else None for name in denies]
        self._after = [(name, keeper.after) for name, keeper in self._keepers.items()]
        self.refuses = any(one.mode == "deny" for one in self.unlisted)
        # Whether any only warns or audits.
        self.reports = any(one.mode != "deny" for one in self.bound)
        self._holds = holder_of(space)
        # How many actions a list has; 0 of what is none.
        self._count = space.n if isinstance(space, Discrete) else 0
        self._starts = list(accumulate(space.sizes, initial=0))[: len(space.sizes)]

    def _said(self, constraint: Constraint) -> Iterator[Bound]:
        """What a constraint says of actions; a doubt is about the policy's answer, and bound with its artefact."""
        name, mode, term = constraint.name, constraint.mode, constraint.term(self.schema)
        if constraint.judges == "answers":
            return
        yield Bound(name, mode, term, _factor(term))
        excused, keeper = constraint.excuses(self.schema), constraint.keeper(self.schema)
        if excused is not None:
            mode = "warn" if mode == "deny" else mode
            yield Bound(name, mode, excused, _factor(excused))
        if keeper is not None:
            self._keepers[name] = keeper

    def masks(self, row: Row, action: Action) -> bool:
        """Whether the request's own mask forbids an action of the space."""
        return row.mask is not None and not all(row.mask >> choice & 1 for choice in self.chosen(action))

    def check(self, row: Row, action: Action) -> bool:
        """Whether the final action passes, worked out anew from the row and not from what was left."""
        if self._count and row.mask is None:
            if not (isinstance(action, int) and 0 <= action < self._count):
                return False
        elif not self._holds(action) or self.masks(row, action):
            return False
        found = self.against(row, action)
        return not found or all(self.bound[i].mode != "deny" for i in found)

    def forbidding(self, row: Row, action: Action) -> list[tuple[str, Mode]]:
        """The constraints that forbid an action of the space, those that only report it too."""
        found = [self.bound[i] for i in self.against(row, action)]
        masked: list[tuple[str, Mode]] = [(MASK, "deny")] if self.masks(row, action) else []
        return masked + [(one.name, one.mode) for one in found]

    def preventing(self, row: Row, action: Action) -> list[Violation]:
        """What denies an action of the space: the violations that are prevented if it is not executed."""
        found = [one for i in self.against(row, action) if (one := self._prevented[i])]
        return [violation(MASK, "prevented", "deny"), *found] if self.masks(row, action) else found

    def refusing(self, row: Row, action: Action) -> list[Violation]:
        """The same of the unlisted constraints alone."""
        first = len(self.masking)
        return [one for i in self.against(row, action) if i >= first and (one := self._prevented[i])]

    def chosen(self, action: Action) -> list[int]:
        """Which choices an action is made of."""
        if isinstance(action, int):
            return [action]
        return [start + int(part) for start, part in zip(self._starts, action, strict=False)]

    def advanced(self, history: History, action: Action, at: float, weights: Sequence[float] | None = None) -> History:
        """The history after an action was executed at ``at`` (s); ``weights`` are the row's own, where it weighs."""
        choices = self.chosen(action) if self.tracked else ()
        if not self._after:
            return history.advanced(action, at, self.tracked, choices)
        kept = {}
        for (name, after), weight in zip(self._after, weights or [0.0] * len(self._after), strict=True):
            if numbers := after(history, action, at, weight):
                kept[name] = numbers
        return history.advanced(action, at, self.tracked, choices, kept)

    def shifted(self, history: History, by: float) -> History:
        """The history by a clock that is ``by`` (s) ahead; of what is kept, only what is kept for a constraint here."""
        both = ((name, keeper, history.kept.get(name)) for name, keeper in self._keepers.items())
        return history.shifted(by, {name: keeper.shifted(kept, by) for name, keeper, kept in both if kept})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self.bound)} constraints, {len(self.tracked)} tracked actions>"


def _factor(term: Term) -> int | None:
    """The one factor whose choices a term is about, the first where it names none; None where it joins several."""
    factors: set[int | None] = set()
    for one in every(term):
        if isinstance(one, Part | Among):
            factors.add(one.index)
        elif isinstance(one, Table):
            factors.update(factor for factor, _ in one.columns)
        elif isinstance(one, Whole):
            factors.update((None, -1))
    return (factors or {0}).pop() if len(factors) < 2 else None
