"""What every baseline is, and how actions are written in its settings."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from numpy.typing import NDArray
from pydantic import WrapValidator
from pydantic_core import PydanticCustomError

from export.spec.spaces import Frozen
from guards.actions import Written
from guards.batched import Context, Domain
from guards.errors import setting
from guards.records import Actions, Booleans, Schema

# The proposed action of each row; a row without one where it could not be worked out.
Propose = Callable[[Context], Actions]
# What each row's history keeps for the baseline, once these actions[N] were executed and own[N] were its proposals.
Remember = Callable[[Context, Actions, Booleans], Sequence[tuple[float, ...]]]
# Where a history keeps it: constraints keep theirs there by name, and none is called so.
KEPT = ""


def _written(told: object, _: object) -> Written:
    """An action of any space as it stands in a file; the schema says later whether it is one of its own."""
    if isinstance(told, str):
        return told
    if isinstance(told, list | tuple) and all(type(one) in (str, int, float) for one in told):
        return tuple(told)
    kind = "action"
    raise PydanticCustomError(kind, "the name of an action, or a list of names, indices or numbers")


Told = Annotated[Written, WrapValidator(_written)]


class Baseline(Frozen, ABC):
    """What every baseline has: the last resort, which is done where even the baseline is refused."""

    last_resort: Told | None = None

    @abstractmethod
    def bind(self, schema: Schema) -> Propose:
        """The proposer under a schema; raises GuardMisconfigured."""

    def remembers(self, schema: Schema) -> Remember | None:  # noqa: ARG002 - most have no memory
        """What goes on in each session beside what was executed, for a baseline bound to the schema; None: nothing."""
        return None

    def last(self, schema: Schema) -> Actions | None:
        """The last resort; raises GuardMisconfigured for what is not an action."""
        return None if self.last_resort is None else action_of("last_resort", self.last_resort, schema)


def action_of(name: str, written: Written, schema: Schema) -> Actions:
    """The action in a setting; raises GuardMisconfigured."""
    with setting(name):
        return Domain(schema.action).read(written)


def beside(rows: NDArray[Any], action: Actions) -> NDArray[Any]:
    """A value a row, shaped to stand beside rows of actions like this one."""
    return rows.reshape(-1, *[1] * action.ndim)
