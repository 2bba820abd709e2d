"""Small real artefacts for tests, built without torch: a graph, sealed with a manifest and golden rows of its own."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.spec import Array, Discrete, Field, Fields, Golden, Manifest, Parity, Source
from export.spec import Tensor as Text
from export.spec.artefact import seal

OPSET = 18
FOR_EVER = 2**62
_ELEMENTS = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
}

# What most tests serve: scales up where cpu is high, down where it is low; `replicas` is there for the rules.
FIELDS = Fields(
    fields=(Field(name="cpu", unit="1", low=0, high=1), Field(name="queue", low=0), Field(name="replicas", low=1))
)
ACTIONS = ("scale_down", "hold", "scale_up")
WEIGHTS = np.array([[-1.0, 0.0, 1.0], [0.0, 0.0, 0.1], [0.0, 0.0, 0.0]])
BIAS = np.array([0.3, 0.1, -0.3])


def demo(*, version: str = "1") -> bytes:
    """The linear policy that most tests serve: cpu 1 gives ``scale_up``, 0.25 ``hold``, 0 ``scale_down``."""
    return linear(WEIGHTS, BIAS, observation=FIELDS, actions=ACTIONS, version=version)


def linear(
    weights: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    observation: Fields | None = None,
    actions: Sequence[str] | None = None,
    version: str = "1",
) -> bytes:
    """q[N, A] = obs[N, F] @ weights[F, A] + bias[A]."""
    space, names = _spaces(weights, observation, actions)
    return built(_linear("q_values", "obs"), _constants(weights, bias), space, names, version=version)


def not_a_number(
    weights: np.ndarray,
    *,
    observation: Fields | None = None,
    actions: Sequence[str] | None = None,
    version: str = "1",
) -> bytes:
    """A linear policy whose whole row is NaN where the first field is negative (the logarithm of it joins in)."""
    space, names = _spaces(weights, observation, actions)
    nodes = [
        *_linear("plain", "obs"),
        helper.make_node("Gather", ["obs", "zero"], ["first"], axis=1),
        # max(x, 0) would hide the sign: log(min(x, 0) + 1) is 0 from 0 on; under -1 it is NaN, so scale it up.
        helper.make_node("Min", ["first", "nought"], ["under"]),
        helper.make_node("Mul", ["under", "much"], ["far_under"]),
        helper.make_node("Add", ["far_under", "one"], ["inside"]),
        helper.make_node("Log", ["inside"], ["nothing"]),
        helper.make_node("Mul", ["nothing", "nought"], ["nothing_more"]),
        helper.make_node("Add", ["plain", "nothing_more"], ["q_values"]),
    ]
    constants = {
        **_constants(weights, None),
        "zero": np.array([0], dtype=np.int64),
        "nought": np.float32(0),
        "one": np.float32(1),
        "much": np.float32(1e20),
    }
    return built(nodes, constants, space, names, version=version)


def looping(
    weights: np.ndarray,
    *,
    trips: int | None = None,
    observation: Fields | None = None,
    actions: Sequence[str] | None = None,
    version: str = "1",
) -> bytes:
    """A linear policy that first counts to its last field, or to ``trips``: a trip takes about a microsecond.

    The last field's weights should be zero. The whole batch waits for the largest count in it. With ``FOR_EVER`` it
    never ends, also at load.
    """
    space, names = _spaces(weights, observation, actions)
    last = np.array([len(weights) - 1], dtype=np.int64)

    def nodes(constant: int | None) -> list[NodeProto]:
        if constant is None:
            counted = [
                helper.make_node("Gather", ["obs", "last"], ["column"], axis=1),
                helper.make_node("ReduceMax", ["column"], ["largest"], keepdims=0),
                helper.make_node("Cast", ["largest"], ["count"], to=TensorProto.INT64),
            ]
        else:
            counted = [helper.make_node("Identity", ["trips"], ["count"])]
        return [
            *_linear("plain", "obs"),
            *counted,
            helper.make_node("Loop", ["count", "true", "start"], ["end"], body=_counting()),
            helper.make_node("Mul", ["end", "nought"], ["nothing"]),
            helper.make_node("Add", ["plain", "nothing"], ["q_values"]),
        ]

    def constants(constant: int | None) -> dict[str, object]:
        count = {"last": last} if constant is None else {"trips": np.array(constant, dtype=np.int64)}
        more = {"true": np.array(True), "start": np.zeros(1, np.float32), "nought": np.zeros(1, np.float32)}
        return {**_constants(weights, None), **count, **more}

    def quick(inputs: np.ndarray) -> np.ndarray:
        return answered(graph_of(nodes(1), constants(1), space, len(names)), inputs)

    rows = golden_inputs(space)
    rows[:, -1] = np.arange(len(rows)) % 3
    return built(nodes(trips), constants(trips), space, names, version=version, inputs=rows, expected=quick)


def table(values: np.ndarray, *, actions: Sequence[str] | None = None) -> bytes:
    """A tabular policy: one index ``state`` in, the row values[state, A] out."""
    states, count = values.shape
    space = Fields(fields=(Field(name="state", low=0, high=states - 1),), dtype="int64")
    nodes = [
        helper.make_node("Squeeze", ["obs", "one"], ["state"]),
        helper.make_node("Gather", ["values", "state"], ["q_values"], axis=0),
    ]
    constants = {"one": np.array([1], dtype=np.int64), "values": values.astype(np.float32)}
    inputs = (np.arange(16) % states).astype(np.int64)[:, None]
    return built(nodes, constants, space, tuple(actions or _names(count)), inputs=inputs)


def image(shape: tuple[int, ...] = (2, 3, 4), *, count: int = 3) -> bytes:
    """A policy over an array of bytes: the mean of the array times ``[0, 1, 2, ...]``, in the head of a logit net."""
    space = Array(shape=shape, dtype="uint8", low=0, high=255)
    nodes = [
        helper.make_node("Cast", ["obs"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["numbers"], ["flat"], axis=1),
        helper.make_node("ReduceMean", ["flat", "one"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "slope"], ["q_values"]),
    ]
    constants = {"one": np.array([1], dtype=np.int64), "slope": np.arange(count, dtype=np.float32)}
    return built(nodes, constants, space, _names(count))


def built(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, object],
    observation: Fields | Array,
    actions: Sequence[str],
    *,
    version: str = "1",
    inputs: np.ndarray | None = None,
    expected: Callable[[np.ndarray], np.ndarray] | None = None,
) -> bytes:
    """Seal any graph from ``obs`` to ``q_values``; its golden rows are what ONNX Runtime, or ``expected``, answers."""
    model = graph_of(nodes, constants, observation, len(actions))
    golden = golden_inputs(observation) if inputs is None else inputs.astype(observation.dtype)
    outputs = answered(model, golden) if expected is None else expected(golden)
    manifest = Manifest(
        name="demo",
        version=version,
        family="dqn",
        head="q_values",
        observation=observation,
        action=Discrete(names=tuple(actions)),
        golden=Golden(inputs={"obs": Text.of(golden)}, outputs={"q_values": Text.of(outputs)}),
        parity=Parity(
            reference="itself", observations=len(golden), max_abs_error=0, action_agreement=1, tolerance=1e-5
        ),
        opset=OPSET,
        source=Source(library="tests", algorithm="none"),
    )
    return seal(model, manifest)


def graph_of(
    nodes: Sequence[NodeProto], constants: Mapping[str, object], observation: Fields | Array, count: int
) -> onnx.ModelProto:
    """The model of a graph from ``obs[batch, ...]`` to ``q_values[batch, count]``."""
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("obs", _ELEMENTS[observation.dtype], ["batch", *observation.shape])],
        [helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", count])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def answered(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    """What ONNX Runtime answers: q_values[N, A] as float32."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: np.ndarray = session.run(["q_values"], {"obs": inputs})[0]
    return outputs


def golden_inputs(observation: Fields | Array, rows: int = 16) -> np.ndarray:
    """Numbers[rows, ...] from 0 to 1, or bytes, that every policy here can answer."""
    generator = np.random.default_rng(0)
    shape = (rows, *observation.shape)
    if observation.dtype in ("float32", "float64"):
        return generator.random(shape).astype(observation.dtype)
    return generator.integers(0, 2, shape).astype(observation.dtype)


def _spaces(
    weights: np.ndarray, observation: Fields | None, actions: Sequence[str] | None
) -> tuple[Fields, tuple[str, ...]]:
    space = observation or Fields(fields=tuple(Field(name=f"x{i}") for i in range(len(weights))))
    return space, tuple(actions or _names(weights.shape[1]))


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"a{i}" for i in range(count))


def _linear(output: str, observation: str) -> list[NodeProto]:
    return [
        helper.make_node("MatMul", [observation, "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], [output]),
    ]


def _constants(weights: np.ndarray, bias: np.ndarray | None) -> dict[str, np.ndarray]:
    added = np.zeros(weights.shape[1]) if bias is None else bias
    return {"weights": weights.astype(np.float32), "bias": added.astype(np.float32)}


def _counting() -> onnx.GraphProto:
    """The body of a loop that only counts: (trip, go on, number) -> (go on, number + 1)."""
    return helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_after"]),
            helper.make_node("Add", ["number", "step"], ["number_after"]),
        ],
        "counting",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("number", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("go_on_after", TensorProto.BOOL, []),
            helper.make_tensor_value_info("number_after", TensorProto.FLOAT, [1]),
        ],
        [numpy_helper.from_array(np.full(1, 1e-9, np.float32), "step")],
    )


__all__ = [
    "ACTIONS",
    "BIAS",
    "FIELDS",
    "FOR_EVER",
    "WEIGHTS",
    "answered",
    "built",
    "demo",
    "golden_inputs",
    "graph_of",
    "image",
    "linear",
    "looping",
    "not_a_number",
    "table",
]
