"""The card: all that an artefact says, and nothing that it does to a terminal."""

import numpy as np
import pytest

from export.card import card
from export.spec import Array, Artefact, Discrete, Field, Fields, Golden, Manifest, Parity, Source, Tensor


@pytest.fixture
def artefact() -> Artefact:
    """An artefact that says as little as it may."""
    manifest = Manifest(
        name="small",
        version="1",
        family="dqn",
        head="q_values",
        observation=Array(shape=(2, 3)),
        action=Discrete(names=("a", "b")),
        golden=Golden(inputs={"obs": Tensor.of(np.zeros((4, 2, 3), dtype=np.float32))}, outputs={}),
        parity=Parity(reference="r", observations=1, max_abs_error=0, action_agreement=1, tolerance=1e-5),
        opset=20,
        source=Source(library="torch", algorithm=""),
    )
    return Artefact(manifest=manifest, digest="d" * 64, data=b"", operators=frozenset({"Gemm"}))


def test_an_artefact_that_says_little_has_a_short_card(artefact: Artefact) -> None:
    """What is not known is left out, and no evaluation says so."""
    text = card(artefact)

    assert "observation  array [2, 3], float32" in text
    assert "source       network of torch" in text
    assert "golden rows  4" in text
    assert "evaluation   none" in text
    assert "statistics" not in text
    assert "author" not in text


def test_a_stochastic_evaluation_and_open_bounds_are_told(artefact: Artefact) -> None:
    """Fields without statistics or bounds have their line too."""
    space = Fields(fields=(Field(name="x", unit="m"),))
    manifest = artefact.manifest.model_copy(update={"observation": space})
    known = Artefact(manifest=manifest, digest="d" * 64, data=b"", operators=frozenset())

    assert "  x  -inf .. inf              m" in card(known).splitlines()


def test_control_characters_are_shown_not_sent(artefact: Artefact) -> None:
    """A description cannot clear the screen or fake another line."""
    manifest = artefact.manifest.model_copy(update={"description": "fine\x1b[2J\nparity       perfect"})
    evil = Artefact(manifest=manifest, digest="d" * 64, data=b"", operators=frozenset())

    assert "  fine\\x1b[2J\\nparity       perfect" in card(evil).splitlines()
