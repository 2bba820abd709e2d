"""Rate limits: values, or numbers of a Box, that change no faster than they may."""

from math import inf
from typing import Annotated, Literal

from pydantic import Field

from export.spec import Box
from guards.actions import Choices
from guards.boxes import index_of, outside
from guards.constraints.constraint import Constraint, Keeper, Recounted, name_of, seen, shown
from guards.errors import GuardMisconfigured
from guards.language import terms
from guards.language.walk import Scene, left_to_right
from guards.records import NEVER, NO_ACTION, Action, History, Schema


class RateLimit(Constraint):
    """Forbids every action that would change a value faster than ``per_second``, over the time since it last changed.

    ``levels`` says which value each choice stands for (all actions, or all choices of a factor); or ``effect``, what
    each named choice adds to it. Where the history is not here, it changed just before the session was first seen, and
    may stand at the level that is farthest away.

    Of a Box it is the number ``of``, whose change is limited over the time since the last decision. Where it is not
    known how it stands, nothing is left; or, with ``assume``, what is within reach of every number from the first to
    the second.
    """

    kind: Literal["rate_limit"] = "rate_limit"
    per_second: Annotated[float, Field(gt=0)]
    levels: dict[str, float] = Field(default_factory=dict)
    effect: dict[str, float] = Field(default_factory=dict)
    of: str | None = None
    assume: tuple[float, float] | None = None
    told = "changed"

    def term(self, schema: Schema) -> terms.Term:
        if isinstance(schema.action, Box):
            return self._out_of_reach(schema)
        choices = self._choices(schema)
        since = terms.plain(
            "max", terms.Recall((self.name, "seconds"), self._seconds, terms.just_now(NEVER)), terms.number(0)
        )
        most = terms.plain("*", since, terms.number(self.per_second))
        if self.effect:
            change = choices.table(self.effect)
            too_much = terms.compare(terms.plain("abs", change), ">", most)
            return terms.operation("and", terms.compare(change, "!=", terms.number(0)), too_much)
        here, before = choices.table(self.levels), choices.table(self.levels, "previous")
        columns = choices.columns(self.levels).values()
        low, high = terms.number(left_to_right([*map(min, columns)])), terms.number(left_to_right([*map(max, columns)]))
        farthest = terms.plain("max", terms.plain("-", high, here), terms.plain("-", here, low))
        moves = terms.operation("some", terms.compare(terms.plain("abs", terms.plain("-", here, before)), ">", most))
        known = terms.operation("and", terms.opposite(terms.BEGINS), moves)
        return terms.operation("if", terms.UNKNOWN, terms.compare(farthest, ">", most), known)

    def _choices(self, schema: Schema) -> Choices:
        choices = Choices(schema)
        if self.of is not None or self.assume is not None:
            msg = "of and assume are for the numbers of a box action, expected levels or effect"
            raise GuardMisconfigured(msg)
        if bool(self.levels) == bool(self.effect):
            msg = "levels and effect are both here or both missing, expected one of them"
            raise GuardMisconfigured(msg)
        if missing := choices.missing(self.levels):
            msg = f"levels: has none for {', '.join(missing)}, expected one for each"
            raise GuardMisconfigured(msg)
        return choices

    def _out_of_reach(self, schema: Schema) -> terms.Term:
        if self.levels or self.effect:
            msg = "levels and effect are for choices, expected neither: a Box's number is limited itself"
            raise GuardMisconfigured(msg)
        least, most = self.assume or (-inf, inf)
        if least > most:
            msg = f"assume: is from {least} to {most}, expected the smaller number first"
            raise GuardMisconfigured(msg)
        index = index_of(self.of, schema)

        def reach(history: History, now: float) -> tuple[float, float]:
            """The least and the most that the number may be."""
            if history.known and history.step == 0:
                return -inf, inf
            kept, last = history.kept.get(self.name), [one[index] for one in history.last if isinstance(one, tuple)]
            low, high, then = (min(last), max(last), kept[0]) if kept and last else (least, most, history.since)
            change = max(now - then, 0.0) * self.per_second
            return high - change, low + change

        def limit(side: int, end: float, free: float) -> terms.Term:
            # At the worst no time has passed: only what all that it may be have in common is within reach.
            worst = terms.operation("if", terms.BEGINS, terms.number(free), terms.Part(index, "previous"))
            worst = terms.operation("if", terms.UNKNOWN, terms.number(end), worst)
            return terms.Recall((self.name, side), lambda history, now: reach(history, now)[side], worst)

        return outside(index, limit(0, most, -inf), limit(1, least, inf))

    def keeper(self, schema: Schema) -> Keeper:
        if isinstance(schema.action, Box):
            # A clock that runs backwards stands still.
            return Keeper(lambda history, _, at, __: (max(at, *history.kept.get(self.name, (at,))),), (0.0,))
        value_of = self._choices(schema).summed(self.levels or self.effect)

        def moves(history: History, action: Action) -> bool:
            """Whether an action changes the value."""
            if self.effect:
                return value_of(action) != 0
            return history.action != NO_ACTION and {value_of(action)} != set(map(value_of, history.last))

        def after(history: History, action: Action, at: float, _: float) -> tuple[float, ...]:
            kept = history.kept.get(self.name, ())
            if (history.known or history.step) and not moves(history, action):
                return kept
            return (max(at, *kept),) if kept else (at,)

        return Keeper(after, (0.0,))

    def _seconds(self, history: History, now: float) -> float:
        """Seconds since the value last changed."""
        kept = history.kept.get(self.name)
        last = kept[0] if kept else -NEVER
        return now - (last if history.known else max(last, history.since))

    def recounted(self, told: Recounted) -> tuple[float, ...]:
        ago = [told.changed] if told.changed is not None else []
        if told.changed is None:
            ago += [seconds for name, seconds in told.used.items() if self.effect.get(name)]
            # A change to an action that adds nothing has not changed the value.
            if told.change is not None and (self.levels or self.effect.get(told.previous)):
                ago.append(told.change)
        return (-min(ago),) if ago else ()

    def why(self, scene: Scene, schema: Schema) -> str:
        history, action = scene.row.history, name_of(scene.action, schema)
        kept = history.kept.get(self.name)
        if not history.known and (not kept or kept[0] <= history.since):
            since = f", which is taken to have been {seen(history)}"
        elif kept:
            since = f", which was {shown(-kept[0])} s ago"
        else:
            since = ", as if there had been none before" if history.step else ", and there was none"
        allowed = f"expected at most {shown(self.per_second)} for each second since the last change{since}"
        if self.effect:
            return f"this action changes the value by {shown(abs(self.effect.get(action, 0.0)))}: {allowed}"
        previous = name_of(history.action, schema)
        before = f"stood at {shown(self.levels[previous])}" if previous else "is not known"
        return f"the value {before}, and this action sets it to {shown(self.levels[action])}: {allowed}"
