"""Sessions: what this process remembers of each, bounded, and which history a request continues."""

from dataclasses import replace

from msgspec import Struct

from guards.records import History

# Decisions of a session that a controller may step back to, because the later ones were never carried out.
KEPT = 4


class Moment(Struct, frozen=True):
    """A session right after one of its decisions (None: before its first), which the next one continues.

    ``episode`` is None where a new one begins, or where it began elsewhere.
    """

    decision_id: str | None
    episode: str | None
    history: History


class Sessions:
    """The last moments of each session, newest last; the session used longest ago leaves first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._moments: dict[str, tuple[Moment, ...]] = {}  # in the order of last use

    def __len__(self) -> int:
        return len(self._moments)

    def remembered(self, session: str, now: float) -> Moment:
        """The session's last decision here; history is not assumed for a session never seen."""
        moments = self._moments.get(session)
        return moments[-1] if moments else Moment(None, None, History(known=False, since=now))

    def begun(self, now: float) -> Moment:
        """Before the first decision: the controller says that an episode starts."""
        return Moment(None, None, History(known=True, since=now))

    def following(self, session: str, previous: str, now: float) -> Moment:
        """Right after the named decision; where it is not here, its history is not known."""
        moments = self._moments.get(session, ())
        for moment in reversed(moments):
            if moment.decision_id == previous:
                return Moment(previous, moment.episode, _cautious(moment.history, moments[-1].history))
        return Moment(previous, None, History(known=False, since=now))

    def advance(self, session: str, before: Moment, after: Moment) -> None:
        """Remember a decision that is in the journal."""
        moments = self._moments.pop(session, ())
        self._moments[session] = (after,) if before.decision_id is None else (*moments[1 - KEPT :], after)
        if len(self._moments) > self._limit:
            del self._moments[next(iter(self._moments))]

    def __repr__(self) -> str:
        return f"<Sessions {len(self._moments)} of at most {self._limit}>"


def _cautious(history: History, latest: History) -> History:
    """A history continued from an earlier decision, with the later ones' uses and changes kept.

    The controller says that it did not carry the later ones out, but it may have said so before it had their answers:
    constraints go by the worst of both.
    """
    if history is latest:
        return history
    used = {**history.used, **{a: max(history.used.get(a, at), at) for a, at in latest.used.items()}}
    changes = [at for at in (history.changed_at, latest.changed_at) if at is not None]
    return replace(
        history,
        known=history.known and latest.known,
        since=max(history.since, latest.since),
        used=used,
        changed_at=max(changes, default=None),
    )
