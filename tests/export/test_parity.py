"""The comparison with the source: every way to answer otherwise is found out."""

from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.errors import ParityFailed, VerificationFailed
from export.parity import gaps, prove
from export.questions import trials
from export.runtime import Session
from export.spec import Array, Discrete, Parity, Recorded
from export.trained import Arrays, TrainedPolicy

ROWS = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)

torch.set_num_threads(1)


def graph(change: tuple[float, float, float] = (0, 0, 0), pick: str = "ArgMax") -> Session:
    """Give a graph that answers ``q_values`` = obs, each value changed, and some action."""
    offset = numpy_helper.from_array(np.array(change, dtype=np.float32), "offset")
    nodes = [
        helper.make_node("Add", ["obs", "offset"], ["q_values"]),
        helper.make_node(pick, ["q_values"], ["action"], axis=1, keepdims=0),
    ]
    given = [helper.make_tensor_value_info("obs", TensorProto.FLOAT, ["batch", 3])]
    answered = [
        helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", 3]),
        helper.make_tensor_value_info("action", TensorProto.INT64, ["batch"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", given, answered, [offset]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    return Session(model.SerializeToString())


def policy(**told: Any) -> TrainedPolicy:
    """Give a policy that answers its observation."""
    names = ("a", "b", "c")
    return TrainedPolicy(module=nn.Identity(), observation=Array(shape=(3,)), action=Discrete(names=names), **told)


def proven(session: Session, rows: np.ndarray = ROWS, tolerance: float = 1e-5, **told: Any) -> Parity:
    """Prove a graph over some rows of a recorded file and the sampled ones."""
    trial = trials(policy(), Recorded(inputs={"obs": rows}))[0]
    return prove(policy(**told), session, policy().answer, [trial], tolerance)[0]


def test_the_same_answers_are_proven() -> None:
    """The proof says what was compared, at which scale, and how well it agreed."""
    parity = proven(graph())

    assert parity.observations == 1000
    assert parity.max_abs_error == 0
    assert parity.action_agreement == 1
    assert parity.near_ties == 0
    assert parity.scale == pytest.approx(float(np.median(np.abs(ROWS).max(axis=1))))
    assert "onnxruntime" in parity.reference


def test_an_action_that_is_not_the_best_is_refused() -> None:
    """The output ``action`` is what the source executes, whatever the head says."""
    with pytest.raises(ParityFailed, match="rows have another action"):
        proven(graph(pick="ArgMin"))


def test_an_error_beyond_the_tolerance_is_refused() -> None:
    """A change that is a little larger than what is allowed is found, with its worst row."""
    with pytest.raises(ParityFailed, match=r"1000 of 1000 rows of 'q_values' differ .* for obs \["):
        proven(graph(change=(0, 0, 1e-3)))


def test_another_best_action_is_refused_even_within_the_error_allowed() -> None:
    """Two values further apart than the tolerance may not change places, though their errors alone would pass."""
    rows = ROWS.copy()
    rows[:, 1], rows[:, 2] = 5.0, 5.0 - 6e-4

    with pytest.raises(ParityFailed, match="rows have another action"):
        proven(graph(change=(0, -4e-4, 4e-4)), rows, tolerance=1e-4)


def test_answers_that_are_not_finite_are_refused() -> None:
    """NaN proves nothing, on either side."""
    rows = ROWS.copy()
    rows[3, 1] = np.nan

    with pytest.raises(ParityFailed, match="the source answers 1 of 1000 rows with NaN"):
        proven(graph(), rows)


def test_the_runtimes_errors_are_sentences() -> None:
    """A graph that does not load or run is told apart from one that answers otherwise."""
    with pytest.raises(VerificationFailed, match="cannot run the graph"):
        graph().run({"obs": np.zeros((2, 4), dtype=np.float32)})
    with pytest.raises(VerificationFailed, match="cannot load the graph"):
        Session(b"nothing")
    assert repr(graph()) == "<Session outputs=q_values,action>"


def test_a_run_that_does_not_end_is_ended() -> None:
    """A graph that loops for ever fails at the deadline."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["value", "value"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    constants = [
        numpy_helper.from_array(np.array(2**62), "trips"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    node = helper.make_node("Loop", ["trips", "yes", "obs"], ["q_values"], body=body)
    given = [helper.make_tensor_value_info("obs", TensorProto.FLOAT, ["batch", 3])]
    answered = [helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", 3])]
    model = helper.make_model(
        helper.make_graph([node], "graph", given, answered, constants),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    session = Session(model.SerializeToString(), deadline_s=0.2)

    with pytest.raises(VerificationFailed, match="cannot run the graph"):
        session.run({"obs": ROWS[:1]})


def test_gaps_are_those_of_the_two_best() -> None:
    """The best is ahead of the second by this much; a single action has no rival."""
    assert gaps(policy(), np.array([[3.0, 1.0, 2.5], [1.0, 1.0, 0.0]])).tolist() == [0.5, 0.0]
    single = TrainedPolicy(module=nn.Identity(), observation=Array(shape=(1,)), action=Discrete(names=("a",)))
    assert gaps(single, np.array([[3.0]])).tolist() == [np.inf]


def test_the_librarys_own_answers_are_compared_too() -> None:
    """A graph that answers as the network built from the checkpoint does, but not as the library, is refused."""

    def native(inputs: Arrays) -> Arrays:
        return {"action": inputs["obs"].argmin(axis=1)}

    with pytest.raises(ParityFailed, match=r"library 1\.0 says \["):
        proven(graph(), native=native, native_name="library 1.0")


def test_recorded_actions_are_compared_too() -> None:
    """What the policy was recorded to do outweighs what the network built from its checkpoint says."""
    trial = trials(policy(), Recorded(inputs={"obs": ROWS}))[0]
    right = ROWS.argmax(axis=1)
    wrong = right.copy()
    wrong[7] = (wrong[7] + 1) % 3

    parity = prove(policy(), graph(), policy().answer, [trial], recorded=right)[0]

    assert (parity.recorded, parity.recorded_ties) == (1000, 0)
    with pytest.raises(ParityFailed, match=r"1 of 1000 rows have another action.*the recorded action says"):
        prove(policy(), graph(), policy().answer, [trial], recorded=wrong)
