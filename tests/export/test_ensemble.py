"""Ensembles: the mean of the members, and how far they disagree."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.ensemble import ensemble
from export.errors import CheckpointRefused
from export.runtime import Session
from export.spec import Discrete, Field, Fields, Memory
from export.trained import About, TrainedPolicy
from export.write import build
from tests.export.test_executed import BOX, MULTI, SPACE, Gaussian, Masked

ABOUT = About(name="several", version="1")
ROWS = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)

torch.set_num_threads(1)


def shaken(module: nn.Module, seed: int) -> nn.Module:
    """Give the module with weights of its own."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator)
    return module


def valued(seed: int, names: str = "abc") -> TrainedPolicy:
    """Give a small Q-network."""
    return TrainedPolicy(
        module=shaken(nn.Linear(4, len(names)), seed), observation=SPACE, action=Discrete(names=tuple(names))
    )


def test_values_are_averaged_and_their_disagreement_told() -> None:
    """The head is the mean of the members' values; the spread is the largest standard deviation of one of them."""
    members = [valued(seed) for seed in range(5)]

    artefact = build(ensemble(members), ABOUT)
    found = Session(artefact.data).run({"obs": ROWS})

    values = np.stack([member.module(torch.from_numpy(ROWS)).detach().numpy() for member in members])
    assert found["q_values"] == pytest.approx(values.mean(axis=0), abs=1e-5)
    assert found["spread"] == pytest.approx(values.std(axis=0).max(axis=1), abs=1e-5)
    assert artefact.manifest.spread
    assert artefact.manifest.family == "ensemble of dqn"


def test_probabilities_are_averaged_factor_by_factor_and_masks_stay() -> None:
    """The head's probabilities are the mean of the members', and a masked action has none in any of them."""
    members = [
        TrainedPolicy(module=shaken(Masked(5), seed), observation=SPACE, action=MULTI, head="logits", mask=True)
        for seed in range(3)
    ]
    masks = np.ones((50, 5), dtype=np.bool_)
    masks[:, 3] = False

    found = Session(build(ensemble(members), ABOUT).data).run({"obs": ROWS, "action_mask": masks})

    given = (torch.from_numpy(ROWS), torch.from_numpy(masks))
    logits = torch.stack([member.module(*given).detach() for member in members])
    chances = [part.softmax(dim=2) for part in torch.split(logits, [2, 3], dim=2)]
    mean = np.concatenate([part.mean(dim=0).numpy() for part in chances], axis=1)
    head = torch.from_numpy(found["logits"].astype(np.float32))
    told = torch.cat([part.softmax(dim=1) for part in torch.split(head, [2, 3], dim=1)], dim=1).numpy()
    distances = [0.5 * (part - part.mean(dim=0)).abs().sum(dim=2).mean(dim=0).numpy() for part in chances]
    assert told == pytest.approx(mean, abs=1e-6)
    assert np.all(found["logits"][:, 3] == np.float32(-1e8))
    assert found["spread"] == pytest.approx(np.max(distances, axis=0), abs=1e-6)


def test_means_and_variances_are_averaged() -> None:
    """A Box's mean is the mean of the members', its variance the mean of theirs."""
    members = [
        TrainedPolicy(module=shaken(Gaussian(), seed), observation=SPACE, action=BOX, head="gaussian")
        for seed in range(3)
    ]

    found = Session(build(ensemble(members), ABOUT).data).run({"obs": ROWS})

    answers = [member.module(torch.from_numpy(ROWS)) for member in members]
    means, stds = (np.stack([answer[at].detach().numpy() for answer in answers]) for at in (0, 1))
    assert found["mean"] == pytest.approx(means.mean(axis=0), abs=1e-5)
    assert found["std"] == pytest.approx(np.sqrt((stds**2).mean(axis=0)), abs=1e-5)
    assert found["spread"] == pytest.approx(means.std(axis=0).max(axis=1), abs=1e-5)


@pytest.mark.parametrize(
    ("told", "what"),
    [
        ({"action": Discrete(names=("x", "y", "z"))}, "action"),
        ({"observation": Fields(fields=(Field(name="y"),))}, "observation"),
        ({"head": "logits"}, "head"),
        ({"memory": (Memory(name="h", shape=(1,)),)}, "memory"),
    ],
)
def test_members_that_do_not_go_together_are_refused(told: dict[str, Any], what: str) -> None:
    """Another space, head or memory than the first member's is named."""
    with pytest.raises(CheckpointRefused, match=f"member 2 of the ensemble has another {what}"):
        ensemble([valued(0), replace(valued(1), **told)])


def test_members_that_only_say_what_they_chose_are_refused() -> None:
    """The mean of chosen actions is no probability, and beside one with scores it is no value."""
    member = replace(valued(0), head="logits", scores=False)

    with pytest.raises(CheckpointRefused, match="the members give the action that they chose, expected scores"):
        ensemble([member, member])
    with pytest.raises(CheckpointRefused, match="member 2 of the ensemble has another scores"):
        ensemble([replace(valued(0), head="logits"), member])


def test_recurrent_members_are_refused() -> None:
    """Members that carry memory would each need their own."""
    member = replace(valued(0), memory=(Memory(name="h", shape=(1,)),))

    with pytest.raises(CheckpointRefused, match="the members carry memory"):
        ensemble([member, member])
