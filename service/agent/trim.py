"""What of the streams may go: pure decisions about bytes, times and places. ``trimming.py`` asks the store and does it.

From the oldest on, each entry is either wanted by nobody, or

* still to be joined, or what came of such: that never goes;
* of use to a joiner that begins anew, to tell reports that are told twice: that goes where bytes force it;
* still to be read by a consumer group: that goes last, is counted as lost, and is logged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from service.agent.join import LAG_MS
from service.agent.joining import SKEW_MS
from service.agent.stores import START, WRITER, Capacity, Position, Stream, WriterState

# Of a server's memory the streams take half, where nobody says, and no more than this share whatever anybody says.
SHARE = 0.5
LARGEST_SHARE = 0.75
DEFAULT_BYTES = 4 * 1024**3
LEAST_BYTES = 1024**2
FILLED = 0.9
# Cutting begins when streams take up this share of the bound, and ends at that one.
HIGH = 0.95
LOW = 0.85
# Entries that are cut in one go.
FEWEST = 200
MOST = 2000
FAR = Position(2**62, 0)


@dataclass(frozen=True, slots=True)
class Floors:
    """Where the entries begin that have to stay: all streams' by time (ms), each writer's by what was joined.

    ``needed`` is what is still to be joined, ``useful`` what a joiner that begins anew would read.
    """

    joined: Mapping[str, Position]
    needed_ms: float
    useful_ms: float

    def needed(self, name: str) -> Position:
        """The first entry of a stream that never goes."""
        return self._floor(name, self.needed_ms)

    def useful(self, name: str) -> Position:
        """The first entry of a stream that goes only where bytes force it."""
        return self._floor(name, self.useful_ms)

    def _floor(self, name: str, ms: float) -> Position:
        if name not in self.joined:
            # The transitions, or what is no writer's, no joiner reads; a writer may have come a moment ago.
            return START if WRITER.fullmatch(name) else FAR
        at = self.joined[name]
        behind = Position(at.ms, at.seq + 1) if at != START else START
        return min(behind, Position(max(0, int(min(ms, FAR.ms))), 0))


def floors(
    writers: Mapping[str, WriterState],
    joined: Mapping[str, Position],
    oldest_waiting: int | None,
    reading_since: int | None,
) -> Floors:
    """Where the entries begin that have to stay, by what the joiner has still to do (``oldest_waiting``, ms) and from
    where it would read on beginning anew (``reading_since``, ms)."""
    if oldest_waiting is None and not any(state.open for state in writers.values()):
        # Whoever comes next begins now.
        return Floors({writer: joined.get(writer, START) for writer in writers}, FAR.ms, FAR.ms)
    newest = max((state.last.ms for state in writers.values()), default=0)
    waiting = newest - LAG_MS if oldest_waiting is None else oldest_waiting
    return Floors(
        {writer: joined.get(writer, START) for writer in writers},
        waiting - SKEW_MS,
        waiting - SKEW_MS if reading_since is None else reading_since,
    )


def bound_of(told: int | None, capacity: Capacity) -> tuple[int, str]:
    """How many bytes the streams may take up, and what is wrong with what was configured (``told``)."""
    if told is None:
        return (max(LEAST_BYTES, int(capacity.limit * SHARE)) if capacity.limit else DEFAULT_BYTES), capacity.warning
    largest = max(LEAST_BYTES, int(capacity.limit * LARGEST_SHARE))
    if capacity.limit and told > largest:
        msg = (
            f"retention.stream_bytes: was {told}, expected at most three quarters of the server's maxmemory "
            f"({capacity.limit}): {largest} is used"
        )
        return largest, f"{msg}; {capacity.warning}" if capacity.warning else msg
    return told, capacity.warning


def room_of(bound: int, size: int, capacity: Capacity) -> int:
    """How many of the bytes may be taken up at the moment: others may have what was left for us.

    A little of what there is stays free, so that what is joined can be committed.
    """
    if not capacity.limit:
        return bound
    return max(0, min(bound, int((capacity.limit - capacity.used + size) * FILLED)))


def excess(size: int, bound: int, *, full: bool = False) -> int:
    """How many bytes to cut; where the store says that it is ``full``, a tenth of what there is at least."""
    surplus = size - int(bound * LOW) if size > bound * HIGH else 0
    return max(surplus, size // 10) if full else surplus


def cut_of(stream: Stream, surplus: float) -> int:
    """How many entries of a stream to cut in one go to come nearer to what has to go."""
    each = max(1.0, stream.size / max(1, stream.entries))
    return int(min(MOST, max(FEWEST, surplus / each)))


def forgettable(state: WriterState, joined: Position, *, empty: bool, now_ms: float, forget_ms: float) -> bool:
    """Whether a writer has ended, was joined or can be no more, is trimmed away, and all that is long ago."""
    return not state.open and empty and max(state.last, joined).ms < now_ms - forget_ms
