"""The file: nothing that was altered, or that may not be served, is opened."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.spec import Golden, Manifest, Statistics, Tensor
from export.spec.artefact import SIZE_CAP, Artefact, model_of, open_artefact, seal
from export.spec.errors import ArtefactError, DigestMismatch, ManifestInvalid, NotAnArtefact, StructureRefused
from export.tabular import tabular
from export.trained import About
from export.write import build


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    """A small artefact."""
    return build(tabular(np.eye(4), "0" * 64), About(name="eye", version="1"))


def test_single_flipped_bits_are_all_refused(artefact: Artefact) -> None:
    """Not one of 4000 files with one bit flipped is opened."""
    generator = np.random.default_rng(0)
    opened = 0

    for _ in range(4000):
        at = int(generator.integers(len(artefact.data) * 8))
        altered = bytearray(artefact.data)
        altered[at // 8] ^= 1 << at % 8
        try:
            open_artefact(bytes(altered))
            opened += 1
        except ArtefactError:
            pass

    assert opened == 0


@pytest.mark.parametrize(
    "change",
    [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d + d, lambda _: b"", lambda d: d[64:]],
)
def test_cut_and_lengthened_files_are_refused(artefact: Artefact, change: Callable[[bytes], bytes]) -> None:
    """A file that is shorter or longer is not the one that was sealed."""
    with pytest.raises(ArtefactError):
        open_artefact(change(artefact.data))


def test_the_digest_survives_a_round_trip(artefact: Artefact) -> None:
    """Opening, and sealing what was opened once more, gives the same digest and bytes."""
    again = seal(model_of(artefact.data), artefact.manifest)

    assert again == artefact.data
    assert open_artefact(again).digest == artefact.digest
    assert Manifest.model_validate_json(artefact.manifest.text()) == artefact.manifest


def test_a_file_of_others_is_refused(artefact: Artefact) -> None:
    """A model without a digest, or with two, is none of ours."""
    model = model_of(artefact.data)
    del model.metadata_props[:]

    with pytest.raises(NotAnArtefact, match=r"has 0 policy\.digest entries"):
        open_artefact(model.SerializeToString())
    with pytest.raises(NotAnArtefact, match="not an ONNX model"):
        model_of(b"\xff\xff")
    with pytest.raises(StructureRefused, match="expected at most"):
        open_artefact(bytes(SIZE_CAP + 1))


def test_an_altered_digest_says_so(artefact: Artefact) -> None:
    """The message names both digests."""
    with pytest.raises(DigestMismatch, match="it was altered after it was sealed"):
        open_artefact(artefact.data.replace(artefact.digest.encode(), b"f" * 64))


def _tensor(shape: tuple[int, ...], dtype: str = "float32") -> Tensor:
    return Tensor.of(np.zeros(shape, dtype=dtype))


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"golden": Golden(inputs={}, outputs={})}, r"golden\.inputs\.obs is missing, expected int64"),
        (
            {"golden": Golden(inputs={"obs": _tensor((3, 1))}, outputs={"q_values": _tensor((3, 4))})},
            r"golden\.inputs\.obs is float32\[3, 1\], expected int64\[3, 1\]",
        ),
        (
            {"golden": Golden(inputs={"obs": _tensor((3, 1), "int64")}, outputs={"q_values": _tensor((2, 4))})},
            r"golden\.outputs\.q_values is float32\[2, 4\], expected float32\[3, 4\]",
        ),
        (
            {
                "golden": Golden(
                    inputs={"obs": Tensor(dtype="int64", shape=(3, 1), data="AAAA")},
                    outputs={"q_values": _tensor((3, 4))},
                )
            },
            "cannot be decoded",
        ),
        (
            {"statistics": Statistics(count=1, mean=(0, 0), std=(1,), probabilities=(0.5,), quantiles=((0,),))},
            "statistics are not of 1 numbers",
        ),
        (
            {"statistics": Statistics(count=1, mean=(0,), std=(1,), probabilities=(0.5,), quantiles=((0, 1),))},
            "quantiles are not 1 each",
        ),
        (
            {"statistics": Statistics(count=1, mean=(0,), std=(1,), probabilities=(), quantiles=((),), scores=(1, 2))},
            "scores are not 11 in ascending order, or none",
        ),
        (
            {
                "statistics": Statistics(
                    count=1, mean=(0,), std=(1,), probabilities=(), quantiles=((),), scores=(*range(10), 1)
                )
            },
            "scores are not 11 in ascending order, or none",
        ),
    ],
)
def test_numbers_that_do_not_fit_the_spaces_are_refused(
    artefact: Artefact, update: dict[str, object], message: str
) -> None:
    """Golden rows and statistics are of the shapes that the spaces say, so that nobody has to look again."""
    with pytest.raises(ManifestInvalid, match=message):
        seal(model_of(artefact.data), artefact.manifest.model_copy(update=update))


def test_golden_rows_that_are_nan_are_refused(artefact: Artefact) -> None:
    """NaN is equal to nothing, so it can prove nothing."""
    nan = Tensor.of(np.full((1, 4), np.nan, dtype=np.float32))
    golden = Golden(inputs={"obs": _tensor((1, 1), "int64")}, outputs={"q_values": nan})

    with pytest.raises(ManifestInvalid, match="holds NaN"):
        seal(model_of(artefact.data), artefact.manifest.model_copy(update={"golden": golden}))


def _random(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("RandomUniform", [], ["noise"], shape=[1]))


def _domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def _external(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def _second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch"]))


def _fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def _renamed(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "values"
    for node in model.graph.node:
        node.output[:] = ["values" if name == "q_values" else name for name in node.output]
        node.input[:] = ["values" if name == "q_values" else name for name in node.input]


def _function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Abs", ["x"], ["y"])
    model.functions.append(helper.make_function("local", "Mine", ["x"], ["y"], [node], model.opset_import))


def _hidden_in_branch(model: onnx.ModelProto) -> None:
    body = helper.make_graph(
        [helper.make_node("RandomNormal", [], ["drawn"], shape=[1])],
        "body",
        [],
        [helper.make_tensor_value_info("drawn", TensorProto.FLOAT, [1])],
    )
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    model.graph.node.append(helper.make_node("If", ["yes"], ["taken"], then_branch=body, else_branch=body))


def _sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def _sparse_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.add(name="odd").sparse_tensor.dims.append(1)


def _external_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.add(name="odd").t.data_location = TensorProto.EXTERNAL


def _opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 19


def _dangling(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


def _training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.name = "more"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_random, "RandomUniform is not on the list"),
        (_domain, "operator domain 'com.example'"),
        (_external, "keeps its data outside the file"),
        (_second_input, "has an input 'more'"),
        (_fixed_batch, r"expected INT64\[batch, 1\]"),
        (_renamed, r"outputs are \[values, action\], expected one named 'q_values'"),
        (_function, "1 local functions"),
        (_hidden_in_branch, "RandomNormal is not on the list"),
        (_sparse, "sparse initializers"),
        (_sparse_attribute, "is a sparse tensor"),
        (_external_attribute, "keeps its data outside the file"),
        (_opset, "operator sets"),
        (_dangling, "not valid ONNX"),
        (_training, "training graph"),
    ],
)
def test_graphs_that_may_not_be_served_are_refused(
    artefact: Artefact, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    """Only one self-contained graph of known operators, with the manifest's inputs and outputs, becomes an artefact."""
    model = model_of(artefact.data)
    change(model)

    with pytest.raises(StructureRefused, match=message):
        seal(model, artefact.manifest)


def test_a_status_line_says_which_policy_it_is(artefact: Artefact) -> None:
    """``repr`` names policy, digest and size."""
    assert repr(artefact).startswith(f"<Artefact eye-1 {artefact.digest[:12]} ")
    assert not artefact.loops
