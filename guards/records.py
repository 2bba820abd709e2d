"""What the guards see of a decision: the pinned schema, a session's history, and a row with both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from export.spec import ActionSpace, Discrete, Manifest, MultiDiscrete, ObservationSpace
from guards.errors import GuardMisconfigured

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
# Actions of N rows: indices[N] (Discrete) or [N, K] (MultiDiscrete), numbers[N, D] (Box).
Actions = NDArray[Any]
# One action on its own: an index, an index for each factor, or the numbers of a Box row by row.
Action = int | tuple[int | float, ...]

# Names that expressions know beside fields and facts.
HISTORY_NAMES = ("previous_action", "seconds_since_change", "step")
RESERVED = ("action", *HISTORY_NAMES)
NO_ACTION = -1  # before the first decision of an episode
NEVER = 1e9  # seconds (some 31 years): the time since something that has not happened, finite so that rules can add


@dataclass(frozen=True, slots=True)
class Schema:
    """What the service observes and how it acts, by name: pinned once, whatever version serves."""

    observation: ObservationSpace
    action: ActionSpace
    facts: tuple[str, ...] = ()

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


class History(Struct, frozen=True, gc=False):
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
    used: Mapping[int, float] = {}
    kept: Mapping[str, tuple[float, ...]] = {}
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
            self.known,
            self.since,
            self.step + 1,
            action,
            at if changed else self.changed_at,
            {**self.used, **dict.fromkeys(now, at)} if now else self.used,
            self.kept if kept is None else kept,
        )

    def since_change(self, now: float) -> float:
        """Seconds since the executed action last changed, NEVER if it did not.

        Where the history is not here, it is taken to have changed just before the session was first seen.
        """
        if self.changed_at is None:
            return NEVER if self.known else now - self.since
        return now - self.changed_at

    def since_use(self, now: float, choices: Sequence[int]) -> float:
        """Seconds since any of some choices may last have been executed: just before the session was first seen, for
        all we know."""
        last, use = -NEVER if self.known else self.since, self.used.get
        for choice in choices:
            at = use(choice)
            if at is not None and at > last:
                last = at
        return now - last

    def shifted(self, by: float, kept: Mapping[str, tuple[float, ...]]) -> "History":
        """The same history by a clock that is ``by`` (s) ahead of the one that it was kept by."""
        return structs.replace(
            self,
            since=self.since + by,
            changed_at=None if self.changed_at is None else self.changed_at + by,
            used={choice: at + by for choice, at in self.used.items()},
            kept=kept,
        )


class Row(Struct, eq=False):
    """One decision as the guards see it, in plain numbers.

    ``observation`` and ``facts`` are in the schema's order (a fact that was not given is NaN). ``mask`` has a bit for
    every choice that the request leaves, or is None where it says nothing; ``now`` is in seconds. ``raw[...]`` is the
    observation as it came, for what reads it whole.
    """

    observation: Sequence[float]
    facts: Sequence[float]
    mask: int | None
    now: float
    history: History
    raw: np.ndarray | None = None
