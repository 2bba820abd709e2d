"""Limits on how often the executed action may change."""

from typing import Annotated, Literal

from pydantic import Field

from guards.actions import Choices
from guards.constraints.budget import Seconds
from guards.constraints.constraint import Constraint, Keeper, Recounted, seen, shown
from guards.language.terms import Recall, Term, Whole, compare, just_now, number, operation
from guards.language.walk import Scene
from guards.records import NEVER, Action, History, Schema


class MaxSwitches(Constraint):
    """Forbids every action but the one before when the last ``seconds`` have ``at_most`` changes of action in them.

    Where the history is not here, so many were made just before the session was first seen; and while it is not known
    what was done last, that leaves nothing. Where either of two actions may have been, a change from either is one.
    """

    kind: Literal["max_switches"] = "max_switches"
    at_most: Annotated[int, Field(ge=1, le=100)]
    seconds: Seconds

    def term(self, schema: Schema) -> Term:
        Choices(schema)  # or there is nothing to switch between
        ago = Recall((self.name, "ago"), self._ago, just_now(NEVER))
        other = operation("some", compare(Whole(), "!=", Whole("previous")))
        return operation("and", other, compare(ago, "<", number(self.seconds)))

    def keeper(self, schema: Schema) -> Keeper:  # noqa: ARG002 - actions differ or not, whatever they are
        return Keeper(self._after, (0.0,) * self.at_most)

    def _ago(self, history: History, now: float) -> float:
        """Seconds since the first of the last so many changes."""
        kept = history.kept.get(self.name, ())
        first = kept[-self.at_most] if len(kept) >= self.at_most else -NEVER
        return now - (first if history.known else max(first, history.since))

    def _after(self, history: History, action: Action, at: float, _: float) -> tuple[float, ...]:
        """The times of the last so many changes, in order."""
        kept = history.kept.get(self.name, ())
        if kept and at - kept[0] >= self.seconds:
            kept = tuple(time for time in kept if at - time < self.seconds)
        same = history.action == action and history.other in (None, action)
        if same or (history.known and history.step == 0):
            return kept
        return tuple(sorted((*kept, at)))[-self.at_most :]

    def recounted(self, told: Recounted) -> tuple[float, ...]:
        return tuple(-ago for ago in sorted(told.switched, reverse=True))

    def why(self, scene: Scene, schema: Schema) -> str:  # noqa: ARG002 - actions differ or not
        history = scene.row.history
        made = sum(-at < self.seconds for at in history.kept.get(self.name, ()))
        if history.action == scene.action:
            return "this is the action of the decision before"
        if not history.known and -history.since < self.seconds:
            before = f"and so many are taken to have been made {seen(history)}"
        elif made >= self.at_most or not history.step:
            before = f"and {made} were made"
        else:
            before = f"as if {made or 'none'} had been made before"
        most = f"expected at most {self.at_most} changes in {shown(self.seconds)} s"
        return f"another action than the one before: {most}, {before}"
