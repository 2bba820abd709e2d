"""Cooldowns: actions that rest after they were executed."""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from guards.actions import Choices
from guards.constraints.constraint import Constraint, seen, shown
from guards.language.terms import Recall, Term, compare, just_now, number, operation
from guards.language.walk import Scene, value
from guards.records import NEVER, History, Schema


class Cooldown(Constraint):
    """Forbids its actions for some seconds after any of them was executed in the session.

    Where the session's history is not known, one of them is taken to have been executed just before it was first seen.
    """

    kind: Literal["cooldown"] = "cooldown"
    actions: Annotated[tuple[str, ...], Field(min_length=1)]
    seconds: Annotated[float, Field(gt=0, le=86400 * 365)]

    def term(self, schema: Schema) -> Term:
        used = tuple(sorted(self.tracks(schema)))
        ago = Recall(("used", used), partial(History.since_use, choices=used), just_now(NEVER))
        return operation("and", Choices(schema).among(self.actions), compare(ago, "<", number(self.seconds)))

    def tracks(self, schema: Schema) -> frozenset[int]:
        return frozenset(map(Choices(schema).index, self.actions))

    def why(self, scene: Scene, schema: Schema) -> str:
        history, names = scene.row.history, {name: Choices(schema).index(name) for name in self.actions}
        if not value(Choices(schema).among(self.actions), scene):
            return "is not about this action"
        uses = {name: -history.used[index] for name, index in names.items() if index in history.used}
        first, rests = -history.since, f"it rests for {shown(self.seconds)} s"
        if not history.known and first <= min(uses.values(), default=first):
            return f"one of its actions is taken to have been executed {seen(history)}; {rests}"
        if not uses:
            return "none of its actions was executed in this episode"
        last = min(uses, key=lambda name: uses[name])
        return f"{last!r} was executed {shown(uses[last])} s ago; {rests}"
