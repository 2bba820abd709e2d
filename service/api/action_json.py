"""Actions on the wire: how a caller says which are allowed and which was executed, and is told which was chosen.

One class for each kind of action space. ``allowed_type`` and ``executed_type`` are what the decoder takes; what they
cannot say is checked here, and refused with the path in the body. Truths may be written as 0 and 1, as NumPy's int8
are, and integers as ``3.0``, as Julia's JSON does.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from export.spec import ActionSpace, Box, Discrete, MultiDiscrete
from guards.records import Action
from service.errors import DoesNotFit

# An action in JSON, the name of it, and the names of the choices that it is made of.
Spoken = tuple[int | list[Any], str | UnsetType, list[str] | UnsetType]
Schema = dict[str, Any]
Truth = bool | int | float
_Whole: Any = Annotated[float, Meta(multiple_of=1)]


def whole(least: int, most: int) -> Any:
    """The type of an integer of JSON, which may be written as ``3.0``."""
    return Annotated[int, Meta(ge=least, le=most)] | Annotated[float, Meta(ge=least, le=most, multiple_of=1)]


# Beside booleans, the numbers that are one.
_Bit: Any = whole(0, 1)


class DiscreteActions:
    """One of a list of actions, by index or by name."""

    def __init__(self, space: Discrete) -> None:
        self._names = space.names
        self._index = {name: i for i, name in enumerate(space.names)}
        self.allowed_type: Any = Annotated[list[bool | _Bit | str], Meta(max_length=space.n)] | None
        self.executed_type: Any = whole(0, space.n - 1) | str

    def mask(self, allowed: list[Truth | str]) -> list[bool]:
        """The request's own mask over all choices; raises DoesNotFit."""
        return _mask(allowed, self._index, "$.allowed", "action", "actions")

    def executed(self, told: float | str, path: str) -> Action:
        """The action that a decoded ``executed_action`` is; raises DoesNotFit."""
        return _index(told, self._index, path, "an action")

    def spoken(self, action: Action) -> Spoken:
        """An action as it is answered."""
        assert isinstance(action, int)  # noqa: S101 - so it was decided
        return action, self._names[action], UNSET

    def schemas(self) -> tuple[Schema, Schema, Schema]:
        """JSON schemas of ``allowed``, ``executed_action`` and the answer's action with its names."""
        mask, choice, name = _choices(self._names)
        return mask, choice, {"action": {"type": "integer"}, "action_name": name}


class MultiDiscreteActions:
    """A choice for each factor, by indices or by names."""

    def __init__(self, space: MultiDiscrete) -> None:
        self._factors = space.factors
        self._width = space.width
        self._indices = [{name: i for i, name in enumerate(factor.names)} for factor in space.factors]
        count = len(space.factors)
        part: Any = list[bool | _Bit | str]
        self.allowed_type: Any = Annotated[list[bool | _Bit | part], Meta(max_length=space.width)] | None
        self.executed_type: Any = Annotated[list[int | _Whole | str], Meta(min_length=count, max_length=count)]

    def mask(self, allowed: list[Truth | list[Truth | str]]) -> list[bool]:
        parts = self._parts(allowed)
        masks = [
            _mask(part, index, f"$.allowed[{i}]", "choice", "choices")
            for i, (part, index) in enumerate(zip(parts, self._indices, strict=True))
        ]
        return [one for mask in masks for one in mask]

    def executed(self, told: list[float | str], path: str) -> Action:
        pairs = enumerate(zip(told, self._indices, strict=True))
        return tuple(_index(one, index, f"{path}[{i}]", "a choice") for i, (one, index) in pairs)

    def spoken(self, action: Action) -> Spoken:
        assert isinstance(action, tuple)  # noqa: S101 - so it was decided
        names = [factor.names[int(choice)] for factor, choice in zip(self._factors, action, strict=True)]
        return list(action), UNSET, names

    def schemas(self) -> tuple[Schema, Schema, Schema]:
        masks, choices, names = zip(*(_choices(factor.names) for factor in self._factors), strict=True)
        answer = {"action": _row([{"type": "integer"}] * len(choices)), "action_names": _row(names)}
        return {"anyOf": [_truths(self._width), _row(masks)]}, _row(choices), answer

    def _parts(self, allowed: list[Truth | list[Truth | str]]) -> Sequence[Sequence[Truth | str]]:
        """The mask factor by factor: as it was said, or cut out of all truths in a row."""
        lists = [one for one in allowed if isinstance(one, list)]
        if len(lists) == len(allowed) == len(self._factors):
            return lists
        if lists or len(allowed) != self._width:
            count = len(self._factors)
            raise DoesNotFit(f"is not a mask, expected {self._width} truths, or {count} lists of choices", "$.allowed")
        truths = iter(one == 1 for one in allowed)
        return [[next(truths) for _ in factor.names] for factor in self._factors]


class BoxActions:
    """Numbers in the shape of the Box; there is nothing to mask."""

    allowed_type: Any = None

    def __init__(self, space: Box) -> None:
        self._form = space.form
        numbers: Any = float
        for size in reversed(self._form):
            numbers = Annotated[list[numbers], Meta(min_length=size, max_length=size)]
        self.executed_type: Any = numbers

    def mask(self, allowed: Any) -> list[bool]:  # noqa: ARG002 - the decoder takes none
        raise DoesNotFit("is a mask, expected none: a Box has no choices to mask", "$.allowed")

    def executed(self, told: list[Any], path: str) -> Action:  # noqa: ARG002 - what it is has been decoded
        numbers: list[Any] = told
        for _ in self._form[1:]:
            numbers = [number for row in numbers for number in row]
        return tuple(numbers)

    def spoken(self, action: Action) -> Spoken:
        assert isinstance(action, tuple)  # noqa: S101 - so it was decided
        nested: list[Any] = list(action)
        for size in reversed(self._form[1:]):
            nested = [nested[at : at + size] for at in range(0, len(nested), size)]
        return nested, UNSET, UNSET

    def schemas(self) -> tuple[Schema, Schema, Schema]:
        numbers: Schema = {"type": "number"}
        for size in reversed(self._form):
            numbers = {"type": "array", "items": numbers, "minItems": size, "maxItems": size}
        return {"type": "null"}, numbers, {"action": numbers}


Actions = DiscreteActions | MultiDiscreteActions | BoxActions


def actions_of(space: ActionSpace) -> Actions:
    """How the actions of a space are said."""
    if isinstance(space, Discrete):
        return DiscreteActions(space)
    return MultiDiscreteActions(space) if isinstance(space, MultiDiscrete) else BoxActions(space)


def _mask(allowed: Sequence[Truth | str], index: dict[str, int], path: str, one: str, many: str) -> list[bool]:
    """A mask over the named choices, from truths in their order or from names."""
    count = len(index)
    if not any(type(told) is str for told in allowed):
        if len(allowed) != count:
            raise DoesNotFit(f"has {len(allowed)} truths, expected {count}, or names of {many}", path)
        mask: list[bool] = [told == 1 for told in allowed]
    else:
        if not all(type(told) is str and told in index for told in allowed):
            raise DoesNotFit(f"is not a list of {many}, expected some of {list(index)}", path)
        names = set(allowed)
        mask = [name in names for name in index]
    if not any(mask):
        raise DoesNotFit(f"forbids every {one}, expected at least one that is allowed", path)
    return mask


def _index(told: float | str, index: dict[str, int], path: str, what: str) -> int:
    """The index of a name, or an index that exists."""
    if isinstance(told, str):
        if told not in index:
            raise DoesNotFit(f"is not {what}, expected one of {list(index)}", path)
        return index[told]
    if not 0 <= told < len(index):
        raise DoesNotFit(f"is not {what}, expected an index below {len(index)}", path)
    return int(told)


def _choices(names: Sequence[str]) -> tuple[Schema, Schema, Schema]:
    """JSON schemas of a mask over choices, of one of them, by index or by name, and of its name."""
    name: Schema = {"enum": list(names)}
    some = {"type": "array", "items": name, "minItems": 1, "maxItems": len(names)}
    index = {"type": "integer", "minimum": 0, "maximum": len(names) - 1}
    return {"anyOf": [_truths(len(names)), some]}, {"anyOf": [index, name]}, name


def _truths(count: int) -> Schema:
    truth = {"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}]}
    return {"type": "array", "items": truth, "minItems": count, "maxItems": count}


def _row(items: Sequence[Schema]) -> Schema:
    """JSON schema of a list that has these, in this order."""
    return {"type": "array", "prefixItems": list(items), "minItems": len(items), "maxItems": len(items)}
