"""The spaces a policy reads from and acts in, with names and units for people and rules."""

import math
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic import Field as Constrained

# (pydantic matches with Rust's regex, whose `$` is the very end of the text, without Python's exception for a newline.)
# A field's name is used in rule expressions, so it has to be an identifier; an action's name only has to be readable.
Identifier = Annotated[str, Constrained(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]
Label = Annotated[str, Constrained(pattern=r"^[!-~]+$", max_length=64)]
# An entry's key becomes a part of a tensor's name: `obs.<key>`.
Key = Annotated[str, Constrained(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$", max_length=64)]
Dtype = Literal["float32", "float64", "int64", "uint8"]
Size = Annotated[int, Constrained(ge=1)]


class Port(NamedTuple):
    """One tensor that goes into a graph or comes out of it, without its first axis, which is the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Frozen(BaseModel):
    """A record that cannot change and refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Field(Frozen):
    """One named number of an observation or a Box action; a bound that is None is unbounded."""

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

    @property
    def size(self) -> int:
        return len(self.fields)

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (Port("obs", self.dtype, self.shape),)

    @property
    def columns(self) -> dict[str, int]:
        """Where each named number stands in a row of the observation, flattened."""
        return {name: at for at, name in enumerate(self.names)}

    @property
    def units(self) -> dict[str, str]:
        """The unit of each named number; an empty text where none is declared."""
        return {field.name: field.unit for field in self.fields}


class Array(Frozen):
    """An observation of one array, an image for instance: the network's input is ``obs[N, *shape]``."""

    kind: Literal["array"] = "array"
    shape: Annotated[tuple[Size, ...], Constrained(min_length=1, max_length=4)]
    dtype: Dtype = "float32"
    low: float | None = None
    high: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return ()

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def inputs(self) -> tuple[Port, ...]:
        return (Port("obs", self.dtype, self.shape),)

    @property
    def columns(self) -> dict[str, int]:
        return {}

    @property
    def units(self) -> dict[str, str]:
        return {}


class Entry(Frozen):
    """One part of a Dict observation."""

    key: Key
    space: Annotated[Fields | Array, Constrained(discriminator="kind")]


class Dict(Frozen):
    """An observation of several parts by key: the network's inputs are ``obs.<key>[N, *shape]``.

    Flattened, a row has the parts one after another in this order. Names of fields are distinct over all parts.
    """

    kind: Literal["dict"] = "dict"
    entries: Annotated[tuple[Entry, ...], Constrained(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _keys_and_names_are_distinct(self) -> "Dict":
        _refuse_repeats("key", tuple(entry.key for entry in self.entries))
        _refuse_repeats("field", self.names)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for entry in self.entries for name in entry.space.names)

    @property
    def size(self) -> int:
        return sum(entry.space.size for entry in self.entries)

    @property
    def inputs(self) -> tuple[Port, ...]:
        return tuple(Port(f"obs.{entry.key}", entry.space.dtype, entry.space.shape) for entry in self.entries)

    @property
    def columns(self) -> dict[str, int]:
        """Where each named number stands in a row of the observation, flattened."""
        found: dict[str, int] = {}
        start = 0
        for entry in self.entries:
            found |= {name: start + at for name, at in entry.space.columns.items()}
            start += entry.space.size
        return found

    @property
    def units(self) -> dict[str, str]:
        """The unit of each named number; an empty text where none is declared."""
        return {name: unit for entry in self.entries for name, unit in entry.space.units.items()}


ObservationSpace = Annotated[Fields | Array | Dict, Constrained(discriminator="kind")]


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

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many choices there are of each factor: it is one."""
        return (len(self.names),)

    @property
    def width(self) -> int:
        """How many numbers the head has for it."""
        return len(self.names)

    @property
    def port(self) -> Port:
        """The graph's ``action`` output."""
        return Port("action", "int64", ())


class Factor(Frozen):
    """One of the choices that a MultiDiscrete action makes at once."""

    name: Identifier
    names: Annotated[tuple[Label, ...], Constrained(min_length=1, max_length=65536)]

    @model_validator(mode="after")
    def _names_are_distinct(self) -> "Factor":
        _refuse_repeats("choice", self.names)
        return self


class MultiDiscrete(Frozen):
    """Several choices at once: an action is one index per factor, ``[K]``.

    The head has the factors' numbers one after another. MultiBinary is a MultiDiscrete of factors with two choices.
    """

    kind: Literal["multi_discrete"] = "multi_discrete"
    factors: Annotated[tuple[Factor, ...], Constrained(min_length=1, max_length=1024)]

    @model_validator(mode="after")
    def _names_are_distinct(self) -> "MultiDiscrete":
        _refuse_repeats("factor", tuple(factor.name for factor in self.factors))
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(factor.names) for factor in self.factors)

    @property
    def width(self) -> int:
        """How many numbers the head has for it: all factors' choices."""
        return sum(self.sizes)

    @property
    def port(self) -> Port:
        """The graph's ``action`` output."""
        return Port("action", "int64", (len(self.factors),))


class Box(Frozen):
    """Named real numbers, each within its bounds if it has some: an action is ``[D]``, row by row of ``shape``."""

    kind: Literal["box"] = "box"
    fields: Annotated[tuple[Field, ...], Constrained(min_length=1, max_length=4096)]
    shape: Annotated[tuple[Size, ...], Constrained(max_length=4)] = ()

    @model_validator(mode="after")
    def _names_are_distinct_and_fill_the_shape(self) -> "Box":
        _refuse_repeats("action", tuple(field.name for field in self.fields))
        if self.shape and math.prod(self.shape) != len(self.fields):
            msg = f"the shape {list(self.shape)} does not hold {len(self.fields)} numbers, one for each field"
            raise ValueError(msg)
        return self

    @property
    def form(self) -> tuple[int, ...]:
        """The shape of an action; one axis where none is said."""
        return self.shape or (len(self.fields),)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many choices there are of each factor: it has none."""
        return ()

    @property
    def low(self) -> tuple[float, ...]:
        return tuple(-math.inf if field.low is None else field.low for field in self.fields)

    @property
    def high(self) -> tuple[float, ...]:
        return tuple(math.inf if field.high is None else field.high for field in self.fields)

    @property
    def width(self) -> int:
        """How many numbers each tensor of the head has for it."""
        return len(self.fields)

    @property
    def port(self) -> Port:
        """The graph's ``action`` output."""
        return Port("action", "float32", self.form)


ActionSpace = Annotated[Discrete | MultiDiscrete | Box, Constrained(discriminator="kind")]


def _refuse_repeats(what: str, names: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            msg = f"{what} name {name!r} stands twice, expected distinct names"
            raise ValueError(msg)
        seen.add(name)
