"""F25: the space that is kept for when the disk is full, and what is written with it."""

import errno
import os
from contextlib import closing
from pathlib import Path

import pytest

from service.log.journal import Journal, JournalUnavailable, read_segment, segments
from service.log.records import Heartbeat, encode_record
from service.log.reserve import Reserve

LINE = 100
SIZE = 2500


class Disk:
    """A disk with so much room, of which a reserve gives some back when it is let go."""

    def __init__(self, reserve: Reserve, room: int, *, number: int = errno.ENOSPC) -> None:
        self.room = room
        self.calls = 0
        self._reserve = reserve
        self._number = number
        self._held = True

    def write(self, descriptor: int, data: bytes) -> int:
        """Write as much as there is room for, as ``os.write`` does."""
        self.calls += 1
        if self._held and not self._reserve.held:
            self._held = False
            self.room += SIZE
        if not self.room:
            raise OSError(self._number, os.strerror(self._number))
        written = os.write(descriptor, data[: self.room])
        self.room -= written
        return written


def beats(journal: Journal, count: int) -> list[bytes]:
    """The next records."""
    return [encode_record(Heartbeat(seq=journal.next_seq + i, ms=1)) for i in range(count)]


def seqs(journal: Journal) -> list[int]:
    """What is in the log, of which no line is damaged."""
    records = [line.record for path in segments(journal.folder) for line in read_segment(path.read_bytes())]
    return [-1 if record is None else record.seq for record in records]


@pytest.fixture
def reserve(tmp_path: Path) -> Reserve:
    """A small reserve that is held."""
    reserve = Reserve(tmp_path / ".reserve", SIZE)
    assert reserve.hold()
    return reserve


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["ENOSPC", "EDQUOT"])
@pytest.mark.parametrize("segment_bytes", [1 << 20, 250], ids=["one file", "a file each"])
@pytest.mark.parametrize("room", [*range(0, 620, 31), 2000])
def test_f25_wherever_the_disk_is_full_the_reserve_takes_over(
    tmp_path: Path, reserve: Reserve, room: int, segment_bytes: int, number: int
) -> None:
    """At any byte: nobody notices until that is used up too; then nothing torn stays, and later all goes on."""
    disk = Disk(reserve, room, number=number)
    with closing(Journal(tmp_path / "j", write=disk.write, reserve=reserve, segment_bytes=segment_bytes)) as journal:
        states = []
        while True:
            try:
                journal.append(beats(journal, 2), 1)
                states.append(journal.state().partition(":")[0])
            except JournalUnavailable:
                break
        full, last = journal.state(), journal.next_seq - 1
        kept = seqs(journal)
        disk.room = 1000
        journal.append(beats(journal, 2), 1)
        after = journal.state()
        found = seqs(journal)

    assert kept == list(range(1, last + 1))
    assert found == list(range(1, last + 3))
    assert states[-1] == "low"
    assert "full" in full
    assert after.startswith("low: ")
    assert last * LINE > room


@pytest.mark.parametrize("turn", range(1, 9))
def test_f25_where_any_write_says_that_it_is_full_no_record_is_lost(
    tmp_path: Path, reserve: Reserve, turn: int
) -> None:
    """The n-th write fails once: with the reserve it is done again, and nobody is told that it was not."""
    calls = 0

    def write(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == turn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, data)

    with closing(Journal(tmp_path / "j", write=write, reserve=reserve, segment_bytes=250)) as journal:
        for _ in range(8):
            journal.append(beats(journal, 2), 1)
        found = seqs(journal)

    assert found == list(range(1, 17))
    assert not reserve.held


def test_another_error_does_not_use_it_up(tmp_path: Path, reserve: Reserve) -> None:
    """A disk that is broken is not helped by room."""
    disk = Disk(reserve, 0, number=errno.EIO)
    with closing(Journal(tmp_path / "j", write=disk.write, reserve=reserve)) as journal:
        with pytest.raises(JournalUnavailable):
            journal.append(beats(journal, 1), 1)
        state = journal.state()

    assert reserve.held
    assert state == "unavailable: the journal cannot be written (Input/output error)"


class TestReserve:
    """The file."""

    def test_it_takes_up_space_and_gives_it_back(self, tmp_path: Path) -> None:
        """It is there with all its blocks while it is held, for its owner alone, and gone when it is let go."""
        reserve = Reserve(tmp_path / "deep" / ".reserve", 1 << 20)
        held = reserve.hold()
        told = (tmp_path / "deep" / ".reserve").stat()
        shown = repr(reserve)

        assert held
        assert told.st_size == 1 << 20
        assert told.st_blocks * 512 >= 1 << 20
        assert told.st_mode & 0o777 == 0o600
        assert (reserve.release(), reserve.release(), reserve.held) == (True, False, False)
        assert not (tmp_path / "deep" / ".reserve").exists()
        assert shown == "<Reserve of 1048576 bytes, held>"

    def test_it_is_made_again_where_somebody_took_it(self, tmp_path: Path) -> None:
        """What is not there cannot be let go, and is taken anew."""
        reserve = Reserve(tmp_path / ".reserve", 4096)
        reserve.hold()
        (tmp_path / ".reserve").unlink()

        assert not reserve.release()
        assert reserve.hold()
        assert (tmp_path / ".reserve").exists()

    def test_one_of_a_process_before_is_taken_over(self, tmp_path: Path) -> None:
        """It is not counted twice."""
        (tmp_path / ".reserve").write_bytes(bytes(100))
        reserve = Reserve(tmp_path / ".reserve", 4096)

        assert reserve.hold()
        assert (tmp_path / ".reserve").stat().st_size == 4096

    def test_it_leaves_room_for_others(self, tmp_path: Path) -> None:
        """Where there is not twice as much it is not held: it would be let go again at once."""
        room = os.statvfs(tmp_path)
        reserve = Reserve(tmp_path / ".reserve", room.f_bavail * room.f_frsize * 2 // 3)

        assert not reserve.hold()
        assert list(tmp_path.iterdir()) == []
