"""Names, units and bounds that people give to a policy's spaces."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pydantic import ValidationError

from export.errors import OptionInvalid
from export.meaning import Meaning
from export.spec import ActionSpace, Box, Dict, Discrete, Entry, Factor, Field, Fields, MultiDiscrete, ObservationSpace

M = TypeVar("M", bound=Meaning)


@dataclass(frozen=True, slots=True)
class Names:
    """What people said, field by field and action by action; None leaves what the checkpoint says.

    ``actions`` are the names of a Discrete action's choices, a Box action's numbers, or a MultiDiscrete action's
    factors; a factor's own choices may follow it, as in ``fan=off/low/high``.
    """

    fields: Sequence[str] | None = None
    units: Sequence[str] | None = None
    low: Sequence[str] | None = None
    high: Sequence[str] | None = None
    actions: Sequence[str] | None = None


def named(policy: M, names: Names) -> M:
    """Put the names into the policy's spaces; raises OptionInvalid where their number or form does not fit."""
    try:
        return replace(policy, observation=_observation(policy, names), action=_action(policy.action, names.actions))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        msg = f"the names do not fit: {first['msg']}, found {str(first['input'])[:60]!r}"
        raise OptionInvalid(msg) from error


def _observation(policy: Meaning, names: Names) -> ObservationSpace:
    """Names go to the numbers of a plain observation, or to those of a Dict's parts, one after another."""
    space = policy.observation
    given = {"--names": names.fields, "--units": names.units, "--low": names.low, "--high": names.high}
    parts = [entry.space for entry in space.entries] if isinstance(space, Dict) else [space]
    fields = [field for part in parts if isinstance(part, Fields) for field in part.fields]
    for option, values in given.items():
        if values is not None and not fields:
            msg = f"{option} names single numbers, but the observation is arrays alone: {_shapes(space)}"
            raise OptionInvalid(msg)
        if values is not None and len(values) != len(fields):
            msg = f"{option} has {len(values)} entries, expected {len(fields)}, one for each field"
            raise OptionInvalid(msg)
    renamed = iter([_field(field, at, names) for at, field in enumerate(fields)])
    parts = [
        Fields(fields=tuple(next(renamed) for _ in part.fields), dtype=part.dtype) if isinstance(part, Fields) else part
        for part in parts
    ]
    if not isinstance(space, Dict):
        return parts[0]
    entries = zip(space.entries, parts, strict=True)
    return Dict(entries=tuple(Entry(key=entry.key, space=part) for entry, part in entries))


def _shapes(space: ObservationSpace) -> str:
    return ", ".join(f"{port.name} {list(port.shape)}" for port in space.inputs)


def _field(field: Field, at: int, names: Names) -> Field:
    return Field(
        name=names.fields[at] if names.fields is not None else field.name,
        unit=names.units[at] if names.units is not None else field.unit,
        low=_bound(names.low[at], "--low") if names.low is not None else field.low,
        high=_bound(names.high[at], "--high") if names.high is not None else field.high,
    )


def _action(space: ActionSpace, names: Sequence[str] | None) -> ActionSpace:
    if names is None:
        return space
    count = len(space.factors) if isinstance(space, MultiDiscrete) else space.width
    if len(names) != count:
        msg = f"--actions has {len(names)} entries, expected {count}, one for each action"
        raise OptionInvalid(msg)
    if isinstance(space, MultiDiscrete):
        return MultiDiscrete(factors=tuple(_factor(a, told) for a, told in zip(space.factors, names, strict=True)))
    if isinstance(space, Box):
        renamed = zip(space.fields, names, strict=True)
        return Box(
            fields=tuple(Field(name=n, unit=f.unit, low=f.low, high=f.high) for f, n in renamed), shape=space.shape
        )
    if tuple(names) != space.names and sorted(names) == sorted(space.names):
        msg = f"--actions has the file's own names in another order than its, which is {', '.join(space.names[:12])}"
        raise OptionInvalid(msg)
    return Discrete(names=tuple(names))


def _factor(factor: Factor, told: str) -> Factor:
    name, equals, choices = told.partition("=")
    if not equals:
        return Factor(name=name, names=factor.names)
    words = tuple(choices.split("/"))
    if len(words) != len(factor.names):
        msg = f"--actions has {told!r}, expected {len(factor.names)} choices after the '=', with / between them"
        raise OptionInvalid(msg)
    return Factor(name=name, names=words)


def _bound(text: str, option: str) -> float | None:
    """Read a bound; an empty one, ``-`` and infinities mean that there is none."""
    if text in ("", "-"):
        return None
    try:
        value = float(text)
    except ValueError as error:
        msg = f"{option} has {text!r}, expected numbers, with - where there is no bound"
        raise OptionInvalid(msg) from error
    if value != value:
        msg = f"{option} has {text!r}, expected numbers"
        raise OptionInvalid(msg)
    return value if abs(value) != float("inf") else None
