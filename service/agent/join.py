"""The joiner: joins feedback and successors to decisions, and emits transitions per writer strictly in sequence.

It has no I/O: the loop (``joining.py``) feeds it the writers' streams and commits what it emits. Its position is one
place per writer; everything it holds is rebuilt from the streams by reading again from its oldest decision that waits.
"""

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import TypeVar

import msgspec

from service.agent.ledger import Joined
from service.agent.order import Key, Order, View
from service.agent.pending import Pending
from service.agent.stores import START, Position
from service.config import Rewards
from service.log.ids import Place
from service.log.records import UNLOGGED, UNLOGGED_FEEDBACK, AnyRecord, Decision, Feedback, Loss, Transition

# A writer this far behind the others (idle ones beat each 5 s) no longer holds up what needs not all writers; its
# records count when they come.
LAG_MS = 7_500
# Beyond the wait and this, a silent writer no longer holds up the end of waits either: the reward is then not ok.
SILENCE_MS = 60_000
# A wait ends this much later than it could, for writers that have begun and are not in the store yet. By the records'
# own times: no wall clock that is set ends a wait, nor keeps one from its end.
GRACE_MS = 2_000
# Records that are not decisions move the position no more often than this.
IDLE_MS = 5_000
# What writers tell of that has no place in their logs.
_OUTSIDE = {UNLOGGED: "decisions", UNLOGGED_FEEDBACK: "feedback"}

Told = TypeVar("Told", Feedback, Decision)

_UNEXPORTED = ("superseded", "not_activated", "shadow")


@dataclass(slots=True, eq=False)
class Item:
    """A record whose turn has come and that its writer's position has not passed yet, with what is counted of it.

    ``heard`` is the class of feedback, ``held`` where its decision is still to come; ``missing`` records and
    ``unreadable`` entries came before it. ``unlogged`` is what a writer tells of that is in no log: what, and how many.
    """

    at: Position
    pending: Pending | None = None
    heard: str = ""
    held: bool = False
    missing: int = 0
    unreadable: int = 0
    unlogged: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class JoinedBatch:
    """What to commit of a writer: its position moves from ``expected`` to ``new`` past ``items`` records.

    ``counts`` go to the ledger in the same transaction, so that each record counts once.
    """

    writer: str
    expected: Position
    new: Position
    transitions: list[Transition]
    items: int
    counts: Counter[str] = field(default_factory=Counter)


class Joiner:
    """Takes the records of all writers, gives transitions."""

    def __init__(
        self, *, rewards: Rewards, place: Callable[[str], Place | None], joined: Mapping[str, Position]
    ) -> None:
        """``place`` reads a decision id; ``joined`` is up to where each writer was emitted by joiners before."""
        self.order = Order()
        self.joined = dict(joined)
        self._rewards = rewards
        self._wait_ms = round(rewards.wait_seconds * 1000)
        self._place = place
        self._seen = {writer: position.seq for writer, position in joined.items()}
        # By id, until the wait is over; by session, until they close.
        self._decisions: dict[str, Pending] = {}
        self._sessions: dict[str, dict[str, Pending]] = {}
        # By writer, in the order in which their waits end.
        self._deadlines: dict[str, deque[Pending]] = {}
        # What speaks of a decision that has not been read yet, from a writer whose clock or stream is ahead.
        self._held: dict[str, list[tuple[str, Feedback | Decision, Item | None]]] = {}
        self._held_until: dict[str, deque[tuple[int, str]]] = {}
        self._outbox: dict[str, deque[Item]] = {}
        # The sequence number up to which a writer's records are in its outbox, and entries among them that are not.
        self._last = dict(self._seen)
        self._passed: dict[str, deque[Position]] = {}
        self._now = float("-inf")
        self._counts: Counter[str] = Counter()

    def pass_over(self, writer: str, at: Position) -> None:
        """An entry of a writer that is not ours: it counts with the record that follows it."""
        if at > self.joined.get(writer, START):
            self._passed.setdefault(writer, deque()).append(at)

    def is_over(self, writer: str) -> bool:
        """Whether a writer is closed, and nothing of it waits to be committed."""
        return self.order.has_ended(writer) and not self._outbox.get(writer)

    def forget(self, writer: str) -> None:
        """A writer is gone for good, with all that came of it."""
        self.joined.pop(writer, None)
        self._seen.pop(writer, None)
        self._last.pop(writer, None)
        self._outbox.pop(writer, None)
        self._passed.pop(writer, None)
        self.order.forget(writer)

    def advance(self, now: float) -> None:
        """Let all records take their turn that can, and all waits end that have; ``now`` in s, monotonic."""
        for key, record in self.order.released(LAG_MS, now):
            self._turn(key, record, now)
        self._expire(now)
        self._now = now

    def batches(self, limit: int = 256) -> Iterator[JoinedBatch]:
        """What can be committed now, at most ``limit`` records each; be told ``committed`` before the next is taken."""
        for writer, outbox in self._outbox.items():
            while items := self._done(writer, outbox, limit):
                expected, new = self.joined.get(writer, START), items[-1].at
                made = [item.pending.transition(self._rewards) for item in items if item.pending is not None]
                transitions = [transition for transition in made if transition is not None]
                idle = not made and len(items) < limit and not self.order.has_ended(writer)
                if idle and new.ms - expected.ms < IDLE_MS:
                    break
                yield JoinedBatch(writer, expected, new, transitions, len(items), _counts(items, transitions))

    def committed(self, batch: JoinedBatch) -> None:
        """A batch is in the store."""
        outbox = self._outbox[batch.writer]
        for _ in range(batch.items):
            outbox.popleft()
        self._counts.update(batch.counts)
        self.joined[batch.writer] = batch.new

    def waiting(self) -> int:
        """How many decisions wait for what comes of them."""
        return sum(map(len, self._sessions.values()))

    def ledger(self) -> Joined:
        """What it did so far, with the feedback, and the unlogged, that it has heard of and not committed yet."""
        items = [item for box in self._outbox.values() for item in box]
        heard = Counter(f"feedback.{item.heard}" for item in items if item.heard)
        for item in items:
            heard.update(_outside(item))
        return Joined.of(self._counts + heard, waiting=self.waiting())

    def _done(self, writer: str, outbox: deque[Item], limit: int) -> list[Item]:
        """What of a writer's outbox, from its beginning on, waits for nothing more."""
        if not outbox:
            return []
        # What speaks of a decision of a writer that has fallen behind does not hold up those after it for long; by
        # which clock that is read, the one that speaks tells.
        horizon = self.order.horizon(writer, LAG_MS, self._now)[0]

        def is_done(item: Item) -> bool:
            if item.held:
                return horizon > item.at.ms + LAG_MS
            return item.pending is None or item.pending.closed is not None

        return list(takewhile(is_done, islice(outbox, limit)))

    def _turn(self, key: Key, record: AnyRecord, now: float) -> None:
        """A record's turn in the one order of all records."""
        _, writer, seq = key
        # Read again to know what came of younger decisions; it was emitted and counted before.
        item = None if seq <= self.joined.get(writer, START).seq else self._item(writer, Position(record.ms, seq))
        if isinstance(record, Decision):
            pending = self._decide(writer, record, now)
            if item is not None:
                item.pending = pending
        elif isinstance(record, Feedback):
            verdict = self._hear(writer, record, item, now)
            if item is not None:
                item.heard, item.held = verdict, not verdict
        elif isinstance(record, Loss) and record.cause in _OUTSIDE and item is not None:
            item.unlogged = (_OUTSIDE[record.cause], record.count)
        self._seen[writer] = max(self._seen.get(writer, 0), seq)

    def _item(self, writer: str, at: Position) -> Item:
        """The next of a writer's outbox, with what is not there before it."""
        passed = self._passed.get(writer, deque())
        unreadable = 0
        while passed and passed[0] < at:
            passed.popleft()
            unreadable += 1
        item = Item(at, missing=at.seq - self._last.get(writer, 0) - 1, unreadable=unreadable)
        self._last[writer] = at.seq
        self._outbox.setdefault(writer, deque()).append(item)
        return item

    def _decide(self, writer: str, decision: Decision, now: float) -> Pending:
        """A decision: what it says of those before it, and the wait for what comes of it."""
        pending = Pending.of(writer, decision, self._wait_ms)
        if decision.previous is not None:
            self._follow(decision, decision.previous, pending.key, now)
        self._decisions[decision.id] = pending
        self._sessions.setdefault(decision.session, {})[decision.id] = pending
        self._deadlines.setdefault(writer, deque()).append(pending)
        for other, record, item in self._held.pop(decision.id, ()):
            if isinstance(record, Feedback):
                _settle_held(item, pending.hear(self._in_time(other, record, pending, now), self._rewards))
            elif record.session == decision.session:
                pending.succeeded(self._in_time(other, record, pending, now), self._rewards)
        self._settle(pending)
        return pending

    def _follow(self, decision: Decision, previous: str, key: Key, now: float) -> None:
        """What a decision says of the session's earlier ones: one has its successor, those after that were skipped."""
        before = self._decisions.get(previous)
        if before is None:
            self._hold(previous, key[1], decision, None, now)
        elif before.draft.session == decision.session:
            before.succeeded(self._in_time(key[1], decision, before, now), self._rewards)
            self._settle(before)
        else:
            # A decision of another session says nothing of this one's.
            return
        place = self._place(previous)
        if place is None:
            return
        # From the newest back, so that a session with many that wait costs no more than one with few.
        waiting = reversed(self._sessions.get(decision.session, {}).values())
        after, both = _key(place), (key[1], place.writer)
        for other in list(takewhile(lambda o: o.key > self._by(after, o), waiting)):
            if other.key < self._by(key, other) and other is not before and not self._apart(other, both, now):
                other.skipped(self._in_time(key[1], decision, other, now))
                self._settle(other)

    def _hear(self, writer: str, feedback: Feedback, item: Item | None, now: float) -> str:
        """Feedback to a decision; its class, empty while its decision is still to come."""
        pending = self._decisions.get(feedback.decision_id)
        if pending is not None:
            verdict = pending.hear(self._in_time(writer, feedback, pending, now), self._rewards)
            self._settle(pending)
            return verdict
        if self._hold(feedback.decision_id, writer, feedback, item, now):
            return ""
        place = self._place(feedback.decision_id)
        return "late" if place is not None and self._is_late(writer, feedback, place) else "unmatched"

    def _is_late(self, writer: str, record: Feedback | Decision, place: Place) -> bool:
        """Whether it came after the wait of the decision of which it speaks, whose place its id tells, known or not."""
        told = isinstance(record, Feedback) and record.late
        ahead = self.order.ahead(writer, place.writer) or 0
        return told or record.ms - ahead > place.ms + self._wait_ms

    def _hold(self, decision_id: str, writer: str, record: Feedback | Decision, item: Item | None, now: float) -> bool:
        """Keep what speaks of a decision that is still to come and in time for it; False where it is not."""
        place = self._place(decision_id)
        if place is None or place.unlogged or place.seq <= self._seen.get(place.writer, 0):
            return False
        # By another clock nobody can say.
        if self._is_late(writer, record, place) and not self.order.apart(writer, place.writer, now):
            return False
        self._held.setdefault(decision_id, []).append((writer, record, item))
        until = record.ms + self._wait_ms + SILENCE_MS
        self._held_until.setdefault(writer, deque()).append((until, decision_id))
        return True

    def _settle(self, pending: Pending) -> None:
        """A decision that closed waits no more; it is still known until its time, to tell duplicates."""
        if pending.closed is not None:
            waiting = self._sessions.get(pending.draft.session, {})
            waiting.pop(pending.draft.decision_id, None)
            if not waiting:
                self._sessions.pop(pending.draft.session, None)

    def _expire(self, now: float) -> None:
        """End the waits that are over by the clock of the writer that waits, for all that go by the same."""
        bound = self._wait_ms + SILENCE_MS
        for writer in {*self._deadlines, *self._held_until}:
            waits, held = self._deadlines.get(writer, deque()), self._held_until.get(writer, deque())
            if not waits and not held:
                self._deadlines.pop(writer, None)
                self._held_until.pop(writer, None)
                continue
            view = self.order.view(writer, bound, now)
            until = min(view.horizon[0], view.time_ms - GRACE_MS)
            # Whether somebody else has heard more is not known while it is not known by which clock they go.
            while waits and waits[0].deadline < until and not view.unsure:
                self._end(waits.popleft(), view)
            while held and held[0][0] < until:
                for _, _, item in self._held.pop(held.popleft()[1], []):
                    _settle_held(item, "unmatched")

    def _end(self, pending: Pending, view: View) -> None:
        """The wait of a decision is over."""
        blind = view.astray or any(ms <= pending.deadline for ms in view.silent)
        pending.expire(self._rewards, blind=blind)
        self._settle(pending)
        self._decisions.pop(pending.draft.decision_id, None)

    def _in_time(self, writer: str, record: Told, pending: Pending, now: float) -> Told:
        """What a writer heard of a decision that waits, at the time that the decision's own clock told then; as in time
        where nobody knows that: the wait goes on, so by the clock that it goes by it is not over.
        """
        ahead = self.order.ahead(writer, pending.key[1])
        if ahead:
            return msgspec.structs.replace(record, ms=record.ms - ahead)
        if not self._apart(pending, (writer,), now):
            return record
        if isinstance(record, Feedback):
            return msgspec.structs.replace(record, ms=min(record.ms, pending.deadline), late=False)
        return msgspec.structs.replace(record, ms=min(record.ms, pending.deadline))

    def _by(self, key: Key, pending: Pending) -> Key:
        """A place in the order by the clock of a decision, where it is known how that stands to the other."""
        return key[0] - (self.order.ahead(key[1], pending.key[1]) or 0), key[1], key[2]

    def _apart(self, pending: Pending, writers: Iterable[str], now: float) -> bool:
        """Whether any of some writers goes by another clock than that of a decision."""
        return any(self.order.apart(pending.key[1], writer, now) for writer in writers)

    def __repr__(self) -> str:
        return f"<Joiner {len(self._decisions)} decisions in their wait, {self.order}>"


def _settle_held(item: Item | None, verdict: str) -> None:
    """What was held is heard; where its writer's position has passed it meanwhile it was counted as unmatched."""
    if item is not None:
        item.heard, item.held = verdict, False


def _outside(item: Item) -> dict[str, int]:
    """What the ledger counts of a record that tells of what is in no log."""
    return {} if item.unlogged is None else {f"unlogged.{item.unlogged[0]}": item.unlogged[1]}


def _counts(items: list[Item], transitions: list[Transition]) -> Counter[str]:
    """What the ledger counts of records whose writer's position passes them."""
    counts = Counter(f"transitions.{transition.closed_by}" for transition in transitions)
    counts["reward_not_ok"] = sum(not transition.reward_ok for transition in transitions)
    counts["records"] = len(items)
    for item in items:
        if item.pending is not None and item.pending.closed in _UNEXPORTED:
            counts[f"not_exported.{item.pending.closed}"] += 1
        if item.heard or item.held:
            counts[f"feedback.{item.heard or 'unmatched'}"] += 1
        counts.update(_outside(item))
        counts["missing"] += item.missing
        counts["unreadable"] += item.unreadable
    return +counts


def _key(place: Place) -> Key:
    # One that is in no log comes after all that are of its time.
    return (place.ms, place.writer, sys.maxsize if place.unlogged else place.seq)
