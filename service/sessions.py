"""Sessions: what this process remembers of each, bounded, and which history a request continues."""

from collections import OrderedDict
from dataclasses import dataclass, replace

from guards.records import History

# Decisions of a session that a controller may step back to, because the later ones were never carried out.
KEPT = 4


@dataclass(frozen=True, slots=True)
class Moment:
    """A session right after one of its decisions."""

    decision_id: str
    episode: str | None
    history: History


@dataclass(frozen=True, slots=True)
class Entry:
    """What a new decision continues: the decision before it, the episode (None: a new one begins), the history."""

    previous: str | None
    episode: str | None
    history: History


class Sessions:
    """The last moments of each session, newest last; the session used longest ago leaves first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._moments: OrderedDict[str, tuple[Moment, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._moments)

    def last(self, session: str) -> str | None:
        """The id of the session's last decision here."""
        moments = self._moments.get(session)
        return moments[-1].decision_id if moments else None

    def remembered(self, session: str, now: float) -> Entry:
        """What follows the session's last decision here; history is not assumed for one never seen."""
        moments = self._moments.get(session)
        if not moments:
            return Entry(None, None, History(known=False, since=now))
        return _after(moments[-1])

    def begun(self, now: float) -> Entry:
        """What follows nothing: the controller says that an episode starts."""
        return Entry(None, None, History(known=True, since=now))

    def following(self, session: str, previous: str, now: float) -> Entry:
        """What follows the named decision; where it is not here, its history is not known."""
        moments = self._moments.get(session, ())
        for moment in reversed(moments):
            if moment.decision_id == previous:
                return Entry(previous, moment.episode, _cautious(moment.history, moments[-1].history))
        return Entry(previous, None, History(known=False, since=now))

    def advance(self, session: str, entry: Entry, moment: Moment) -> None:
        """Remember a decision that is in the journal."""
        moments = self._moments.get(session, ())
        if entry.previous is None:
            kept: tuple[Moment, ...] = ()
        else:
            kept = tuple(m for m in moments if m.decision_id != moment.decision_id)[-(KEPT - 1) :]
        self._moments[session] = (*kept, moment)
        self._moments.move_to_end(session)
        if len(self._moments) > self._limit:
            self._moments.popitem(last=False)

    def __repr__(self) -> str:
        return f"<Sessions {len(self._moments)} of at most {self._limit}>"


def _cautious(history: History, latest: History) -> History:
    """A history continued from an earlier decision, with the later ones' uses and changes kept.

    The controller says that it did not carry the later ones out, but it may have said so before it had their answers:
    constraints go by the worst of both.
    """
    if history is latest:
        return history
    used = {a: max(history.used.get(a, at), at) for a, at in latest.used.items()}
    changes = [at for at in (history.changed_at, latest.changed_at) if at is not None]
    return replace(history, used=used, changed_at=max(changes, default=None))


def _after(moment: Moment) -> Entry:
    return Entry(moment.decision_id, moment.episode, moment.history)
