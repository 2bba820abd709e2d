"""The wire: what requests and answers look like, built once from the pinned schema."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from export.spec import Fields
from guards.records import Schema
from guards.shield import Violation
from service.records import DecisionSource, Durability, Track

# Printable ASCII without spaces; `\Z`, because Python's `$` would let a newline through.
Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[!-~]+\Z")]
Token = Annotated[str, Meta(min_length=52, max_length=64, pattern=r"^[A-Za-z0-9_-]+\Z")]
FLOAT32_MAX = 3.4028234663852886e38
# Beyond it an integer is not the same as a float any more, and records are made of floats.
INTEGER_MAX = 2**53
Moment = Annotated[float, Meta(ge=0, le=1e11, description="seconds since 1970")]


class Answer(Struct, kw_only=True, omit_defaults=True):
    """The answer to ``/act``."""

    decision_id: str
    action: int
    action_name: str
    propensity: float
    propensity_ok: bool
    policy: str
    version: str
    track: Track
    source: DecisionSource
    violations: list[Violation]
    durability: Durability
    reason: str | UnsetType = UNSET


class FeedbackResult(Struct, kw_only=True, omit_defaults=True):
    """The answer to one item of ``/feedback``."""

    status: Literal["accepted", "late", "forged", "invalid"]
    decision_id: str | UnsetType = UNSET
    error: "dict[str, str] | UnsetType" = UNSET


class Wire:
    """The decoders of one pinned schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        observation, self._named = _observation_type(schema)
        self.observation_type = observation
        self.outcome_type = _outcome_type(schema, observation)
        self.act_type = _act_type(schema, observation, self.outcome_type)
        self.decode_act = msgspec.json.Decoder(self.act_type).decode
        self.decode_outcome = msgspec.json.Decoder(self.outcome_type).decode
        self.decode_batch = msgspec.json.Decoder(
            msgspec.defstruct("Batch", [("requests", list[msgspec.Raw])], forbid_unknown_fields=True)
        ).decode

    def numbers(self, observation: Any) -> Sequence[Any]:
        """A decoded observation in the schema's order."""
        named = self._named is not None and type(observation) is self._named
        return msgspec.structs.astuple(observation) if named else observation


def _outcome_type(schema: Schema, observation: Any) -> Any:
    """What came of a decision; on ``/act`` it means ``previous`` unless it names another."""
    return msgspec.defstruct(
        "Feedback",
        [
            ("decision_id", Token | UnsetType, UNSET),
            ("reward", float | None, None),
            ("next_observation", observation | None, None),
            ("final_observation", observation | None, None),
            ("terminated", bool, False),
            ("truncated", bool, False),
            ("executed_action", Annotated[int, Meta(ge=0, lt=len(schema.actions))] | str | None, None),
            ("activated", bool | None, None),
        ],
        kw_only=True,
        forbid_unknown_fields=True,
        gc=False,
    )


def _act_type(schema: Schema, observation: Any, outcome: Any) -> Any:
    """A request for a decision."""
    return msgspec.defstruct(
        "Act",
        [
            ("session", Name),
            ("observation", observation),
            ("previous", Token | None | UnsetType, UNSET),
            ("feedback", outcome | UnsetType, UNSET),
            ("allowed", Annotated[list[bool | str], Meta(max_length=len(schema.actions))] | None, None),
            ("facts", dict[str, float] | None, None),
            ("observed_at", Moment | None, None),
            ("deadline_ms", Annotated[float, Meta(gt=0, le=60_000)] | None, None),
            ("request_id", Name | None, None),
            ("explore", bool, True),
        ],
        kw_only=True,
        forbid_unknown_fields=True,
        gc=False,
    )


def _observation_type(schema: Schema) -> tuple[Any, Any]:
    """The type an observation decodes to, and the struct of its named form if it has one."""
    space = schema.observation
    if not isinstance(space, Fields):
        inner: Any = _number(space.dtype, space.low, space.high)
        for size in reversed(space.shape):
            inner = Annotated[list[inner], Meta(min_length=size, max_length=size)]
        return inner, None
    numbers = [_number(space.dtype, field.low, field.high) for field in space.fields]
    count = len(numbers)
    if all(number == numbers[0] for number in numbers):
        item: Any = numbers[0]
        listed: Any = Annotated[list[item], Meta(min_length=count, max_length=count)]
    else:
        # Made by a call: to a type checker `tuple[...]` is a type, and this one is not known before it runs.
        listed = tuple.__class_getitem__(tuple(numbers))
    named = msgspec.defstruct(
        "Observation",
        [(f"f{i}", number) for i, number in enumerate(numbers)],
        rename=dict(zip((f"f{i}" for i in range(count)), space.names, strict=True)),
        forbid_unknown_fields=True,
        gc=False,
    )
    return listed | named, named


def _number(dtype: str, low: float | None, high: float | None) -> Any:
    """The type of one number. Floats may stray from their bounds, but have to be numbers of the network's width."""
    if dtype == "float32":
        return Annotated[float, Meta(ge=-FLOAT32_MAX, le=FLOAT32_MAX)]
    if dtype == "float64":
        return float
    if dtype == "uint8":
        return Annotated[int, Meta(ge=0, le=255)]
    # An index that does not exist is no stray measurement: there is nothing to look up.
    least, most = -INTEGER_MAX if low is None else int(low), INTEGER_MAX if high is None else int(high)
    return Annotated[int, Meta(ge=least, le=most)]
