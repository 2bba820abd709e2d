"""F98: what is taken away while it is written to is found, replaced and told, and the agent counts it exactly."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from service.agent.tail import Tail
from service.log.durable import DurableJournal
from service.log.journal import Journal, JournalUnavailable, alive, chain_of, read_segment, segments
from service.log.lines import synced
from service.log.records import Heartbeat, Loss, Writer, decode_record, encode_record
from service.log.segment import Segment

WRITER = Writer(
    seq=1,
    ms=1001,
    writer="00" * 8,
    service="test",
    config_digest="a" * 64,
    config=msgspec.Raw(b"{}"),
    versions={},
    key_fingerprint="f",
    wait_s=60.0,
)


def newest(journal: Journal) -> Path:
    """The segment that is written to."""
    return segments(journal.folder)[-1]


def remove_segment(journal: Journal) -> None:
    """``rm`` of the file."""
    newest(journal).unlink()


def remove_folder(journal: Journal) -> None:
    """``rm -r`` of the writer's folder."""
    shutil.rmtree(journal.folder)


def remove_journal(journal: Journal) -> None:
    """``rm -r data/journal``."""
    shutil.rmtree(journal.folder.parent)


def empty_folder(journal: Journal) -> None:
    """The folder is another one now, as after a mount."""
    journal.folder.rename(journal.folder.with_name("moved"))
    journal.folder.mkdir()


def move_segment(journal: Journal) -> None:
    """``mv`` of the file."""
    newest(journal).rename(newest(journal).with_suffix(".old"))


def swap_segment(journal: Journal) -> None:
    """A copy of the file in its place, as an editor or a backup leaves it."""
    path = newest(journal)
    shutil.copy(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def cut_segment(journal: Journal) -> None:
    """The file is cut in the middle of a line."""
    os.truncate(newest(journal), newest(journal).stat().st_size * 2 // 3)


def empty_segment(journal: Journal) -> None:
    """``> file``."""
    os.truncate(newest(journal), 0)


GONE = (remove_segment, remove_folder, remove_journal, empty_folder, move_segment)
LEFT = (swap_segment, cut_segment, empty_segment)
WAYS = pytest.mark.parametrize("take", [*GONE, *LEFT], ids=lambda take: take.__name__)


@pytest.fixture(params=[Journal, DurableJournal], ids=["journal", "disk"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    """A writer that has introduced itself, in the page cache or on the disk."""
    with closing(request.param(tmp_path / "data" / "journal", segment_bytes=4000)) as journal:
        journal.introduce(msgspec.structs.replace(WRITER, writer=journal.writer.hex()))
        journal.sync()
        yield journal


def write(journal: Journal, count: int) -> None:
    """Append so many records, each as durable as promised."""
    for _ in range(count):
        seq = journal.next_seq
        journal.append([encode_record(Heartbeat(seq=seq, ms=1000 + seq))], 1000 + seq)
        journal.sync()


def read(tail: Tail) -> list[int]:
    """The sequence numbers that follow."""
    found: list[int] = []
    while (entries := tail.read(7)) is not None:
        found += [entry.seq for entry in entries]
    return found


def records(path: Path) -> list[object]:
    """The records of a segment."""
    return [line.record for line in read_segment(path.read_bytes())]


class TestTakenAway:
    """Ways in which a file that is written to is not where it was put any more."""

    @WAYS
    @pytest.mark.parametrize("shipped", [0, 4, 9])
    def test_f98_each_record_is_read_or_lost_once(
        self, journal: Journal, take: Callable[[Journal], None], shipped: int
    ) -> None:
        """Wherever the agent was, what it had read, what it reads then and what it counts as lost are all there was."""
        tail = Tail(journal.folder)
        write(journal, max(0, shipped - 1))
        there = read(tail) if shipped else []
        write(journal, 12 - shipped)
        take(journal)
        write(journal, 3)
        journal.check()
        write(journal, 5)

        there += read(tail)
        total = journal.next_seq - 1
        assert there == sorted(set(there))
        assert len(there) + sum(tail.account.lost.values()) == total
        assert set(range(total - 4, total + 1)) <= set(there)
        if take not in LEFT:
            assert set(tail.account.lost) <= {"segment_lost"}

    @WAYS
    def test_f98_the_folder_shows_a_writer_that_lives(self, journal: Journal, take: Callable[[Journal], None]) -> None:
        """Folder, lock, mark and file are there again at once, and what is written then can be read."""
        write(journal, 5)
        take(journal)
        journal.check()
        write(journal, 2)
        seq = journal.next_seq

        assert alive(journal.folder)
        assert synced(journal.folder) in (None, seq - 1)
        assert records(newest(journal))[-2:] == [Heartbeat(seq=s, ms=1000 + s) for s in (seq - 2, seq - 1)]

    @WAYS
    def test_f98_the_loss_is_the_first_that_is_told(self, journal: Journal, take: Callable[[Journal], None]) -> None:
        """The new file begins with who writes, where that is gone, and with what was lost, and the chain goes on."""
        write(journal, 5)
        take(journal)
        journal.check()
        path = newest(journal)
        told = records(path)
        losses = [record for record in told if isinstance(record, Loss)]
        lines = path.read_bytes().splitlines(keepends=True)

        assert [(loss.cause, loss.count, loss.last) for loss in losses] == [
            ("segment_lost", loss.count, 6) for loss in losses
        ]
        assert sum(loss.count for loss in losses) == journal.losses.records > 0
        assert [type(record) for record in told[:-1]] == ([Writer] if len(told) == 2 else [])
        assert path.name == f"{7:020d}.log"
        assert [line[9:41] for line in lines[1:]] == [chain_of(line) for line in lines[:-1]]
        if take in GONE:
            assert isinstance(told[0], Writer)

    def test_f98_a_rotation_finds_it_too(self, journal: Journal) -> None:
        """Where the file is full before anybody looked, nothing waits for the look."""
        tail = Tail(journal.folder)
        write(journal, 5)
        there = read(tail)
        write(journal, 3)
        remove_segment(journal)
        while journal.losses.segments == 0:
            write(journal, 1)
        write(journal, 2)

        there += read(tail)
        assert len(there) + tail.account.lost["segment_lost"] == journal.next_seq - 1
        assert set(tail.account.lost) == {"segment_lost"}

    def test_nothing_is_found_where_nothing_is_wrong(self, journal: Journal) -> None:
        """Looking costs the log nothing."""
        write(journal, 60)
        before = [path.read_bytes() for path in segments(journal.folder)]
        for _ in range(3):
            journal.check()

        assert [path.read_bytes() for path in segments(journal.folder)] == before
        assert (journal.losses.segments, journal.losses.records) == (0, 0)
        assert len(before) > 1

    def test_a_lock_that_is_gone_is_held_again(self, journal: Journal) -> None:
        """Without it the agent would take the writer for dead and close its stream."""
        write(journal, 2)
        for _ in range(2):
            (journal.folder / "lock").unlink()
            journal.check()
            assert alive(journal.folder)
        write(journal, 2)

        assert journal.losses.segments == 0
        assert len(segments(journal.folder)) == 1

    def test_whether_it_lives_is_seen_on_a_disk_that_is_read_only(
        self, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Records of a disk that was made read-only are still to be shipped."""
        write(journal, 2)
        opened = os.open

        def read_only(path: str, flags: int, *rest: int, **more: int) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
            return opened(path, flags, *rest, **more)

        monkeypatch.setattr(os, "open", read_only)
        assert alive(journal.folder)
        journal.close()
        assert not alive(journal.folder)

    def test_an_older_segment_that_is_gone_is_counted_by_the_agent(self, journal: Journal) -> None:
        """What was not shipped of it is lost, and its writer need not know."""
        tail = Tail(journal.folder)
        write(journal, 5)
        there = read(tail)
        write(journal, 120)
        segments(journal.folder)[1].unlink()
        journal.check()

        there += read(tail)
        assert len(there) + sum(tail.account.lost.values()) == journal.next_seq - 1
        assert sum(tail.account.lost.values()) > 0

    def test_f98_while_it_cannot_be_replaced_nothing_is_taken(self, tmp_path: Path) -> None:
        """A decision without a record is refused, from the moment that it is known; then all is told."""
        with closing(Journal(tmp_path / "journal")) as journal:
            write(journal, 3)
            shutil.rmtree(tmp_path / "journal")
            (tmp_path / "journal").write_text("in the way")
            with pytest.raises(JournalUnavailable):
                journal.check()
            for _ in range(2):
                with pytest.raises(JournalUnavailable):
                    write(journal, 1)
            state = journal.state()
            (tmp_path / "journal").unlink()
            write(journal, 1)
            told = records(newest(journal))

        assert state.startswith("unavailable: ")
        assert told == [
            Heartbeat(seq=4, ms=1004),
            Loss(seq=5, ms=1004, count=3, cause="segment_lost", first=1, last=3),
        ]

    def test_f98_what_was_not_answered_yet_is_not_lost(self, tmp_path: Path) -> None:
        """Where the disk is promised, what waits for its sync is written again, under its own numbers."""
        with closing(DurableJournal(tmp_path)) as journal:
            write(journal, 3)
            journal.append([encode_record(Heartbeat(seq=4, ms=1004)), encode_record(Heartbeat(seq=5, ms=1005))], 1005)
            remove_segment(journal)
            sync = journal.begin_sync()
            kept = journal.finish(sync, sync.attempt())
            journal.sync()
            found = records(newest(journal))
            journal.check()
            told = records(newest(journal))[-1]

        assert not kept
        assert found == [Heartbeat(seq=4, ms=1004), Heartbeat(seq=5, ms=1005)]
        assert told == Loss(seq=6, ms=1005, count=3, cause="segment_lost", first=1, last=3)


class TestSegment:
    """One file."""

    def test_what_is_missing_is_told_by_what_is_left(self, tmp_path: Path) -> None:
        """Where lines were cut off and others written since, only those between are gone."""
        with closing(Journal(tmp_path)) as journal:
            write(journal, 6)
            path = newest(journal)
            lines = path.read_bytes().splitlines(keepends=True)
            os.truncate(path, len(lines[0]) + len(lines[1]) + 5)
            write(journal, 1)
            segment = Segment(journal.folder, 1)
            segment.size = sum(map(len, lines))
            missing = segment.missing(7)
            segment.close()

        assert missing == [(3, 6)]
        assert decode_record(lines[0][42:-1]) == Heartbeat(seq=1, ms=1001)
        assert repr(segment) == f"<Segment {path.name}, {segment.size} bytes>"

    def test_a_file_that_has_nothing_is_not_lost(self, tmp_path: Path) -> None:
        """An empty segment that is gone takes nothing along."""
        segment = Segment(tmp_path, 5)
        segment.path.unlink()

        assert segment.missing(4) == []
        segment.close()
