"""Budgets: what may be spent in a window of time."""

from math import floor, fsum
from typing import Annotated, Literal

from pydantic import Field

from guards.constraints.constraint import Constraint, Keeper, Recounted, seen, shown, valued
from guards.language.syntax import term_of
from guards.language.terms import HAPPENED, Recall, Term, compare, number, operation
from guards.language.walk import Scene
from guards.records import Action, History, Schema

Seconds = Annotated[float, Field(ge=0.001, le=86400 * 365)]
# The window is divided into so many: what is spent within one of them is kept as spent at its last time.
BUCKETS = 10


class Budget(Constraint):
    """Forbids every action that costs more than is left of ``at_most`` in the last ``seconds`` of the session.

    What cannot be evaluated is too dear; a cost below zero is none. Costs are counted for up to a tenth of
    ``seconds`` longer. Where the history is not here, all was spent just before the session was first seen.
    """

    kind: Literal["budget"] = "budget"
    cost: str
    at_most: Annotated[float, Field(gt=0, le=1e12)]
    seconds: Seconds
    told = "spent"

    def term(self, schema: Schema) -> Term:
        worst = operation("if", HAPPENED, number(0), number(self.at_most))
        left = Recall((self.name, "left"), self._left, worst)
        cost = term_of(self.cost, schema, "number")
        return operation("and", compare(cost, ">", number(0)), compare(cost, ">", left))

    def keeper(self, schema: Schema) -> Keeper:
        cost = term_of(self.cost, schema, "number")
        return Keeper(self._after, (0.0, self.at_most), cost, heaviest=self.at_most, stride=2)

    def _left(self, history: History, now: float) -> float:
        """What is left of the budget."""
        if not history.known and now - history.since < self.seconds:
            return 0.0
        kept = history.kept.get(self.name, ())
        return self.at_most - self._spent(kept, now) if kept else self.at_most

    def _spent(self, kept: tuple[float, ...], now: float) -> float:
        """What was spent in the window."""
        if kept and now - kept[0] < self.seconds:
            return fsum(kept[1::2])
        return fsum([cost for at, cost in zip(kept[::2], kept[1::2], strict=True) if now - at < self.seconds])

    def _after(self, history: History, _: Action, at: float, cost: float) -> tuple[float, ...]:
        """Pairs of a time and what was spent until then, one for each bucket of the window; the oldest first."""
        kept = history.kept.get(self.name, ())
        while kept and at - kept[0] >= self.seconds:
            kept = kept[2:]
        if cost <= 0:
            return kept
        width = self.seconds / BUCKETS
        # A clock that runs backwards stands still.
        at = max(at, kept[-2]) if kept else at
        if kept and floor(kept[-2] / width) == floor(at / width):
            return (*kept[:-2], at, min(kept[-1] + cost, self.at_most))
        return (*kept, at, cost)

    def recounted(self, told: Recounted) -> tuple[float, ...]:
        return () if told.spent is None else (0.0, told.spent)

    def why(self, scene: Scene, schema: Schema) -> str:
        history = scene.row.history
        kept = history.kept.get(self.name, ())
        if not history.known and -history.since < self.seconds:
            before = f"all of which is taken to have been spent {seen(history)}"
        elif kept:
            before = f"of which {shown(self._spent(kept, 0.0))} was spent"
        else:
            before = "as if nothing had been spent before" if history.step else "of which nothing was spent"
        cost = valued(self.cost, term_of(self.cost, schema, "number"), scene)
        return f"{cost}: expected no more than is left of {shown(self.at_most)} in {shown(self.seconds)} s, {before}"
