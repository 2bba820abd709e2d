"""The journal: what stands on disk, what a reader makes of it when it is damaged, and what a failing disk costs."""

import binascii
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.records import History
from guards.shield import Violation
from service.decision.record import packed_rows
from service.log.journal import CHAIN_START, Journal, JournalUnavailable, Line, alive, chain_of, read_segment, segments
from service.log.records import (
    AnyRecord,
    Decision,
    Feedback,
    Heartbeat,
    Loss,
    Packed,
    Refused,
    Writer,
    decode_record,
    encode_record,
    listed,
    unlisted,
)

ROOT = Path(__file__).resolve().parents[3]
Write = Callable[[int, bytes], int]

SAMPLES: list[AnyRecord] = [
    Writer(
        seq=1,
        ms=1_700_000_000_000,
        writer="00112233445566ff",
        service="test",
        config_digest="a" * 64,
        config=msgspec.Raw(b'{"name":"test","text":"\\u00e9"}'),
        versions={"test-1": "b" * 64},
        key_fingerprint="0123456789abcdef",
        wait_s=60.0,
    ),
    Heartbeat(seq=2, ms=1_700_000_000_001),
    Decision(
        seq=3,
        ms=1_700_000_000_002,
        id="A" * 52,
        session="cart/ä/1",
        episode="B" * 52,
        step=7,
        at=1_700_000_000.0021,
        observed_at=1_700_000_000.0,
        previous="C" * 52,
        track="stable",
        track_probability=1.0,
        version="test-1",
        digest="b" * 64,
        observation=[0.1, -0.0, 5e-324, 1.7976931348623157e308],
        facts={"load": 0.3},
        mask=[True, False, True],
        options={"explore": False, "deadline_ms": 12.5, "request_id": "r"},
        head=Packed.of(np.array([0.1, 0.2, 0.3], dtype=np.float32)),
        allowed=[True, False, True],
        state=History(known=True, since=1.5, step=3, action=2, changed_at=1.25, used={0: 1.0, 2: 1.25}),
        config="a" * 64,
        explorer="epsilon_greedy",
        key=1,
        proposed=1,
        action=2,
        propensity=0.9999999999999999,
        measure="mass",
        propensity_ok=False,
        why_not_ok="DeadlineExceeded",
        source="baseline",
        reason="DeadlineExceeded",
        violations=[Violation("keep two replicas", "prevented", "deny"), Violation("watch", "reported", "audit")],
        explored=True,
        generation=4,
        durations={"infer_us": 12},
        durability="journal",
    ),
    Refused(
        seq=4,
        ms=1_700_000_000_003,
        session="s",
        at=1.5,
        observation=Packed.of(np.arange(100, dtype=np.float64)),
        reason="NoSafeAction",
        violations=[Violation("r", "prevented")],
    ),
    Feedback(
        seq=5,
        ms=1_700_000_000_004,
        decision_id="A" * 52,
        at=2.5,
        reward=-1.5,
        next_observation=[1.0, 2.0],
        terminated=True,
        truncated=True,
        executed_action=1,
        activated=False,
        late=True,
    ),
    Loss(seq=6, ms=1_700_000_000_005, count=3, cause="retention"),
]
KINDS = pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
FAULTS = pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])


def beat(seq: int) -> bytes:
    """The JSON of a small record."""
    return encode_record(Heartbeat(seq=seq, ms=1000 + seq))


def append(journal: Journal, count: int = 1) -> None:
    """Append ``count`` records at the place where the journal is."""
    first = journal.next_seq
    journal.append([beat(seq) for seq in range(first, first + count)], 1000 + first + count - 1)


@contextmanager
def opened(folder: Path, *, segment_bytes: int = 1 << 20, write: Write = os.write) -> Iterator[Journal]:
    """A journal that is let go at the end."""
    with closing(Journal(folder, segment_bytes=segment_bytes, write=write)) as journal:
        yield journal


def lines_of(folder: Path) -> list[Line]:
    """All lines of a writer, whose chain has to hold from the first to the last, over all segments."""
    lines: list[Line] = []
    chain = CHAIN_START
    for path in segments(folder):
        data = path.read_bytes()
        start = 0
        for line in read_segment(data):
            assert line.chain == chain, path
            chain = chain_of(data[start : line.end])
            start = line.end
            lines.append(line)
        assert start == len(data), path
    return lines


def seqs_of(folder: Path) -> list[int]:
    """Sequence numbers of all records of a writer; none may be damaged."""
    records = [line.record for line in lines_of(folder)]
    assert None not in records
    return [record.seq for record in records if record is not None]


def segment_of(count: int) -> tuple[bytes, list[bytes]]:
    """A segment of ``count`` lines, made by hand, and the lines."""
    lines: list[bytes] = []
    chain = b"0" * 32
    for seq in range(1, count + 1):
        rest = chain + b" " + beat(seq)
        lines.append(f"{binascii.crc32(rest):08x}".encode() + b" " + rest + b"\n")
        chain = hashlib.blake2b(lines[-1], digest_size=16).hexdigest().encode()
    return b"".join(lines), lines


class Disk:
    """A disk whose ``turn``-th append is written up to the byte ``cut`` at first; the rest follows, or an error."""

    def __init__(self, *, cut: int, turn: int, then: int = 0) -> None:
        self._cut = cut
        self._calls = 0
        self._turn = turn
        self._then = then

    def __call__(self, file: int, data: bytes) -> int:
        """Write, as ``os.write`` does."""
        self._calls += 1
        if self._then and self._calls == self._turn + (self._cut > 0):
            raise OSError(self._then, os.strerror(self._then))
        return os.write(file, data[: self._cut] if self._calls == self._turn else data)


class TestFormat:
    """What stands on disk."""

    def test_a_line_is_crc_chain_and_json(self, tmp_path: Path) -> None:
        """Every byte of the file is as the format says, worked out here without the journal's own code."""
        by_hand, _ = segment_of(5)

        with opened(tmp_path) as journal:
            append(journal)
            append(journal, 4)

        assert [path.read_bytes() for path in segments(journal.folder)] == [by_hand]

    def test_tail_and_cut_read_it(self, tmp_path: Path) -> None:
        """The last record comes out with `tail` and `cut` alone."""
        tail, cut = shutil.which("tail"), shutil.which("cut")
        assert tail
        assert cut
        with opened(tmp_path) as journal:
            journal.append([encode_record(record) for record in SAMPLES[:3]], 1)

        last = subprocess.run([tail, "-n", "1", *segments(journal.folder)], capture_output=True, check=True).stdout
        text = subprocess.run([cut, "-d", " ", "-f", "3-"], input=last, capture_output=True, check=True).stdout

        assert json.loads(text)["kind"] == "decision"
        assert decode_record(text) == SAMPLES[2]

    def test_an_append_is_one_write(self, tmp_path: Path) -> None:
        """However many records a turn has, they go to the kernel in one call."""
        sizes: list[int] = []

        def write(file: int, data: bytes) -> int:
            sizes.append(len(data))
            return os.write(file, data)

        with opened(tmp_path, write=write) as journal:
            append(journal, 100)

        assert sizes == [len(segment_of(100)[0])]

    def test_the_sequence_starts_at_one_without_gaps(self, tmp_path: Path) -> None:
        """Records are numbered from 1 by their place in the log, whatever the batches were."""
        with opened(tmp_path) as journal:
            first = journal.next_seq
            for count in (1, 7, 2):
                append(journal, count)

        assert first == 1
        assert journal.next_seq == 11
        assert journal.last_ms == 1010
        assert seqs_of(journal.folder) == list(range(1, 11))

    def test_segments_are_named_by_their_first_record(self, tmp_path: Path) -> None:
        """A full segment is followed by one named after its first sequence number, and the chain goes on across."""
        with opened(tmp_path, segment_bytes=400) as journal:
            for count in (1, 3, 2, 1, 1, 4, 2, 3):
                append(journal, count)
        paths = segments(journal.folder)

        assert len(paths) > 3
        assert seqs_of(journal.folder) == list(range(1, 18))
        for path in paths:
            first = next(read_segment(path.read_bytes())).record
            assert first is not None
            assert path.name == f"{first.seq:020d}.log"
            assert path.stat().st_size <= 400

    def test_a_batch_larger_than_a_segment_stays_whole(self, tmp_path: Path) -> None:
        """One append is never split over two segments, even where it is larger than a segment should be."""
        with opened(tmp_path, segment_bytes=100) as journal:
            append(journal, 20)
            append(journal, 20)

        assert [path.stem for path in segments(journal.folder)] == [f"{1:020d}", f"{21:020d}"]
        assert seqs_of(journal.folder) == list(range(1, 41))

    def test_segments_are_for_their_owner_only(self, tmp_path: Path) -> None:
        """Observations are nobody else's business: the files are readable by the service's user alone."""
        with opened(tmp_path) as journal:
            append(journal)

        assert {path.stat().st_mode & 0o777 for path in journal.folder.iterdir()} == {0o600}

    def test_sync_reaches_the_disk_or_says_so(self, tmp_path: Path) -> None:
        """Syncing an open journal works, and one that is closed raises JournalUnavailable."""
        journal = Journal(tmp_path)
        append(journal)
        journal.sync()
        journal.close()

        with pytest.raises(JournalUnavailable, match="cannot be synced"):
            journal.sync()

    def test_its_repr_is_a_status_line(self, tmp_path: Path) -> None:
        """The repr tells the writer, the next sequence number and the size of the segment."""
        with opened(tmp_path) as journal:
            append(journal, 2)

            assert repr(journal) == f"<Journal {journal.writer.hex()} next 3, {len(segment_of(2)[0])} bytes in segment>"


class TestDamage:
    """What a reader makes of a segment that is not as it was written."""

    def test_a_torn_tail_shows_itself(self) -> None:
        """Wherever the last line is torn, the lines before it are read and the rest is not there yet."""
        data, lines = segment_of(3)
        whole = len(lines[0]) + len(lines[1])

        for cut in range(whole, len(data)):
            found = list(read_segment(data[:cut]))
            assert [line.record and line.record.seq for line in found] == [1, 2], cut
            assert found[-1].end == whole, cut

    def test_reading_goes_on_where_it_stopped(self) -> None:
        """The end of a line is an offset to read from, before the next line was there and after."""
        data, lines = segment_of(3)
        end = len(lines[0])

        assert [line.end for line in read_segment(data[: end + 5])] == [end]
        assert [line.record and line.record.seq for line in read_segment(data, end)] == [2, 3]

    @pytest.mark.parametrize("change", [*(1 << bit for bit in range(8)), "newline", "space", "zero"])
    def test_a_damaged_byte_loses_its_line_and_no_other(self, change: int | str) -> None:
        """Any byte of a segment changed: no exception, no wrong record, and all the other lines are read."""
        data, lines = segment_of(4)
        owner = [i for i, line in enumerate(lines) for _ in line]
        true = [decode_record(line[42:]) for line in lines]
        put = {"newline": ord("\n"), "space": ord(" "), "zero": 0}
        lost: list[str] = []

        for at, byte in enumerate(data):
            new = byte ^ change if isinstance(change, int) else put[change]
            if new == byte:
                continue
            found = list(read_segment(data[:at] + bytes([new]) + data[at + 1 :]))
            records = [line.record for line in found if line.record is not None]
            assert records == [record for record in true if record in records], at
            assert all(line.damage for line in found if line.record is None), at
            # A torn newline at the very end is an unfinished line: it is not there yet.
            assert len(records) == 4 or at == len(data) - 1 or any(line.damage for line in found), at
            others = [record for i, record in enumerate(true) if i != owner[at]]
            if any(record not in records for record in others):
                lost.append(f"byte {at} ({bytes([byte])!r}) also lost another line")

        assert lost == []

    @given(st.binary(max_size=400))
    def test_no_bytes_make_the_reader_raise(self, data: bytes) -> None:
        """Whatever a file holds, reading it raises nothing, and finds no record that was never written."""
        found = list(read_segment(data))

        assert [line.record for line in found if line.record is not None] == []
        assert all(line.damage for line in found)
        assert (found[-1].end if found else 0) == data.rfind(b"\n") + 1

    @settings(max_examples=300)
    @given(st.data())
    def test_holes_and_insertions_never_make_a_wrong_record(self, data: st.DataObject) -> None:
        """Several slices cut out, doubled or overwritten: what is read was written, and it says what was lost."""
        whole, lines = segment_of(6)
        true = [decode_record(line[42:]) for line in lines]
        damaged = whole
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, len(damaged)))
            stop = data.draw(st.integers(start, min(len(damaged), start + 200)))
            damaged = damaged[:start] + data.draw(st.binary(max_size=40)) + damaged[stop:]

        found = [line.record for line in read_segment(damaged)]

        assert all(record in true for record in found if record is not None)

    def test_a_valid_line_that_is_no_record_is_damage(self) -> None:
        """A line whose checksum fits and whose JSON is no record of ours is reported and passed over."""
        made = []
        for text in (
            b"{}",
            b"[1]",
            b'{"kind":"unknown","seq":1,"ms":1}',
            b"\xff",
            b"[" * 100_000,
            b'"' + b"\xff" + b'"',
        ):
            rest = b"0" * 32 + b" " + text
            made.append(b"%08x %b\n" % (binascii.crc32(rest), rest))
        good = segment_of(1)[0]

        found = list(read_segment(b"".join(made) + good))

        assert [line.record is None for line in found] == [True] * len(made) + [False]
        assert all("not a record" in line.damage for line in found[:-1])

    def test_a_line_taken_out_shows_in_chain_and_sequence(self) -> None:
        """Every remaining line is whole, yet the missing one shows: its successor's chain fits nothing before it."""
        _, lines = segment_of(3)

        first, third = read_segment(lines[0] + lines[2])

        assert third.chain != chain_of(lines[0])
        assert [line.record and line.record.seq for line in (first, third)] == [1, 3]


class TestFailingDisk:
    """What happens when a write does not do what it was asked."""

    @pytest.mark.parametrize("turn", range(1, 8))
    @FAULTS
    def test_an_error_at_any_write_costs_that_append_alone(self, tmp_path: Path, number: int, turn: int) -> None:
        """Where the n-th write fails, nothing of it stays, the sequence has not moved, and the next one is fine."""
        calls = 0

        def write(file: int, data: bytes) -> int:
            nonlocal calls
            calls += 1
            if calls == turn:
                raise OSError(number, os.strerror(number))
            return os.write(file, data)

        failed = []
        with opened(tmp_path, segment_bytes=400, write=write) as journal:
            for _ in range(8):
                before = (journal.next_seq, journal.last_ms)
                try:
                    append(journal, 2)
                except JournalUnavailable as error:
                    failed.append(str(error))
                    assert (journal.next_seq, journal.last_ms) == before

        assert len(failed) == 1
        assert os.strerror(number) in failed[0]
        assert seqs_of(journal.folder) == list(range(1, 15))

    @pytest.mark.parametrize("turn", [1, 2, 3])
    def test_a_short_write_is_continued(self, tmp_path: Path, turn: int) -> None:
        """Wherever a write of three lines stops short, the rest follows, and nobody has to know."""
        for cut in range(1, len(segment_of(3)[0])):
            with opened(tmp_path, write=Disk(cut=cut, turn=turn)) as journal:
                for _ in range(4):
                    append(journal, 3)
            assert seqs_of(journal.folder) == list(range(1, 13)), cut

    @pytest.mark.parametrize("turn", [1, 2, 3])
    @FAULTS
    def test_a_write_that_breaks_off_keeps_whole_lines_and_no_torn_one(
        self, tmp_path: Path, number: int, turn: int
    ) -> None:
        """Wherever a write of three lines breaks off: lines that are whole stay, a torn one is cut away, and the
        sequence goes on after what stayed, which is said."""
        for cut in range(len(segment_of(3)[0])):
            kept = -1
            with opened(tmp_path, write=Disk(cut=cut, turn=turn, then=number)) as journal:
                for _ in range(4):
                    before = journal.next_seq
                    try:
                        append(journal, 3)
                    except JournalUnavailable as error:
                        kept = error.kept
                        assert journal.next_seq == before + kept
                        whole = segments(journal.folder)[0].read_bytes()
                        assert whole == segment_of(journal.next_seq - 1)[0]
            assert kept == cut // len(segment_of(1)[0])
            assert seqs_of(journal.folder) == list(range(1, 10 + kept)), cut

    def test_a_disk_that_stays_full_leaves_no_gap(self, tmp_path: Path) -> None:
        """While the disk is full only what fits whole is kept; once there is room the log goes on without a gap."""
        room = 0

        def write(file: int, data: bytes) -> int:
            nonlocal room
            if not room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = os.write(file, data[:room])
            room -= written
            return written

        kept = []
        with opened(tmp_path, write=write) as journal:
            for room in (1000, 10, 0, 0, 95, 1, 180, 0, 0, 1000):  # noqa: B007 - the disk reads it
                try:
                    append(journal, 3)
                except JournalUnavailable as error:
                    kept.append(error.kept)

        assert kept == [0, 0, 0, 1, 0, 2, 0, 0]
        assert seqs_of(journal.folder) == list(range(1, 10))

    def test_a_segment_that_cannot_be_opened_costs_that_append_alone(self, tmp_path: Path) -> None:
        """Where the next segment cannot be made the append fails, and works again once it can."""
        with opened(tmp_path, segment_bytes=300) as journal:
            append(journal, 2)
            append(journal)
            in_the_way = journal.folder / f"{4:020d}.log"
            in_the_way.mkdir()
            for _ in range(3):
                with pytest.raises(JournalUnavailable):
                    append(journal, 2)
            in_the_way.rmdir()
            append(journal, 2)

        assert seqs_of(journal.folder) == [1, 2, 3, 4, 5]

    def test_f28_a_sync_that_fails_at_a_rotation_leaks_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where full segments cannot be synced no append fails, and no more files stay open than wait to be synced."""
        name = "fdatasync" if hasattr(os, "fdatasync") else "fsync"

        def refuse(_: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with opened(tmp_path, segment_bytes=300) as journal:
            append(journal, 3)
            with monkeypatch.context() as patch:
                patch.setattr(os, name, refuse)
                before = len(list(Path("/proc/self/fd").iterdir()))
                for _ in range(50):
                    append(journal, 2)
                after = len(list(Path("/proc/self/fd").iterdir()))
            append(journal, 2)
            failed = journal.failed_syncs

        assert after - before <= 9
        assert failed > 0
        assert seqs_of(journal.folder) == list(range(1, 106))

    @pytest.mark.parametrize("turn", [1, 2])
    @pytest.mark.parametrize("cut", [0, 10, 90, 120, 180])
    def test_a_tail_that_cannot_be_cut_back_harms_no_later_record(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int, turn: int
    ) -> None:
        """After a write that broke off, and whose torn line stays: later records are read whole and once."""

        def refuse(*_: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        taken: list[bytes] = []
        with opened(tmp_path, write=Disk(cut=cut, turn=turn, then=errno.EIO)) as journal:
            with monkeypatch.context() as patch:
                patch.setattr(os, "ftruncate", refuse)
                for _ in range(turn - 1):
                    append(journal, 3)
                with pytest.raises(JournalUnavailable):
                    append(journal, 3)
            for ms in range(9001, 9004):
                text = encode_record(Heartbeat(seq=journal.next_seq, ms=ms))
                with suppress(JournalUnavailable):
                    journal.append([text], ms)
                    taken.append(text)
        lines = [line for path in segments(journal.folder) for line in read_segment(path.read_bytes())]
        seqs = [line.record.seq for line in lines if line.record is not None]

        assert [line.text for line in lines if line.record is not None and line.record.ms > 9000] == taken
        assert seqs == list(range(1, len(seqs) + 1))

    def test_a_folder_that_cannot_be_made_is_a_sentence(self, tmp_path: Path) -> None:
        """A journal that cannot be started says where and why."""
        (tmp_path / "file").write_text("")

        with pytest.raises(JournalUnavailable, match=r"file/[0-9a-f]{16}: the journal cannot be written \("):
            Journal(tmp_path / "file")


class TestWriters:
    """Who writes, and how others know."""

    def test_a_writer_is_minted_at_each_start(self, tmp_path: Path) -> None:
        """Two journals under one folder are two writers of 64 bits, each with a folder and a sequence of its own."""
        with opened(tmp_path) as one, opened(tmp_path) as other:
            append(one, 3)
            append(other)

        assert one.writer != other.writer
        assert {len(one.writer), len(other.writer)} == {8}
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([one.writer.hex(), other.writer.hex()])
        assert (seqs_of(one.folder), seqs_of(other.folder)) == ([1, 2, 3], [1])

    def test_nothing_is_ever_continued(self, tmp_path: Path) -> None:
        """A writer whose folder is there already is refused, alive or not."""
        with opened(tmp_path) as journal:
            append(journal)
        written = segments(journal.folder)[0].read_bytes()

        with pytest.raises(JournalUnavailable):
            Journal(tmp_path, writer=journal.writer)
        assert segments(journal.folder)[0].read_bytes() == written

    def test_a_writer_is_alive_until_it_is_closed(self, tmp_path: Path) -> None:
        """The lock tells: held while the journal is open, free once it is closed, and asking does not disturb it."""
        journal = Journal(tmp_path)
        while_open = [alive(journal.folder) for _ in range(3)]
        append(journal)
        journal.close()

        assert while_open == [True] * 3
        assert [alive(journal.folder) for _ in range(3)] == [False] * 3

    def test_a_folder_without_a_lock_has_no_writer(self, tmp_path: Path) -> None:
        """A folder that is empty, or is not there, belongs to nobody that lives."""
        assert not alive(tmp_path)
        assert not alive(tmp_path / "none")

    def test_a_killed_writer_is_dead_at_once_and_has_lost_nothing(self, tmp_path: Path) -> None:
        """After SIGKILL others see that it is dead, and every append that returned is in the log."""
        script = (
            "import sys; from pathlib import Path\n"
            "from service.log.journal import Journal\n"
            "from service.log.records import Heartbeat, encode_record\n"
            "journal = Journal(Path(sys.argv[1]), segment_bytes=10000)\n"
            "print(journal.writer.hex(), flush=True)\n"
            "while True:\n"
            "    seq = journal.next_seq\n"
            "    journal.append([encode_record(Heartbeat(seq=s, ms=s)) for s in range(seq, seq + 5)], seq)\n"
            "    print(journal.next_seq, flush=True)\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as child:
            assert child.stdout is not None
            folder = tmp_path / child.stdout.readline().strip()
            told = [int(child.stdout.readline()) for _ in range(500)]
            before = alive(folder)
            child.send_signal(signal.SIGKILL)
            child.wait()
            told += [int(line) for line in child.stdout if line.endswith("\n")]

        after = alive(folder)

        assert before
        assert not after
        found = [line.record for path in segments(folder) for line in read_segment(path.read_bytes())]
        seqs = [record.seq for record in found if record is not None]
        assert seqs == list(range(1, len(found) + 1))
        assert len(seqs) >= told[-1] - 1

    def test_being_asked_about_never_stops_a_writer_from_starting(self, tmp_path: Path) -> None:
        """An agent that asks whether writers live, at any moment, takes no lock that a writer needs."""
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                for folder in tmp_path.iterdir():
                    if not folder.name.startswith(".") and not (folder / "asked").exists():
                        alive(folder)

        askers = [threading.Thread(target=ask) for _ in range(2)]
        for thread in askers:
            thread.start()
        failed = []
        try:
            for _ in range(1500):
                try:
                    with opened(tmp_path) as journal:
                        (journal.folder / "asked").touch()
                except JournalUnavailable as error:
                    failed.append(str(error))
        finally:
            done.set()
            for thread in askers:
                thread.join()

        assert failed == []


class TestRecords:
    """What a record says comes out as it went in."""

    def test_there_is_a_sample_of_every_kind(self) -> None:
        """A new kind of record is tested the moment it exists."""
        assert {type(record) for record in SAMPLES} == set(get_args(AnyRecord))

    @KINDS
    def test_a_record_comes_back_from_the_journal(self, tmp_path: Path, record: AnyRecord) -> None:
        """Every field of every kind is as it was, with its kind, format and place said in the JSON."""
        with opened(tmp_path) as journal:
            journal.append([encode_record(record)], record.ms)

        (line,) = lines_of(journal.folder)
        told = json.loads(line.text)
        assert line.record == record
        assert type(line.record) is type(record)
        assert (told["kind"], told["v"]) == (type(record).__name__.lower(), 1)
        assert (told["seq"], told["ms"]) == (record.seq, record.ms)

    @KINDS
    def test_a_later_format_may_add_fields(self, record: AnyRecord) -> None:
        """A field that is not known here is passed over: a later version's log can be read."""
        told = json.loads(encode_record(record)) | {"added_later": [1, {"x": None}]}

        assert decode_record(json.dumps(told, separators=(",", ":")).encode()) == record

    @given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=100))
    def test_numbers_come_back_bit_for_bit(self, numbers: list[float]) -> None:
        """Observations are the same float64 again, listed up to 64 elements and packed above."""
        array = np.array(numbers, dtype=np.float64)
        form = listed(array)
        record = Refused(seq=1, ms=1, session="s", at=0.0, observation=form, reason="x", violations=[])

        again = decode_record(encode_record(record))

        assert isinstance(form, list) == (len(numbers) <= 64)
        assert isinstance(again, Refused)
        assert unlisted(again.observation, "float64").tobytes() == array.tobytes()

    @pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "|u1", "<i8", ">i8", "|b1"])
    @pytest.mark.parametrize("shape", [(1,), (65,), (2, 3), (4, 1, 5)])
    def test_a_packed_array_comes_back(self, dtype: str, shape: tuple[int, ...]) -> None:
        """Any dtype, shape and byte order is packed as little-endian and comes back in native order."""
        array = np.random.default_rng(1).integers(0, 2 if dtype == "|b1" else 250, shape).astype(dtype)

        again = Packed.of(array).array()

        assert again.dtype == np.dtype(dtype).newbyteorder("=")
        assert np.array_equal(again, array)

    def test_packed_rows_are_the_rows_packed(self) -> None:
        """Packing a batch at once gives what packing each row gives, also where the batch is a view."""
        array = np.random.default_rng(2).normal(size=(7, 10)).astype(np.float32)[:, ::2]

        assert packed_rows(array) == [Packed.of(row) for row in array]

    @pytest.mark.parametrize("actions", [1, 64, 65, 200])
    def test_masks_come_back(self, actions: int) -> None:
        """Masks of few actions are lists, of many packed, and both come back."""
        truths = np.random.default_rng(3).integers(0, 2, (3, actions)).astype(np.bool_)

        rows = [listed(row) for row in truths]

        assert isinstance(rows[0], list) == (actions <= 64)
        assert np.array_equal(np.stack([unlisted(row, "bool") for row in rows]), truths)
