"""The wire's types: what the decoders of a pinned schema take, and in which order they hand it on."""

import base64
import json
from typing import Any

import msgspec
import numpy as np
import pytest

from export.spec import Array, Dict, Discrete, Entry, Field, Fields, ObservationSpace
from guards.records import Schema
from service.api.schemas import FLOAT32_MAX, Answer, Codec, FeedbackResult
from service.errors import DoesNotFit
from service.versions.observations import INTEGER_MAX
from tests import ports

TOKEN = "A" * 52


def codec_of(space: ObservationSpace, actions: tuple[str, ...] = ("stay", "go")) -> Codec:
    """The wire of a schema with this observation."""
    return Codec(Schema(observation=space, action=Discrete(names=actions), facts=("price",)))


def fields(*names: str, dtype: str = "float32", low: float | None = None, high: float | None = None) -> Fields:
    """A space of named numbers, all with the same bounds."""
    return Fields.model_validate(
        {"fields": [{"name": name, "low": low, "high": high} for name in names], "dtype": dtype}
    )


def seen(codec: Codec, observation: object) -> list[Any]:
    """An observation as it comes out of the decoder, in the schema's order."""
    act: Any = codec.decode_act(json.dumps({"session": "s", "observation": observation}).encode())
    row = codec.numbers(act.observation)
    return row.tolist() if isinstance(row, np.ndarray) else list(row)


def test_a_named_observation_comes_out_in_the_order_of_the_schema() -> None:
    """The order of an object's fields is nobody's concern."""
    codec = codec_of(fields("b", "a", "c"))

    assert seen(codec, {"a": 1, "c": 2, "b": 3}) == [3, 1, 2]
    assert seen(codec, [3, 1, 2]) == [3, 1, 2]


@pytest.mark.parametrize("shape", ["fields", "array", "bytes", "Dict"])
def test_an_integer_may_be_written_with_a_point(shape: str) -> None:
    """Julia and Python's floats say 3.0 where 3 is meant; 3.5 is refused at its place, and so is what is too large."""
    whole = Array(shape=(2,), dtype="int64", low=0, high=9)
    spaces: dict[str, ObservationSpace] = {
        "fields": fields("a", "b", dtype="int64", low=0, high=9),
        "array": whole,
        "bytes": Array(shape=(2,), dtype="uint8"),
        "Dict": Dict(entries=(Entry(key="k", space=whole),)),
    }
    codec = codec_of(spaces[shape])
    put: Any = (lambda row: {"k": row}) if shape == "Dict" else lambda row: row

    assert [seen(codec, put(row)) for row in ([3.0, 4], [3, 4.0], [-0.0, 1e0])] == [[3, 4], [3, 4], [0, 1]]
    for bad, place in (([3.5, 4], 0), ([3, 1e300], 1), ([3, 256.0], 1), ([-1.0, 0], 0), ([True, 0], 0)):
        with pytest.raises(msgspec.ValidationError, match=rf"\[{place}\]"):
            seen(codec, put(bad))


def test_field_names_that_are_keywords_of_a_language_are_fine() -> None:
    """A field may be called what a struct could not."""
    codec = codec_of(fields("class", "f1", "f0", "self", "__init__"))

    assert seen(codec, {"class": 0, "f1": 1, "f0": 2, "self": 3, "__init__": 4}) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "given", [[1, 2], [1, 2, 3, 4], [], {"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3, "d": 4}, 1, None]
)
def test_an_observation_of_another_size_is_refused(given: object) -> None:
    """Too few numbers, too many, a field that is missing or not known, and what is no collection."""
    with pytest.raises(msgspec.ValidationError):
        seen(codec_of(fields("a", "b", "c")), given)


@pytest.mark.parametrize(
    ("dtype", "fine", "wrong"),
    [
        ("float32", [-FLOAT32_MAX, FLOAT32_MAX, -0.0, 5e-324, 1], [FLOAT32_MAX * 1.01, -1e39, True, "1", None]),
        ("float64", [-1.7e308, 1e39, 1], [False, "1", None, [1]]),
        ("uint8", [0, 255], [-1, 256, 1.5, True, "1"]),
        ("int64", [-INTEGER_MAX, INTEGER_MAX, 7], [INTEGER_MAX + 1, -INTEGER_MAX - 1, 10**30, 0.5, True]),
    ],
)
def test_numbers_fit_the_dtype_of_the_network(dtype: str, fine: list[Any], wrong: list[Any]) -> None:
    """A number that the network's dtype cannot hold is refused, in a list and by name."""
    codec = codec_of(fields("a", "b", dtype=dtype))

    for number in fine:
        assert seen(codec, [number, number]) == seen(codec, {"a": number, "b": number}) == [number, number]
    for number in wrong:
        for observation in ([0, number], {"a": 0, "b": number}):
            with pytest.raises(msgspec.ValidationError):
                seen(codec, observation)


def test_floats_may_stray_from_their_bounds_and_indices_may_not() -> None:
    """A measurement out of range is answered; an index out of range names a row that does not exist."""
    measured, indexed = fields("x", low=0, high=1), fields("x", dtype="int64", low=0, high=3)

    assert seen(codec_of(measured), [7]) == [7]
    assert seen(codec_of(indexed), [3]) == [3]
    for observation in ([4], [-1], {"x": 4}):
        with pytest.raises(msgspec.ValidationError):
            seen(codec_of(indexed), observation)


SINGLE: dict[str, tuple[ObservationSpace, object, object, object]] = {
    "a state of a table": (fields("state", dtype="int64", low=0, high=15), 3, [3], [3]),
    "a named number": (fields("cpu"), 0.5, [0.5], [0.5]),
    "a named double": (fields("cpu", dtype="float64", low=0), 2, {"cpu": 2}, [2]),
    "an array of one": (Array(shape=(1,), dtype="int64", low=0, high=4), 4, [4], [4]),
    "an array of one in two axes": (Array(shape=(1, 1)), -1.5, [[-1.5]], [[-1.5]]),
}


@pytest.mark.parametrize("name", SINGLE)
def test_an_observation_of_one_number_may_be_that_number(name: str) -> None:
    """Where the schema has one number, it stands alone as well as in its brackets or by its name: all are one row."""
    space, alone, listed, row = SINGLE[name]
    codec = codec_of(space)

    assert seen(codec, alone) == seen(codec, listed) == row
    outcome: Any = codec.decode_outcome(json.dumps({"next_observation": alone, "final_observation": listed}).encode())
    assert list(codec.numbers(outcome.next_observation)) == list(codec.numbers(outcome.final_observation))


@pytest.mark.parametrize(
    ("space", "wrong"),
    [
        (fields("state", dtype="int64", low=0, high=3), 4),
        (fields("state", dtype="int64", low=0, high=3), -1),
        (fields("state", dtype="int64", low=0, high=3), 1.5),
        (fields("state", dtype="int64", low=0, high=3), True),
        (fields("state", dtype="int64", low=0, high=3), "3"),
        (fields("state", dtype="int64", low=0, high=3), None),
        (fields("cpu"), 1e39),
        (Array(shape=(1,), dtype="uint8"), 256),
        (Array(shape=(1, 1)), [1.0]),
        (fields("cpu", "queue"), 0.5),
        (Array(shape=(2,)), 0.5),
        (Dict(entries=(Entry(key="state", space=fields("state", dtype="int64", low=0, high=3)),)), 3),
        (Dict(entries=(Entry(key="state", space=fields("state", dtype="int64", low=0, high=3)),)), {"state": 3}),
    ],
)
def test_a_number_alone_is_held_to_the_same_type_and_only_stands_for_one(
    space: ObservationSpace, wrong: object
) -> None:
    """Bounds and width hold for it too; more numbers than one, or the parts of a Dict, are no number."""
    with pytest.raises(msgspec.ValidationError, match=r"\$\.observation"):
        seen(codec_of(space), wrong)


@pytest.mark.parametrize("given", [[3, 1], {"a": 3, "b": 1}])
def test_integer_fields_may_have_bounds_of_their_own(given: object) -> None:
    """Indices into tables of different sizes are all right together."""
    space = Fields(fields=(Field(name="a", low=0, high=3), Field(name="b", low=0, high=1)), dtype="int64")

    assert seen(codec_of(space), given) == [3, 1]


def test_a_named_integer_is_held_to_its_own_bounds() -> None:
    """By name, each index is checked against its own table."""
    space = Fields(fields=(Field(name="a", low=0, high=3), Field(name="b", low=0, high=1)), dtype="int64")

    with pytest.raises(msgspec.ValidationError, match=r"\$\.observation\.b"):
        seen(codec_of(space), {"a": 0, "b": 2})


def test_an_array_is_nested_as_deep_as_its_shape() -> None:
    """An image is a list of lists, each of its own length."""
    codec = codec_of(Array(shape=(2, 3), dtype="uint8"))

    assert seen(codec, [[0, 1, 2], [3, 4, 255]]) == [[0, 1, 2], [3, 4, 255]]
    wrongs: list[object] = [[0] * 6, [[0, 1, 2]], [[0, 1], [2, 3], [4, 5]], [[0, 1, 2], [3, 4, 256]], [[[0]]], {}]
    for wrong in wrongs:
        with pytest.raises(msgspec.ValidationError):
            seen(codec, wrong)


def base64_of(numbers: object, dtype: str) -> str:
    """What a caller sends for an array."""
    return base64.b64encode(np.array(numbers, dtype=dtype).tobytes()).decode()


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "int64"])
def test_an_array_is_kept_in_its_own_dtype(dtype: str) -> None:
    """Told as lists or as base64, it is the same array."""
    codec = codec_of(Array.model_validate({"shape": (2, 3), "dtype": dtype}))
    numbers = [[0, 1, 2], [3, 4, 5]]
    for told in (numbers, base64_of(numbers, dtype)):
        act: Any = codec.decode_act(json.dumps({"session": "s", "observation": told}).encode())
        row = codec.numbers(act.observation)

        assert isinstance(row, np.ndarray)
        assert (row.dtype, row.tolist()) == (np.dtype(dtype), numbers)


@pytest.mark.parametrize(
    "told",
    [
        *(base64_of([[0, 1, 2]], "uint8"), base64_of([[0] * 4] * 2, "uint8"), "", "AAAAAAA", "AAAAAAA=A"),
        *("AAAA\n\n\n\n", "AAAA====", "AA-_AAAA", "éAAAAAAA", 5, {"x": 1}),
    ],
)
def test_base64_of_another_array_is_refused(told: object) -> None:
    """By the decoder or right after it, with its place."""
    codec = codec_of(Array(shape=(2, 3), dtype="uint8"))

    with pytest.raises((msgspec.ValidationError, DoesNotFit)) as error:
        seen(codec, told)

    if isinstance(error.value, DoesNotFit):
        assert error.value.path == "$.observation"
        assert str(told) not in error.value.message or not told


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_no_number_is_refused_in_base64_too(number: float, dtype: str) -> None:
    """JSON cannot say it, but bytes can."""
    codec = codec_of(Array.model_validate({"shape": (2,), "dtype": dtype}))

    with pytest.raises(DoesNotFit, match="NaN or infinity"):
        seen(codec, base64_of([1.0, number], dtype))


LIDAR, ZONE = [0.5, -1e200], [3]
IMAGE = [[0, 1, 2], [3, 4, 255]]
ROW = [0, 1, 2, 3, 4, 255, 0.25, 4.0, 0.5, -1e200, 3]
LISTED = {"image": IMAGE, "state": [0.25, 4], "lidar/front": LIDAR, "zone": ZONE}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"state": {"replicas": 4, "cpu": 0.25}},
        {"image": base64_of(IMAGE, "uint8"), "lidar/front": base64_of(LIDAR, "<f8"), "zone": base64_of(ZONE, "<i8")},
    ],
)
def test_parts_become_one_row_in_the_order_of_the_space(changed: dict[str, object]) -> None:
    """However each part is told, and in whatever order."""
    told = {**LISTED, **changed}

    for order in (list(told), list(reversed(told))):
        assert seen(codec_of(ports.PARTS), {key: told[key] for key in order}) == ROW


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"image": [[0, 1, 2], [3, 4, 256]]}, "$.observation.image[1][2]"),
        ({"image": [[0, 1, 2]]}, "$.observation.image"),
        ({"image": "AAAAAAA="}, "$.observation.image"),
        ({"image": None}, "$.observation.image"),
        ({"state": {"cpu": 1}}, "$.observation.state"),
        ({"state": [1]}, "$.observation.state"),
        ({"state": "AAAAAAAAAAA="}, "$.observation.state"),
        ({"lidar/front": [1]}, "$.observation.lidar/front"),
        ({"lidar/front": base64_of([1.0, np.nan], "<f8")}, "$.observation.lidar/front"),
        ({"zone": [5]}, "$.observation.zone[0]"),
        ({"zone": [0.5]}, "$.observation.zone[0]"),
        ({"zone": base64_of([5], "<i8")}, "$.observation.zone"),
    ],
)
def test_a_part_that_does_not_fit_is_named(changed: dict[str, object], path: str) -> None:
    """The refusal says which of them it is."""
    codec = codec_of(ports.PARTS)

    with pytest.raises((msgspec.ValidationError, DoesNotFit)) as error:
        seen(codec, {**LISTED, **changed})

    assert error.value.path == path if isinstance(error.value, DoesNotFit) else f"`{path}`" in str(error.value)


@pytest.mark.parametrize("told", [{**LISTED, "more": 1}, {"image": IMAGE}, ROW, [], "AAAA", None])
def test_what_is_not_all_of_the_parts_is_refused(told: object) -> None:
    """One too many, some that are missing, or a flat row."""
    with pytest.raises(msgspec.ValidationError):
        seen(codec_of(ports.PARTS), told)


@pytest.mark.parametrize("session", ["a", "~!/x:y", "x" * 128])
def test_a_session_is_printable_ascii_without_spaces(session: str) -> None:
    """What is printable, up to 128 characters, names a session."""
    body = json.dumps({"session": session, "observation": [0]}).encode()

    act: Any = codec_of(fields("x")).decode_act(body)

    assert act.session == session


@pytest.mark.parametrize(
    "session", ["", "x" * 129, "a b", "a\n", "\n", "a\0", "\x1b[31m", "é", "\u202e", "\x7f", 1, None]
)
def test_other_sessions_are_refused(session: object) -> None:
    """What could hide or move in a terminal or a log is no name, not even at the very end."""
    body = json.dumps({"session": session, "observation": [0]}).encode()

    with pytest.raises(msgspec.ValidationError):
        codec_of(fields("x")).decode_act(body)


@pytest.mark.parametrize(
    "told",
    [
        {"previous": TOKEN},
        {"previous": None},
        {"feedback": {"reward": 1}},
        {"feedback": {"decision_id": TOKEN, "reward": None, "next_observation": [1], "terminated": True}},
        {"feedback": {"final_observation": {"x": 1}, "truncated": True, "executed_action": "go", "activated": False}},
        {"feedback": {"executed_action": 1}},
        {"allowed": [True, False]},
        {"allowed": ["go"]},
        {"allowed": None},
        {"facts": {"price": -1e300}},
        {"observed_at": 0},
        {"observed_at": 1.7e9},
        {"deadline_ms": 0.001},
        {"deadline_ms": 60000},
        {"request_id": "r"},
        {"explore": False},
    ],
)
def test_every_field_is_taken(told: dict[str, object]) -> None:
    """Each field of a request, in each of its forms."""
    body = json.dumps({"session": "s", "observation": [0], **told}).encode()
    act = codec_of(fields("x")).decode_act(body)

    assert all(getattr(act, name) is not msgspec.UNSET for name in told)


@pytest.mark.parametrize(
    "told",
    [
        {"previous": "A" * 51},
        {"previous": "A" * 65},
        {"previous": "A" * 51 + "="},
        {"previous": 7},
        {"feedback": None},
        {"feedback": []},
        {"feedback": {"reward": "1"}},
        {"feedback": {"reward": True}},
        {"feedback": {"rewards": 1}},
        {"feedback": {"executed_action": 2}},
        {"feedback": {"executed_action": -1}},
        {"feedback": {"executed_action": 0.5}},
        {"feedback": {"executed_action": True}},
        {"feedback": {"terminated": 1}},
        {"feedback": {"activated": "yes"}},
        {"feedback": {"next_observation": [1, 2]}},
        {"allowed": [2, 0]},
        {"allowed": [1, 0.5]},
        {"allowed": [-1, 0]},
        {"allowed": [1, None]},
        {"allowed": [True] * 3},
        {"allowed": "go"},
        {"allowed": {"go": True}},
        {"facts": []},
        {"facts": {"price": "1"}},
        {"facts": {"price": None}},
        {"observed_at": -1},
        {"observed_at": 1e12},
        {"observed_at": "2026-01-01"},
        {"deadline_ms": 0},
        {"deadline_ms": -1},
        {"deadline_ms": 60001},
        {"deadline_ms": True},
        {"request_id": ""},
        {"request_id": "a b"},
        {"request_id": 5},
        {"explore": None},
        {"explore": 0},
        {"Explore": True},
        {"": 1},
    ],
)
def test_every_field_has_a_type(told: dict[str, object]) -> None:
    """A wrong type, length or range is refused at its place."""
    body = json.dumps({"session": "s", "observation": [0], **told}).encode()

    with pytest.raises(msgspec.ValidationError):
        codec_of(fields("x")).decode_act(body)


@pytest.mark.parametrize("missing", ["session", "observation"])
def test_what_is_required_is_named_where_it_is_missing(missing: str) -> None:
    """The refusal says which field is missing."""
    told = {name: value for name, value in {"session": "s", "observation": [0]}.items() if name != missing}

    with pytest.raises(msgspec.ValidationError, match=f"`{missing}`"):
        codec_of(fields("x")).decode_act(json.dumps(told).encode())


def test_answers_leave_out_what_there_is_nothing_to_say_of() -> None:
    """A decision of the policy has no reason, and accepted feedback no error."""
    answer = Answer(
        decision_id="d",
        action=0,
        action_name="stay",
        propensity=1.0,
        propensity_ok=True,
        policy="p",
        version="p-1",
        track="stable",
        source="policy",
        violations=[],
        durability="journal",
    )

    assert "reason" not in json.loads(msgspec.json.encode(answer))
    assert json.loads(msgspec.json.encode(FeedbackResult(status="forged"))) == {"status": "forged"}
