"""The engine: one loaded, verified version that turns observations into a head. The home of ONNX Runtime.

A model that is fast (measured at load, per batch size) runs inline on the event loop; any other, and every graph with
loops, runs on a bounded pool of threads, where a run is terminated once nobody waits for it.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort

from export.spec import Artefact, ArtefactError, Fields, open_artefact
from guards.errors import InferenceFailed
from guards.records import Floats, Schema

INLINE_BUDGET_S = 0.001
_PROBE_ROWS = 8
_LOAD_DEADLINE_S = 10.0
_LARGEST_CHUNK = 256
_RNG_SEED = 0

Heads = np.ndarray[Any, np.dtype[np.float32]]


class VersionRefused(Exception):
    """An artefact cannot serve here; what served before goes on."""


class Run:
    """A run on the pool: its future, and a way to stop it."""

    def __init__(self, engine: "Engine", inputs: np.ndarray) -> None:
        self._options = ort.RunOptions()
        self.future: Future[Heads] = engine.pool.submit(engine.run, inputs, self._options)

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
        self._columns = _columns(artefact, schema)
        self._dtype = np.dtype(self.manifest.observation.dtype)
        self._outputs = [self.manifest.head]
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # what is wrong is raised, and said once
        try:
            self._session = ort.InferenceSession(artefact.data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            msg = f"{self.label}: ONNX Runtime cannot load it ({_first_line(error)})"
            raise VersionRefused(msg) from error
        # The public method checks the names of inputs in Python at each call, a third of what a small network takes;
        # ours are checked once, when the artefact is opened.
        self._run = self._session._sess.run  # noqa: SLF001
        self.chunk = 0  # rows that run inline at once; 0: on the pool
        with _Watchdog(self.label, _LOAD_DEADLINE_S) as watchdog:
            self._verify(watchdog.options)
            if not artefact.loops:
                self.chunk = self._measure(watchdog.options)

    @property
    def inline(self) -> bool:
        return self.chunk > 0

    def inputs(self, observation: Floats) -> np.ndarray:
        """The network's input[N, ...] from the schema's observation[N, F] in float64."""
        picked = observation if self._columns is None else observation[:, self._columns]
        return picked.astype(self._dtype)

    def infer(self, inputs: np.ndarray) -> Heads:
        """The head[N, A] of a batch, now; raises InferenceFailed."""
        if len(inputs) <= self.chunk:
            return self.run(inputs, None)
        parts = [self.run(inputs[at : at + self.chunk], None) for at in range(0, len(inputs), self.chunk)]
        return np.concatenate(parts)

    def start(self, inputs: np.ndarray, done: Callable[["Future[Heads]"], None]) -> Run:
        """Begin a run on the pool; ``done`` is called on a thread of the pool."""
        run = Run(self, inputs)
        run.future.add_done_callback(done)
        return run

    def run(self, inputs: np.ndarray, options: ort.RunOptions | None) -> Heads:
        """Run the graph; raises InferenceFailed."""
        try:
            head: Heads = self._run(self._outputs, {"obs": inputs}, options)[0]
        except Exception as error:
            raise InferenceFailed(_first_line(error)) from error
        return head

    def _verify(self, options: ort.RunOptions) -> None:
        """Replay the golden rows, run twice, and compare rows alone with rows in a batch."""
        golden = self.manifest.golden
        inputs = golden.inputs["obs"].array()
        expected = golden.outputs[self.manifest.head].array().astype(np.float32)
        probe = inputs[:_PROBE_ROWS]
        try:
            found = self.run(inputs, options)
            again = self.run(probe, options)
            alone = np.concatenate([self.run(probe[i : i + 1], options) for i in range(len(probe))])
        except InferenceFailed as error:
            msg = f"{self.label}: its golden rows cannot be run ({error})"
            raise VersionRefused(msg) from error
        close = self.manifest.parity.close
        if found.shape != expected.shape or not close(expected, found).all():
            msg = f"{self.label}: its golden rows give other outputs than the file says"
            raise VersionRefused(msg)
        if not np.array_equal(again, self.run(probe, options)):
            msg = f"{self.label}: two runs on the same input differ; a policy has to be deterministic"
            raise VersionRefused(msg)
        if not close(again, alone).all():
            msg = f"{self.label}: a row's output depends on the other rows of its batch"
            raise VersionRefused(msg)

    def _measure(self, options: ort.RunOptions) -> int:
        """The most rows that run in less than the inline budget; 0 where one row alone takes longer."""
        golden = self.manifest.golden.inputs["obs"].array()
        chunk, rows = 0, 1
        while rows <= _LARGEST_CHUNK:
            inputs = np.resize(golden, (rows, *golden.shape[1:]))
            try:
                best = min(self._timed(inputs, options) for _ in range(5))
            except InferenceFailed as error:
                msg = f"{self.label}: a batch of {rows} rows cannot be run ({error})"
                raise VersionRefused(msg) from error
            if best > INLINE_BUDGET_S:
                break
            chunk, rows = rows, rows * 2
        return chunk

    def _timed(self, inputs: np.ndarray, options: ort.RunOptions) -> float:
        start = time.perf_counter()
        self.run(inputs, options)
        return time.perf_counter() - start

    def __repr__(self) -> str:
        where = f"inline to {self.chunk} rows" if self.inline else "on the pool"
        return f"<Engine {self.label} {self.digest[:12]} {self.manifest.head}, {where}>"


class _Watchdog:
    """Terminates what runs with its options once a deadline has passed: a graph may loop for ever."""

    def __init__(self, label: str, seconds: float) -> None:
        self.options = ort.RunOptions()
        self._timer = threading.Timer(seconds, self._stop)
        self._timer.daemon = True
        self._label = label

    def _stop(self) -> None:
        self.options.terminate = True

    def __enter__(self) -> "_Watchdog":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def load_version(data: bytes, schema: Schema | None, pool: ThreadPoolExecutor, facts: tuple[str, ...] = ()) -> Engine:
    """Check and load an artefact for a schema (None: its own); raises VersionRefused."""
    try:
        artefact = open_artefact(data)
    except ArtefactError as error:
        msg = f"the artefact is refused: {error}"
        raise VersionRefused(msg) from error
    return Engine(artefact, schema or Schema.of(artefact.manifest, facts), pool)


def _columns(artefact: Artefact, schema: Schema) -> np.ndarray | None:
    """Which of the schema's fields the artefact reads, by name; None where it reads all of them in order."""
    manifest = artefact.manifest
    label = f"{manifest.name}-{manifest.version}"
    if manifest.action.names != schema.actions:
        msg = f"{label}: its actions are {list(manifest.action.names)}, expected {list(schema.actions)}"
        raise VersionRefused(msg)
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


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
