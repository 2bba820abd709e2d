"""The spaces a policy reads from and acts in, with names and units for people and rules."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic import Field as Constrained

# (pydantic matches with Rust's regex, whose `$` is the very end of the text, without Python's exception for a newline.)
# A field's name is used in rule expressions, so it has to be an identifier; an action's name only has to be readable.
Identifier = Annotated[str, Constrained(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]
Label = Annotated[str, Constrained(pattern=r"^[!-~]+$", max_length=64)]
Dtype = Literal["float32", "float64", "int64", "uint8"]


class Frozen(BaseModel):
    """A record that cannot change and refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Field(Frozen):
    """One named number of an observation; a bound that is None is unbounded."""

    name: Identifier
    unit: str = ""
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> "Field":
        if self.low is not None and self.high is not None and self.low > self.high:
            msg = f"field {self.name!r}: low is {self.low}, expected at most high, which is {self.high}"
            raise ValueError(msg)
        return self


class Fields(Frozen):
    """An observation of named numbers: the network's input is ``obs[N, len(fields)]`` in this order."""

    kind: Literal["fields"] = "fields"
    fields: Annotated[tuple[Field, ...], Constrained(min_length=1, max_length=4096)]
    dtype: Dtype = "float32"

    @model_validator(mode="after")
    def _names_are_distinct(self) -> "Fields":
        _refuse_repeats("field", self.names)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.fields),)


class Array(Frozen):
    """An observation of one array, an image for instance: the network's input is ``obs[N, *shape]``."""

    kind: Literal["array"] = "array"
    shape: Annotated[tuple[Annotated[int, Constrained(ge=1)], ...], Constrained(min_length=1, max_length=4)]
    dtype: Dtype = "float32"
    low: float | None = None
    high: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return ()


ObservationSpace = Annotated[Fields | Array, Constrained(discriminator="kind")]


class Discrete(Frozen):
    """A choice among named actions: an action is its index, its name is what people and rules say."""

    kind: Literal["discrete"] = "discrete"
    names: Annotated[tuple[Label, ...], Constrained(min_length=1, max_length=65536)]

    @model_validator(mode="after")
    def _names_are_distinct(self) -> "Discrete":
        _refuse_repeats("action", self.names)
        return self

    @property
    def n(self) -> int:
        return len(self.names)


# One member today; Box and MultiDiscrete join the union with their heads.
ActionSpace = Discrete


def _refuse_repeats(what: str, names: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            msg = f"{what} name {name!r} stands twice, expected distinct names"
            raise ValueError(msg)
        seen.add(name)
