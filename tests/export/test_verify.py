"""Verifying: each promise of a file is tried, and a broken one is named."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.spec import Golden, Parity, Tensor
from export.spec.artefact import Artefact, model_of, seal
from export.tabular import tabular
from export.trained import About
from export.verify import Report, verify
from export.write import build

TABLE = np.random.default_rng(0).normal(size=(40, 3))


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    """A small artefact."""
    return build(tabular(TABLE, "0" * 64), About(name="table", version="1"))


def failed(report: Report) -> list[str]:
    """Name the checks that failed."""
    return [check.name for check in report.checks if not check.passed]


def test_a_good_file_passes_every_check(artefact: Artefact) -> None:
    """The checks come in order and all hold."""
    report = verify(artefact.data)

    names = ["digest", "manifest", "structure", "golden rows", "determinism", "batch independence"]
    assert [check.name for check in report.checks] == names
    assert report.passed
    assert repr(report) == "<Report OK 6/6>"


def test_an_altered_file_fails_at_its_digest(artefact: Artefact) -> None:
    """Nothing else is tried on bytes that are not those that were sealed."""
    report = verify(artefact.data[:-1] + bytes([artefact.data[-1] ^ 1]))

    assert len(report.checks) == 1
    assert not report.passed
    assert report.artefact is None


def test_golden_rows_that_are_not_reproduced_fail(artefact: Artefact) -> None:
    """A sealed file whose weights are others than those of its golden rows is found out."""
    model = model_of(artefact.data)
    table = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [40, 3])
    table.raw_data = (TABLE * 1.001).astype(np.float32).tobytes()

    assert failed(verify(seal(model, artefact.manifest))) == ["golden rows"]


def test_other_actions_than_the_golden_ones_fail(artefact: Artefact) -> None:
    """The output ``action`` is compared too."""
    golden = artefact.manifest.golden
    action = Tensor.of((golden.outputs["action"].array().astype(np.int64) + 1) % 3)
    changed = Golden(inputs=golden.inputs, outputs=golden.outputs | {"action": action})
    manifest = artefact.manifest.model_copy(update={"golden": changed})

    assert failed(verify(seal(model_of(artefact.data), manifest))) == ["golden rows"]


def test_rows_that_depend_on_their_batch_fail(artefact: Artefact) -> None:
    """A graph that looks at the other rows of its batch is found out."""
    model = model_of(artefact.data)
    for node in model.graph.node:
        node.output[:] = ["inner" if name == "q_values" else name for name in node.output]
        node.input[:] = ["inner" if name == "q_values" else name for name in node.input]
    model.graph.initializer.append(helper.make_tensor("rows", TensorProto.INT64, [1], [0]))
    model.graph.node.append(helper.make_node("ReduceMean", ["inner", "rows"], ["mean"], keepdims=1))
    model.graph.node.append(helper.make_node("Add", ["inner", "mean"], ["q_values"]))

    assert failed(verify(seal(model, artefact.manifest))) == ["golden rows", "batch independence"]


def test_a_graph_that_the_runtime_does_not_take_fails(artefact: Artefact) -> None:
    """What is valid ONNX but cannot be loaded or run is a failed check, not a traceback."""
    model: onnx.ModelProto = model_of(artefact.data)
    model.graph.node.append(helper.make_node("Add", ["obs", "q_values"], ["nonsense"]))

    report = verify(seal(model, artefact.manifest))

    assert failed(report) == ["runtime"]
    assert "cannot load the graph" in report.checks[-1].found


def test_closeness_is_measured_at_the_heads_scale() -> None:
    """An error counts against the larger of the row's and the policy's ordinary magnitude; NaN is close to nothing."""
    parity = Parity(reference="", observations=1, max_abs_error=0, action_agreement=1, tolerance=1e-5, scale=10.0)
    expected = np.array([[1.0, 2.0], [1000.0, 0.0], [1.0, 2.0], [1.0, 2.0]])
    found = expected + np.array([[9e-5, 0], [9e-3, 0], [2e-4, 0], [np.nan, 0]])

    assert parity.close(expected, found).tolist() == [True, True, False, False]
