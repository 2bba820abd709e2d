"""The file itself: what may not be run, or reaches outside, is refused before anything runs it."""

from pathlib import Path

import onnx
import pytest
from onnx import helper

from export.adopt.original import read_original
from export.adopt.reading import Said
from export.errors import AdoptionRefused
from export.spec.artefact import SIZE_CAP
from tests.export.adopt.files import File, finished, simple


@pytest.mark.parametrize("place", ["weights.bin", "../weights.bin", "/etc/passwd", "link.bin"])
def test_data_outside_the_file_is_refused_unopened(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """External data is refused by its name wherever it is, even where it could be read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 4096)
    (tmp_path / "link.bin").symlink_to(tmp_path / "weights.bin")
    model = simple().model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)

    with pytest.raises(AdoptionRefused, match="keeps its data outside the file"):
        read_original(model.SerializeToString())


def test_data_outside_a_loop_is_found_too() -> None:
    """The bodies of control flow are looked at like the graph itself."""
    model = simple().model()
    tensor = onnx.TensorProto(name="w", data_location=onnx.TensorProto.EXTERNAL)
    body = helper.make_graph([], "body", [], [])
    body.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    model.graph.node.append(helper.make_node("If", ["obs"], ["x"], then_branch=body, else_branch=body))

    with pytest.raises(AdoptionRefused, match="keeps its data outside the file"):
        read_original(model.SerializeToString())


@pytest.mark.parametrize(("operator", "domain"), [("DFT", ""), ("SequenceAt", ""), ("FusedGemm", "com.microsoft")])
def test_operators_that_are_not_known_are_named(operator: str, domain: str) -> None:
    """Operators off the list, ONNX's own and others', are refused by their names."""
    model = simple().model()
    model.graph.node[1].op_type, model.graph.node[1].domain = operator, domain
    model.opset_import.add(domain="com.microsoft", version=1)

    with pytest.raises(AdoptionRefused, match=rf"the operator {domain or 'ai.onnx'}\.{operator} is not"):
        read_original(model.SerializeToString())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no graph"),
        (b"nothing of ONNX", "is not an ONNX model"),
        (b"\0" * (SIZE_CAP + 1), "expected at most"),
    ],
)
def test_what_is_no_model_is_refused(data: bytes, message: str) -> None:
    """Empty, other and too large files are sentences."""
    with pytest.raises(AdoptionRefused, match=message):
        read_original(data)


def test_an_artefact_is_not_adopted_again() -> None:
    """A file that has a manifest keeps it."""
    data = finished(simple().data(), Said()).data

    with pytest.raises(AdoptionRefused, match=r"has a policy\.manifest already"):
        read_original(data)


def test_a_tensor_that_its_bytes_do_not_fill_is_named() -> None:
    """Weights whose shape and bytes do not go together are refused."""
    model = simple().model()
    model.graph.initializer[0].dims[0] = 9

    with pytest.raises(AdoptionRefused, match="the tensor 'c0' cannot be read"):
        read_original(model.SerializeToString())


def test_a_tensor_that_nothing_makes_is_named() -> None:
    """A node that reads what is not there makes the file a damaged one."""
    model = simple().model()
    model.graph.node[1].input[0] = "lost"

    with pytest.raises(AdoptionRefused, match="the node Tanh reads 'lost', which nothing in the file makes"):
        read_original(model.SerializeToString())


def test_nodes_that_go_round_in_circles_are_refused() -> None:
    """A graph is read from its inputs to its outputs, each tensor made before it is read."""
    file = simple()
    file.add("Identity", "behind", out="before")
    file.add("Identity", "before", out="behind")

    with pytest.raises(AdoptionRefused, match="reads 'behind' before it is made"):
        read_original(file.data())


def test_functions_and_training_are_refused() -> None:
    """A file holds one plain graph."""
    model = simple().model()
    model.functions.add(name="own", domain="somebody")

    with pytest.raises(AdoptionRefused, match="functions or a training graph of its own"):
        read_original(model.SerializeToString())


def test_sparse_weights_are_refused() -> None:
    """Weights are dense."""
    model = simple().model()
    model.graph.sparse_initializer.add()

    with pytest.raises(AdoptionRefused, match="sparse initializers"):
        read_original(model.SerializeToString())


def test_initializers_that_are_listed_as_inputs_are_none() -> None:
    """Old files list their weights among the inputs; nobody has to give them."""
    file = simple()
    model = file.model()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))

    original = read_original(model.SerializeToString())

    assert list(original.inputs) == ["obs"]
    assert finished(model.SerializeToString(), Said()).manifest.observation.size == 4


def test_constants_of_every_form_are_read() -> None:
    """A Constant node may hold a tensor, a number or numbers."""
    file = File()
    file.add("Constant", out="one", value_float=0.5)
    file.add("Constant", out="some", value_ints=[1, 2])
    file.add("Identity", "one", out=file.output("told", []))

    found = read_original(file.data())

    assert float(found.constants["one"]) == 0.5
    assert found.constants["some"].tolist() == [1, 2]
    assert found.constant_outputs() == ("told",)
    assert repr(found) == "<Original  -> told, opset 17>"
