"""F28 from outside: a disk that does not sync, and what callers, the log, its readers and the sessions make of it."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.agent.tail import Tail
from service.log.records import Decision, Feedback, Loss, decode_record
from tests.in_process import Serving, asking, serving

Failing = Callable[[int], None]
SYNC = "fdatasync" if hasattr(os, "fdatasync") else "fsync"


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Has the next so many syncs of data fail with EIO."""
    sync, left = getattr(os, SYNC), 0

    def synced(descriptor: int) -> None:
        nonlocal left
        if left:
            left -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    def failing(count: int) -> None:
        nonlocal left
        left = count

    monkeypatch.setattr(os, SYNC, synced)
    return failing


def shipped(served: Serving) -> list[Any]:
    """The decisions and the feedback that an agent reads."""
    tail = Tail(served.application.journal.folder)
    found = []
    while (entries := tail.read(100)) is not None:
        found += [decode_record(entry.text) for entry in entries]
    assert tail.account.lost == {}
    return [record for record in found if isinstance(record, Decision | Feedback)]


async def test_f28_one_failed_sync_is_nobody_s_matter(tmp_path: Path, fail: Failing) -> None:
    """What waits is written to another file and synced there: it is answered, and is in the log once."""
    with serving(tmp_path, durability="disk") as served:
        first = await served.act()
        fail(1)
        second = await served.act()
        third = await served.act()
        report = (await served.get("/report")).json()["journal"]
        there = [record.id for record in shipped(served)]

    assert [one.json()["durability"] for one in (first, second, third)] == ["disk"] * 3
    assert there == [one.json()["decision_id"] for one in (first, second, third)]
    assert (report["failed_syncs"], report["taken_back"]) == (1, 0)


@pytest.mark.parametrize("failures", [2, 3, 4])
async def test_f28_what_was_refused_is_in_no_log(tmp_path: Path, fail: Failing, failures: int) -> None:
    """Who was told 503 finds nothing of it anywhere, the next one continues what was made, and the disk is tried."""
    with serving(tmp_path, durability="disk") as served:
        first = (await served.act("s")).json()
        fail(failures)
        refused = await served.act("s")
        at_once = await served.act("s")
        not_ready = await served.get("/ready")
        before = [record.id for record in shipped(served)]
        for _ in range(failures):
            await served.application.watch.look()
        ready = await served.get("/ready")
        third = (await served.act("s")).json()
        there = shipped(served)

    assert (refused.status, at_once.status) == (503, 503)
    assert refused.error["code"] == "journal_unavailable"
    assert (not_ready.status, not_ready.json()["journal"]) == (
        503,
        "unavailable: the journal cannot be synced (Input/output error)",
    )
    assert before == [first["decision_id"]]
    assert (ready.status, ready.json()["journal"]) == (200, "works")
    assert [record.id for record in there] == [first["decision_id"], third["decision_id"]]
    assert there[1].previous == first["decision_id"]


async def test_f28_feedback_that_was_refused_is_in_no_log(tmp_path: Path, fail: Failing) -> None:
    """Whoever tells it again tells it once."""
    with serving(tmp_path, durability="disk") as served:
        told = {"decision_id": (await served.act()).json()["decision_id"], "reward": 1.0}
        fail(2)
        refused = await served.post("/feedback", told)
        await served.application.watch.look()
        again = await served.post("/feedback", told)
        there = [record for record in shipped(served) if isinstance(record, Feedback)]

    assert (refused.status, again.status) == (503, 200)
    assert len(there) == 1


async def test_f28_a_batch_is_refused_row_by_row(tmp_path: Path, fail: Failing) -> None:
    """Rows that waited for the same sync are one promise."""
    with serving(tmp_path, durability="disk") as served:
        fail(2)
        batch = await served.post("/act/batch", {"requests": [asking("s"), asking("t"), asking("s")]})
        await served.application.watch.look()
        after = await served.act("t")
        there = shipped(served)

    assert [one["error"]["code"] for one in batch.json()["decisions"]] == ["journal_unavailable"] * 3
    assert [record.id for record in there] == [after.json()["decision_id"]]


async def test_f28_stable_serves_on_where_that_is_asked_for(tmp_path: Path, fail: Failing) -> None:
    """While the disk does not sync, decisions are answered beside the log, which is told how many they were."""
    with serving(tmp_path, durability="disk", limits={"unlogged": "serve"}) as served:
        fail(3)
        refused = await served.act("s")
        beside = [(await served.act("s")).json() for _ in range(3)]
        await served.application.watch.look()
        await served.application.watch.look()
        await served.application.committer.settled()
        after = (await served.act("s")).json()
        losses = [(record.cause, record.count) for record in served.records() if isinstance(record, Loss)]

    assert refused.status == 503
    assert {one["durability"] for one in beside} == {"none"}
    assert after["durability"] == "disk"
    assert losses == [("unlogged", 3)]


async def test_f29_a_sync_that_takes_long_keeps_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop goes on while a disk is slow: what needs no disk is answered, and what does waits for it."""
    sync, gate = getattr(os, SYNC), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(descriptor: int) -> None:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(20)
        sync(descriptor)

    with serving(tmp_path, durability="disk") as served:
        monkeypatch.setattr(os, SYNC, slow)
        waiting = [asyncio.ensure_future(served.act(session)) for session in "abc"]
        for _ in range(20):
            await asyncio.sleep(0)
        live = await served.get("/live")
        early = [one.done() for one in waiting]
        seen_early = shipped(served)
        gate.set()
        replies = await asyncio.gather(*waiting)

        assert live.status == 200
        assert early == [False] * 3
        assert seen_early == []
        assert [reply.status for reply in replies] == [200] * 3
        assert len(shipped(served)) == 3
