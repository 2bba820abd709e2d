"""A decision that waits for what came of it, and the rules by which it closes; the only clock is its records'.

What closes a decision:

* ``feedback``     aggregation ``first``: feedback completes it (a reward is known, and what was observed next)
* ``next_act``     aggregation ``first``: its successor's observation completes it, the reward was told before
* ``episode_end``  a reward is known, and the episode has terminated, or was truncated with its final observation
* ``timeout``      the wait is over: what is known is taken, the default reward where none was told
"""

import sys
from dataclasses import dataclass, field
from functools import partial
from math import isclose, isfinite
from typing import Literal

import msgspec

from guards.records import Action
from service.agent.order import Key
from service.config import Rewards
from service.log.records import Decision, Feedback, Numbers, Transition

ClosedBy = Literal["feedback", "next_act", "timeout", "episode_end"]
Unexported = Literal["superseded", "not_activated", "shadow"]
Verdict = Literal["joined", "late", "duplicate", "conflict"]
FLOAT_MAX = sys.float_info.max


@dataclass(slots=True, eq=False)
class Pending:
    """A decision and what is known of its outcome. ``draft`` has all that was known at once.

    ``reports`` are what was said under each ``feedback_id``: whoever says it again says nothing new.
    """

    key: Key
    deadline: int
    draft: Transition
    rewards: list[float]
    reports: dict[str, bytes] = field(default_factory=dict)
    told_next: Numbers | None = None
    next_seen: Numbers | None = None
    terminated: bool = False
    truncated: bool = False
    executed: Action | None = None
    closed: ClosedBy | Unexported | None = None
    reward_ok: bool = True

    @classmethod
    def of(cls, writer: str, decision: Decision, wait_ms: int) -> "Pending":
        """A decision as it was made."""
        draft = _draft(writer, decision)
        key = (decision.ms, writer, decision.seq)
        pending = cls(key, decision.ms + wait_ms, draft, [])
        pending.closed = "shadow" if decision.track == "shadow" else None
        return pending

    def hear(self, feedback: Feedback, rewards: Rewards) -> Verdict:
        """Take feedback in; what became of it."""
        if feedback.session not in (None, self.draft.session):
            # It came with a request of another session, whose ``previous`` this decision cannot be.
            return "conflict"
        name = feedback.feedback_id
        if name is not None and name in self.reports:
            return "duplicate" if self.reports[name] == feedback.said() else "conflict"
        if feedback.ms > self.deadline or feedback.late:
            return "late"
        if name is not None:
            self.reports[name] = feedback.said()
        if self.closed is not None:
            return "duplicate" if self._says_nothing_new(feedback, rewards) else "conflict"
        verdict = self._hear_reward(feedback.reward, rewards)
        if self.told_next is None:
            self.told_next = feedback.next_observation
        self.terminated |= feedback.terminated
        self.truncated |= feedback.truncated
        if self.executed is None:
            self.executed = feedback.executed_action
        if feedback.activated is False:
            self.closed = "not_activated"
        elif self._is_complete(rewards):
            self.closed = "episode_end" if self._has_ended() else "feedback"
        return verdict

    def succeeded(self, successor: Decision, rewards: Rewards) -> None:
        """The session's next decision names this one as carried out before it."""
        if self.closed is not None or successor.ms > self.deadline or self.next_seen is not None:
            return
        self.next_seen = successor.observation
        if self._is_complete(rewards):
            self.closed = "next_act"

    def skipped(self, successor: Decision) -> None:
        """The session's next decision names an earlier one: this one was not carried out."""
        if self.closed is None and successor.ms <= self.deadline:
            self.closed = "superseded"

    def expire(self, rewards: Rewards, *, blind: bool) -> None:
        """The wait is over; ``blind`` where a writer that may have heard more is silent."""
        if self.closed is None:
            self.closed = "timeout"
            self.reward_ok = not blind or (rewards.aggregation == "first" and bool(self.rewards))

    def transition(self, rewards: Rewards) -> Transition | None:
        """What a trainer reads of it; None where it is not closed, or closed without being carried out."""
        if self.closed not in ("feedback", "next_act", "timeout", "episode_end"):
            return None
        other = self.executed is not None and not _same(self.executed, self.draft.action)
        reward = _aggregated(self.rewards, rewards)
        return msgspec.structs.replace(
            self.draft,
            # JSON has no infinity, and a trainer has no use for one.
            reward=max(-FLOAT_MAX, min(reward, FLOAT_MAX)),
            reward_ok=self.reward_ok and isfinite(reward),
            next_observation=self._next_observation(),
            terminated=self.terminated,
            truncated=self.truncated,
            closed_by=self.closed,
            propensity_ok=self.draft.propensity_ok and not other,
            why_not_ok="executed_action" if other and self.draft.propensity_ok else self.draft.why_not_ok,
            executed_action=self.executed,
        )

    def _next_observation(self) -> Numbers | None:
        # After an episode's end the session's next decision sees another episode.
        over = self.terminated or self.truncated
        return self.told_next if self.told_next is not None or over else self.next_seen

    def _has_ended(self) -> bool:
        return self.terminated or (self.truncated and self.told_next is not None)

    def _is_complete(self, rewards: Rewards) -> bool:
        if not self.rewards:
            return False
        return self._has_ended() or (rewards.aggregation == "first" and self._next_observation() is not None)

    def _hear_reward(self, reward: float | None, rewards: Rewards) -> Verdict:
        if reward is not None and rewards.aggregation == "first" and self.rewards:
            return "duplicate" if reward == self.rewards[0] else "conflict"
        if reward is not None:
            self.rewards.append(reward)
        return "joined"

    def _says_nothing_new(self, feedback: Feedback, rewards: Rewards) -> bool:
        if self.closed == "superseded":
            return False
        if self.closed == "not_activated":
            return feedback.activated is not True
        if feedback.reward is not None and feedback.feedback_id is not None and rewards.aggregation == "sum":
            # By its name it is one more to add, though as large as another.
            return False
        return feedback.reward is None or feedback.reward in self.rewards


def _same(executed: Action, action: Action) -> bool:
    """Whether what was executed is what was decided; numbers may have been rounded to the controller's float32."""
    if isinstance(executed, int) or isinstance(action, int):
        return executed == action
    return len(executed) == len(action) and all(map(partial(isclose, rel_tol=1e-6), executed, action))


def _aggregated(told: list[float], rewards: Rewards) -> float:
    if not told:
        return rewards.default
    if rewards.aggregation == "sum":
        return sum(told)
    return told[0] if rewards.aggregation == "first" else told[-1]


def _draft(writer: str, decision: Decision) -> Transition:
    """A transition of which nothing came yet."""
    return Transition(
        decision_id=decision.id,
        writer=writer,
        seq=decision.seq,
        session=decision.session,
        episode=decision.episode,
        step=decision.step,
        at=decision.at,
        observation=decision.observation,
        action=decision.action,
        reward=0.0,
        reward_ok=False,
        next_observation=None,
        terminated=False,
        truncated=False,
        closed_by="timeout",
        propensity=decision.propensity,
        propensity_ok=decision.propensity_ok,
        why_not_ok=decision.why_not_ok,
        measure=decision.measure,
        track=decision.track,
        track_probability=decision.track_probability,
        version=decision.version,
        digest=decision.digest,
        source=decision.source,
        reason=decision.reason,
        explored=decision.explored,
        executed_action=None,
        allowed=decision.allowed,
        proposed=decision.proposed,
    )
