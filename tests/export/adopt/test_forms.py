"""The forms of a file's numbers: probabilities become logits inside the graph, choices rows of ones and zeros."""

import numpy as np
import pytest

from export.adopt.adoption import adopt
from export.adopt.forms import inside_of, served
from export.adopt.reading import Said
from export.errors import HeadImplausible, OptionInvalid
from export.plausible import FLOOR
from export.spec import MultiDiscrete
from export.spec.artefact import Artefact
from tests.export.adopt.files import File, answered, finished, rows
from tests.export.adopt.test_adoption import original
from tests.export.adopt.test_dialects import masks, ml_agents

PROBABILITIES = Said(head="probabilities")


def named_example() -> File:
    """Give a policy that is sure by 0.909 where the observation is 1, with a softmax at its end."""
    file = File()
    weights = file.constant([[3.0, 0.0, 0.0], [0.0, 1.0, -1.0]])
    scores = file.add("MatMul", file.input("state", ["batch", 2]), weights)
    file.add("Softmax", scores, axis=1, out=file.output("probs", ["batch", 3]))
    return file


def branched(*, together: bool = False) -> File:
    """Give a policy of two factors with a softmax over each, or one over all of both."""
    file = File()
    state = file.input("state", ["batch", 4])
    parts = [file.network(state, 4, 3), file.network(state, 4, 2)]
    if together:
        joined = file.add("Concat", *parts, axis=1)
        file.add("Softmax", joined, axis=1, out=file.output("probs", ["batch", 5]))
    else:
        shares = [file.add("Softmax", part, axis=1) for part in parts]
        file.add("Concat", *shares, axis=1, out=file.output("probs", ["batch", 5]))
    return file


def masked(*, before: bool) -> File:
    """Give a policy with a mask before its softmax, or multiplied into what comes out of it."""
    file = File()
    scores = file.network(file.input("state", ["batch", 4]), 4, 3)
    mask = file.input("action_mask", ["batch", 3])
    if before:
        block = file.add("Mul", file.add("Sub", file.constant(1.0), mask), file.constant(1e8))
        file.add("Softmax", file.add("Sub", scores, block), axis=1, out=file.output("probs", ["batch", 3]))
    else:
        shares = file.add("Softmax", scores, axis=1)
        file.add("Mul", shares, mask, out=file.output("probs", ["batch", 3]))
    return file


def saturated(scale: float) -> File:
    """Give a policy whose softmax is exactly 0 and 1 far out."""
    file = File()
    scores = file.add("Mul", file.network(file.input("state", ["batch", 4]), 4, 3), file.constant(scale))
    file.add("Softmax", scores, axis=1, out=file.output("probs", ["batch", 3]))
    return file


def shares_of(artefact: Artefact, seen: np.ndarray, *sizes: int, **inputs: np.ndarray) -> np.ndarray:
    """Give the probabilities that a service draws with: the softmax of the head, factor by factor."""
    head = answered(artefact, {"obs": seen, **inputs})["logits"].astype(np.float64)
    parts = np.split(head, np.cumsum(sizes)[:-1], axis=1)
    weights = [np.exp(part - part.max(axis=1, keepdims=True)) for part in parts]
    return np.concatenate([one / one.sum(axis=1, keepdims=True) for one in weights], axis=1)


@pytest.mark.parametrize(
    ("head", "file", "sizes"),
    [
        ("logits", named_example(), ()),
        ("q_values", named_example(), ()),
        ("logits", branched(), (3, 2)),
        ("logits", branched(together=True), (3, 2)),
        ("logits", masked(before=True), ()),
        ("q_values", masked(before=True), ()),
    ],
    ids=["0.909", "0.909 as values", "two factors", "one softmax over two", "a mask before it", "and as values"],
)
def test_probabilities_are_refused_as_scores(head: str, file: File, sizes: tuple[int, ...]) -> None:
    """The softmax of 0.909, 0.045 and 0.045 is 0.543 ...: another policy, which a comparison with itself proves."""
    with pytest.raises(HeadImplausible, match=r"these are probabilities, .* say --head probabilities"):
        finished(file.data(), Said(head=head, sizes=sizes))


def test_their_logarithm_is_the_policy() -> None:
    """What is drawn with is what the file says, 0.909 where it says so."""
    seen = np.array([[1.0, 0.0], [0.0, 1.0], [0.3, -2.0]], np.float32)

    artefact = finished(named_example().data(), PROBABILITIES)

    shares = shares_of(artefact, seen, 3)
    assert abs(shares[0, 0] - 0.909) < 1e-3
    assert np.abs(shares - original(named_example().data()).run(["probs"], {"state": seen})[0]).max() < 1e-6
    assert artefact.manifest.head == "logits"
    assert artefact.manifest.scores
    assert artefact.manifest.inside == ("logarithm of the probabilities, of 1.2e-38 where they are less",)


@pytest.mark.parametrize("together", [False, True])
def test_of_several_factors_each_is_in_proportion(together: bool) -> None:
    """One softmax over all of them has the same proportions within each."""
    seen, data = rows(100, 4), branched(together=together).data()

    artefact = finished(data, Said(head="probabilities", sizes=(3, 2)))

    told = original(data).run(["probs"], {"state": seen})[0].astype(np.float64)
    parts = [told[:, :3], told[:, 3:]]
    expected = np.concatenate([part / part.sum(axis=1, keepdims=True) for part in parts], axis=1)
    assert isinstance(artefact.manifest.action, MultiDiscrete)
    assert np.abs(shares_of(artefact, seen, 3, 2) - expected).max() < 1e-5


@pytest.mark.parametrize("before", [True, False])
def test_a_mask_goes_with_them(before: bool) -> None:
    """What is forbidden has no share, and the others are in proportion, wherever the file masks."""
    seen, mask = rows(100, 4), masks(100, 3)

    artefact = finished(masked(before=before).data(), PROBABILITIES)
    found = answered(artefact, {"obs": seen, "action_mask": mask})["logits"]

    given = {"state": seen, "action_mask": mask.astype(np.float32)}
    told = original(masked(before=before).data()).run(["probs"], given)[0].astype(np.float64)
    assert (found[~mask] == -1e8).all()
    shares = shares_of(artefact, seen, 3, action_mask=mask)
    assert np.abs(shares - told / told.sum(axis=1, keepdims=True)).max() < 1e-5


@pytest.mark.parametrize("scale", [5.0, 40.0, 1000.0])
def test_exact_zeros_have_a_floor(scale: float) -> None:
    """Their logarithm is that of the least number there is, on both sides of the proof, and no infinity."""
    artefact = finished(saturated(scale).data(), PROBABILITIES)

    found = answered(artefact, {"obs": rows(300, 4) * 10})["logits"]
    assert np.isfinite(found).all()
    assert found.min() >= np.log(FLOOR) - 1e-4
    assert scale < 40 or found.min() <= np.log(FLOOR) + 1e-4


@pytest.mark.parametrize("tail", ["logits", "log-probabilities"])
def test_what_is_no_probability_is_not_taken_for_one(tail: str) -> None:
    """The numbers before a softmax, and logarithms, are logits: the message says so."""
    file = File()
    scores = file.network(file.input("state", ["batch", 4]), 4, 3)
    operator = ("Identity", {}) if tail == "logits" else ("LogSoftmax", {"axis": 1})
    file.add(operator[0], scores, out=file.output("out", ["batch", 3]), **operator[1])

    with pytest.raises(HeadImplausible, match=r"was said to be 'probabilities', but .* --head logits"):
        finished(file.data(), PROBABILITIES)
    found = answered(finished(file.data(), Said(head="logits")), {"obs": rows(20, 4)})["logits"]

    assert np.abs(found - original(file.data()).run(["out"], {"state": rows(20, 4)})[0]).max() < 1e-5


def test_ml_agents_shares_are_seen_too() -> None:
    """A file of ML-Agents whose answer is neither drawn nor a logarithm is one that somebody has to explain."""
    file = ml_agents(2.0)
    scores = file.network("obs_0", 4, 3)
    file.add("Softmax", scores, axis=1, out=file.output("discrete_actions", ["batch", 3]))

    with pytest.raises(HeadImplausible, match="these are probabilities"):
        finished(file.data(), Said())
    artefact = finished(file.data(), PROBABILITIES)

    told = original(file.data()).run(["discrete_actions"], {"obs_0": rows(20, 4)})[0]
    assert np.abs(shares_of(artefact, rows(20, 4), 3) - told).max() < 1e-6


def test_values_of_several_factors_are_refused_as_such() -> None:
    """Several choices at once have logits: the sentence says so, whatever the numbers are."""
    with pytest.raises(OptionInvalid, match="the head is 'q_values', expected 'logits' for several choices at once"):
        adopt(branched().data(), Said(head="q_values", sizes=(3, 2)))


def test_the_floor_and_what_lies_below_it() -> None:
    """Rounding below zero is zero; what is further below is none, and none stays none."""
    found = served(np.array([[0.5, 0.0, -1e-7, -1e-3, np.nan]]), "probabilities", (5,))

    assert np.allclose(found[0, :3], np.log([0.5, FLOOR, FLOOR]))
    assert np.isnan(found[0, 3:]).all()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([2.0, 0.0], [0, 0, 1, 1, 0]),
        ([0.0, 1.0], [1, 0, 0, 0, 1]),
        ([3.0, 0.0], None),
        ([-1.0, 0.0], None),
        ([0.5, 0.0], None),
        ([np.nan, 0.0], None),
        ([np.inf, 0.0], None),
        ([0.0, 1.0, 0.0, 1.0, 0.0], [0, 1, 0, 1, 0]),
        ([0.0, 1.0, 0.0, 1.0, 1.0], None),
        ([0.0, 0.0, 0.0, 1.0, 0.0], None),
        ([0.2, 0.8, 0.0, 1.0, 0.0], None),
        ([1.0, 1.0, -1.0, 1.0, 0.0], None),
    ],
)
def test_choices_as_arrays(given: list[float], expected: list[float] | None) -> None:
    """Indices and ones alike; anything else is no number in the whole row."""
    found = served(np.array([given]), "choices", (3, 2))

    assert np.isnan(found).all() if expected is None else np.array_equal(found, [expected])


def test_what_happens_is_named_once() -> None:
    """For people, by form; plain numbers need no words."""
    assert inside_of(["numbers"]) == ()
    assert len(inside_of(["choices", "choices", "numbers"])) == 1


def test_what_was_said_goes_to_the_proof() -> None:
    """It is there that all answers are seen, recorded observations' among them."""
    found = adopt(named_example().data(), Said(head="logits"))

    assert found.meaning.said == "logits"
    assert adopt(named_example().data(), PROBABILITIES).meaning.said == "probabilities"
