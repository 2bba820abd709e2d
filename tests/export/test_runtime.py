"""ONNX Runtime as the exporter uses it."""

import time

from export.mother import run_times
from export.runtime import Session
from tests.export.gallery import artefact


def test_a_run_is_timed_without_what_is_around_it() -> None:
    """A small network's time is its own: a run with its watchdog beside it takes several times as long."""
    made = artefact("tabular Q (npy)")
    session, inputs = Session(made.data), {name: made.manifest.golden.inputs[name].array() for name in ("obs",)}

    began = time.perf_counter()
    for _ in range(200):
        session.run(inputs)
    around = (time.perf_counter() - began) / 200

    assert 0 < session.median_s(inputs, 200) < around
    assert list(run_times(session, inputs)) == [1, 8, 64]
