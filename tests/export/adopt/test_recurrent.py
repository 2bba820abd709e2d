"""Recurrent files: states are told by many names, and their rows may lie on the second axis, declared open or not."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.adopt.adoption import adopt
from export.adopt.command import run
from export.adopt.reading import Said
from export.adopt.recurrent import pairs, recurrent
from export.errors import AdoptionRefused, OptionInvalid
from export.spec.artefact import Artefact, open_artefact
from tests.export.adopt.files import Dims, File, answered, finished, rows
from tests.export.adopt.test_adoption import original

MEAN = Said(head="mean")
UNITS, STEPS, ROWS = 5, 100, 4
Names = Sequence[tuple[str, str]]


def network(names: Names, batch: int | str = "batch", layers: int = 1, *, shaped: bool = False) -> File:
    """Give an LSTM's file: a row [batch, 4] in, states [layers, batch, 5]; ``shaped`` holds a batch of one in it."""
    file = File()
    line = file.reshaped("Unsqueeze", file.input("obs", [batch, 4]), 0)
    states = [file.input(source, [layers, batch, UNITS]) for source, _ in names]
    if shaped:
        shape = file.constant([layers, 1, UNITS], "int64")
        states = [file.add("Reshape", state, shape) for state in states]
    parts = []
    for layer in range(layers):
        bounds = [file.constant([at], "int64") for at in (layer, layer + 1)]
        own = [file.add("Slice", state, *bounds) for state in states]
        weights = [file.weights(1, 4 * UNITS, UNITS if layer else 4), file.weights(1, 4 * UNITS, UNITS)]
        out = file.add("LSTM", line, *weights, file.weights(1, 8 * UNITS), "", *own, count=3, hidden_size=UNITS)
        line = file.reshaped("Squeeze", out, 1)
        parts.append((f"{out}.1", f"{out}.2"))
    for at, (_, result) in enumerate(names):
        file.add("Concat", *(part[at] for part in parts), axis=0, out=file.output(result, [layers, batch, UNITS]))
    file.linear(file.reshaped("Squeeze", line, 0), UNITS, 3, out=file.output("out", [batch, 3]))
    return file


def refuse_other_episodes(
    data: bytes, artefact: Artefact, states: dict[str, tuple[str, str]], dims: Sequence[int]
) -> None:
    """Play four episodes of 100 steps, all at once and one row at a time with the file; every mean has to be alike.

    ``states`` has the file's names by ours, ``dims`` their shape with one row.
    """
    session = original(data)
    inputs = {value.name: value.shape for value in session.get_inputs()}
    ours = {name: np.zeros((ROWS, *artefact.manifest.memory[0].shape), np.float32) for name in states}
    theirs = [{source: np.zeros(dims, np.float32) for source, _ in states.values()} for _ in range(ROWS)]
    for step in range(STEPS):
        seen = rows(ROWS, 4, seed=step)
        given = {f"memory.{name}.in": array for name, array in ours.items()}
        found = answered(artefact, {"obs": seen, **given})
        for row in range(ROWS):
            alone = seen[row].reshape([1] * (len(inputs["obs"]) - 1) + [4])
            wanted = ["out", *(result for _, result in states.values())]
            told = session.run(wanted, {"obs": alone, **theirs[row]})
            theirs[row] = dict(zip(theirs[row], told[1:], strict=True))
            assert np.abs(found["mean"][row] - told[0].reshape(-1)).max() <= 1e-5
        ours = {name: found[f"memory.{name}.out"] for name in states}


@pytest.mark.parametrize(
    "names",
    [
        [("h_in", "h_out"), ("c_in", "c_out")],
        [("h_0", "h_n"), ("c_0", "c_n")],
        [("lstm_h0", "lstm_hn"), ("lstm_c0", "lstm_cn")],
        [("hx", "hx_out"), ("cx", "cx_out")],
        [("hidden", "hidden_out"), ("cell", "cell_out")],
        [("rnn_h", "new_rnn_h"), ("rnn_c", "new_rnn_c")],
    ],
)
def test_states_with_an_open_second_axis_are_memory(names: Names) -> None:
    """[1, batch, 5]: what is declared open is where rows lie; several at once answer as the file does one by one."""
    data = network(names).data()

    artefact = finished(data, MEAN)

    assert [memory.shape for memory in artefact.manifest.memory] == [(1, UNITS)] * 2
    states = dict(zip((memory.name for memory in artefact.manifest.memory), names, strict=True))
    refuse_other_episodes(data, artefact, states, [1, 1, UNITS])


@pytest.mark.parametrize(
    ("batch", "layers", "shaped"), [("batch", 2, False), ("batch", 1, True), ("batch", 3, True), (1, 1, True)]
)
def test_layers_and_shapes_that_hold_a_batch_of_one(batch: int | str, layers: int, shaped: bool) -> None:
    """Several layers, and constant shapes [layers, 1, 5] inside, which are opened on their second axis."""
    names = [("h_in", "h_out"), ("c_in", "c_out")]
    data = network(names, batch, layers, shaped=shaped).data()

    artefact = finished(data, MEAN)

    assert artefact.manifest.memory[0].shape == (layers, UNITS)
    refuse_other_episodes(data, artefact, {"h": names[0], "c": names[1]}, [layers, 1, UNITS])


def test_observations_may_have_their_rows_second_too() -> None:
    """A sequence of one step, [1, batch, 4] as torch's LSTM takes it, with the head [1, batch, 3] of it."""
    names = [("h_in", "h_out"), ("c_in", "c_out")]
    file = network(names)
    del file.inputs[0], file.nodes[0]
    file.input("obs", [1, "batch", 4])
    last = file.nodes.pop(), file.nodes.pop()
    lstm = next(node for node in file.nodes if node.op_type == "LSTM")
    lstm.input[0] = "obs"
    product = file.add("MatMul", last[1].input[0], last[0].input[1])
    file.outputs[-1].type.tensor_type.shape.dim.insert(0, file.outputs[-1].type.tensor_type.shape.dim[0])
    file.add("Add", product, last[0].input[2], out="out")

    artefact = finished(file.data(), MEAN)

    assert [port.shape for port in artefact.manifest.inputs] == [(1, 4), (1, UNITS), (1, UNITS)]
    session, theirs = original(file.data()), {name: np.zeros((1, ROWS, UNITS), np.float32) for name in ("h_in", "c_in")}
    ours = {f"memory.{name}.in": np.zeros((ROWS, 1, UNITS), np.float32) for name in "hc"}
    for step in range(STEPS):
        seen = rows(ROWS, 4, seed=step)
        found = answered(artefact, {"obs": seen[:, None], **ours})
        told = session.run(["out", "h_out", "c_out"], {"obs": seen[None], **theirs})
        theirs = {"h_in": told[1], "c_in": told[2]}
        ours = {f"memory.{name}.in": found[f"memory.{name}.out"] for name in "hc"}
        assert np.abs(found["mean"] - told[0][0]).max() <= 1e-5


class Actor(nn.Module):
    """A GRU with its state in and out, as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(4, UNITS, 2), nn.Linear(UNITS, 3)

    def forward(self, obs: torch.Tensor, h_0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out, h_n = self.gru(obs.unsqueeze(0), h_0)
        return self.head(out.squeeze(0)), h_n


def test_what_torch_exports_is_adopted(tmp_path: Path) -> None:
    """torch's own exporter, with the batch open on the state's second axis."""
    torch.manual_seed(0)
    example = (torch.zeros(3, 4), torch.zeros(2, 3, UNITS))
    axes = {"obs": {0: "batch"}, "h_0": {1: "batch"}, "h_n": {1: "batch"}, "out": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Actor().eval(),
            example,
            str(tmp_path / "theirs.onnx"),
            input_names=["obs", "h_0"],
            output_names=["out", "h_n"],
            dynamic_axes=axes,
            dynamo=False,
        )

    data = (tmp_path / "theirs.onnx").read_bytes()
    artefact = finished(data, MEAN)

    refuse_other_episodes(data, artefact, {"h": ("h_0", "h_n")}, [2, 1, UNITS])


@pytest.mark.parametrize(
    ("name", "dims", "message"),
    [
        ("h_in", [1, "batch", "units"], r"'h_in' is declared \[1, \?, \?\] .* expected one open axis at most"),
        ("h_in", ["layers", "batch", UNITS], r"'h_in' is declared \[\?, \?, 5\]"),
        ("h_in", [1, 1, "units"], r"'h_in' is declared \[1, 1, \?\] .* the first or the second"),
        ("obs", ["batch", "time"], r"'obs' is declared \[\?, \?\] .* export it with all others fixed"),
    ],
)
def test_several_open_axes_are_refused(name: str, dims: Dims, message: str) -> None:
    """Of two open axes nothing tells which the rows are on."""
    file = network([("h_in", "h_out"), ("c_in", "c_out")])
    at = next(at for at, value in enumerate(file.inputs) if value.name == name)
    file.input(name, dims)
    file.inputs[at] = file.inputs.pop()

    with pytest.raises(AdoptionRefused, match=message):
        adopt(file.data(), MEAN)


def test_a_sequence_that_is_open_is_no_batch() -> None:
    """Where the open axis is that of steps, rows would follow each other: that is found by running it."""
    file = File()
    line = file.reshaped("Unsqueeze", file.input("obs", ["steps", 4]), 1)
    state = file.input("h_in", [1, 1, UNITS])
    weights = [file.weights(1, 3 * UNITS, 4), file.weights(1, 3 * UNITS, UNITS), file.weights(1, 6 * UNITS)]
    out = file.add("GRU", line, *weights, "", state, count=2, hidden_size=UNITS)
    file.add("Identity", f"{out}.1", out=file.output("h_out", [1, 1, UNITS]))
    flat = file.add("Reshape", out, file.constant([-1, UNITS], "int64"))
    file.linear(flat, UNITS, 3, out=file.output("out", ["steps", 3]))

    with pytest.raises(AdoptionRefused, match="several observations at once are not answered as each is alone"):
        adopt(file.data(), MEAN)


def test_pairs_that_no_name_tells_can_be_said(tmp_path: Path) -> None:
    """--memory names what goes in and what comes out; without it the input is of no known meaning."""
    names = [("memory_of_before", "remembered"), ("cell_of_before", "kept")]
    data = network(names).data()
    (tmp_path / "theirs.onnx").write_bytes(data)
    words = [str(tmp_path / "theirs.onnx"), "-o", str(tmp_path / "arm-1.onnx"), "--head", "mean"]

    with pytest.raises(OptionInvalid, match="could be the head are remembered, kept, out"):
        run(words)
    run([*words, "--memory", "memory_of_before=remembered,cell_of_before=kept"])

    artefact = open_artefact((tmp_path / "arm-1.onnx").read_bytes())
    states = {"memory_of_before": names[0], "cell_of_before": names[1]}
    refuse_other_episodes(data, artefact, states, [1, 1, UNITS])


@pytest.mark.parametrize(
    "names",
    [
        [("hx", "hy"), ("cx", "cy")],
        [("h", "h_new"), ("c", "c_new")],
        [("state_in_0", "state_out_0"), ("state_in_1", "state_out_1")],
        [("prev_hidden", "hidden"), ("prev_cell", "cell")],
    ],
)
def test_states_that_no_name_tells_are_no_observations(names: Names) -> None:
    """An input of which an unused output has the next value is memory or not as people say, and nothing before."""
    data, named = network(names).data(), ("out",)
    told = ",".join(f"{source}={result}" for source, result in names)

    with pytest.raises(OptionInvalid, match=f"--memory {told} where .* or --obs obs,{names[0][0]},{names[1][0]} if"):
        adopt(data, Said(head="mean", outputs=named))
    artefact = finished(data, Said(head="mean", outputs=named, memory=tuple(names)))
    seen = adopt(data, Said(head="mean", outputs=named, observations=("obs", *(source for source, _ in names))))

    refuse_other_episodes(
        data,
        artefact,
        {one.name: pair for one, pair in zip(artefact.manifest.memory, names, strict=True)},
        [1, 1, UNITS],
    )
    assert not seen.meaning.memory


def test_what_is_no_next_value_of_an_observation_is_no_hint() -> None:
    """Neither a value of one number, nor an output that an input has no part in, makes an observation a state."""
    file = File()
    near, far = file.input("near", ["batch", 4]), file.input("far", ["batch", 1])
    hidden = file.add("Concat", near, far, axis=1)
    file.network(hidden, 5, 3, out=file.output("out", ["batch", 3]))
    file.network(hidden, 5, 1, out=file.output("value", ["batch", 1]))
    file.network(far, 1, 4, out=file.output("seen_next", ["batch", 4]))

    assert [
        port.name for port in adopt(file.data(), Said(head="mean", outputs=("out",))).meaning.observation.inputs
    ] == [
        "obs.near",
        "obs.far",
    ]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (Said(head="mean", memory=(("h", "h_out"),)), "--memory has h=h_out, expected 'h' among the inputs obs, h_in"),
        (Said(head="mean", memory=(("h_in", "h"),)), "--memory has h_in=h, expected 'h' among the outputs"),
    ],
)
def test_pairs_that_are_not_there_are_refused(said: Said, message: str) -> None:
    """A name that the file does not have is said with those that it has."""
    with pytest.raises(OptionInvalid, match=message):
        adopt(network([("h_in", "h_out"), ("c_in", "c_out")]).data(), said)


def test_names_that_fit_twice_are_refused() -> None:
    """An input that could go with two outputs, and an output with two inputs, have to be said."""
    with pytest.raises(OptionInvalid, match="'h' could go with the outputs h_out, h_n: say which with --memory h="):
        pairs(["obs", "h"], ["h_out", "h_n"])
    with pytest.raises(OptionInvalid, match="'h_out' could go with the inputs h_in, h"):
        pairs(["obs", "h_in", "h"], ["h_out"])
    assert [one.result for one in recurrent(["h"], ["h_out", "h_n"], Said(memory=(("h", "h_n"),)))] == ["h_n"]


def test_what_is_called_an_observation_or_the_head_is_no_memory() -> None:
    """What people say comes before names that look like a state's."""
    inputs, outputs = ["obs", "hidden"], ["hidden_out"]

    assert recurrent(inputs, outputs, Said(observations=("obs", "hidden"))) == ()
    assert recurrent(inputs, outputs, Said(outputs=("hidden_out",))) == ()
    assert [one.source for one in recurrent(inputs, outputs, Said())] == ["hidden"]
    assert pairs(["obs", "state"], ["obs_out", "next_state"]) == ()


def test_a_dialect_that_knows_its_memory_takes_no_other() -> None:
    """Godot's state is its own: another pair is refused, not left out in silence."""
    file = File(15)
    obs, state = file.input("obs", ["batch", 4]), file.input("state_ins", ["batch"])
    file.network(obs, 4, 3, out=file.output("output", ["batch", 3]))
    file.add("Identity", state, out=file.output("state_outs", ["batch"]))

    with pytest.raises(OptionInvalid, match=r"Godot RL says itself what it carries \(none\)"):
        adopt(file.data(), Said(head="logits", memory=(("state_ins", "state_outs"),)))
