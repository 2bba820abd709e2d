"""Writing: one file that answers as its source does, or none."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export.errors import CheckpointRefused, ConversionFailed, OptionInvalid, ParityFailed
from export.naming import Names, named
from export.runtime import Session
from export.spec import Array, Discrete, Field, Fields, Recorded
from export.spec.artefact import open_artefact
from export.tabular import tabular
from export.trained import About, TrainedPolicy
from export.write import STEPS, build, write

ABOUT = About(name="lamp", version="1", license="MIT", control_period_s=0.5)
SPACE = Fields(fields=(Field(name="light", unit="lx", low=0), Field(name="hour", unit="h", low=0, high=24)))
ACTION = Discrete(names=("off", "on"))

torch.set_num_threads(1)


class Lamp(nn.Module):
    """A plain network of somebody's own, with dropout that has to be off."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(2, 8)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(8, 2)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        head: torch.Tensor = self.last(self.drop(torch.relu(self.first(obs))))
        return head


class OtherInGraph(Lamp):
    """A network that torch traces to something else than what it computes."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        head = super().forward(obs)
        return head.flip(1) if torch.compiler.is_exporting() else head


class Slightly(Lamp):
    """A network whose graph is off by a little, the same best action in most rows."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        head = super().forward(obs)
        return head * 1.001 if torch.compiler.is_exporting() else head


class Noisy(Lamp):
    """A network that draws random numbers."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        head = super().forward(obs)
        return head + torch.rand_like(head)


def lamp(module: nn.Module | None = None) -> TrainedPolicy:
    """Give the plain network as a policy."""
    return TrainedPolicy(module=module if module is not None else Lamp(), observation=SPACE, action=ACTION)


def test_a_plain_module_becomes_one_self_contained_file(tmp_path: Path) -> None:
    """The file answers as the module in evaluation mode, at any batch size, and the module is left as it was."""
    path = tmp_path / "lamp-1.onnx"
    module = Lamp().train()
    steps: list[str] = []

    artefact = write(lamp(module), path, ABOUT, step=steps.append)
    seen = np.random.default_rng(0).uniform(0, 24, (33, 2)).astype(np.float32)
    found = Session(path.read_bytes()).run({"obs": seen})

    assert module.training
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(seen)).numpy()
    assert np.abs(found["q_values"] - expected).max() < 1e-5
    assert np.array_equal(found["action"], expected.argmax(axis=1))
    assert open_artefact(path.read_bytes()) == artefact
    assert [entry.name for entry in tmp_path.iterdir()] == ["lamp-1.onnx"]
    assert tuple(steps) == STEPS


def test_the_file_holds_nobodys_paths_and_no_traces() -> None:
    """What torch writes about the machine it ran on is not in the file."""
    data = build(lamp(), ABOUT).data
    model = onnx.load_model_from_string(data)

    assert not re.search(rb"/[a-z]+/|\.py|stack_trace|site-packages|Lamp", data.replace(b"policy.manifest", b""))
    assert not any(len(node.metadata_props) or node.doc_string for node in model.graph.node)
    assert [value.name for value in model.graph.input] == ["obs"]
    assert [value.name for value in model.graph.output] == ["q_values", "action"]


def test_the_same_input_gives_the_same_bytes() -> None:
    """Exporting twice gives one digest."""
    assert build(lamp(), ABOUT).data == build(lamp(), ABOUT).data


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (OtherInGraph(), r"rows of 'q_values' differ by more than 1e-05 .* torch .* says \[.*\], the graph \["),
        (Slightly(), "rows of 'q_values' differ by more than"),
        (Noisy(), "rows of 'q_values' differ by more than"),
    ],
)
def test_a_graph_that_answers_otherwise_is_not_written(module: nn.Module, message: str, tmp_path: Path) -> None:
    """A mismatch refuses to write, shows the worst case, and leaves what was there."""
    path = tmp_path / "lamp-1.onnx"
    path.write_bytes(b"the version before")

    with pytest.raises(ParityFailed, match=message):
        write(lamp(module), path, ABOUT)
    assert path.read_bytes() == b"the version before"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_action_near_a_tie_is_counted_not_refused() -> None:
    """Where the source's two best values are closer than the tolerance, another action is counted as a near tie."""
    table = np.array([[1.0, 1.0 + 1e-9], [0.5, 0.2], [0.1, 0.9]])

    parity = build(tabular(table, "0" * 64), ABOUT).manifest.parity

    assert parity.near_ties > 0
    assert parity.action_agreement == pytest.approx(1 - parity.near_ties / parity.observations)


def test_a_width_that_is_not_the_number_of_actions_is_refused() -> None:
    """A head of another width than the action space is no policy for it."""
    policy = TrainedPolicy(module=Lamp(), observation=SPACE, action=Discrete(names=("off", "on", "dim")))

    with pytest.raises(ParityFailed, match=r"expected \[2000, 3\]"):
        build(policy, ABOUT)


def test_a_module_that_does_not_take_the_observation_is_refused() -> None:
    """A network for other inputs is a sentence, not a traceback."""
    policy = TrainedPolicy(module=Lamp(), observation=Array(shape=(3,)), action=ACTION)

    with pytest.raises(ConversionFailed, match="torch cannot write the network"):
        build(policy, ABOUT)


class Spectrum(nn.Module):
    """Looks at frequencies, which no artefact's operators do."""

    def forward(self, head: torch.Tensor) -> torch.Tensor:
        return torch.add(head, torch.fft.rfft(head).abs().sum(dim=1, keepdim=True))


def test_operators_that_may_not_be_served_are_refused() -> None:
    """A graph with an operator that is not on the list does not become an artefact."""
    module = nn.Sequential(Lamp(), Spectrum())

    with pytest.raises(ConversionFailed, match=r"ai\.onnx\.DFT is not on the list"):
        build(lamp(module), ABOUT)


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    """An output that cannot be written says so."""
    with pytest.raises(OptionInvalid, match="cannot be written: No such file"):
        write(lamp(), tmp_path / "missing" / "lamp-1.onnx", ABOUT)


def test_a_folder_in_the_place_of_the_file_is_a_sentence(tmp_path: Path) -> None:
    """Where the file cannot be put into its place, nothing is left beside it."""
    path = tmp_path / "lamp-1.onnx"
    path.mkdir()

    with pytest.raises(OptionInvalid, match="cannot be written: Is a directory"):
        write(lamp(), path, ABOUT)
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_no_label_is_refused() -> None:
    """What the manifest does not take is said by its field."""
    with pytest.raises(OptionInvalid, match="name: "):
        build(lamp(), About(name="two words", version="1"))


def test_a_table_is_gathered_and_knows_its_states() -> None:
    """A Q-table becomes a graph over one field ``state``; a state it does not have gives NaN in its row alone."""
    table = np.random.default_rng(0).normal(size=(50, 4))

    artefact = build(tabular(table, "0" * 64), ABOUT)
    head = Session(artefact.data).run({"obs": np.array([[0], [49], [-1], [50], [7]])})["q_values"]

    space = artefact.manifest.observation
    assert isinstance(space, Fields)
    assert space == Fields(fields=(Field(name="state", low=0, high=49),), dtype="int64")
    assert np.array_equal(head[[0, 1, 4]], table[[0, 49, 7]].astype(np.float32))
    assert np.isnan(head[[2, 3]]).all()
    assert artefact.manifest.family == "tabular"


@pytest.mark.parametrize(
    "table", [np.zeros(3), np.zeros((0, 3)), np.array([[np.nan, 1.0]]), np.array([[1e300, 1.0]]), np.array([["a"]])]
)
def test_a_table_that_is_none_is_refused(table: np.ndarray) -> None:
    """A table has states, actions and finite numbers."""
    with pytest.raises(CheckpointRefused, match="the table"):
        tabular(table, "0" * 64)


def test_recorded_observations_give_statistics_and_golden_rows() -> None:
    """A sample is summarised per field, joins the comparison, and half of the golden rows come from it."""
    rows = np.random.default_rng(0).uniform([0, 6], [900, 18], (400, 2)).astype(np.float32)

    manifest = build(lamp(), ABOUT, recorded=Recorded(inputs={"obs": rows}, origin="day.npy")).manifest
    taken, golden = manifest.statistics, manifest.golden.inputs["obs"].array()

    assert taken is not None
    assert (taken.count, taken.source) == (400, "day.npy")
    assert taken.mean == pytest.approx(rows.astype(np.float64).mean(axis=0))
    assert taken.quantiles[1][3] == pytest.approx(np.median(rows[:, 1]), rel=1e-6)
    assert manifest.parity.observations == 2400
    assert len(golden) == 16
    assert {tuple(row) for row in golden[:8].tolist()} <= {tuple(row) for row in rows.tolist()}


def test_names_replace_those_of_the_checkpoint() -> None:
    """Names, units, bounds and action names are put into the spaces, in the network's order."""
    names = Names(fields=["a", "b"], units=["m", ""], low=["-", "-1"], high=["inf", "2.5"], actions=["left", "right"])

    policy = named(lamp(), names)

    assert policy.observation == Fields(fields=(Field(name="a", unit="m"), Field(name="b", low=-1, high=2.5)))
    assert policy.action == Discrete(names=("left", "right"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (Names(fields=["a"]), "--names has 1 entries, expected 2"),
        (Names(actions=["a", "b", "c"]), "--actions has 3 entries, expected 2"),
        (Names(actions=["a", "a"]), "stands twice"),
        (Names(fields=["a", "b c"]), "do not fit"),
        (Names(low=["x", "1"]), "--low has 'x', expected numbers"),
        (Names(high=["nan", "1"]), "expected numbers"),
        (Names(low=["5", "1"], high=["1", "2"]), "low is 5"),
    ],
)
def test_names_that_do_not_fit_are_refused(names: Names, message: str) -> None:
    """A wrong number or form of names is said with the option."""
    with pytest.raises(OptionInvalid, match=message):
        named(lamp(), names)


def test_fields_of_an_array_have_no_names() -> None:
    """An observation that is one array cannot be named number by number."""
    policy = TrainedPolicy(module=Lamp(), observation=Array(shape=(2, 3)), action=ACTION)

    with pytest.raises(OptionInvalid, match="arrays alone: obs"):
        named(policy, Names(fields=["a"] * 6))
    assert named(policy, Names()) == policy
