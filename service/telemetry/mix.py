"""The mix: which actions were executed, as the report shows it, in each kind of action space.

Named actions are counted by the tally's own cells. Of other spaces there are too many actions for that: the choices of
each factor are counted by themselves, and of each number of a Box the smallest, the mean and the largest are kept.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from export.spec import ActionSpace, Box, Discrete, MultiDiscrete
from guards.records import Action


class ActionStats(Protocol):
    """The executed actions of a space."""

    def label(self, action: int | None) -> str:
        """What decisions counted by this action, or by none, are called: a name out of few."""

    def count(self, actions: Sequence[Action]) -> None:
        """Count executed actions that the tally's cells do not tell apart."""

    def to_json(self, labels: Mapping[str, int]) -> dict[str, Any]:
        """The mix, given how many decisions have each label."""


class DiscreteActionStats:
    """How often each action was done: the labels are their names."""

    def __init__(self, space: Discrete) -> None:
        self._names = space.names

    def label(self, action: int | None) -> str:
        assert action is not None  # noqa: S101 - so it was counted
        return self._names[action]

    def count(self, actions: Sequence[Action]) -> None:
        """Count nothing that the cells do not tell."""

    def to_json(self, labels: Mapping[str, int]) -> dict[str, Any]:
        return {name: labels.get(name, 0) for name in self._names}


class MultiDiscreteActionStats:
    """How often each choice of each factor was made."""

    def __init__(self, space: MultiDiscrete) -> None:
        self._names = [[f"{factor.name}={name}" for name in factor.names] for factor in space.factors]
        self._counts: Counter[str] = Counter()
        self._kind = space.kind

    def label(self, action: int | None) -> str:  # noqa: ARG002 - all are alike here
        return self._kind

    def count(self, actions: Sequence[Action]) -> None:
        for names, choices in zip(self._names, np.array(actions, dtype=np.int64).T, strict=True):
            self._counts.update(dict(zip(names, np.bincount(choices, minlength=len(names)).tolist(), strict=True)))

    def to_json(self, labels: Mapping[str, int]) -> dict[str, Any]:  # noqa: ARG002 - there is one
        return {name: self._counts[name] for names in self._names for name in names}


class BoxActionStats:
    """The least, the mean and the most of each number."""

    def __init__(self, space: Box) -> None:
        self._names = [field.name for field in space.fields]
        self._least, self._most = np.full(space.width, np.inf), np.full(space.width, -np.inf)
        self._mean, self._seen = np.zeros(space.width), 0
        self._kind = space.kind

    def label(self, action: int | None) -> str:  # noqa: ARG002 - all are alike here
        return self._kind

    def count(self, actions: Sequence[Action]) -> None:
        numbers = np.array(actions, dtype=np.float64)
        self._least = np.minimum(self._least, numbers.min(axis=0))
        self._most = np.maximum(self._most, numbers.max(axis=0))
        self._seen += len(numbers)
        # Weighted before they are added: a sum of large numbers may be more than a double can hold.
        share = len(numbers) / self._seen
        self._mean = self._mean * (1 - share) + (numbers / len(numbers)).sum(axis=0) * share

    def to_json(self, labels: Mapping[str, int]) -> dict[str, Any]:  # noqa: ARG002 - there is one
        if not self._seen:
            return {}
        rows = zip(self._names, self._least.tolist(), self._mean.tolist(), self._most.tolist(), strict=True)
        return {name: {"min": least, "mean": mean, "max": most} for name, least, mean, most in rows}


def action_stats_of(space: ActionSpace) -> ActionStats:
    """The mix of a space, of which nothing was done yet."""
    if isinstance(space, Discrete):
        return DiscreteActionStats(space)
    return MultiDiscreteActionStats(space) if isinstance(space, MultiDiscrete) else BoxActionStats(space)
