"""Checkpoints that mean harm, by name: each is written into a folder and gives the words that ask for its export."""

import base64
import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.export.gadgets import Gadget, gadgets
from tests.export.rllib.folders import PPO, Made, discrete, dumped, ppo_tensors, write_module
from tests.export.sb3.zips import changed, dqn_zip, saved

Words = list[str]
Maker = Callable[[Path, str], Words]
DECLARED = """
[observation]
fields = [{ name = "a" }, { name = "b" }, { name = "c" }]

[action]
names = ["x", "y"]

[network]
kind = "mlp"
head = "q_values"
hidden = [4]
layers = ["0", "2"]
activation = "ReLU"
"""
SYMLINK = 0o120777 << 16


class Stretched:
    """Pickles as a tensor of 4 TB over a storage of one number, by PyTorch's own rebuilding function."""

    def __init__(self, stride: int) -> None:
        self.strides = (stride,)

    def __reduce__(self) -> tuple[object, ...]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            storage = torch.zeros(1).storage()  # type: ignore[no-untyped-call]  # torch does not describe it
        return torch._utils._rebuild_tensor_v2, (storage, 0, (1 << 40,), self.strides, False, {})


def _write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _declared(folder: Path) -> Words:
    return ["--declare", str(_write(folder, "net.toml", DECLARED.encode()))]


def members(change: Callable[[dict[str, bytes], str], object]) -> Maker:
    """Make an SB3 zip with its members changed."""

    def make(folder: Path, canary: str) -> Words:
        return [str(_write(folder, "model.zip", changed(dqn_zip(), lambda found: change(found, canary))))]

    return make


def texts(change: Callable[[dict[str, object], str], object]) -> Maker:
    """Make an SB3 zip whose ``data`` is changed."""

    def edit(found: dict[str, bytes], canary: str) -> None:
        data = json.loads(found["data"])
        change(data, canary)
        found["data"] = json.dumps(data).encode()

    return members(edit)


def serialized(gadget: object) -> dict[str, str]:
    """Give what SB3 writes of an object that it has to pickle."""
    return {":type:": "<class 'x'>", ":serialized:": base64.b64encode(pickle.dumps(gadget)).decode()}


def file(name: str, data: Callable[[str], bytes]) -> Maker:
    """Make a file of those bytes; plain tensors come with their declaration."""

    def make(folder: Path, canary: str) -> Words:
        path = _write(folder, name, data(canary))
        return [str(path), *(_declared(folder) if path.suffix in (".pt", ".pth", ".safetensors") else [])]

    return make


def statistics(data: Callable[[str], bytes]) -> Maker:
    """Make a good zip with those bytes as its VecNormalize statistics."""

    def make(folder: Path, canary: str) -> Words:
        _write(folder, "model.vecnormalize.pkl", data(canary))
        return [str(_write(folder, "model.zip", dqn_zip()))]

    return make


def recorded(name: str, data: Callable[[str], bytes]) -> Maker:
    """Make a good table with those bytes as its recorded observations."""

    def make(folder: Path, canary: str) -> Words:
        np.save(folder / "q.npy", np.eye(4, 2))
        return [str(folder / "q.npy"), "--observations", str(_write(folder, name, data(canary)))]

    return make


def rllib(change: Callable[[Path, str], object]) -> Maker:
    """Make a folder as RLlib writes it, changed."""

    def make(folder: Path, canary: str) -> Words:
        module = write_module(folder / "checkpoint", PPO, discrete(3), ppo_tensors(3))
        change(module, canary)
        return [str(module)]

    return make


def place(name: str, put: Callable[[Path], object]) -> Maker:
    """Make something that is no plain file where a file is expected."""

    def make(folder: Path, canary: str) -> Words:  # noqa: ARG001 - all makers alike
        put(folder / name)
        return [str(folder / name), *(_declared(folder) if name.endswith(".pt") else [])]

    return make


def raw_zip(change: Callable[[zipfile.ZipFile], object]) -> bytes:
    """Give a good zip to which more was written."""
    stream = io.BytesIO(dqn_zip())
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "a") as archive:
        warnings.simplefilter("ignore")
        change(archive)
    return stream.getvalue()


def with_mode(archive: zipfile.ZipFile, name: str, content: bytes, mode: int) -> None:
    """Add a member that says what kind of file it is."""
    info = zipfile.ZipInfo(name)
    info.external_attr, info.create_system = mode, 3
    archive.writestr(info, content)


def bomb(size: int) -> bytes:
    """Give a good zip whose ``data`` inflates to that many bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", bytes(size))
        archive.writestr("policy.pth", b"")
    return stream.getvalue()


def overlapping() -> bytes:
    """Give a zip whose two members are the same bytes."""
    data = bytearray(changed(dqn_zip(), lambda _: None))
    found = zipfile.ZipFile(io.BytesIO(bytes(data))).infolist()
    directory = data.rindex(b"PK\x01\x02", 0, data.rindex(b"policy.pth"))
    struct.pack_into("<I", data, directory + 42, found[0].header_offset)
    return bytes(data)


def lying(size: int) -> bytes:
    """Give a zip whose directory says, in the manner of zip64, that ``policy.pth`` has that many bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("policy.pth", b"few")
        archive.getinfo("policy.pth").file_size = archive.getinfo("policy.pth").compress_size = size
    return stream.getvalue()


def header(**told: object) -> bytes:
    """Give a ``.npy`` of 8 bytes whose header tells that."""
    text = repr({"descr": "<f8", "fortran_order": False, "shape": (1, 1)} | told).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(8)


def safetensors(told: bytes) -> bytes:
    """Give a safetensors file with that header."""
    return struct.pack("<Q", len(told)) + told + bytes(64)


def arrays(**named: object) -> bytes:
    """Give an ``.npz``; objects in it are pickled."""
    stream = io.BytesIO()
    np.savez(stream, **{name: np.asarray(value) for name, value in named.items()})  # type: ignore[arg-type]
    return stream.getvalue()


def plain(tensors: Mapping[str, object]) -> bytes:
    """Give the declared network's file with some tensors replaced."""
    return saved(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).state_dict() | dict(tensors))


def flipped(data: bytes, share: float) -> bytes:
    """Give the bytes with one bit turned around."""
    at = int(len(data) * share)
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def gadget(kind: str, canary: str) -> Gadget:
    """Give a gadget of that kind."""
    return gadgets(canary)[kind]


def running(mean: object, var: object, **told: object) -> bytes:
    """Give VecNormalize statistics of those numbers."""
    module = "stable_baselines3.common"
    rms = Made(f"{module}.running_mean_std.RunningMeanStd", {"mean": mean, "var": var, "count": 5.0})
    state = {"obs_rms": rms, "clip_obs": 10.0, "epsilon": 1e-8, "norm_obs": True} | told
    return dumped(Made(f"{module}.vec_env.vec_normalize.VecNormalize", state))
