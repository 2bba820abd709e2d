"""F33: folders that are not a writer's of this service are set aside whole; and which segments go for want of room."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.agent.folders import ASIDE, Deployment, FolderVerdict, SizedSegment, judge, to_give_up
from service.agent.ship import DEAD_AFTER_S, GONE_AFTER_S, Shipper
from service.agent.stores import Position, Store, StoreUnavailable
from service.agent.stores.redis_streams import RedisStreams
from service.agent.stores.sqlite import SqliteStore
from service.log.journal import segments
from service.log.records import Decision
from tests.redis_server import RedisServer
from tests.service.agent.pens import KEYRING, Pen
from tests.service.agent.ships import Clock, accounted, settle, shipper, stream, texts
from tests.service.agent.test_joining import emitted, joining
from tests.service.agent.test_joining import settle as join_all

DEPLOYMENT = Deployment("svc", KEYRING.fingerprint, KEYRING.place)


def judged(folder: Path) -> FolderVerdict:
    """Whether a folder is one of the tests' service."""
    return judge(folder, DEPLOYMENT)


async def to_the_end(ship: Shipper, clock: Clock) -> None:
    """Ship all, and set aside what has to be."""
    for _ in range(4):
        await settle(ship)
        clock.now += DEAD_AFTER_S


def genuine(folder: Path, name: int = 1) -> Pen:
    """A dead writer of ours: three decisions, each with its reward."""
    pen = Pen(name, folder)
    pen.introduce(1000)
    for ms in (1001, 1002, 1003):
        pen.feedback(ms, pen.decision(ms), 1.0, terminated=True)
    pen.beat(100_000)
    pen.close()
    return pen


def first_decision(pen: Pen) -> Decision:
    """A pen's first decision."""
    return next(record for record in pen.records if isinstance(record, Decision))


def copied(folder: Path) -> None:
    """A whole folder under another name."""
    genuine(folder)
    shutil.copytree(folder / Pen(1).name, folder / Pen(7).name)


def forged(folder: Path, **told: Any) -> Pen:
    """Decisions under ids that nobody made, with feedback to genuine ones."""
    real = genuine(folder)
    pen = Pen(7, folder)
    pen.introduce(1000, **told)
    for ms in range(1001, 1011):
        pen.decision(ms, id="A" * 52)
        pen.feedback(ms, first_decision(real), 99.0, terminated=True)
    pen.close()
    return pen


def borrowed(folder: Path) -> None:
    """Decisions under ids of another writer's."""
    real = genuine(folder)
    pen = Pen(7, folder)
    pen.introduce(1000)
    pen.decision(1001, id=first_decision(real).id)
    pen.close()


def only_feedback(folder: Path) -> None:
    """Feedback to genuine decisions, and nothing to say who heard it."""
    real = genuine(folder)
    pen = Pen(7, folder)
    pen.feedback(1004, first_decision(real), 99.0, terminated=True)
    pen.close()


def other_service(folder: Path) -> None:
    """Of a service of another name."""
    genuine(folder)
    forged_by = Pen(7, folder)
    forged_by.introduce(1000, "another")
    forged_by.close()


def other_keyring(folder: Path) -> None:
    """Of a deployment with another keyring."""
    genuine(folder)
    pen = Pen(7, folder)
    pen.introduce(1000, key_fingerprint="0" * 16)
    pen.close()


MISFITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "copied": (copied, "it is a copy"),
    "forged": (forged, "not made with this deployment's keys"),
    "borrowed ids": (borrowed, f"of writer {Pen(1).name}"),
    "only feedback": (only_feedback, "neither"),
    "another service": (other_service, "'another'"),
    "another keyring": (other_keyring, "keyring"),
}


@pytest.mark.parametrize(("made", "why"), MISFITS.values(), ids=MISFITS)
async def test_f33_a_folder_that_does_not_fit_is_set_aside(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, made: Callable[[Path], object], why: str
) -> None:
    """Nothing of it is shipped or joined, none of it is deleted, and it is counted and named, once and for all."""
    made(tmp_path)
    before = {path.name: path.read_bytes() for path in segments(tmp_path / Pen(7).name)}
    clock = Clock()
    ship, join = shipper(store, tmp_path, clock, judge=judged), joining(store, clock)
    await to_the_end(ship, clock)
    await join_all(join)

    assert list(await store.writers()) == [Pen(1).name]
    assert [(t.writer, t.reward) for t in await emitted(store)] == [(Pen(1).name, 1.0)] * 3
    aside = tmp_path / ASIDE / Pen(7).name
    assert {path.name: path.read_bytes() for path in segments(aside)} == before
    assert any(why in record.message and Pen(7).name in record.message for record in caplog.records)
    assert (ship.ledger().set_aside, ship.ledger().accepted) == (1, 8)
    assert shipper(store, tmp_path, clock, judge=judged).ledger().set_aside == 1


async def test_f33_a_living_writer_is_not_moved(sqlite: SqliteStore, tmp_path: Path) -> None:
    """It is not shipped either, and goes when it has died; a second of that name does not replace the first."""
    clock = Clock()
    ship = shipper(sqlite, tmp_path, clock, judge=judged)
    for count in (1, 2):
        pen = Pen(7, tmp_path)
        pen.introduce(1000, "another")
        await to_the_end(ship, clock)
        assert (tmp_path / pen.name).exists()
        assert ship.ledger().set_aside == count
        pen.close()
        await to_the_end(ship, clock)

    assert await sqlite.writers() == {}
    assert sorted(path.name for path in (tmp_path / ASIDE).iterdir()) == [pen.name, f"{pen.name}.1"]


async def test_f33_the_same_folder_on_two_hosts_does_no_harm(store: Store, tmp_path: Path) -> None:
    """Two agents ship the same writer under the same ids: each record is there once."""
    pen = genuine(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    clock = Clock()
    ships = [shipper(store, tmp_path / name, clock, judge=judged) for name in ("one", "two")]
    for _ in range(6):
        for ship in ships:
            await ship.step()
        clock.now += DEAD_AFTER_S

    assert await stream(store, pen.name) == texts(pen)
    for ship in ships:
        accounted(ship, delivered=pen.count)


async def test_a_damaged_first_line_is_vouched_for_by_a_decision(sqlite: SqliteStore, tmp_path: Path) -> None:
    """It was not forged for that; so is a log whose first segment was deleted long ago."""
    damaged = genuine(tmp_path)
    path = segments(tmp_path / damaged.name)[0]
    path.write_bytes(path.read_bytes().replace(b'"svc"', b'"xyz"', 1))
    old = Pen(2, tmp_path, segment_bytes=3000)
    old.introduce(1000)
    for ms in range(1001, 1020):
        old.decision(ms)
    old.close()
    segments(tmp_path / old.name)[0].unlink()
    clock = Clock()
    ship = shipper(sqlite, tmp_path, clock, judge=judged)
    await to_the_end(ship, clock)

    assert ship.ledger().set_aside == 0
    assert await stream(sqlite, damaged.name) == texts(damaged)[1:]
    assert (await sqlite.position(old.name)).seq == old.count
    assert ship.ledger().lost.keys() == {"damage", "retention"}


async def test_a_writer_that_has_said_nothing_yet_is_waited_for(sqlite: SqliteStore, tmp_path: Path) -> None:
    """Its folder is there before its first record; it is shipped as soon as that tells whose it is."""
    clock, pen = Clock(), Pen(1, tmp_path)
    ship = shipper(sqlite, tmp_path, clock, judge=judged)
    await to_the_end(ship, clock)
    assert await sqlite.writers() == {}
    pen.introduce(1000)
    clock.now += 1.0
    await settle(ship)

    assert await sqlite.position(pen.name) == Position(1000, 1)
    assert ship.ledger().set_aside == 0
    pen.close()


async def test_a_decision_that_is_not_the_writers_is_as_good_as_damaged(sqlite: SqliteStore, tmp_path: Path) -> None:
    """One among genuine ones: it is counted, and those around it are shipped."""
    pen, clock = Pen(1, tmp_path), Clock()
    pen.introduce(1000)
    pen.decision(1001)
    pen.decision(1002, id="A" * 52)
    pen.decision(1003)
    pen.close()
    ship = shipper(sqlite, tmp_path, clock, judge=judged)
    await to_the_end(ship, clock)

    assert await stream(sqlite, pen.name) == [texts(pen)[n] for n in (0, 1, 3)]
    accounted(ship, delivered=3, damage=1)
    assert ship.ledger().damaged_lines == 1


class TestRoom:
    """``journal_bytes``: what goes when the journal is too large."""

    def test_shipped_goes_first_then_the_oldest_and_never_what_is_written(self, tmp_path: Path) -> None:
        """As much as has to, and no more."""
        one = SizedSegment(tmp_path / "1", 100, 1.0, shipped=False)
        two = replace(one, path=tmp_path / "2", written_at=2.0, shipped=True)
        three = replace(one, path=tmp_path / "3", written_at=3.0)
        four = replace(one, path=tmp_path / "4", written_at=0.0, written=True)
        here = [one, two, three, four]

        assert to_give_up(here, 400) == []
        assert to_give_up(here, 399) == [two]
        assert to_give_up(here, 250) == [two, one]
        assert to_give_up(here, 0) == [two, one, three]

    async def test_while_the_store_is_away_the_oldest_records_are_lost_and_counted(
        self, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        """At once, by an agent that knew what was shipped; and the rest arrives when the store is back."""
        store, clock = RedisStreams(redis_server.url, "away", timeout_s=0.2), Clock()
        pens = Pen(1, tmp_path, segment_bytes=6_000), Pen(2, tmp_path, segment_bytes=6_000)
        ship = shipper(store, tmp_path, clock, journal_bytes=50_000)
        for pen in pens:
            for ms in range(1, 101):
                pen.beat(ms)
        await settle(ship)
        redis_server.stall()
        for round_ in range(1, 6):
            for pen in pens:
                for ms in range(100):
                    pen.beat(round_ * 1000 + ms)
            clock.now += 1.0
            with pytest.raises(StoreUnavailable):
                await ship.step()
            told = ship.ledger()
            assert told.accepted == told.delivered + told.journaled + sum(told.lost.values()) == (round_ + 1) * 200
            size = sum(path.stat().st_size for pen in pens for path in segments(tmp_path / pen.name))
            assert size <= 50_000
        lost = told.lost["retention"]
        assert 0 < lost < 1000
        pens[0].close()
        redis_server.resume()
        await to_the_end(ship, clock)

        kept = [len(await stream(store, pen.name)) for pen in pens]
        assert sum(kept) == ship.ledger().delivered == 1200 - lost
        assert ship.ledger().lost == {"retention": lost}
        again = shipper(store, tmp_path, clock, journal_bytes=50_000)
        await to_the_end(again, clock)
        assert again.ledger() == ship.ledger()
        pens[1].close()
        await store.close()

    async def test_what_an_agent_gave_up_unseen_is_not_lost_where_the_store_has_it(
        self, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        """It began while the store was away, and so could not know what was shipped."""
        store, clock, pen = (
            RedisStreams(redis_server.url, "unseen", timeout_s=0.2),
            Clock(),
            Pen(1, tmp_path, segment_bytes=6_000),
        )
        for ms in range(1, 501):
            pen.beat(ms)
        await settle(shipper(store, tmp_path, clock))
        redis_server.stall()
        ship = shipper(store, tmp_path, clock, journal_bytes=20_000)
        with pytest.raises(StoreUnavailable):
            await ship.step()
        assert ship.ledger().lost["retention"] > 100
        redis_server.resume()
        await to_the_end(ship, clock)

        accounted(ship, delivered=500)
        pen.close()
        await store.close()

    async def test_a_dead_writer_may_lose_all_it_has(self, redis_server: RedisServer, tmp_path: Path) -> None:
        """Its last segment too; the folder goes, and the ledger goes on counting, after restarts as well."""
        redis_server.kill()
        store, clock, pen = (
            RedisStreams(redis_server.url, "dead", timeout_s=0.2),
            Clock(),
            Pen(1, tmp_path, segment_bytes=6_000),
        )
        for ms in range(1, 301):
            pen.beat(ms)
        pen.close()
        ship = shipper(store, tmp_path, clock, journal_bytes=0)
        for _ in range(3):
            clock.now += 1.0
            with pytest.raises(StoreUnavailable):
                await ship.step()
        accounted(ship, delivered=0, retention=300)
        redis_server.start()
        clock.now = (tmp_path / pen.name).stat().st_mtime + 10_000
        await to_the_end(ship, clock)

        assert not (tmp_path / pen.name).exists()
        for one in (ship, shipper(store, tmp_path, clock)):
            accounted(one, delivered=0, retention=300)
        await store.close()


def a_note(folder: Path) -> None:
    """Of somebody who looked at the log."""
    (folder / "notes.log").write_text("looks fine\n")


def an_editors_copy(folder: Path) -> None:
    """As some systems leave beside a file."""
    (folder / f"._{1:020d}.log").write_bytes(b"\0\0")


def a_folder(folder: Path) -> None:
    """Named like a segment that is to come."""
    (folder / f"{999:020d}.log").mkdir()


def a_pipe(folder: Path) -> None:
    """To open it would wait for ever."""
    os.mkfifo(folder / f"{999:020d}.log")


def a_link_to_nothing(folder: Path) -> None:
    """Named like a segment."""
    (folder / f"{999:020d}.log").symlink_to(folder / "gone")


def copied_ahead(folder: Path) -> None:
    """A copy under the name of a segment to come."""
    shutil.copy(segments(folder)[-1], folder / f"{99_999:020d}.log")


def linked_ahead(folder: Path) -> None:
    """The same file under another name."""
    (folder / f"{99_999:020d}.log").hardlink_to(segments(folder)[-1])


def begun_ahead(folder: Path) -> None:
    """A copy that was broken off."""
    (folder / f"{99_999:020d}.log").write_bytes(segments(folder)[-1].read_bytes()[:60])


def empty_ahead(folder: Path) -> None:
    """A copy that was not begun."""
    (folder / f"{99_999:020d}.log").touch()


def genuine_and_living(folder: Path) -> Pen:
    """A writer of ours that goes on: a decision with its reward."""
    pen = Pen(1, folder)
    pen.introduce(1000)
    pen.feedback(1001, pen.decision(1001), 1.0, terminated=True)
    pen.beat(100_000)
    return pen


class TestStrays:
    """Whatever else is put among the writers' folders and files keeps nothing from being shipped."""

    @pytest.mark.parametrize("put", [a_note, an_editors_copy, a_folder, a_pipe, a_link_to_nothing])
    async def test_what_is_no_segment_is_passed_over(
        self, sqlite: SqliteStore, tmp_path: Path, put: Callable[[Path], None]
    ) -> None:
        """One file of another name kept the writer from being shipped, and the ledger from being told."""
        clock, pen = Clock(), genuine(tmp_path)
        put(tmp_path / pen.name)
        ship = shipper(sqlite, tmp_path, clock, judge=judged)
        await to_the_end(ship, clock)

        assert await stream(sqlite, pen.name) == texts(pen)
        assert ship.failing() == ""
        accounted(ship, delivered=len(pen.records))

    async def test_what_is_no_folder_is_no_writer(self, sqlite: SqliteStore, tmp_path: Path) -> None:
        """A file, a pipe and a link to nothing, of a writer's name."""
        clock, pen = Clock(), genuine(tmp_path)
        (tmp_path / "00000000000000f1").write_text("a file")
        os.mkfifo(tmp_path / "00000000000000f2")
        (tmp_path / "00000000000000f3").symlink_to(tmp_path / "gone")
        ship = shipper(sqlite, tmp_path, clock, judge=judged)
        await to_the_end(ship, clock)

        assert await stream(sqlite, pen.name) == texts(pen)
        assert ship.failing() == ""
        accounted(ship, delivered=len(pen.records))

    @pytest.mark.parametrize("put", [copied_ahead, linked_ahead, begun_ahead, empty_ahead])
    async def test_a_copy_under_another_number_is_no_segment(
        self, sqlite: SqliteStore, tmp_path: Path, put: Callable[[Path], None]
    ) -> None:
        """It seemed to follow the one that is written to: what came in that was never shipped, and in no count."""
        clock, pen = Clock(), Pen(1, tmp_path)
        pen.introduce(1000)
        pen.decision(1001)
        ship = shipper(sqlite, tmp_path, clock, judge=judged)
        await settle(ship)
        put(tmp_path / pen.name)
        await settle(ship)
        for ms in range(1002, 1010):
            pen.decision(ms)
        pen.journal.check() if pen.journal else None
        await settle(ship)
        there = await stream(sqlite, pen.name)
        pen.close()
        await to_the_end(ship, clock)

        assert there == texts(pen)
        assert (await sqlite.writers())[pen.name].open is False
        accounted(ship, delivered=len(pen.records))


class TestTakenForDead:
    """A writer that lives though its lock was not to be seen, or that another agent took for dead."""

    async def test_what_has_come_since_is_shipped(self, store: Store, tmp_path: Path) -> None:
        """It was frozen, and its lock was taken away: what it wrote afterwards was shipped by nobody, and removed."""
        clock, pen = Clock(), genuine_and_living(tmp_path)
        ship = shipper(store, tmp_path, clock, judge=judged)
        (tmp_path / pen.name / "lock").unlink()
        for _ in range(4):
            await settle(ship)
            clock.now += GONE_AFTER_S
        closed = (await store.writers())[pen.name].open is False
        pen.decision(200_000)
        for _ in range(3):
            await settle(ship)
            clock.now += 1.0
        opened = (await store.writers())[pen.name].open
        pen.close()
        for _ in range(4):
            await settle(ship)
            clock.now += GONE_AFTER_S

        assert closed
        assert opened
        assert await stream(store, pen.name) == texts(pen)
        assert (await store.writers())[pen.name].open is False
        accounted(ship, delivered=len(pen.records))

    async def test_a_copy_of_its_folder_does_not_end_it(self, store: Store, tmp_path: Path) -> None:
        """A data folder that is copied while it serves, and served from beside it: nothing was joined any more."""
        clock, pen = Clock(), genuine_and_living(tmp_path / "one")
        ships = [shipper(store, tmp_path / name, clock, judge=judged) for name in ("one", "two")]
        joiner = joining(store, clock)
        await settle(ships[0])
        shutil.copytree(tmp_path / "one", tmp_path / "two")
        await to_the_end(ships[1], clock)
        closed = (await store.writers())[pen.name].open is False
        await join_all(joiner)
        for ms in range(200_000, 200_004):
            pen.feedback(ms, pen.decision(ms), 1.0, terminated=True)
        pen.beat(300_000)
        for _ in range(3):
            for ship in ships:
                await settle(ship)
            clock.now += 1.0
        await join_all(joiner)

        assert closed
        assert (await store.writers())[pen.name].open
        assert await stream(store, pen.name) == texts(pen)
        assert len(await emitted(store)) == sum(isinstance(record, Decision) for record in pen.records)
        pen.close()

    async def test_something_in_the_locks_place_ends_nobody(self, sqlite: SqliteStore, tmp_path: Path) -> None:
        """Nobody can tell then, and of one that may live nothing is given up."""
        clock, pen = Clock(), genuine_and_living(tmp_path)
        ship = shipper(sqlite, tmp_path, clock, judge=judged)
        (tmp_path / pen.name / "lock").unlink()
        (tmp_path / pen.name / "lock").mkdir()
        for _ in range(4):
            await settle(ship)
            clock.now += GONE_AFTER_S

        assert (await sqlite.writers())[pen.name].open
        assert await stream(sqlite, pen.name) == texts(pen)
        pen.close()
