"""What is not exported, what comes of other replicas, and the order in which transitions are emitted."""

import msgspec
import numpy as np
import pytest

from guards.records import Action
from service.agent.join import SILENCE_MS
from service.agent.order import PATIENCE_S
from service.agent.stores import Position
from tests.service.agent.desks import NOW, Desk
from tests.service.agent.pens import Pen


class TestNotExported:
    """Decisions that were not carried out."""

    def test_a_decision_that_its_session_skips_is_superseded(self) -> None:
        """The controller carried out the one before; the skipped one is no experience, and blocks nothing."""
        pen = Pen(1)
        desk = Desk(pen)
        one = pen.decision(1000)
        skipped = pen.decision(1001, previous=one)
        pen.feedback(1002, one, 1.0)
        three = pen.decision(1003, previous=one)
        pen.feedback(1004, skipped, 9.0)
        pen.feedback(1005, three, 2.0, next_observation=[0.0])

        assert [(t.seq, t.reward, t.next_observation) for t in desk.join()] == [(1, 1.0, [1001.0]), (4, 2.0, [0.0])]
        assert desk.joiner.ledger().not_exported == {"superseded": 1}
        assert desk.joiner.ledger().feedback == {"joined": 2, "conflict": 1}

    def test_a_new_episode_and_other_sessions_skip_nothing(self) -> None:
        """A decision without a previous one begins an episode: the last of the one before still waits."""
        pen = Pen(1)
        desk = Desk(pen)
        one = pen.decision(1000)
        pen.decision(1001)
        other = pen.decision(1001, session="x")
        pen.decision(1002, session="y", previous=other)
        pen.feedback(1003, one, 1.0, terminated=True)

        assert [t.seq for t in desk.join()] == [1]
        assert desk.joiner.ledger().not_exported == {}

    def test_what_was_not_activated_is_not_exported(self) -> None:
        """The controller says that the action was not carried out."""
        pen = Pen(1)
        desk = Desk(pen)
        one = pen.decision(1000)
        pen.feedback(1001, one, 1.0, activated=False, next_observation=[1.0])
        pen.feedback(1002, one, activated=False)
        pen.beat(11_001)

        assert desk.join() == []
        assert desk.joiner.ledger().not_exported == {"not_activated": 1}
        assert desk.joiner.ledger().feedback == {"joined": 1, "duplicate": 1}

    def test_shadows_are_not_exported(self) -> None:
        """Nobody carried them out."""
        pen = Pen(1)
        desk = Desk(pen)
        pen.decision(1000, track="shadow")
        pen.beat(11_001)

        assert desk.join() == []
        assert desk.joiner.ledger().not_exported == {"shadow": 1}


class TestExecuted:
    """Another action than ours."""

    def test_an_action_other_than_ours_makes_the_propensity_not_ok(self) -> None:
        """It was not drawn from our distribution; the reason is given, unless there was one before."""
        pen = Pen(1)
        desk = Desk(pen)
        decisions = [pen.decision(1000, session=name) for name in "abc"]
        decisions.append(pen.decision(1000, session="d", propensity_ok=False, why_not_ok="deadline_exceeded"))
        for decision, executed in zip(decisions, (1, 0, None, 0), strict=True):
            pen.feedback(1001, decision, 1.0, executed_action=executed, terminated=True)

        assert [(t.action, t.executed_action, t.propensity_ok, t.why_not_ok) for t in desk.join()] == [
            (1, 1, True, None), (1, 0, False, "executed_action"), (1, None, True, None),
            (1, 0, False, "deadline_exceeded"),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("action", "executed", "same"),
        [
            ((1, 0, 3), (1, 0, 3), True),
            ((1, 0, 3), (1, 0, 2), False),
            ((0.1, -0.7), (0.1, -0.7), True),
            ((0.1, -0.7), (float(np.float32(0.1)), float(np.float32(-0.7))), True),
            ((0.1, 0.0), (0.1, 1e-9), False),
            ((0.1, -0.7), (0.1001, -0.7), False),
        ],
    )
    def test_whole_actions_are_carried_and_compared(self, action: Action, executed: Action, same: bool) -> None:
        """Every choice and every number; a number that was rounded to float32 is still ours."""
        pen = Pen(1)
        desk = Desk(pen)
        decision = pen.decision(1000, action=action, proposed=action, measure="mixed", allowed=[])
        pen.feedback(1001, decision, 1.0, executed_action=executed, terminated=True)

        (transition,) = desk.join()

        assert (transition.action, transition.executed_action, transition.measure) == (action, executed, "mixed")
        assert transition.propensity_ok == same
        assert transition.why_not_ok == (None if same else "executed_action")


class TestReplicas:
    """Outcomes in other writers' logs."""

    def test_feedback_and_successors_may_be_in_any_log(self) -> None:
        """Read before the decision or after it, with a clock that runs ahead or behind."""
        pens = Pen(1), Pen(2)
        desk = Desk(*pens)
        one = pens[1].decision(1000, session="a")
        two = pens[1].decision(1001, session="b")
        pens[0].feedback(990, one, 1.0)
        pens[0].feedback(991, two, 2.0)
        pens[0].decision(992, session="a", previous=one)
        pens[0].decision(1002, session="b", previous=two)
        pens[0].beat(3000)
        assert desk.join(pens[0]) == []
        pens[1].beat(3000)
        made = desk.join()

        assert [(t.reward, t.next_observation) for t in made] == [(1.0, [992.0]), (2.0, [1002.0])]

    def test_feedback_that_names_nothing_of_ours_is_unmatched(self) -> None:
        """Another deployment's id, and a decision that never appears in its writer's log."""
        pen, lost = Pen(1), Pen(2)
        desk = Desk(pen)
        never = lost.decision(1000)
        pen.feedback(1000, never, 1.0)
        pen.feedback(1000, msgspec.structs.replace(never, id="x" * 52), 1.0)
        desk.join()
        assert desk.joiner.ledger().feedback == {"unmatched": 1}
        pen.beat(1001 + 10_000 + SILENCE_MS)
        desk.join()

        assert desk.joiner.ledger().feedback == {"unmatched": 2}

    def test_a_lagging_writer_holds_up_what_needs_no_other_for_seconds_only(self) -> None:
        """What feedback of its own closes does not wait for the bound of silence."""
        pens = Pen(1), Pen(2)
        desk = Desk(*pens)
        pens[1].beat(900)
        one = pens[0].decision(1000)
        pens[0].feedback(1001, one, 1.0, terminated=True)
        pens[0].beat(9000)
        assert desk.join() == []

        assert [t.closed_by for t in desk.commit(NOW + PATIENCE_S)] == ["episode_end"]


class TestEmission:
    """The order of what comes out, and its position."""

    def test_a_writers_transitions_come_strictly_in_sequence(self) -> None:
        """One that waits holds up those after it, so that one number says what was emitted."""
        pen = Pen(1)
        desk = Desk(pen)
        one, two = pen.decision(1000, session="a"), pen.decision(1001, session="b")
        pen.feedback(1002, two, 1.0, terminated=True)
        assert desk.join() == []
        pen.feedback(1003, one, 1.0, terminated=True)

        assert [t.seq for t in desk.join()] == [1, 2]
        assert desk.joiner.joined == {pen.name: Position(1003, 4)}

    def test_batches_are_bounded_and_records_that_are_no_decisions_move_the_position(self) -> None:
        """Heartbeats of an idle writer move it now and then, not each."""
        pen = Pen(1)
        desk = Desk(pen)
        for ms in range(1000, 1600):
            pen.feedback(ms, pen.decision(ms, session=str(ms)), 1.0, terminated=True)
        desk.joiner.order.knows(pen.name, Position(0, 0), Position(1600, 1200), NOW)
        for record in pen.records:
            desk.joiner.order.feed(pen.name, record, NOW)
        desk.joiner.advance(NOW)
        sizes = []
        for batch in desk.joiner.batches(100):
            sizes.append(batch.items)
            assert batch.new > batch.expected
            desk.joiner.committed(batch)
        assert sizes == [100] * 12
        desk._fed[pen.name] = 1200
        for ms in (2000, 6598, 6599):
            pen.beat(ms)
            desk.join()

        assert desk.joiner.joined == {pen.name: Position(6599, 1203)}
        assert desk.joiner.ledger().waiting == 0
        assert len(desk.joiner._decisions) == 600
        pen.beat(12_000)
        desk.join()
        assert len(desk.joiner._decisions) == 0
