"""A smaller student that learns a mother artefact's answers from recorded or sampled observations."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from export.errors import OptionInvalid
from export.meaning import About
from export.mother import Mother, accepted, agreement, asked
from export.observations import sampled
from export.questions import sizes_of
from export.runtime import Session
from export.spec import HEADS, Fields, Recorded
from export.spec.artefact import Artefact
from export.trained import TrainedPolicy
from export.write import build

Answer = torch.Tensor | tuple[torch.Tensor, ...]
_STEPS = 2000
_BATCH = 128
_RATE = 3e-3
_SAMPLED = 20_000
# The share of rows, spread evenly, on which the student is judged and which it does not learn from.
_HELD_OUT = 5
# Recorded rows are few and lie on one path: each is shown moved by these shares of the fields' deviation.
_MOVED = (0.0, 0.03, 0.1, 0.3)


def distilled(
    mother: Mother, about: About, hidden: Sequence[int], recorded: Recorded | None, floor: float, seed: int = 0
) -> Artefact:
    """Train layers of ``hidden`` widths to answer as the mother does; nothing is written.

    It learns from four fifths of the recorded observations (of sampled ones where none were recorded) and is judged on
    the last fifth, where it executes the mother's action in a share of at least ``floor``. The same input gives the
    same student. Raises OptionInvalid for a mother with memory, a mask or anything but named float32 numbers to see,
    and ParityFailed below the floor.
    """
    _refuse_unsuitable(mother)
    rows = (
        recorded.inputs["obs"] if recorded is not None else sampled(mother.meaning.observation, _SAMPLED, seed)["obs"]
    )
    held = np.arange(len(rows)) % _HELD_OUT == _HELD_OUT - 1
    if not held.any():
        msg = f"there are {len(rows)} observations, expected at least {_HELD_OUT} to learn from and to be judged on"
        raise OptionInvalid(msg)
    learned = rows[~held].astype(np.float32)
    student = _student(mother, hidden, learned, seed)
    _learn(mother, student, learned, seed)
    judged = asked(mother, Recorded(inputs={"obs": np.ascontiguousarray(rows[held])}))
    policy = _as_policy(mother, student, hidden)
    about_it = build(policy, about).data
    share = agreement(mother.meaning, judged, Session(about_it))
    layers = " ".join(map(str, hidden))
    origin = "recorded" if recorded is not None else "sampled"
    variant = accepted(mother, "distilled", share, len(judged), floor, f"layers {layers}, from {origin} observations")
    told = None if recorded is None else replace(recorded, actions=None)
    return build(replace(policy, variant=variant), about, recorded=told)


def _refuse_unsuitable(mother: Mother) -> None:
    meaning = mother.meaning
    if not isinstance(meaning.observation, Fields) or meaning.observation.dtype != "float32":
        msg = (
            "the mother sees images, states or several parts, expected named float32 numbers: a student is plain layers"
        )
        raise OptionInvalid(msg)
    if meaning.memory or meaning.mask or meaning.spread:
        msg = "the mother has a memory, a mask or members that disagree, and a student is plain layers without them"
        raise OptionInvalid(msg)
    if not meaning.scores:
        msg = "the mother has no scores, only the action that it chose, expected one whose scores a student can learn"
        raise OptionInvalid(msg)


class Student(nn.Module):
    """Plain layers over standardised observations, with the mother's head at their end."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, rows: torch.Tensor, hidden: Sequence[int], width: int, outputs: int, *, still: bool) -> None:
        super().__init__()
        self.register_buffer("mean", rows.mean(dim=0))
        self.register_buffer("std", rows.std(dim=0, correction=0).clamp_min(1e-6))
        widths = (rows.shape[1], *hidden)
        layers: list[nn.Module] = []
        for inputs, outs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outs), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Linear(widths[-1], width * outputs))
        self.outputs, self.still = outputs, still

    def forward(self, obs: torch.Tensor) -> Answer:
        found: torch.Tensor = self.body((obs - self.mean) / self.std)
        if self.outputs == 1:
            return found
        mean, log_std = found.chunk(2, dim=1)
        return mean, torch.zeros_like(mean) if self.still else log_std.clamp(-20, 20).exp()


def _student(mother: Mother, hidden: Sequence[int], rows: np.ndarray, seed: int) -> Student:
    played = mother.session.run({"obs": rows})
    still = mother.meaning.head == "gaussian" and not np.any(played["std"])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Student(
            torch.from_numpy(rows),
            hidden,
            mother.meaning.action.width,
            len(HEADS[mother.meaning.head]),
            still=bool(still),
        )


def _learn(mother: Mother, student: Student, rows: np.ndarray, seed: int) -> None:
    """Descend on the distance from the mother's head, with the rate falling to nothing by a cosine.

    The mother is asked anew at every step, about rows moved by amounts of their own: few rows still teach a lot.
    """
    generator = np.random.default_rng(seed)
    deviation = rows.std(axis=0)
    distance = _distance(mother, rows)
    optimiser = torch.optim.Adam(student.parameters(), lr=_RATE)
    for step in range(_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * step / _STEPS))
        chosen = rows[generator.integers(0, len(rows), _BATCH)]
        moved = generator.standard_normal(chosen.shape) * deviation * generator.choice(_MOVED, (_BATCH, 1))
        given = (chosen + moved).astype(np.float32)
        told = mother.session.run({"obs": given}, chunk=_BATCH)
        heads = [torch.from_numpy(np.asarray(told[name], dtype=np.float32)) for name in HEADS[mother.meaning.head]]
        loss = distance(student(torch.from_numpy(given)), heads)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
        optimiser.step()


def _distance(mother: Mother, rows: np.ndarray) -> Callable[[Answer, list[torch.Tensor]], torch.Tensor]:
    """Choose the distance of a head from the mother's, with scales taken from what she answers to the rows."""
    told = mother.session.run({"obs": rows})
    head, *stds = [torch.from_numpy(np.asarray(told[name], np.float32)) for name in HEADS[mother.meaning.head]]
    scale = float(head.square().mean().sqrt()) or 1.0
    width = float(stds[0].square().mean().sqrt()) or 1.0 if stds else 1.0
    apart = float((head - head.mean(dim=1, keepdim=True)).square().mean().sqrt()) or 1.0
    sizes = list(sizes_of(mother.meaning))

    def of_values(found: Answer, heads: list[torch.Tensor]) -> torch.Tensor:
        # What the actions have in common is large and what sets them apart is small: each counts at its own scale.
        wrong = torch.sub(_one(found), heads[0])
        common = wrong.mean(dim=1, keepdim=True)
        return (common / scale).square().mean() + ((wrong - common) / apart).square().mean()

    def of_logits(found: Answer, heads: list[torch.Tensor]) -> torch.Tensor:
        parts = zip(torch.split(_one(found), sizes, dim=1), torch.split(heads[0], sizes, dim=1), strict=True)
        losses = [
            nn.functional.kl_div(a.log_softmax(dim=1), b.log_softmax(dim=1), log_target=True, reduction="batchmean")
            for a, b in parts
        ]
        return torch.stack(losses).sum()

    def of_gaussian(found: Answer, heads: list[torch.Tensor]) -> torch.Tensor:
        mean, std = found
        return torch.add(((mean - heads[0]) / scale).square().mean(), ((std - heads[1]) / width).square().mean())

    return {"q_values": of_values, "logits": of_logits, "gaussian": of_gaussian}[mother.meaning.head]


def _one(found: Answer) -> torch.Tensor:
    return found if isinstance(found, torch.Tensor) else found[0]


def _as_policy(mother: Mother, student: Student, hidden: Sequence[int]) -> TrainedPolicy:
    meaning = mother.meaning
    return TrainedPolicy(
        module=student,
        observation=meaning.observation,
        action=meaning.action,
        head=meaning.head,
        squash=meaning.squash,
        family=meaning.family,
        inside=("standardise", f"layers of {' and '.join(map(str, hidden))}, taught by the mother artefact"),
        source=meaning.source,
    )
