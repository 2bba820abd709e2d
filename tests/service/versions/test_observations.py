"""Observations: how each lies in a row, how rows become a network's inputs, and what base64 may hold."""

import asyncio
import base64
from pathlib import Path

import numpy as np
import pytest

from export.spec import Array, Dict, Entry, Field, Fields, ObservationSpace
from service.log.journal import segments
from service.log.records import Packed
from service.versions.observations import INTEGER_MAX, Layout, decoded_text, text_length
from tests import artefacts, ports
from tests.in_process import asking, refusals, serving

NAMED = Fields(fields=(Field(name="a"), Field(name="b")))


def dict_of(*spaces: Fields | Array) -> Dict:
    """A Dict of these parts."""
    return Dict(entries=tuple(Entry(key=f"k{i}", space=space) for i, space in enumerate(spaces)))


def array(dtype: str, *shape: int) -> Array:
    """An array of a dtype and a shape."""
    return Array.model_validate({"shape": shape or (2,), "dtype": dtype})


@pytest.mark.parametrize(
    ("space", "dtype"),
    [
        (NAMED, "float64"),
        (Fields(fields=NAMED.fields, dtype="int64"), "float64"),
        *((array(dtype), dtype) for dtype in ("float32", "float64", "int64", "uint8")),
        (dict_of(array("uint8"), array("uint8", 3)), "uint8"),
        (dict_of(array("uint8"), array("float32")), "float32"),
        (dict_of(array("float32"), array("float32")), "float32"),
        (dict_of(array("float32"), array("int64")), "float64"),
        (dict_of(array("uint8"), array("int64")), "float64"),
        (dict_of(array("uint8"), array("float64")), "float64"),
        (dict_of(array("uint8"), NAMED), "float64"),
    ],
)
def test_a_row_is_no_wider_than_its_numbers_need(space: ObservationSpace, dtype: str) -> None:
    """Named numbers are float64 for rules; bytes stay bytes; no part loses a bit."""
    assert Layout(space).dtype == dtype


def test_an_array_keeps_its_shape_and_is_not_copied() -> None:
    """What arrives as an image is handed to the network as it is."""
    image = np.arange(12, dtype=np.uint8).reshape(2, 6)
    layout = Layout(array("uint8", 2, 6))
    rows = layout.rows([image, image + 1])
    inputs = layout.split(rows)

    assert (rows.dtype.name, rows.shape) == ("uint8", (2, 2, 6))
    assert list(inputs) == ["obs"]
    assert np.shares_memory(inputs["obs"], rows)
    assert np.array_equal(inputs["obs"][1], image + 1)


def test_named_numbers_become_the_network_s_dtype() -> None:
    """Guards see float64, the network what it was trained on."""
    inputs = Layout(Fields(fields=NAMED.fields, dtype="int64")).split(np.array([[1.0, 2.0]]))

    assert (inputs["obs"].dtype.name, inputs["obs"].tolist()) == ("int64", [[1, 2]])


def test_parts_stand_one_after_another_in_the_order_of_the_space() -> None:
    """Flattened row by row, and split again into the same parts."""
    layout = Layout(ports.PARTS)
    image, lidar = [[0, 1, 2], [3, 4, 255]], [0.1, 1e300]
    row = layout.flattened([image, [0.5, 3.0], lidar, [4]])
    inputs = layout.split(layout.rows([row, row]))

    assert row.tolist() == [0, 1, 2, 3, 4, 255, 0.5, 3.0, 0.1, 1e300, 4]
    assert {name: (one.dtype.name, one.shape) for name, one in inputs.items()} == {
        "obs.image": ("uint8", (2, 2, 3)),
        "obs.state": ("float32", (2, 2)),
        "obs.lidar/front": ("float64", (2, 2)),
        "obs.zone": ("int64", (2, 1)),
    }
    assert inputs["obs.image"][1].tolist() == image
    assert inputs["obs.lidar/front"][1].tolist() == lidar


@pytest.mark.parametrize(
    "space", [NAMED, array("uint8", 2, 3), ports.PARTS, dict_of(array("uint8", 2), array("uint8"))]
)
def test_joining_undoes_splitting(space: ObservationSpace) -> None:
    """Golden inputs become the rows that they came from."""
    layout = Layout(space)
    shape = space.shape if isinstance(space, Array) else (space.size,)
    rows = np.random.default_rng(0).integers(0, 5, (7, *shape)).astype(layout.dtype)

    joined = layout.joined(layout.split(rows))

    assert joined.dtype == rows.dtype
    assert np.array_equal(joined, rows)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
def test_base64_is_the_row_major_little_endian_bytes(dtype: str) -> None:
    """Of an array of any dtype, whatever the machine's own order is."""
    numbers = np.arange(12).reshape(3, 4).astype(dtype)
    text = base64.b64encode(numbers.astype(np.dtype(dtype).newbyteorder("<")).tobytes()).decode()
    found = decoded_text(text, array(dtype, 3, 4))

    assert (found.dtype.name, found.tolist()) == (dtype, numbers.tolist())
    assert len(text) == text_length(array(dtype, 3, 4))


def test_a_transposed_array_has_other_bytes() -> None:
    """Column by column is not what is expected: the numbers come out in another order."""
    numbers = np.arange(6, dtype=np.uint8).reshape(2, 3)
    text = base64.b64encode(numbers.T.tobytes()).decode()

    assert decoded_text(text, array("uint8", 2, 3)).tolist() == [[0, 3, 1], [4, 2, 5]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has 0 bytes in base64, expected 8"),
        ("AAAAAAAA", "has 6 bytes in base64, expected 8"),
        ("AAAAAAAAAAA", "is not base64"),
        ("AAAAAAAAAA==", "has 7 bytes"),
        ("AAAAAAAAAAAA", "has 9 bytes"),
        ("AAAAAAAAAA-=", "is not base64"),
        ("AAAA AAAAAA=", "is not base64"),
        ("AAAAAAAAAAA=\n", "is not base64"),
        ("ÄAAAAAAAAAA=", "is not base64"),
        (base64.b64encode(np.array([1, np.nan], "<f4").tobytes()).decode(), "holds NaN or infinity"),
        (base64.b64encode(np.array([-np.inf, 0], "<f4").tobytes()).decode(), "holds NaN or infinity"),
    ],
)
def test_a_text_that_is_no_such_array_is_refused(text: str, said: str) -> None:
    """Too short, too long, another alphabet, blanks in it, or numbers that are none."""
    with pytest.raises(ValueError, match=said):
        decoded_text(text, array("float32", 2))


@pytest.mark.parametrize(
    ("low", "high", "number"),
    [(None, None, INTEGER_MAX + 1), (None, None, -INTEGER_MAX - 1), (0, 4, 5), (0, 4, -1), (0, None, -1)],
)
def test_an_index_out_of_its_bounds_is_refused(low: float | None, high: float | None, number: int) -> None:
    """As it is in a list."""
    space = Array(shape=(1,), dtype="int64", low=low, high=high)

    with pytest.raises(ValueError, match="outside of"):
        decoded_text(base64.b64encode(np.array([number], "<i8").tobytes()).decode(), space)


IMAGE, LIDAR = [[0, 1, 2], [3, 4, 50]], [0.25, -1.5]
SEEN = {"image": IMAGE, "state": {"cpu": 0.25, "replicas": 2}, "lidar/front": LIDAR, "zone": [3]}
ROW = [0, 1, 2, 3, 4, 50, 0.25, 2, 0.25, -1.5, 3]


async def test_parts_are_decided_ruled_and_logged(tmp_path: Path) -> None:
    """The network sees the parts, rules see the named numbers, and the record has one row."""
    rule = {"kind": "rule", "name": "few", "forbid": "action == 'scale_down' and replicas <= 2 and cpu > 0.2"}
    with serving(tmp_path, ports.parts(), constraints=[rule]) as served:
        replies = [await served.act("s", SEEN), await served.act("s", {**SEEN, "state": [0.25, 3]})]
        decisions = served.decisions()
        report = (await served.get("/report")).json()

        assert [reply.json()["action_name"] for reply in replies] == ["hold", "scale_down"]
        assert [violation.constraint for violation in decisions[0].violations] == ["few"]
        assert decisions[0].observation == ROW
        assert decisions[0].head is not None
        assert np.allclose(decisions[0].head.array(), [10, 2.25, 1.75])
        assert report["out_of_range"] == {}


async def test_named_numbers_of_a_part_are_counted_where_they_stray(tmp_path: Path) -> None:
    """By name, wherever they stand in the row."""
    with serving(tmp_path, ports.parts()) as served:
        await served.act("s", {**SEEN, "state": {"cpu": 7, "replicas": 0}})
        await served.act("s", {**SEEN, "state": {"cpu": 0.5, "replicas": 0}})
        report = (await served.get("/report")).json()

        assert report["out_of_range"] == {"cpu": 1, "replicas": 2}


async def test_outcomes_are_told_in_parts_too(tmp_path: Path) -> None:
    """What is observed next is logged as what is observed: one row."""
    with serving(tmp_path, ports.parts()) as served:
        first = (await served.act("s", SEEN)).json()["decision_id"]
        await served.act("s", SEEN, feedback={"reward": 1, "next_observation": SEEN})
        told = {"decision_id": first, "final_observation": {**SEEN, "zone": "AwAAAAAAAAA="}, "truncated": True}
        reply = await served.post("/feedback", told)
        wrong = await served.post("/feedback", {**told, "final_observation": {**SEEN, "image": "AAAAAAA="}})

        assert reply.json()["results"][0]["status"] == "accepted"
        assert [told.next_observation for told in served.feedback()] == [ROW, ROW]
        assert wrong.json()["results"][0]["error"]["path"] == "$.final_observation.image"


async def test_an_image_stays_an_image_of_bytes(tmp_path: Path) -> None:
    """As lists or as base64: the record has its bytes, in its shape, and the outcome's too."""
    image = np.arange(84, dtype=np.uint8).reshape(2, 6, 7)
    text = base64.b64encode(image.tobytes()).decode()
    with serving(tmp_path, artefacts.image((2, 6, 7)), baseline={"kind": "constant", "action": "a0"}) as served:
        for told in (image.tolist(), text):
            await served.act("s", told)
        await served.act("s", text, feedback={"next_observation": text})
        decisions, (feedback,) = served.decisions(), served.feedback()

        for logged in (*(decision.observation for decision in decisions), feedback.next_observation):
            assert isinstance(logged, Packed)
            assert (logged.dtype, logged.shape) == ("uint8", (2, 6, 7))
            assert np.array_equal(logged.array(), image)
        assert {decision.action for decision in decisions} == {2}


@pytest.mark.parametrize(("told", "path"), [("AAAA", "$.observation"), ("*" * 112, "$.observation"), ([[[256]]], "$")])
async def test_what_is_no_such_image_is_one_clear_error(tmp_path: Path, told: object, path: str) -> None:
    """422 with the place; nothing of the body comes back."""
    with serving(tmp_path, artefacts.image((2, 6, 7)), baseline={"kind": "constant", "action": "a0"}) as served:
        reply = await served.act("MARKERX", told)

        assert reply.status == 422
        assert refusals(reply, "MARKERX")["path"].startswith(path)
        assert served.decisions() == []


async def test_what_is_observed_is_described(tmp_path: Path) -> None:
    """Inputs, mask and memory of the network, by name."""
    with serving(tmp_path / "parts", ports.parts()) as served:
        told = (await served.get("/policy")).json()

        assert [one["key"] for one in told["observation"]["entries"]] == ["image", "state", "lidar/front", "zone"]
        assert told["inputs"][2] == {"name": "obs.lidar/front", "dtype": "float64", "shape": [2]}
        assert (told["mask"], told["memory"]) == (False, [])
    with serving(tmp_path / "recurrent", ports.recurrent()) as served:
        told = (await served.get("/policy")).json()

        assert told["memory"][0] == {
            "name": "trace",
            "shape": [3],
            "dtype": "float32",
            "initial": 0.25,
            "meaning": "a fading trace of what was observed",
        }
    with serving(tmp_path / "masked", ports.masked()) as served:
        assert (await served.get("/policy")).json()["mask"] is True


async def test_the_network_is_fed_the_request_s_own_mask(tmp_path: Path) -> None:
    """Everything is allowed where none is told; the head is logged as the graph gave it, and the shield holds."""
    with serving(tmp_path, ports.masked()) as served:
        plain = [artefacts.WEIGHTS.T @ [1.0, 0.0, 3.0] + artefacts.BIAS]
        requests = [asking("a", [1, 0, 3]), asking("b", [1, 0, 3], allowed=["hold"])]
        requests.append(asking("c", [1, 0, 3], allowed=[True, True, False]))
        reply = await served.post("/act/batch", {"requests": requests})
        heads = [decision.head.array() for decision in served.decisions() if decision.head is not None]

        assert [one["action_name"] for one in reply.json()["decisions"]] == ["scale_up", "hold", "hold"]
        masks = np.array([[True] * 3, [False, True, False], [True, True, False]])
        assert np.allclose(heads, np.where(masks, plain * 3, -1e8))
        assert [decision.mask for decision in served.decisions()] == [None, *masks[1:].tolist()]


async def test_a_spread_is_on_the_record(tmp_path: Path) -> None:
    """As a number for each row; nothing where the policy has none."""
    with serving(tmp_path / "ensemble", ports.ensemble()) as served:
        await asyncio.gather(*(served.act(f"s{i}", [i / 4, 0, 1]) for i in range(3)))
        spreads = {decision.session: decision.spread for decision in served.decisions()}

        assert spreads == {"s0": 0.0, "s1": 0.25, "s2": 0.5}
    with serving(tmp_path / "demo") as served:
        await served.act()

        assert (served.decisions()[0].spread, served.decisions()[0].memory) == (None, None)
        assert b"spread" not in b"".join(path.read_bytes() for path in segments(served.application.journal.folder))
