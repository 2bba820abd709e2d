"""The bundled network is read without running anything in it and acts within the recommended constraints."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from examples.autoscaler.checkpoint import CheckpointError, read_network
from examples.autoscaler.dynamics import ACTIONS, FIELDS, Service, start
from examples.autoscaler.episode import first_state, play
from examples.autoscaler.evaluate import CHECKPOINT, EVALUATION_DAYS, EVALUATION_SEED, compare, generated_days
from examples.autoscaler.greedy import Greedy, Network, allowed
from examples.autoscaler.traces import Trace


def always(action: int) -> Network:
    """A network that values one action most, whatever it sees."""
    values = np.zeros(len(ACTIONS), dtype=np.float32)
    values[action] = 1.0
    return Network(((np.zeros((len(ACTIONS), len(FIELDS)), dtype=np.float32), values),))


def test_the_limits_forbid_what_would_leave_them() -> None:
    """At two replicas nothing goes down, at three only one; at thirty nothing goes up."""
    assert allowed(start(50.0, 2), np.inf).tolist() == [False, False, True, True, True]
    assert allowed(start(50.0, 3), np.inf).tolist() == [False, True, True, True, True]
    assert allowed(start(50.0, 30), np.inf).tolist() == [True, True, True, False, False]


def test_scale_downs_keep_the_cooldown() -> None:
    """A policy that always wants fewer gets it every third minute, and its next best action between."""
    greedy = Greedy(always(1), Service())
    changes = [greedy.change(start(50.0, 9)) for _ in range(7)]

    assert [change < 0 for change in changes] == [True, False, False, True, False, False, True]


def test_episodes_start_alike_for_every_controller() -> None:
    """Two controllers meet the same first state and the same arrivals."""
    trace = Trace("two minutes", np.array([12_000.0, 12_000.0]), 0.0)
    totals = play(trace, lambda _: 0, Service())

    assert first_state(trace, Service()).replicas == 6
    assert (totals.minutes, totals.replica_minutes, totals.mean_replicas) == (2, 12, 6.0)


def test_a_file_that_is_no_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    """Missing, not a zip, a zip of something else: each names the file."""
    (tmp_path / "text.zip").write_text("hello", encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "hello")

    for name in ("none.zip", "text.zip", "other.zip"):
        with pytest.raises(CheckpointError, match=name):
            read_network(tmp_path / name)


def test_the_bundled_checkpoint_is_small_and_gives_the_published_numbers() -> None:
    """The committed evaluation can be had again from the committed checkpoint (its first two days here)."""
    published = json.loads((CHECKPOINT.parent / "evaluation.json").read_text(encoding="utf-8"))
    assert CHECKPOINT.stat().st_size < 300_000
    assert len(published["rewards"]) == EVALUATION_DAYS

    found = compare(generated_days(EVALUATION_SEED, 2), read_network(CHECKPOINT), ())["policy"].reward
    assert found == pytest.approx(sum(published["rewards"][:2]), rel=1e-3)


def test_the_sample_of_observations_has_the_fields() -> None:
    """Float32 rows in raw units, for the artefact's training statistics."""
    sample = np.load(CHECKPOINT.parent / "observations.npz")["observations"]
    replicas = sample[:, [field.name for field in FIELDS].index("replicas")]

    assert sample.dtype == np.float32
    assert sample.shape == (2000, len(FIELDS))
    assert replicas.min() >= 2
    assert replicas.max() <= 30
