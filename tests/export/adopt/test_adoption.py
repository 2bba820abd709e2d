"""Adoption: real files of other exporters answer as before, under our names; what cannot be proved is refused."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest

from export.adopt.adoption import adopt
from export.adopt.reading import Said
from export.errors import AdoptionRefused, OptionInvalid, ParityFailed
from export.spec import Box, Dict, Discrete, Fields
from export.spec.artefact import open_artefact
from export.write import finish
from tests.export.adopt.files import ABOUT, REAL, SHARED, File, answered, finished, rows, simple

MEAN = Said(head="mean")


def original(data: bytes, *exposed: str) -> onnxruntime.InferenceSession:
    """Load a file as it is, showing some of its inner tensors."""
    model = onnx.load_model_from_string(data)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in exposed)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@REAL
def test_continuous_actions_of_ml_agents_are_a_gaussian() -> None:
    """3DBall: mean and std are found before the draw, and the action is what the file calls deterministic."""
    data = (SHARED / "mlagents_3DBall.onnx").read_bytes()
    seen = rows(1000, 8) * 3

    artefact = finished(data, Said())
    found = answered(artefact, {"obs": seen})

    told = original(data).run(["deterministic_continuous_actions"], {"obs_0": seen})[0]
    assert np.abs(found["action"] - told).max() <= 1e-5
    assert (found["std"] > 0).all()
    assert artefact.manifest.head == "gaussian"
    assert isinstance(artefact.manifest.action, Box)
    assert (artefact.manifest.action.low, artefact.manifest.action.high) == ((-1.0, -1.0), (1.0, 1.0))
    assert artefact.manifest.parity.observations >= 1000


@REAL
def test_a_recurrent_masked_policy_of_ml_agents_keeps_its_memory() -> None:
    """Hallway: over 100 steps and eight episodes at once, logits and memory are those of the file, row by row."""
    data = (SHARED / "mlagents_Hallway_recurrent.onnx").read_bytes()
    session, drawn = original(data, "72"), np.random.default_rng(0)

    artefact = finished(data, Said())
    ours, theirs = np.zeros((8, 1, 128), np.float32), np.zeros((8, 1, 128), np.float32)
    worst = 0.0
    for step in range(100):
        first, second = rows(8, 105, seed=step), rows(8, 3, seed=-step + 1000)
        mask = drawn.random((8, 5)) < 0.7
        mask[:, 2] = True
        inputs = {"obs.obs_0": first, "obs.obs_1": second, "action_mask": mask, "memory.recurrent.in": ours}
        found = answered(artefact, inputs)
        for row in range(8):
            given = {"obs_0": first, "obs_1": second, "action_masks": mask.astype(np.float32), "recurrent_in": theirs}
            alone = {name: array[row : row + 1] for name, array in given.items()}
            logits, carried = session.run(["72", "recurrent_out"], alone)
            worst = max(worst, float(np.abs(found["logits"][row] - logits[0])[mask[row]].max()))
            theirs[row] = carried[0]
        ours = found["memory.recurrent.out"]

    assert worst <= 1e-5
    assert np.abs(ours - theirs).max() <= 1e-5
    assert (found["logits"][~mask] == -1e8).all()
    assert artefact.manifest.parity.steps == 100
    assert [port.name for port in artefact.manifest.inputs] == list(inputs)


@REAL
def test_what_godot_calls_output_is_what_is_said() -> None:
    """JumperHard: with --head logits its output is the logits; the state that nothing reads is gone."""
    data = (SHARED / "godot_JumperHard.onnx").read_bytes()
    seen = rows(1000, 152)

    artefact = finished(data, Said(head="logits"))
    found = answered(artefact, {"obs": seen})

    told = original(data).run(["output"], {"obs": seen, "state_ins": np.zeros(1000, np.float32)})[0]
    assert np.abs(found["logits"] - told).max() <= 1e-5
    assert np.array_equal(found["action"], told.argmax(axis=1))
    assert artefact.manifest.memory == ()


@REAL
def test_a_damaged_file_is_refused_by_what_is_missing() -> None:
    """Outputs that no node makes are named."""
    data = (SHARED / "BROKEN_mlagents_deterDiscrete.onnx").read_bytes()

    with pytest.raises(AdoptionRefused, match="no node makes 'memory_size', 'discrete_action_output_shape'"):
        adopt(data, Said())


@pytest.mark.parametrize("opset", [9, 11, 13, 20])
def test_old_operator_sets_are_brought_up(opset: int) -> None:
    """Files before operator set 13 become 20, others keep theirs; the answers stay."""
    artefact = finished(simple(opset=opset).data(), Said())

    assert artefact.manifest.opset == (20 if opset < 13 else opset)


def test_nobodys_paths_stay_in_the_file() -> None:
    """Documentation, metadata, names of nodes and tensors that are places: none is in what is written."""
    model = simple().model()
    model.doc_string = "made in /home/somebody/work"
    model.metadata_props.add(key="run_path", value="/home/somebody/runs/7")
    model.graph.node[0].doc_string = "/home/somebody/train.py(12)"
    model.graph.node[1].input[0] = model.graph.node[0].output[0] = "/home/somebody/hidden"

    artefact = finished(model.SerializeToString(), Said())

    assert not re.search(rb"somebody|/home|place", artefact.data)
    assert open_artefact(artefact.data) == artefact


def test_outputs_that_are_constants_are_dropped() -> None:
    """What a file says about itself is no output of the policy's, and does not compete for being the head."""
    file = simple(output="values")
    file.tell("step_dt", [0.02])

    model = adopt(file.data(), Said(head="q_values")).model

    assert [value.name for value in model.graph.output] == ["q_values", "action"]


def test_observations_are_named_by_their_inputs() -> None:
    """Trap 14: several observations are the parts of a Dict by the file's own names, whatever their order."""
    file = File()
    right, left = file.input("right", ["batch", 2]), file.input("left", ["batch", 3])
    joined = file.add("Concat", left, right, axis=1)
    file.network(joined, 5, 2, out=file.output("logits", ["batch", 2]))

    artefact = finished(file.data(), Said(head="logits"))

    space = artefact.manifest.observation
    assert isinstance(space, Dict)
    assert [entry.key for entry in space.entries] == ["right", "left"]
    a, b = rows(50, 2), rows(50, 3)
    told = original(file.data()).run(None, {"left": b, "right": a})[0]
    assert np.abs(answered(artefact, {"obs.left": b, "obs.right": a})["logits"] - told).max() <= 1e-5


def test_the_head_travels_beside_the_action() -> None:
    """Trap 16: there is the deterministic action and what others are drawn from."""
    found = answered(finished(simple(output="out").data(), Said(head="logits")), {"obs": rows(20, 4)})

    assert np.array_equal(found["action"], found["logits"].argmax(axis=1))


@pytest.mark.parametrize(
    ("dtype", "ours"), [("float64", "float64"), ("int32", "int64"), ("int64", "int64"), ("float16", "float32")]
)
def test_inputs_of_other_types_are_cast(dtype: str, ours: str) -> None:
    """Trap 20: the file's own type stays where the manifest knows it; else one cast stands inside the graph."""
    file = File()
    given = file.input("obs", ["batch", 4], dtype)
    work = "float64" if dtype == "float64" else "float32"
    kind = onnx.TensorProto.DOUBLE if work == "float64" else onnx.TensorProto.FLOAT
    found = file.linear(file.add("Cast", given, to=kind), 4, 3, dtype=work)
    file.add("Identity", found, out=file.output("q", ["batch", 3], work))
    seen = (rows(40, 4) * 5).astype(ours)

    artefact = finished(file.data(), Said(head="q_values"))

    told = original(file.data()).run(None, {"obs": seen.astype(dtype)})[0]
    assert artefact.manifest.inputs[0].dtype == ours
    assert np.abs(answered(artefact, {"obs": seen})["q_values"] - told).max() <= 1e-5 * np.abs(told).max()


def fixed(batch: int, shape: list[int]) -> File:
    """Give a file that holds its batch size in a constant shape, as tracing leaves it."""
    file = File()
    given = file.input("obs", [batch, 4])
    flat = file.add("Reshape", file.linear(given, 4, 6), file.constant(shape, "int64"))
    file.network(flat, 6, 3, out=file.output("actions", [batch, 3]))
    return file


@pytest.mark.parametrize("shape", [[1, 6], [1, -1], [-1, 6]])
def test_a_fixed_batch_is_opened(shape: list[int]) -> None:
    """A batch of one that tracing left in declarations and in constant shapes becomes any batch."""
    data = fixed(1, shape).data()
    seen = rows(64, 4)

    found = answered(finished(data, Said()), {"obs": seen})

    session = original(data)
    told = np.concatenate([session.run(None, {"obs": row[None]})[0] for row in seen])
    assert np.abs(found["mean"] - told).max() <= 1e-5


def test_a_fixed_batch_of_thirty_two_is_opened() -> None:
    """Trap 23: a batch size of training that was folded into the file, rows of it being independent."""
    data = fixed(32, [32, 6]).data()
    seen = rows(64, 4)

    found = answered(finished(data, Said()), {"obs": seen})

    told = np.concatenate([original(data).run(None, {"obs": half})[0] for half in (seen[:32], seen[32:])])
    assert np.abs(found["mean"] - told).max() <= 1e-5


def test_a_batch_that_cannot_be_opened_is_refused() -> None:
    """A tensor of the batch's size that no input makes keeps the file at that size."""
    file = File()
    given = file.input("obs", [1, 4])
    joined = file.add("Concat", given, file.weights(1, 2), axis=1)
    file.network(joined, 6, 3, out=file.output("actions", [1, 3]))

    with pytest.raises(AdoptionRefused, match="ONNX Runtime cannot run the graph with obs"):
        adopt(file.data(), Said())


def test_no_batch_axis_at_all_gets_one() -> None:
    """A network of one vector takes rows of them, where its operators allow it."""
    file = File()
    hidden = file.add("Tanh", file.add("MatMul", file.input("mlp_input", [4]), file.weights(4, 8)))
    file.add("MatMul", hidden, file.weights(8, 3), out=file.output("mlp_output", [3]))
    seen = rows(30, 4)

    artefact = finished(file.data(), MEAN)

    session = original(file.data())
    told = np.stack([session.run(None, {"mlp_input": row})[0] for row in seen])
    assert np.abs(answered(artefact, {"obs": seen})["mean"] - told).max() <= 1e-5


def test_no_batch_axis_where_operators_need_it_is_refused() -> None:
    """Where the network flattens everything into one vector, rows cannot be told apart."""
    file = File()
    one = file.add("Unsqueeze", file.input("mlp_input", [4]), file.constant([0], "int64"))
    file.add("Squeeze", file.network(one, 4, 3), file.constant([0], "int64"), out=file.output("mlp_output", [3]))

    with pytest.raises(AdoptionRefused, match="several observations at once are not answered as each is alone"):
        adopt(file.data(), MEAN)


def mixed(how: str) -> bytes:
    """Give a file whose rows look at each other."""
    file = File()
    found = file.network(file.input("obs", ["batch", 4]), 4, 3)
    if how == "mean":
        mean = file.add("ReduceMean", found, axes=[0], keepdims=1)
        found = file.add("Sub", found, file.add("Mul", mean, file.constant([0.5])))
    elif how == "first":
        first = file.add("Slice", found, file.constant([0], "int64"), file.constant([1], "int64"))
        found = file.add("Add", found, first)
    elif how == "one":
        found = file.add("ReduceMean", found, axes=[0], keepdims=1)
    file.add("Identity", found, out=file.output("actions", ["batch", 3]))
    return file.data()


@pytest.mark.parametrize(
    ("how", "message"),
    [("mean", "rows at once are mixed"), ("first", "rows at once are mixed"), ("one", r"shape \[1, 3\]")],
)
def test_rows_that_are_mixed_are_refused(how: str, message: str) -> None:
    """A row whose answer depends on the others in its batch is shown."""
    with pytest.raises(AdoptionRefused, match=message):
        adopt(mixed(how), Said())


def test_a_wrong_declaration_of_the_batch_is_found_by_running() -> None:
    """An output that is declared for 32 rows answers as many as it is asked."""
    file = simple()
    file.outputs[0].type.tensor_type.shape.dim[0].dim_value = 32

    artefact = finished(file.data(), Said())

    assert answered(artefact, {"obs": rows(5, 4)})["mean"].shape == (5, 3)


def test_a_lie_about_any_batch_is_found_by_running() -> None:
    """A file that declares any batch and works with one row alone is opened where that can be, else refused."""
    file = File()
    flat = file.add("Reshape", file.input("obs", ["batch", 4]), file.constant([1, 4], "int64"))
    file.network(flat, 4, 3, out=file.output("actions", ["batch", 3]))

    found = answered(finished(file.data(), Said()), {"obs": rows(8, 4)})

    assert found["mean"].shape == (8, 3)


def test_numbers_drawn_inside_are_refused_by_the_operator() -> None:
    """A head that random numbers go into is no head, and the operator is named."""
    file = File()
    found = file.network(file.input("obs", ["batch", 4]), 4, 3)
    noise = file.add("RandomUniformLike", found)
    file.add("Add", found, noise, out=file.output("actions", ["batch", 3]))

    with pytest.raises(AdoptionRefused, match="RandomUniformLike"):
        adopt(file.data(), Said())


def endless() -> bytes:
    """Give a file that loops until it is told to stop, which nobody does."""
    file = File()
    found = file.network(file.input("obs", ["batch", 4]), 4, 3)
    value = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity", ["go"], ["on"]),
            onnx.helper.make_node("Tanh", ["carried"], ["next"]),
        ],
        "body",
        [
            value("round", onnx.TensorProto.INT64, []),
            value("go", onnx.TensorProto.BOOL, []),
            value("carried", onnx.TensorProto.FLOAT, ["batch", 3]),
        ],
        [value("on", onnx.TensorProto.BOOL, []), value("next", onnx.TensorProto.FLOAT, ["batch", 3])],
    )
    file.nodes.append(
        onnx.helper.make_node(
            "Loop", ["", file.constant(True, "bool"), found], [file.output("actions", ["batch", 3])], body=body
        )
    )
    return file.data()


def test_a_loop_that_never_ends_is_ended() -> None:
    """Probing takes no longer than its deadline."""
    with pytest.raises(AdoptionRefused, match="did not come to an end"):
        adopt(endless(), Said(), deadline_s=0.3)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or infinity"), (0.0, "answers every observation alike")])
def test_heads_that_say_nothing_are_refused(value: float, message: str) -> None:
    """A head of NaN, or one that no observation changes, is no policy."""
    file = File()
    found = file.network(file.input("obs", ["batch", 4]), 4, 3)
    file.add("Mul", found, file.constant([value]), out=file.output("actions", ["batch", 3]))

    with pytest.raises(AdoptionRefused, match=message):
        adopt(file.data(), Said())


def stages() -> File:
    """Give an encoder of history and a policy on what it finds, in one graph that shows both."""
    file = File()
    latent = file.network(file.input("obs_history", ["batch", 12]), 12, 3, out=file.output("latent", ["batch", 3]))
    joined = file.add("Concat", latent, file.input("obs", ["batch", 4]), axis=1)
    file.network(joined, 7, 3, out=file.output("target", ["batch", 3]))
    return file


def test_two_outputs_that_could_be_the_head_are_named() -> None:
    """Trap 30: of an encoder and a policy in one graph, nobody guesses which the head is."""
    with pytest.raises(OptionInvalid, match="latent, target: say which with --output-name"):
        adopt(stages().data(), MEAN)


def test_the_output_that_is_named_is_the_head() -> None:
    """Trap 30: the second stage is taken with the first inside, and what is not needed is dropped."""
    data = stages().data()
    past, now = rows(40, 12), rows(40, 4)

    whole = finished(data, Said(head="mean", outputs=("target",)))
    encoder = finished(data, Said(head="mean", outputs=("latent",), observations=("obs_history",)))

    told = dict(zip(("latent", "target"), original(data).run(None, {"obs_history": past, "obs": now}), strict=True))
    found = answered(whole, {"obs.obs_history": past, "obs.obs": now})["mean"]
    assert np.abs(found - told["target"]).max() <= 1e-5
    assert np.abs(answered(encoder, {"obs": past})["mean"] - told["latent"]).max() <= 1e-5


def test_another_answer_is_refused() -> None:
    """The proof is against the file itself: a graph that forgets a scale is not written."""
    found = adopt(simple().data(), Said())

    for node in found.model.graph.node:
        if node.op_type == "Tanh":
            node.op_type = "Sigmoid"
    with pytest.raises(ParityFailed, match="of 'mean' differ"):
        finish(found.meaning, found.model, found.answers, ABOUT, answers_name=found.answers_name)


def test_an_image_is_an_array() -> None:
    """An observation of more axes than one has no names, and keeps its shape."""
    file = File()
    flat = file.add("Flatten", file.input("visual", ["batch", 2, 4, 4]), axis=1)
    file.network(flat, 32, 3, out=file.output("q", ["batch", 3]))

    artefact = finished(file.data(), Said(head="q_values"))

    assert artefact.manifest.inputs[0].shape == (2, 4, 4)
    assert isinstance(artefact.manifest.action, Discrete)


def test_a_vector_has_named_numbers() -> None:
    """Fields are numbered until people name them."""
    space = adopt(simple().data(), Said()).meaning.observation

    assert isinstance(space, Fields)
    assert space.names == ("obs_0", "obs_1", "obs_2", "obs_3")


@pytest.mark.parametrize(("layers", "opset"), [(1, 11), (2, 17)])
def test_states_with_rows_on_their_second_axis_are_turned(layers: int, opset: int) -> None:
    """rsl_rl's LSTM has its batch, fixed to one, in the middle of its states; ours come first, and any number."""
    file = File(opset)
    given = file.input("obs", [1, 4])
    states = [file.input(name, [layers, 1, 5]) for name in ("h_in", "c_in")]
    line = file.reshaped("Unsqueeze", given, 0)
    parts = []
    for layer in range(layers):
        bounds = [file.constant([at], "int64") for at in (layer, layer + 1)]
        own = [file.add("Slice", state, *bounds) for state in states]
        width = 5 if layer else 4
        out = file.add(
            "LSTM",
            line,
            file.weights(1, 20, width),
            file.weights(1, 20, 5),
            file.weights(1, 40),
            "",
            *own,
            count=3,
            hidden_size=5,
        )
        line = file.reshaped("Squeeze", out, 1)
        parts.append((f"{out}.1", f"{out}.2"))
    for at, name in enumerate(("h_out", "c_out")):
        file.add("Concat", *(part[at] for part in parts), axis=0, out=file.output(name, [layers, 1, 5]))
    file.linear(file.reshaped("Squeeze", line, 0), 5, 3, out=file.output("actions", [1, 3]))
    seen = rows(100, 4)

    artefact = finished(file.data(), Said())

    names = [port.name for port in artefact.manifest.inputs]
    assert names == ["obs", "memory.h.in", "memory.c.in"]
    state = {name: np.zeros((1, layers, 5), np.float32) for name in names[1:]}
    session, theirs = original(file.data()), {name: np.zeros((layers, 1, 5), np.float32) for name in ("h_in", "c_in")}
    for row in seen:
        found = answered(artefact, {"obs": row[None], **state})
        told = session.run(["actions", "h_out", "c_out"], {"obs": row[None], **theirs})
        theirs = {"h_in": told[1], "c_in": told[2]}
        state = {"memory.h.in": found["memory.h.out"], "memory.c.in": found["memory.c.out"]}
        assert np.abs(found["mean"] - told[0]).max() <= 1e-5
