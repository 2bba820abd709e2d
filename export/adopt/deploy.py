"""A ``deploy.yaml`` of unitree_rl_lab: what surrounds the network on the robot, read without making any object."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic import Field as Constrained

from export.adopt.preparation import Preparation, Term
from export.errors import CheckpointRefused, DeclarationInvalid
from export.inert_yaml import Tagged, read_yaml

# Switches that stand among the observation terms.
_SWITCHES = frozenset({"scale_first", "use_gym_history"})
Number = Annotated[float, Constrained(allow_inf_nan=False)]
Numbers = Number | Annotated[tuple[Number, ...], Constrained(max_length=4096)]


class _Foreign(BaseModel):
    """A part of somebody else's file: what is not known in it is left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Action(_Foreign):
    scale: Numbers | None = None
    offset: Numbers | None = None
    clip: tuple[tuple[Number, Number], ...] | None = None
    joint_names: tuple[str, ...] = ()


class _Term(_Foreign):
    scale: Numbers | None = None
    clip: tuple[Number, Number] | None = None
    history_length: Annotated[int, Constrained(ge=0, le=1024)] = 1
    scale_first: bool | None = None


class _File(_Foreign):
    step_dt: Annotated[float, Constrained(gt=0, allow_inf_nan=False)] | None = None
    actions: dict[str, _Action]
    observations: dict[str, object]


@dataclass(frozen=True, slots=True)
class Deploy:
    """The preparation of observations, and what becomes of the network's answers, number by number."""

    preparation: Preparation
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    names: tuple[str, ...]
    period_s: float | None


def read_deploy(data: bytes, takes: int, gives: int, group: str = "") -> Deploy:
    """Read the file for a network that takes and gives so many numbers; raises DeclarationInvalid.

    ``group`` is the network's input, in files that have their observation terms under its name.
    """
    file = _parsed(data)
    terms = file.observations
    inner = terms.get(group)
    if isinstance(inner, Mapping) and any(isinstance(value, Mapping) and "scale" in value for value in inner.values()):
        terms = dict(inner)
    preparation = _preparation(terms, takes)
    actions = [(_spread(one, gives if len(file.actions) == 1 else None, key), one) for key, one in file.actions.items()]
    scale, offset, low, high = (tuple(n for columns, _ in actions for n in columns[at]) for at in range(4))
    if len(scale) != gives:
        msg = f"deploy.yaml: actions have {len(scale)} numbers, expected {gives}, one for each that the network gives"
        raise DeclarationInvalid(msg)
    names = tuple(re.sub(r"\W", "_", name) for _, one in actions for name in one.joint_names)
    plain = len(names) == gives == len(set(names)) and not any("*" in n for _, one in actions for n in one.joint_names)
    bounds = [tuple(None if n != n or abs(n) == float("inf") else n for n in side) for side in (low, high)]
    return Deploy(preparation, scale, offset, bounds[0], bounds[1], names if plain else (), file.step_dt)


def _parsed(data: bytes) -> _File:
    try:
        found = _untagged(read_yaml(data, "deploy.yaml"))
        if not isinstance(found, Mapping):
            msg = "deploy.yaml holds no table, expected actions and observations"
            raise DeclarationInvalid(msg)
        return _File.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        msg = f"deploy.yaml: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DeclarationInvalid(msg) from error
    except CheckpointRefused as error:
        raise DeclarationInvalid(str(error)) from error


def _untagged(value: object) -> object:
    """Give plain values, and None where a tag stood that is not YAML's own."""
    if isinstance(value, Mapping):
        return {key: _untagged(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_untagged(one) for one in value]
    return None if isinstance(value, Tagged) else value


def _preparation(terms: Mapping[str, object], takes: int) -> Preparation:
    """Give the terms; one alone may leave its width to be worked out."""
    by_frame, first = terms.get("use_gym_history") is True, terms.get("scale_first") is True
    read = {name: _term(name, value) for name, value in terms.items() if name not in _SWITCHES}
    frames = {name: max(term.history_length, 1) for name, term in read.items()}
    known = {name: len(t.scale) for name, t in read.items() if isinstance(t.scale, tuple)}
    left = [name for name in read if name not in known]
    if len(left) > 1:
        msg = f"deploy.yaml: nothing tells the widths of {', '.join(left)}: give each its scale, number by number"
        raise DeclarationInvalid(msg)
    for name in left:
        known[name] = (takes - sum(known[n] * frames[n] for n in known)) // frames[name]
    found = []
    for name, term in read.items():
        scale = (
            term.scale if isinstance(term.scale, tuple) else (1.0 if term.scale is None else term.scale,) * known[name]
        )
        before = first if term.scale_first is None else term.scale_first
        found.append(Term(name, scale, term.clip, frames[name], before))
    preparation = Preparation(tuple(found), by_frame)
    if not found or preparation.size != takes or min(term.width for term in found) < 1:
        told = " + ".join(f"{term.name} {term.width} x {term.history}" for term in found)
        msg = f"deploy.yaml: the observations are {told or 'none'}, expected {takes} numbers, which the network takes"
        raise DeclarationInvalid(msg)
    if by_frame and len(set(frames.values())) > 1:
        msg = "deploy.yaml: use_gym_history is true, expected the same history_length for all terms"
        raise DeclarationInvalid(msg)
    return preparation


def _term(name: str, value: object) -> _Term:
    try:
        return _Term.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        msg = f"deploy.yaml: observations.{'.'.join(map(str, (name, *first['loc'])))}: {first['msg']}"
        raise DeclarationInvalid(msg) from error


def _spread(action: _Action, gives: int | None, key: str) -> tuple[tuple[float, ...], ...]:
    """Give scale, offset, low and high, each number by number."""
    given = [side for side in (action.scale, action.offset, action.clip) if isinstance(side, tuple)]
    count = len(given[0]) if given else gives
    if count is None or any(len(side) != count for side in given):
        msg = (
            f"deploy.yaml: actions.{key}: scale, offset and clip are of different lengths, expected one for each number"
        )
        raise DeclarationInvalid(msg)
    scale, offset = (
        side if isinstance(side, tuple) else (usual if side is None else side,) * count
        for side, usual in ((action.scale, 1.0), (action.offset, 0.0))
    )
    clip = action.clip if action.clip is not None else ((-float("inf"), float("inf")),) * count
    return scale, offset, tuple(low for low, _ in clip), tuple(high for _, high in clip)
