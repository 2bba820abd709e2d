"""Small real artefacts with more inputs and outputs than one observation and one head: parts, masks, memory, spread."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.spec import Array, Dict, Discrete, Entry, Field, Fields, Golden, Manifest, Memory, Parity, Port, Source
from export.spec import Tensor as Text
from export.spec.artefact import seal
from tests.artefacts import ACTIONS, BIAS, FIELDS, OPSET, WEIGHTS

ROWS = 16
KEEP, INITIAL, PER_STEP = 0.5, 0.25, 0.01
VECTOR = Fields(fields=(Field(name="cpu", low=0, high=1), Field(name="replicas", low=1)))
PARTS = Dict(
    entries=(
        Entry(key="image", space=Array(shape=(2, 3), dtype="uint8", low=0, high=255)),
        Entry(key="state", space=VECTOR),
        Entry(key="lidar/front", space=Array(shape=(2,), dtype="float64")),
        Entry(key="zone", space=Array(shape=(1,), dtype="int64", low=0, high=4)),
    )
)
_TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}
_LINEAR = {"weights": WEIGHTS.astype(np.float32), "bias": BIAS.astype(np.float32)}


def recurrent(*, version: str = "1", memory: int = 3, fails: bool = False, wrong: str = "") -> bytes:
    """A policy that answers to a fading trace of all it saw and to how many steps it took: order and sessions matter.

    ``trace' = trace / 2 + obs`` from 0.25, ``steps' = steps + 1`` from 0, and ``q = trace'[:3] @ WEIGHTS + BIAS`` with
    ``steps' / 100`` for the last action. ``memory`` numbers are kept of which the first three count. With ``fails`` it
    cannot be run where ``queue`` is negative.
    """
    kept = (
        Memory(name="trace", shape=(memory,), initial=INITIAL, meaning="a fading trace of what was observed"),
        Memory(name="steps", shape=(1,), dtype="int64", meaning="steps taken"),
    )
    nodes = [
        helper.make_node("Mul", ["memory.trace.in", "keep"], ["faded"]),
        helper.make_node("Pad", ["obs", "pads"], ["padded"]),
        helper.make_node("Add", ["faded", "padded"], ["memory.trace.out"]),
        helper.make_node("Add", ["memory.steps.in", "one"], ["memory.steps.out"]),
        helper.make_node("Slice", ["memory.trace.out", "start", "three", "axis"], ["trace"]),
        helper.make_node("MatMul", ["trace", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["plain"]),
        helper.make_node("Cast", ["memory.steps.out"], ["taken"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["taken", "per_step"], ["late"]),
        helper.make_node("Add", ["plain", "late"], ["answer" if fails else "q_values"]),
    ]
    constants: dict[str, Any] = {
        **_LINEAR,
        "keep": np.float32(KEEP),
        "pads": np.array([0, 0, 0, memory - 3], dtype=np.int64),
        "one": np.array([1], dtype=np.int64),
        "start": np.array([0], dtype=np.int64),
        "three": np.array([3], dtype=np.int64),
        "axis": np.array([1], dtype=np.int64),
        "per_step": np.array([0, 0, PER_STEP], dtype=np.float32),
    }
    if fails:
        nodes += _guarded("answer", "q_values")
        constants |= {"none": np.zeros(1, np.float32), "nothing": np.int64(0), "two": np.int64(2)}
    return sealed(nodes, constants, observation=FIELDS, memory=kept, version=version, wrong=wrong)


def stepped(trace: np.ndarray, steps: int, observation: Sequence[float]) -> tuple[np.ndarray, np.ndarray, int]:
    """The head, the trace and the steps after one more step of ``recurrent``: the same in NumPy."""
    after = (trace * KEEP + np.array(observation)).astype(np.float32)
    return after @ WEIGHTS + BIAS + np.array([0, 0, PER_STEP]) * (steps + 1), after, steps + 1


def masked(*, version: str = "1") -> bytes:
    """The demo with a mask inside: a masked action's logit is -1e8."""
    nodes = [
        helper.make_node("MatMul", ["obs", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["plain"]),
        helper.make_node("Where", ["action_mask", "plain", "little"], ["logits"]),
    ]
    return sealed(
        nodes, {**_LINEAR, "little": np.float32(-1e8)}, observation=FIELDS, head="logits", mask=True, version=version
    )


def parts() -> bytes:
    """A policy over ``PARTS``: q = [mean of the image, cpu + replicas, sum of the lidar + zone]."""
    nodes = [
        helper.make_node("Cast", ["obs.image"], ["bytes"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["bytes"], ["flat"], axis=1),
        helper.make_node("ReduceMean", ["flat", "axis"], ["seen"], keepdims=1),
        helper.make_node("ReduceSum", ["obs.state", "axis"], ["told"], keepdims=1),
        helper.make_node("ReduceSum", ["obs.lidar/front", "axis"], ["ranged"], keepdims=1),
        helper.make_node("Cast", ["obs.zone"], ["zone"], to=TensorProto.DOUBLE),
        helper.make_node("Add", ["ranged", "zone"], ["placed"]),
        helper.make_node("Cast", ["placed"], ["place"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["seen", "told", "place"], ["q_values"], axis=1),
    ]
    return sealed(nodes, {"axis": np.array([1], dtype=np.int64)}, observation=PARTS)


def failing(*, version: str = "1") -> bytes:
    """The demo, which cannot be run where ``queue`` is negative."""
    nodes = [
        helper.make_node("MatMul", ["obs", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["answer"]),
        *_guarded("answer", "q_values"),
    ]
    more = {"one": np.array([1]), "none": np.zeros(1, np.float32), "nothing": np.int64(0), "two": np.int64(2)}
    return sealed(nodes, {**_LINEAR, **more}, observation=FIELDS, version=version)


def ensemble() -> bytes:
    """The demo with a spread: the first field's absolute value."""
    nodes = [
        helper.make_node("MatMul", ["obs", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["q_values"]),
        helper.make_node("Gather", ["obs", "first"], ["column"], axis=1),
        helper.make_node("Abs", ["column"], ["spread"]),
    ]
    return sealed(nodes, {**_LINEAR, "first": np.array(0, dtype=np.int64)}, observation=FIELDS, spread=True)


def sealed(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, object],
    *,
    version: str = "1",
    wrong: str = "",
    **shaped: Any,
) -> bytes:
    """Seal a graph with the ports that its manifest asks for, and golden rows of its own.

    ``shaped`` is of the manifest; its head is ``q_values`` and its actions are those of the demo unless it says
    otherwise. The golden rows of the output ``wrong`` are not what the graph answers.
    """
    told = {"head": "q_values", "action": Discrete(names=ACTIONS), **shaped}
    draft = Manifest.model_construct(**{"mask": False, "memory": (), "spread": False, "squash": "none", **told})
    model = _model(nodes, constants, draft)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = {port.name: _numbers(port) for port in draft.inputs}
    names = [port.name for port in draft.outputs]
    outputs = dict(zip(names, session.run(names, inputs), strict=True))
    if wrong:
        outputs[wrong] = outputs[wrong] + outputs[wrong].dtype.type(1)
    manifest = Manifest(
        name="demo",
        version=version,
        family="test",
        golden=Golden(
            inputs={name: Text.of(array) for name, array in inputs.items()},
            outputs={name: Text.of(array) for name, array in outputs.items()},
        ),
        parity=Parity(reference="itself", observations=ROWS, max_abs_error=0, action_agreement=1, tolerance=1e-5),
        opset=OPSET,
        source=Source(library="tests", algorithm="none"),
        **told,
    )
    return seal(model, manifest)


def _model(nodes: Sequence[NodeProto], constants: Mapping[str, object], manifest: Manifest) -> onnx.ModelProto:
    inputs, outputs = ([_value(port) for port in ports] for ports in (manifest.inputs, manifest.outputs))
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "policy", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def _value(port: Port) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(port.name, _TYPES[port.dtype], ["batch", *port.shape])


def _numbers(port: Port) -> np.ndarray:
    """Golden numbers for an input: all actions allowed in the first row, and one of them at least in every other."""
    generator = np.random.default_rng(len(port.name))
    shape = (ROWS, *port.shape)
    if port.dtype == "bool":
        mask: np.ndarray = generator.random(shape) < 0.5
        mask[0] = mask[:, 0] = True
        return mask
    if port.dtype.startswith("float"):
        return generator.random(shape).astype(port.dtype)
    return generator.integers(0, 5, shape).astype(port.dtype)


def _guarded(given: str, result: str) -> list[NodeProto]:
    """Nodes that hand a value on, and cannot be run where any ``queue`` of the batch is negative."""
    return [
        helper.make_node("Gather", ["obs", "one"], ["queue"], axis=1),
        helper.make_node("ReduceMin", ["queue"], ["least"], keepdims=0),
        helper.make_node("Sign", ["least"], ["sign"]),
        helper.make_node("Cast", ["sign"], ["way"], to=TensorProto.INT64),
        # Of a table of one entry, 0 is there; 1 is not, nor is -2: so the sign has to be brought to one of them.
        helper.make_node("Min", ["way", "nothing"], ["index"]),
        helper.make_node("Mul", ["index", "two"], ["far"]),
        helper.make_node("Gather", ["none", "far"], ["zero"], axis=0),
        helper.make_node("Add", [given, "zero"], [result]),
    ]
