"""Masks: which value of a file's own mask allows is found however its softmax is saturated, or it is refused."""

import numpy as np
import pytest

from export.adopt.adoption import adopt
from export.adopt.reading import Said
from export.errors import AdoptionRefused
from tests.export.adopt.files import File, answered, finished, rows
from tests.export.adopt.test_adoption import original

SAID = Said(head="logits")
# Far out, logits of a network with such weights are hundreds apart.
STEEP = 40.0


def begun(width: int = 4, steepness: float = STEEP) -> tuple[File, str, str]:
    """Begin a file: an observation of four numbers, its steep logits, and the mask."""
    file = File()
    weights = file.constant(np.eye(4)[:, :width] * steepness)
    obs = file.input("obs", ["batch", 4])
    logits = file.add("Add", file.add("MatMul", obs, weights), file.constant(np.linspace(-0.4, 0.4, width)))
    return file, logits, file.input("action_mask", ["batch", width])


def blocked(file: File, mask: str) -> str:
    """Give what is 1 where the mask is 0."""
    return file.add("Sub", file.constant([1.0]), mask)


def shares(file: File, logits: str, mask: str, epsilon: float) -> str:
    """Draw ML-Agents' masked log-probabilities: shares times the mask, normalised, and a floor under the logarithm."""
    kept = file.add("Mul", file.add("Add", file.add("Softmax", logits, axis=1), file.constant([epsilon])), mask)
    share = file.add("Div", kept, file.add("ReduceSum", kept, file.constant([1], "int64"), keepdims=1))
    return file.add("Log", file.add("Add", share, file.constant([epsilon])))


def masked(style: str, *, turned: bool = False) -> bytes:
    """Give a file that forbids in a way that people use; with ``turned``, 1 is what forbids."""
    file, logits, mask = begun()
    mask = blocked(file, mask) if turned else mask
    penalty = file.add("Mul", blocked(file, mask), file.constant([1e8]))
    if style == "log of shares":
        shared = file.add("Softmax", file.add("Sub", logits, penalty), axis=1)
        found = file.add("Log", file.add("Add", shared, file.constant([1e-7])))
    elif style == "product of shares":
        found = shares(file, logits, mask, 1e-7)
    elif style == "penalty":
        found = file.add("Sub", logits, penalty)
    else:
        found = file.add("Where", file.add("Cast", mask, to=9), logits, file.constant([-np.inf]))
    file.add("Identity", found, out=file.output("out", ["batch", 4]))
    return file.data()


STYLES = ["log of shares", "product of shares", "penalty", "minus infinity"]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_a_mask_is_found_however_steep_its_logits_are(style: str, turned: bool) -> None:
    """Far out the logits of improbable actions are at their floor: nearer observations show what the mask does."""
    allowed = np.random.default_rng(3).random((50, 4)) < 0.6
    allowed[:, 1] = True
    seen = rows(50, 4)

    artefact = finished(masked(style, turned=turned), SAID)
    found = answered(artefact, {"obs": seen, "action_mask": allowed})

    given = (allowed != turned).astype(np.float32)
    told = original(masked(style, turned=turned)).run(["out"], {"obs": seen, "action_mask": given})[0]
    assert (found["logits"][~allowed] == -1e8).all()
    assert np.abs(found["logits"][allowed] - told[allowed]).max() <= 1e-4
    assert np.array_equal(found["action"], np.where(allowed, told, -np.inf).argmax(axis=1))


def useless(style: str) -> bytes:
    """Give a file whose input of the mask's name forbids nothing, or not all, or not always the same way."""
    file, logits, mask = begun()
    nothing = file.constant([0.0])
    if style == "does nothing":
        found = file.add("Add", logits, file.add("Mul", mask, nothing))
    elif style == "half dead":
        alive = file.add("Mul", blocked(file, mask), file.constant([1e8, 1e8, 0.0, 0.0]))
        found = file.add("Sub", logits, alive)
    elif style == "a feature":
        found = file.add("Add", logits, file.add("MatMul", mask, file.weights(4, 4)))
    elif style == "each in its own sense":
        turned = file.constant([0.0, 0.0, 1.0, 1.0])
        own = file.add("Abs", file.add("Sub", mask, turned))
        found = file.add("Sub", logits, file.add("Mul", blocked(file, own), file.constant([1e8])))
    elif style == "of both senses":
        mean = file.add("ReduceMean", mask, axes=[1], keepdims=1)
        odd = file.add("Abs", file.add("Sub", mask, mean))
        found = file.add("Sub", logits, file.add("Mul", odd, file.constant([1e8])))
    elif style == "shifted by one":
        moved = file.add("Gather", mask, file.constant([1, 2, 3, 0], "int64"), axis=1)
        found = file.add("Sub", logits, file.add("Mul", blocked(file, moved), file.constant([1e8])))
    else:
        # Where the first number is far out, 1 forbids; near zero, 1 allows.
        first = file.add("Slice", "obs", *(file.constant([n], "int64") for n in (0, 1, 1)))
        far = file.add("Cast", file.add("Greater", file.add("Abs", first), file.constant([0.3])), to=1)
        own = file.add("Abs", file.add("Sub", mask, far))
        found = file.add("Sub", logits, file.add("Mul", blocked(file, own), file.constant([1e8])))
    file.add("Identity", found, out=file.output("out", ["batch", 4]))
    return file.data()


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("does nothing", "if 1 allows, forbidding actions 0, 1, 2, 3 does not lower its logit"),
        ("half dead", "if 1 allows, forbidding actions 2, 3 does not lower its logit"),
        ("a feature", "'action_mask' is no mask of this head"),
        ("each in its own sense", "if 1 allows, forbidding actions 2, 3 raises its logit"),
        ("of both senses", "a mask of which both 1 and 0 seem to allow"),
        ("shifted by one", "if 1 allows, forbidding actions 0, 1, 2, 3 does not lower its logit"),
        ("one sense far out, another near", "if 1 allows, forbidding actions 0, 1, 2, 3 raises its logit"),
    ],
)
def test_what_forbids_nothing_is_no_mask(style: str, message: str) -> None:
    """Each action has to be seen to fall at some observation, and none to rise at any."""
    with pytest.raises(AdoptionRefused, match=message):
        adopt(useless(style), SAID)


def test_log_shares_of_several_branches_are_masked() -> None:
    """Two branches side by side, each with its own softmax and floor: the mask of both is found."""
    file, logits, mask = begun()
    parts = []
    for start, end in ((0, 2), (2, 4)):
        bounds = [file.constant([n], "int64") for n in (start, end, 1)]
        part, own = (file.add("Slice", name, *bounds) for name in (logits, mask))
        parts.append(shares(file, part, own, 1e-7))
    file.add("Concat", *parts, axis=1, out=file.output("out", ["batch", 4]))

    artefact = finished(file.data(), Said(head="logits", sizes=(2, 2)))

    found = answered(artefact, {"obs": rows(20, 4), "action_mask": np.tile([True, False, False, True], (20, 1))})
    assert np.array_equal(np.asarray(found["action"]), np.tile([0, 1], (20, 1)))
