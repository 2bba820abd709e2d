"""Students: smaller networks that learn what a mother answers, and are judged on what they did not see."""

import numpy as np
import pytest
import torch
from torch import nn

from export.distill import distilled
from export.errors import OptionInvalid, ParityFailed
from export.mother import Mother, mother_of
from export.playing import mean_return
from export.runtime import Session
from export.spec import Box, Discrete, Field, Fields, Recorded
from export.trained import About, TrainedPolicy
from export.verify import verify
from export.write import build
from tests.export.test_executed import POLICIES

ABOUT = About(name="student", version="1")
FIELDS = tuple(Field(name=name, low=-1, high=1) for name in ("place", "speed", "angle", "turn"))
SPACE = Fields(fields=FIELDS)
ROWS = np.random.default_rng(1).uniform(-1, 1, (3000, 4)).astype(np.float32)

torch.set_num_threads(1)


def balancing(head: str = "q_values") -> Mother:
    """Give a large network whose best action is where the pole leans, sealed."""
    torch.manual_seed(0)
    first = nn.Linear(4, 256)
    last = nn.Linear(256, 2)
    with torch.no_grad():
        first.weight[:64] = torch.tensor([0.0, 0.2, 2.0, 1.0])
        first.bias[:64] = torch.linspace(-1, 1, 64)
        last.weight[1, :64] = 0.05
        last.bias[1] = -float(torch.tanh(first.bias[:64]).sum() * 0.05)
    module = nn.Sequential(first, nn.Tanh(), last)
    policy = TrainedPolicy(module=module, observation=SPACE, action=Discrete(names=("left", "right")), head=head)  # type: ignore[arg-type]
    return mother_of(build(policy, About(name="mother", version="1")).data)


@pytest.fixture(scope="module")
def mother() -> Mother:
    """A network to learn from."""
    return balancing()


def test_a_student_answers_as_its_mother_on_what_it_did_not_see(mother: Mother) -> None:
    """The agreement in the file is that of the observations that were held out, and it is at least the floor."""
    seen = Recorded(inputs={"obs": ROWS}, origin="seen.npy")

    made = distilled(mother, ABOUT, [16], seen, floor=0.95)

    found = made.manifest.variant
    held = ROWS[4::5]
    same = mother.session.run({"obs": held})["action"] == Session(made.data).run({"obs": held})["action"]
    assert found is not None
    assert (found.kind, found.mother, found.observations) == ("distilled", mother.artefact.digest, 600)
    assert found.agreement == pytest.approx(same.mean())
    assert found.note == "layers 16, from recorded observations"
    assert len(made.data) < len(mother.artefact.data)
    assert made.manifest.statistics is not None
    assert verify(made.data).passed


def test_a_student_of_logits_learns_the_distribution() -> None:
    """Not only the best action: the probabilities are learned."""
    mother = balancing("logits")

    made = distilled(mother, ABOUT, [32], Recorded(inputs={"obs": ROWS}), floor=0.95)

    both = [of.run({"obs": ROWS[4::5]})["logits"] for of in (mother.session, Session(made.data))]
    logits = [torch.from_numpy(np.asarray(head, np.float32)) for head in both]
    apart = (logits[0].softmax(dim=1) - logits[1].softmax(dim=1)).abs().max(dim=1).values
    assert float(apart.mean()) < 0.02


def test_a_student_of_a_box_learns_mean_and_deviation() -> None:
    """Without recorded observations it learns from sampled ones."""
    torch.manual_seed(0)

    class Steering(nn.Module):
        def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            mean = torch.tanh(obs[:, :1] + obs[:, 1:2])
            return mean, 0.1 + 0.1 * obs[:, 2:3].square()

    box = Box(fields=(Field(name="wheel", low=-1, high=1),))
    policy = TrainedPolicy(module=Steering(), observation=SPACE, action=box, head="gaussian")
    mother = mother_of(build(policy, About(name="mother", version="1")).data)

    made = distilled(mother, ABOUT, [32, 32], None, floor=0.5)

    told, found = (of.run({"obs": ROWS}) for of in (mother.session, Session(made.data)))
    assert np.abs(told["std"].astype(np.float64) - found["std"].astype(np.float64)).mean() < 0.02
    assert made.manifest.variant is not None
    assert "from sampled observations" in made.manifest.variant.note


def test_a_student_below_the_floor_is_refused(mother: Mother) -> None:
    """One unit cannot learn it well enough for a floor of one."""
    with pytest.raises(ParityFailed, match="expected at least 100 %"):
        distilled(mother, ABOUT, [1], Recorded(inputs={"obs": ROWS}), floor=1.0)


@pytest.mark.parametrize(
    ("name", "what"), [("masked", "a mask"), ("remembering", "a memory"), ("parts", "several parts")]
)
def test_mothers_that_are_no_plain_layers_have_no_students(name: str, what: str) -> None:
    """Memory, masks and several parts are refused by name."""
    other = mother_of(build(POLICIES[name](), ABOUT).data)

    with pytest.raises(OptionInvalid, match=what):
        distilled(other, ABOUT, [8], None, floor=0.5)


def test_mother_and_student_play_the_same_episodes(mother: Mother) -> None:
    """Returns of whole episodes are compared in the environment itself; one that is not there is a sentence."""
    mean, deviation = mean_return("CartPole-v1", mother.artefact, 3)

    assert mean > 50
    assert deviation >= 0
    with pytest.raises(OptionInvalid, match="--env is 'Nowhere-v0'"):
        mean_return("Nowhere-v0", mother.artefact, 1)
