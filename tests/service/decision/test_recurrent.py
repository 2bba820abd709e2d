"""Memories: each session has its own, an episode starts with none, and where it is lost nobody makes one up.

What is served is a policy that answers to a fading trace of all it saw; beside it runs the same recurrence in NumPy.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from guards.errors import HistoryUnknown
from guards.records import History
from service.decision.recurrent import states_after
from service.decision.sessions import KEPT, RecurrentState, SessionState
from service.log.records import MEMORY_LIMIT, Decision
from service.versions.engine import ModelOutput
from tests import ports
from tests.in_process import Reply, Serving, asking
from tests.in_process import serving as served_from

# Nothing here is about being in time, unless it says so.
PATIENT = 20_000
ENDS = ({"terminated": True}, {"truncated": True}, {"terminated": True, "truncated": True})


@contextmanager
def serving(folder: Path, artefact: bytes, *, sessions: int = 100, **settings: object) -> Iterator[Serving]:
    """Serve a recurrent policy whose answers may take their time."""
    limits = {"deadline_ms": PATIENT, "sessions": sessions}
    with served_from(folder, artefact, limits=limits, **settings) as served:
        yield served


class Model:
    """The recurrence of one session, step by step."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin an episode."""
        self.trace, self.steps = np.full(3, ports.INITIAL, dtype=np.float32), 0

    def step(self, seen: Sequence[float]) -> np.ndarray:
        """The head after one more observation."""
        head, self.trace, self.steps = ports.stepped(self.trace, self.steps, seen)
        return head


class Loop:
    """A controller of one session, with the model beside it."""

    def __init__(self, served: Serving, session: str, seed: int = 0) -> None:
        self.served, self.session, self.model = served, session, Model()
        self._random = np.random.default_rng(seed)
        self.last: str | None = None

    def seen(self) -> list[float]:
        """What it observes next."""
        return [float(one) for one in self._random.random(3).astype(np.float32)]

    async def act(self, seen: list[float] | None = None, **told: Any) -> Decision:
        """One request, and its record."""
        answer = whole(await self.served.act(self.session, self.seen() if seen is None else seen, **told))
        self.last = answer["decision_id"]
        return self.served.decisions()[-1]

    async def steps(self, count: int, **first: Any) -> None:
        """So many steps that the policy decides as the model says; the first says something more."""
        for i in range(count):
            seen = self.seen()
            agrees(await self.act(seen, **(first if i == 0 else {})), self.model.step(seen))


def whole(reply: Reply) -> dict[str, Any]:
    """The answer of a request that was decided."""
    assert reply.status == 200, reply.body
    answer: dict[str, Any] = reply.json()
    return answer


def agrees(decision: Decision, head: np.ndarray) -> None:
    """Fail where the policy did not decide, or not as the model says."""
    assert (decision.source, decision.reason) == ("policy", None)
    assert decision.head is not None
    assert np.allclose(decision.head.array(), head, atol=1e-5)
    assert decision.action == head.argmax()


def lost(decision: Decision) -> None:
    """Fail where the decision is another than the baseline's, for want of a memory."""
    assert (decision.source, decision.reason) == ("baseline", "HistoryUnknown")
    assert (decision.propensity, decision.propensity_ok) == (1.0, True)
    assert (decision.head, decision.memory) == (None, None)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    """A recurrent policy."""
    with serving(tmp_path, ports.recurrent()) as served:
        yield served


class TestSessions:
    """Whose memory it is."""

    async def test_two_interleaved_sessions_have_a_memory_each(self, served: Serving) -> None:
        """A hundred steps of both, one after the other and both at once, and an episode's end in one of them."""
        one, other = Loop(served, "one", 1), Loop(served, "other", 2)
        await one.steps(1, previous=None)
        await other.steps(1, previous=None)
        for turn in range(1, 100):
            if turn == 40:
                other.model.start()
                await other.steps(1, previous=None)
            await one.steps(1, previous=one.last)
            await other.steps(turn % 3)

        assert one.model.steps == 100
        assert {decision.source for decision in served.decisions()} == {"policy"}

    async def test_sessions_of_one_turn_do_not_mix(self, served: Serving) -> None:
        """Rows of one batch go in and come out with their own memory, whatever their order."""
        loops = [Loop(served, f"s{i}", i) for i in range(9)]
        for turn in range(6):
            asked = [(loop, loop.seen()) for loop in (loops if turn % 2 else reversed(loops))]
            more: dict[str, Any] = {} if turn else {"previous": None}
            await asyncio.gather(*(served.act(loop.session, seen, **more) for loop, seen in asked))
            made = {decision.session: decision for decision in served.decisions()[-9:]}
            for loop, seen in asked:
                agrees(made[loop.session], loop.model.step(seen))

    async def test_rows_of_one_session_in_a_batch_follow_each_other(self, served: Serving) -> None:
        """The second sees the first's memory, the third the second's; those of another session do not matter."""
        model, seen = Model(), [[0.1 * i, 0.0, 1.0] for i in range(7)]
        requests = [asking("s", seen[0], previous=None), *(asking("s", one) for one in seen[1:])]
        others = [asking(f"t{i}", [9, 9, 9], previous=None) for i in range(len(seen))]
        together = [one for pair in zip(requests, others, strict=True) for one in pair]
        whole(await served.post("/act/batch", {"requests": together}))
        made = sorted((d for d in served.decisions() if d.session == "s"), key=lambda d: d.seq)

        assert len(made) == len(seen)
        for decision, one in zip(made, seen, strict=True):
            agrees(decision, model.step(one))

    async def test_the_record_has_what_went_in(self, served: Serving) -> None:
        """By name, in its own dtype: the initial value first, then what came out of the step before."""
        loop = Loop(served, "s")
        seen, model = loop.seen(), Model()
        first = await loop.act(seen, previous=None)
        model.step(seen)
        second = await loop.act()

        assert first.memory is not None
        assert second.memory is not None
        assert {name: one.array().tolist() for name, one in first.memory.items()} == {"trace": [0.25] * 3, "steps": [0]}
        assert np.allclose(second.memory["trace"].array(), model.trace)
        assert (second.memory["steps"].array().tolist(), second.memory["steps"].dtype) == ([1], "int64")


class TestEpisodes:
    """Where a memory begins anew."""

    async def test_an_episode_that_is_said_to_start_starts(self, served: Serving) -> None:
        """``previous: null``."""
        loop = Loop(served, "s")
        await loop.steps(3, previous=None)
        loop.model.start()
        await loop.steps(3, previous=None)

        assert [decision.step for decision in served.decisions()] == [0, 1, 2, 0, 1, 2]

    @pytest.mark.parametrize("end", ENDS)
    @pytest.mark.parametrize("named", [True, False])
    async def test_an_outcome_told_with_the_next_request_ends_the_episode(
        self, served: Serving, end: dict[str, bool], named: bool
    ) -> None:
        """Its observation is the first of the next one; the log still names what came before."""
        loop = Loop(served, "s")
        await loop.steps(3, previous=None)
        before = loop.last
        loop.model.start()
        await loop.steps(3, feedback={"reward": 1, **end}, **({"previous": before} if named else {}))
        made = served.decisions()

        assert [decision.step for decision in made] == [0, 1, 2, 0, 1, 2]
        assert len({decision.episode for decision in made}) == 2
        assert made[3].previous == before
        assert [told.decision_id for told in served.feedback()] == [before]

    @pytest.mark.parametrize("end", ENDS)
    @pytest.mark.parametrize("named", [True, False])
    async def test_an_outcome_told_on_its_own_ends_the_episode(
        self, served: Serving, end: dict[str, bool], named: bool
    ) -> None:
        """Whether the next request names the decision that was the last, or none."""
        loop = Loop(served, "s")
        await loop.steps(3, previous=None)
        whole(await served.post("/feedback", {"decision_id": loop.last, "reward": 0, **end}))
        loop.model.start()
        await loop.steps(3, **({"previous": loop.last} if named else {}))

        assert [decision.step for decision in served.decisions()] == [0, 1, 2, 0, 1, 2]

    async def test_a_reward_ends_nothing(self, served: Serving) -> None:
        """Nor does an outcome of an earlier decision, of another session, or one that is refused."""
        loop, other = Loop(served, "s"), Loop(served, "t")
        await loop.steps(1, previous=None)
        earlier = loop.last
        await other.steps(1, previous=None)
        await loop.steps(2)
        whole(await served.post("/feedback", {"decision_id": loop.last, "reward": 1}))
        whole(await served.post("/feedback", {"decision_id": earlier, "reward": 1, "terminated": True}))
        await served.post("/feedback", {"decision_id": loop.last, "terminated": "yes"})
        whole(await served.post("/feedback", {"decision_id": other.last, "reward": 1, "terminated": True}))
        refused = await served.act("s", feedback={"decision_id": other.last, "reward": 1, "terminated": True})
        await loop.steps(2, feedback={"reward": 1})

        assert refused.status == 409

        assert [decision.step for decision in served.decisions() if decision.session == "s"] == [0, 1, 2, 3, 4]

    async def test_an_outcome_of_another_session_ends_that_one(self, served: Serving) -> None:
        """Whoever tells it."""
        loop, other = Loop(served, "s"), Loop(served, "t")
        await loop.steps(2, previous=None)
        await other.steps(2, previous=None)
        whole(await served.post("/feedback", {"decision_id": other.last, "reward": 1, "terminated": True}))
        await loop.steps(1)
        other.model.start()
        await other.steps(2)

        assert loop.model.steps == 3

    async def test_an_end_is_told_once(self, served: Serving) -> None:
        """The next episode's own steps go on from each other."""
        loop = Loop(served, "s")
        await loop.steps(2, previous=None)
        ended = loop.last
        for _ in range(2):
            whole(await served.post("/feedback", {"decision_id": ended, "reward": 0, "terminated": True}))
        loop.model.start()
        await loop.steps(2)
        whole(await served.post("/feedback", {"decision_id": ended, "reward": 0, "terminated": True}))
        await loop.steps(2)

        assert loop.model.steps == 4


class TestLost:
    """Where the memory is not here."""

    async def test_a_session_never_seen_falls_back_until_an_episode_starts(self, served: Serving) -> None:
        """However many decisions it makes here: each is the baseline's, and known to be."""
        loop = Loop(served, "s")
        for _ in range(3):
            lost(await loop.act())
        lost(await loop.act(previous=loop.last))
        await loop.steps(2, previous=None)
        report = whole(await served.get("/report"))

        assert report["fallbacks"] == {"HistoryUnknown": 4}

    async def test_a_decision_that_is_not_here_has_no_memory(self, served: Serving) -> None:
        """One of this session too long ago; one of another session is refused."""
        loop, other = Loop(served, "s"), Loop(served, "t")
        await loop.steps(1, previous=None)
        old = loop.last
        await loop.steps(KEPT)
        await other.steps(1, previous=None)

        lost(await loop.act(previous=old))
        lost(await loop.act())
        assert (await served.act("t", previous=loop.last)).status == 409

    async def test_rows_without_a_memory_do_not_spoil_their_batch(self, served: Serving) -> None:
        """Known and unknown sessions in one turn: each has what is its own."""
        loops = [Loop(served, f"s{i}", i) for i in range(4)]
        for loop in loops[::2]:
            await loop.steps(2, previous=None)
        asked = [(loop, loop.seen()) for loop in loops]
        await asyncio.gather(*(served.act(loop.session, seen) for loop, seen in asked))
        made = {decision.session: decision for decision in served.decisions()[-4:]}

        for i, (loop, seen) in enumerate(asked):
            if i % 2:
                lost(made[loop.session])
            else:
                agrees(made[loop.session], loop.model.step(seen))

    async def test_an_evicted_session_has_no_memory(self, tmp_path: Path) -> None:
        """The one used longest ago leaves; the others go on."""
        with serving(tmp_path, ports.recurrent(), sessions=2) as served:
            loops = [Loop(served, name) for name in "abc"]
            for loop in loops:
                await loop.steps(2, previous=None)

            lost(await loops[0].act())
            await loops[2].steps(1)

    async def test_a_restart_loses_no_memory_that_the_log_has(self, tmp_path: Path) -> None:
        """The policy is run once more for the last step; where the step is not in the log, the memory is lost."""
        with serving(tmp_path, ports.recurrent()) as served:
            loop, other = Loop(served, "s"), Loop(served, "t")
            await loop.steps(2, previous=None)
            await other.steps(1, previous=None)
            late = await other.act(deadline_ms=1e-6)
            assert late.reason == "DeadlineExceeded"
        with serving(tmp_path, ports.recurrent()) as served:
            loop.served = other.served = served
            await loop.steps(2, previous=loop.last)
            lost(await other.act(previous=other.last))
            other.model.start()
            await other.steps(2, previous=None)

    async def test_a_memory_that_is_too_large_for_the_log_is_lost_with_the_process(self, tmp_path: Path) -> None:
        """But where an episode began, the step before is known to have had the one that they begin with."""
        large = ports.recurrent(memory=MEMORY_LIMIT)
        with serving(tmp_path, large) as served:
            loop, other = Loop(served, "s"), Loop(served, "t")
            await loop.steps(2, previous=None)
            await other.steps(1, previous=None)
        with serving(tmp_path, large) as served:
            loop.served = other.served = served
            lost(await loop.act())
            await other.steps(1)
            assert served.application.resumed.to_json()["memories_lost"] == 1

    async def test_another_version_cannot_read_the_memory(self, served: Serving) -> None:
        """Where the file that decides is another one, the session's memory is of no use to it."""
        loop = Loop(served, "s")
        await loop.steps(2, previous=None)
        served.application.engine.digest = "0" * 64

        lost(await loop.act())
        loop.model.start()
        await loop.steps(2, previous=None)

    async def test_a_failed_inference_loses_the_memory_of_its_rows_alone(self, tmp_path: Path) -> None:
        """The step was not observed by the policy: it has nothing to go on from."""
        with serving(tmp_path, ports.recurrent(fails=True)) as served:
            loop, other = Loop(served, "s"), Loop(served, "t")
            await loop.steps(2, previous=None)
            await other.steps(2, previous=None)
            failed = await loop.act([0.1, -1.0, 1.0])

            assert (failed.source, failed.reason, failed.memory) == ("baseline", "InferenceFailed", None)
            lost(await loop.act())
            await other.steps(2)
            loop.model.start()
            await loop.steps(2, previous=None)

    async def test_an_answer_that_comes_too_late_is_not_used(self, served: Serving) -> None:
        """Nor is its memory: the session falls back until an episode starts."""
        loop = Loop(served, "s")
        await loop.steps(2, previous=None)
        late = await loop.act(deadline_ms=1e-6)

        assert (late.source, late.reason, late.memory) == ("baseline", "DeadlineExceeded", None)
        lost(await loop.act())

    async def test_on_the_pool_memories_are_kept_alike(self, served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
        """A slow model's rows come back with their memory, and a session's next row waits for it."""
        monkeypatch.setattr(served.application.engine, "chunk", 0)
        loops = [Loop(served, f"s{i}", i) for i in range(4)]
        for loop in loops:
            await loop.steps(1, previous=None)
        asked = [(loop, [loop.seen(), loop.seen()]) for loop in loops]
        requests = [asking(loop.session, seen[i]) for i in range(2) for loop, seen in asked]
        whole(await served.post("/act/batch", {"requests": requests}))
        made = served.decisions()[4:]

        for loop, seen in asked:
            mine = sorted((d for d in made if d.session == loop.session), key=lambda d: d.seq)
            for decision, one in zip(mine, seen, strict=True):
                agrees(decision, loop.model.step(one))


class TestStepping:
    """Which step a memory is of."""

    async def test_stepping_back_continues_from_the_memory_of_that_decision(self, served: Serving) -> None:
        """The decisions that were skipped are not in the trace."""
        loop = Loop(served, "s")
        await loop.steps(2, previous=None)
        base, trace, steps = loop.last, loop.model.trace, loop.model.steps
        for _ in range(3):
            loop.model.trace, loop.model.steps = trace, steps
            await loop.steps(1, previous=base)
        await loop.steps(1)

        assert served.decisions()[-1].step == 3

    async def test_a_step_that_the_baseline_decides_is_observed_all_the_same(self, tmp_path: Path) -> None:
        """The policy saw it, though a constraint left it nothing to choose: its memory goes on."""
        everything = {"kind": "rule", "name": "none", "forbid": "queue > 0.5"}
        baseline = {"kind": "constant", "action": "hold", "last_resort": "hold"}
        with serving(tmp_path, ports.recurrent(), constraints=[everything], baseline=baseline) as served:
            loop = Loop(served, "s")
            seen = [[0.5, 0.0, 1.0], [0.9, 1.0, 2.0], [0.1, 0.0, 3.0]]
            heads = [loop.model.step(one) for one in seen]
            made = [await loop.act(one, **({"previous": None} if i == 0 else {})) for i, one in enumerate(seen)]

            agrees(made[0], heads[0])
            assert (made[1].source, made[1].reason) == ("last_resort", "NoSafeAction")
            agrees(made[2], heads[2])

    async def test_what_is_not_in_the_journal_was_not_observed(
        self, served: Serving, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The answer was 503: asked again, the step is the first of its kind."""
        loop = Loop(served, "s")
        await loop.steps(2, previous=None)

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(served.application.journal, "_write", full)
            refused = await served.act("s", [1.0, 1.0, 1.0])
        await loop.steps(2)

        assert refused.status == 503

    async def test_a_memory_that_is_too_large_is_kept_but_not_logged(self, tmp_path: Path) -> None:
        """Such a decision cannot be replayed, which it says, and which is counted."""
        with serving(tmp_path, ports.recurrent(memory=MEMORY_LIMIT)) as served:
            loop = Loop(served, "s")
            await loop.steps(3, previous=None)
            report = whole(await served.get("/report"))

            assert [decision.memory for decision in served.decisions()] == [{}] * 3
            assert report["not_replayable"] == 3


class TestBreaker:
    """What becomes of memories while the version is not trusted."""

    SETTINGS: ClassVar[dict[str, Any]] = {
        "consecutive": 1, "rest_seconds": 0.001, "longest_rest_seconds": 0.001, "jitter": 0, "good_probes": 3
    }  # fmt: skip

    @staticmethod
    async def opened(served: Serving, session: str = "broken") -> None:
        """Open the breaker and wait until it is half open."""
        await served.act(session, [0.5, -1.0, 1.0], previous=None)
        while served.application.breakers.to_json(time.monotonic())["demo-1"]["phase"] == "resting":
            await served.get("/live")

    async def test_a_memory_goes_on_with_every_step_that_is_run_in_shadow(self, tmp_path: Path) -> None:
        """Callers get the baseline; when it closes the policy goes on as if it had decided all along."""
        with serving(tmp_path, ports.recurrent(fails=True), breaker=self.SETTINGS) as served:
            loop, other = Loop(served, "s"), Loop(served, "t", 1)
            await other.steps(2, previous=None)
            await self.opened(served)
            for i in range(3):
                seen = loop.seen()
                loop.model.step(seen)
                shadowed = await loop.act(seen, **({"previous": None} if i == 0 else {}))
                assert (shadowed.source, shadowed.reason, shadowed.memory) == ("baseline", "BreakerOpen", None)
            await loop.steps(3)
            await other.steps(1)
            report = whole(await served.get("/report"))

            assert (loop.model.steps, other.model.steps) == (6, 3)
            assert report["breaker"]["demo-1"]["phase"] == "closed"

    async def test_a_step_that_was_not_run_loses_it(self, tmp_path: Path) -> None:
        """While the version rests nobody asks it: the session falls back until an episode starts."""
        with serving(tmp_path, ports.recurrent(fails=True), breaker={**self.SETTINGS, "good_probes": 1}) as served:
            loop, other = Loop(served, "s"), Loop(served, "t", 1)
            await loop.steps(2, previous=None)
            # For a clock that was ahead no time passes until it is reached: it rests for sure.
            served.application.breakers.answered("demo-1", ["InferenceFailed"], time.monotonic() + 3600)
            assert (await loop.act()).reason == "BreakerOpen"
            await self.opened(served)
            await other.act(previous=None)

            lost(await loop.act())
            loop.model.start()
            await loop.steps(2, previous=None)

    async def test_a_step_that_failed_in_shadow_loses_it(self, tmp_path: Path) -> None:
        """As it does where callers wait for it."""
        with serving(tmp_path, ports.recurrent(fails=True), breaker={**self.SETTINGS, "good_probes": 1}) as served:
            loop, other = Loop(served, "s"), Loop(served, "t", 1)
            await self.opened(served)
            await loop.act([0.1, -1.0, 1.0], previous=None)
            await self.opened(served)
            await other.act(previous=None)

            lost(await loop.act())


def test_memory_that_is_no_number_is_lost() -> None:
    """Row by row: it would never become a number again."""
    answer = ModelOutput(
        np.zeros((3, 2), np.float32),
        None,
        (np.array([[1.0], [np.nan], [3.0]], np.float32), np.array([[[1, 2]], [[3, 4]], [[5, 6]]])),
    )
    kept = states_after(answer, "d")

    assert sorted(kept) == [0, 2]
    assert (kept[2].digest, [one.tolist() for one in kept[2].values]) == ("d", [[3.0], [[5, 6]]])
    assert not any(np.shares_memory(one, answer.memory[i]) for i, one in enumerate(kept[0].values))
    assert states_after(HistoryUnknown(), "d") == {}


def test_a_state_says_what_is_recalled() -> None:
    """The initial value where an episode starts, what is kept where it is this version's, else nothing."""
    initial, values = (np.zeros(2),), (np.ones(2),)
    known, unknown = History(known=True, since=0.0), History(known=False, since=0.0)
    later = History(known=True, since=0.0, step=1)
    kept = RecurrentState("mine", values)

    assert SessionState(None, None, known).split_by_state("mine", initial) is initial
    assert SessionState("ended", None, known).split_by_state("mine", initial) is initial
    assert SessionState(None, None, unknown).split_by_state("mine", initial) is None
    assert SessionState("a", "e", later, kept).split_by_state("mine", initial) is values
    assert SessionState("a", "e", later, kept).split_by_state("other", initial) is None
    assert SessionState("a", "e", later).split_by_state("mine", initial) is None
