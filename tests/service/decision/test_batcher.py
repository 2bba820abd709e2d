"""The batcher: one batch for what comes together, one row a session in it; only its own wait for a slow model."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.spec import Field, Fields, Memory
from guards.breaker import Breaker
from guards.errors import InferenceFailed
from service.decision.batch import Batch, Outcome, Request
from service.decision.batcher import Batcher
from service.decision.commit import Committer
from service.decision.sessions import Sessions
from service.errors import DoesNotFit, InternalFault, NotDurable
from service.log.journal import Journal
from service.log.records import Decision, Feedback
from service.versions.breakers import Breakers
from service.versions.engine import Inputs, ModelOutput, rows_of
from service.versions.lease import Lease
from service.versions.observations import Layout
from service.versions.router import Assignment, Router
from tests import artefacts, ports
from tests.fakes import SCHEMA, FakeEngine, asked, behaviour_of, manifest_of
from tests.in_process import Serving, serving

HEAD = (0.0, 5.0, 1.0, 0.0, 0.0, 0.0)
COUNTING = artefacts.looping(
    np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]),
    observation=Fields(fields=(Field(name="cpu"), Field(name="spin"))),
    actions=artefacts.ACTIONS,
)
# Trips of its loop: about a fifth of a second, and for ever.
LONG, ENDLESS = 100_000, 4_000_000_000


class ByName(Router):
    """Sends each session to the version that its name begins with."""

    def route(self, unit: str) -> Assignment:
        return Assignment(track="stable", probability=1.0, version=unit.partition(" ")[0])


class Table:
    """A batcher over fake engines, with a real committer and a real journal."""

    def __init__(
        self, folder: Path, breaker: Breaker | None = None, *, deadline_s: float = 0.0, **engines: Any
    ) -> None:
        self.journal, self.sessions, self.committed = Journal(folder), Sessions(100), list[Batch]()
        self.now = 0.0
        clock = lambda: self.now  # noqa: E731 - what time it is
        self.committer = Committer(
            behaviour_of(), self.journal, self.sessions, Lease(), self.observe, deadline_s=deadline_s, clock=clock
        )
        self.engine = FakeEngine(HEAD)
        known: dict[str, Any] = {"fast": self.engine, **engines}
        layout = Layout(SCHEMA.observation)
        self.breakers = Breakers(breaker or Breaker(), known, lambda: 0.0, self.now)
        router = ByName("fast")
        self.batcher = Batcher(router, known, self.sessions, self.committer, layout, self.breakers, clock=clock)

    def observe(self, batch: Batch, now: float) -> None:
        """Keep what was committed."""
        assert now == self.now
        self.committed.append(batch)

    def submit(self, session: str, **changed: Any) -> "asyncio.Future[Outcome]":
        """Ask for a decision in a session."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        told = {"begins": False, "arrived": self.now, "deadline": self.now + 60.0, "entry": None, **changed}
        self.batcher.submit(asked(session=session, answer=answer, **told))
        return answer


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    """A turn over one fast engine."""
    table = Table(tmp_path)
    yield table
    table.journal.close()


async def decided(*answers: "asyncio.Future[Outcome]") -> list[Decision]:
    """The decisions that are waited for."""
    async with asyncio.timeout(20):
        outcomes = await asyncio.gather(*answers)
    return [outcome for outcome in outcomes if isinstance(outcome, Decision)]


async def test_what_comes_together_is_one_batch(table: Table) -> None:
    """One inference and one commit for all rows of a turn of the loop."""
    records = await decided(*(table.submit(f"fast {i}") for i in range(5)))

    assert table.engine.batches == [5]
    assert [record.seq for record in records] == [1, 2, 3, 4, 5]
    assert len(table.committed) == 1
    assert repr(table.batcher) == "<Batcher 0 pending, 0 sessions wait for a run, <Runs 0 on the pool>>"


async def test_a_session_has_one_row_in_a_batch(table: Table) -> None:
    """Its second row sees the first, its third the second; other sessions do not wait for them."""
    records = await decided(*(table.submit(f"fast {name}") for name in "aabacb"))
    a = [record for record in records if record.session == "fast a"]

    assert table.engine.batches == [3, 2, 1]
    assert [record.previous for record in a] == [None, a[0].id, a[1].id]
    assert [record.state.step for record in a] == [0, 1, 2]


async def test_what_comes_later_is_another_turn(table: Table) -> None:
    """Nothing waits for a batch to fill."""
    await decided(table.submit("fast a"))
    await decided(table.submit("fast b"))

    assert table.engine.batches == [1, 1]


async def test_rows_that_are_late_after_inference_take_the_baseline_alone(table: Table) -> None:
    """What the others get is the policy's."""
    infer = table.engine.infer

    def slow(inputs: Inputs) -> Any:
        table.now += 0.1
        return infer(inputs)

    table.engine.infer = slow  # type: ignore[method-assign]  # slower than it was
    late, fine = table.submit("fast a", deadline=0.05), table.submit("fast b", deadline=0.2)
    records = await decided(late, fine)

    assert [(record.source, record.reason) for record in records] == [
        ("baseline", "DeadlineExceeded"),
        ("policy", None),
    ]
    assert [record.propensity_ok for record in records] == [False, True]
    assert table.engine.batches == [2]


async def test_an_engine_that_fails_is_a_reason(table: Table) -> None:
    """All rows of the batch take the baseline."""

    def fail(inputs: Inputs) -> Any:
        raise InferenceFailed(f"no {rows_of(inputs)}")

    table.engine.infer = fail  # type: ignore[method-assign]  # it fails
    records = await decided(table.submit("fast a"), table.submit("fast b"))

    assert [(record.source, record.reason) for record in records] == [("baseline", "InferenceFailed")] * 2


async def test_a_fault_leaves_nobody_waiting(table: Table) -> None:
    """What no engine should raise is a 500 for its batch, and the next turn goes on."""

    def fault(*_: object) -> Inputs:
        raise ZeroDivisionError

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table.engine, "inputs", fault)
        answer = table.submit("fast a")
        async with asyncio.timeout(2):
            outcome = await answer
    later = await decided(table.submit("fast a"))

    assert isinstance(outcome, InternalFault)
    assert later[0].source == "policy"


async def test_feedback_of_nothing_before_is_refused_alone(table: Table) -> None:
    """The row beside it is decided."""
    told = Feedback(seq=0, ms=0, decision_id="", at=0.0, reward=1.0)
    bad, fine = table.submit("fast a", feedback=told), table.submit("fast b")
    outcomes = await asyncio.gather(bad, fine)
    after = await asyncio.gather(table.submit("fast b", feedback=told))

    assert isinstance(outcomes[0], DoesNotFit)
    assert outcomes[0].path == "$.feedback"
    assert isinstance(outcomes[1], Decision)
    assert isinstance(after[0], Decision)
    assert table.committed[1].feedback[0].decision_id == outcomes[1].id


class Held:
    """A slow engine: its runs end when the test says so."""

    label, digest, inline, masked, initial = "slow-1", "e" * 64, False, False, ()

    def __init__(self) -> None:
        self.dones: list[Any] = []
        self.terminated = 0

    def inputs(self, observation: np.ndarray, *_: object) -> Inputs:
        return {"obs": observation}

    def start(self, inputs: Inputs, done: Any) -> "Held":
        self.dones.append(done)
        self.rows = rows_of(inputs)
        return self

    @property
    def future(self) -> "asyncio.Future[ModelOutput]":
        ended: asyncio.Future[ModelOutput] = asyncio.get_running_loop().create_future()
        ended.set_result(ModelOutput(np.array([HEAD] * self.rows, dtype=np.float32)))
        return ended

    def end(self) -> None:
        self.dones.pop(0)(None)

    def terminate(self) -> None:
        self.terminated += 1


async def test_fast_rows_do_not_wait_for_a_slow_model(tmp_path: Path) -> None:
    """Of one turn, the fast version's rows are answered while the slow version's run goes on."""
    held = Held()
    table = Table(tmp_path, slow=held)
    slow, fast = table.submit("slow a"), table.submit("fast b")
    records = await decided(fast)
    waited_for = not slow.done()
    held.end()
    records += await decided(slow)
    table.journal.close()

    assert waited_for
    assert [record.version for record in records] == ["fake-1", "slow-1"]
    assert [record.seq for record in records] == [1, 2]


async def test_a_session_s_next_rows_wait_behind_its_slow_one(tmp_path: Path) -> None:
    """They are decided one by one, in the order in which they came, each seeing the one before."""
    held = Held()
    table = Table(tmp_path, slow=held)
    answers = [table.submit("slow a") for _ in range(2)]
    await asyncio.sleep(0)
    answers.append(table.submit("slow a"))
    await asyncio.sleep(0)
    runs = []
    for _ in answers:
        runs.append(len(held.dones))
        held.end()
        for _ in range(4):
            await asyncio.sleep(0)
    records = await decided(*answers)
    table.journal.close()

    assert runs == [1, 1, 1]
    assert [record.previous for record in records] == [None, records[0].id, records[1].id]


async def test_what_waited_goes_before_what_comes_now(tmp_path: Path) -> None:
    """A row that arrives in the very turn in which its session is free again stands behind those that waited."""
    held = Held()
    table = Table(tmp_path, slow=held)
    first, second = table.submit("slow a"), table.submit("slow a")
    await asyncio.sleep(0)
    held.end()
    third = table.submit("slow a")
    for _ in range(12):
        await asyncio.sleep(0)
        if held.dones:
            held.end()
    records = await decided(first, second, third)
    table.journal.close()

    assert [record.seq for record in records] == [1, 2, 3]
    assert [record.previous for record in records] == [None, records[0].id, records[1].id]


STRICT = Breaker(consecutive=2, rest_seconds=2, jitter=0, good_probes=2)


async def test_a_version_that_keeps_failing_is_not_asked_until_its_probes_are_good(tmp_path: Path) -> None:
    """Meanwhile everybody gets the baseline: while it rests, while it is probed, and with the last probe too."""
    table = Table(tmp_path, STRICT)
    infer = table.engine.infer

    def fail(inputs: Inputs) -> Any:
        infer(inputs)
        raise InferenceFailed("no")

    table.engine.infer = fail  # type: ignore[method-assign]  # it has a fault
    reasons, asked_of = [], []
    for now in (0, 0, 1, 2, 3, 4, 8, 9, 10):
        table.now = now
        if now == 8:
            table.engine.infer = infer  # type: ignore[method-assign]  # it has none any more
        reasons += [record.reason for record in await decided(table.submit("fast a"), table.submit("fast b"))]
        asked_of.append(len(table.engine.batches))
    table.journal.close()

    # Two batches fail; a rest of 2 s; a bad probe at 2 s; a rest of 4 s; good ones at 8 and 9 s.
    assert asked_of == [1, 2, 2, 3, 3, 3, 4, 5, 6]
    assert reasons == ["InferenceFailed"] * 4 + ["BreakerOpen"] * 12 + [None] * 2
    assert len(table.committed) == 9
    assert [record.seq for committed in table.committed for record in committed.records] == list(range(1, 19))
    assert table.breakers.openings()["fast"] == 2


async def test_other_versions_go_on(tmp_path: Path) -> None:
    """A breaker is one version's."""
    broken = FakeEngine([float("nan")] * 6)
    table = Table(tmp_path, STRICT, broken=broken)
    for _ in range(3):
        bad, good = await decided(table.submit("broken a"), table.submit("fast a"))
    table.journal.close()

    assert (bad.reason, good.reason) == ("BreakerOpen", None)
    assert broken.batches == [1, 1]


async def test_one_slow_run_is_one_fault(tmp_path: Path) -> None:
    """However many rows wait for it, and however they leave it one by one."""
    held = Held()
    table = Table(tmp_path, STRICT, slow=held)
    answers, records = [table.submit(f"slow {i}", deadline=0.01 * i) for i in range(4)], []
    for i, answer in enumerate(answers):
        table.now = 0.01 * i
        records += await decided(answer)
    table.journal.close()

    assert [record.reason for record in records] == ["DeadlineExceeded"] * 4
    assert len(table.committed) == 4
    assert table.breakers.closed("slow")
    assert held.terminated == 1


def slowed(table: Table, seconds: float) -> None:
    """Have the fast engine take so long."""
    infer = table.engine.infer

    def slow(inputs: Inputs) -> Any:
        table.now += seconds
        return infer(inputs)

    table.engine.infer = slow  # type: ignore[method-assign]  # slower than it was


async def test_a_caller_in_a_hurry_does_not_open_the_breaker_for_others(tmp_path: Path) -> None:
    """Who waits less than a version may take gets the baseline, and that says nothing of the version."""
    table = Table(tmp_path, STRICT, deadline_s=0.1)
    slowed(table, 0.03)
    reasons = []
    for _ in range(5):
        (late,) = await decided(table.submit("fast a", deadline=table.now + 0.015))
        reasons.append(late.reason)
    (patient,) = await decided(table.submit("fast b", deadline=table.now + 1))
    table.journal.close()

    assert reasons == ["DeadlineExceeded"] * 5
    assert (patient.source, patient.reason) == ("policy", None)
    assert table.breakers.openings()["fast"] == 0


async def test_nor_does_one_on_the_pool(tmp_path: Path) -> None:
    """Though the run was stopped, because nobody waited for it any more."""
    held = Held()
    table = Table(tmp_path, STRICT, deadline_s=0.1, slow=held)
    for _ in range(5):
        answer = table.submit("slow a", deadline=table.now + 0.001)
        await asyncio.sleep(0)
        table.now += 0.015
        (late,) = await decided(answer)
    table.journal.close()

    assert late.reason == "DeadlineExceeded"
    assert held.terminated == 5
    assert table.breakers.closed("slow")


@pytest.mark.parametrize("waits", [0.015, 0.1, 0.25])
async def test_a_version_that_takes_longer_than_it_may_is_at_fault(tmp_path: Path, waits: float) -> None:
    """However long its callers wait for it, in a hurry or not."""
    table = Table(tmp_path, STRICT, deadline_s=0.1)
    slowed(table, 0.3)
    for _ in range(2):
        (late,) = await decided(table.submit("fast a", deadline=table.now + waits))
    (after,) = await decided(table.submit("fast b", deadline=table.now + 1))
    table.journal.close()

    assert (late.reason, after.reason) == ("DeadlineExceeded", "BreakerOpen")


async def test_a_caller_who_waits_longer_may_have_the_answer(tmp_path: Path) -> None:
    """That is no fault, though another one could not wait as long."""
    table = Table(tmp_path, STRICT, deadline_s=0.1)
    slowed(table, 0.05)
    records = []
    for _ in range(3):
        hurried, patient = (table.submit(f"fast {name}", deadline=table.now + s) for name, s in (("a", 0.01), ("b", 1)))
        records += await decided(hurried, patient)
    table.journal.close()

    assert [record.reason for record in records] == ["DeadlineExceeded", None] * 3
    assert table.breakers.openings()["fast"] == 0


async def test_the_service_s_own_deadline_is_what_a_version_may_take(tmp_path: Path) -> None:
    """As ``limits.deadline_ms`` has it."""
    with serving(tmp_path, limits={"deadline_ms": 60_000.0}, breaker={"consecutive": 1}) as served:
        engine = served.application.engine
        plain = engine.infer

        def slow(inputs: Inputs) -> Any:
            until = time.perf_counter() + 0.02
            while time.perf_counter() < until:
                pass
            return plain(inputs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "infer", slow)
            hurried = (await served.act("a", deadline_ms=15)).json()
        patient = (await served.act("b")).json()

    assert (hurried["reason"], patient["source"]) == ("DeadlineExceeded", "policy")


async def test_what_is_late_already_is_not_asked_of_the_model(tmp_path: Path) -> None:
    """It takes the baseline alone, inline or on the pool; those beside it are asked."""
    held = Held()
    table = Table(tmp_path, STRICT, deadline_s=0.1, slow=held)
    table.now = 5.0
    late, fine, slow = (
        table.submit(name, deadline=deadline) for name, deadline in (("fast a", 4.9), ("fast b", 60), ("slow a", 4.9))
    )
    records = await decided(late, fine, slow)
    table.journal.close()

    assert [record.reason for record in records] == ["DeadlineExceeded", None, "DeadlineExceeded"]
    assert table.engine.batches == [1]
    assert held.terminated == 0
    assert all(table.breakers.closed(version) for version in ("fast", "slow"))


async def test_a_queue_is_no_fault_of_the_version(tmp_path: Path) -> None:
    """Rows that had little time left when it was asked miss their deadline by no fault of its own."""
    table = Table(tmp_path, STRICT, deadline_s=0.1)
    slowed(table, 0.03)
    reasons = []
    for _ in range(5):
        (late,) = await decided(table.submit("fast a", arrived=table.now - 0.08, deadline=table.now + 0.02))
        reasons.append(late.reason)
    table.journal.close()

    assert reasons == ["DeadlineExceeded"] * 5
    assert table.breakers.openings()["fast"] == 0


async def test_a_short_wait_before_it_excuses_no_version_that_hangs(tmp_path: Path) -> None:
    """On the pool its run ends with its callers' deadlines, which began before it was asked."""
    held = Held()
    table = Table(tmp_path, STRICT, deadline_s=0.125, slow=held)
    for _ in range(2):
        answer = table.submit("slow a", arrived=table.now - 0.03125, deadline=table.now + 0.09375)
        await asyncio.sleep(0)
        table.now += 0.09375
        (late,) = await decided(answer)
    (after,) = await decided(table.submit("slow b"))
    table.journal.close()

    assert (late.reason, after.reason) == ("DeadlineExceeded", "BreakerOpen")


async def test_what_was_late_before_it_was_asked_is_no_fault_of_the_version(tmp_path: Path) -> None:
    """The host was too slow."""
    table = Table(tmp_path, STRICT)
    table.now = 5.0
    for _ in range(4):
        (late,) = await decided(table.submit("fast a", deadline=4.0))
    table.journal.close()

    assert late.reason == "DeadlineExceeded"
    assert table.breakers.closed("fast")


async def test_a_slow_version_is_probed_on_the_pool(tmp_path: Path) -> None:
    """Nobody waits for the probe, and only one is on its way."""
    held = Held()
    table = Table(tmp_path, STRICT, slow=held)
    for _ in range(2):
        table.breakers.answered("slow", ["InferenceFailed"], 0.0)
    reasons, runs = [], []
    for now in (1.0, 2.0, 2.1):
        table.now = now
        reasons += [record.reason for record in await decided(table.submit("slow a"))]
        runs.append(len(held.dones))
    for now in (2.2, 2.3):
        table.now = now
        held.end()
        for _ in range(4):
            await asyncio.sleep(0)
        reasons += [record.reason for record in await decided(table.submit("slow a"))] if now < 2.3 else []
    closed = table.breakers.closed("slow")
    table.journal.close()

    assert runs == [0, 1, 1]
    assert reasons == ["BreakerOpen"] * 4
    assert closed
    assert len(table.committed) == 4


async def test_a_probe_of_a_recurrent_version_needs_a_memory(tmp_path: Path) -> None:
    """A session without one cannot be asked, in shadow neither, and goes on without when the breaker has closed."""
    settings = {"consecutive": 2, "rest_seconds": 0.001, "longest_rest_seconds": 0.001, "jitter": 0, "good_probes": 1}
    with serving(tmp_path, ports.recurrent(fails=True), breaker=settings, limits={"deadline_ms": 20_000}) as served:

        async def reason(session: str, queue: float, **told: Any) -> object:
            return (await served.act(session, [0.5, queue, 1.0], **told)).json().get("reason")

        failing = [await reason("a", -1.0, previous=None) for _ in range(2)]
        unknown = []
        while served.application.breakers.to_json(time.monotonic())["demo-1"]["phase"] == "resting":
            unknown.append(await reason("b", 1.0))
        unknown.append(await reason("b", 1.0))
        still = served.application.breakers.to_json(time.monotonic())["demo-1"]["phase"]
        known = await reason("c", 1.0, previous=None)
        after = [await reason("b", 1.0), await reason("b", 1.0, previous=None), await reason("c", 1.0)]

    assert failing == ["InferenceFailed"] * 2
    assert set(unknown) == {"BreakerOpen"}
    assert still == "probing"
    assert known == "BreakerOpen"
    assert after == ["HistoryUnknown", None, None]


class Recalling(Held):
    """A slow engine that counts the steps of each session."""

    initial: Any = (np.zeros(1, dtype=np.float32),)
    manifest = manifest_of(memory=(Memory(name="steps", shape=(1,), meaning="steps taken"),))

    def inputs(self, observation: np.ndarray, _: object, memory: Any) -> Inputs:  # type: ignore[override]
        return {"obs": observation, "memory.steps.in": memory[0]}

    def start(self, inputs: Inputs, done: Any) -> Any:
        return Run(self, inputs, done)


class Run:
    """A run of it, which ends when the test says so."""

    def __init__(self, engine: Recalling, inputs: Inputs, done: Any) -> None:
        engine.dones.append(done)
        self.steps, self.terminate = inputs["memory.steps.in"], lambda: None
        self.future: asyncio.Future[ModelOutput] = asyncio.get_running_loop().create_future()
        heads = np.array([HEAD] * len(self.steps), dtype=np.float32)
        self.future.set_result(ModelOutput(heads, None, (self.steps + np.float32(1),)))


class Probing(Table):
    """A recurrent version whose breaker is half open."""

    def __init__(self, folder: Path, good_probes: int = 9) -> None:
        self.held = Recalling()
        super().__init__(folder, STRICT.model_copy(update={"good_probes": good_probes}), slow=self.held)
        for _ in range(2):
            self.breakers.answered("slow", ["InferenceFailed"], 0.0)
        self.now = 2.0

    async def step(self, *sessions: str, **told: Any) -> list[str | None]:
        """One request of each, together; why the policy did not decide them."""
        self.now += 0.1
        return [one.reason for one in await decided(*(self.submit(f"slow {name}", **told) for name in sessions))]

    async def end(self, which: int = 0) -> None:
        """End a run."""
        self.held.dones.pop(which)(None)
        for _ in range(4):
            await asyncio.sleep(0)

    def steps(self, session: str) -> float | None:
        """What a session's memory has seen; None where it is lost."""
        memory = self.sessions.remembered(f"slow {session}", self.now).memory
        return None if memory is None else memory.values[0].item()


async def test_a_recurrent_version_is_run_at_every_step_while_it_is_probed(tmp_path: Path) -> None:
    """Also while a probe is on its way: nobody waits for it, and every memory that was there sees the step."""
    table = Probing(tmp_path)
    reasons = await table.step("a", "b", begins=True)
    reasons += await table.step("c", begins=True)
    runs = len(table.held.dones)
    await table.end()
    await table.end()
    seen = [[table.steps(name) for name in "abc"]]
    for order in (0, 1):
        reasons += await table.step("a")
        reasons += await table.step("c", "b")
        await table.end(order)
        await table.end()
        seen.append([table.steps(name) for name in "abc"])
    good = table.breakers.to_json(table.now)["slow"]["good_probes"]
    table.journal.close()

    assert set(reasons) == {"BreakerOpen"}
    assert runs == 2
    assert seen == [[1, 1, 1], [2, 2, 2], [3, 3, 3]]
    # Of two runs at a time one is a probe.
    assert good == 3


async def test_a_step_that_no_run_has_seen_loses_the_memory(tmp_path: Path) -> None:
    """A controller that is faster than the version: what comes back later is of the step before, and not taken for
    more; until an episode starts nothing is run for the session."""
    table = Probing(tmp_path)
    await table.step("a", begins=True)
    first = table.sessions.remembered("slow a", table.now).decision_id
    await table.step("a")
    runs = len(table.held.dones)
    await table.end()
    lost = table.steps("a")
    await table.step("a")
    runs += len(table.held.dones)
    assert first is not None
    back = table.sessions.following("slow a", first, table.now).memory
    await table.step("a", begins=True)
    await table.end()
    table.journal.close()

    assert (runs, lost) == (1, None)
    assert back is not None
    assert back.values[0].tolist() == [1]
    assert table.steps("a") == 1


async def test_what_was_run_in_shadow_goes_on_when_the_breaker_closes(tmp_path: Path) -> None:
    """With the memory of all steps; a session that slept while it rested goes on without."""
    table = Probing(tmp_path, good_probes=2)
    for begins in (True, False):
        await table.step("a", begins=begins)
        await table.end()
    closed = table.breakers.closed("slow")
    answer = table.submit("slow a")
    await asyncio.sleep(0)
    await table.end()
    (record,) = await decided(answer)
    table.journal.close()

    assert closed
    assert (record.source, record.step) == ("policy", 2)
    assert record.memory is not None
    assert record.memory["steps"].array().tolist() == [2]


async def test_a_probe_of_what_is_in_no_journal_is_remembered_nowhere(tmp_path: Path) -> None:
    """The session is where it was."""
    table = Probing(tmp_path)
    await table.step("a", begins=True)
    await table.end()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table.journal, "_write", full)
        refused = table.submit("slow a")
        await asyncio.sleep(0)
        await table.end()
    outcome = await refused
    steps = table.steps("a")
    table.journal.close()

    assert isinstance(outcome, NotDurable)
    assert steps == 1


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[Serving]:
    """A real model that counts as far as the observation says, on the pool."""
    with serving(tmp_path, COUNTING, limits={"deadline_ms": 30_000}) as served:
        yield served


async def test_of_a_slow_run_each_row_waits_until_its_own_deadline(counting: Serving) -> None:
    """The hurried row is answered by the baseline at its deadline, the patient one by the policy when it is ready."""
    order: list[str] = []

    async def asking(name: str, **told: object) -> dict[str, Any]:
        reply = await counting.act(name, [1.0, LONG], **told)
        order.append(name)
        answer: dict[str, Any] = reply.json()
        return answer

    hurried, patient = await asyncio.gather(asking("hurried", deadline_ms=20), asking("patient"))

    assert order == ["hurried", "patient"]
    assert (hurried["source"], hurried["reason"], hurried["propensity_ok"]) == ("baseline", "DeadlineExceeded", False)
    assert (patient["source"], patient["action_name"], patient["propensity_ok"]) == ("policy", "scale_up", True)


async def test_a_run_that_nobody_waits_for_frees_its_thread(counting: Serving) -> None:
    """Endless runs on all threads are over at their deadline: the next request has the policy's answer."""
    stuck = await asyncio.gather(*(counting.act(f"s{i}", [1.0, ENDLESS], deadline_ms=30) for i in range(3)))
    more = [(await counting.act(f"t{i}", [1.0, ENDLESS], deadline_ms=30)).json() for i in range(3)]
    began = time.monotonic()
    fine = (await counting.act("u", [1.0, 0.0])).json()

    assert {reply.json()["reason"] for reply in stuck} == {told["reason"] for told in more} == {"DeadlineExceeded"}
    assert fine["source"] == "policy"
    assert time.monotonic() - began < 10


async def test_a_session_waits_for_its_own_slow_decision_alone(counting: Serving) -> None:
    """While it runs, another session is answered; the same session's next request continues the slow one."""
    order: list[str] = []

    async def asking(name: str, session: str, spin: float) -> str:
        reply = await counting.act(session, [1.0, spin])
        order.append(name)
        token: str = reply.json()["decision_id"]
        return token

    slow = asyncio.create_task(asking("slow", "a", LONG))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tokens = await asyncio.gather(slow, asking("next", "a", 0.0), asking("other", "b", 0.0))
    record = next(record for record in counting.decisions() if record.id == tokens[1])

    assert order == ["other", "slow", "next"]
    assert record.previous == tokens[0]


def test_a_request_that_nobody_awaits_is_settled_without_harm() -> None:
    """Who has gone gets no answer."""
    request: Request = asked()
    request.settle(InternalFault("first"))
    request.settle(InternalFault("second"))

    assert request.answer.done()
