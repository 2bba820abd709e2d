"""The spaces of a declaration as people write them, and what they are in an artefact."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, model_validator
from pydantic import Field as Constrained

from export.spec import (
    ActionSpace,
    Array,
    Box,
    Dict,
    Discrete,
    Entry,
    Factor,
    Field,
    Fields,
    MultiDiscrete,
    ObservationSpace,
)
from export.spec.spaces import Frozen, Identifier, Key, Label, Size

_STATES_CAP = 65536
Where = str | int
Count = Annotated[int, Constrained(ge=1, le=65536)]


def _numbers(value: object) -> object:
    """Take a number, a list of numbers, or the name of a tensor."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (float(value),)
    if isinstance(value, str) and value:
        return value
    if isinstance(value, (list, tuple)) and value and all(type(number) in (int, float) for number in value):
        return tuple(float(number) for number in value)
    msg = "expected a number, a list of numbers, or the name of a tensor"
    raise ValueError(msg)


Numbers = Annotated[tuple[float, ...] | str, BeforeValidator(_numbers)]


class Normalise(Frozen):
    """What training subtracted from an observation and divided it by, worked out in float64 inside the graph.

    ``mean`` and ``var`` or ``std`` are numbers, or names of numbers in the file, dotted where they lie deeper: tensors,
    lists of numbers, or single ones (at ``key``, where they lie in another part of it than the network; at ``""`` for
    the whole file). ``epsilon_with`` says whether epsilon was added to the variance, (x - mean) / sqrt(var + epsilon),
    or to the standard deviation, (x - mean) / (std + epsilon). Where both var and std are given they have to agree.
    """

    mean: Numbers
    var: Numbers | None = None
    std: Numbers | None = None
    clip: Annotated[float, Constrained(gt=0)] | None = None
    epsilon: Annotated[float, Constrained(ge=0)] = 1e-8
    epsilon_with: Literal["var", "std"] | None = None
    key: Where | None = None

    @model_validator(mode="after")
    def _one_width(self) -> "Normalise":
        if self.var is None and self.std is None:
            msg = "expected either var or std"
            raise ValueError(msg)
        if self.var is not None and self.std is not None and self.epsilon_with is None:
            msg = "has both var and std, expected epsilon_with = 'var' or 'std' with them"
            raise ValueError(msg)
        return self

    @property
    def epsilon_place(self) -> Literal["var", "std"]:
        """Where epsilon is added; where nothing is said, to what was given."""
        return self.epsilon_with or ("var" if self.var is not None else "std")


class Part(Frozen):
    """One tensor of an observation, and what happens to it before the first layer."""

    key: str = ""
    space: Fields | Array
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    scale: float | None = None
    normalise: Normalise | None = None

    @model_validator(mode="after")
    def _network_can_take_it(self) -> "Part":
        if isinstance(self.space, Fields):
            self._refuse_odd_fields(self.space)
        elif self.space.dtype == "int64":
            msg = "dtype is int64, which a network takes one-hot: declare fields with low = 0 and a high instead"
            raise ValueError(msg)
        elif self.space.dtype == "uint8" and self.scale is None:
            msg = "dtype is uint8: say scale = 255 where training divided pixels by 255, scale = 1 where it did not"
            raise ValueError(msg)
        if self.normalise is not None and self.space.dtype == "int64":
            msg = "normalise does not go with states (int64), which enter the network one-hot"
            raise ValueError(msg)
        return self

    def _refuse_odd_fields(self, space: Fields) -> None:
        if space.dtype == "uint8":
            msg = "dtype is uint8, expected float32 or float64, or int64 for states"
            raise ValueError(msg)
        if space.dtype == "int64" and not all(field.low == 0 and field.high is not None for field in space.fields):
            msg = (
                "dtype is int64, whose fields are states that enter the network one-hot: each needs low = 0 and a high"
            )
            raise ValueError(msg)
        if space.dtype == "int64" and sum(self.states) > _STATES_CAP:
            msg = f"the fields have {sum(self.states)} states together, expected at most {_STATES_CAP}"
            raise ValueError(msg)

    @property
    def states(self) -> tuple[int, ...]:
        """How many states each field has, where they enter the network one-hot; empty for other observations."""
        if isinstance(self.space, Fields) and self.space.dtype == "int64":
            return tuple(int(field.high or 0) + 1 for field in self.space.fields)
        return ()


class Image(Array):
    """An array; ``layout`` says where an image has its channels, ``scale`` what its numbers are divided by."""

    layout: Literal["NCHW", "NHWC"] = "NCHW"
    scale: Annotated[float, Constrained(gt=0)] | None = None

    @property
    def plain(self) -> Array:
        """The array alone, as it stands in an artefact."""
        return Array(shape=self.shape, dtype=self.dtype, low=self.low, high=self.high)


class FieldsEntry(Fields):
    """Named numbers as one entry of a Dict observation."""

    key: Key
    normalise: Normalise | None = None


class ImageEntry(Image):
    """An array as one entry of a Dict observation."""

    key: Key
    normalise: Normalise | None = None


class Entries(Frozen):
    """A Dict observation: its entries by key, in the order in which the network has them one after another."""

    kind: Literal["dict"] = "dict"
    entries: Annotated[
        tuple[Annotated[FieldsEntry | ImageEntry, Constrained(discriminator="kind")], ...],
        Constrained(min_length=1, max_length=64),
    ]

    @model_validator(mode="after")
    def _fit_an_artefact(self) -> "Entries":
        space_of(self)
        return self


DeclaredObservation = Annotated[Fields | Image | Entries, Constrained(discriminator="kind")]


def parts_of(observation: Fields | Image | Entries, normalise: Normalise | None) -> tuple[Part, ...]:
    """Give the tensors of an observation, each with what happens to it before the first layer."""
    if isinstance(observation, Entries):
        return tuple(_part(entry, entry.key, entry.normalise) for entry in observation.entries)
    return (_part(observation, "", normalise),)


def _part(space: Fields | Image, key: str, normalise: Normalise | None) -> Part:
    if isinstance(space, Image):
        return Part(key=key, space=space.plain, layout=space.layout, scale=space.scale, normalise=normalise)
    return Part(key=key, space=Fields(fields=space.fields, dtype=space.dtype), normalise=normalise)


def space_of(observation: Fields | Image | Entries) -> ObservationSpace:
    """Give the observation space as it stands in an artefact."""
    if isinstance(observation, Entries):
        return Dict(entries=tuple(Entry(key=part.key, space=part.space) for part in parts_of(observation, None)))
    return observation.plain if isinstance(observation, Image) else observation


class DiscreteAction(Frozen):
    """A choice: ``names`` of the actions in the network's order, or how many there are."""

    kind: Literal["discrete"] = "discrete"
    names: Annotated[tuple[Label, ...], Constrained(max_length=65536)] = ()
    n: Count | None = None

    @model_validator(mode="after")
    def _fit_an_artefact(self) -> "DiscreteAction":
        _refuse_both("names", self.names, "n", self.n)
        _ = self.space
        return self

    @property
    def space(self) -> ActionSpace:
        return Discrete(names=self.names or tuple(f"action_{at}" for at in range(self.n or 0)))


class MultiDiscreteAction(Frozen):
    """Several choices at once: ``factors`` with their names, or ``nvec``, how many choices each has."""

    kind: Literal["multi_discrete"] = "multi_discrete"
    factors: Annotated[tuple[Factor, ...], Constrained(max_length=1024)] = ()
    nvec: Annotated[tuple[Count, ...], Constrained(max_length=1024)] = ()

    @model_validator(mode="after")
    def _fit_an_artefact(self) -> "MultiDiscreteAction":
        _refuse_both("factors", self.factors, "nvec", self.nvec)
        _ = self.space
        return self

    @property
    def space(self) -> ActionSpace:
        plain = tuple(
            Factor(name=f"factor_{at}", names=tuple(f"choice_{choice}" for choice in range(count)))
            for at, count in enumerate(self.nvec)
        )
        return MultiDiscrete(factors=self.factors or plain)


class MultiBinaryAction(Frozen):
    """Several switches, each off or on: their ``names``, or how many there are."""

    kind: Literal["multi_binary"]
    names: Annotated[tuple[Identifier, ...], Constrained(max_length=1024)] = ()
    n: Annotated[int, Constrained(ge=1, le=1024)] | None = None

    @model_validator(mode="after")
    def _fit_an_artefact(self) -> "MultiBinaryAction":
        _refuse_both("names", self.names, "n", self.n)
        _ = self.space
        return self

    @property
    def space(self) -> ActionSpace:
        names = self.names or tuple(f"switch_{at}" for at in range(self.n or 0))
        return MultiDiscrete(factors=tuple(Factor(name=name, names=("off", "on")) for name in names))


class BoxAction(Frozen):
    """Real numbers: ``fields`` with their names, units and bounds, or lists ``low`` and ``high`` (and ``names``).

    ``constant`` names the numbers that never change, or gives their places: others than those are refused.
    """

    kind: Literal["box"] = "box"
    fields: Annotated[tuple[Field, ...], Constrained(max_length=4096)] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    names: tuple[Identifier, ...] = ()
    units: tuple[str, ...] = ()
    shape: Annotated[tuple[Size, ...], Constrained(max_length=4)] = ()
    constant: tuple[Identifier | Annotated[int, Constrained(ge=0)], ...] = ()

    @model_validator(mode="after")
    def _fit_an_artefact(self) -> "BoxAction":
        if self.fields and (self.low or self.high or self.names or self.units):
            msg = "expected either fields, or low and high (with names and units), not both"
            raise ValueError(msg)
        if not self.fields:
            counts = {name: len(getattr(self, name)) for name in ("high", "names", "units") if getattr(self, name)}
            if not self.low or "high" not in counts or set(counts.values()) != {len(self.low)}:
                found = ", ".join(f"{name} has {count}" for name, count in ({"low": len(self.low)} | counts).items())
                msg = f"expected as many numbers in low as in high (and in names and units, where given): {found}"
                raise ValueError(msg)
        _ = self.constant_places
        return self

    @property
    def constant_places(self) -> tuple[int, ...]:
        """Where the numbers are that never change."""
        names = [field.name for field in self.space.fields]
        lost = [one for one in self.constant if one not in (*names, *range(len(names)))]
        if lost:
            msg = f"constant has {lost[0]!r}, expected one of {', '.join(names[:12])}, or a place among {len(names)}"
            raise ValueError(msg)
        return tuple(one if isinstance(one, int) else names.index(one) for one in self.constant)

    @property
    def space(self) -> Box:
        names = self.names or tuple(f"action_{at}" for at in range(len(self.low)))
        units = self.units or ("",) * len(names)
        listed = tuple(
            Field(name=name, unit=unit, low=low, high=high)
            for name, unit, low, high in zip(names, units, self.low, self.high, strict=bool(self.low))
        )
        return Box(fields=self.fields or listed, shape=self.shape)


DeclaredAction = Annotated[
    DiscreteAction | MultiDiscreteAction | MultiBinaryAction | BoxAction, Constrained(discriminator="kind")
]


def _refuse_both(first: str, one: object, second: str, other: object) -> None:
    if bool(one) == bool(other):
        msg = f"expected either {first} or {second}"
        raise ValueError(msg)
