"""Hostile artefacts: what somebody would send who wants more than to be served. Each is sealed as its maker would.

``python -m tests.hostile DOOR FOLDER`` tries them all at one door (``open``, ``verify`` or ``load``), each in a process
of its own with little memory, and prints a line of JSON for each. ``FOLDER`` holds what they may not touch.
"""

import hashlib
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

import export.verify
import service.versions.engine
from export.runtime import Session
from export.spec import Tensor
from export.spec.artefact import model_of, open_artefact
from export.spec.errors import ArtefactError
from export.verify import verify
from service.versions.engine import VersionRefused, load_version
from tests import artefacts

# More than any of our own artefacts needs, far less than a machine has.
MEMORY = 1 << 30
PATIENCE_S = 20.0
ROOT = Path(__file__).resolve().parents[1]
CANARY = b"nobody reads or writes this"

DEMO = artefacts.demo()
MUCH = 1 << 34
node = helper.make_node
Hostile = Callable[[Path], bytes]


def whole(*numbers: int) -> np.ndarray:
    """An array of int64."""
    return np.array(numbers, dtype=np.int64)


def resealed(model: onnx.ModelProto, *, more: bytes = b"", before: bytes = b"", **manifest: object) -> bytes:
    """Seal a model with the right digest, without any check."""
    for entry in model.metadata_props:
        if entry.key == "policy.manifest" and manifest:
            entry.value = json.dumps(json.loads(entry.value) | manifest)
        if entry.key == "policy.digest":
            entry.value = "0" * 64
    zeroed = before + model.SerializeToString() + more
    mark = b"\x0a\x0dpolicy.digest\x12\x40"
    at = zeroed.rindex(mark) + len(mark)
    return zeroed[:at] + hashlib.sha256(zeroed).hexdigest().encode() + zeroed[at + 64 :]


def changed(change: Callable[[onnx.ModelProto], object]) -> Hostile:
    """The demo with something done to its model."""

    def make(_: Path) -> bytes:
        model = model_of(DEMO)
        change(model)
        return resealed(model)

    return make


def added(nodes: Iterable[NodeProto], **constants: np.ndarray) -> Hostile:
    """The demo plus nothing times the largest number of ``waste``: its golden rows come out, if it ends."""

    def change(model: onnx.ModelProto) -> None:
        for one in model.graph.node:
            one.output[:] = ["plain" if name == "q_values" else name for name in one.output]
        model.graph.node.extend(nodes)
        for name, value in {"nought": np.zeros(1, np.float32), **constants}.items():
            model.graph.initializer.append(numpy_helper.from_array(value, name))
        model.graph.node.append(node("Cast", ["waste"], ["numbers"], to=TensorProto.FLOAT))
        model.graph.node.append(node("ReduceMax", ["numbers"], ["largest"], keepdims=0))
        model.graph.node.append(node("Mul", ["largest", "nought"], ["nothing"]))
        model.graph.node.append(node("Add", ["plain", "nothing"], ["q_values"]))

    return changed(change)


def outside(location: Callable[[Path], str], place: Callable[[onnx.ModelProto], TensorProto] | None = None) -> Hostile:
    """The demo with a tensor whose numbers are elsewhere."""

    def make(folder: Path) -> bytes:
        model = model_of(DEMO)
        tensor = model.graph.initializer[0] if place is None else place(model)
        tensor.CopyFrom(TensorProto(name=tensor.name or "away", data_type=TensorProto.FLOAT, dims=[2, 3]))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location(folder), "offset": "0", "length": "24"}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        return resealed(model)

    return make


def linked(name: str, how: Callable[[Path, Path], object]) -> Callable[[Path], str]:
    """The name of a link to the canary, beside the artefact."""

    def make(folder: Path) -> str:
        link = folder / "served" / name
        how(link, folder / "canary")
        return name

    return make


def _attribute(model: onnx.ModelProto) -> TensorProto:
    model.graph.node.append(node("Constant", [], ["away"], value=numpy_helper.from_array(np.zeros(1, np.float32))))
    tensor: TensorProto = model.graph.node[-1].attribute[0].t
    return tensor


def _branch(model: onnx.ModelProto) -> TensorProto:
    body = helper.make_graph([node("Identity", ["away"], ["out"])], "body", [], [_value("out", [2, 3])])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(node("If", ["yes"], ["taken"], then_branch=body, else_branch=body))
    branch = model.graph.node[-1].attribute[0].g
    branch.initializer.add().name = "away"
    tensor: TensorProto = branch.initializer[0]
    return tensor


def _value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _no_flag(folder: Path) -> bytes:
    model = model_of(DEMO)
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", str(folder / "canary")
    return resealed(model)


def _nested(depth: int) -> Hostile:
    def body(left: int) -> onnx.GraphProto:
        inner = (
            node("If", ["yes"], [f"out{left}"], then_branch=body(left - 1), else_branch=body(0))
            if left
            else node("Identity", ["nought"], ["out0"])
        )
        return helper.make_graph([inner], f"body{left}", [], [_value(f"out{left}", [1])])

    outer = [node("If", ["yes"], ["waste"], then_branch=body(depth), else_branch=body(0))]
    return added(outer, yes=np.array(True))


def _looping(_: Path) -> bytes:
    spaces = {"observation": artefacts.FIELDS, "actions": artefacts.ACTIONS}
    return artefacts.looping(artefacts.WEIGHTS, trips=artefacts.FOR_EVER, **spaces)  # type: ignore[arg-type]


def _loop(nodes: list[NodeProto], carried: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> Hostile:
    body = helper.make_graph(
        [node("Identity", ["go"], ["go_after"]), *nodes],
        "body",
        [_value("trip", [], TensorProto.INT64), _value("go", [], TensorProto.BOOL), *carried],
        [_value("go_after", [], TensorProto.BOOL), *outputs],
        [numpy_helper.from_array(np.zeros(1024, np.float32), "block")],
    )
    start = ["nought"] if carried else []
    return added(
        [node("Loop", ["trips", "yes", *start], ["waste"], body=body)], trips=whole(2**40)[0], yes=np.array(True)
    )


def _doubling(first: str, axis: int) -> Hostile:
    names = [first, *(f"double{i}" for i in range(40)), "waste"]
    return added([node("Concat", [a, a], [b], axis=axis) for a, b in pairwise(names)])


def _weights(change: Callable[[np.ndarray], object]) -> Hostile:
    def put(model: onnx.ModelProto) -> None:
        numbers = numpy_helper.to_array(model.graph.initializer[0]).copy()
        change(numbers)
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(numbers, "weights"))

    return changed(put)


def _set(place: tuple[int, int], value: float) -> Callable[[np.ndarray], object]:
    def put(numbers: np.ndarray) -> None:
        numbers[place] = value

    return put


def _hidden_nan(_: Path) -> bytes:
    values = np.zeros((40, 3))
    good = model_of(artefacts.table(values))
    values[39] = np.nan  # golden rows visit the first sixteen
    table = next(tensor for tensor in good.graph.initializer if tensor.name == "values")
    table.CopyFrom(numpy_helper.from_array(values.astype(np.float32), "values"))
    return resealed(good)


def _random_in_branch(model: onnx.ModelProto) -> None:
    drawn = node("RandomNormal", [], ["drawn"], shape=[1])
    body = helper.make_graph([drawn], "body", [], [_value("drawn", [1])])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(node("If", ["yes"], ["taken"], then_branch=body, else_branch=body))


def _function(model: onnx.ModelProto) -> None:
    inner = node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("", "MatMul", ["x"], ["y"], [inner], model.opset_import))


def _input(change: Callable[[onnx.ValueInfoProto], object]) -> Hostile:
    return changed(lambda model: change(model.graph.input[0]))


def _metadata(model: onnx.ModelProto) -> None:
    entry = model.metadata_props.add()
    entry.CopyFrom(next(one for one in model.metadata_props if one.key == "policy.manifest"))
    entry.value = entry.value.replace("demo", "evil")


def _manifest(text: str) -> Hostile:
    def change(model: onnx.ModelProto) -> None:
        next(one for one in model.metadata_props if one.key == "policy.manifest").value = text

    return changed(change)


def _golden(tensor: dict[str, object]) -> Hostile:
    def make(_: Path) -> bytes:
        manifest = json.loads(next(e.value for e in model_of(DEMO).metadata_props if e.key == "policy.manifest"))
        manifest["golden"]["inputs"]["obs"] |= tensor
        return resealed(model_of(DEMO), golden=manifest["golden"])

    return make


def _lying(_: Path) -> bytes:
    return artefacts.built(
        [node("MatMul", ["obs", "weights"], ["q_values"])],
        {"weights": artefacts.WEIGHTS.astype(np.float32)},
        artefacts.FIELDS,
        artefacts.ACTIONS,
        expected=lambda inputs: (inputs @ artefacts.WEIGHTS[:, ::-1]).astype(np.float32),
    )


def _several_graphs(_: Path) -> bytes:
    second = onnx.ModelProto()
    second.graph.node.append(node("Identity", ["obs"], ["more"]))
    return resealed(model_of(DEMO), more=second.SerializeToString())


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node.append(node("Add", ["obs", "b"], ["a"]))
    model.graph.node.append(node("Add", ["obs", "a"], ["b"]))


def _many(model: onnx.ModelProto) -> None:
    names = ["obs", *(f"n{i}" for i in range(200_000))]
    model.graph.node.extend(node("Identity", [a], [b]) for a, b in pairwise(names))


def _two_formats(_: Path) -> bytes:
    """One file that is an ONNX model to whoever reads that, and another graph to ONNX Runtime, which guesses.

    ONNX Runtime's own format is a flatbuffer: four bytes that say where its root is, then ``ORTM``. The same eight
    bytes are read by protobuf as the format's version, a producer of one letter, and a field that nobody knows.
    """
    evil = model_of(DEMO)
    numbers = numpy_helper.to_array(evil.graph.initializer[0])
    evil.graph.initializer[0].CopyFrom(numpy_helper.from_array(-numbers, "weights"))
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.optimized_model_filepath = f"{folder}/evil.ort"
        options.add_session_config_entry("session.save_model_format", "ORT")
        ort.InferenceSession(evil.SerializeToString(), options, providers=["CPUExecutionProvider"])
        other = Path(folder, "evil.ort").read_bytes()
    head = b"\x08\x09\x12\x01ORTM" + bytes(83)
    place = struct.unpack("<I", head[:4])[0] - struct.unpack("<I", other[:4])[0]
    begin = len(head) + 5
    length = place + len(other) - begin
    doc = b"\x32" + bytes([length >> shift & 0x7F | 0x80 for shift in (0, 7, 14)]) + bytes([length >> 21])
    return resealed(model_of(DEMO), before=head + doc + bytes(place + 8 - begin) + other[8:])


def _golden_rows_of_two_formats(_: Path) -> bytes:
    """The same with golden rows of the graph that would be run."""
    data = _two_formats(Path())
    golden = json.loads(next(e.value for e in model_of(DEMO).metadata_props if e.key == "policy.manifest"))["golden"]
    inputs = artefacts.golden_inputs(artefacts.FIELDS)
    outputs = Tensor.of((inputs @ -artefacts.WEIGHTS + artefacts.BIAS).astype(np.float32))
    golden["outputs"]["q_values"] = outputs.model_dump(mode="json")
    length = len(data) - len(DEMO)
    return resealed(model_of(DEMO), before=data[:length], golden=golden)


class Case(NamedTuple):
    """A hostile artefact, and whether its bytes alone give it away: else it is found out when it is run."""

    make: Hostile
    opens: bool = False


_image = np.zeros((1, 1, 4, 4), np.float32)
_column, _row = np.zeros((200_000, 1), np.float32), np.zeros((1, 200_000), np.float32)
_least = whole(-(2**63))

CASES = {
    "external data through ..": Case(outside(lambda _: "../canary")),
    "external data by an absolute path": Case(outside(lambda folder: str(folder / "canary"))),
    "external data through a symlink": Case(outside(linked("symlink", lambda link, to: link.symlink_to(to)))),
    "external data through a hard link": Case(outside(linked("hardlink", lambda link, to: link.hardlink_to(to)))),
    "external data of an attribute": Case(outside(lambda _: "../canary", _attribute)),
    "external data in a branch": Case(outside(lambda _: "../canary", _branch)),
    "external data at an address in memory": Case(outside(lambda _: "*/_ORT_MEM_ADDR_/*")),
    "external data without its flag": Case(_no_flag),
    "a loop without end": Case(_looping, opens=True),
    "a loop that gathers for ever": Case(
        _loop([node("Identity", ["block"], ["gathered"])], [], [_value("gathered", [1024])])
    ),
    "thirty branches deep": Case(_nested(30)),
    "two hundred thousand nodes": Case(changed(_many)),
    "ConstantOfShape of 64 GiB": Case(added([node("ConstantOfShape", ["n"], ["waste"])], n=whole(MUCH))),
    "ConstantOfShape beyond int64": Case(added([node("ConstantOfShape", ["n"], ["waste"])], n=whole(2**62, 4))),
    "Expand": Case(added([node("Expand", ["nought", "n"], ["waste"])], n=whole(MUCH))),
    "Expand by the batch": Case(
        added(
            [
                node("Shape", ["obs"], ["rows"], start=0, end=1),
                node("Concat", ["rows", "n"], ["shape"], axis=0),
                node("Expand", ["nought", "shape"], ["waste"]),
            ],
            n=whole(1 << 30),
        ),
        opens=True,
    ),
    "Tile": Case(added([node("Tile", ["nought", "n"], ["waste"])], n=whole(MUCH))),
    "Range": Case(added([node("Range", ["a", "n", "b"], ["waste"])], a=whole(0)[0], n=whole(MUCH)[0], b=whole(1)[0])),
    "OneHot": Case(
        added([node("OneHot", ["a", "n", "v"], ["waste"])], a=whole(0), n=whole(MUCH), v=np.array([0, 1], np.float32))
    ),
    "Pad": Case(added([node("Pad", ["nought", "n"], ["waste"])], n=whole(0, MUCH))),
    "Pad of a pooling": Case(
        added([node("MaxPool", ["x"], ["waste"], kernel_shape=[2, 2], pads=[2**30] * 4)], x=_image)
    ),
    "forty doublings": Case(_doubling("obs", 1)),
    "forty doublings of a constant": Case(_doubling("nought", 0)),
    "a sum of a row and a column": Case(added([node("Add", ["r", "c"], ["waste"])], r=_row, c=_column)),
    "a product of a column and a row": Case(added([node("MatMul", ["c", "r"], ["waste"])], r=_row, c=_column)),
    "an LSTM of two thousand million": Case(
        added(
            [node("LSTM", ["x", "w", "r"], ["", "waste"], hidden_size=2**31 - 1)],
            x=np.zeros((1, 1, 1), np.float32),
            w=np.zeros((1, 4, 1), np.float32),
            r=np.zeros((1, 4, 1), np.float32),
        )
    ),
    "the least number divided by -1": Case(added([node("Div", ["a", "b"], ["waste"])], a=_least, b=whole(-1))),
    "a division by zero": Case(added([node("Div", ["a", "b"], ["waste"])], a=_least, b=whole(0))),
    "a division by what is observed": Case(
        added([node("Cast", ["obs"], ["b"], to=TensorProto.INT64), node("Div", ["a", "b"], ["waste"])], a=_least)
    ),
    "a remainder by what is observed": Case(
        added([node("Cast", ["obs"], ["b"], to=TensorProto.INT64), node("Mod", ["a", "b"], ["waste"])], a=_least)
    ),
    "a Max with an input left out": Case(added([node("Max", ["obs", "", "obs"], ["waste"])])),
    "a LayerNormalization with an input left out": Case(
        added([node("LayerNormalization", ["obs", "w", ""], ["waste"])], w=np.zeros((2, 2), np.float32))
    ),
    "a Split into more than it has": Case(added([node("Split", ["obs"], ["waste", "b"], axis=1, num_outputs=1)])),
    "a GatherND before the first axis": Case(
        added([node("GatherND", ["x", "i"], ["waste"], batch_dims=-(2**31))], x=np.zeros((1, 5), np.float32), i=whole())
    ),
    "a OneHot without a depth": Case(
        added([node("OneHot", ["i", "d", "v"], ["waste"])], i=whole(0), d=whole(), v=np.zeros(4, np.float32))
    ),
    "a weight that is NaN": Case(_weights(_set((2, 0), np.nan))),
    "a weight that is infinite": Case(_weights(_set((2, 0), np.inf))),
    "NaN where no golden row comes": Case(_hidden_nan),
    "NaN in an attribute": Case(
        added([node("Constant", [], ["waste"], value=numpy_helper.from_array(np.array([np.nan, 0], np.float32)))])
    ),
    "a tensor of text": Case(added([node("Cast", ["t"], ["waste"], to=1)], t=np.array(["1.0"], object))),
    "a tensor without its numbers": Case(
        changed(
            lambda m: m.graph.initializer[0].CopyFrom(TensorProto(name="weights", data_type=1, dims=[2**31, 2**31]))
        )
    ),
    "a tensor of more dimensions than int64 holds": Case(
        changed(
            lambda m: m.graph.initializer[0].CopyFrom(
                TensorProto(name="weights", data_type=1, dims=[2**62, 4], raw_data=b"1234")
            )
        )
    ),
    "a tensor of negative size": Case(
        changed(lambda m: m.graph.initializer.append(TensorProto(name="x", data_type=1, dims=[-1], raw_data=b"")))
    ),
    "a sparse tensor": Case(changed(lambda m: m.graph.sparse_initializer.add())),
    "a local function under an operator's name": Case(changed(_function)),
    "a training graph": Case(changed(lambda m: m.training_info.add())),
    "a domain of somebody's": Case(changed(lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)))),
    "an operator of somebody's": Case(
        changed(lambda m: m.graph.node.append(node("Gelu", ["obs"], ["x"], domain="com.microsoft")))
    ),
    "random numbers in a branch": Case(changed(_random_in_branch)),
    "a constant in the input's place": Case(
        changed(lambda m: m.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3), np.float32), "obs")))
    ),
    "a second input": Case(changed(lambda m: m.graph.input.append(_value("more", ["batch", 3])))),
    "an output more": Case(changed(lambda m: m.graph.output.append(_value("product", ["batch", 3])))),
    "a sequence for an input": Case(_input(lambda v: v.type.CopyFrom(helper.make_sequence_type_proto(v.type)))),
    "an optional input": Case(_input(lambda v: v.type.CopyFrom(helper.make_optional_type_proto(v.type)))),
    "an input of bfloat16": Case(_input(lambda v: setattr(v.type.tensor_type, "elem_type", TensorProto.BFLOAT16))),
    "an input without fields": Case(_input(lambda v: setattr(v.type.tensor_type.shape.dim[1], "dim_value", 0))),
    "an input of any width": Case(_input(lambda v: setattr(v.type.tensor_type.shape.dim[1], "dim_param", "k"))),
    "a batch of one": Case(_input(lambda v: setattr(v.type.tensor_type.shape.dim[0], "dim_value", 1))),
    "a circle of nodes": Case(changed(_cycle)),
    "one name twice": Case(changed(lambda m: m.graph.node.append(node("Identity", ["obs"], ["q_values"])))),
    "a manifest twice": Case(changed(_metadata)),
    "a digest twice": Case(lambda _: b"\x72\x51\x0a\x0dpolicy.digest\x12\x40" + b"0" * 64 + DEMO),
    "a manifest of brackets": Case(_manifest("[" * 20_000_000)),
    "a manifest that is no JSON": Case(_manifest("\x00")),
    "golden rows of a terabyte": Case(_golden({"shape": [2**40, 3]})),
    "golden rows of negative shape": Case(_golden({"shape": [-1, -3]})),
    "golden rows that lie": Case(_lying, opens=True),
    "two formats in one file": Case(_two_formats),
    "two formats with golden rows to match": Case(_golden_rows_of_two_formats),
    "a field that nobody knows": Case(lambda _: resealed(model_of(DEMO), more=b"\xfa\x7f\x04evil")),
    "a graph in two parts": Case(_several_graphs),
    "a zip after its end": Case(lambda _: DEMO + b"PK\x05\x06" + bytes(18)),
    "cut short": Case(lambda _: DEMO[:-1]),
    "one bit flipped": Case(lambda _: DEMO[:200] + bytes([DEMO[200] ^ 1]) + DEMO[201:]),
    "a pickle": Case(lambda folder: b"cos\nsystem\n(S'rm " + str(folder / "canary").encode() + b"'\ntR."),
    "nothing": Case(lambda _: b""),
}


def tried(door: str, data: bytes) -> tuple[str, str]:
    """What a door says of an artefact: the name of the refusal and its sentence, or what it took it for."""
    try:
        if door == "open":
            return "opened", repr(open_artefact(data))
        if door == "verify":
            report = verify(data)
            failed = next((check for check in report.checks if not check.passed), None)
            return (type(report).__name__, failed.found) if failed is not None else ("opened", repr(report))
        with ThreadPoolExecutor(1) as pool:
            return "opened", repr(load_version(data, None, pool))
    except (ArtefactError, VersionRefused) as error:
        return type(error).__name__, str(error)


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one of them at one door, and what it took."""

    name: str
    outcome: str
    message: str
    seconds: float
    mib: int

    @property
    def contained(self) -> bool:
        """Whether the process that tried it said what it found, soon and without taking much."""
        return self.outcome not in ("died", "escaped") and self.seconds < PATIENCE_S and self.mib < MEMORY >> 20


class Attempts:
    """All of them tried at some doors, by one process each."""

    def __init__(self, folder: Path, doors: tuple[str, ...]) -> None:
        self._canaries = [folder / door / "canary" for door in doors]
        self._fates: dict[tuple[str, str], Fate] = {}
        for door in doors:
            (folder / door / "served").mkdir(parents=True)
            (folder / door / "canary").write_bytes(CANARY)
            words = [sys.executable, "-m", "tests.hostile", door, str(folder / door)]
            ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
            for line in ran.stdout.splitlines():
                fate = Fate(**json.loads(line))
                self._fates[door, fate.name] = fate

    def at(self, door: str, name: str) -> Fate:
        """What became of one; one that was never reached died with the process."""
        return self._fates.get((door, name)) or Fate(name, outcome="died", message="with all others", seconds=0, mib=0)

    def canary_lives(self) -> bool:
        """Whether nothing was written: the canary is whole, and only the links to it were added."""
        found = {path.name for canary in self._canaries for path in canary.parent.rglob("*")}
        return found <= {"canary", "served", "symlink", "hardlink"} and all(
            canary.read_bytes() == CANARY for canary in self._canaries
        )


def apart(door: str, name: str, folder: Path) -> Fate:
    """Try an artefact in a process of its own, with a bound on its memory and on our patience."""
    data = CASES[name].make(folder)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        already = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (already + MEMORY, already + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            said = tried(door, data)
        except BaseException as error:  # noqa: BLE001
            said = "escaped", f"{type(error).__name__}: {error}"
        os.write(writing, json.dumps([said[0], said[1][:300]]).encode())
        os._exit(0)
    os.close(writing)
    began = time.monotonic()
    if not select.select([reading], [], [], PATIENCE_S)[0]:
        os.kill(child, signal.SIGKILL)
    told = os.read(reading, 4096)
    os.close(reading)
    _, status, used = os.wait4(child, 0)
    outcome, message = json.loads(told) if told else ("died", f"status {status}")
    return Fate(name, outcome, message, seconds=time.monotonic() - began, mib=used.ru_maxrss // 1024)


def main(door: str, folder: Path) -> None:
    """Try every artefact at one door."""
    # A loop without end is ended after a while; nobody has to wait for so long here.
    service.versions.engine._LOAD_DEADLINE_S = 0.5
    vars(export.verify)["Session"] = partial(Session, deadline_s=0.5)
    os.chdir(folder / "served")
    for name in CASES:
        sys.stdout.write(json.dumps(asdict(apart(door, name, folder))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
