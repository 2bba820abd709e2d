"""What an export costs: ``python -m tests.export.measure`` prints the table of docs/export.md.

One row for each family and source of the gallery, with the networks that the libraries make by default.
"""

import math
import sys
import time
from collections.abc import Iterator, Sequence

import onnx
import torch

from export.mother import BATCHES, run_times
from export.questions import trials
from export.runtime import Session
from export.spec.artefact import Artefact
from tests.export.gallery import declared, others, sb3
from tests.export.gallery.exhibit import Exhibit

ROWS = {**declared.TABLE, **sb3.table(sb3.DEFAULT), **others.TABLE}
_HEADINGS = ("family (source)", "numbers", "kB", "export s", "parity", *(f"µs at {batch}" for batch in BATCHES))


def main(words: Sequence[str]) -> None:
    """Print the rows whose names have one of the words in them; all where there are none."""
    torch.set_num_threads(1)
    # The first export in a process loads torch's exporter, which takes seconds.
    ROWS["tabular Q (npy)"]().artefact()
    sys.stdout.write(f"| {' | '.join(_HEADINGS)} |\n|---|{'---|' * (len(_HEADINGS) - 1)}\n")
    for name, make in ROWS.items():
        if not words or any(word in name for word in words):
            sys.stdout.write(f"| {' | '.join((name, *cells(make())))} |\n")
            sys.stdout.flush()


def cells(exhibit: Exhibit) -> Iterator[str]:
    """Measure one export: its network and file, its time, the largest error in units of its scale, and its runs."""
    began = time.perf_counter()
    made = exhibit.artefact()
    taken = time.perf_counter() - began
    yield f"{count(made):,}"
    yield f"{len(made.data) / 1000:,.1f}"
    yield f"{taken:.1f}"
    yield f"{made.manifest.parity.max_scaled_error:.1g}"
    (trial,) = trials(exhibit.meaning, None)
    # Two axes of a trial are its steps and its episodes.
    inputs = {name: rows.reshape(-1, *rows.shape[2:])[: max(BATCHES)] for name, rows in trial.inputs.items()}
    inputs |= {name: tensor.array()[:1] for name, tensor in made.manifest.golden.inputs.items() if name not in inputs}
    for each in run_times(Session(made.data), inputs).values():
        yield f"{each:,.0f}"


def count(made: Artefact) -> int:
    """Count the numbers that a graph holds: its weights, and the constants around them."""
    return sum(math.prod(part.dims) for part in onnx.load_model_from_string(made.data).graph.initializer)


if __name__ == "__main__":
    main(sys.argv[1:])
