"""The joiner: joins feedback and successors to decisions, and emits transitions per writer strictly in sequence.

It has no I/O: the loop (``joining.py``) feeds it the writers' streams and commits what it emits. Its position is one
place per writer; everything it holds is rebuilt from the streams by reading again from its oldest decision that waits.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, takewhile

from service.agent.ledger import Joined
from service.agent.order import Key, Order
from service.agent.pending import Pending
from service.agent.stores import START, Position
from service.config import Rewards
from service.ids import Place
from service.records import AnyRecord, Decision, Feedback, Transition

# A writer this far behind the others (idle ones beat each 5 s) no longer holds up what needs not all writers; its
# records count when they come.
LAG_MS = 7_500
# Beyond the wait and this, a silent writer no longer holds up the end of waits either: the reward is then not ok.
SILENCE_MS = 60_000
# A wait ends this much later than it could, for writers that have begun and are not in the store yet.
GRACE_MS = 2_000
# Records that are not decisions move the position no more often than this.
IDLE_MS = 5_000

Item = tuple[Position, Pending | None]


@dataclass(frozen=True, slots=True)
class Batch:
    """What to commit of a writer: its position moves from ``expected`` to ``new`` past ``items`` records."""

    writer: str
    expected: Position
    new: Position
    transitions: list[Transition]
    items: int


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
        self._deadlines: list[tuple[int, Key, Pending]] = []
        # What speaks of a decision that has not been read yet, from a writer whose clock or stream is ahead.
        self._held: dict[str, list[Feedback | Decision]] = {}
        self._held_until: deque[tuple[int, str]] = deque()
        self._outbox: dict[str, deque[Item]] = {}
        self._transitions: Counter[str] = Counter()
        self._unexported: Counter[str] = Counter()
        self._feedback: Counter[str] = Counter()
        self._reward_not_ok = 0

    def advance(self, now: float) -> None:
        """Let all records take their turn that can, and all waits end that have; ``now`` in s, wall clock."""
        for key, record in self.order.released(LAG_MS, now):
            self._turn(key, record)
        self._expire(now)

    def batches(self, limit: int = 256) -> Iterator[Batch]:
        """What can be committed now, each to be told ``committed`` before the next is taken."""
        for writer, outbox in self._outbox.items():
            while items := list(takewhile(_is_done, islice(outbox, limit))):
                expected, new = self.joined.get(writer, START), items[-1][0]
                made = [pending.transition(self._rewards) for _, pending in items if pending is not None]
                transitions = [transition for transition in made if transition is not None]
                idle = not made and len(items) < limit and not self.order.has_ended(writer)
                if idle and new.ms - expected.ms < IDLE_MS:
                    break
                yield Batch(writer, expected, new, transitions, len(items))

    def committed(self, batch: Batch) -> None:
        """A batch is in the store."""
        outbox = self._outbox[batch.writer]
        for _ in range(batch.items):
            _, pending = outbox.popleft()
            if pending is not None and pending.closed in ("superseded", "not_activated", "shadow"):
                self._unexported[pending.closed] += 1
        self._transitions.update(transition.closed_by for transition in batch.transitions)
        self._reward_not_ok += sum(not transition.reward_ok for transition in batch.transitions)
        self.joined[batch.writer] = batch.new

    def ledger(self) -> Joined:
        """What it did so far."""
        return Joined(
            waiting=sum(map(len, self._sessions.values())),
            transitions=dict(self._transitions),
            not_exported=dict(self._unexported),
            feedback=dict(self._feedback),
            reward_not_ok=self._reward_not_ok,
        )

    def _turn(self, key: Key, record: AnyRecord) -> None:
        """A record's turn in the one order of all records."""
        _, writer, seq = key
        # Read again to know what came of younger decisions; it was emitted and counted before.
        emitted = seq <= self.joined.get(writer, START).seq
        pending = None
        if isinstance(record, Decision):
            pending = self._decide(writer, record)
        elif isinstance(record, Feedback):
            verdict = self._hear(record)
            if verdict and not emitted:
                self._feedback[verdict] += 1
        if not emitted:
            self._outbox.setdefault(writer, deque()).append((Position(record.ms, seq), pending))
        self._seen[writer] = max(self._seen.get(writer, 0), seq)

    def _decide(self, writer: str, decision: Decision) -> Pending:
        """A decision: what it says of those before it, and the wait for what comes of it."""
        pending = Pending.of(writer, decision, self._wait_ms)
        if decision.previous is not None:
            self._follow(decision, decision.previous, pending.key)
        self._decisions[decision.id] = pending
        self._sessions.setdefault(decision.session, {})[decision.id] = pending
        heapq.heappush(self._deadlines, (pending.deadline, pending.key, pending))
        for record in self._held.pop(decision.id, ()):
            if isinstance(record, Feedback):
                self._feedback[pending.hear(record, self._rewards)] += 1
            elif record.session == decision.session:
                pending.succeeded(record, self._rewards)
        self._settle(pending)
        return pending

    def _follow(self, decision: Decision, previous: str, key: Key) -> None:
        """What a decision says of the session's earlier ones: one has its successor, those after that were skipped."""
        before = self._decisions.get(previous)
        if before is None:
            self._hold(previous, decision)
        elif before.draft.session == decision.session:
            before.succeeded(decision, self._rewards)
            self._settle(before)
        place = self._place(previous)
        if place is None:
            return
        # From the newest back, so that a session with many that wait costs no more than one with few.
        waiting = reversed(self._sessions.get(decision.session, {}).values())
        for other in list(takewhile(lambda o: o.key > _key(place), waiting)):
            if other.key < key and other is not before:
                other.skipped(decision)
                self._settle(other)

    def _hear(self, feedback: Feedback) -> str:
        """Feedback to a decision; its class, empty while its decision is still to come."""
        pending = self._decisions.get(feedback.decision_id)
        if pending is not None:
            verdict = pending.hear(feedback, self._rewards)
            self._settle(pending)
            return verdict
        if self._hold(feedback.decision_id, feedback):
            return ""
        place = self._place(feedback.decision_id)
        return "late" if place is not None and feedback.ms > place.ms + self._wait_ms else "unmatched"

    def _hold(self, decision_id: str, record: Feedback | Decision) -> bool:
        """Keep what speaks of a decision that is still to come; False where it is not."""
        place = self._place(decision_id)
        if place is None or place.seq <= self._seen.get(place.writer, 0):
            return False
        self._held.setdefault(decision_id, []).append(record)
        self._held_until.append((record.ms + self._wait_ms + SILENCE_MS, decision_id))
        return True

    def _settle(self, pending: Pending) -> None:
        """A decision that closed waits no more; it is still known until its time, to tell duplicates."""
        if pending.closed is not None:
            waiting = self._sessions.get(pending.draft.session, {})
            waiting.pop(pending.draft.decision_id, None)
            if not waiting:
                self._sessions.pop(pending.draft.session, None)

    def _expire(self, now: float) -> None:
        bound = self._wait_ms + SILENCE_MS
        until = min(self.order.horizon(bound, now)[0], now * 1000 - GRACE_MS)
        silent = self.order.silent(bound, now).values()
        while self._deadlines and self._deadlines[0][0] < until:
            deadline, _, pending = heapq.heappop(self._deadlines)
            pending.expire(self._rewards, blind=any(ms <= deadline for ms in silent))
            self._settle(pending)
            self._decisions.pop(pending.draft.decision_id, None)
        while self._held_until and self._held_until[0][0] < until:
            _, decision_id = self._held_until.popleft()
            given_up = self._held.pop(decision_id, [])
            self._feedback["unmatched"] += sum(isinstance(record, Feedback) for record in given_up)

    def __repr__(self) -> str:
        return f"<Joiner {len(self._decisions)} decisions in their wait, {self.order}>"


def _is_done(item: Item) -> bool:
    return item[1] is None or item[1].closed is not None


def _key(place: Place) -> Key:
    return (place.ms, place.writer, place.seq)
