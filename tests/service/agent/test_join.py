"""Joining: every rule by which a decision closes."""

from typing import Any

import msgspec
import pytest

from service.agent.join import GRACE_MS, SILENCE_MS, Joiner
from service.agent.order import PATIENCE_S
from service.agent.stores import Position
from service.config import Rewards
from service.log.records import Packed, Transition
from tests.service.agent.desks import NOW, Desk, facts, outcome
from tests.service.agent.pens import KEYRING, Pen


class TestUnlogged:
    """F25: decisions that were answered while nothing could be written."""

    def test_they_are_counted_as_the_log_tells(self) -> None:
        """Each loss once; losses of other kinds are the shipper's to count."""
        pen = Pen(1)
        desk = Desk(pen)
        pen.loss(1000, 3, "unlogged")
        pen.loss(1000, 2, "unlogged_feedback")
        pen.loss(1001, 9, "segment_lost")
        pen.loss(1002, 4, "unlogged")
        desk.join()

        assert desk.joiner.ledger().unlogged == {"decisions": 7, "feedback": 2}

    def test_they_are_not_counted_again_when_they_are_read_again(self) -> None:
        """A joiner that begins behind what was emitted reads it to know what came of others."""
        pen = Pen(1)
        pen.loss(1000, 3, "unlogged")
        pen.loss(1001, 5, "unlogged")
        desk = Desk(pen)
        desk.joiner = Joiner(rewards=desk.rewards, place=KEYRING.place, joined={pen.name: Position(1000, 1)})
        desk.join()

        assert desk.joiner.ledger().unlogged == {"decisions": 5}

    @pytest.mark.parametrize("apart_ms", [0, 1, 500])
    def test_what_came_before_one_was_carried_out(self, apart_ms: int) -> None:
        """A decision of the log is not skipped by one that continues what is beside it, however close they were."""
        pen = Pen(1)
        desk = Desk(pen)
        before = pen.decision(1000)
        beside = pen.unlogged(1000 + apart_ms)
        after = pen.decision(1600, previous=beside)
        pen.feedback(1700, before, 1.0, next_observation=[3.0])
        pen.feedback(1700, after, 2.0, next_observation=[4.0])

        assert [facts(t)["reward"] for t in desk.join()] == [1.0, 2.0]

    def test_nothing_waits_for_it(self) -> None:
        """It never comes: what speaks of it is not held until it does."""
        pen = Pen(1)
        desk = Desk(pen)
        beside = msgspec.structs.replace(pen.unlogged(1000), id=pen.unlogged(9000).id)
        pen.feedback(1001, beside, 1.0)
        desk.join()

        assert desk.joiner.ledger().feedback == {"unmatched": 1}


class TestFirst:
    """Aggregation ``first``: a decision closes as soon as its reward and what was observed next are known."""

    def test_feedback_with_reward_and_next_observation_closes(self) -> None:
        """The transition has all that the decision's record says of it, and what came of it."""
        pen = Pen(1)
        desk = Desk(pen)
        decision = pen.decision(1000, session="a", reason=None, observation=Packed("float64", (1,), "AAAAAAAA8D8="))
        assert desk.join() == []
        pen.feedback(1500, decision, 2.5, next_observation=[4.0])
        (transition,) = desk.join()

        assert facts(transition) == outcome(2.5, [4.0], "feedback")
        assert (transition.decision_id, transition.writer, transition.seq) == (decision.id, pen.name, 1)
        same = [name for name in Transition.__struct_fields__ if hasattr(decision, name) and name != "seq"]
        assert {name: getattr(transition, name) for name in same} == {name: getattr(decision, name) for name in same}
        assert len(same) > 18

    def test_reward_and_next_observation_may_come_apart(self) -> None:
        """In either order; the last of them closes."""
        pen = Pen(1)
        desk = Desk(pen)
        one, two = pen.decision(1000, session="a"), pen.decision(1001, session="b")
        pen.feedback(1002, one, 1.0)
        pen.feedback(1003, two, next_observation=[2.0])
        assert desk.join() == []
        pen.feedback(1004, two, 3.0)
        pen.feedback(1005, one, next_observation=[4.0])

        assert [facts(t) for t in desk.join()] == [outcome(1.0, [4.0], "feedback"), outcome(3.0, [2.0], "feedback")]

    def test_the_successor_closes_a_decision_whose_reward_was_told(self) -> None:
        """As in a control loop that tells the reward of the last action with the next request."""
        pen = Pen(1)
        desk = Desk(pen)
        one = pen.decision(1000)
        pen.feedback(2000, one, 0.5)
        pen.decision(2000, previous=one)

        assert [facts(t) for t in desk.join()] == [outcome(0.5, [2000.0], "next_act")]

    def test_a_reward_after_the_successor_closes(self) -> None:
        """The successor's observation is kept for it."""
        pen = Pen(1)
        desk = Desk(pen)
        one = pen.decision(1000)
        pen.decision(2000, previous=one)
        assert desk.join() == []
        pen.feedback(2500, one, 0.5)

        assert [facts(t) for t in desk.join()] == [outcome(0.5, [2000.0], "feedback")]

    def test_the_first_successor_counts_and_feedback_knows_better(self) -> None:
        """A next observation that was told goes before what the successor saw."""
        pen = Pen(1)
        desk = Desk(pen)
        one, two = pen.decision(1000, session="a"), pen.decision(1001, session="b")
        pen.decision(2000, session="a", previous=one)
        pen.decision(2001, session="a", previous=one)
        pen.feedback(2002, one, 1.0)
        pen.decision(2003, session="b", previous=two)
        pen.feedback(2004, two, 1.0, next_observation=[9.0])

        assert [t.next_observation for t in desk.join()] == [[2000.0], [9.0]]

    def test_a_successor_of_another_session_is_none(self) -> None:
        """Whatever it names."""
        pen = Pen(1)
        desk = Desk(pen)
        one = pen.decision(1000, session="a")
        pen.feedback(1001, one, 1.0)
        pen.decision(1002, session="b", previous=one)

        assert desk.join() == []

    def test_of_two_rewards_the_first_wins(self) -> None:
        """The same again is a duplicate, another a conflict, before and after closing."""
        pen = Pen(1)
        desk = Desk(pen)
        one = pen.decision(1000)
        for reward in (1.0, 1.0, 2.0):
            pen.feedback(1001, one, reward)
        pen.feedback(1002, one, 1.0, next_observation=[3.0])
        for reward in (1.0, 2.0):
            pen.feedback(1003, one, reward)

        assert [facts(t) for t in desk.join()] == [outcome(1.0, [3.0], "feedback")]
        assert desk.joiner.ledger().feedback == {"joined": 1, "duplicate": 3, "conflict": 2}


class TestEpisodeEnd:
    """What terminated and truncated mean."""

    @pytest.mark.parametrize("aggregation", ["first", "sum", "last"])
    def test_termination_needs_no_next_observation(self, aggregation: Any) -> None:
        """There is none to bootstrap from, and the session's next decision is not it."""
        pen = Pen(1)
        desk = Desk(pen, rewards=Rewards(aggregation=aggregation))
        one = pen.decision(1000)
        pen.feedback(1001, one, 1.0, terminated=True)
        pen.decision(1002, previous=one)

        assert [facts(t) for t in desk.join()] == [outcome(1.0, None, "episode_end", terminated=True)]

    def test_truncation_takes_its_final_observation_from_feedback_alone(self) -> None:
        """What the session sees next is another episode's beginning."""
        pen = Pen(1)
        desk = Desk(pen)
        one, two = pen.decision(1000, session="a"), pen.decision(1000, session="b")
        pen.feedback(1001, one, 1.0, truncated=True)
        pen.decision(1002, session="a", previous=one)
        pen.feedback(1003, two, 1.0, truncated=True, next_observation=[5.0])
        assert desk.join() == []
        pen.beat(11_001)
        made = desk.join()

        assert facts(made[0]) == outcome(1.0, None, "timeout", truncated=True)
        assert facts(made[1]) == outcome(1.0, [5.0], "episode_end", truncated=True)

    def test_an_end_without_a_reward_waits_for_one(self) -> None:
        """And takes the default when the wait is over."""
        pen = Pen(1)
        desk = Desk(pen)
        one, two = pen.decision(1000, session="a"), pen.decision(1000, session="b")
        pen.feedback(1001, one, terminated=True)
        pen.feedback(1001, two, terminated=True)
        pen.feedback(1002, two, 3.0)
        pen.beat(11_001)

        assert [facts(t) for t in desk.join()] == [
            outcome(-7.0, None, "timeout", terminated=True),
            outcome(3.0, None, "episode_end", terminated=True),
        ]


class TestTimeout:
    """The end of the wait."""

    def test_what_is_known_is_taken(self) -> None:
        """The default reward where none came, the successor's observation where there is one."""
        pen = Pen(1)
        desk = Desk(pen)
        one = pen.decision(1000)
        pen.decision(1500, previous=one)
        three = pen.decision(1500, session="x")
        pen.feedback(2000, three, 4.0)
        pen.beat(11_000)
        assert desk.join() == []
        pen.beat(11_600)

        assert [facts(t) for t in desk.join()] == [
            outcome(-7.0, [1500.0], "timeout"), outcome(-7.0, None, "timeout"), outcome(4.0, None, "timeout")
        ]  # fmt: skip

    def test_feedback_after_the_wait_is_late(self) -> None:
        """Whether it is read before the decision was emitted or after, and so is a successor."""
        pen = Pen(1)
        desk = Desk(pen)
        one = pen.decision(1000)
        pen.feedback(11_000, one, 1.0)
        pen.feedback(11_001, one, 2.0)
        pen.decision(11_001, previous=one)
        assert [facts(t) for t in desk.join()] == [outcome(1.0, None, "timeout")]
        pen.feedback(12_000, one, 3.0)
        desk.join()

        assert desk.joiner.ledger().feedback == {"joined": 1, "late": 2}

    def test_every_open_writer_has_to_have_passed(self) -> None:
        """An idle one says so with a heartbeat; one that is closed and read is not waited for."""
        pens = Pen(1), Pen(2), Pen(3)
        desk = Desk(*pens)
        pens[0].decision(1000)
        pens[0].beat(20_000)
        pens[1].beat(10_000)
        pens[2].beat(500)
        assert desk.join() == []
        desk.joiner.order.ended(pens[2].name)
        assert desk.commit() == []
        pens[1].beat(11_001)

        assert [t.closed_by for t in desk.join()] == ["timeout"]

    def test_the_wait_is_not_over_before_the_clock_says_so(self) -> None:
        """All writers may have ended, and one that is just beginning may have heard more: so much time has to pass
        since the last record was seen, whatever the wall clock says."""
        pen = Pen(1)
        desk = Desk(pen)
        pen.decision(1000)
        assert desk.join(now=5.0) == []
        desk.joiner.order.ended(pen.name)
        over = 5.0 + (10_000 + GRACE_MS) / 1000

        assert desk.commit(now=over) == []
        assert [t.reward_ok for t in desk.commit(now=over + 0.001)] == [True]

    def test_a_silent_writer_does_not_block_but_makes_the_reward_doubtful(self) -> None:
        """Beyond the bound a default is emitted as what it is: not known. A reward that was told stays good."""
        pens = Pen(1), Pen(2)
        desk = Desk(*pens)
        pens[1].beat(900)
        pens[0].decision(1000)
        told = pens[0].decision(1000, session="x")
        pens[0].feedback(1001, told, 2.0)
        assert desk.join() == []
        later = NOW + 10.0 + SILENCE_MS / 1000
        pens[0].beat(900 + 10_000 + SILENCE_MS)
        assert desk.join(now=later) == []
        assert desk.commit(later + PATIENCE_S) == []
        pens[0].beat(901 + 10_000 + SILENCE_MS)
        made = desk.join(now=later + PATIENCE_S)

        assert [(t.reward, t.reward_ok) for t in made] == [(-7.0, False), (2.0, True)]
        assert desk.joiner.ledger().reward_not_ok == 1
        pens[1].feedback(1500, told, 2.0)
        assert desk.join(now=later + PATIENCE_S) == []

    @pytest.mark.parametrize(("aggregation", "reward"), [("sum", 6.0), ("last", 3.0)])
    def test_sum_and_last_take_all_that_came_in_the_wait(self, aggregation: Any, reward: float) -> None:
        """They close at its end, or at the episode's."""
        pen, other = Pen(1), Pen(2)
        desk = Desk(pen, other, rewards=Rewards(wait_seconds=10.0, aggregation=aggregation))
        one, two = pen.decision(1000, session="a"), pen.decision(1000, session="b")
        pen.feedback(1001, one, 1.0, next_observation=[5.0])
        other.feedback(1002, one, 2.0)
        pen.feedback(1003, one, 3.0)
        pen.feedback(1003, two, 6.0 if aggregation == "sum" else 3.0, terminated=True)
        pen.beat(11_001)
        other.beat(11_001)

        assert [facts(t) for t in desk.join()] == [
            outcome(reward, [5.0], "timeout"),
            outcome(reward, None, "episode_end", terminated=True),
        ]
