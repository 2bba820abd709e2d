"""Names, units and bounds that people give to a policy's spaces."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from export.errors import OptionInvalid
from export.spec import Discrete, Field, Fields, ObservationSpace
from export.trained import TrainedPolicy


@dataclass(frozen=True, slots=True)
class Names:
    """What people said, field by field and action by action; None leaves what the checkpoint says."""

    fields: Sequence[str] | None = None
    units: Sequence[str] | None = None
    low: Sequence[str] | None = None
    high: Sequence[str] | None = None
    actions: Sequence[str] | None = None


def named(policy: TrainedPolicy, names: Names) -> TrainedPolicy:
    """Put the names into the policy's spaces; raises OptionInvalid where their number or form does not fit."""
    try:
        return replace(policy, observation=_observation(policy, names), action=_action(policy, names))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        msg = f"the names do not fit: {first['msg']}, found {str(first['input'])[:60]!r}"
        raise OptionInvalid(msg) from error


def _observation(policy: TrainedPolicy, names: Names) -> ObservationSpace:
    space = policy.observation
    given = {"--names": names.fields, "--units": names.units, "--low": names.low, "--high": names.high}
    if not isinstance(space, Fields):
        for option, values in given.items():
            if values is not None:
                msg = f"{option} names single numbers, but the observation is one array of shape {list(space.shape)}"
                raise OptionInvalid(msg)
        return space
    for option, values in given.items():
        if values is not None and len(values) != len(space.fields):
            msg = f"{option} has {len(values)} entries, expected {len(space.fields)}, one for each field"
            raise OptionInvalid(msg)
    fields = []
    for at, field in enumerate(space.fields):
        fields.append(
            Field(
                name=names.fields[at] if names.fields is not None else field.name,
                unit=names.units[at] if names.units is not None else field.unit,
                low=_bound(names.low[at], "--low") if names.low is not None else field.low,
                high=_bound(names.high[at], "--high") if names.high is not None else field.high,
            )
        )
    return Fields(fields=tuple(fields), dtype=space.dtype)


def _action(policy: TrainedPolicy, names: Names) -> Discrete:
    if names.actions is None:
        return policy.action
    if len(names.actions) != policy.action.n:
        msg = f"--actions has {len(names.actions)} entries, expected {policy.action.n}, one for each action"
        raise OptionInvalid(msg)
    return Discrete(names=tuple(names.actions))


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
