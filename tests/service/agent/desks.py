"""Joiners whose pens' records are fed as a test says, and what it expects to come of them."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from service.agent.join import GRACE_MS, Joiner
from service.agent.stores import Position
from service.config import Rewards
from service.log.records import Decision, Transition
from tests.service.agent.pens import KEYRING, Pen

WAIT = Rewards(wait_seconds=10.0, default=-7.0)
NOW = 1e9
# So much later a wait that is over has ended, for writers that were not in the store yet.
LATER = NOW + GRACE_MS / 1000 + 0.001


class Desk:
    """A joiner whose pens' records are fed as they are written, and whose output is committed at once."""

    def __init__(self, *pens: Pen, rewards: Rewards = WAIT) -> None:
        self.pens = pens
        self.rewards = rewards
        self.joiner = Joiner(rewards=rewards, place=KEYRING.place, joined={})
        self.made: list[Transition] = []
        self._fed = {pen.name: 0 for pen in pens}

    def join(self, *pens: Pen, upto: int | None = None, now: float = NOW) -> list[Transition]:
        """Feed what pens (all, unless named) have written, up to a time; what was emitted since the last call.

        ``now`` is when, by a clock of the joiner's own; unless it is told, its waits end a moment later.
        """
        for pen in pens or self.pens:
            records = [r for r in pen.records[self._fed[pen.name] :] if upto is None or r.ms <= upto]
            last = Position(pen.records[-1].ms, len(pen.records))
            self.joiner.order.knows(pen.name, Position(0, 0), last, now)
            for record in records:
                self.joiner.order.feed(pen.name, record, now)
            self._fed[pen.name] += len(records)
        return self.commit(LATER if now == NOW else now)

    def commit(self, now: float = LATER) -> list[Transition]:
        """Let the joiner decide, and take what it gives."""
        self.joiner.advance(now)
        made: list[Transition] = []
        for batch in self.joiner.batches():
            made += batch.transitions
            self.joiner.committed(batch)
        self.made += made
        return made


def facts(transition: Transition) -> dict[str, Any]:
    """What came of a decision, without what was known at once."""
    names = ("reward", "reward_ok", "next_observation", "terminated", "truncated", "closed_by")
    return {name: getattr(transition, name) for name in names}


def outcome(reward: float, next_observation: list[float] | None, closed_by: str, **told: bool) -> dict[str, Any]:
    """The same, as expected."""
    return {
        "reward": reward, "reward_ok": True, "next_observation": next_observation, "terminated": False,
        "truncated": False, "closed_by": closed_by, **told,
    }  # fmt: skip


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["decide", "decide", "reward", "next", "end", "beat", "other"]),
        st.integers(0, 4000),
        st.integers(0, 5),
    ),
    max_size=40,
)


def written(events: Sequence[tuple[int, str, int, int]]) -> tuple[Pen, Pen, Pen]:
    """Three writers' logs of what happened to two sessions, all begun before and idle after."""
    pens = Pen(1), Pen(2), Pen(3)
    for pen in pens:
        pen.beat(1)
    made: list[Decision] = []
    ms = 1000
    for who, what, pause, which in events:
        ms += pause
        pen = pens[who]
        if what in ("decide", "other") or not made:
            session = "ab"[which % 2]
            mine = [decision for decision in made if decision.session == session]
            previous = None if which == 5 or not mine else mine[-1 if what == "decide" else max(-2, -len(mine))]
            made.append(pen.decision(ms, session=session, previous=previous))
        elif what == "beat":
            pen.beat(ms)
        else:
            decision = made[max(-1 - which, -len(made))]
            pen.feedback(
                ms,
                decision,
                None if what == "next" else float(len(pen.records)),
                next_observation=[float(ms)] if what == "next" else None,
                terminated=what == "end",
            )
    for pen in pens:
        pen.beat(ms + 100_000)
    return pens
