"""Landing: journal first, answer then; what could not be written was not decided, and nobody is left waiting."""

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guards.constraints import Cooldown
from guards.errors import InferenceFailed, PolicyUnavailable
from service.answered import Answered
from service.errors import InternalFault, NotDurable
from service.journal import Journal, JournalUnavailable, read_segment, segments
from service.landing import Landed, Landing
from service.records import AnyRecord, Decision, Feedback
from service.requests import Request
from service.router import Assignment
from service.sessions import Sessions
from service.state import Lease, Page
from tests.fakes import NOW, Answer, FakeEngine, asked, plane_of
from tests.in_process import Serving, asking, serving

STABLE = Assignment(track="stable", probability=1.0, version="fake-1")
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
    """A landing over a real journal."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.disk, self.sessions, self.lease = Disk(), Sessions(100), Lease()
        self.journal = Journal(folder, write=self.disk.write)
        self.observed: list[Landed] = []
        self.plane = replace(plane_of([Cooldown(name="rest", actions=("up",), seconds=60)]), **settings)
        self.landing = Landing(self.plane, self.journal, self.sessions, self.lease, self.observed.append)

    def land(self, *requests: Request, why: PolicyUnavailable | None = None) -> list[Any]:
        """Land these rows; what each was told, or None as long as it was told nothing."""
        told = Answered(np.array([HEAD] * len(requests), dtype=np.float32)) if why is None else why
        observation = np.array([request.observation for request in requests])
        self.landing.land(list(requests), STABLE, FakeEngine(HEAD), observation, told, 10.0)  # type: ignore[arg-type]  # a fake
        return [outcome_of(request) for request in requests]

    def records(self) -> list[AnyRecord | None]:
        """Every line on disk, None for a damaged one."""
        return [line.record for path in segments(self.journal.folder) for line in read_segment(path.read_bytes())]

    def bytes(self) -> bytes:
        """All that is on disk."""
        return b"".join(path.read_bytes() for path in segments(self.journal.folder))


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    """A landing whose journal is in the page cache."""
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

    field.land(*(asked(session=session, answer=Looking()) for session in "ab"))

    assert found == [True, True]


def test_a_flight_is_one_write_of_contiguous_records(field: Field) -> None:
    """Feedback that came along stands before the decisions, and every number follows the one before."""
    first, second = rows("a", feedback=TOLD), rows("b", "c")
    field.land(*first, *second)
    field.land(*rows("d"))
    kinds = [type(record).__name__ for record in field.records()]

    assert kinds == ["Feedback", "Decision", "Decision", "Decision", "Decision"]
    assert [record.seq for record in field.records() if record is not None] == [1, 2, 3, 4, 5]
    assert field.journal.next_seq == 6
    assert field.disk.writes == 2


@pytest.mark.parametrize("room", [0, 1, 700])
def test_what_cannot_be_written_was_not_decided(field: Field, room: int) -> None:
    """Nothing half-written stays, no session moves on, the sequence stands, and the next flight goes on from there."""
    field.land(*rows("a"))
    before = field.bytes()
    field.disk.room = room
    failed = field.land(*rows("a", begins=False), *rows("b"))
    kept, sessions = field.bytes(), len(field.sessions)
    field.disk.room = 2**30
    again = field.land(*rows("a", begins=False), *rows("b", feedback=TOLD))

    assert [type(outcome) for outcome in failed] == [NotDurable, NotDurable]
    assert (kept, sessions) == (before, 1)
    assert [type(outcome) for outcome in again] == [Decision, Decision]
    assert [record.seq for record in field.records() if record is not None] == [1, 2, 3, 4]
    assert None not in field.records()


def test_whole_records_that_reached_the_disk_are_decisions(field: Field) -> None:
    """Others may have read them: they are answered and remembered, and only the rest was not decided."""
    field.land(*rows("a"))
    field.disk.room = len(field.bytes()) * 3 // 2
    outcomes = field.land(*rows("b", "c"))
    field.disk.room = 2**30
    (later,) = field.land(*rows("b", entry=field.sessions.remembered("b", NOW)))

    assert [type(outcome) for outcome in outcomes] == [Decision, NotDurable]
    assert [record for record in field.records() if isinstance(record, Decision)][1:] == [outcomes[0], later]
    assert [record.seq for record in field.records() if record is not None] == [1, 2, 3]
    assert later.previous == outcomes[0].id
    assert [len(landed.records) for landed in field.observed] == [1, 1, 1]


def test_a_refusal_for_want_of_disk_does_not_tell_where_it_is(field: Field) -> None:
    """Paths of the machine are for its log, not for callers."""
    field.disk.room = 0

    (failed,) = field.land(*rows("a"))

    assert str(field.journal.folder.parent) not in failed.message


def test_a_journalled_decision_is_the_session_s_history(field: Field) -> None:
    """The next row continues it, with the use of the action that is tracked."""
    (first,) = field.land(*rows("a", begins=True))
    entry = field.sessions.remembered("a", NOW + 1)

    assert (entry.decision_id, entry.history.action, entry.history.step) == (first.id, 1, 1)
    assert entry.history.used == {1: NOW}


def test_a_fault_of_ours_leaves_nobody_waiting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A baseline that raises is a 500 for its flight, in the log, and nothing is journalled of it."""

    def broken(_: object) -> np.ndarray:
        raise ZeroDivisionError

    field = Field(tmp_path, baseline=broken)
    outcomes = field.land(*rows("a", "b"), why=InferenceFailed())
    fine = field.land(*rows("a"))
    field.journal.close()

    assert [type(outcome) for outcome in outcomes] == [InternalFault, InternalFault]
    assert "ZeroDivisionError" in caplog.text
    assert "ZeroDivisionError" not in outcomes[0].message
    assert isinstance(fine[0], Decision)
    assert len(field.records()) == 1


def test_whoever_counts_cannot_take_an_answer_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fault in the tally comes after the answers."""
    field = Field(tmp_path)

    def fault(_: Landed) -> None:
        raise ZeroDivisionError

    landing = Landing(field.plane, field.journal, field.sessions, field.lease, fault)
    request = rows("a")[0]
    head = Answered(np.array([HEAD], dtype=np.float32))
    landing.land([request], STABLE, FakeEngine(HEAD), np.zeros((1, 3)), head, 10.0)  # type: ignore[arg-type]  # a fake
    field.journal.close()

    assert isinstance(outcome_of(request), Decision)
    assert "ZeroDivisionError" in caplog.text


def test_who_has_gone_is_decided_and_logged_but_not_told(field: Field) -> None:
    """The decision was made: it is in the journal."""
    gone = Answer()
    gone.set_result(InternalFault("gone"))
    field.land(asked(answer=gone))

    assert isinstance(gone.outcome, InternalFault)
    assert isinstance(field.records()[0], Decision)


async def test_the_journal_s_time_does_not_run_backwards(field: Field) -> None:
    """A row with an earlier time of day is written with the last one's."""
    field.land(*rows("a", at=NOW + 5))
    field.land(*rows("b", at=NOW))
    await field.landing.note([TOLD], NOW - 5)

    assert [record.ms for record in field.records() if record is not None] == [int(NOW + 5) * 1000] * 3


async def test_feedback_alone_is_journalled_in_sequence(field: Field) -> None:
    """Several at once are one write; where it fails, nobody is told that it was taken."""
    await field.landing.note([TOLD, replace_id(TOLD, "E")], NOW)
    field.disk.room = 0
    with pytest.raises(JournalUnavailable):
        await field.landing.note([TOLD], NOW)

    assert [(record.seq, getattr(record, "decision_id", "")) for record in field.records() if record is not None] == [
        (1, "D"),
        (2, "E"),
    ]


def replace_id(told: Feedback, decision_id: str) -> Feedback:
    """The same feedback of another decision."""
    return Feedback(seq=told.seq, ms=told.ms, decision_id=decision_id, at=told.at, reward=told.reward)


def test_exploration_and_generation_are_those_of_the_lease(field: Field) -> None:
    """What the record says is what was allowed as it was decided."""
    field.lease.see(Page(generation=1, heartbeat=1), float("inf"))
    (before,) = field.land(*rows("a"))
    field.lease.see(Page(generation=9, heartbeat=2), float("inf"))
    (after,) = field.land(*rows("b"))

    assert (before.generation, after.generation) == (1, 9)


class Syncs:
    """A disk whose syncs end when the test says so; ``fails`` makes them fail."""

    def __init__(self) -> None:
        self.count = 0
        self.fails = False
        self.begun, self.go_on = threading.Event(), threading.Event()

    def sync(self) -> None:
        self.count += 1
        self.begun.set()
        assert self.go_on.wait(20)
        self.begun.clear()
        self.go_on.clear()
        if self.fails:
            msg = "the disk is gone"
            raise JournalUnavailable(msg)


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


def durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Field, Syncs]:
    """A landing that syncs, and what its disk does."""
    field, syncs = Field(tmp_path, durability="disk"), Syncs()
    monkeypatch.setattr(field.journal, "sync", syncs.sync)
    return field, syncs


def told(requests: Sequence[Request]) -> list[str]:
    """What kind of outcome each request has."""
    return [type(outcome_of(request)).__name__ for request in requests]


async def test_on_disk_means_synced_before_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lands while a sync runs is synced with the next one, all together."""
    field, syncs = durable(tmp_path, monkeypatch)
    first, second, third = waiting("a"), waiting("b"), waiting("c")
    field.land(*first)
    await asyncio.to_thread(syncs.begun.wait, 20)
    field.land(*second)
    field.land(*third)
    before = told(first + second + third)
    syncs.go_on.set()
    await answered(first[0])
    after_one = told(first + second + third)
    syncs.go_on.set()
    await answered(third[0])
    await field.landing.settled()
    field.journal.close()

    assert before == ["NoneType"] * 3
    assert after_one == ["Decision", "NoneType", "NoneType"]
    assert told(first + second + third) == ["Decision"] * 3
    assert syncs.count == 2
    assert len(field.observed) == 3
    assert outcome_of(first[0]).durability == "disk"


async def test_a_sync_that_fails_is_no_promise_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decisions may be lost: 503 for them, and the next flight is synced anew."""
    field, syncs = durable(tmp_path, monkeypatch)
    first, second = waiting("a"), waiting("b")
    syncs.fails = True
    field.land(*first)
    syncs.go_on.set()
    await answered(first[0])
    syncs.fails = False
    field.land(*second)
    syncs.go_on.set()
    await answered(second[0])
    field.journal.close()

    assert told(first + second) == ["NotDurable", "Decision"]


async def test_settled_waits_for_the_last_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops the process loses no answer on the way."""
    field, syncs = durable(tmp_path, monkeypatch)
    requests = waiting("a")
    field.land(*requests)
    settled = asyncio.create_task(field.landing.settled())
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
    sync, count = served.plane.journal.sync, 0

    def counted() -> None:
        nonlocal count
        count += 1
        sync()

    monkeypatch.setattr(served.plane.journal, "sync", counted)
    assert (await served.post("/feedback", told)).json()["results"][0]["status"] == "accepted"
    return count
