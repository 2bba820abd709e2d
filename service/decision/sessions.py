"""Sessions: what this process remembers of each, bounded; which history a request continues, whose a decision is."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from msgspec import Struct, structs

from guards import baselines
from guards.records import History
from service.log.ids import Place

# Decisions of a session that a controller may step back to, because the later ones were never carried out.
KEPT = 4
# Two megabytes of references: at 4,000 decisions a second the last minute's.
OWNERS_KEPT = 2**18


class RecurrentState(Struct, frozen=True, eq=False):
    """What a version carries from one step of a session to the next; no other version can read it."""

    digest: str
    values: tuple[np.ndarray, ...]


class Report(NamedTuple):
    """Feedback that left open what it is about: its name, what it says, and the decision that was meant."""

    name: str
    said: bytes
    decision_id: str


class SessionState(Struct, frozen=True):
    """A session right after one of its decisions (None: before its first), which the next one continues.

    ``episode`` is None where a new one begins, or where it began elsewhere; ``memory`` is None where no policy with a
    memory decided, or where what it carried is lost. ``timed`` says that the guards went by the caller's clock.
    ``report`` is the feedback that came with the decision, has a name, and left open what it is about.
    """

    decision_id: str | None
    episode: str | None
    history: History
    memory: RecurrentState | None = None
    timed: bool = False
    report: "Report | None" = None

    @property
    def starts(self) -> bool:
        """Whether an episode starts here: nothing came before in it, and that is known."""
        return self.history.known and self.history.step == 0

    def split_by_state(self, digest: str, initial: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...] | None:
        """What a version's memory is here: ``initial`` where an episode starts, None where it is not known."""
        if self.starts:
            return initial
        return None if self.memory is None or self.memory.digest != digest else self.memory.values


class Earlier(Protocol):
    """Sessions of processes before this one, whose states are found when they are asked for."""

    def __len__(self) -> int:
        """How many sessions are left there."""

    def take(self, session: str) -> "tuple[SessionState, ...]":
        """Take the last states of a session, oldest first, out of it; none where it has none."""

    def drop(self, session: str | None = None) -> None:
        """Forget a session, if it is there; without a name the one used longest ago."""


class Sessions:
    """The last states of each session, newest last; the session used longest ago leaves first.

    Beside them, the decisions that are told to have ended their episodes, as many as there may be sessions: whoever
    continues one of them begins an episode.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: dict[str, tuple[SessionState, ...]] = {}  # in the order of last use
        self._ended: dict[str, None] = {}  # in the order in which it was told
        self._strange: dict[str, tuple[str | None, float]] = {}  # in the order in which they were first seen
        self._earlier: Earlier | None = None

    def __len__(self) -> int:
        return len(self._states) + (0 if self._earlier is None else len(self._earlier))

    def take_over(self, earlier: Earlier, ended: Sequence[str]) -> None:
        """Go on with the sessions of processes before this one, used longer ago than all here; and with decisions that
        ``ended`` their episodes, in the order in which that was told."""
        self._earlier = earlier
        self.end(ended)

    def remembered(self, session: str, now: float) -> SessionState:
        """The session's last decision here; history is not assumed for a session never seen."""
        states = self._states.get(session) or self._of(session)
        if not states:
            return self._seen(session, None, now)
        last = states[-1]
        return self.begun(now, last.decision_id) if last.decision_id in self._ended else last

    def told_before(self, session: str, report: Report) -> Report:
        """The report as it was told before, if it was: by then the decision that it came with is the last one here.

        Whoever tells it again has lost the reply, and means what was meant then.
        """
        for state in self._states.get(session, ()):
            if state.report is not None and state.report[:2] == report[:2]:
                return state.report
        return report

    def begun(self, now: float, previous: str | None = None) -> SessionState:
        """Before the first decision of an episode, which the controller says starts; ``previous`` ended the last."""
        return SessionState(previous, None, History(known=True, since=now))

    def following(self, session: str, previous: str, now: float) -> SessionState:
        """Right after the named decision; where it is not here, its history is not known."""
        states = self._of(session)
        for state in reversed(states):
            if state.decision_id == previous:
                if previous in self._ended:
                    return self.begun(now, previous)
                history = _cautious(state.history, states[-1].history)
                return SessionState(previous, state.episode, history, state.memory, state.timed)
        return self._seen(session, previous, now)

    def _of(self, session: str) -> tuple[SessionState, ...]:
        """The session's last states, of this process or of one before it."""
        states = self._states.get(session, ())
        if states or self._earlier is None:
            return states
        states = self._earlier.take(session)
        if states:
            self._states[session] = states
        return states

    def _seen(self, session: str, previous: str | None, now: float) -> SessionState:
        """A session whose history is not here: since it was first seen to continue ``previous``, nothing was executed.

        Where nothing is allowed in the worst state, it would otherwise never end.
        """
        before, since = self._strange.get(session, (None, now))
        if session not in self._strange or before != previous:
            self._strange.pop(session, None)
            self._strange[session] = (previous, since := now)
            if len(self._strange) > self._limit:
                del self._strange[next(iter(self._strange))]
        return SessionState(previous, None, History(known=False, since=since))

    def advance(self, session: str, before: SessionState, after: SessionState) -> None:
        """Remember a decision that is in the journal."""
        self._strange.pop(session, None)
        states = self._states.pop(session, None)
        fresh = before.decision_id is None or before.starts
        self._states[session] = (after,) if fresh or states is None else (*states[1 - KEPT :], after)
        if states is None:
            self._make_room(session)

    def _make_room(self, session: str) -> None:
        """See that there are no more than may be, once a session was added."""
        earlier = self._earlier
        if earlier is not None:
            earlier.drop(session)
            if len(self._states) + len(earlier) > self._limit and len(earlier):
                earlier.drop()
        if len(self._states) > self._limit:
            del self._states[next(iter(self._states))]

    def take_back(self, session: str, decision_id: str) -> None:
        """Forget a decision that was not made after all: the session is where it was before it, or its history is not
        known any more."""
        states = tuple(one for one in self._states.pop(session, ()) if one.decision_id != decision_id)
        if states:
            self._states[session] = states

    def learn(self, session: str, state: SessionState, memory: RecurrentState) -> None:
        """What a version carried out of a step that it was only run for in shadow, after its decision was remembered.

        Where the session is not there any more it is lost; what came after the step without it stays without it.
        """
        states = self._states.get(session, ())
        if any(one is state for one in states):
            after = structs.replace(state, memory=memory)
            self._states[session] = tuple(after if one is state else one for one in states)

    def end(self, decision_ids: Sequence[str]) -> None:
        """Take in that these decisions ended their episodes: feedback that is in the journal says so."""
        for decision_id in decision_ids:
            self._ended.pop(decision_id, None)
            self._ended[decision_id] = None
            if len(self._ended) > self._limit:
                del self._ended[next(iter(self._ended))]

    def go_on(self, decision_ids: Sequence[str]) -> None:
        """Take back that these decisions ended their episodes: the feedback that said so was not taken after all."""
        for decision_id in decision_ids:
            self._ended.pop(decision_id, None)

    def __repr__(self) -> str:
        return f"<Sessions {len(self._states)} of at most {self._limit}>"


def _cautious(history: History, latest: History) -> History:
    """A history continued from an earlier decision, with the later ones' uses and changes kept.

    The controller says that it did not carry the later ones out, but it may have said so before it had their answers:
    constraints go by the worst of both. What a baseline remembers is of the step it is continued from: a later one that
    was not carried out was not put out.
    """
    if history is latest:
        return history
    used = {**history.used, **{a: max(history.used.get(a, at), at) for a, at in latest.used.items()}}
    changes = [at for at in (history.changed_at, latest.changed_at) if at is not None]
    # Of constraints, the latest has what came before it, or is in its worst state until that is past.
    kept = {name: numbers for name, numbers in latest.kept.items() if name != baselines.KEPT}
    kept |= {name: numbers for name, numbers in history.kept.items() if name == baselines.KEPT}
    return structs.replace(
        history,
        known=history.known and latest.known,
        since=max(history.since, latest.since),
        used=used,
        changed_at=max(changes, default=None),
        kept=kept,
        other=None if latest.action == history.action else latest.action,
    )


class Owners:
    """Of which session the decision is at each of the last ``OWNERS_KEPT`` places of one writer's log."""

    def __init__(self, writer: str) -> None:
        self._writer = writer
        self._sessions: list[str | None] = [None] * OWNERS_KEPT
        self._last = 0

    def note(self, seq: int, session: str) -> None:
        """A session's decision is in the log at ``seq``, beyond all that were noted before and were not taken back."""
        self._sessions[seq % OWNERS_KEPT] = session
        self._last = seq

    def session_of(self, place: Place) -> str | None:
        """The session of the decision that a token names; None where that is not known here."""
        # A token that is authentic names a decision of its writer: what else is in the log never stands at its place.
        # One that is in no log has its number from elsewhere.
        if place.unlogged or place.writer != self._writer or not self._last - OWNERS_KEPT < place.seq <= self._last:
            return None
        return self._sessions[place.seq % OWNERS_KEPT]

    def __repr__(self) -> str:
        return f"<Owners of decisions up to {self._last}>"
