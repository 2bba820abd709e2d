"""The schemas: what requests and answers look like, built once from the pinned schema."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType

from export.spec import Array, Dict, Fields
from guards.records import Schema
from guards.shield import Violation
from service.api.action_json import Actions, actions_of, whole
from service.errors import DoesNotFit
from service.log.records import DecisionSource, Durability, Measure, Track
from service.versions.observations import Layout, decoded_text, integer_bounds, text_length

# Printable ASCII without spaces; `\Z`, because Python's `$` would let a newline through.
Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[!-~]+\Z")]
Token = Annotated[str, Meta(min_length=52, max_length=64, pattern=r"^[A-Za-z0-9_-]+\Z")]
ReportName = Annotated[str, Meta(min_length=1, max_length=64)]
FLOAT32_MAX = 3.4028234663852886e38
Timestamp = Annotated[float, Meta(ge=0, le=1e11, description="seconds since 1970")]


class Answer(Struct, kw_only=True, omit_defaults=True):
    """The answer to ``/act``."""

    decision_id: str
    action: int | list[Any]
    action_name: str | UnsetType = UNSET
    action_names: list[str] | UnsetType = UNSET
    propensity: float
    measure: Measure = "mass"
    propensity_ok: bool
    policy: str
    version: str
    track: Track
    source: DecisionSource
    violations: list[Violation]
    durability: Durability
    reason: str | UnsetType = UNSET
    moved: float | UnsetType = UNSET
    late: bool = False


class FeedbackResult(Struct, kw_only=True, omit_defaults=True):
    """The answer to one item of ``/feedback``."""

    status: Literal["accepted", "late", "forged", "invalid", "unlogged"]
    decision_id: str | UnsetType = UNSET
    error: "dict[str, str] | UnsetType" = UNSET


class Codec:
    """The decoders of one pinned schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.actions = actions_of(schema.action)
        space = schema.observation
        self.layout = Layout(space)
        self._listed = isinstance(space, Fields)
        observation, self._named = _observation_type(space)
        if space.size == 1 and not isinstance(space, Dict):
            # One number may stand without brackets around it.
            bounds = space.fields[0] if isinstance(space, Fields) else space
            observation = _number(space.dtype, bounds.low, bounds.high) | observation
        self.observation_type = observation
        # The named form of an observation of numbers.
        self.named = self._named if self._listed else None
        self.outcome_type = _outcome_type(self.actions, observation)
        self.act_type = _act_type(self.actions, observation, self.outcome_type)
        self.decode_act = msgspec.json.Decoder(self.act_type).decode
        self.decode_outcome = msgspec.json.Decoder(self.outcome_type).decode
        self.decode_batch = msgspec.json.Decoder(
            msgspec.defstruct("Batch", [("requests", list[msgspec.Raw])], forbid_unknown_fields=True)
        ).decode

    def numbers(self, observation: Any, path: str = "$.observation") -> Sequence[Any] | np.ndarray:
        """A decoded observation as one row: numbers in the schema's order, or an array. Raises DoesNotFit."""
        if self._listed:
            kind = type(observation)
            if kind is list or kind is tuple:
                return observation  # type: ignore[no-any-return]  # as it was decoded: numbers in order
            return msgspec.structs.astuple(observation) if kind is self._named else (observation,)
        space = self.schema.observation
        if isinstance(space, Dict):
            given = msgspec.structs.astuple(observation)
            parts = zip(space.entries, given, strict=True)
            return self.layout.flattened([_part(entry.space, one, f"{path}.{entry.key}") for entry, one in parts])
        row = np.asarray(_part(space, observation, path), dtype=self.layout.dtype)
        return row if row.ndim else row.reshape(space.shape)


def _outcome_type(actions: Actions, observation: Any) -> Any:
    """What came of a decision; on ``/act`` it means ``previous`` unless it names another."""
    return msgspec.defstruct(
        "Feedback",
        [
            ("decision_id", Token | UnsetType, UNSET),
            ("feedback_id", ReportName | None, None),
            ("reward", float | None, None),
            ("next_observation", observation | None, None),
            ("final_observation", observation | None, None),
            ("terminated", bool, False),
            ("truncated", bool, False),
            ("executed_action", actions.executed_type | None, None),
            ("activated", bool | None, None),
        ],
        kw_only=True,
        forbid_unknown_fields=True,
        gc=False,
    )


def _act_type(actions: Actions, observation: Any, outcome: Any) -> Any:
    """A request for a decision."""
    return msgspec.defstruct(
        "Act",
        [
            ("session", Name),
            ("observation", observation),
            ("previous", Token | None | UnsetType, UNSET),
            ("feedback", outcome | UnsetType, UNSET),
            ("allowed", actions.allowed_type, None),
            ("facts", dict[str, float] | None, None),
            ("observed_at", Timestamp | None, None),
            ("deadline_ms", Annotated[float, Meta(gt=0, le=60_000)] | None, None),
            ("request_id", Name | None, None),
            ("explore", bool, True),
        ],
        kw_only=True,
        forbid_unknown_fields=True,
        gc=False,
    )


def _part(space: Fields | Array | Dict, given: Any, path: str) -> Any:
    """A decoded observation, or a part of one: by name or as base64 it becomes numbers in order."""
    if isinstance(space, Array) and isinstance(given, str):
        try:
            return decoded_text(given, space)
        except ValueError as error:
            raise DoesNotFit(str(error), path) from None
    return msgspec.structs.astuple(given) if isinstance(given, Struct) else given


def _observation_type(space: Fields | Array | Dict, name: str = "Observation") -> tuple[Any, Any]:
    """The type an observation decodes to, and the struct of its named form if it has one."""
    if isinstance(space, Fields):
        return _fields_type(space, name)
    if isinstance(space, Array):
        return _array_type(space), None
    # Each with a name of its own: the OpenAPI page tells types apart by their names.
    parts = [(entry.key, _observation_type(entry.space, f"Part{i}")[0]) for i, entry in enumerate(space.entries)]
    named = _struct(name, parts)
    return named, named


def _array_type(space: Array) -> Any:
    """Lists nested as deep as the array's shape, or its bytes as base64."""
    nested: Any = _number(space.dtype, space.low, space.high)
    for size in reversed(space.shape):
        nested = Annotated[list[nested], Meta(min_length=size, max_length=size)]
    length = text_length(space)
    said = f"base64 of {space.dtype}{list(space.shape)}: row-major, little-endian bytes"
    return nested | Annotated[str, Meta(min_length=length, max_length=length, description=said)]


def _fields_type(space: Fields, name: str) -> tuple[Any, Any]:
    """A list in the order of the fields, or an object of them."""
    numbers = [_number(space.dtype, field.low, field.high) for field in space.fields]
    count = len(numbers)
    if all(number == numbers[0] for number in numbers):
        item: Any = numbers[0]
        listed: Any = Annotated[list[item], Meta(min_length=count, max_length=count)]
    else:
        # Made by a call: to a type checker `tuple[...]` is a type, and this one is not known before it runs.
        listed = tuple.__class_getitem__(tuple(numbers))
    named = _struct(name, list(zip(space.names, numbers, strict=True)))
    return listed | named, named


def _struct(name: str, fields: list[tuple[str, Any]]) -> Any:
    """A struct of fields with any names: they may be called what an attribute could not."""
    return msgspec.defstruct(
        name,
        [(f"f{i}", type_) for i, (_, type_) in enumerate(fields)],
        rename={f"f{i}": told for i, (told, _) in enumerate(fields)},
        forbid_unknown_fields=True,
        gc=False,
    )


def _number(dtype: str, low: float | None, high: float | None) -> Any:
    """The type of one number. Floats may stray from their bounds, but have to be numbers of the network's width."""
    if dtype == "float32":
        return Annotated[float, Meta(ge=-FLOAT32_MAX, le=FLOAT32_MAX)]
    if dtype == "float64":
        return float
    least, most = (0, 255) if dtype == "uint8" else integer_bounds(low, high)
    return whole(least, most)
