"""Owners: which session each of this process's last decisions is of, by its place in the log."""

from service.log.ids import Place

# Two megabytes of references: at 4,000 decisions a second the last minute's.
KEPT = 2**18


class Owners:
    """The sessions of the last ``KEPT`` places of one writer's log; of a decision further back nothing is known."""

    def __init__(self, writer: str) -> None:
        self._writer = writer
        self._sessions: list[str | None] = [None] * KEPT
        self._last = 0

    def note(self, seq: int, session: str) -> None:
        """A session's decision is in the log at ``seq``, beyond all that were noted before and were not taken back."""
        self._sessions[seq % KEPT] = session
        self._last = seq

    def session_of(self, place: Place) -> str | None:
        """The session of the decision that a token names; None where that is not known here."""
        # A token that is authentic names a decision of its writer: what else is in the log never stands at its place.
        # One that is in no log has its number from elsewhere.
        if place.unlogged or place.writer != self._writer or not self._last - KEPT < place.seq <= self._last:
            return None
        return self._sessions[place.seq % KEPT]

    def __repr__(self) -> str:
        return f"<Owners of decisions up to {self._last}>"
