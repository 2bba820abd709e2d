"""Sessions: what a request continues, and that two rows of one session never see the same past."""

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from msgspec.structs import replace

from guards.breaker import Breaker
from guards.constraints import Cooldown
from guards.records import NEVER, History
from service.decision.batch import Request
from service.decision.batcher import Batcher, enter
from service.decision.commit import Committer
from service.decision.sessions import KEPT, RecurrentState, Sessions, SessionState
from service.log.journal import Journal
from service.log.records import Decision, Feedback
from service.versions.breakers import Breakers
from service.versions.engine import Engine
from service.versions.lease import Lease
from service.versions.observations import Layout
from service.versions.router import Router
from tests.fakes import NOW, SCHEMA, Answer, FakeEngine, asked, behaviour_of

UP, DOWN, TRACKED = 1, 2, frozenset({1, 2})


class Told:
    """A session told step by step: each decision is remembered as the commit does it."""

    def __init__(self, limit: int = 100) -> None:
        self.sessions = Sessions(limit)

    def decided(
        self, name: str, before: SessionState, action: int = 0, at: float = NOW, session: str = "s"
    ) -> SessionState:
        after = SessionState(name, before.episode or "episode", before.history.advanced(action, at, TRACKED))
        self.sessions.advance(session, before, after)
        return after


def keeping(state: SessionState, kept: dict[str, tuple[float, ...]]) -> SessionState:
    """A state whose history keeps these numbers."""
    return SessionState(state.decision_id, state.episode, replace(state.history, kept=kept))


class TestContinuing:
    """What a request continues."""

    def test_a_session_never_seen_has_no_known_history(self) -> None:
        """It may have acted elsewhere: nothing is assumed."""
        assert Sessions(9).remembered("s", NOW) == SessionState(None, None, History(known=False, since=NOW))

    def test_an_episode_that_starts_has_a_known_history(self) -> None:
        """The controller says that nothing came before."""
        assert Sessions(9).begun(NOW) == SessionState(None, None, History(known=True, since=NOW))

    def test_a_session_is_continued_after_its_last_decision(self) -> None:
        """Where the request names none."""
        told = Told()
        first = told.decided("first", told.sessions.begun(NOW), UP)
        second = told.decided("second", first, DOWN, NOW + 1)

        assert told.sessions.remembered("s", NOW + 2) == second
        assert (second.history.step, second.history.used) == (2, {UP: NOW, DOWN: NOW + 1})

    def test_the_last_decision_named_is_the_last_decision(self) -> None:
        """Naming it changes nothing."""
        told = Told()
        first = told.decided("first", told.sessions.begun(NOW), UP)

        assert told.sessions.following("s", "first", NOW + 2) == first

    def test_a_decision_that_is_not_here_has_no_known_history(self) -> None:
        """Whether the session is known here or not; the name is kept for the log."""
        told = Told()
        told.decided("first", told.sessions.begun(NOW))

        for session in ("s", "another"):
            found = told.sessions.following(session, "elsewhere", NOW + 2)
            assert found == SessionState("elsewhere", None, History(known=False, since=NOW + 2))

    def test_the_decision_of_another_session_is_not_here(self) -> None:
        """Histories are not shared between sessions."""
        told = Told()
        told.decided("first", told.sessions.begun(NOW), session="another")

        assert not told.sessions.following("s", "first", NOW).history.known

    def test_a_session_that_is_not_here_is_first_seen_once(self) -> None:
        """Or a constraint that leaves nothing in its worst state would leave nothing for ever."""
        sessions = Sessions(9)
        seen = [sessions.remembered("s", NOW + i).history.since for i in (0, 5)]
        named = [sessions.following("s", "elsewhere", NOW + i).history.since for i in (6, 8)]
        other = sessions.following("s", "elsewhere too", NOW + 9).history.since

        assert (seen, named, other) == ([NOW] * 2, [NOW + 6] * 2, NOW + 9)

    def test_what_was_decided_here_since_is_not_forgotten(self) -> None:
        """A session that comes back after it went on elsewhere is first seen then."""
        told = Told()
        told.sessions.following("s", "elsewhere", NOW)
        told.decided("here", told.sessions.following("s", "elsewhere", NOW + 1))

        assert told.sessions.following("s", "elsewhere", NOW + 9).history.since == NOW + 9

    def test_as_many_strange_sessions_are_kept_as_others(self) -> None:
        """The one first seen longest ago leaves first."""
        sessions = Sessions(2)
        for i, session in enumerate("abc"):
            sessions.remembered(session, NOW + i)

        since = [sessions.remembered(session, NOW + 9).history.since for session in "cba"]

        assert since == [NOW + 2, NOW + 1, NOW + 9]

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"begins": True, "previous": None}, (None, True)),
            ({"begins": False, "previous": "first"}, ("first", True)),
            ({"begins": False, "previous": "elsewhere"}, ("elsewhere", False)),
            ({"begins": False, "previous": None}, ("first", True)),
        ],
    )
    def test_a_request_says_which_of_them_it_means(self, changes: dict[str, Any], expected: tuple[str, bool]) -> None:
        """``previous`` null, named, or left out."""
        told = Told()
        told.decided("first", told.sessions.begun(NOW))
        request = asked(entry=None, **changes)

        found = enter(request, told.sessions)

        assert request.entry is found
        assert (found.decision_id, found.history.known) == expected

    def test_a_new_episode_forgets_the_last_one(self) -> None:
        """There is no stepping back into it."""
        told = Told()
        told.decided("old", told.sessions.begun(NOW), UP)
        told.decided("new", told.sessions.begun(NOW + 1), DOWN, NOW + 1)

        assert told.sessions.remembered("s", NOW).history.used == {DOWN: NOW + 1}
        assert not told.sessions.following("s", "old", NOW + 2).history.known


class TestSteppingBack:
    """A controller that did not carry out the last decisions."""

    def test_it_may_step_back_a_few_decisions(self) -> None:
        """The history is of the one it names; those too long ago are not here."""
        told = Told()
        state = told.sessions.begun(NOW)
        for i in range(KEPT + 1):
            state = told.decided(f"d{i}", state, at=NOW + i)

        steps = [told.sessions.following("s", f"d{i}", NOW + 9).history.step for i in range(1, KEPT + 1)]

        assert steps == list(range(2, KEPT + 2))
        assert not told.sessions.following("s", "d0", NOW + 9).history.known

    def test_uses_of_the_skipped_decisions_count(self) -> None:
        """They may have been carried out before the controller said otherwise: constraints go by the worst of both."""
        told = Told()
        first = told.decided("first", told.sessions.begun(NOW), UP, NOW)
        told.decided("skipped", first, DOWN, NOW + 1)

        history = told.sessions.following("s", "first", NOW + 2).history

        assert (history.step, history.action) == (1, UP)
        assert history.used == {UP: NOW, DOWN: NOW + 1}
        assert history.changed_at == NOW + 1

    def test_what_constraints_keep_of_the_skipped_decisions_counts(self) -> None:
        """As it is after the latest of them."""
        told = Told()
        first = told.decided("first", told.sessions.begun(NOW), UP, NOW)
        skipped = first.history.advanced(DOWN, NOW + 1, TRACKED, kept={"budget": (NOW, 1.0)})
        told.sessions.advance("s", first, SessionState("skipped", "episode", skipped))

        assert told.sessions.following("s", "first", NOW + 2).history.kept == {"budget": (NOW, 1.0)}

    def test_the_latest_use_and_change_count(self) -> None:
        """Also where the decision that is named has some of its own."""
        told = Told()
        first = told.decided("first", told.sessions.begun(NOW), UP, NOW)
        second = told.decided("second", first, DOWN, NOW + 1)
        told.decided("skipped", second, UP, NOW + 2)

        history = told.sessions.following("s", "second", NOW + 3).history

        assert (history.step, history.action) == (2, DOWN)
        assert history.used == {UP: NOW + 2, DOWN: NOW + 1}
        assert history.changed_at == NOW + 2

    def test_without_changes_nothing_has_changed(self) -> None:
        """The same action throughout."""
        told = Told()
        first = told.decided("first", told.sessions.begun(NOW))
        told.decided("skipped", first)

        history = told.sessions.following("s", "first", NOW + 3).history

        assert history.since_change(NOW) == NEVER

    def test_stepping_back_again_and_again_forgets_nothing(self) -> None:
        """Each branch goes on from the worst of those before."""
        told = Told()
        first = told.decided("first", told.sessions.begun(NOW))
        told.decided("one", first, UP, NOW + 1)
        told.decided("two", told.sessions.following("s", "first", NOW + 2), DOWN, NOW + 2)

        history = told.sessions.following("s", "first", NOW + 3).history

        assert history.used == {UP: NOW + 1, DOWN: NOW + 2}

    def test_a_decision_after_one_that_was_elsewhere_forgets_nothing(self) -> None:
        """The branch with an unknown history has fewer uses than the decision stepped back to."""
        told = Told()
        told.decided("first", told.sessions.begun(NOW), UP, NOW)
        told.decided("lost", told.sessions.following("s", "elsewhere", NOW + 1), at=NOW + 1)

        history = told.sessions.following("s", "first", NOW + 2).history

        assert history.used == {UP: NOW}

    def test_what_a_baseline_remembers_is_that_of_the_decision_stepped_back_to(self) -> None:
        """What was not carried out was not put out; what constraints keep is that of all of them."""
        told = Told()
        start = told.sessions.begun(NOW)
        first = told.decided("first", keeping(start, {"": (1.0,), "c": (2.0,)}))
        told.decided("second", keeping(first, {"": (3.0,), "c": (4.0,)}))

        assert told.sessions.following("s", "first", NOW).history.kept == {"": (1.0,), "c": (4.0,)}
        assert told.sessions.following("s", "second", NOW).history.kept == {"": (3.0,), "c": (4.0,)}

    def test_stepping_back_to_where_a_baseline_remembered_nothing_remembers_nothing(self) -> None:
        """The later memory is not the earlier one's."""
        told = Told()
        first = told.decided("first", told.sessions.begun(NOW))
        told.decided("second", keeping(first, {"": (3.0,)}))

        assert told.sessions.following("s", "first", NOW).history.kept == {}


class TestLearning:
    """Memories of steps that were run in shadow."""

    def test_a_memory_is_of_its_own_state(self) -> None:
        """Of those before and after it nothing is known by it."""
        told, memory = Told(), RecurrentState("d", (np.ones(1),))
        first = told.decided("first", told.sessions.begun(NOW))
        second = told.decided("second", first)
        told.decided("third", second)
        told.sessions.learn("s", second, memory)

        found = [told.sessions.following("s", name, NOW).memory for name in ("first", "second", "third")]
        assert found == [None, memory, None]

    def test_what_is_not_here_any_more_learns_nothing(self) -> None:
        """Another episode has begun, or another session took its place."""
        told, memory = Told(limit=1), RecurrentState("d", (np.ones(1),))
        last = told.decided("last", told.sessions.begun(NOW))
        told.decided("first", told.sessions.begun(NOW))
        told.sessions.learn("s", last, memory)
        told.decided("other", told.sessions.begun(NOW), session="t")
        told.sessions.learn("s", last, memory)

        assert len(told.sessions) == 1
        assert told.sessions.remembered("s", NOW).memory is None
        assert told.sessions.remembered("t", NOW).memory is None


class TestEnding:
    """Decisions that are told to have ended their episodes."""

    def test_whoever_continues_one_begins_an_episode(self) -> None:
        """Named or not; what came before is still named, for the log."""
        told = Told()
        told.decided("last", told.sessions.begun(NOW), UP)
        told.sessions.end(["last"])

        expected = SessionState("last", None, History(known=True, since=NOW + 1))
        assert told.sessions.remembered("s", NOW + 1) == expected
        assert told.sessions.following("s", "last", NOW + 1) == expected
        assert expected.starts

    def test_the_next_episode_s_decisions_follow_each_other(self) -> None:
        """And there is no stepping back into the last one."""
        told = Told()
        told.decided("last", told.sessions.begun(NOW), UP)
        told.sessions.end(["last"])
        first = told.decided("first", told.sessions.remembered("s", NOW + 1), DOWN, NOW + 1)
        second = told.decided("second", first, at=NOW + 2)

        assert told.sessions.remembered("s", NOW + 3) == second
        assert (second.history.step, second.history.used) == (2, {DOWN: NOW + 1})
        assert told.sessions.following("s", "first", NOW + 3).history.step == 1
        assert not told.sessions.following("s", "last", NOW + 3).history.known

    def test_an_earlier_decision_that_ended_is_no_end_of_the_last(self) -> None:
        """It was told after the session had gone on."""
        told = Told()
        first = told.decided("first", told.sessions.begun(NOW), UP)
        second = told.decided("second", first, DOWN)
        told.sessions.end(["first"])

        assert told.sessions.remembered("s", NOW) == second

    def test_a_decision_that_is_not_here_is_no_beginning(self) -> None:
        """Nobody knows here that it is this session's: constraints keep their worst state."""
        told = Told()
        told.decided("theirs", told.sessions.begun(NOW), session="another")
        told.sessions.end(["elsewhere", "theirs"])

        for previous in ("elsewhere", "theirs"):
            assert not told.sessions.following("s", previous, NOW).history.known

    def test_as_many_ends_are_kept_as_sessions(self) -> None:
        """The one told longest ago leaves first; told again, it is new."""
        told = Told(limit=2)
        for session in "ab":
            told.decided(session, told.sessions.begun(NOW), session=session)
        told.sessions.end(["a", "b"])
        told.sessions.end(["a", "other"])

        assert told.sessions.remembered("a", NOW).starts
        assert not told.sessions.remembered("b", NOW).starts

    @pytest.mark.parametrize("end", [{"terminated": True}, {"truncated": True}])
    @pytest.mark.parametrize("named", ["", "first"])
    def test_a_request_may_say_that_the_one_before_was_the_last(self, end: dict[str, Any], named: str) -> None:
        """Its own observation belongs to the next episode."""
        told = Told()
        told.decided("first", told.sessions.begun(NOW), UP)
        feedback = Feedback(seq=0, ms=0, decision_id=named, at=NOW, **end)
        for previous in (None, "first"):
            found = enter(asked(entry=None, begins=False, previous=previous, feedback=feedback), told.sessions)

            assert (found.decision_id, found.starts, found.history.used) == ("first", True, {})

    @pytest.mark.parametrize(
        "told_of", [{"decision_id": "other", "terminated": True}, {"reward": 1.0}, {"truncated": False}]
    )
    def test_other_outcomes_leave_the_session_as_it_is(self, told_of: dict[str, Any]) -> None:
        """A reward, or the end of another decision's episode."""
        told = Told()
        first = told.decided("first", told.sessions.begun(NOW), UP)
        feedback = Feedback(**{"seq": 0, "ms": 0, "decision_id": "", "at": NOW, **told_of})
        found = enter(asked(entry=None, begins=False, feedback=feedback), told.sessions)

        assert found == first
        assert not found.starts

    def test_an_end_of_nothing_before_is_no_beginning(self) -> None:
        """A session never seen stays unknown; the turn refuses such feedback."""
        feedback = Feedback(seq=0, ms=0, decision_id="", at=NOW, terminated=True)

        assert not enter(asked(entry=None, begins=False, feedback=feedback), Sessions(9)).history.known


class TestTakingBack:
    """Decisions that were not made after all."""

    def test_a_session_is_where_it_was_before(self) -> None:
        """Two that were taken back, the later first or not: what is remembered is the one before them."""
        for order in (("c", "b"), ("b", "c")):
            sessions, start = Sessions(10), SessionState(None, None, History(known=True, since=NOW))
            states = [
                SessionState(name, "e", History(known=True, since=NOW, step=i + 1)) for i, name in enumerate("abc")
            ]
            for before, after in pairwise([start, *states]):
                sessions.advance("s", before, after)
            for name in order:
                sessions.take_back("s", name)

            assert sessions.remembered("s", NOW) == states[0]

    def test_a_session_that_has_nothing_else_is_not_known(self) -> None:
        """What was before an episode's first decision is not here any more."""
        sessions, start = Sessions(10), SessionState(None, None, History(known=True, since=NOW))
        sessions.advance("s", start, SessionState("a", "e", History(known=True, since=NOW, step=1)))
        sessions.take_back("s", "a")
        sessions.take_back("t", "a")

        assert (len(sessions), sessions.remembered("s", NOW).history.known) == (0, False)

    def test_an_episode_whose_end_was_not_taken_goes_on(self) -> None:
        """Until somebody tells it again."""
        sessions, start = Sessions(10), SessionState(None, None, History(known=True, since=NOW))
        state = SessionState("a", "e", History(known=True, since=NOW, step=1))
        sessions.advance("s", start, state)
        sessions.end(["a", "b"])
        sessions.go_on(["a", "c"])

        assert sessions.remembered("s", NOW) == state
        assert sessions.following("t", "b", NOW).history.known is False


class TestLimit:
    """As many sessions as are kept."""

    def test_the_session_used_longest_ago_leaves_first(self) -> None:
        """A session that goes on stays."""
        told = Told(limit=2)
        first = told.decided("a1", told.sessions.begun(NOW), session="a")
        told.decided("b1", told.sessions.begun(NOW), session="b")
        told.decided("a2", first, session="a")
        told.decided("c1", told.sessions.begun(NOW), session="c")

        assert len(told.sessions) == 2
        assert repr(told.sessions) == "<Sessions 2 of at most 2>"
        known = [told.sessions.remembered(session, NOW).history.known for session in "abc"]
        assert known == [True, False, True]


class Serving:
    """A turn over a fake engine and a real journal; the greedy policy wants up before down before all others."""

    def __init__(self, folder: Path) -> None:
        cooldown = Cooldown(name="c", actions=("up",), seconds=60)
        self.journal = Journal(folder)
        sessions = Sessions(100)
        behaviour = behaviour_of([cooldown])
        committer = Committer(behaviour, self.journal, sessions, Lease(), lambda *_: None)
        self.engine = FakeEngine([0, 5, 3, 2, 1, 0])
        engines = {"fake-1": cast("Engine", self.engine)}
        breakers = Breakers(Breaker(), engines, lambda: 0.0, 0.0)
        self.batcher = Batcher(Router("fake-1"), engines, sessions, committer, Layout(SCHEMA.observation), breakers)

    async def answered(self, *requests: Request) -> list[Decision]:
        """Submit requests in one turn of the loop, and wait for their decisions."""
        for request in requests:
            self.batcher.submit(request)
        await asyncio.sleep(0)
        outcomes = [answer.outcome for request in requests if isinstance(answer := request.answer, Answer)]
        return [outcome for outcome in outcomes if isinstance(outcome, Decision)]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    """Serve, and let the journal go afterwards."""
    served = Serving(tmp_path)
    yield served
    served.journal.close()


def asks(**changes: Any) -> Request:
    """A request of a session that goes on, and whose deadline is far away."""
    return asked(entry=None, deadline=float("inf"), **({"begins": False} | changes))


class TestWaves:
    """Rows of one session that arrive together."""

    async def test_a_cooldown_holds_between_rows_of_one_turn(self, serving: Serving) -> None:
        """The second row of a session sees the first in its history."""
        first, second, third = await serving.answered(asks(begins=True), asks(), asks())

        assert [d.action for d in (first, second, third)] == [UP, DOWN, DOWN]
        assert [d.previous for d in (first, second, third)] == [None, first.id, second.id]
        assert [d.step for d in (first, second, third)] == [0, 1, 2]
        assert {d.episode for d in (first, second, third)} == {first.episode}

    async def test_a_batch_has_one_row_of_each_session(self, serving: Serving) -> None:
        """In the order of arrival; the others wait for the next batch, each for its own session."""
        sessions = ("a", "b", "a", "a", "b", "c")

        decisions = await serving.answered(*(asks(session=session) for session in sessions))

        assert serving.engine.batches == [3, 2, 1]
        assert [d.session for d in sorted(decisions, key=lambda d: d.seq)] == ["a", "b", "c", "a", "b", "a"]

    async def test_sessions_do_not_share_a_cooldown(self, serving: Serving) -> None:
        """Each has a history of its own."""
        decisions = await serving.answered(asks(session="a", begins=True), asks(session="b", begins=True))

        assert [d.action for d in decisions] == [UP, UP]
        assert serving.engine.batches == [2]

    async def test_stepping_back_does_not_lift_a_cooldown(self, serving: Serving) -> None:
        """The skipped decision may have been carried out."""
        mask = [True, False, True, True, True, True]
        (start,) = await serving.answered(asks(begins=True, mask=mask))
        (skipped,) = await serving.answered(asks(previous=start.id))

        (again,) = await serving.answered(asks(previous=start.id))

        assert [start.action, skipped.action, again.action] == [DOWN, UP, DOWN]
        assert (again.step, again.previous) == (1, start.id)

    async def test_unknown_history_is_on_the_record(self, serving: Serving) -> None:
        """A session never seen has no step, and its cooldown takes the worst state."""
        (lost,) = await serving.answered(asks())

        assert (lost.step, lost.action, lost.state.known) == (None, DOWN, False)
        assert lost.state.since == NOW
