"""The table of hostile checkpoints: by name, a part of what is said about it, and its maker."""

import os
import pickle
import socket
import zipfile
from pathlib import Path

import numpy as np
import torch

from tests.export.gadgets import Gadget
from tests.export.hostile import (
    SYMLINK,
    Maker,
    Stretched,
    arrays,
    bomb,
    file,
    flipped,
    gadget,
    header,
    lying,
    members,
    overlapping,
    place,
    plain,
    raw_zip,
    recorded,
    rllib,
    running,
    safetensors,
    serialized,
    statistics,
    texts,
    with_mode,
)
from tests.export.rllib.folders import dumped
from tests.export.sb3.zips import CHOICE, dqn_zip, saved

KINDS = ("os.system", "exec", "Popen", "runpy", "getattr chain", "partial", "state", "pickle in pickle", "numpy load")
LARGE = 64 * 1024 * 1024 + 1
DEEP = b"[" * 200_000
STATISTICS = (np.zeros(5), np.ones(5))


def in_tensors(kind: str) -> Maker:
    """A gadget where SB3 keeps its tensors."""
    return members(lambda found, canary: found.update({"policy.pth": saved({"q": gadget(kind, canary)})}))


def in_plain(kind: str) -> Maker:
    """A gadget in a file of ``torch.save``."""
    return file("net.pt", lambda canary: saved({"0.weight": gadget(kind, canary)}))


def in_table(kind: str) -> Maker:
    """A gadget instead of a pickled table."""
    return file("q.pkl", lambda canary: pickle.dumps(gadget(kind, canary)))


def in_row(kind: str) -> Maker:
    """A gadget among the rows of a pickled table."""
    return file("q.pkl", lambda canary: pickle.dumps({0: gadget(kind, canary), 1: [0.0, 1.0]}))


def in_statistics(kind: str) -> Maker:
    """A gadget as VecNormalize statistics."""
    return statistics(lambda canary: pickle.dumps(gadget(kind, canary)))


def in_state(kind: str) -> Maker:
    """A gadget among the tensors of an RLlib module."""
    return rllib(
        lambda module, canary: (module / "module_state.pkl").write_bytes(pickle.dumps({"a": gadget(kind, canary)}))
    )


def replaced(name: str, data: bytes) -> Maker:
    """An RLlib folder with one file replaced."""
    return rllib(lambda module, _: (module / name).write_bytes(data))


def linked(module: Path) -> None:
    """Put a link where the tensors should be."""
    (module / "module_state.pkl").rename(module.parent / "elsewhere.pkl")
    (module / "module_state.pkl").symlink_to(module.parent / "elsewhere.pkl")


def listening(path: Path) -> None:
    """Put a socket there."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def piped(module: Path) -> None:
    """Put a pipe where the metadata should be."""
    (module / "metadata.json").unlink()
    os.mkfifo(module / "metadata.json")


def crowd(archive: zipfile.ZipFile) -> None:
    """Add more members than any checkpoint has."""
    for at in range(10_001):
        archive.writestr(f"m{at}", "")


def recursive() -> list[object]:
    """A list that holds itself."""
    found: list[object] = []
    found.append(found)
    return found


HOSTILE: dict[str, tuple[str, Maker]] = {
    **{f"{kind} in policy.pth": ("policy.pth holds more than tensors", in_tensors(kind)) for kind in KINDS},
    **{f"{kind} in a .pt": ("net.pt holds more than tensors", in_plain(kind)) for kind in KINDS},
    **{
        f"{kind} in vecnormalize.pkl": ("model.vecnormalize.pkl holds an object", in_statistics(kind)) for kind in KINDS
    },
    **{f"{kind} in an RLlib state": ("module_state.pkl: 'a' is an object", in_state(kind)) for kind in KINDS},
    "gadget as a policy class": (
        "policy_class exists only in pickled form",
        texts(lambda data, canary: data.update(policy_class=serialized(gadget("exec", canary)))),
    ),
    "gadget as a space": (
        "the action space is x",
        texts(lambda data, canary: data.update(action_space=serialized(gadget("exec", canary)))),
    ),
    "gadget as RLlib's arguments": (
        "class_and_ctor_args.pkl is an object of builtins.exec",
        rllib(
            lambda module, canary: (module / "class_and_ctor_args.pkl").write_bytes(
                pickle.dumps(gadget("exec", canary))
            )
        ),
    ),
    "gadget as an RLlib space": (
        "class is an object of builtins.exec",
        rllib(
            lambda module, canary: (module / "class_and_ctor_args.pkl").write_bytes(
                dumped({"class": gadget("exec", canary), "ctor_args_and_kwargs": ((), {})})
            )
        ),
    ),
    "plain pickle as a .pt": (
        "holds more than tensors",
        file("net.pt", lambda canary: pickle.dumps(gadget("os.system", canary))),
    ),
    "whole module": ("holds more than tensors", file("net.pt", lambda _: saved(torch.nn.Linear(3, 2)))),
    "tensor larger than its storage": (
        "net.pt cannot be read",
        file("net.pt", lambda _: saved({"0.weight": Stretched(1)})),
    ),
    "tensor of stride 0": (
        "'0.weight' has 1099511627776 elements",
        file("net.pt", lambda _: saved({"0.weight": Stretched(0)})),
    ),
    "objects in a .npy": ("q.npy cannot be read", file("q.npy", lambda canary: pickle.dumps(gadget("exec", canary)))),
    "array of objects": (
        "q.npy holds object",
        file("q.npy", lambda canary: header(descr="|O", shape=(1,))[:-8] + pickle.dumps(gadget("exec", canary))),
    ),
    "bytes that are no array of objects": (
        "q.npy cannot be read as a pickle",
        file("q.npy", lambda canary: header(descr="|O", shape=(1,)) + pickle.dumps(gadget("exec", canary))),
    ),
    "gadget in a dict in a .npy": (
        "builtin__.exec at 0, expected a row of values",
        file(
            "q.npy",
            lambda canary: (
                header(descr="|O", shape=())[:-8] + np.array({0: gadget("exec", canary)}, dtype=object).dumps()
            ),
        ),
    ),
    "objects in recorded observations": (
        "obs holds object",
        recorded("seen.npz", lambda canary: arrays(obs=np.array([Gadget(open, canary, "w")], dtype=object))),
    ),
    **{f"{kind} as a pickled table": ("nothing was run", in_table(kind)) for kind in KINDS},
    **{f"{kind} as a row of a pickled table": ("nothing was run", in_row(kind)) for kind in KINDS},
    "states far apart in a pickled table": (
        "q.pkl has 2 states within",
        file("q.pkl", lambda _: pickle.dumps({(0, 0): [0.0, 1.0], (2**50, 2**50): [0.0, 1.0]})),
    ),
    "giant shape in a .npy": ("not the size of the file", file("q.npy", lambda _: header(shape=(1 << 40, 1 << 20)))),
    "negative shape in a .npy": ("not the size of the file", file("q.npy", lambda _: header(shape=(-1, 1)))),
    "header of a .npy that is code": (
        "q.npy cannot be read",
        file("q.npy", lambda _: header(shape="__import__('os')")),
    ),
    "deep header of a .npy": (
        "q.npy cannot be read",
        file("q.npy", lambda _: b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535),
    ),
    "giant shape in recorded observations": (
        "seen.npy says it has the shape",
        recorded("seen.npy", lambda _: header(shape=(1 << 40,))),
    ),
    "deflate bomb": ("unpacks to more than", file("model.zip", lambda _: bomb(LARGE))),
    "compressed tensors": ("net.pt is compressed", file("net.pt", lambda _: bomb(1 << 20))),
    "overlapping members": ("cannot be unpacked", file("model.zip", lambda _: overlapping())),
    "zip64 that lies": ("cannot be unpacked", file("model.zip", lambda _: lying(1 << 60))),
    "zip64 in the .pt that lies": ("net.pt cannot be read", file("net.pt", lambda _: lying(1 << 60))),
    "member twice": (
        "several members named 'data'",
        file("model.zip", lambda _: raw_zip(lambda archive: archive.writestr("data", "{}"))),
    ),
    "path traversal": (
        "leads out of it",
        file("model.zip", lambda _: raw_zip(lambda archive: archive.writestr("../../canary", "x"))),
    ),
    "path traversal with backslashes": (
        "leads out of it",
        file("model.zip", lambda _: raw_zip(lambda archive: archive.writestr("..\\canary", "x"))),
    ),
    "absolute path": (
        "leads out of it",
        file("model.zip", lambda _: raw_zip(lambda archive: archive.writestr("/srv/canary", "x"))),
    ),
    "link in a zip": (
        "leads out of it",
        file("model.zip", lambda _: raw_zip(lambda archive: with_mode(archive, "link", b"/etc/passwd", SYMLINK))),
    ),
    "ten thousand members": (
        "more than 10000 members",
        file("model.zip", lambda _: raw_zip(crowd)),
    ),
    "truncated zip": ("cannot be unpacked", file("model.zip", lambda _: dqn_zip()[:-200])),
    "truncated in the middle": ("cannot be unpacked", file("model.zip", lambda _: dqn_zip()[: len(dqn_zip()) // 2])),
    "one bit flipped in a zip": ("CRC", file("model.zip", lambda _: flipped(dqn_zip(), 0.5))),
    "truncated .pt": ("damaged zip", file("net.pt", lambda _: plain({})[:-100])),
    "one bit flipped in a header": ("net.pt", file("net.pt", lambda _: flipped(plain({}), 0.0))),
    "empty zip": ("cannot be unpacked", file("model.zip", lambda _: b"")),
    "empty .pt": ("net.pt cannot be read", file("net.pt", lambda _: b"")),
    "empty .npy": ("q.npy cannot be read", file("q.npy", lambda _: b"")),
    "empty statistics": ("cannot be read as a pickle", statistics(lambda _: b"")),
    "deep JSON": ("is not JSON", members(lambda found, _: found.update(data=DEEP))),
    "deep JSON object": ("is not JSON", members(lambda found, _: found.update(data=b'{"a":' * 200_000))),
    "giant number in JSON": (
        "is not JSON",
        members(lambda found, _: found.update(data=b'{"n": ' + b"9" * 100_000 + b"}")),
    ),
    "deep text of a layout": (
        "is not a plain value",
        texts(lambda data, _: data.update(policy_kwargs={":type:": "<class 'dict'>", "net_arch": "[" * 50_000})),
    ),
    "giant layers": (
        "net_arch",
        texts(lambda data, _: data.update(policy_kwargs={":type:": "<class 'dict'>", "net_arch": "[99999999999]"})),
    ),
    "giant number of actions": (
        "the space's n",
        texts(lambda data, _: data.update(action_space={**CHOICE, "n": "9" * 30})),
    ),
    "NaN weights": ("'0.bias' holds NaN", file("net.pt", lambda _: plain({"0.bias": torch.full((4,), torch.nan)}))),
    "infinite weights": (
        "'0.bias' holds NaN or infinite",
        file("net.pt", lambda _: plain({"0.bias": torch.full((4,), torch.inf)})),
    ),
    "NaN table": (
        "the table holds values that are NaN",
        file("q.npy", lambda _: header()[:-8] + np.array([np.nan]).tobytes()),
    ),
    "weights of another shape": (
        "'0.weight' is float32",
        file("net.pt", lambda _: plain({"0.weight": torch.zeros(4, 300)})),
    ),
    "weights that nobody uses": ("9.weight", file("net.pt", lambda _: plain({"9.weight": torch.zeros(4)}))),
    "recursive container": ("net.pt holds a list", file("net.pt", lambda _: saved(recursive()))),
    "recursive statistics": ("contains itself", statistics(lambda _: b"]\x94h\x00a.")),
    "deep statistics": ("nests deeper", statistics(lambda _: b"N" + b"\x85" * 100_000 + b".")),
    "statistics with a persistent id": ("opcode PERSID", statistics(lambda _: b"Pcanary\n.")),
    "statistics with an extension": ("opcode EXT1", statistics(lambda _: b"\x82\x01.")),
    "statistics of 4 GB": ("cannot be read as a pickle", statistics(lambda _: b"\x8e" + b"\xff" * 8 + b".")),
    "NaN statistics": ("holds NaN or infinite", statistics(lambda _: running(np.array([np.nan] * 5), np.ones(5)))),
    "negative variance": ("var has -1.0", statistics(lambda _: running(np.zeros(5), -np.ones(5)))),
    "statistics of two shapes": ("expected that of var", statistics(lambda _: running(np.zeros(5), np.ones(4)))),
    "statistics of another width": ("have the shape", statistics(lambda _: running(np.zeros(7), np.ones(7)))),
    "statistics of objects": (
        "mean is an array of 'O8'",
        statistics(lambda _: running(np.array([None] * 5), np.ones(5))),
    ),
    "statistics of records": (
        "mean is an array of 'V8'",
        statistics(lambda _: running(np.zeros(5, "f4,f4"), np.ones(5))),
    ),
    "infinite clip": ("clip_obs is nan", statistics(lambda _: running(np.zeros(5), np.ones(5), clip_obs=float("nan")))),
    "safetensors with a giant header": (
        "header has 18446744073709551615 bytes",
        file("net.safetensors", lambda _: b"\xff" * 8 + b"{}"),
    ),
    "safetensors with a deep header": ("not JSON", file("net.safetensors", lambda _: safetensors(DEEP))),
    "safetensors with a giant shape": (
        "'a' has 4398046511104 bytes",
        file(
            "net.safetensors",
            lambda _: safetensors(b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,64]}}'),
        ),
    ),
    "safetensors with overlapping tensors": (
        "no overlap",
        file(
            "net.safetensors",
            lambda _: safetensors(
                b'{"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},'
                b'"b":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}}'
            ),
        ),
    ),
    "pipe as a checkpoint": ("net.pt is no plain file", place("net.pt", os.mkfifo)),
    "pipe as a zip": ("model.zip is no plain file", place("model.zip", os.mkfifo)),
    "folder as a zip": ("Is a directory", place("model.zip", Path.mkdir)),
    "folder as a .pt": ("Is a directory", place("net.pt", Path.mkdir)),
    "device without end": ("q.npy is no plain file", place("q.npy", lambda path: path.symlink_to("/dev/zero"))),
    "link in a circle": ("model.zip cannot be read", place("model.zip", lambda path: path.symlink_to(path))),
    "link to nothing": ("net.pt cannot be read", place("net.pt", lambda path: path.symlink_to("nowhere"))),
    "socket as a zip": ("model.zip cannot be read", place("model.zip", listening)),
    "empty RLlib state": ("module_state.pkl cannot be read", replaced("module_state.pkl", b"")),
    "RLlib state of 4 TB": (
        "does not fit 12 bytes",
        replaced(
            "module_state.pkl",
            pickle.dumps({"a": np.zeros(3, np.float32)}).replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"),
        ),
    ),
    "objects as an RLlib state": (
        "an array of 'O8'",
        replaced("module_state.pkl", pickle.dumps({"a": np.array([None])})),
    ),
    "NaN in an RLlib state": (
        "'a' holds NaN",
        replaced("module_state.pkl", pickle.dumps({"a": np.array([np.nan], np.float32)})),
    ),
    "deep RLlib metadata": ("metadata.json cannot be read", replaced("metadata.json", DEEP)),
    "RLlib module of somebody's": (
        "class is an object of io.open",
        replaced(
            "class_and_ctor_args.pkl", dumped({"class": gadget("open", "canary"), "ctor_args_and_kwargs": ((), {})})
        ),
    ),
    "link in an RLlib folder": ("it is a link", rllib(lambda module, _: linked(module))),
    "pipe in an RLlib folder": ("metadata.json is no plain file", rllib(lambda module, _: piped(module))),
    "RLlib folder without tensors": (
        "without module_state.pkl",
        rllib(lambda module, _: (module / "module_state.pkl").unlink()),
    ),
}
