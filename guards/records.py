"""What the guards see of a decision: the pinned schema, a session's history, and a batch of both as a context."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.spec import ActionSpace, Discrete, Manifest, MultiDiscrete, ObservationSpace
from guards.errors import GuardMisconfigured

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
# Actions of N rows: indices[N] (Discrete) or [N, K] (MultiDiscrete), numbers[N, D] (Box).
Actions = NDArray[Any]
# What constraints leave of N rows: truths[N, W], one for each choice; of a Box bounds[N, 2, D], or nothing[N, 0].
Allowed = NDArray[Any]
# One action on its own: an index, an index for each factor, or the numbers of a Box row by row.
Action = int | tuple[int | float, ...]

# Names that expressions know beside fields and facts.
HISTORY_NAMES = ("previous_action", "seconds_since_change", "step")
RESERVED = ("action", *HISTORY_NAMES)
NO_ACTION = -1  # before the first decision of an episode
UNKNOWN_ACTION = -2  # the history is not here
NEVER = 1e9  # seconds (some 31 years): the time since something that has not happened, finite so that rules can add


@dataclass(frozen=True, slots=True)
class Schema:
    """What the service observes and how it acts, by name: pinned once, whatever version serves.

    ``factor`` is which one's choices a constraint is asked about, where it is not about whole actions.
    """

    observation: ObservationSpace
    action: ActionSpace
    facts: tuple[str, ...] = ()
    factor: int | None = None

    def __post_init__(self) -> None:
        for name in self.facts:
            if name in self.fields or name in RESERVED or self.facts.count(name) > 1:
                msg = f"the fact {name!r} has a name that is taken, expected one that rules do not know already"
                raise GuardMisconfigured(msg)

    @classmethod
    def of(cls, manifest: Manifest, facts: tuple[str, ...] = ()) -> "Schema":
        """The schema an artefact was made for."""
        return cls(observation=manifest.observation, action=manifest.action, facts=facts)

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the actions to choose from; empty where an action is not one of a list."""
        return self.action.names if isinstance(self.action, Discrete) else ()

    @property
    def choices(self) -> tuple[str, ...]:
        """Names of all that can be chosen, as constraints name it: an action, or a choice of a factor (``fan=on``)."""
        if isinstance(self.action, MultiDiscrete):
            return tuple(f"{factor.name}={name}" for factor in self.action.factors for name in factor.names)
        return self.actions

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the observation's numbers, of all parts of a Dict together; an array's have none."""
        return self.observation.names

    @property
    def columns(self) -> dict[str, int]:
        """Where each named number stands in a row of the observation."""
        return self.observation.columns


@dataclass(frozen=True, slots=True)
class History:
    """What happened in a session's episode before a decision.

    ``known`` is false where it happened elsewhere: then ``since`` (s) is when this process first saw the session, and
    constraints take their worst state. ``used`` has the time (s) at which each tracked choice was last executed,
    ``kept`` the numbers that a constraint keeps, under its name. ``other`` is an action that was decided after
    ``action``, and may have been executed although the caller goes on from ``action``.
    """

    known: bool
    since: float
    step: int = 0
    action: Action = NO_ACTION
    changed_at: float | None = None
    used: Mapping[int, float] = field(default_factory=dict)
    kept: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    other: Action | None = None

    @property
    def last(self) -> tuple[Action, Action]:
        """What may have been executed last: ``action``, and ``other`` if there is one."""
        return self.action, self.action if self.other is None else self.other

    def advanced(
        self,
        action: Action,
        at: float,
        tracked: frozenset[int],
        choices: Sequence[int] | None = None,
        kept: Mapping[str, tuple[float, ...]] | None = None,
    ) -> "History":
        """The history after ``action`` was executed at ``at`` (s); it is made of ``choices`` where it is not one."""
        now = tracked.intersection((action,) if choices is None else choices) if tracked else tracked
        changed = action != self.action and self.action != NO_ACTION
        return History(
            known=self.known,
            since=self.since,
            step=self.step + 1,
            action=action,
            changed_at=at if changed else self.changed_at,
            used={**self.used, **dict.fromkeys(now, at)} if now else self.used,
            kept=self.kept if kept is None else kept,
        )

    def shifted(self, by: float, kept: Mapping[str, tuple[float, ...]]) -> "History":
        """The same history by a clock that is ``by`` (s) ahead of the one that it was kept by."""
        return replace(
            self,
            since=self.since + by,
            changed_at=None if self.changed_at is None else self.changed_at + by,
            used={choice: at + by for choice, at in self.used.items()},
            kept=kept,
        )


@dataclass(frozen=True, slots=True)
class Context:
    """A batch of N decisions as the guards see it.

    ``observation[N, F]`` and ``facts[N, K]`` in the schema's order (a fact that was not given is NaN), ``mask[N, A]``
    from the requests or None, ``now[N]`` (s) and the N histories.
    """

    observation: Floats
    facts: Floats
    mask: Booleans | None
    now: Floats
    histories: Sequence[History]
    # What was read out of the histories so far: a context does not change, and the mask and the check both ask.
    _uses: dict[tuple[int, ...] | str, Floats] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.histories)

    def rows(self, index: Integers) -> "Context":
        """The context of some of the rows."""
        return Context(
            observation=self.observation[index],
            facts=self.facts[index],
            mask=None if self.mask is None else self.mask[index],
            now=self.now[index],
            histories=[self.histories[i] for i in index],
        )

    def previous_action(self) -> Integers:
        """The last executed action of each row[N], NO_ACTION or UNKNOWN_ACTION; of a Discrete space only."""
        return np.array([h.action if h.known or h.step else UNKNOWN_ACTION for h in self.histories], dtype=np.int64)

    def seconds_since_change(self) -> Floats:
        """Seconds[N] since the executed action last changed, NEVER if it did not.

        Where the history is not here, it is taken to have changed just before the session was first seen.
        """
        at = [
            NEVER if h.known and h.changed_at is None else t - (h.since if h.changed_at is None else h.changed_at)
            for h, t in zip(self.histories, self.now.tolist(), strict=True)
        ]
        return np.array(at, dtype=np.float64)

    def step(self) -> Floats:
        """Decisions[N] since the episode began; NaN where that is unknown."""
        return np.array([h.step if h.known else np.nan for h in self.histories], dtype=np.float64)

    def seconds_since_use(self, actions: Sequence[int]) -> Floats:
        """Seconds[N] since any of ``actions`` was executed: the worst that is possible where history is unknown."""
        key = tuple(actions)
        ago = self._uses.get(key)
        if ago is None:
            ago = self._uses[key] = self.now - np.array([_last_use(history, key) for history in self.histories])
        return ago

    def recalled(self, name: str, read: Callable[[History, float], float]) -> Floats:
        """A number[N] that the constraint of a name reads out of each history, as it is now."""
        found = self._uses.get(name)
        if found is None:
            both = zip(self.histories, self.now.tolist(), strict=True)
            found = self._uses[name] = np.array([read(history, now) for history, now in both], dtype=np.float64)
        return found


def _last_use(history: History, actions: Sequence[int]) -> float:
    """When any of the actions may last have been executed: just before a session was first seen, for all we know."""
    last, use = -NEVER if history.known else history.since, history.used.get
    for action in actions:
        at = use(action)
        if at is not None and at > last:
            last = at
    return last
