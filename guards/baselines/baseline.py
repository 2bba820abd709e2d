"""What every baseline is, and how actions and numbers are written in its settings."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated

from pydantic import WrapValidator
from pydantic_core import PydanticCustomError

from export.spec.spaces import Frozen
from guards.actions import Written, read
from guards.errors import setting
from guards.language.python import evaluated
from guards.language.syntax import amount_of
from guards.records import Action, Row, Schema

# The proposed action of a row; None where it could not be worked out.
Propose = Callable[[Row], Action | None]
# What a row's history keeps for the baseline, once this action was executed, which was its own proposal or was not.
Remember = Callable[[Row, Action, bool], tuple[float, ...]]
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

    def last(self, schema: Schema) -> Action | None:
        """The last resort; raises GuardMisconfigured for what is not an action."""
        return None if self.last_resort is None else action_of("last_resort", self.last_resort, schema)


def action_of(name: str, written: Written, schema: Schema) -> Action:
    """The action in a setting; raises GuardMisconfigured."""
    with setting(name):
        return read(written, schema.action)


def number_of(name: str, written: str | float, schema: Schema) -> Callable[[Row], float]:
    """The expression, or the number, in a setting, for a row: NaN where it has no value. Raises GuardMisconfigured."""
    return evaluated(amount_of(name, written, schema), schema)
