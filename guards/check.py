"""The check: all constraints together as a test of one action, worked out anew from the row and not from what was left.

It is what an action has to pass before it may leave, and all that has to be trusted: it knows nothing of how actions
are chosen.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

from export.spec import Box, Discrete, MultiDiscrete
from guards.actions import holder_of, listed, sizes_of
from guards.boxes import sides_of
from guards.constraints.constraint import Constraint, Keeper, Mode
from guards.errors import GuardMisconfigured, setting
from guards.language.python import Source
from guards.language.terms import Among, Part, Table, Term, Whole, every
from guards.records import Action, History, Row, Schema

# What a request's own mask is called among the constraints.
MASK = "allowed"
Verdict = Literal["prevented", "executed", "reported"]


@dataclass(frozen=True, slots=True)
class Violation:
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
        self.schema = schema
        self._keepers: dict[str, Keeper] = {}
        names, tracked, bound = [MASK], set[int](), list[Bound]()
        for i, constraint in enumerate(constraints):
            if constraint.name in names:
                msg = f"{i}.name: {constraint.name!r} is taken, expected a name of its own for each constraint"
                raise GuardMisconfigured(msg)
            names.append(constraint.name)
            with setting(f"{i}, {constraint.name!r}"):
                bound += self._terms(constraint)
                tracked |= constraint.tracks(schema)
        self.tracked = frozenset(tracked)
        space = schema.action
        joined = isinstance(space, MultiDiscrete) and any(one.factor is None for one in bound)
        self.joins = joined and listed(space)
        # What nothing can be left of before a draw: it is asked about what was drawn.
        self.unlisted = [one for one in bound if self._asked(one)]
        self.masking = [one for one in bound if not self._asked(one)]
        self.bound = self.masking + self.unlisted
        self.weighs = any(keeper.weigh for keeper in self._keepers.values())
        self.refuses = any(one.mode == "deny" for one in self.unlisted)
        # Whether any only warns or audits.
        self.reports = any(one.mode != "deny" for one in self.bound)
        self._holds = holder_of(space)
        # How many actions a list has; 0 of what is none.
        self._count = space.n if isinstance(space, Discrete) else 0
        source = Source(space)
        self._write(source)
        self._read(source.made())

    def _terms(self, constraint: Constraint) -> Iterable[Bound]:
        """What a constraint says of actions; a doubt is about the policy's answer, and bound with its artefact."""
        term = constraint.term(self.schema)
        if constraint.judges == "answers":
            return
        yield Bound(constraint.name, constraint.mode, term, self._factor(term))
        excused, keeper = constraint.excuses(self.schema), constraint.keeper(self.schema)
        if excused is not None:
            mode: Mode = "warn" if constraint.mode == "deny" else constraint.mode
            yield Bound(constraint.name, mode, excused, self._factor(excused))
        if keeper is not None:
            self._keepers[constraint.name] = keeper

    def _factor(self, term: Term) -> int | None:
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

    def _asked(self, one: Bound) -> bool:
        """Whether a constraint is only asked about what was drawn."""
        if isinstance(self.schema.action, Box):
            return one.mode != "deny" or not sides_of(one.term)
        return one.factor is None and isinstance(self.schema.action, MultiDiscrete) and not self.joins

    def _write(self, source: Source) -> None:
        """Write the functions of a row."""
        for i, one in enumerate(self.bound):
            source.truth(f"forbids{i}", one.term)
        for i, keeper in enumerate(self._keepers.values()):
            if keeper.weigh is not None:
                source.function(f"weigh{i}", "row, a", [f"return {source.text(keeper.weigh)}"])

    def _read(self, made: dict[str, Callable[..., Any]]) -> None:
        """Take the functions that were made."""
        self._forbids = [(one, made[f"forbids{i}"]) for i, one in enumerate(self.bound)]
        self._denies = [forbids for one, forbids in self._forbids if one.mode == "deny"]
        self._weighs = [(keeper, made.get(f"weigh{i}")) for i, keeper in enumerate(self._keepers.values())]

    def holds(self, row: Row, action: Action) -> bool:
        """Whether something is an action of the space that the request leaves."""
        return self._holds(action) and not self.masks(row, action)

    def _leaves(self, mask: int, action: Action) -> bool:
        return all(mask >> choice & 1 for choice in self.chosen(action))

    def asking(self) -> list[tuple[str, Mode, Callable[[Row, Action], bool]]]:
        """All constraints, each with the function that says whether it forbids an action; the unlisted are the last."""
        return [(one.name, one.mode, forbids) for one, forbids in self._forbids]

    def masks(self, row: Row, action: Action) -> bool:
        """Whether the request's own mask forbids an action of the space."""
        return row.mask is not None and not self._leaves(row.mask, action)

    def check(self, row: Row, action: Action) -> bool:
        """Whether the final action passes, worked out anew from the row and not from what was left."""
        if self._count and row.mask is None:
            if not (isinstance(action, int) and 0 <= action < self._count):
                return False
        elif not self.holds(row, action):
            return False
        for forbids in self._denies:  # noqa: SIM110 - a generator costs as much as a constraint
            if forbids(row, action):
                return False
        return True

    def forbidding(self, row: Row, action: Action) -> list[tuple[str, Mode]]:
        """The constraints that forbid an action of the space, those that only report it too."""
        found: list[tuple[str, Mode]] = [(one.name, one.mode) for one, forbids in self._forbids if forbids(row, action)]
        return [(MASK, "deny"), *found] if self.masks(row, action) else found

    def refusing(self, row: Row, action: Action) -> list[str]:
        """The unlisted constraints that refuse an action of the space."""
        asked = self._forbids[len(self.masking) :]
        return [one.name for one, forbids in asked if one.mode == "deny" and forbids(row, action)]

    def chosen(self, action: Action) -> list[int]:
        """Which choices an action is made of."""
        if isinstance(action, int):
            return [action]
        start, found = 0, list[int]()
        for part, size in zip(action, sizes_of(self.schema.action), strict=False):
            found.append(start + int(part))
            start += size
        return found

    def weights(self, row: Row, action: Action) -> list[float]:
        """What an executed action counts for, for each constraint that keeps numbers."""
        return [
            0.0 if weigh is None else _weighed(weigh, row, action, keeper.heaviest) for keeper, weigh in self._weighs
        ]

    def advanced(self, history: History, action: Action, at: float, weights: Sequence[float] | None = None) -> History:
        """The history after an action was executed at ``at`` (s); ``weights`` are the row's own, where it weighs."""
        choices = self.chosen(action) if self.tracked else ()
        if not self._keepers:
            return history.advanced(action, at, self.tracked, choices)
        kept, both = {}, zip(self._keepers.items(), weights or [0.0] * len(self._keepers), strict=True)
        for (name, keeper), weight in both:
            if numbers := keeper.after(history, action, at, weight):
                kept[name] = numbers
        return history.advanced(action, at, self.tracked, choices, kept)

    def shifted(self, history: History, by: float) -> History:
        """The history by a clock that is ``by`` (s) ahead; of what is kept, only what is kept for a constraint here."""
        both = ((name, keeper, history.kept.get(name)) for name, keeper in self._keepers.items())
        return history.shifted(by, {name: keeper.shifted(kept, by) for name, keeper, kept in both if kept})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self.bound)} constraints, {len(self.tracked)} tracked actions>"


def _weighed(weigh: Callable[[Row, Action], float], row: Row, action: Action, heaviest: float) -> float:
    """What an action counts for, from nothing to the heaviest; that where it cannot be worked out."""
    try:
        return min(max(weigh(row, action), 0.0), heaviest)
    except ArithmeticError:
        return heaviest
