"""Trial runs of a graph that nobody vouches for: on one thread, never longer than a deadline, as it was written."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from export.errors import AdoptionRefused
from export.meaning import Arrays
from export.runtime import ERRORS, options_of, sentence, watched

DEADLINE_S = 20.0
# So many runs may take one deadline more.
_RUNS = 100
_ERRORS = (*ERRORS, ValueError)


class Trial:
    """A graph, ready to be tried with any inputs."""

    def __init__(self, model: onnx.ModelProto, *, deadline_s: float = DEADLINE_S) -> None:
        """Load a model without changing its graph; raises AdoptionRefused where ONNX Runtime does not take it."""
        # As it was written: nothing is fused, and nothing is computed before there is a deadline.
        options = options_of(optimised=False)
        try:
            data = model.SerializeToString()
            self._session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"], enable_fallback=False
            )
        except _ERRORS as error:
            msg = f"ONNX Runtime cannot load the graph: {sentence(error)}"
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
        deadline_s = self._deadline_s * (1 + len(asked) / _RUNS)
        # A thread for each run would take longer than the runs.
        options, watchdog = watched(deadline_s)
        told: list[dict[str, NDArray[np.generic]]] = []
        try:
            told.extend(dict(zip(wanted, self._session.run(wanted, dict(one), options), strict=True)) for one in asked)
        except _ERRORS as error:
            if not watchdog.is_alive():
                msg = f"the graph did not come to an end within {deadline_s:.0f} seconds"
                raise AdoptionRefused(msg) from error
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in asked[len(told)].items())
            msg = f"ONNX Runtime cannot run the graph with {shapes}: {sentence(error)}"
            raise AdoptionRefused(msg) from error
        finally:
            watchdog.cancel()
        return told
