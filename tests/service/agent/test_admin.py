"""The admin port: what operators ask, and how errors look."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from service.agent.admin import Desk, create_app, listen
from service.agent.ledger import Joined, Journalled, Ledger
from service.agent.stores import START, Entry, Position, Store
from service.agent.stores.sqlite import SqliteStore
from service.log.records import encode_record
from tests.service.agent.pens import KEYRING, Pen

LEDGER = Ledger(
    store="sqlite",
    reachable=True,
    journal=Journalled(accepted=5, delivered=3, journaled=1, lost={"damage": 1}),
    joiner=Joined(waiting=2, transitions={"feedback": 1}),
)


async def get(store: Store, path: str, ledger: Callable[[], Ledger] = lambda: LEDGER) -> tuple[int, Any]:
    """The status and JSON of an answer."""
    app = create_app(Desk(store, KEYRING.place, ledger))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://agent") as client:
        answer = await client.get(path)
    return answer.status_code, answer.json()


class TestReadings:
    """What there is to read."""

    async def test_it_lives_and_reaches_its_store(self, store: Store) -> None:
        """Alive and ready are two things."""
        assert await get(store, "/live") == (200, {"live": True})
        assert await get(store, "/ready") == (200, {"ready": True, "store": store.kind})

    async def test_a_store_that_is_away_is_not_ready(self, tmp_path: Path) -> None:
        """503 with the reason, while the process lives."""
        store = SqliteStore(tmp_path)
        status, told = await get(store, "/ready")

        assert (status, told["error"]["code"]) == (503, "store_unavailable")
        assert (await get(store, "/live"))[0] == 200
        assert (await get(store, f"/decisions/{Pen(1).decision(5).id}"))[0] == 503
        await store.close()

    async def test_the_ledger_is_one_object(self, sqlite: SqliteStore) -> None:
        """All of it, in the words of its records."""
        assert await get(sqlite, "/ledger") == (200, msgspec.to_builtins(LEDGER))

    @pytest.mark.parametrize("path", ["/ledger", "/ready"])
    async def test_a_journal_that_cannot_be_read_is_said(self, sqlite: SqliteStore, path: str) -> None:
        """What is counted from it cannot be told then: it was a 500, and a traceback in the log each time."""

        def unreadable() -> Ledger:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "data/journal/1.log")

        status, told = await get(sqlite, path, unreadable)

        assert (status, told["error"]["code"]) == (503, "journal_unreadable")
        assert told["error"]["message"] == "data/journal/1.log cannot be read (Input/output error)"


class TestDecisions:
    """A decision by its id."""

    async def test_f25_one_that_is_in_no_log_is_not_found(self, store: Store) -> None:
        """Its number is another decision's in the log, which is not what was asked for."""
        pen = Pen(1)
        decision = pen.decision(5)
        beside = pen.unlogged(5)
        await store.register(pen.name)
        await store.append(pen.name, START, [Entry(5, 1, encode_record(decision))])
        status, told = await get(store, f"/decisions/{beside.id}")

        assert (status, told["error"]["code"]) == (404, "not_found")
        assert "in no log" in told["error"]["message"]
        assert (await get(store, f"/decisions/{decision.id}"))[0] == 200

    async def test_a_decision_is_found_by_its_id(self, store: Store) -> None:
        """The record as journalled, and whether the joiner is done with it."""
        pen = Pen(1)
        pen.beat(1000)
        one, two = pen.decision(1000), pen.decision(1000)
        entries = [Entry(record.ms, record.seq, encode_record(record)) for record in pen.records]
        await store.append(pen.name, START, entries)
        await store.commit(pen.name, START, Position(1000, 2), [])

        assert await get(store, f"/decisions/{one.id}") == (200, {"closed": True, "decision": msgspec.to_builtins(one)})
        assert (await get(store, f"/decisions/{two.id}"))[1]["closed"] is False

    @pytest.mark.parametrize("text", [b'"x"', b"[]", b"{}", b'{"kind":"heartbeat","v":1,"seq":1,"ms":5}'])
    @pytest.mark.parametrize("later_ms", [0, 7])
    async def test_what_others_left_in_its_place_is_not_it(self, store: Store, text: bytes, later_ms: int) -> None:
        """Under its id, or where it is not there under its number at another time."""
        pen = Pen(1)
        decision = pen.decision(5)
        await store.register(pen.name)
        await store.append(pen.name, START, [Entry(5 + later_ms, 1, text)])
        status, told = await get(store, f"/decisions/{decision.id}")

        assert (status, told["error"]["code"]) == (404, "not_found")

    async def test_an_id_of_no_decision_is_not_found(self, store: Store) -> None:
        """A token of ours whose record is not there, or is another's."""
        pen = Pen(1)
        missing = pen.decision(1000)
        status, told = await get(store, f"/decisions/{missing.id}")
        assert (status, told["error"]["code"], told["error"]["path"]) == (404, "not_found", "decision_id")
        await store.append(pen.name, START, [Entry(1000, 1, encode_record(Pen(1).beat(1000)))])

        assert (await get(store, f"/decisions/{missing.id}"))[0] == 404

    @pytest.mark.parametrize("decision_id", ["x", "A" * 52, "é", "%00"])
    async def test_what_is_not_an_id_is_refused(self, sqlite: SqliteStore, decision_id: str) -> None:
        """422, and not echoed."""
        status, told = await get(sqlite, f"/decisions/{decision_id}")

        assert (status, told["error"]["code"]) == (422, "not_an_id")
        assert decision_id not in told["error"]["message"]

    async def test_other_paths_and_methods_have_the_same_errors(self, sqlite: SqliteStore) -> None:
        """One form of error everywhere."""
        assert (await get(sqlite, "/nothing"))[1] == {
            "error": {"code": "not_found", "path": "", "message": "not found"}
        }


def test_any_free_port_can_be_had() -> None:
    """Port 0 is any that is free."""
    with listen("127.0.0.1", 0) as listening:
        assert listening.getsockname()[1] > 0
