"""Trial runs of a graph that nobody vouches for: on one thread, never longer than a deadline, as it was written."""

import threading
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as states

from export.errors import AdoptionRefused
from export.meaning import Arrays

DEADLINE_S = 20.0
# So many runs may take one deadline more.
_RUNS = 100
# ONNX Runtime's errors share no parent but Exception.
_ERRORS = (
    states.EPFail,
    states.EngineError,
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.InvalidProtobuf,
    states.NotImplemented,
    states.RuntimeException,
    RuntimeError,
    ValueError,
)
_FATAL_ONLY = 4


class Trial:
    """A graph, ready to be tried with any inputs."""

    def __init__(self, model: onnx.ModelProto, *, deadline_s: float = DEADLINE_S) -> None:
        """Load a model without changing its graph; raises AdoptionRefused where ONNX Runtime does not take it."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL_ONLY
        # As it was written: nothing is fused, and nothing is computed before there is a deadline.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            data = model.SerializeToString()
            self._session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"], enable_fallback=False
            )
        except _ERRORS as error:
            msg = f"ONNX Runtime cannot load the graph: {_sentence(error)}"
            raise AdoptionRefused(msg) from error
        self._deadline_s = deadline_s
        self.outputs = tuple(output.name for output in self._session.get_outputs())

    def __repr__(self) -> str:
        return f"<Trial outputs={','.join(self.outputs)}>"

    def run(self, inputs: Arrays, names: Sequence[str] | None = None) -> dict[str, NDArray[np.generic]]:
        """Give the named outputs (all of them where none are named) as they come out; raises AdoptionRefused."""
        return next(iter(self.runs([inputs], names)))

    def runs(self, asked: Sequence[Arrays], names: Sequence[str] | None = None) -> list[dict[str, NDArray[np.generic]]]:
        """Run several times, one after another, under one deadline that grows with their number."""
        wanted = tuple(names) if names is not None else self.outputs
        options = onnxruntime.RunOptions()
        options.log_severity_level = _FATAL_ONLY
        deadline_s = self._deadline_s * (1 + len(asked) / _RUNS)
        # A thread for each run would take longer than the runs.
        watchdog = threading.Timer(deadline_s, setattr, (options, "terminate", True))
        watchdog.daemon = True
        watchdog.start()
        told: list[dict[str, NDArray[np.generic]]] = []
        try:
            told.extend(dict(zip(wanted, self._session.run(wanted, dict(one), options), strict=True)) for one in asked)
        except _ERRORS as error:
            if not watchdog.is_alive():
                msg = f"the graph did not come to an end within {deadline_s:.0f} seconds"
                raise AdoptionRefused(msg) from error
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in asked[len(told)].items())
            msg = f"ONNX Runtime cannot run the graph with {shapes}: {_sentence(error)}"
            raise AdoptionRefused(msg) from error
        finally:
            watchdog.cancel()
        return told


def _sentence(error: BaseException) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
