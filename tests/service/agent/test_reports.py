"""Reports: feedback with a name of its own counts once, however often, where and when it is told again."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.agent.join import GRACE_MS, Joiner
from service.agent.stores.sqlite import SqliteStore
from service.config import Rewards
from service.log.records import Decision, Transition, decode_record, encode_record
from tests.service.agent.consumers import transitions
from tests.service.agent.desks import Desk
from tests.service.agent.pens import Pen
from tests.service.agent.test_joining import Clock, Shipped, joining

AGGREGATIONS = ("first", "sum", "last")
END = 11_001


def rewards(aggregation: Any) -> Rewards:
    """Rewards that wait ten seconds."""
    return Rewards(wait_seconds=10.0, aggregation=aggregation)


def heard(desk: Desk) -> dict[str, int]:
    """What became of the feedback."""
    return desk.joiner.ledger().feedback


@pytest.mark.parametrize("where", ["the same writer", "another replica", "before its decision is read", "twice over"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_report_that_is_told_again_counts_once(aggregation: str, where: str) -> None:
    """Whichever process takes the repetition, and in whichever order the streams are read."""
    pen, other = Pen(1), Pen(2)
    desk = Desk(pen, other, rewards=rewards(aggregation))
    decision = pen.decision(1000)
    pen.feedback(1001, decision, 1.0, feedback_id="a")
    again = {"the same writer": [pen], "another replica": [other], "twice over": [pen, other, pen, pen, other]}
    for repeated in again.get(where, [other]):
        repeated.feedback(1002, decision, 1.0, feedback_id="a")
    pen.feedback(1003, decision, 4.0, feedback_id="b")
    (other if where == "another replica" else pen).feedback(1004, decision, 1.0, feedback_id="a")
    for one in (pen, other):
        one.beat(END)
    if where == "before its decision is read":
        desk.join(other, upto=1500)
    (transition,) = [*desk.made, *desk.join()]

    assert transition.reward == {"first": 1.0, "sum": 5.0, "last": 4.0}[aggregation]
    assert heard(desk).get("duplicate", 0) >= len(again.get(where, [other])) + 1


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(
    "changed",
    [
        {"reward": 2.0},
        {"reward": None, "terminated": True},
        {"reward": 1.0, "next_observation": [7.0]},
        {"reward": 1.0, "truncated": True},
        {"reward": 1.0, "executed_action": 0},
        {"reward": 1.0, "activated": False},
    ],
)
def test_another_report_under_its_name_is_a_conflict(aggregation: str, changed: dict[str, Any]) -> None:
    """The first one holds, and nothing of the other is taken."""
    pen = Pen(1)
    desk = Desk(pen, rewards=rewards(aggregation))
    decision = pen.decision(1000)
    pen.feedback(1001, decision, 1.0, feedback_id="a")
    pen.feedback(1002, decision, feedback_id="a", **changed)
    pen.beat(END)
    (transition,) = desk.join()

    assert (transition.reward, transition.next_observation, transition.executed_action) == (1.0, None, None)
    assert (transition.terminated, transition.truncated, transition.closed_by) == (False, False, "timeout")
    assert heard(desk) == {"joined": 1, "conflict": 1}


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_name_is_one_of_its_decision_s(aggregation: str) -> None:
    """Two decisions may each have a report "a", and a report without a name is always one of its own."""
    pen = Pen(1)
    desk = Desk(pen, rewards=rewards(aggregation))
    one, two, three = (pen.decision(1000 + i, session=str(i)) for i in range(3))
    pen.feedback(1010, one, 1.0, feedback_id="a")
    pen.feedback(1010, two, 2.0, feedback_id="a")
    for _ in range(3):
        pen.feedback(1011, three, 3.0)
    pen.beat(END + 10)

    assert [made.reward for made in desk.join()] == [1.0, 2.0, 9.0 if aggregation == "sum" else 3.0]


def test_after_the_decision_has_closed_a_repetition_is_a_duplicate() -> None:
    """A report under another name that comes then is one that could not be added, as large as it may be."""
    pen = Pen(1)
    desk = Desk(pen, rewards=rewards("sum"))
    decision = pen.decision(1000)
    pen.feedback(1001, decision, 1.0, terminated=True, feedback_id="a")
    for reward, name in ((1.0, "a"), (1.0, "b"), (1.0, "b"), (2.0, "a")):
        pen.feedback(1002, decision, reward, terminated=reward == 1.0, feedback_id=name)
    (transition,) = desk.join()

    assert (transition.reward, transition.closed_by) == (1.0, "episode_end")
    assert heard(desk) == {"joined": 1, "duplicate": 2, "conflict": 2}


def test_a_repetition_after_the_wait_is_no_second_report() -> None:
    """However late it comes, it is told apart from what never counted."""
    pen = Pen(1)
    desk = Desk(pen, rewards=rewards("sum"))
    decision = pen.decision(1000)
    pen.feedback(10_990, decision, 1.0, feedback_id="a")
    pen.feedback(11_200, decision, 1.0, feedback_id="a", late=True)
    pen.feedback(11_200, decision, 5.0, feedback_id="b", late=True)
    pen.beat(30_000)
    (transition,) = desk.join()

    assert transition.reward == 1.0
    assert heard(desk) == {"joined": 1, "duplicate": 1, "late": 1}


REPORTS = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 1)), min_size=1, max_size=25)
# Sums of these are exact, in every order.
WORTH = {"a": 1.0, "b": -2.5, "c": 1.0, "d": 1024.0, "e": 0.25}


@given(told=REPORTS, aggregation=st.sampled_from(AGGREGATIONS), restart=st.integers(0, 25))
def test_any_repetition_gives_the_reward_of_each_once(
    told: list[tuple[str, int]], aggregation: str, restart: int
) -> None:
    """Told any number of times, in any order, at two replicas, with an agent that begins anew in between."""
    pens = Pen(1), Pen(2)
    decision = pens[0].decision(1000)
    pens[1].beat(999)
    for i, (name, replica) in enumerate(told):
        pens[replica].feedback(1001 + i, decision, WORTH[name], feedback_id=name)
    for pen in pens:
        pen.beat(END)
    before = Desk(*pens, rewards=rewards(aggregation))
    before.join(upto=1001 + restart)
    again = Desk(*pens, rewards=rewards(aggregation))
    again.joiner = Joiner(rewards=rewards(aggregation), place=again.joiner._place, joined=dict(before.joiner.joined))
    (transition,) = again.join()

    once = list(dict.fromkeys(name for name, _ in told))
    worth = [WORTH[name] for name in once]
    assert transition.reward == {"first": worth[0], "sum": sum(worth), "last": worth[-1]}[aggregation]
    assert transition.reward_ok


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
async def test_an_agent_that_begins_anew_knows_what_was_told(tmp_path: Path, aggregation: str) -> None:
    """The repetition is shipped after the restart; what it repeats is read again from the store."""
    store = SqliteStore(tmp_path / "store.sqlite")
    shipped, pen, clock = Shipped(store), Pen(1), Clock()
    decision = pen.decision(1000)
    pen.feedback(1001, decision, 1.0, feedback_id="a")
    pen.feedback(1002, decision, 2.0, feedback_id="b")
    await shipped.ship(pen)
    await joining(store, clock, rewards(aggregation)).step()
    pen.feedback(1003, decision, 1.0, feedback_id="a")
    pen.beat(END)
    await shipped.ship(pen)
    anew = joining(store, clock, rewards(aggregation))
    while await anew.step():
        pass
    # A wait ends a little after the records that it waits for have come.
    clock.now += 2 * GRACE_MS / 1000
    while await anew.step():
        pass
    made = [msgspec.json.decode(text, type=Transition) for text in await transitions(store)]

    assert [one.reward for one in made] == [{"first": 1.0, "sum": 3.0, "last": 2.0}[aggregation]]
    await store.close()


class TestSessions:
    """What comes with a request of a session is about that session's decisions."""

    @pytest.mark.parametrize("early", [False, True])
    @pytest.mark.parametrize("aggregation", AGGREGATIONS)
    def test_feedback_that_came_with_another_session_s_request_is_a_conflict(
        self, aggregation: str, early: bool
    ) -> None:
        """It credits nothing, also where it is read before the decision that it names; alone it may name any."""
        pen, other = Pen(1), Pen(2)
        desk = Desk(pen, other, rewards=rewards(aggregation))
        decision = pen.decision(1000, session="a")
        other.feedback(1001, decision, 5.0, session="b")
        other.feedback(1002, decision, 1.0, session="a")
        other.feedback(1003, decision, terminated=True)
        for one in (pen, other):
            one.beat(END)
        if early:
            desk.join(other, upto=1500)
        (transition,) = [*desk.made, *desk.join()]

        assert (transition.reward, transition.terminated) == (1.0, True)
        assert heard(desk)["conflict"] == 1

    def test_previous_of_another_session_supersedes_nothing(self) -> None:
        """A decision that names another session's is no word about those of its own."""
        pen = Pen(1)
        desk = Desk(pen)
        foreign = pen.decision(1000, session="a")
        own = pen.decision(1001, session="b")
        pen.decision(1002, session="b", previous=foreign)
        pen.feedback(1003, own, 1.0, next_observation=[2.0])
        pen.feedback(1004, foreign, 2.0, next_observation=[3.0])
        made: dict[str, float] = {one.decision_id: one.reward for one in desk.join()}

        assert made == {foreign.id: 2.0, own.id: 1.0}


def test_lines_written_before_are_read() -> None:
    """A record with all its nulls, as the journals of earlier versions have it, means the same; new ones are short."""
    decision = Pen(1).decision(1000)
    record = Pen(2).feedback(1500, decision, 1.5)
    old = (
        b'{"kind":"feedback","v":1,"seq":1,"ms":1500,"decision_id":"%b","at":1.5,"reward":1.5,"next_observation":null,'
        b'"terminated":false,"truncated":false,"executed_action":null,"activated":null,"late":false}'
    ) % decision.id.encode()

    assert decode_record(old) == record == decode_record(encode_record(record))
    assert b"null" not in encode_record(record)
    assert not isinstance(record, Decision)


@pytest.mark.parametrize(
    ("told", "reward", "is_ok"),
    [
        ([1.7e308, 1.7e308], sys.float_info.max, False),
        ([-1.7e308, -1.7e308], -sys.float_info.max, False),
        ([1.7e308, 1.7e308, -1.7e308, -1.7e308], sys.float_info.max, False),
        ([1.7e308, -1.7e308, 1.0], 1.0, True),
        ([sys.float_info.max], sys.float_info.max, True),
    ],
)
def test_a_sum_beyond_all_numbers_is_no_reward_to_learn_from(told: list[float], reward: float, is_ok: bool) -> None:
    """JSON has no infinity: written as ``null``, the transition could not be read back."""
    pen = Pen(1)
    desk = Desk(pen, rewards=rewards("sum"))
    decision = pen.decision(1000)
    for one in told:
        pen.feedback(1001, decision, one)
    pen.beat(END)
    (transition,) = desk.join()

    assert (transition.reward, transition.reward_ok) == (reward, is_ok)
    assert msgspec.json.decode(msgspec.json.encode(transition), type=Transition) == transition
    assert desk.joiner.ledger().reward_not_ok == (0 if is_ok else 1)
