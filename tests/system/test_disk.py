"""The disk of a running service: full, and full no more; and what is taken away from it while it serves."""

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

from service.log.journal import segments
from tests.in_process import asking
from tests.system.disks import fill, small_disk
from tests.system.serving import MINIMAL, Client, Service, demo, eventually, rows_of

AGAIN_WITHIN_S = 2.0
FULL = "full: the journal cannot be written (No space left on device)"


class Start(Protocol):
    """Starts a service on a small disk, with more lines of configuration."""

    def __call__(self, lines: str, durability: str = "journal") -> Service:
        """Wait until it serves."""


class Caller:
    """A controller that keeps what it was answered, by what its decisions survive."""

    def __init__(self, service: Service) -> None:
        self.client = Client(service.port)
        self.answered: dict[str, list[str]] = {"journal": [], "disk": [], "none": []}
        self.last = 0

    def act(self, session: str = "s", **told: object) -> Any:
        """Ask once; the answer."""
        self.last, answer = self.client.post("/act", asking(session, **told))
        if self.last == 200:
            self.answered[answer["durability"]].append(answer["decision_id"])
        return answer

    def act_until(self, holds: Callable[[], bool], what: str) -> None:
        """Ask until something is so."""
        deadline = time.monotonic() + 30
        while not holds():
            self.act(f"s{int(time.monotonic() * 100) % 5}")
            assert time.monotonic() < deadline, what


Call = Callable[[Service], Caller]


@pytest.fixture
def call() -> Iterator[Call]:
    """Controllers, whose connections are closed in the end."""
    with ExitStack() as open_ones:

        def called(service: Service) -> Caller:
            caller = Caller(service)
            open_ones.callback(caller.client.close)
            return caller

        yield called


def ledger(service: Service) -> Any:
    """The agent's account."""
    with Client(service.admin_port) as client:
        return client.get("/ledger")[1]


def stored(service: Service) -> list[str]:
    """The ids of all decisions in the store, in order."""
    query = "SELECT json_extract(record, '$.id') FROM records WHERE kind = 'decision' ORDER BY writer, seq"
    # A copy: SQLite would look for the file where its name leads here, and not where the service has its disk.
    copy = service.config.parent / "copy.sqlite"
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            shutil.copy(service.there / f"store.sqlite{suffix}", f"{copy}{suffix}")
    Path(f"{copy}-shm").unlink(missing_ok=True)
    with closing(sqlite3.connect(copy)) as found:
        return [row[0] for row in found.execute(query)]


def exact(service: Service, kept: list[str]) -> bool:
    """Whether the store has exactly these decisions, and the ledger adds up with nothing under way."""
    told = ledger(service)["journal"]
    adds_up: bool = told["accepted"] == told["delivered"] + told["journaled"] + sum(told["lost"].values())
    return adds_up and told["lost"] == {} and stored(service) == kept


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Iterator[Start]:
    """A disk of 24 MB for a service's data folder."""
    services: list[Service] = []

    def start(lines: str, durability: str = "journal") -> Service:
        within = small_disk(tmp_path / "disk", "24m")
        config = demo(tmp_path, f'durability = "{durability}"\n{MINIMAL}{lines}')
        service = Service(config, tmp_path / "disk" / "data", within=within)
        services.append(service)
        service.__enter__()
        return service

    yield start
    for service in services:
        service.end()


def metrics(client: Client) -> str:
    """The page for Prometheus."""
    content: bytes = client.get("/metrics")[1]
    return content.decode()


def test_f25_a_full_disk_is_said_and_is_over_when_there_is_room(on_small_disk: Start, call: Call) -> None:
    """Not ready while nothing can be written, ready within 2 s of room without being asked, and nothing is missing."""
    service = on_small_disk("[rewards]\nwait_seconds = 1\n")
    caller = call(service)
    for _ in range(50):
        caller.act()
    said: list[dict[str, Any]] = [{}]

    def both_say_so() -> bool:
        status, said[0] = caller.client.get("/ready")
        return status == 503 and "actd_journal_writable 0.0" in metrics(caller.client)

    for _ in range(2):
        path = fill(service)
        caller.act_until(lambda: "low" in caller.client.get("/ready")[1]["journal"] or caller.last == 503, "never low")
        caller.act_until(lambda: caller.last == 503, "the disk was never full")
        refused = caller.act()
        # Whoever else lives on the disk may give some of it back: then it is full again soon.
        caller.act_until(both_say_so, "it is still ready")
        told = said[0]
        path.unlink()
        free = time.monotonic()
        eventually(lambda: bool(caller.client.get("/ready")[0] == 200), within_s=AGAIN_WITHIN_S)
        caller.act()
        took = time.monotonic() - free

        assert refused["error"]["code"] == "journal_unavailable"
        assert (told["ready"], told["journal"]) == (False, FULL)
        assert caller.last == 200
        assert took < AGAIN_WITHIN_S
        eventually(lambda: bool(caller.client.get("/ready")[1]["journal"] == "works"))
        eventually(lambda: ledger(service)["reachable"], within_s=10)
    eventually(lambda: exact(service, caller.answered["journal"]), what=lambda: str(ledger(service)))
    assert caller.answered["none"] == []


def test_f25_stable_serves_on_where_that_is_asked_for(on_small_disk: Start, call: Call) -> None:
    """No 5xx: greedy answers that say that they survive nothing, feedback to them is told apart, and all is counted."""
    service = on_small_disk(
        '[limits]\nunlogged = "serve"\n[explore]\nkind = "epsilon_greedy"\nepsilon = 1.0\n[rewards]\nwait_seconds = 1\n'
    )
    caller = call(service)
    for _ in range(20):
        caller.act()
    path = fill(service)
    caller.act_until(lambda: len(caller.answered["none"]) >= 30, "the disk was never full")
    unlogged = caller.act("t")
    following = caller.act("t", previous=unlogged["decision_id"], feedback={"reward": 1.0})
    feedback = caller.client.post("/feedback", {"decision_id": unlogged["decision_id"], "reward": 1.0})
    status, told = caller.client.get("/ready")
    path.unlink()
    eventually(lambda: bool(caller.client.get("/ready")[1]["journal"] == "works"), within_s=AGAIN_WITHIN_S)
    logged = caller.act("t")
    report = caller.client.get("/report")[1]
    count = len(caller.answered["none"])
    eventually(lambda: bool(ledger(service)["joiner"]["unlogged"]), what=lambda: str(ledger(service)))

    assert (unlogged["propensity"], unlogged["propensity_ok"], unlogged["durability"]) == (1.0, False, "none")
    assert (following["durability"], logged["durability"]) == ("none", "journal")
    assert feedback == (200, {"results": [{"status": "unlogged", "decision_id": unlogged["decision_id"]}]})
    assert (status, told["ready"], told["journal"]) == (200, True, FULL)
    assert report["unlogged"] == {"decisions": count, "feedback": 1}
    assert f'actd_unlogged_total{{policy="test",what="decisions"}} {count}.0' in metrics(caller.client)
    assert ledger(service)["joiner"]["unlogged"] == {"decisions": count, "feedback": 1}
    eventually(lambda: exact(service, caller.answered["journal"]), what=lambda: str(ledger(service)))


def test_f25_what_is_promised_to_the_disk_is_held_to_it(on_small_disk: Start, call: Call) -> None:
    """With ``durability = "disk"`` a full disk costs nobody a decision that was answered either."""
    service = on_small_disk("[rewards]\nwait_seconds = 1\n", durability="disk")
    caller = call(service)
    for _ in range(20):
        caller.act()
    path = fill(service)
    caller.act_until(lambda: caller.last == 503, "the disk was never full")
    path.unlink()
    eventually(lambda: bool(caller.client.get("/ready")[1]["journal"] == "works"), within_s=AGAIN_WITHIN_S)
    for _ in range(20):
        caller.act()

    assert caller.last == 200
    eventually(lambda: exact(service, caller.answered["disk"]), what=lambda: str(ledger(service)))


def remove_journal(data: Path, writer: str) -> None:
    """``rm -r data/journal``."""
    del writer
    shutil.rmtree(data / "journal")


def remove_segment(data: Path, writer: str) -> None:
    """``rm`` of the file that is written to."""
    segments(data / "journal" / writer)[-1].unlink()


def move_folder(data: Path, writer: str) -> None:
    """``mv`` of the writer's folder."""
    (data / "journal" / writer).rename(data / "moved")


def empty_segment(data: Path, writer: str) -> None:
    """``> file``."""
    segments(data / "journal" / writer)[-1].write_bytes(b"")


@pytest.mark.parametrize("take", [remove_journal, remove_segment, move_folder, empty_segment])
@pytest.mark.parametrize("durability", ["journal", "disk"])
def test_f98_what_is_taken_away_while_serving_is_lost_once_and_said(
    tmp_path: Path, call: Call, take: Callable[[Path, str], None], durability: str
) -> None:
    """All answers of a second later are in the store, and the ledger has exactly those that are not."""
    config = demo(tmp_path, f'durability = "{durability}"\n{MINIMAL}')
    with Service(config, tmp_path / "data") as service:
        caller, plane = call(service), service.plane()
        for _ in range(30):
            caller.act()
        # The agent stands by while more is written than it has shipped.
        take(service.data, plane.writer)
        until = time.monotonic() + 1.5
        caller.act_until(lambda: time.monotonic() > until, "")
        after = [caller.act()["decision_id"] for _ in range(30)]
        status, told = caller.client.get("/ready")
        report = caller.client.get("/report")[1]["journal"]

        def settled() -> bool:
            there = set(stored(service))
            journal = ledger(service)["journal"]
            lost = sum(journal["lost"].values())
            rows = rows_of(service.data / "store.sqlite", "SELECT count(*), max(seq) FROM records")
            return (
                set(after) <= there
                and journal["journaled"] == 0
                and journal["accepted"] == journal["delivered"] + lost == rows[0][1]
                and rows[0] == (journal["delivered"], journal["accepted"])
            )

        eventually(settled, what=lambda: f"{ledger(service)} {len(stored(service))}")
        missing = set(caller.answered[durability]) - set(stored(service))
        lost = ledger(service)["journal"]["lost"]

        assert (status, told["journal"]) == (200, "works")
        assert report["lost_segments"] == 1
        assert len(missing) <= sum(lost.values()) <= report["lost_records"]
        assert "were taken away while it was written to" in service.output()
        assert len(service.planes()) == 1
