"""The engine: what is refused at load, where a model runs, and that no failure of it is anything but a reason."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import pytest
from onnx import NodeProto, TensorProto, helper

import service.versions.engine
from export.spec import Box, Discrete, Field, Fields, Memory
from guards.errors import InferenceFailed, PolicyUnavailable
from guards.records import Schema
from service.versions.engine import Engine, VersionRefused, load_version
from tests import artefacts, ports

WEIGHTS = np.array([[1.0, 0.0, -1.0], [0.0, 2.0, 0.5]])
PLAIN = [helper.make_node("MatMul", ["obs", "weights"], ["plain"])]
CONSTANTS = {"weights": WEIGHTS}
SPACE = Fields(fields=(Field(name="x0"), Field(name="x1")))
ACTIONS = ("a0", "a1", "a2")


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """The threads on which slow models run."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


def graph(*nodes: NodeProto, **constants: np.ndarray) -> bytes:
    """A linear policy with something after it: nodes from ``plain`` to ``q_values``."""
    numbers = {name: np.asarray(value) for name, value in {"weights": WEIGHTS.astype(np.float32), **constants}.items()}
    return artefacts.built([*PLAIN, *nodes], numbers, SPACE, ACTIONS)


def refused(data: bytes, pool: ThreadPoolExecutor, schema: Schema | None = None) -> str:
    """Why an artefact is refused."""
    with pytest.raises(VersionRefused) as error:
        load_version(data, schema, pool)
    return str(error.value)


def test_a_sound_artefact_answers_what_its_source_does(pool: ThreadPoolExecutor) -> None:
    """The head is the weights' product, in float32, for one row and for many."""
    engine = load_version(artefacts.linear(WEIGHTS), None, pool)
    observation = np.random.default_rng(0).normal(size=(300, 2))

    for n in (1, 2, 300):
        head = engine.infer(engine.inputs(observation[:n])).head
        assert head.dtype == np.float32
        assert np.allclose(head, observation[:n] @ WEIGHTS, atol=1e-5)
    assert (engine.label, engine.inline) == ("demo-1", True)
    assert repr(engine).startswith(f"<Engine demo-1 {engine.digest[:12]} q_values, inline to ")


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_an_altered_file_is_refused(pool: ThreadPoolExecutor, at: float) -> None:
    """A bit that was flipped after it was sealed is found before anything is run."""
    data = bytearray(artefacts.linear(WEIGHTS))
    data[int(len(data) * at)] ^= 1

    assert "the artefact is refused" in refused(bytes(data), pool)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"x" * 1000])
def test_what_is_no_artefact_is_refused(pool: ThreadPoolExecutor, data: bytes) -> None:
    """A checkpoint, an empty file, or noise."""
    assert "only actd-export writes artefacts" in refused(data, pool)


def test_golden_rows_have_to_come_out(pool: ThreadPoolExecutor) -> None:
    """A graph that answers otherwise than its file says is not the policy that was exported."""
    nodes = [*PLAIN, helper.make_node("Identity", ["plain"], ["q_values"])]
    constants = {"weights": WEIGHTS.astype(np.float32)}

    def wrong(inputs: np.ndarray) -> np.ndarray:
        outputs: np.ndarray = (inputs @ WEIGHTS + 0.01).astype(np.float32)
        return outputs

    data = artefacts.built(nodes, constants, SPACE, ACTIONS, expected=wrong)

    assert "golden rows give other outputs" in refused(data, pool)


def test_rows_may_not_depend_on_their_batch(pool: ThreadPoolExecutor) -> None:
    """A graph that subtracts the batch's mean answers a caller by what others observe."""
    data = graph(
        helper.make_node("ReduceMean", ["plain", "axis"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["plain", "mean"], ["q_values"]),
        axis=np.array([0], dtype=np.int64),
    )

    assert "depends on the other rows" in refused(data, pool)


@pytest.mark.parametrize("rows", [20, 40])
def test_a_graph_that_fails_for_larger_batches_is_refused(pool: ThreadPoolExecutor, rows: int) -> None:
    """Batches of some size that it cannot run are found at load, by a refusal and not by a fault."""
    data = graph(
        helper.make_node("Shape", ["obs"], ["shape"], start=0, end=1),
        helper.make_node("Squeeze", ["shape"], ["count"]),
        helper.make_node("Range", ["zero", "count", "one"], ["index"]),
        helper.make_node("Gather", ["table", "index"], ["nothing"], axis=0),
        helper.make_node("Add", ["plain", "nothing"], ["q_values"]),
        zero=np.array(0, dtype=np.int64),
        one=np.array(1, dtype=np.int64),
        table=np.zeros((rows, 3), dtype=np.float32),
    )

    assert refused(data, pool).startswith("demo-1: ")


def test_a_graph_that_never_ends_is_refused_in_time(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """What loops for ever at load is stopped when the time for loading is over."""
    monkeypatch.setattr(service.versions.engine, "_LOAD_DEADLINE_S", 0.3)
    began = time.monotonic()

    told = refused(artefacts.looping(WEIGHTS, trips=artefacts.FOR_EVER), pool)

    assert "cannot be run" in told
    assert time.monotonic() - began < 5


def test_one_schema_is_pinned(pool: ThreadPoolExecutor) -> None:
    """Other actions, the same in another order, or a field that the service does not have are refused by name."""
    data = artefacts.linear(WEIGHTS)

    for actions in (("a0", "a1"), ("a1", "a0", "a2"), ("a0", "a1", "b")):
        assert "its actions are ['a0', 'a1', 'a2']" in refused(data, pool, Schema(SPACE, Discrete(names=actions)))
    fewer = Fields(fields=(Field(name="x1"), Field(name="y")))
    assert "['x0']" in refused(data, pool, Schema(fewer, Discrete(names=ACTIONS)))


def test_fields_are_picked_by_name(pool: ThreadPoolExecutor) -> None:
    """A version that reads two of the service's four fields finds them wherever they stand."""
    more = Fields(fields=tuple(Field(name=name) for name in ("y", "x1", "z", "x0")))
    engine = load_version(artefacts.linear(WEIGHTS), Schema(more, Discrete(names=ACTIONS)), pool)
    observation = np.random.default_rng(1).normal(size=(5, 4))

    assert np.allclose(engine.infer(engine.inputs(observation)).head, observation[:, [3, 1]] @ WEIGHTS, atol=1e-5)


def test_arrays_have_to_be_the_same(pool: ThreadPoolExecutor) -> None:
    """There are no names to pick from an image: its shape and dtype are the schema's."""
    data, other = artefacts.image(), artefacts.linear(WEIGHTS, actions=ACTIONS)
    engine = load_version(data, None, pool)
    pinned = Schema.of(engine.manifest)

    assert load_version(data, pinned, pool).digest == engine.digest
    assert np.allclose(engine.infer(engine.inputs(np.full((2, 2, 3, 4), 9, np.uint8))).head, [[0, 9, 18]] * 2)
    for space, image in ((pinned, other), (Schema(SPACE, Discrete(names=ACTIONS)), data)):
        assert "its observation is" in refused(image, pool, space)


def test_a_fast_model_runs_inline_in_chunks(pool: ThreadPoolExecutor) -> None:
    """More rows than run within the budget are run chunk by chunk, and come out together in order."""
    engine = load_version(artefacts.linear(WEIGHTS), None, pool)
    inputs = engine.inputs(np.random.default_rng(2).normal(size=(23, 2)))
    whole = engine.infer(inputs).head
    engine.chunk = 5
    head = engine.infer(inputs).head

    assert np.array_equal(head.argmax(axis=1), whole.argmax(axis=1))
    assert np.allclose(head, whole, atol=1e-6)


def test_a_model_that_is_not_fast_runs_on_the_pool(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured over the budget with one row alone, it has no chunk."""
    monkeypatch.setattr(service.versions.engine, "INLINE_BUDGET_S", 0.0)
    engine = load_version(artefacts.linear(WEIGHTS), None, pool)

    assert not engine.inline
    assert repr(engine).endswith("q_values, on the pool>")


def test_a_graph_with_a_loop_runs_on_the_pool(pool: ThreadPoolExecutor) -> None:
    """However fast it was at load, nobody knows how long it runs next."""
    assert not load_version(artefacts.looping(WEIGHTS), None, pool).inline


def test_a_run_on_the_pool_gives_the_head(pool: ThreadPoolExecutor) -> None:
    """Its future has it, and whoever asked is told."""
    engine = load_version(artefacts.looping(np.array([[1.0, 0.0], [0.0, 0.0]])), None, pool)
    told: list[object] = []
    run = engine.start(engine.inputs(np.array([[3.0, 100.0]])), told.append)

    assert run.future.result(timeout=30).head.tolist() == [[3.0, 0.0]]
    assert told == [run.future]


def test_a_run_that_is_terminated_ends(pool: ThreadPoolExecutor) -> None:
    """A loop of an hour is over at once, as a failed inference."""
    engine = load_version(artefacts.looping(np.array([[1.0, 0.0], [0.0, 0.0]])), None, pool)
    run = engine.start(engine.inputs(np.array([[3.0, 2e9]])), lambda _: None)
    while not run.future.running():
        time.sleep(0.001)
    run.terminate()

    with pytest.raises(InferenceFailed):
        run.future.result(timeout=30)


def test_a_run_that_waits_for_a_thread_is_taken_back() -> None:
    """Terminated before its turn, it never runs."""
    with ThreadPoolExecutor(1) as pool:
        engine = load_version(artefacts.looping(np.array([[1.0, 0.0], [0.0, 0.0]])), None, pool)
        first, second = (engine.start(engine.inputs(np.array([[3.0, 2e9]])), lambda _: None) for _ in range(2))
        second.terminate()
        first.terminate()

    assert second.future.cancelled()
    assert first.future.done()


@pytest.mark.parametrize("index", [4, -5, 2**40])
def test_what_the_runtime_raises_is_a_failed_inference(pool: ThreadPoolExecutor, index: int) -> None:
    """An index out of a table is a reason to fall back, in one line."""
    engine = load_version(artefacts.table(np.arange(12.0).reshape(4, 3)), None, pool)

    with pytest.raises(InferenceFailed) as error:
        engine.run({"obs": np.array([[index]])}, None)

    assert isinstance(error.value, PolicyUnavailable)
    assert not error.value.identified
    assert 0 < len(str(error.value)) <= 300
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("inputs", [np.zeros((1, 3), np.float32), np.zeros((1, 2)), np.zeros(2, np.float32)])
def test_an_input_of_another_shape_is_a_failed_inference(pool: ThreadPoolExecutor, inputs: np.ndarray) -> None:
    """Whatever reaches the runtime, only a reason comes back."""
    engine = load_version(artefacts.linear(WEIGHTS), None, pool)

    with pytest.raises(InferenceFailed):
        engine.run({"obs": inputs}, None)


def test_a_session_that_cannot_be_made_is_refused(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ONNX Runtime cannot load is said in a sentence with its reason."""

    def fail(*_: object, **__: object) -> None:
        msg = "no such kernel\nwith details"
        raise RuntimeError(msg)

    data = artefacts.linear(WEIGHTS)
    monkeypatch.setattr(ort, "InferenceSession", fail)

    assert refused(data, pool) == "demo-1: ONNX Runtime cannot load it (no such kernel)"


def test_numbers_that_are_none_come_through(pool: ThreadPoolExecutor) -> None:
    """NaN is an output like any other here: who decides has to look."""
    engine = load_version(artefacts.not_a_number(np.eye(2)), None, pool)
    head = engine.infer(engine.inputs(np.array([[1.0, 0.0], [-1.0, 0.0]]))).head

    assert np.isfinite(head).all(axis=1).tolist() == [True, False]


def test_random_operators_are_not_served(pool: ThreadPoolExecutor) -> None:
    """The service draws, not the graph: an artefact with its own dice cannot even be sealed."""
    with pytest.raises(Exception, match="RandomNormalLike"):
        graph(
            helper.make_node("RandomNormalLike", ["plain"], ["noise"], dtype=TensorProto.FLOAT),
            helper.make_node("Add", ["plain", "noise"], ["q_values"]),
        )

    assert isinstance(load_version(artefacts.demo(), None, pool), Engine)


RICH = {
    "recurrent": ports.recurrent(),
    "masked": ports.masked(),
    "parts": ports.parts(),
    "ensemble": ports.ensemble(),
}


@pytest.mark.parametrize("data", RICH.values(), ids=RICH)
def test_inputs_and_outputs_go_by_name(pool: ThreadPoolExecutor, data: bytes) -> None:
    """Whatever a graph reads and gives: all of its golden rows come out, at once and chunk by chunk."""
    engine = load_version(data, None, pool)
    observation, told, expected = engine.golden(23)
    memory = [told[one.port_in.name] for one in engine.manifest.memory]
    inputs = engine.inputs(observation, told.get("action_mask"), memory)
    whole = engine.infer(inputs)
    engine.chunk = 5
    parts = engine.infer(inputs)

    assert set(inputs) == {port.name for port in engine.manifest.inputs}
    for port in engine.manifest.inputs:
        assert (inputs[port.name].dtype, inputs[port.name].shape) == (np.dtype(port.dtype), (23, *port.shape))
        assert np.array_equal(inputs[port.name], told[port.name])
    for found in (whole, parts):
        assert np.allclose(found.head, expected.head, atol=1e-5)
        assert (found.spread is None) == (expected.spread is None)
        assert [one.dtype for one in found.memory] == [one.dtype for one in expected.memory]
        assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(found.memory, expected.memory, strict=True))


def test_a_recurrent_version_has_its_initial_memory(pool: ThreadPoolExecutor) -> None:
    """One for each that it has, in its own dtype; without it, nothing is run."""
    engine = load_version(ports.recurrent(), None, pool)

    assert [(one.dtype.name, one.tolist()) for one in engine.initial] == [("float32", [0.25] * 3), ("int64", [0])]
    assert load_version(artefacts.demo(), None, pool).initial == ()
    with pytest.raises(ValueError, match="zip"):
        engine.inputs(np.zeros((1, 3)))


def test_a_spread_has_a_number_a_row(pool: ThreadPoolExecutor) -> None:
    """Beside the head, of every run."""
    engine = load_version(ports.ensemble(), None, pool)
    spread = engine.infer(engine.inputs(np.array([[0.5, 0, 0], [-2.0, 0, 0]]))).spread

    assert spread is not None
    assert spread.tolist() == [0.5, 2.0]


def test_a_gaussian_head_is_mean_and_std(pool: ThreadPoolExecutor) -> None:
    """One after the other; each is checked in a scale of its own."""
    nodes = [
        helper.make_node("MatMul", ["obs", "weights"], ["mean"]),
        helper.make_node("Exp", ["mean"], ["std"]),
    ]
    box = Box(fields=(Field(name="force", low=-1, high=1), Field(name="turn", low=-1, high=1)))
    data = ports.sealed(nodes, {"weights": np.eye(2, dtype=np.float32)}, observation=SPACE, action=box, head="gaussian")
    head = load_version(data, None, pool).infer({"obs": np.array([[0.0, 1.0]], np.float32)}).head

    assert head.dtype == np.float32
    assert np.allclose(head, [[0, 1, 1, np.e]])


@pytest.mark.parametrize("output", ["q_values", "memory.trace.out", "memory.steps.out"])
def test_golden_rows_of_every_output_have_to_come_out(pool: ThreadPoolExecutor, output: str) -> None:
    """Also of the memory, where a mistake would show only a step later."""
    assert f"other outputs than the file says ({output})" in refused(ports.recurrent(wrong=output), pool)


def test_no_output_of_a_row_may_depend_on_its_batch(pool: ThreadPoolExecutor) -> None:
    """A memory that is the batch's mean would carry one session's observations into another's."""
    nodes = [
        helper.make_node("MatMul", ["obs", "weights"], ["q_values"]),
        helper.make_node("ReduceMean", ["memory.m.in", "axis"], ["mean"], keepdims=1),
        helper.make_node("Add", ["memory.m.in", "mean"], ["memory.m.out"]),
    ]
    constants = {"weights": WEIGHTS.astype(np.float32), "axis": np.array([0], dtype=np.int64)}
    data = ports.sealed(nodes, constants, observation=SPACE, memory=(Memory(name="m", shape=(2,)),))

    assert "depends on the other rows of its batch (memory.m.out)" in refused(data, pool)


def test_parts_have_to_be_the_same(pool: ThreadPoolExecutor) -> None:
    """A Dict is no set of fields to pick from, whatever is named in it."""
    data = ports.parts()
    named = Schema(ports.VECTOR, Discrete(names=artefacts.ACTIONS))

    assert "its observation is" in refused(data, pool, named)
    assert "its observation is" in refused(artefacts.demo(), pool, Schema.of(load_version(data, None, pool).manifest))
