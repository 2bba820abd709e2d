"""The conformance test: every policy family from every source is exported, proved, and acts as its source does."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from export.errors import ParityFailed
from export.meaning import Arrays
from export.parity import TOLERANCE, differing, near_ties
from export.questions import Trial, trials
from export.runtime import Session
from export.spec import HEADS, Box
from export.spec.artefact import Artefact
from export.trained import TrainedPolicy
from export.verify import verify
from export.write import build
from tests.export.gallery import GALLERY, NAMES, artefact, shown
from tests.export.gallery.exhibit import ABOUT, Exhibit
from tests.export.gallery.sb3 import SMALL, stirred
from tests.export.sb3.models import UNEVEN, read

# The rows of the table of families, by the words that they begin with in the gallery, and the head that each has.
FAMILIES = {
    "tabular Q": "q_values",
    "DQN": "q_values",
    "double DQN": "q_values",
    "dueling": "q_values",
    "C51": "q_values",
    "QR-DQN": "q_values",
    "QR-DQN, CVaR": "q_values",
    "IQN": "q_values",
    "PPO": "logits",
    "A2C": "logits",
    "TRPO": "logits",
    "REINFORCE": "logits",
    "MultiDiscrete": "logits",
    "MultiBinary": "logits",
    "Gaussian PPO": "gaussian",
    "Gaussian A2C": "gaussian",
    "SAC": "gaussian",
    "TQC": "gaussian",
    "TD3": "gaussian",
    "DDPG": "gaussian",
    "ARS, Discrete": "q_values",
    "ARS, Box": "gaussian",
    "masked": "logits",
    "recurrent": "logits",
    "recurrent, RecurrentPPO, Box": "gaussian",
    "Dict": "logits",
    "DQN, images": "q_values",
    "DQN, images with channels last": "q_values",
    "DQN, frame stack": "q_values",
    "Gaussian PPO, time feature": "gaussian",
    "Gaussian PPO, VecNormalize": "gaussian",
    "ensemble of DQN": "q_values",
    "ensemble, masked MultiDiscrete": "logits",
    "ensemble, Gaussian": "gaussian",
}
SOURCES = {
    "npy",
    "sb3",
    "sb3-contrib",
    "cleanrl",
    "rllib",
    "state dict",
    "safetensors",
    "torch module",
    "torchscript",
    "onnx",
}
# Observations that no export was proved on.
FRESH, SESSIONS = 240, 3


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_in_the_gallery(family: str) -> None:
    """Each row of the table of families is exported from somewhere, with the head that the table gives it."""
    found = [name for name in GALLERY if name.partition(" (")[0] == family or name.startswith(f"{family}, ")]
    exact = [name for name in GALLERY if name.startswith(f"{family} (")]

    assert found
    assert shown((exact or found)[0]).meaning.head == FAMILIES[family]


def test_every_source_is_in_the_gallery() -> None:
    """Each kind of checkpoint, of module and of file that can be exported is one of the sources."""
    sources = {name.rpartition("(")[2].removesuffix(")") for name in GALLERY}

    assert sources >= SOURCES


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_is_written_and_proved(name: str) -> None:
    """The file passes its own checks, and the real library, where there is one, was among what it was compared with."""
    exhibit, made = shown(name), artefact(name)

    parity = made.manifest.parity
    assert verify(made.data).passed
    assert parity.observations >= 1000
    assert parity.action_agreement == 1.0
    assert 0 <= parity.max_scaled_error <= TOLERANCE
    assert parity.steps == (100 if exhibit.meaning.memory else 1)
    assert parity.reference.startswith(exhibit.library)
    assert (exhibit.library == "") == (exhibit.meaning.native is None and "(onnx)" not in name)


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_acts_as_its_source_does(name: str) -> None:
    """On observations that the proof did not have, the file executes what the source itself does, step by step."""
    exhibit, made = shown(name), artefact(name)
    (trial,) = trials(exhibit.meaning, None, seed=2026)
    trial = _part(trial, FRESH if trial.starts.shape[0] == 1 else SESSIONS)

    told, found, head = _played(exhibit, made, trial)

    assert len(told) >= 200
    wrong = differing(exhibit.meaning, TOLERANCE, told.reshape(found.shape), found)
    if not isinstance(exhibit.meaning.action, Box):
        wrong &= ~near_ties(exhibit.meaning, made.manifest.parity, head)
    assert not wrong.any()
    assert len(np.unique(told.reshape(len(told), -1), axis=0)) > 1


def test_a_forgotten_normaliser_is_found() -> None:
    """The same network without its statistics is another policy to the real library, and is not written."""
    normalised, plain = shown("Gaussian PPO, VecNormalize (sb3)").meaning, read(stirred("PPO", UNEVEN, **SMALL.layers))
    assert isinstance(normalised, TrainedPolicy)

    with pytest.raises(ParityFailed, match=r"stable-baselines3 .* says"):
        build(replace(normalised, module=plain.module), ABOUT)


def _part(trial: Trial, sessions: int) -> Trial:
    """Keep so many of the episodes, the last ones: a small table's own states come first."""
    inputs = {name: array[:, -sessions:] for name, array in trial.inputs.items()}
    return Trial(inputs=inputs, starts=trial.starts[:, -sessions:])


def _played(
    exhibit: Exhibit, made: Artefact, trial: Trial
) -> tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.generic]]:
    """Play a trial with the source and with the file; gives the actions of both and the file's head."""
    session, native = Session(made.data), exhibit.begin(trial.starts.shape[1])
    carried: Arrays = {
        memory.port_in.name: np.full((trial.starts.shape[1], *memory.shape), memory.initial, dtype=memory.dtype)
        for memory in exhibit.meaning.memory
    }
    told, found, heads = [], [], []
    for step in range(len(trial.starts)):
        inputs = {name: array[step] for name, array in trial.inputs.items()}
        outputs = session.run({**inputs, **carried})
        carried = {memory.port_in.name: outputs[memory.port_out.name] for memory in exhibit.meaning.memory}
        told.append(native(inputs))
        found.append(outputs["action"])
        heads.append(outputs[HEADS[exhibit.meaning.head][0]])
    return np.concatenate(told), np.concatenate(found), np.concatenate(heads)
