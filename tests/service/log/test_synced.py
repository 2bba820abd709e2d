"""F28: a file whose sync failed is not synced again; what was answered is in the log, what was refused never was."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import product
from pathlib import Path

import pytest

from service.agent.tail import Tail, last_seq
from service.log.durable import DurableJournal
from service.log.journal import Journal, JournalUnavailable, segments
from service.log.lines import MARK, Synced, boot, readable, synced
from service.log.records import Heartbeat, decode_record, encode_record


class Disk:
    """A disk that syncs, or does not, as it is told in advance; then it does. A file that failed must not come back."""

    def __init__(self, outcomes: Sequence[bool]) -> None:
        self._outcomes = list(outcomes)
        # Kept open, so that no other file gets their numbers.
        self._failed: list[int] = []
        self.again = 0

    def sync(self, descriptor: int) -> None:
        """Sync, as ``fdatasync`` does."""
        inode = os.fstat(descriptor).st_ino
        self.again += any(os.fstat(failed).st_ino == inode for failed in self._failed)
        if self._outcomes and not self._outcomes.pop(0):
            self._failed.append(os.dup(descriptor))
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fdatasync(descriptor)

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in self._failed:
            os.close(descriptor)


class Log:
    """A durable journal and what was promised of it; each record says its own number as its time."""

    def __init__(self, folder: Path, disk: Disk, **options: int) -> None:
        self.journal = DurableJournal(folder, sync=disk.sync, **options)
        self.tail = Tail(self.journal.folder)
        self.made: list[int] = []
        self.refused: list[int] = []
        self.read: list[int] = []
        self._count = 0

    def append(self, count: int) -> list[int]:
        """Append records; those that the journal took."""
        first = self.journal.next_seq
        marks = [self._count + i + 1 for i in range(count)]
        self._count += count
        texts = [encode_record(Heartbeat(seq=first + i, ms=mark)) for i, mark in enumerate(marks)]
        try:
            self.journal.append(texts, marks[-1])
        except JournalUnavailable as error:
            self.refused += marks[error.kept :]
            return marks[: error.kept]
        return marks

    def settle(self, waiting: list[int]) -> None:
        """Sync, and answer who waits."""
        try:
            self.journal.sync()
        except JournalUnavailable:
            self.refused += waiting
            with suppress(OSError):
                self.journal.try_disk()
                self.journal.resume()
        else:
            self.made += waiting

    def look(self) -> None:
        """What an agent reads now, and one that begins now."""
        self.read += _read(self.tail)
        fresh = Tail(self.journal.folder)
        assert _read(fresh) == self.made
        assert fresh.account.lost == {}
        assert last_seq(self.journal.folder) == len(self.made)


def _read(tail: Tail) -> list[int]:
    found: list[int] = []
    while (entries := tail.read(5)) is not None:
        found += [decode_record(entry.text).ms for entry in entries]
    return found


@pytest.mark.parametrize("segment_bytes", [1 << 20, 300, 120], ids=["one file", "some files", "a file each"])
def test_f28_what_was_answered_is_in_the_log_and_nothing_else(tmp_path: Path, segment_bytes: int) -> None:
    """Whichever syncs fail: at any moment readers find what was promised, in order, and nothing that was refused."""
    for number, outcomes in enumerate(product([True, False], repeat=7)):
        disk = Disk(outcomes)
        log = Log(tmp_path / str(number), disk, segment_bytes=segment_bytes)
        for count in (2, 1, 3, 1, 2, 2, 1, 1):
            waiting = log.append(count)
            log.look()
            waiting += log.append(1)
            log.look()
            log.settle(waiting)
            log.look()
        log.journal.close()
        disk.close()

        assert log.read == log.made, outcomes
        assert not set(log.read) & set(log.refused), outcomes
        assert len(log.made) + len(log.refused) == 21
        assert disk.again == 0, outcomes
        if all(outcomes[i] or outcomes[i + 1] for i in range(len(outcomes) - 1)) and segment_bytes > 1000:
            assert log.refused == [], outcomes


@pytest.mark.parametrize("turn", range(1, 14))
@pytest.mark.parametrize("cut", [0, 30, 100, 130])
def test_f28_a_file_that_cannot_be_written_anew_is_no_promise(tmp_path: Path, turn: int, cut: int) -> None:
    """Where the n-th write fails as well, at any byte, nothing of what was refused is read and nothing else is lost."""
    calls = 0

    def write(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == turn:
            return os.write(descriptor, data[:cut]) if 0 < cut < len(data) else _refuse()
        if calls == turn + 1 and cut:
            _refuse()
        return os.write(descriptor, data)

    disk = Disk([True, False, True, False, False, True, True])
    log = Log(tmp_path, disk)
    log.journal._write = write  # the seam that the constructor takes, changed once there is a first file
    for _ in range(8):
        waiting = log.append(2)
        log.look()
        log.settle(waiting)
        log.look()
    log.journal.close()
    disk.close()

    assert log.read == log.made
    assert len(log.made) + len(log.refused) == 16
    assert disk.again == 0


def _refuse() -> int:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_f28_what_cannot_be_cut_back_is_not_read_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that stay in a file that was given up are behind the next segment's first, or behind the mark."""

    def refuse(*_: object) -> None:
        _refuse()

    disk = Disk([True, False, False, True])
    log = Log(tmp_path, disk)
    log.settle(log.append(3))
    with monkeypatch.context() as patch:
        patch.setattr(os, "truncate", refuse)
        waiting = log.append(2)
        log.settle(waiting)
        log.look()
        left = segments(log.journal.folder)[0].read_bytes().count(b"\n")
        log.settle(log.append(2))
        log.look()
    log.journal.close()
    disk.close()

    assert (left, log.refused) == (5, [4, 5])
    assert log.read == log.made == [1, 2, 3, 6, 7]


def test_f28_a_rotation_in_the_page_cache_costs_no_append(tmp_path: Path) -> None:
    """Without a promise of the disk a full file that cannot be synced is said, left, and never tried again."""
    disk = Disk([False, False])
    with closing(Journal(tmp_path, segment_bytes=300, sync=disk.sync)) as journal:
        for seq in range(1, 41):
            journal.append([encode_record(Heartbeat(seq=seq, ms=seq))], seq)
            if journal.has_behind():
                sync = journal.begin_sync(behind=True)
                journal.finish(sync, sync.attempt())
        journal.sync()
        failed = journal.failed_syncs
        open_files = [name for name in _open_files() if str(journal.folder) in name]
        found = _read(Tail(journal.folder))
    disk.close()

    assert found == list(range(1, 41))
    assert (failed, disk.again) == (2, 0)
    assert len(open_files) <= 4


def _open_files() -> Iterator[str]:
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            yield str(path.readlink())


class TestMark:
    """The file that says what is synced."""

    def test_it_says_what_was_said_last(self, tmp_path: Path) -> None:
        """Whoever reads it gets a number of before or after, and no mixture."""
        mark = Synced()
        mark.keep(tmp_path, 7)
        first = synced(tmp_path)
        mark.move(12_345)
        mark.keep(tmp_path, 1)
        then = synced(tmp_path)
        mark.close()

        assert (first, then) == (7, 12_345)
        assert (tmp_path / MARK).stat().st_mode & 0o777 == 0o600
        assert repr(mark) == "<Synced closed>"

    def test_a_log_without_one_is_read_to_its_end(self, tmp_path: Path) -> None:
        """So is one whose mark is damaged: nobody may lose records by it."""
        none = synced(tmp_path)
        (tmp_path / MARK).write_bytes(b"0123abcd 7 x\n")

        assert none is None
        assert synced(tmp_path) is None
        assert readable(tmp_path) == []

    def test_it_ends_with_the_machine_s_start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """After a power loss the mark may be older than the log, whose lines are on the disk then."""
        log = Log(tmp_path, Disk([]))
        log.settle(log.append(2))
        log.append(2)
        before = _read(Tail(log.journal.folder))
        log.journal.close()
        monkeypatch.setattr("service.log.lines.boot", lambda: b"another")

        assert before == [1, 2]
        assert _read(Tail(log.journal.folder)) == [1, 2, 3, 4]
        assert len(boot()) > 0
