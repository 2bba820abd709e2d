"""Eight bits: smaller, measured against its mother, and refused where it answers otherwise too often."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from export.errors import ConversionFailed, OptionInvalid, ParityFailed
from export.mother import Mother, beside, mother_of
from export.quantize import quantized
from export.runtime import Session
from export.spec import Discrete, Field, Fields, Recorded
from export.trained import About, TrainedPolicy
from export.verify import verify
from export.write import build

ABOUT = About(name="small", version="1")
SPACE = Fields(fields=tuple(Field(name=f"x{at}", low=-1, high=1) for at in range(6)))
SEEN = Recorded(inputs={"obs": np.random.default_rng(0).uniform(-1, 1, (400, 6)).astype(np.float32)}, origin="seen.npy")

torch.set_num_threads(1)


def mother(*hidden: int) -> Mother:
    """Give a Q-network of some hidden layers, sealed."""
    torch.manual_seed(0)
    widths = (6, *hidden)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(widths[-1], 3))
    policy = TrainedPolicy(module=module, observation=SPACE, action=Discrete(names=("a", "b", "c")))
    return mother_of(build(policy, About(name="large", version="1")).data)


@pytest.fixture(scope="module")
def large() -> Mother:
    """A network that is large enough to gain."""
    return mother(128, 128)


def test_a_variant_is_smaller_and_says_whose_it_is(large: Mother) -> None:
    """Its file names the mother's digest and how often both execute the same action, and passes every check."""
    made = quantized(large, ABOUT, SEEN, floor=0.9)

    found = made.manifest.variant
    assert found is not None
    assert (found.kind, found.mother, found.observations) == ("int8", large.artefact.digest, 400)
    same = large.session.run(SEEN.inputs)["action"] == Session(made.data).run(SEEN.inputs)["action"]
    assert found.agreement == pytest.approx(same.mean())
    assert found.agreement >= 0.9
    assert len(made.data) < 0.5 * len(large.artefact.data)
    assert verify(made.data).passed


def test_size_speed_and_agreement_stand_side_by_side(large: Mother) -> None:
    """Each line has the mother's number, the variant's, and what that means."""
    lines = beside(large, quantized(large, ABOUT, SEEN, floor=0.9), SEEN.inputs)

    assert [line.split("  ")[0].strip() for line in lines[1:]] == [
        "bytes",
        "us at batch 1",
        "us at batch 8",
        "us at batch 64",
        "same action",
    ]
    assert "times less" in lines[1]


def test_a_variant_below_the_floor_is_refused(large: Mother) -> None:
    """Where fewer observations than asked for get the same action, nothing is made."""
    rows = np.random.default_rng(2).uniform(-1, 1, (4000, 6)).astype(np.float32)
    values = np.sort(np.asarray(large.session.run({"obs": rows})["q_values"], np.float64), axis=1)
    closest = rows[np.argsort(values[:, -1] - values[:, -2])[:100]]

    with pytest.raises(ParityFailed, match=r"of 100 observations, expected at least 100 %"):
        quantized(large, ABOUT, Recorded(inputs={"obs": closest}), floor=1.0)


def test_there_has_to_be_something_to_quantize() -> None:
    """The first and the last layer stay exact; and a variant is no mother."""
    single, double = mother(8), mother(8, 8)

    with pytest.raises(ConversionFailed, match="nothing to quantize"):
        quantized(single, ABOUT, SEEN, floor=0.5)
    made = quantized(double, ABOUT, SEEN, floor=0.5)
    with pytest.raises(OptionInvalid, match="is itself int8 of another artefact"):
        mother_of(made.data)
