"""Float32 rounding of the source: never held against a graph, and never an excuse for a wrong one."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.card import card
from export.declaration import parsed
from export.declared import state_dict
from export.errors import ParityFailed
from export.graph import graph_of
from export.meaning import Answers, Arrays
from export.parity import Proof, prove
from export.precision import Precise
from export.questions import trials
from export.rounding import CAP
from export.runtime import Session
from export.sb3 import of_sb3, read_sb3
from export.sb3.normaliser import Normaliser, Running
from export.spec import Array, Box, Discrete, Field, Recorded
from export.trained import About, TrainedPolicy
from export.verify import verify
from export.write import build
from tests.export.sb3.models import made, zipped
from tests.export.test_parity import ROWS, graph

ABOUT = About(name="rounded", version="1")
# Half the distance between float32 numbers around 1000: what `Cancelling` is off by at most.
HALF = 2.0**-15

torch.set_num_threads(1)


class Cancelling(nn.Module):
    """Gives its observation, but for what float32 loses beside large numbers that cancel."""

    large: torch.Tensor

    def __init__(self, *large: float) -> None:
        super().__init__()
        self.register_buffer("large", torch.tensor(large))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return (obs + self.large) - self.large


def policy(*large: float, **told: Any) -> TrainedPolicy:
    """Give a policy of three actions whose values are its observation, rounded."""
    names = ("a", "b", "c")
    module = Cancelling(*(large or (1000.0,)))
    return TrainedPolicy(module=module, observation=Array(shape=(3,)), action=Discrete(names=names), **told)


def proven(
    source: TrainedPolicy,
    session: Session,
    rows: np.ndarray = ROWS,
    tolerance: float = 1e-6,
    precise: Answers | None = None,
    **told: Any,
) -> Proof:
    """Prove a graph against a source that rounds, over some rows."""
    trial = trials(source, Recorded(inputs={"obs": rows}))[0]
    return prove(source, session, source.answer, [trial], tolerance, precise=precise or Precise(source), **told)


def test_the_sources_own_rounding_is_not_held_against_the_graph() -> None:
    """A graph that answers better than the source itself is written, and the manifest says why."""
    rows = ROWS.copy()
    rows[500:] = np.round(rows[500:])

    proof = proven(policy(), graph(), rows)

    assert proof.parity.max_scaled_error > 2e-5
    assert proof.parity.action_agreement > 0.99
    said = (
        "500 rows judged in float64, where the source is off by up to 2.9e-05 of its scale in float32, the graph by 0"
    )
    assert proof.parity.reference.endswith(f"; {said}")
    assert proof.plain.nonzero()[0].tolist() == list(range(500, 1000))
    assert (proof.steady == proof.plain).all()


@pytest.mark.parametrize("change", [(0, 0, 1e-3), (3e-4, 3e-4, 3e-4), (0, -2e-4, 0)])
def test_a_wrong_graph_is_refused_beside_a_source_that_rounds(change: tuple[float, float, float]) -> None:
    """The message says what each is off by, and how the tolerance is set."""
    said = r"\(--tolerance\): beside the same network in float64 the source itself is off by .* the graph by 0\.000"

    with pytest.raises(ParityFailed, match=said):
        proven(policy(), graph(change=change))


def test_rows_that_the_source_answers_well_get_nothing() -> None:
    """An error as large as another row's rounding is refused in a row without any."""
    rows = ROWS.copy()
    rows[500:] = np.round(rows[500:])
    source = policy()

    assert np.array_equal(source.answer({"obs": rows[500:]})["q_values"], rows[500:])
    assert proven(source, graph(), rows).plain[500:].all()
    with pytest.raises(ParityFailed, match="500 of 1000 rows of 'q_values'"):
        proven(source, graph(change=(0, 0, HALF / 4)), rows, tolerance=1e-6)


def test_rounding_has_a_limit() -> None:
    """Of a source that keeps less than three digits nothing can be proven."""
    with pytest.raises(ParityFailed, match=f"rounding explains no more than {CAP:g}"):
        proven(policy(1e6), graph())


def test_a_library_that_answers_otherwise_is_no_rounding() -> None:
    """The network that was read agrees with its graph, and the library's own answers show that it was read wrongly."""

    def native(inputs: Arrays) -> Arrays:
        return {"q_values": inputs["obs"].astype(np.float32) + np.float32(4e-4)}

    with pytest.raises(ParityFailed, match=r"what is expected here by 0\.0003.* library 1\.0 says"):
        proven(policy(native=native, native_name="library 1.0"), graph(), tolerance=1e-5)


def flipped() -> np.ndarray:
    """Give rows whose two best actions change places by rounding, with large numbers of 1000, 1000 and 3000."""
    rows = ROWS.copy()
    rows[:20, 1], rows[:20, 2] = 5 + 1.1 * HALF, 5 + 1.8 * HALF
    return rows


def test_a_choice_that_rounding_decides_is_a_near_tie() -> None:
    """In float64 the two are as close as the source's error, whatever float32 made of it."""
    source, rows = policy(1000.0, 1000.0, 3000.0), flipped()
    wrong = source.answer({"obs": rows[:20]})["action"]

    proof = proven(source, graph(), rows)

    assert set(wrong) == {1}
    assert set(rows[:20].argmax(axis=1)) == {2}
    assert 20 <= proof.parity.near_ties < 30
    assert proof.parity.action_agreement == pytest.approx(1 - proof.parity.near_ties / 1000)


def test_recorded_actions_may_be_near_ties_too() -> None:
    """What was recorded in float32 is judged in the same way; another action than the two best is refused."""
    source, rows = policy(1000.0, 1000.0, 3000.0), flipped()
    recorded = source.answer({"obs": rows})["action"]
    wrong = recorded.copy()
    wrong[3] = 0

    assert proven(source, graph(), rows, recorded=recorded).parity.recorded_ties >= 20
    with pytest.raises(ParityFailed, match=r"1 of 1000 rows have another action.*the recorded action says \[0\]"):
        proven(source, graph(), rows, recorded=wrong)


def test_an_action_that_is_not_the_best_is_refused_beside_rounding() -> None:
    """The graph's action is judged by how far it is behind the best in float64, not by its head."""
    with pytest.raises(ParityFailed, match="rows have another action, by more than 1e-06"):
        proven(policy(1000.0, 1000.0, 3000.0), graph(pick="ArgMin"), flipped())


def box_graph(change: float = 0.0) -> Session:
    """Give a graph whose mean is its observation, and whose action is that within -1 and 1, changed."""
    numbers = {"zero": np.zeros(3), "low": np.array(-1.0), "high": np.array(1.0), "change": np.full(3, change)}
    nodes = [
        helper.make_node("Identity", ["obs"], ["mean"]),
        helper.make_node("Mul", ["obs", "zero"], ["std"]),
        helper.make_node("Clip", ["mean", "low", "high"], ["clipped"]),
        helper.make_node("Add", ["clipped", "change"], ["action"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("mean", "std", "action")]
    given = [helper.make_tensor_value_info("obs", TensorProto.FLOAT, ["batch", 3])]
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in numbers.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", given, ports, constants),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    return Session(model.SerializeToString())


class Certain(nn.Module):
    """A mean that rounds, and no deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = Cancelling(1000.0)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.mean(obs), obs * 0


def test_numbers_of_a_box_are_judged_in_their_range() -> None:
    """An action that rounding moved is the same action; one that is moved further is refused."""
    fields = tuple(Field(name=name, low=-1, high=1) for name in "xyz")
    source = TrainedPolicy(
        module=Certain(), observation=Array(shape=(3,)), action=Box(fields=fields), head="gaussian", family="ddpg"
    )

    parity = proven(source, box_graph()).parity

    assert (parity.action_agreement, parity.near_ties) == (1, 0)
    assert "judged in float64" in parity.reference
    with pytest.raises(ParityFailed, match=r"rows have another action.*the source itself is off by"):
        proven(source, box_graph(2e-4))


def test_a_source_without_float64_is_judged_by_the_tolerance_alone() -> None:
    """The message says that its rounding is not known: an adopted file, or a module that runs in float32 only."""

    def fails(inputs: Arrays) -> Arrays:
        raise RuntimeError(sorted(inputs))

    for precise in (None, fails):
        source = policy()
        trial = trials(source, Recorded(inputs={"obs": ROWS}))[0]
        with pytest.raises(ParityFailed, match=r"\(--tolerance\): the source cannot be evaluated in float64"):
            prove(source, graph(), source.answer, [trial], 1e-6, precise=precise)


def test_float64_is_not_asked_where_nothing_differs() -> None:
    """What was proven before is proven by the same numbers."""

    def never(inputs: Arrays) -> Arrays:
        raise AssertionError(sorted(inputs))

    proof = proven(policy(), graph(), tolerance=1e-4, precise=never)

    assert "float64" not in proof.parity.reference
    assert proof.steady.all()


def twins(outputs: int, gain: float, inputs: int = 33) -> nn.Sequential:
    """Give a network half of whose last layer nearly cancels the other half."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(inputs, 400), nn.ReLU(), nn.Linear(400, 256), nn.ReLU(), nn.Linear(256, outputs)
    ).requires_grad_(False)
    second, last = module[2], module[4]
    assert isinstance(second, nn.Linear)
    assert isinstance(last, nn.Linear)
    second.weight[128:] = second.weight[:128] + torch.randn(128, 400) / gain / 20
    second.bias[128:] = second.bias[:128]
    last.weight[:, 128:] = -last.weight[:, :128]
    last.weight *= gain
    return module


def declared(module: nn.Sequential, head: str, action: dict[str, object]) -> TrainedPolicy:
    """Read the tensors of such a network as a declaration says."""
    stream = io.BytesIO()
    torch.save(module.state_dict(), stream)
    network = {"hidden": [400, 256], "activation": "relu", "head": head, "layers": ["0", "2", "4"]}
    table = {"observation": {"shape": [33]}, "action": action, "network": network}
    return state_dict(stream.getvalue(), "actor.pth", parsed(table, "actor.toml"))


@pytest.mark.parametrize(
    ("head", "action"), [("deterministic", {"low": [-1] * 4, "high": [1] * 4}), ("q_values", {"names": list("abcd")})]
)
def test_declared_networks_whose_sums_cancel_are_written(head: str, action: dict[str, object]) -> None:
    """The file is whole, its golden rows are those that float32 answers well, and the card tells of the rest."""
    policy = declared(twins(4, 30.0), head, action)

    artefact = build(policy, ABOUT)

    shown = card(artefact)
    assert "judged in float64" in artefact.manifest.parity.reference
    assert "at most 1e-05 allowed, but for the source's own rounding" in shown
    assert verify(artefact.data).passed
    golden = {"obs": artefact.manifest.golden.inputs["obs"].array()}
    name = policy.outputs[0].name
    true = Precise(policy)(golden)[name]
    errors = artefact.manifest.parity.errors(true, artefact.manifest.golden.outputs[name].array(), name)
    assert errors.max() < 1e-5


def test_a_network_with_one_weight_changed_is_refused_beside_sums_that_cancel() -> None:
    """A graph of almost the same network is told from rounding."""
    module = twins(4, 30.0)
    right = declared(module, "q_values", {"names": list("abcd")})
    last = module[4]
    assert isinstance(last, nn.Linear)
    last.bias[2] += 2e-3
    wrong = declared(module, "q_values", {"names": list("abcd")})
    session = Session(graph_of(wrong).SerializeToString())

    with pytest.raises(ParityFailed, match="rows of 'q_values' differ"):
        prove(right, session, right.answer, trials(right, None), precise=Precise(right))


def test_tiny_deviations_of_a_humanoid_are_written() -> None:
    """An A2C over 376 normalised features, many with a mean 70,000 times their deviation."""
    observation = spaces.Box(-np.inf, np.inf, (376,), np.float32)
    model = made("A2C", spaces.Box(-0.4, 0.4, (17,), np.float32), observation)
    generator = np.random.default_rng(0)
    mean = generator.normal(size=376) * 3
    std = np.where(generator.random(376) < 0.3, np.abs(mean) / 7e4, 1.0)
    statistics = {"": Running(mean=mean, var=std**2)}
    normaliser = Normaliser(stats=statistics, clip=10.0, epsilon=1e-8, norm_obs=True)

    parity = build(of_sb3(read_sb3(zipped(model)), normaliser), ABOUT).manifest.parity

    assert parity.action_agreement == 1
    assert parity.reference.startswith("stable-baselines3")
