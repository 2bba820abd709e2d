"""What a graph may hold: the refusals one by one, and that nothing that policies are made of is among them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.spec.artefact import model_of
from export.spec.contents import DEPTH, LARGEST, NODES, check_contents, check_spelling
from export.spec.errors import NotAnArtefact, StructureRefused
from tests import artefacts

BUNDLED = Path(__file__).resolve().parents[2] / "policies" / "autoscaler-1.onnx"
node = helper.make_node
WEIGHTS = np.ones((3, 2), np.float32)


def graph(nodes: Sequence[NodeProto], **constants: np.ndarray) -> onnx.ModelProto:
    """A model over obs[batch, 3] that gives ``out``; of which shape is left to see."""
    out = onnx.ValueInfoProto(name="out")
    out.type.tensor_type.elem_type = TensorProto.FLOAT
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    inputs = [helper.make_tensor_value_info("obs", TensorProto.FLOAT, ["batch", 3])]
    made = helper.make_graph(nodes, "policy", inputs, [out], initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])


def whole(*numbers: int) -> np.ndarray:
    """An array of int64."""
    return np.array(numbers, dtype=np.int64)


@pytest.mark.parametrize(
    "data",
    [
        BUNDLED.read_bytes(),
        artefacts.demo(),
        artefacts.table(np.eye(4)),
        artefacts.image(),
        artefacts.looping(np.eye(3)),
        artefacts.not_a_number(np.eye(3)),
    ],
    ids=["bundled", "linear", "table", "image", "loop", "not a number"],
)
def test_sound_artefacts_pass(data: bytes) -> None:
    """What we make ourselves is spelled in the one way, and holds nothing odd."""
    model = model_of(data)

    check_spelling(model, data)
    check_contents(model)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("Where", ["yes", "obs", "never"], ["out"])], {"yes": np.array([True]), "never": np.float32(-np.inf)}),
        ([node("Max", ["obs", "low"], ["out"])], {"low": np.array([-1, -np.inf, 0], np.float32)}),
        ([node("Max", ["obs", "low"], ["out"])], {"low": np.array([[-1, -np.inf, 0]], np.float32)}),
        ([node("Where", ["yes", "obs", "none"], ["out"])], {"yes": np.array([True]), "none": np.float32(np.nan)}),
        ([node("Div", ["obs", "scale"], ["out"])], {"scale": np.array([0, -1, 2], np.float32)}),
        (
            [node("Cast", ["obs"], ["n"], to=7), node("Mod", ["n", "k"], ["m"]), node("Cast", ["m"], ["out"], to=1)],
            {"k": whole(4)},
        ),
        (
            [node("Cast", ["obs"], ["n"], to=7), node("OneHot", ["n", "depth", "values"], ["out"])],
            {"depth": whole(3), "values": np.array([0, 1], np.float32)},
        ),
        ([node("Split", ["obs"], ["out", "b"], axis=1, num_outputs=2)], {}),
        ([node("Clip", ["obs", "", "high"], ["out"])], {"high": np.float32(1)}),
    ],
)
def test_what_policies_do_passes(nodes: list[NodeProto], constants: dict[str, np.ndarray]) -> None:
    """Bounds that are open, masks, "no answer", divisions by numbers, one-hot rows, an optional input left out."""
    check_contents(graph(nodes, **constants))


def _body(output: str, *nodes: NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "body", [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])


def _deep(depth: int) -> NodeProto:
    inner = _deep(depth - 1) if depth > 1 else node("Identity", ["obs"], ["taken"])
    return node("If", ["yes"], ["taken"], then_branch=_body("taken", inner), else_branch=_body("taken", inner))


def _hidden() -> onnx.ModelProto:
    """A model with a NaN in the branch of an If."""
    body = _body("c", node("Constant", [], ["c"], value=numpy_helper.from_array(WEIGHTS * np.nan)))
    return graph([node("If", ["yes"], ["out"], then_branch=body, else_branch=body)], yes=np.array(True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: graph([node("MatMul", ["obs", "w"], ["out"])], w=WEIGHTS * np.nan), "tensor 'w' holds NaN"),
        (lambda: graph([node("MatMul", ["obs", "w"], ["out"])], w=WEIGHTS * np.inf), "holds infinities"),
        (lambda: graph([node("Identity", ["w"], ["out"])], w=np.array(["a"], object)), "'w' is of STRING"),
        (lambda: graph([node("Identity", ["obs"], ["out"])], obs=WEIGHTS), "'obs' is a constant and an input"),
        (
            lambda: graph([node("Constant", [], ["out"], value_floats=[1.0, float("nan")])]),
            "'value_floats' of Constant holds NaN",
        ),
        (_hidden, "'value' of Constant holds NaN"),
        (lambda: graph([node("Identity", ["obs"], [f"n{i}"]) for i in range(NODES + 1)]), "has 10001 nodes"),
        (lambda: graph([_deep(DEPTH)], yes=np.array(True)), "nested more than 8 deep"),
        (lambda: graph([node("Expand", ["obs", "n"], ["out"])], n=whole(1 << 20, 1 << 20, 3)), "too many to serve"),
        (
            lambda: graph(
                [node("Expand", ["one", "n"], [f"n{i}"]) for i in range(5)], one=WEIGHTS[:1, 0], n=whole(LARGEST)
            ),
            "too many to serve",
        ),
        (lambda: graph([node("Max", ["obs", "", "obs"], ["out"])]), "Max leaves an input out"),
        (lambda: graph([node("Split", ["obs"], ["out"], axis=1, num_outputs=2)]), "Split says 2 outputs and has 1"),
        (
            lambda: graph([node("GatherND", ["obs", "i"], ["out"], batch_dims=-1)], i=whole(0)),
            "batch_dims -1, expected 0 or more",
        ),
        (
            lambda: graph([node("OneHot", ["obs", "d", "v"], ["out"])], d=whole(), v=np.zeros(2, np.float32)),
            r"depth of shape \(0,\)",
        ),
        (
            lambda: graph([node("OneHot", ["obs", "d", "v"], ["out"])], d=whole(3), v=np.zeros(1, np.float32)),
            r"values of shape \(1,\)",
        ),
        (
            lambda: graph(
                [node("Cast", ["obs"], ["n"], to=6), node("Div", ["k", "n"], ["out"])], k=np.array(1, np.int32)
            ),
            "Div divides whole numbers by 'n'",
        ),
        (
            lambda: graph([node("Constant", [], ["m"], value_int=-1), node("Div", ["k", "m"], ["out"])], k=whole(1)),
            "Div divides whole numbers by 'm'",
        ),
    ],
)
def test_what_no_policy_does_is_refused(make: Callable[[], onnx.ModelProto], message: str) -> None:
    """Each by its own sentence."""
    with pytest.raises(StructureRefused, match=message):
        check_contents(make())


def test_one_file_has_one_spelling() -> None:
    """Fields that nobody knows and parts told twice are more than the model."""
    data = artefacts.demo()
    twice = data + onnx.ModelProto(producer_name="more").SerializeToString()

    for altered in (data + b"\xfa\x7f\x04evil", twice):
        with pytest.raises(NotAnArtefact, match="holds more than its model"):
            check_spelling(model_of(altered), altered)
    with pytest.raises(NotAnArtefact, match="ONNX Runtime's own format"):
        check_spelling(model_of(data), data[:4] + b"ORTM" + data[8:])
