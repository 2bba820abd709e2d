"""Observations: sampled inside their bounds, read safely, and summarised."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.archive import array_of, load_tensors_only, members_of, read_capped, tensors_of
from export.errors import CheckpointRefused, SampleInvalid
from export.meaning import Meaning
from export.observations import read_recorded, sampled, states
from export.spec import Array, Dict, Discrete, Entry, Field, Fields, ObservationSpace

SPACE = Fields(
    fields=(
        Field(name="both", low=-2, high=3),
        Field(name="below", low=5),
        Field(name="above", high=-1),
        Field(name="none"),
    )
)


PAIR = Fields(fields=(Field(name="a"), Field(name="b")))
ACTION = Discrete(names=("off", "on"))


def policy(space: ObservationSpace = SPACE) -> Meaning:
    """Give a policy over a space."""
    return Meaning(observation=space, action=ACTION)


def npy(array: object) -> bytes:
    """Give the bytes of a ``.npy`` file."""
    stream = io.BytesIO()
    np.save(stream, np.asarray(array))
    return stream.getvalue()


def test_samples_stay_within_their_bounds_and_fill_them() -> None:
    """Every kind of bound is kept, and the same samples come every time."""
    rows = sampled(SPACE, 4000)["obs"]

    assert rows.shape == (4000, 4)
    assert rows.dtype == np.float32
    values = rows.astype(np.float64)
    low, high = values.min(axis=0), values.max(axis=0)
    assert -2 <= low[0] < -1.9
    assert 2.9 < high[0] <= 3
    assert low[1] >= 5
    assert high[2] <= -1
    assert low[3] < -20
    assert high[3] > 20
    assert np.array_equal(rows, sampled(SPACE, 4000)["obs"])


def test_whole_numbers_reach_both_ends() -> None:
    """States and bytes are drawn with both ends, and a small space of states is listed whole."""
    space = Fields(fields=(Field(name="state", low=0, high=3),), dtype="int64")
    image = Array(shape=(2, 2), dtype="uint8")

    assert set(sampled(space, 200)["obs"].reshape(-1).tolist()) == {0, 1, 2, 3}
    assert states(space, 10)["obs"].reshape(-1).tolist() == [0, 1, 2, 3]
    assert states(space, 3) == {}
    assert states(SPACE, 10) == {}
    assert sampled(image, 2000)["obs"].max() == 255
    assert sampled(image, 2000)["obs"].min() == 0


def test_recorded_observations_come_from_npy_and_npz(tmp_path: Path) -> None:
    """Both forms of file give the same rows in the policy's dtype."""
    rows = np.ones((7, 4))
    np.save(tmp_path / "a.npy", rows)
    np.savez_compressed(tmp_path / "b.npz", obs=rows, action=np.zeros(7))
    np.savez(tmp_path / "c.npz", something=rows)

    found = read_recorded(tmp_path / "a.npy", policy())

    assert found.inputs["obs"].dtype == np.float32
    assert found.origin == "a.npy"
    assert np.array_equal(read_recorded(tmp_path / "b.npz", policy()).inputs["obs"], found.inputs["obs"])
    with pytest.raises(SampleInvalid, match="no array 'obs'"):
        read_recorded(tmp_path / "c.npz", policy())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((3, 5)), r"has the shape \[3, 5\], expected \[observations, 4\]"),
        (np.zeros((0, 4)), "has the shape"),
        (np.full((2, 4), np.nan), "holds NaN"),
        (np.full((2, 4), 1e300), "beyond float32"),
        (np.array([["a", "b", "c", "d"]]), "expected numbers"),
    ],
)
def test_recorded_observations_that_do_not_fit_are_refused(rows: np.ndarray, message: str, tmp_path: Path) -> None:
    """Wrong shapes and numbers that are none are sentences."""
    path = tmp_path / "rows.npy"
    path.write_bytes(npy(rows))

    with pytest.raises(SampleInvalid, match=message):
        read_recorded(path, policy())


def test_states_have_to_be_whole(tmp_path: Path) -> None:
    """Half a state would be rounded to another one."""
    space = Fields(fields=(Field(name="state", low=0, high=3),), dtype="int64")
    path = tmp_path / "rows.npy"
    path.write_bytes(npy([[1.5]]))

    with pytest.raises(SampleInvalid, match="whole numbers of int64"):
        read_recorded(path, policy(space))


def test_the_parts_of_a_dict_are_read_by_key(tmp_path: Path) -> None:
    """Each part has an array of its own, and the actions that were recorded come with them."""
    space = Dict(entries=(Entry(key="pair", space=PAIR), Entry(key="seen", space=Array(shape=(2, 2), dtype="uint8"))))
    path = tmp_path / "rows.npz"
    parts: dict[str, Any] = {"obs.pair": np.ones((5, 2)), "obs.seen": np.zeros((5, 2, 2), dtype=np.uint8)}
    np.savez(path, **parts, actions=np.arange(5) % 2, episode_starts=np.array([1, 0, 0, 1, 0]))

    found = read_recorded(path, policy(space))

    assert {name: array.shape for name, array in found.inputs.items()} == {"obs.pair": (5, 2), "obs.seen": (5, 2, 2)}
    assert found.actions is not None
    assert found.actions.tolist() == [0, 1, 0, 1, 0]
    assert found.starts is not None
    assert found.starts.tolist() == [True, False, False, True, False]
    np.savez(path, **parts, actions=np.arange(4))
    with pytest.raises(SampleInvalid, match="'action' has 4 rows, expected 5"):
        read_recorded(path, policy(space))
    del parts["obs.seen"]
    np.savez(path, **parts)
    with pytest.raises(SampleInvalid, match=r"no array 'obs\.seen'"):
        read_recorded(path, policy(space))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read as a NumPy array"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': 'x'}  \n", "cannot be read as a NumPy array"),
        (npy([1.0, 2.0])[:-1], "not the size of the file"),
        (npy([1.0, 2.0]).replace(b"(2,)", b"(9,)"), "not the size of the file"),
    ],
)
def test_arrays_that_lie_about_themselves_are_refused(data: bytes, message: str) -> None:
    """A header that claims another size than the file has is refused before anything is allocated."""
    with pytest.raises(CheckpointRefused, match=message):
        array_of(data, "a.npy")


def test_pickled_arrays_are_refused() -> None:
    """An array of objects would have to be unpickled."""
    stream = io.BytesIO()
    np.save(stream, np.array([{}], dtype=object), allow_pickle=True)

    with pytest.raises(CheckpointRefused, match="holds object, expected numbers"):
        array_of(stream.getvalue(), "a.npy")


def zipped(content: bytes, compression: int, names: tuple[str, ...] = ("x",)) -> bytes:
    """Give a zip with the content under each name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name in names:
            archive.writestr(name, content)
    return stream.getvalue()


def test_a_zip_bomb_stops_at_the_cap() -> None:
    """A member is unpacked up to its cap and no further, whatever the directory of the zip says."""
    bomb = zipped(bytes(50_000_000), zipfile.ZIP_DEFLATED)

    assert len(bomb) < 100_000
    with pytest.raises(CheckpointRefused, match="more than 1000 bytes"):
        members_of(bomb, {"x": 1000})
    with pytest.raises(CheckpointRefused, match="is compressed inside"):
        load_tensors_only(bomb, "policy.pth")


def test_odd_zips_are_refused() -> None:
    """Broken ones and rare compressions are sentences; a member that is not there is left out."""
    good = zipped(b"content", zipfile.ZIP_STORED)

    assert members_of(good, {"x": 10, "y": 10}) == {"x": b"content"}
    with pytest.raises(CheckpointRefused, match="cannot be unpacked"):
        members_of(b"PK nothing", {"x": 10})
    with pytest.raises(CheckpointRefused, match="cannot be unpacked"):
        members_of(good.replace(b"content", b"contend", 1), {"x": 10})
    with pytest.raises(CheckpointRefused, match="in an unusual way"):
        members_of(zipped(b"content", zipfile.ZIP_LZMA), {"x": 10})
    with pytest.warns(UserWarning, match="Duplicate name"):
        double = zipped(b"content", zipfile.ZIP_STORED, ("x", "x"))
    with pytest.raises(CheckpointRefused, match="several members"):
        members_of(double, {"x": 10})


def test_a_file_beyond_the_cap_is_refused(tmp_path: Path) -> None:
    """A file is read up to a cap."""
    path = tmp_path / "big"
    path.write_bytes(bytes(11))

    assert len(read_capped(path, 11)) == 11
    with pytest.raises(CheckpointRefused, match="more than 10 bytes"):
        read_capped(path, 10)


def test_tensors_that_claim_more_than_they_hold_are_refused() -> None:
    """A view with stride 0 is small on disk and huge once copied."""
    with pytest.raises(CheckpointRefused, match="expected at most"):
        tensors_of({"a": torch.zeros(1).expand(10**9)}, "net.pt")
    with pytest.raises(CheckpointRefused, match="is not a dense one"):
        tensors_of({"a": torch.zeros(3).to_sparse()}, "net.pt")
    with pytest.raises(CheckpointRefused, match="expected a tensor"):
        tensors_of({"a": 1}, "net.pt")
