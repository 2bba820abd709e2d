"""The card: all that an artefact says, and nothing that it does to a terminal."""

import json
from pathlib import Path

import numpy as np
import pytest

from export.card import Signed, card, card_json
from export.signing_command import keygen, sign_file, signed_by
from export.spec import (
    Array,
    Box,
    Dict,
    Discrete,
    Entry,
    Factor,
    Field,
    Fields,
    Golden,
    Manifest,
    Memory,
    MultiDiscrete,
    Parity,
    Source,
    Statistics,
    Tensor,
    Variant,
)
from export.spec.artefact import Artefact
from export.spec.signature import signature_path

BUNDLED = Path(__file__).resolve().parents[2] / "policies" / "autoscaler-1.onnx"


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


def told(artefact: Artefact, **changes: object) -> list[str]:
    """The card's lines with some of the manifest's values changed."""
    manifest = artefact.manifest.model_copy(update=changes)
    return card(Artefact(manifest, artefact.digest, artefact.data, artefact.operators)).splitlines()


CAMERA = Entry(key="camera", space=Array(shape=(8, 8), dtype="uint8", low=0, high=255))
STATE = Entry(key="state", space=Fields(fields=(Field(name="x", unit="m", low=-1, high=1), Field(name="speed"))))


def test_the_parts_of_a_dict_are_told_one_by_one(artefact: Artefact) -> None:
    """Each with its form, and named numbers with the statistics of their own place in the flattened row."""
    size = 64 + 2
    taken = Statistics(
        count=9,
        mean=tuple(range(size)),
        std=(1.0,) * size,
        probabilities=(0.01, 0.99),
        quantiles=((0.0, 9.0),) * size,
        source="s.npz",
    )

    lines = told(artefact, observation=Dict(entries=(CAMERA, STATE)), statistics=taken)

    at = lines.index("observation  2 parts")
    assert lines[at + 1] == "  camera: array [8, 8], uint8, 0 .. 255"
    assert lines[at + 2] == "  state: 2 fields, float32"
    assert lines[at + 3].startswith(
        "    x      -1 .. 1                  m        mean 64, std 1, 1 % below 0, 1 % above 9"
    )
    assert lines[at + 4].startswith("    speed  -inf .. inf                       mean 65")
    assert "statistics   of 9 observations from s.npz" in lines


def test_the_factors_of_an_action_are_told_one_by_one(artefact: Artefact) -> None:
    """Each with its choices by name."""
    factors = (Factor(name="gear", names=("low", "high")), Factor(name="lamp", names=("off", "dim", "on")))

    lines = told(artefact, action=MultiDiscrete(factors=factors), head="logits")

    at = lines.index("action       2 choices at once")
    assert lines[at + 1 : at + 3] == ["  gear  one of 2: low, high", "  lamp  one of 3: off, dim, on"]


def test_the_numbers_of_a_box_are_told_one_by_one(artefact: Artefact) -> None:
    """With bounds and units, the shape where it has more than one axis, and how the head becomes them."""
    fields = (Field(name="steer", unit="rad", low=-1, high=1), Field(name="gas", low=0, high=2.5))

    lines = told(artefact, action=Box(fields=fields, shape=(2, 1)), head="gaussian", squash="tanh", spread=True)

    assert "family       dqn, head gaussian (mean, std), squashed by tanh, with spread" in lines
    at = lines.index("action       2 numbers, of shape [2, 1]")
    assert lines[at + 1 : at + 3] == ["  steer  -1 .. 1                  rad", "  gas    0 .. 2.5"]
    assert "action       1 number" in told(artefact, action=Box(fields=fields[:1]))


def test_mask_and_memory_are_told(artefact: Artefact) -> None:
    """What goes in beside the observation, and what an episode starts with."""
    memory = (Memory(name="h", shape=(1, 4), meaning="hidden state"), Memory(name="last", shape=(2,), initial=0.5))

    lines = told(artefact, mask=True, memory=memory)

    assert "mask         2 truths: what is not allowed is not chosen" in lines
    assert "memory       h [1, 4], float32, 0 where an episode starts: hidden state" in lines
    assert "memory       last [2], float32, 0.5 where an episode starts" in lines


def test_a_variant_names_its_mother(artefact: Artefact) -> None:
    """With how often it answers alike, and how often it had to."""
    variant = Variant(kind="int8", mother="a" * 64, observations=500, agreement=0.996, floor=0.99, note="weights only")

    lines = told(artefact, variant=variant)

    at = lines.index(f"variant      int8 of the artefact with digest {'a' * 64}")
    assert lines[at + 1].strip() == "same action as that in 99.6 % of 500 observations, at least 99 % asked"
    assert lines[at + 2].strip() == "weights only"


def test_recorded_rows_and_steps_are_part_of_the_proof(artefact: Artefact) -> None:
    """How many recorded actions agreed, and over how many steps a memory was compared."""
    parity = artefact.manifest.parity.model_copy(update={"steps": 100, "recorded": 40, "recorded_ties": 2})

    text = "\n".join(told(artefact, parity=parity))

    assert "parity       1 observations over 100 steps, r: same action in 100 %" in text
    assert "             40 of them with recorded actions (2 near ties)" in text
    assert "recorded actions" not in card(artefact)


DECLARED = {"library": "torch", "algorithm": "", "checkpoint_sha256": "c" * 64}


@pytest.mark.parametrize("library", ["torch", "safetensors", "cleanrl"])
def test_a_declared_network_is_unproven_until_it_met_recorded_actions(artefact: Artefact, library: str) -> None:
    """Its file holds tensors alone: that the activation is right says nothing but what the policy did."""
    source = Source.model_validate(DECLARED | {"library": library})
    parity = artefact.manifest.parity.model_copy(update={"recorded": 40})

    unproven, met = told(artefact, source=source), told(artefact, source=source, parity=parity)

    assert any(line.startswith("behaviour    declared, unproven against behaviour: activations") for line in unproven)
    assert "behaviour    declared, and met 40 recorded actions" in met
    variant = Variant(kind="int8", mother="a" * 64, observations=500, agreement=1, floor=0.99)
    (line,) = (line for line in told(artefact, source=source, variant=variant) if line.startswith("behaviour"))
    assert line.startswith("behaviour    declared, as its mother was")


@pytest.mark.parametrize(
    ("source", "recorded", "expected"),
    [
        (DECLARED, 0, "unproven"),
        (DECLARED, 3, "recorded"),
        ({"library": "torch", "algorithm": ""}, 0, "source"),
        *[(DECLARED | {"library": library}, 0, "source") for library in ("stable-baselines3", "rllib", "numpy")],
        *[(DECLARED | {"library": library}, 0, "source") for library in ("torchscript", "no dialect", "rsl_rl")],
    ],
)
def test_the_json_says_what_was_compared_with(
    artefact: Artefact, source: dict[str, object], recorded: int, expected: str
) -> None:
    """A library's own policy, a module in memory, a table and a graph are compared with themselves."""
    parity = artefact.manifest.parity.model_copy(update={"recorded": recorded})
    manifest = artefact.manifest.model_copy(update={"source": Source.model_validate(source), "parity": parity})
    known = Artefact(manifest, artefact.digest, artefact.data, artefact.operators)

    assert json.loads(card_json(known))["behaviour"] == expected
    assert ("behaviour" in card(known)) == (expected != "source")


def test_the_commit_of_the_source_is_told(artefact: Artefact) -> None:
    """Where it is known."""
    source = Source(library="cleanrl", algorithm="PPO", commit="abc123")

    assert "             commit abc123" in told(artefact, source=source)


def test_the_json_has_the_ports_and_the_signature(artefact: Artefact) -> None:
    """Beside the manifest, of which only the golden rows' numbers are left out."""
    signed = Signed("fits", "f" * 64, f"signed by {'f' * 64}")
    values = json.loads(card_json(artefact, signed))

    assert values["inputs"] == [{"name": "obs", "dtype": "float32", "shape": [2, 3]}]
    assert [port["name"] for port in values["outputs"]] == ["q_values"]
    assert values["signature"] == {"state": "fits", "key": "f" * 64, "found": f"signed by {'f' * 64}"}
    assert (values["golden_rows"], values["bytes"], values["operators"]) == (4, 0, ["Gemm"])
    assert "golden" not in values
    assert json.loads(card_json(artefact))["signature"] is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two pairs of keys and an artefact that the first one signed."""
    (tmp_path / "p-1.onnx").write_bytes(BUNDLED.read_bytes())
    for name in "ab":
        keygen(["-o", str(tmp_path / name)])
    sign_file([str(tmp_path / "p-1.onnx"), "--key", str(tmp_path / "a")])
    return tmp_path


def test_the_signature_is_told_as_far_as_it_is_known(folder: Path, artefact: Artefact) -> None:
    """Signed by whom; that it was not checked where no key was given; that it does not fit; that there is none."""
    file, data = folder / "p-1.onnx", BUNDLED.read_bytes()
    key = json.loads(signature_path(file).read_bytes())["key"]

    assert signed_by(file, data, [folder / "a.pub"]) == Signed("fits", key, f"signed by {key}")
    unchecked = signed_by(file, data, [])
    assert (unchecked.state, unchecked.key) == ("unchecked", key)
    assert "not checked, no key was given" in unchecked.found
    other = signed_by(file, data, [folder / "b.pub"])
    assert other.state == "does not fit"
    assert other.found.startswith("does not fit: it is signed with the key")
    assert signed_by(file, data + b"\0", []).found == "does not fit: it is of a file with another sha256"
    signature_path(file).write_bytes(b"noise")
    assert signed_by(file, data, []).found.startswith("does not fit: its signature file is not a signature")
    signature_path(file).unlink()
    assert signed_by(file, data, [folder / "a.pub"]) == Signed("none", "", "not signed")
    assert "signature    not signed" in card(artefact, Signed("none", "", "not signed")).splitlines()
