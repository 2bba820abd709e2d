"""``kill -9`` of the data plane under load: what was answered is in the journal and in the store, once."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from urllib.request import urlopen

import pytest

from service.log.ids import load_keyring
from service.log.records import Decision, decode_record
from tests.redis_server import RedisServer
from tests.system.controllers import Controller, Stored, answers, decisions_of, journalled, load
from tests.system.serving import Service, demo, eventually, rows_of

# Answers between two kills, so that each finds a log that is being written: not a multiple of any batch.
BETWEEN = 331


def killed_under_load(service: Service, kills: int) -> list[Controller]:
    """Kill the data plane so many times, each time in the middle of answers; all answers of all controllers."""

    def goes_on() -> None:
        before = answers(controllers)
        eventually(lambda: answers(controllers) >= before + BETWEEN, within_s=60, what=service.output)

    with load(service.port) as controllers:
        for count in range(1, kills + 1):
            plane = service.plane(count)
            goes_on()
            service.kill_plane(plane)
        last = service.plane(kills + 1)
        goes_on()
    assert sum(controller.broken for controller in controllers) >= kills
    assert last.port == service.planes()[0].port
    assert len(service.planes()) == kills + 1
    return controllers


def in_sqlite(data: Path) -> Callable[[], Stored]:
    """Reads the embedded store with nothing but SQL."""

    def read() -> Stored:
        rows = rows_of(data / "store.sqlite", "SELECT writer, seq, record FROM records")
        return {(writer, seq): decode_record(record) for writer, seq, record in rows}

    return read


def in_redis(server: RedisServer) -> Callable[[], Stored]:
    """Reads the streams of all writers with nothing but XRANGE."""

    def read() -> Stored:
        found: Stored = {}
        with server.client() as client:
            for key in client.scan_iter(match="actd:{test}:w:*"):
                writer = key.decode().rpartition(":")[2]
                entries = client.xrange(key)
                assert isinstance(entries, list)
                for name, fields in entries:
                    ms, _, seq = name.decode().partition("-")
                    record = decode_record(fields[b"record"])
                    assert (record.ms, record.seq) == (int(ms), int(seq))
                    found[writer, record.seq] = record
        return found

    return read


def assert_once_each(controllers: list[Controller], service: Service, stored: Callable[[], Stored]) -> None:
    """What was answered is in the journal as it was answered, and in the store, once."""
    answered = {identity: action for controller in controllers for identity, action in controller.answered}
    assert len(answered) == answers(controllers)
    assert [one for controller in controllers for one in controller.refused] == []
    eventually(lambda: decisions_of(stored()).keys() >= answered.keys(), within_s=60, what=service.output)
    assert_ledger(service)
    assert service.stop() == 0

    journal, store = journalled(service.data), stored()

    decisions = {record.id: record for record in journal.values() if isinstance(record, Decision)}
    assert set(decisions_of(journal).values()) == {1}
    assert {identity: decisions[identity].action for identity in answered} == answered
    keyring = load_keyring(service.data / "keyring.json")
    for (writer, seq), record in journal.items():
        if isinstance(record, Decision):
            place = keyring.place(record.id)
            assert place is not None
            assert (place.writer, place.seq) == (writer, seq)
    assert store == journal
    assert_in_order(controllers, decisions)
    assert_known(journal)


def assert_known(journal: Stored) -> None:
    """No session of which the folder has the last decision is unknown: all began in it, and each went on."""
    decisions = {record.id: record for record in journal.values() if isinstance(record, Decision)}
    assert len({writer for writer, _ in journal}) > 1
    unknown = [decision.session for decision in decisions.values() if not decision.state.known]
    assert unknown == []
    for decision in decisions.values():
        before = None if decision.previous is None else decisions[decision.previous]
        step = 0 if before is None or before.step is None else before.step + 1
        assert (decision.step, decision.state.step) == (step, step)
        assert before is None or (decision.episode, decision.state.action) == (before.episode, before.action)


def assert_ledger(service: Service) -> None:
    """The agent's ledger adds up, with nothing lost or left over, however many lives it has had."""
    address = re.findall(r"agent: admin on (http://\S+),", service.output())[-1]
    with urlopen(f"{address}/ledger", timeout=10) as answer:  # noqa: S310 - our own
        told = json.loads(answer.read())
    journal, joiner = told["journal"], told["joiner"]
    assert journal["accepted"] == journal["delivered"] + journal["journaled"]
    assert (journal["lost"], journal["damaged_lines"], journal["set_aside"]) == ({}, 0, 0)
    closed = sum(joiner["transitions"].values()) + sum(joiner["not_exported"].values())
    assert closed + sum(joiner["feedback"].values()) <= joiner["records"] <= journal["accepted"]
    assert (joiner["missing"], joiner["unreadable"], told["streams"]["lost"], told["failing"]) == (0, 0, {}, {})


def assert_in_order(controllers: list[Controller], decisions: dict[str, Decision]) -> None:
    """Each answered decision names the answered one before it, over all restarts."""
    for controller in controllers:
        for (before, _), (after, _) in pairwise(controller.answered):
            assert decisions[after].previous == before


def killed_with_sqlite(folder: Path, kills: int) -> None:
    """Kills with the embedded store."""
    with Service(demo(folder), folder / "data") as service:
        controllers = killed_under_load(service, kills)
        assert_once_each(controllers, service, in_sqlite(service.data))


def killed_with_redis(folder: Path, kills: int) -> None:
    """Kills with a real Redis."""
    with RedisServer() as server, Service(demo(folder), folder / "data", redis_url=server.url) as service:
        controllers = killed_under_load(service, kills)
        assert_once_each(controllers, service, in_redis(server))


STORES = pytest.mark.parametrize("killed", [killed_with_sqlite, killed_with_redis], ids=["sqlite", "redis"])


@STORES
def test_kills_lose_no_answered_decision(tmp_path: Path, killed: Callable[[Path, int], None]) -> None:
    """Three kills under load: every answered decision is in the journal and, after restart, in the store, once."""
    killed(tmp_path, 3)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@STORES
def test_twenty_kills_lose_no_answered_decision(tmp_path: Path, killed: Callable[[Path, int], None]) -> None:
    """Twenty kills under load: every answered decision is in the journal and, after restart, in the store, once."""
    killed(tmp_path, 20)
