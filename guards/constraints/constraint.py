"""What every constraint is: a term that says what it forbids, and what it remembers of a session."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from export.spec.spaces import Frozen
from guards.errors import EvaluationFailed
from guards.language.terms import Fixed, Term
from guards.language.walk import Scene, number
from guards.records import Action, History, Schema

Mode = Literal["deny", "warn", "audit"]
NOTHING = Fixed(0.0)


@dataclass(frozen=True, slots=True)
class Recounted:
    """What people say happened in a session, in seconds ago: which choice was ``used`` when, when the executed action
    last changed (``change``), and whenever it ``switched``, the last time first; when the value of this constraint
    ``changed``, and how much of it was ``spent``."""

    previous: str
    used: Mapping[str, float] = field(default_factory=dict)
    change: float | None = None
    switched: tuple[float, ...] = ()
    changed: float | None = None
    spent: float | None = None


@dataclass(frozen=True, slots=True)
class Keeper:
    """How the numbers that a constraint keeps go on when an action is executed at a time (s).

    ``after`` says what is kept then; ``weigh`` what the action counts for, at most ``heaviest``, which is also what it
    counts for where that cannot be evaluated. Of what is kept, the first number is a time, and every ``stride``-th
    after it. ``used_up`` is what is kept when all that is allowed was done at the time 0.
    """

    after: Callable[[History, Action, float, float], tuple[float, ...]]
    used_up: tuple[float, ...]
    weigh: Term = NOTHING
    heaviest: float = 0.0
    stride: int = 1

    def shifted(self, kept: tuple[float, ...], by: float) -> tuple[float, ...]:
        """What is kept, by a clock that is ``by`` (s) ahead."""
        moved = list(kept)
        moved[:: self.stride] = [time + by for time in kept[:: self.stride]]
        return tuple(moved)


class Constraint(Frozen, ABC):
    """What every constraint has: a name, and whether it masks (deny), is told (warn) or only counted (audit)."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    mode: Mode = "deny"
    # What it is about: the actions that may be done, or a policy's answers, which the shield leaves alone.
    judges: ClassVar[Literal["actions", "answers"]] = "actions"
    # What people may say of its past by its name: what was spent, or when its value changed.
    told: ClassVar[Literal["", "spent", "changed"]] = ""

    @abstractmethod
    def term(self, schema: Schema) -> Term:
        """Whether it forbids an action; where that fails, it does. Raises GuardMisconfigured."""

    def excuses(self, schema: Schema) -> Term | None:  # noqa: ARG002 - most constraints let nothing pass
        """Whether it lets an action pass although it cannot be judged, which is reported; None: never."""
        return None

    def condition(self, schema: Schema) -> Term | None:  # noqa: ARG002 - most are no condition
        """The condition that people wrote, of which they want to know whether it can be true."""
        return None

    def tracks(self, schema: Schema) -> frozenset[int]:  # noqa: ARG002 - most constraints need no history of uses
        """The choices whose last use has to be remembered."""
        return frozenset()

    def keeper(self, schema: Schema) -> Keeper | None:  # noqa: ARG002 - most constraints keep no numbers
        """How the numbers that it keeps of each session go on; None where it keeps none."""
        return None

    def recounted(self, told: Recounted) -> tuple[float, ...]:  # noqa: ARG002 - most constraints keep no numbers
        """What it would have kept at the time 0 of what people say; nothing of what they do not say."""
        return ()

    def why(self, scene: Scene, schema: Schema) -> str:  # noqa: ARG002 - these are for kinds that have none
        """Why it forbids an action of a list, or does not, in words."""
        return "there are no words for this kind"


def name_of(action: Action, schema: Schema) -> str:
    """The name of an action of a list; none of what is no action."""
    return schema.actions[action] if isinstance(action, int) and action >= 0 else ""


def seen(history: History) -> str:
    """When the worst is taken to have happened; the time is 0."""
    return f"when the session was first seen, {shown(-history.since)} s ago, because the history is not here"


def shown(value: float) -> str:
    """A number as people write it."""
    whole = float(value).is_integer() and abs(value) < 2**53
    return str(int(value)) if whole else repr(float(value))


def valued(text: str, term: Term, scene: Scene) -> str:
    """An expression and its value, or why it has none."""
    try:
        return f"{text} is {shown(number(term, scene))}"
    except EvaluationFailed as error:
        return f"{text!r} cannot be evaluated, because {error}"
