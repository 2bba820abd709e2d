"""What every constraint is: how it says what it forbids, and what it remembers of a session."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from export.spec.spaces import Frozen
from guards.projection import Region
from guards.records import Action, Booleans, Context, Floats, History, Integers, Schema

Mode = Literal["deny", "warn", "audit"]
# Says what is forbidden: for all actions (choice None), broadcastable to [N, A]; for one action a row, to [N]. Of a Box
# there is no asking for all actions, and one action a row is its numbers[N, D].
Forbids = Callable[[Context, Integers | None], Booleans]
# Says what is left of a Box, as a region for each row.
Confine = Callable[[Context], Region]


@dataclass(frozen=True, slots=True)
class Keeper:
    """How the numbers that a constraint keeps go on when an action is executed at a time (s).

    ``weigh`` says what each row's[N] action counts for, ``after`` what is kept then. Of what is kept, the first number
    is a time, and every ``stride``-th after it.
    """

    after: Callable[[History, Action, float, float], tuple[float, ...]]
    weigh: Callable[[Context, Integers | None], Floats] | None = None
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

    @abstractmethod
    def bind(self, schema: Schema) -> Forbids:
        """What it forbids; raises GuardMisconfigured."""

    def confine(self, schema: Schema) -> Confine | None:  # noqa: ARG002 - most constraints can only refuse
        """What it leaves of a Box, so that actions can be moved there; None where it can only refuse them."""
        return None

    def tracks(self, schema: Schema) -> frozenset[int]:  # noqa: ARG002 - most constraints need no history of uses
        """The choices whose last use has to be remembered."""
        return frozenset()

    def excuses(self, schema: Schema) -> Forbids | None:  # noqa: ARG002 - most constraints let nothing pass
        """What it lets pass although it cannot be judged, which is reported; None where there is no such thing."""
        return None

    def keeper(self, schema: Schema) -> Keeper | None:  # noqa: ARG002 - most constraints keep no numbers
        """How the numbers that it keeps of each session go on; None where it keeps none."""
        return None
