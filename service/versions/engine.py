"""The engine: one loaded, verified version that answers observations with a head. The home of ONNX Runtime.

A model that is fast (measured at load, per batch size) runs inline on the event loop; any other, and every graph with
loops, runs on a bounded pool of threads, where a run is terminated once nobody waits for it.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from timeit import repeat
from typing import Any

import numpy as np
import onnxruntime as ort
from msgspec import Struct

from export.spec import HEADS, MASK, Discrete, Fields
from export.spec.artefact import Artefact, open_artefact
from export.spec.errors import ArtefactError
from export.spec.signature import PublicKey, check_signature
from guards.errors import InferenceFailed, PolicyUnavailable
from guards.records import Booleans, Schema
from service.versions.observations import Layout

INLINE_BUDGET_S = 0.001
_PROBE_ROWS = 8
_LOAD_DEADLINE_S = 10.0
_LARGEST_CHUNK = 256
# What all runs together may take at once; a run that asks for more fails, and the process lives.
_WORKING_BYTES = 1 << 30

# What goes into a graph: arrays[N, ...] by the names of its inputs.
Inputs = Mapping[str, np.ndarray]
Heads = np.ndarray[Any, np.dtype[np.float32]]


@cache
def _options() -> ort.SessionOptions:
    """How all sessions here are made: one thread, its own format left aside, and one arena that all runs work in."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Left to guess, it takes bytes that begin as its own format for that, and runs another graph than was checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # What runs work in is shared and bounded; weights lie outside of it.
    cpu = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(cpu, ort.OrtArenaCfg({"max_mem": _WORKING_BYTES}))
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    options.log_severity_level = 4  # what is wrong is raised, and said once
    return options


class VersionRefused(Exception):
    """An artefact cannot serve here; what served before goes on."""


class ModelOutput(Struct, frozen=True, eq=False, gc=False):
    """The answer of a run for N rows.

    ``head[N, W]`` (mean and std one after the other, ``[N, 2D]``, of a gaussian head), ``spread[N]`` where the members
    of an ensemble disagree, and the ``memory`` after the step, one ``[N, ...]`` for each that the policy has.
    """

    head: Heads
    spread: Heads | None = None
    memory: tuple[np.ndarray, ...] = ()

    @classmethod
    def of(cls, outputs: Sequence[np.ndarray], heads: int, spread: bool) -> "ModelOutput":
        """What a graph's outputs say, in their order: the tensors of the head, the spread, the memory."""
        head = outputs[0] if heads == 1 else np.concatenate(outputs[:heads], axis=1)
        return cls(head, outputs[heads] if spread else None, tuple(outputs[heads + spread :]))

    @classmethod
    def joined(cls, parts: "Sequence[ModelOutput]") -> "ModelOutput":
        """The answers of several runs, one after another."""
        spreads = [part.spread for part in parts if part.spread is not None]
        return cls(
            np.concatenate([part.head for part in parts]),
            np.concatenate(spreads) if spreads else None,
            tuple(np.concatenate(memory) for memory in zip(*(part.memory for part in parts), strict=True)),
        )

    def rows(self, index: Sequence[int]) -> "ModelOutput":
        """The answer for some of the rows."""
        at = list(index)
        spread = None if self.spread is None else self.spread[at]
        return ModelOutput(self.head[at], spread, tuple(memory[at] for memory in self.memory))


def spread_of(answer: ModelOutput | PolicyUnavailable) -> list[float | None] | None:
    """A number for each row where the policy gives one; None for what is no number."""
    if not isinstance(answer, ModelOutput) or answer.spread is None:
        return None
    return [one if math.isfinite(one) else None for one in answer.spread.tolist()]


class Run:
    """A run on the pool: its future, and a way to stop it."""

    def __init__(self, engine: "Engine", inputs: Inputs) -> None:
        self._options = ort.RunOptions()
        self.future: Future[ModelOutput] = engine.pool.submit(engine.run, inputs, self._options)

    def terminate(self) -> None:
        """Stop it: nobody waits for its answer."""
        self.future.cancel()
        self._options.terminate = True


class Engine:
    """One version, ready to infer."""

    def __init__(self, artefact: Artefact, schema: Schema, pool: ThreadPoolExecutor) -> None:
        """Load and verify; raises VersionRefused."""
        self.artefact = artefact
        self.manifest = artefact.manifest
        self.label = f"{self.manifest.name}-{self.manifest.version}"
        self.digest = artefact.digest
        self.pool = pool
        self.masked = self.manifest.mask
        # What the memory is where an episode starts; empty: the policy has none.
        self.initial = tuple(np.full(one.shape, one.initial, dtype=one.dtype) for one in self.manifest.memory)
        self._columns = _columns(artefact, schema)
        self._layout = Layout(self.manifest.observation)
        # Most networks read named numbers, all of them, and nothing else: these need not be looked at part by part.
        self._plain = isinstance(self.manifest.observation, Fields) and len(self.manifest.inputs) == 1
        self._plain &= self._columns is None
        self._dtype = np.dtype(self.manifest.inputs[0].dtype)
        self._memory = [one.port_in.name for one in self.manifest.memory]
        self._outputs = [port.name for port in self.manifest.outputs]
        self._heads = len(HEADS[self.manifest.head])
        try:
            self._session = ort.InferenceSession(artefact.data, _options(), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise VersionRefused(f"{self.label}: ONNX Runtime cannot load it ({_first_line(error)})") from error
        # The public method checks the names of inputs in Python at each call, a third of what a small network takes;
        # ours are checked once, when the artefact is opened.
        self._run = self._session._sess.run  # noqa: SLF001
        self.chunk = 0  # rows that run inline at once; 0: on the pool
        self._row: _OneRow | None = None
        with _watched(_LOAD_DEADLINE_S) as options:
            self._verify(options)
            if not artefact.loops:
                self.chunk = self._measure(options)
        if self.chunk and self._plain and len(self._outputs) == 1:
            (name,), golden = self._outputs, self.manifest.golden
            row, found = golden.inputs["obs"].array()[:1], golden.outputs[name].array()[:1]
            self._row = _OneRow(self._session, name, row, found)

    @property
    def inline(self) -> bool:
        return self.chunk > 0

    def inputs(
        self, observation: np.ndarray, mask: Booleans | None = None, memory: Sequence[np.ndarray] = ()
    ) -> Inputs:
        """The graph's inputs from the schema's observation[N, ...], mask[N, W] and memory[N, ...] before the step."""
        if self._plain:
            return {"obs": observation.astype(self._dtype)}
        inputs = self._layout.split(observation if self._columns is None else observation[:, self._columns])
        if mask is not None:
            inputs[MASK] = mask
        if self._memory:
            inputs.update(zip(self._memory, memory, strict=True))
        return inputs

    def infer(self, inputs: Inputs) -> ModelOutput:
        """The answer for a batch, now; raises InferenceFailed."""
        count = len(next(iter(inputs.values())))
        if count == 1 and self._row is not None:
            return self._row.run(inputs["obs"])
        if count <= self.chunk:
            return self.run(inputs, None)
        starts = range(0, count, self.chunk)
        return ModelOutput.joined([self.run(_part(inputs, at, at + self.chunk), None) for at in starts])

    def start(self, inputs: Inputs, done: Callable[["Future[ModelOutput]"], object]) -> Run:
        """Begin a run on the pool; ``done`` is called on a thread of the pool."""
        run = Run(self, inputs)
        run.future.add_done_callback(done)
        return run

    def run(self, inputs: Inputs, options: ort.RunOptions | None) -> ModelOutput:
        """Run the graph; raises InferenceFailed."""
        try:
            outputs: list[np.ndarray] = self._run(self._outputs, inputs, options)
        except Exception as error:
            raise InferenceFailed(_first_line(error)) from error
        return (
            ModelOutput(outputs[0]) if len(outputs) == 1 else ModelOutput.of(outputs, self._heads, self.manifest.spread)
        )

    def golden(self, rows: int) -> tuple[np.ndarray, Inputs, ModelOutput]:
        """So many rows of observations, inputs and answers that the file itself says belong together."""
        told = self.manifest.golden
        inputs, outputs = (
            {name: np.resize(one.array(), (rows, *one.shape[1:])) for name, one in tensors.items()}
            for tensors in (told.inputs, told.outputs)
        )
        answered = ModelOutput.of([outputs[name] for name in self._outputs], self._heads, self.manifest.spread)
        return self._layout.joined(inputs), inputs, answered

    def _verify(self, options: ort.RunOptions) -> None:
        """Replay the golden rows, run twice, and compare rows alone with rows in a batch: every output."""
        golden = self.manifest.golden
        inputs = {name: tensor.array() for name, tensor in golden.inputs.items()}
        probe = _part(inputs, 0, _PROBE_ROWS)
        try:
            found, again, once_more = (self._run(self._outputs, given, options) for given in (inputs, probe, probe))
            ones = [_part(probe, i, i + 1) for i in range(rows_of(probe))]
            alone = [self._run(self._outputs, given, options) for given in ones]
        except Exception as error:
            raise VersionRefused(f"{self.label}: its golden rows cannot be run ({_first_line(error)})") from error
        close = self.manifest.parity.close
        for i, name in enumerate(self._outputs):
            expected = golden.outputs[name].array()
            if found[i].shape != expected.shape or not close(expected, found[i], name).all():
                raise VersionRefused(f"{self.label}: its golden rows give other outputs than the file says ({name})")
            if not np.array_equal(again[i], once_more[i]):
                msg = f"{self.label}: two runs on the same input differ ({name}); a policy has to be deterministic"
                raise VersionRefused(msg)
            if not close(again[i], np.concatenate([row[i] for row in alone]), name).all():
                raise VersionRefused(f"{self.label}: a row's output depends on the other rows of its batch ({name})")

    def _measure(self, options: ort.RunOptions) -> int:
        """The most rows that run in less than the inline budget; 0 where one row alone takes longer."""
        chunk, rows = 0, 1
        while rows <= _LARGEST_CHUNK:
            _, inputs, _ = self.golden(rows)
            try:
                best = min(repeat(partial(self.run, inputs, options), repeat=5, number=1))
            except InferenceFailed as error:
                raise VersionRefused(f"{self.label}: a batch of {rows} rows cannot be run ({error})") from error
            if best > INLINE_BUDGET_S:
                break
            chunk, rows = rows, rows * 2
        return chunk

    def __repr__(self) -> str:
        where = f"inline to {self.chunk} rows" if self.inline else "on the pool"
        return f"<Engine {self.label} {self.digest[:12]} {self.manifest.head}, {where}>"


class _OneRow:
    """A network of one input and one output, bound to memory of its own for one row: what is asked most often."""

    def __init__(self, session: ort.InferenceSession, name: str, row: np.ndarray, found: np.ndarray) -> None:
        """``row`` and ``found``, which is called by this ``name``, are like what goes in and comes out."""
        self._in, self._out = row.copy(), found.copy()
        self._binding = session.io_binding()
        for bind, of, array in (
            (self._binding.bind_input, "obs", self._in),
            (self._binding.bind_output, name, self._out),
        ):
            bind(of, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._run = session._sess.run_with_iobinding  # noqa: SLF001 - as the engine's own
        self._bound = self._binding._iobinding  # noqa: SLF001

    def run(self, row: np.ndarray) -> ModelOutput:
        """The answer for a row[1, F]; raises InferenceFailed. It is a copy: the memory is the next row's too."""
        self._in[:] = row
        try:
            self._run(self._bound, None)
        except Exception as error:
            raise InferenceFailed(_first_line(error)) from error
        return ModelOutput(self._out.copy())


@contextmanager
def _watched(seconds: float) -> Iterator[ort.RunOptions]:
    """Options with which a run is terminated once a deadline has passed: a graph may loop for ever."""
    options = ort.RunOptions()
    timer = threading.Timer(seconds, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


def load_version(
    data: bytes,
    schema: Schema | None,
    pool: ThreadPoolExecutor,
    facts: tuple[str, ...] = (),
    *,
    signature: bytes | None = None,
    keys: Sequence[PublicKey] | None = None,
) -> Engine:
    """Check and load an artefact for a schema (None: its own); raises VersionRefused.

    With ``keys`` one of them has to have signed it, and nothing of it is read before that is known. What is checked and
    what is loaded are the same bytes.
    """
    try:
        if keys is not None:
            check_signature(data, signature, keys)
        artefact = open_artefact(data)
    except ArtefactError as error:
        raise VersionRefused(f"the artefact is refused: {error}") from error
    return Engine(artefact, schema or Schema.of(artefact.manifest, facts), pool)


def _columns(artefact: Artefact, schema: Schema) -> np.ndarray | None:
    """Which of the schema's fields the artefact reads, by name; None where it reads all of them in order."""
    manifest = artefact.manifest
    label = f"{manifest.name}-{manifest.version}"
    if manifest.action != schema.action:
        both = (manifest.action, schema.action)
        found, wanted = (list(action.names) if isinstance(action, Discrete) else action for action in both)
        raise VersionRefused(f"{label}: its actions are {found}, expected {wanted}")
    if not isinstance(manifest.observation, Fields) or not isinstance(schema.observation, Fields):
        if manifest.observation != schema.observation:
            msg = f"{label}: its observation is {manifest.observation!r}, expected {schema.observation!r}"
            raise VersionRefused(msg)
        return None
    missing = [name for name in manifest.fields if name not in schema.fields]
    if missing:
        msg = f"{label}: it reads the fields {missing}, which the service does not have: {list(schema.fields)}"
        raise VersionRefused(msg)
    if manifest.fields == schema.fields:
        return None
    return np.array([schema.fields.index(name) for name in manifest.fields])


def rows_of(inputs: Inputs) -> int:
    """How many rows inputs have."""
    return len(next(iter(inputs.values())))


def _part(inputs: Inputs, start: int, stop: int) -> Inputs:
    return {name: array[start:stop] for name, array in inputs.items()}


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
