"""The commit: journal first, answer then; what could not be written was not decided, and nobody is left waiting."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from guards.constraints import Cooldown
from guards.errors import InferenceFailed, PolicyUnavailable
from service.decision.batch import Batch, Request
from service.decision.commit import Committer
from service.decision.explore.explorers import EpsilonGreedy
from service.decision.sessions import Sessions
from service.errors import InternalFault, NotDurable
from service.log.durable import DurableJournal
from service.log.ids import Keyring
from service.log.journal import Journal, JournalUnavailable, read_segment, segments
from service.log.records import AnyRecord, Decision, Feedback, Loss
from service.versions.engine import ModelOutput
from service.versions.lease import Lease, Page
from service.versions.router import Assignment
from tests.fakes import KEY, NOW, Answer, asked, batch_of, behaviour_of
from tests.in_process import Serving, asking, serving

HEAD = [0.0, 5.0, 1.0, 0.0, 0.0, 0.0]
TOLD = Feedback(seq=0, ms=0, decision_id="D", at=NOW, reward=1.0)


class Disk:
    """A disk with room for so many bytes."""

    def __init__(self) -> None:
        self.room = 2**30
        self.writes = 0

    def write(self, file: int, data: bytes) -> int:
        self.writes += 1
        if not self.room:
            raise OSError(28, "No space left on device")
        written = os.write(file, data[: self.room])
        self.room -= written
        return written


class Field:
    """A committer over a real journal."""

    def __init__(
        self,
        folder: Path,
        *,
        sync: Callable[[int], None] | None = None,
        unlogged: Literal["refuse", "serve"] = "refuse",
        **settings: Any,
    ) -> None:
        self.disk, self.sessions, self.lease = Disk(), Sessions(100), Lease()
        kind = Journal if sync is None else DurableJournal
        self.journal = kind(folder, write=self.disk.write, sync=sync)
        self.observed: list[Batch] = []
        rest = Cooldown(name="rest", actions=("up",), seconds=60)
        self.behaviour = replace(behaviour_of([rest], explorer=settings.pop("explorer", None)), **settings)
        self.committer = Committer(
            self.behaviour,
            self.journal,
            self.sessions,
            self.lease,
            lambda batch, _: self.observed.append(batch),
            unlogged=unlogged,
        )

    def commit(self, *requests: Request, why: PolicyUnavailable | None = None) -> list[Any]:
        """Commit these rows; what each was told, or None as long as it was told nothing."""
        told = ModelOutput(np.array([HEAD] * len(requests), dtype=np.float32)) if why is None else why
        self.committer.commit(batch_of(requests).answered(told, 10.0))
        return [outcome_of(request) for request in requests]

    def records(self) -> list[AnyRecord | None]:
        """Every line on disk, None for a damaged one."""
        return [line.record for path in segments(self.journal.folder) for line in read_segment(path.read_bytes())]

    def bytes(self) -> bytes:
        """All that is on disk."""
        return b"".join(path.read_bytes() for path in segments(self.journal.folder))


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    """A committer whose journal is in the page cache."""
    field = Field(tmp_path)
    yield field
    field.journal.close()


def outcome_of(request: Request) -> Any:
    """What a request was told."""
    assert isinstance(request.answer, Answer)
    return request.answer.outcome


def rows(*sessions: str, **changed: Any) -> list[Request]:
    """A request for each of these sessions."""
    return [asked(session=session, answer=Answer(), **changed) for session in sessions]


def test_the_record_is_on_disk_before_the_answer_leaves(field: Field) -> None:
    """Whoever has an answer finds its record in the journal."""
    found: list[bool] = []

    class Looking(Answer):
        """Looks into the journal as it is answered."""

        def set_result(self, outcome: Any, /) -> None:
            super().set_result(outcome)
            found.append(outcome in field.records())

    field.commit(*(asked(session=session, answer=Looking()) for session in "ab"))

    assert found == [True, True]


def test_a_batch_is_one_write_of_contiguous_records(field: Field) -> None:
    """Feedback that came along stands before the decisions, and every number follows the one before."""
    first, second = rows("a", feedback=TOLD), rows("b", "c")
    field.commit(*first, *second)
    field.commit(*rows("d"))
    kinds = [type(record).__name__ for record in field.records()]

    assert kinds == ["Feedback", "Decision", "Decision", "Decision", "Decision"]
    assert [record.seq for record in field.records() if record is not None] == [1, 2, 3, 4, 5]
    assert field.journal.next_seq == 6
    assert field.disk.writes == 2


@pytest.mark.parametrize("room", [0, 1, 700])
def test_what_cannot_be_written_was_not_decided(field: Field, room: int) -> None:
    """Nothing half-written stays, no session moves on, the sequence stands, and the next batch goes on from there."""
    field.commit(*rows("a"))
    before = field.bytes()
    field.disk.room = room
    failed = field.commit(*rows("a", begins=False), *rows("b"))
    kept, sessions = field.bytes(), len(field.sessions)
    field.disk.room = 2**30
    again = field.commit(*rows("a", begins=False), *rows("b", feedback=TOLD))

    assert [type(outcome) for outcome in failed] == [NotDurable, NotDurable]
    assert (kept, sessions) == (before, 1)
    assert [type(outcome) for outcome in again] == [Decision, Decision]
    assert [record.seq for record in field.records() if record is not None] == [1, 2, 3, 4]
    assert None not in field.records()


def test_whole_records_that_reached_the_disk_are_decisions(field: Field) -> None:
    """Others may have read them: they are answered and remembered, and only the rest was not decided."""
    field.commit(*rows("a"))
    field.disk.room = len(field.bytes()) * 3 // 2
    outcomes = field.commit(*rows("b", "c"))
    field.disk.room = 2**30
    (later,) = field.commit(*rows("b", entry=field.sessions.remembered("b", NOW)))

    assert [type(outcome) for outcome in outcomes] == [Decision, NotDurable]
    assert [record for record in field.records() if isinstance(record, Decision)][1:] == [outcomes[0], later]
    assert [record.seq for record in field.records() if record is not None] == [1, 2, 3]
    assert later.previous == outcomes[0].id
    assert [len(committed.records) for committed in field.observed] == [1, 1, 1]


def test_a_refusal_for_want_of_disk_does_not_tell_where_it_is(field: Field) -> None:
    """Paths of the machine are for its log, not for callers."""
    field.disk.room = 0

    (failed,) = field.commit(*rows("a"))

    assert str(field.journal.folder.parent) not in failed.message


def test_a_journalled_decision_is_the_session_s_history(field: Field) -> None:
    """The next row continues it, with the use of the action that is tracked."""
    (first,) = field.commit(*rows("a", begins=True))
    entry = field.sessions.remembered("a", NOW + 1)

    assert (entry.decision_id, entry.history.action, entry.history.step) == (first.id, 1, 1)
    assert entry.history.used == {1: NOW}


def test_a_fault_of_ours_leaves_nobody_waiting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A baseline that raises is a 500 for its batch, in the log, and nothing is journalled of it."""

    def broken(_: object) -> np.ndarray:
        raise ZeroDivisionError

    field = Field(tmp_path, baseline=broken)
    outcomes = field.commit(*rows("a", "b"), why=InferenceFailed())
    fine = field.commit(*rows("a"))
    field.journal.close()

    assert [type(outcome) for outcome in outcomes] == [InternalFault, InternalFault]
    assert "ZeroDivisionError" in caplog.text
    assert "ZeroDivisionError" not in outcomes[0].message
    assert isinstance(fine[0], Decision)
    assert len(field.records()) == 1


def test_whoever_counts_cannot_take_an_answer_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fault in the statistics comes after the answers."""
    field = Field(tmp_path)

    def fault(*_: object) -> None:
        raise ZeroDivisionError

    committer = Committer(field.behaviour, field.journal, field.sessions, field.lease, fault)
    request = rows("a")[0]
    head = ModelOutput(np.array([HEAD], dtype=np.float32))
    committer.commit(batch_of([request]).answered(head, 10.0))
    field.journal.close()

    assert isinstance(outcome_of(request), Decision)
    assert "ZeroDivisionError" in caplog.text


def test_who_has_gone_is_decided_and_logged_but_not_told(field: Field) -> None:
    """The decision was made: it is in the journal."""
    gone = Answer()
    gone.set_result(InternalFault("gone"))
    field.commit(asked(answer=gone))

    assert isinstance(gone.outcome, InternalFault)
    assert isinstance(field.records()[0], Decision)


async def test_the_journal_s_time_does_not_run_backwards(field: Field) -> None:
    """A row with an earlier time of day is written with the last one's."""
    field.commit(*rows("a", at=NOW + 5))
    field.commit(*rows("b", at=NOW))
    await field.committer.note([TOLD], NOW - 5)

    assert [record.ms for record in field.records() if record is not None] == [int(NOW + 5) * 1000] * 3


async def test_feedback_alone_is_journalled_in_sequence(field: Field) -> None:
    """Several at once are one write; where it fails, nobody is told that it was taken."""
    await field.committer.note([TOLD, replace_id(TOLD, "E")], NOW)
    field.disk.room = 0
    with pytest.raises(JournalUnavailable):
        await field.committer.note([TOLD], NOW)

    assert [(record.seq, getattr(record, "decision_id", "")) for record in field.records() if record is not None] == [
        (1, "D"),
        (2, "E"),
    ]


def replace_id(told: Feedback, decision_id: str, *, terminated: bool = False) -> Feedback:
    """The same feedback of another decision."""
    return Feedback(
        seq=told.seq, ms=told.ms, decision_id=decision_id, at=told.at, reward=told.reward, terminated=terminated
    )


def test_exploration_and_generation_are_those_of_the_lease(field: Field) -> None:
    """What the record says is what was allowed as it was decided."""
    field.lease.see(Page(generation=1, heartbeat=1), float("inf"))
    (before,) = field.commit(*rows("a"))
    field.lease.see(Page(generation=9, heartbeat=2), float("inf"))
    (after,) = field.commit(*rows("b"))

    assert (before.generation, after.generation) == (1, 9)


class Gate:
    """Lets one through for each time that it is set, before or after."""

    def __init__(self) -> None:
        self._count = threading.Semaphore(0)

    def set(self) -> None:
        """Let one through."""
        self._count.release()

    def wait(self, timeout: float) -> bool:
        """Wait to be let through; whether that was in time."""
        return self._count.acquire(timeout=timeout)


class Syncs:
    """A disk whose syncs end when the test says so; ``fails`` is how many of them fail."""

    def __init__(self) -> None:
        self.count = 0
        self.fails = 0
        self.begun, self.go_on = Gate(), Gate()

    def sync(self, _: int) -> None:
        self.count += 1
        self.begun.set()
        assert self.go_on.wait(20)
        if self.fails:
            self.fails -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))


class Waiting(Answer):
    """An answer that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._told = asyncio.Event()

    def set_result(self, outcome: Any, /) -> None:
        super().set_result(outcome)
        self._told.set()

    async def told(self) -> None:
        """Wait until it is here."""
        async with asyncio.timeout(20):
            await self._told.wait()


def waiting(session: str) -> list[Request]:
    """A request whose answer can be waited for."""
    return [asked(session=session, answer=Waiting())]


async def answered(request: Request) -> None:
    """Wait until a request has its outcome."""
    assert isinstance(request.answer, Waiting)
    await request.answer.told()


def durable(tmp_path: Path) -> tuple[Field, Syncs]:
    """A committer that syncs, and what its disk does."""
    syncs = Syncs()
    return Field(tmp_path, sync=syncs.sync, durability="disk"), syncs


def resume(field: Field) -> None:
    """The disk was seen to work again."""
    assert isinstance(field.journal, DurableJournal)
    field.journal.resume()


def told(requests: Sequence[Request]) -> list[str]:
    """What kind of outcome each request has."""
    return [type(outcome_of(request)).__name__ for request in requests]


async def test_on_disk_means_synced_before_the_answer(tmp_path: Path) -> None:
    """What is committed while a sync runs is synced with the next one, all together."""
    field, syncs = durable(tmp_path)
    first, second, third = waiting("a"), waiting("b"), waiting("c")
    field.commit(*first)
    await asyncio.to_thread(syncs.begun.wait, 20)
    field.commit(*second)
    field.commit(*third)
    before = told(first + second + third)
    syncs.go_on.set()
    await answered(first[0])
    after_one = told(first + second + third)
    syncs.go_on.set()
    await answered(third[0])
    await field.committer.settled()
    field.journal.close()

    assert before == ["NoneType"] * 3
    assert after_one == ["Decision", "NoneType", "NoneType"]
    assert told(first + second + third) == ["Decision"] * 3
    assert syncs.count == 2
    assert len(field.observed) == 3
    assert outcome_of(first[0]).durability == "disk"


async def test_f28_a_sync_that_fails_once_is_made_good_in_another_file(tmp_path: Path) -> None:
    """What waits, and what came meanwhile, is written anew, synced there, and answered as what it was."""
    field, syncs = durable(tmp_path)
    first, second = waiting("a"), waiting("b")
    syncs.fails = 1
    field.commit(*first)
    await asyncio.to_thread(syncs.begun.wait, 20)
    field.commit(*second)
    syncs.go_on.set()
    await asyncio.to_thread(syncs.begun.wait, 20)
    before = told(first + second)
    syncs.go_on.set()
    await answered(first[0])
    await answered(second[0])
    await field.committer.settled()
    made = [record for record in field.records() if isinstance(record, Decision)]
    field.journal.close()

    assert before == ["NoneType", "NoneType"]
    assert made == [outcome_of(first[0]), outcome_of(second[0])]
    assert syncs.count == 2


async def test_f28_what_cannot_be_synced_was_not_made(tmp_path: Path) -> None:
    """It is refused, it is in no file, and its session is where it was before: what comes next continues that."""
    field, syncs = durable(tmp_path)
    first, second, beside = waiting("a"), waiting("a"), waiting("b")
    field.commit(*first)
    syncs.go_on.set()
    await answered(first[0])
    known = field.sessions.remembered("a", NOW)
    syncs.fails = 2
    second[0].entry = known
    field.commit(*second)
    await asyncio.to_thread(syncs.begun.wait, 20)
    field.commit(*beside)
    syncs.go_on.set()
    await asyncio.to_thread(syncs.begun.wait, 20)
    syncs.go_on.set()
    await answered(second[0])
    await answered(beside[0])
    records = [record for record in field.records() if record is not None]
    (refused,) = field.commit(*waiting("c"))
    resume(field)
    third = waiting("a")
    third[0].entry = field.sessions.remembered("a", NOW)
    field.commit(*third)
    syncs.go_on.set()
    await answered(third[0])
    await field.committer.settled()
    field.journal.close()

    assert told(first + second + beside + third) == ["Decision", "NotDurable", "NotDurable", "Decision"]
    assert records == [outcome_of(first[0])]
    assert isinstance(refused, NotDurable)
    assert third[0].entry == known
    assert len(field.sessions) == 1
    assert (outcome_of(third[0]).previous, outcome_of(third[0]).seq) == (outcome_of(first[0]).id, 2)


async def test_f28_who_was_about_to_go_on_from_it_is_refused_too(tmp_path: Path) -> None:
    """A row that was being inferred when the one before it was taken back continues what was never made."""
    field, syncs = durable(tmp_path)
    first, second, beside = waiting("a"), waiting("a"), waiting("b")
    syncs.fails = 2
    field.commit(*first)
    second[0].entry = field.sessions.remembered("a", NOW)
    for _ in range(2):
        await asyncio.to_thread(syncs.begun.wait, 20)
        syncs.go_on.set()
    await answered(first[0])
    resume(field)
    field.commit(*second, *beside)
    field.commit(second[0])
    syncs.go_on.set()
    await answered(beside[0])
    await field.committer.settled()
    field.journal.close()

    assert told(first + second + beside) == ["NotDurable", "NotDurable", "Decision"]
    assert [record for record in field.records() if record is not None] == [outcome_of(beside[0])]


async def test_f28_feedback_that_cannot_be_synced_was_not_taken(tmp_path: Path) -> None:
    """Whoever told it hears so, and the episode that it ended goes on."""
    field, syncs = durable(tmp_path)
    first = waiting("a")
    field.commit(*first)
    syncs.go_on.set()
    await answered(first[0])
    ended = replace_id(TOLD, outcome_of(first[0]).id, terminated=True)
    syncs.fails = 2
    noted = asyncio.create_task(field.committer.note([ended], NOW))
    during = []
    for _ in range(2):
        await asyncio.to_thread(syncs.begun.wait, 20)
        during.append(field.sessions.remembered("a", NOW).starts)
        syncs.go_on.set()
    with pytest.raises(JournalUnavailable):
        await noted
    field.journal.close()

    assert during == [True, True]
    assert not field.sessions.remembered("a", NOW).starts
    assert [record for record in field.records() if record is not None] == [outcome_of(first[0])]


async def test_settled_waits_for_the_last_sync(tmp_path: Path) -> None:
    """Whoever stops the process loses no answer on the way."""
    field, syncs = durable(tmp_path)
    requests = waiting("a")
    field.commit(*requests)
    settled = asyncio.create_task(field.committer.settled())
    await asyncio.to_thread(syncs.begun.wait, 20)
    early = settled.done()
    syncs.go_on.set()
    await settled
    field.journal.close()

    assert not early
    assert told(requests) == ["Decision"]


async def test_a_data_plane_that_promises_the_disk_syncs_its_decisions(tmp_path: Path) -> None:
    """End to end, with the real disk: concurrent requests of a session still see each other."""
    with serving(tmp_path, durability="disk") as served:
        replies = await asyncio.gather(*(served.act("s") for _ in range(5)))
        batch = await served.post("/act/batch", {"requests": [asking("s"), asking("t")]})

        assert {reply.json()["durability"] for reply in replies} == {"disk"}
        assert [one["durability"] for one in batch.json()["decisions"]] == ["disk", "disk"]
        assert [record.step for record in served.decisions() if record.session == "s"] == [None] * 6


async def test_feedback_that_was_promised_to_the_disk_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Feedback alone is held to the same promise as a decision: it is synced before it is said to be accepted."""
    with serving(tmp_path, durability="disk") as served:
        token = (await served.act()).json()["decision_id"]
        synced = await _syncs_of(served, monkeypatch, {"decision_id": token, "reward": 1})

        assert synced


async def _syncs_of(served: Serving, monkeypatch: pytest.MonkeyPatch, told: object) -> int:
    """How often the disk is synced while feedback is taken."""
    name = "fdatasync" if hasattr(os, "fdatasync") else "fsync"
    sync, count = getattr(os, name), 0

    def counted(descriptor: int) -> None:
        nonlocal count
        count += 1
        sync(descriptor)

    monkeypatch.setattr(os, name, counted)
    assert (await served.post("/feedback", told)).json()["results"][0]["status"] == "accepted"
    return count


class TestUnlogged:
    """F25: decisions while nothing can be written, where the configuration says that stable serves on."""

    @pytest.fixture
    def serving_on(self, tmp_path: Path) -> Iterator[Field]:
        """A committer that serves on, with an explorer that always explores where it may."""
        field = Field(tmp_path, unlogged="serve", explorer=EpsilonGreedy(epsilon=1.0))
        field.lease.see(Page(generation=1, heartbeat=1), 0.0)
        field.lease.see(Page(generation=1, heartbeat=2), float("inf"))
        yield field
        field.journal.close()

    def test_it_is_greedy_certain_and_in_no_log(self, serving_on: Field) -> None:
        """Whatever the lease says: no exploration, a propensity of 1 that does not count, an id beside the log."""
        field = serving_on
        field.disk.room = 0
        outcomes = field.commit(*rows("a", "b", "c"))
        keyring = Keyring({1: KEY})

        assert [(one.action, one.propensity, one.propensity_ok, one.why_not_ok) for one in outcomes] == [
            (1, 1.0, False, "unlogged")
        ] * 3
        assert {one.durability for one in outcomes} == {"none"}
        assert all(keyring.place(one.id).unlogged for one in outcomes)  # type: ignore[union-attr]  # they are ours
        assert len({one.id for one in outcomes} | {one.id for one in field.commit(*rows("a", "b"))}) == 5
        assert field.records() == []
        assert field.committer.unlogged.counts == {"unlogged": 5}

    def test_only_the_rows_that_did_not_fit_are_not_logged(self, serving_on: Field) -> None:
        """Wherever the disk was full in a batch, whole records are decisions in the log and the rest is beside it."""
        field = serving_on
        field.commit(*rows("z"))
        size = len(field.bytes())
        field.disk.room = size * 3 // 2
        outcomes = field.commit(*rows("a", "b", "c"))

        assert [one.durability for one in outcomes] == ["journal", "none", "none"]
        assert [record for record in field.records() if isinstance(record, Decision)][1:] == outcomes[:1]
        assert field.committer.unlogged.counts == {"unlogged": 2}

    def test_the_session_goes_on_with_a_history_that_is_not_known(self, serving_on: Field) -> None:
        """What comes next continues the decision, and every constraint is in its worst state."""
        field = serving_on
        field.commit(*rows("a"))
        known = field.sessions.remembered("a", NOW)
        field.disk.room = 0
        (unlogged,) = field.commit(*rows("a", entry=known))
        after = field.sessions.remembered("a", NOW)
        stepped_back = field.sessions.following("a", str(known.decision_id), NOW)
        field.disk.room = 2**30
        (later,) = field.commit(*rows("a", entry=after))

        assert (known.history.known, after.history.known, stepped_back.history.known) == (True, False, False)
        assert (later.previous, later.step, later.durability) == (unlogged.id, None, "journal")

    def test_a_memory_is_lost_with_it(self, serving_on: Field) -> None:
        """A recurrent policy falls back until an episode starts, since nothing says what it carried."""
        field = serving_on
        field.disk.room = 0
        field.commit(*rows("a"))
        after = field.sessions.remembered("a", NOW)

        assert (after.memory, after.starts) == (None, False)

    def test_the_log_is_told_once_there_is_room(self, serving_on: Field) -> None:
        """How many decisions it does not have, and how much feedback that came along."""
        field = serving_on
        field.disk.room = 0
        field.commit(*rows("a", feedback=TOLD), *rows("b"))
        field.commit(*rows("c"))
        for _ in range(3):
            with pytest.raises(JournalUnavailable):
                field.committer.tell(NOW)
        field.disk.room = 2**30
        field.committer.tell(NOW)
        field.commit(*rows("d"))
        losses = [record for record in field.records() if isinstance(record, Loss)]

        assert [(loss.cause, loss.count, loss.first) for loss in losses] == [
            ("unlogged", 3, 0),
            ("unlogged_feedback", 1, 0),
        ]
        assert field.committer.unlogged.is_told()
        assert field.committer.unlogged.counts == {"unlogged": 3, "unlogged_feedback": 1}

    def test_they_are_counted_with_the_others(self, serving_on: Field) -> None:
        """They were answered: the report has them, as decisions whose propensity is not ok."""
        field = serving_on
        field.disk.room = 0
        outcomes = field.commit(*rows("a", "b"))

        assert [list(committed.records) for committed in field.observed] == [outcomes]

    def test_a_canary_does_not_serve_on(self, serving_on: Field) -> None:
        """Only stable does."""
        field = serving_on
        field.disk.room = 0
        (request,) = rows("a")
        canary = Assignment(track="canary", probability=1.0, version="fake-1")
        head = ModelOutput(np.array([HEAD], dtype=np.float32))
        field.committer.commit(batch_of([request], assignment=canary).answered(head, 10.0))

        assert isinstance(outcome_of(request), NotDurable)

    def test_what_is_not_safe_is_not_done_without_a_log_either(self, tmp_path: Path) -> None:
        """The guard goes by the history that there is."""
        field = Field(tmp_path, unlogged="serve")
        (first,) = field.commit(*rows("a"))
        field.disk.room = 0
        (second,) = field.commit(*rows("a", entry=field.sessions.remembered("a", NOW + 1), at=NOW + 1, now=NOW + 1))
        field.journal.close()

        assert (first.action, second.durability) == (1, "none")
        assert second.action != 1
        assert [one.verdict for one in second.violations] == ["prevented"]
