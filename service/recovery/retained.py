"""Retained sessions: where the last decisions of each stand in the logs of processes before this one.

What a session was after them is worked out from their records alone, by the same functions that did it when they were
made, and not before it is asked for or there is time: at start there is none for as many sessions as there may be.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import msgspec
import numpy as np

from guards.baselines import KEPT
from guards.records import History, Row
from service.decision.batch import Behaviour
from service.decision.commit import continued
from service.decision.recurrent import replayed_states
from service.decision.sessions import RecurrentState, SessionState
from service.log.ids import Place
from service.log.readback import Archive
from service.log.records import Decision, decode_record, unlisted
from service.versions.engine import Engine
from service.versions.observations import Layout

_log = logging.getLogger(__name__)
# Where the last decisions of a session stand, the last first.
Refs = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Kin:
    """What is to be known of a writer whose decisions are gone on from.

    ``ahead`` is by how much (s) the clock was set forward since. ``timed`` says that the guards went by the caller's
    clock where it was told, ``same_baseline`` that what the baseline remembered means the same here.
    """

    writer: str
    ahead: float
    timed: bool
    same_baseline: bool


class _Made(NamedTuple):
    """A decision of a process before this one."""

    record: Decision
    kin: Kin

    @property
    def timed(self) -> bool:
        return self.kin.timed and self.record.observed_at is not None

    @property
    def ahead(self) -> float:
        return 0.0 if self.timed else self.kin.ahead

    @property
    def now(self) -> float:
        """What the guards went by, as the clock of this process has it."""
        at = self.record.observed_at
        return at if at is not None and self.timed else self.record.at + self.ahead


@dataclass(slots=True, eq=False)
class Reader:
    """Turns lines of the logs into states of sessions.

    ``place`` reads a decision's id: where it stands in whose log. ``unreadable`` counts lines that were not there any
    more, ``memories_lost`` decisions whose step a policy could not be run for again; where nothing ``replays``, it is
    not run.
    """

    _behaviour: Behaviour
    _engine: Engine
    _layout: Layout
    _place: Callable[[str], Place | None]
    _archive: Archive
    _kin: dict[str, Kin] = field(default_factory=dict)
    replays: bool = True
    memories_lost: int = 0
    unreadable: int = 0

    def know(self, kin: Kin) -> None:
        """Take decisions of this writer from now on."""
        self._kin[kin.writer] = kin

    def decision(self, ref: int) -> Decision | None:
        """The decision in a line; None where it is not what it was, or its id names another place."""
        made = self._made(ref)
        return None if made is None else made.record

    def states(self, sessions: Sequence[Refs]) -> list[tuple[SessionState, ...]]:
        """The last states of some sessions, oldest first; none of one whose last decision cannot be read any more."""
        try:
            return self._states(sessions)
        except Exception:  # noqa: BLE001 - whatever a log has in it, whoever asks is answered
            if len(sessions) > 1:
                return [self.states([refs])[0] for refs in sessions]
            _log.exception("a session cannot be worked out from the log: its history is not known")
            self.unreadable += 1
            return [()]

    def _states(self, sessions: Sequence[Refs]) -> list[tuple[SessionState, ...]]:
        found: list[list[_Made]] = []
        for refs in sessions:
            made: list[_Made] = []
            for ref in refs:
                one = self._made(ref)
                if one is None:
                    self.unreadable += 1
                    break
                made.append(one)
            found.append(made[::-1])
        whole = iter(self._after([one for made in found for one in made]))
        return [tuple(islice(whole, len(made))) for made in found]

    def close(self) -> None:
        """Let go of the logs: nothing more will be asked."""
        self._archive.close()

    def _made(self, ref: int) -> _Made | None:
        text = self._archive.text(ref)
        try:
            record = None if text is None else decode_record(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            record = None
        if not isinstance(record, Decision):
            return None
        place = self._place(record.id)
        if place is None or place.seq != record.seq or place.writer not in self._kin:
            return None
        return _Made(record, self._kin[place.writer])

    def _after(self, made: Sequence[_Made]) -> list[SessionState]:
        """The session of each decision, right after it."""
        if not made:
            return []
        records, dtype = [one.record for one in made], self._layout.dtype.name
        observation = self._layout.rows([unlisted(record.observation, dtype) for record in records])
        # Numbers are doubles before anything is worked out of them; of what is not one row of them nothing has a name.
        seen = observation.astype(np.float64).tolist() if observation.ndim == 2 else [()] * len(made)
        names = self._behaviour.schema.facts
        histories = []
        for one, record, numbers in zip(made, records, seen, strict=True):
            facts = [(record.facts or {}).get(name, np.nan) for name in names]
            row = Row(numbers, facts, None, one.now, self._before(one))
            histories.append(continued(self._behaviour, row, record))
        memories: dict[int, RecurrentState] = {}
        if self._engine.initial:
            memories = replayed_states(records, observation, self._engine) if self.replays else {}
            self.memories_lost += sum(one.memory is not None and i not in memories for i, one in enumerate(records))
        return [
            SessionState(one.record.id, one.record.episode, histories[i], memories.get(i), one.timed)
            for i, one in enumerate(made)
        ]

    def _before(self, made: _Made) -> History:
        """The history that a decision was made by, by the clock of this process."""
        history = made.record.state
        if made.ahead:
            return self._behaviour.shield.shifted(history, made.ahead)
        if KEPT in history.kept and not made.kin.same_baseline:
            kept = {name: one for name, one in history.kept.items() if name != KEPT}
            return msgspec.structs.replace(history, kept=kept)
        return history


class RetainedSessions:
    """Sessions of processes before this one, the one used last first; built when asked for, and in idle moments."""

    def __init__(self, reader: Reader, found: dict[str, Refs]) -> None:
        self._reader = reader
        self._refs = found  # the one used last first
        self._waiting = [*reversed(found)]  # the one used last at the end
        self._built: dict[str, tuple[SessionState, ...]] = {}

    def __len__(self) -> int:
        return len(self._refs) + len(self._built)

    def take(self, session: str) -> tuple[SessionState, ...]:
        """Take the last states of a session, oldest first, out of it; none where it has none."""
        built = self._built.pop(session, None)
        if built is not None:
            return built
        refs = self._refs.pop(session, None)
        return () if refs is None else self._reader.states([refs])[0]

    def drop(self, session: str | None = None) -> None:
        """Forget a session, if it is there; without a name the one used longest ago."""
        if session is not None:
            self._refs.pop(session, None)
            self._built.pop(session, None)
        elif self._refs or self._built:
            # They are built from the one used last on.
            (self._refs or self._built).popitem()

    def build(self, count: int) -> bool:
        """Work out some of those that nobody has asked for yet; whether there are more."""
        batch: dict[str, Refs] = {}
        while self._waiting and len(batch) < count:
            session = self._waiting.pop()
            if (refs := self._refs.pop(session, None)) is not None:
                batch[session] = refs
        for session, states in zip(batch, self._reader.states([*batch.values()]), strict=True):
            if states:
                self._built[session] = states
        return bool(self._waiting)

    def __repr__(self) -> str:
        return f"<RetainedSessions {len(self._built)} sessions, and {len(self._refs)} to be read>"
