"""ONNX Runtime as the exporter uses it: one thread, and no messages of its own."""

import threading
import time

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as states

from export.errors import VerificationFailed
from export.meaning import Arrays

# ONNX Runtime's errors share no parent but Exception.
ERRORS = (
    states.EPFail,
    states.EngineError,
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.InvalidProtobuf,
    states.NotImplemented,
    states.RuntimeException,
    RuntimeError,
)
_FATAL_ONLY = 4
_STATES = "; where the observation is a state, say which there are: --low 0 --high with the number of the last one"


def options_of(*, optimised: bool = True) -> onnxruntime.SessionOptions:
    """Say how all sessions of the exporter are made; not ``optimised``, every operator is run as it stands."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    # Else bytes in the middle of the file could make it another format's, with another graph.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def watched(deadline_s: float) -> tuple[onnxruntime.RunOptions, threading.Timer]:
    """Give options of a run and the watchdog that ends it, started: a graph with a loop may never end by itself."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = _FATAL_ONLY
    watchdog = threading.Timer(deadline_s, setattr, (options, "terminate", True))
    watchdog.daemon = True
    watchdog.start()
    return options, watchdog


class Session:
    """An ONNX model, ready to be asked."""

    def __init__(self, data: bytes, deadline_s: float = 60.0, *, optimised: bool = True) -> None:
        """Load the bytes of a model, of which no run may take longer than the deadline.

        Not ``optimised``, every operator is run as it stands in the file.

        Raises VerificationFailed where ONNX Runtime does not take them.
        """
        try:
            self._session = onnxruntime.InferenceSession(
                data, options_of(optimised=optimised), providers=["CPUExecutionProvider"]
            )
        except ERRORS as error:
            msg = f"ONNX Runtime cannot load the graph: {sentence(error)}"
            raise VerificationFailed(msg) from error
        self._deadline_s = deadline_s
        self.inputs = tuple(given.name for given in self._session.get_inputs())
        self.outputs = tuple(output.name for output in self._session.get_outputs())

    def __repr__(self) -> str:
        return f"<Session outputs={','.join(self.outputs)}>"

    def run(self, inputs: Arrays, chunk: int = 64) -> Arrays:
        """Give every output ``[N, ...]`` for the inputs ``[N, ...]``, asked in batches of at most ``chunk``.

        Inputs that the graph does not have are left out. Raises VerificationFailed.
        """
        given = {name: array for name, array in inputs.items() if name in self.inputs}
        count = len(next(iter(inputs.values())))
        options, watchdog = watched(self._deadline_s)
        try:
            parts = [
                self._session.run(self.outputs, {name: a[at : at + chunk] for name, a in given.items()}, options)
                for at in range(0, count, chunk)
            ]
        except ERRORS as error:
            msg = f"ONNX Runtime cannot run the graph: {sentence(error)}"
            raise VerificationFailed(msg) from error
        finally:
            watchdog.cancel()
        return {name: np.concatenate([part[at] for part in parts]) for at, name in enumerate(self.outputs)}

    def median_s(self, inputs: Arrays, runs: int) -> float:
        """Give the median time of a run on all rows at once, in seconds, without the watchdog that ``run`` has.

        A watchdog's thread takes many times as long as a small network. Only graphs that were run before come here.
        """
        given = {name: array for name, array in inputs.items() if name in self.inputs}
        taken = []
        for _ in range(runs):
            began = time.perf_counter()
            self._session.run(self.outputs, given)
            taken.append(time.perf_counter() - began)
        return float(np.median(taken))


def sentence(error: BaseException) -> str:
    """What ONNX Runtime says is wrong, in one line; with the way out where a table does not have a state."""
    said = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    return said + (_STATES if "out of data bounds" in said else "")
