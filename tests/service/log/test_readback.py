"""Reading back: the records of a log from its end, as far as it is whole."""

import os
from pathlib import Path
from random import Random

import pytest

from service.log.durable import DurableJournal
from service.log.journal import Journal, segments
from service.log.readback import CHUNK, Archive, Readback
from service.log.records import Feedback, Heartbeat, Loss, decode_record, encode_record
from tests.fakes import NOW

MS = int(NOW * 1000)


def log_of(folder: Path, sizes: list[int], *, segment_bytes: int = 1 << 30) -> Path:
    """A writer's log with feedback of such sizes in it; the writer is dead."""
    journal = Journal(folder, segment_bytes=segment_bytes)
    for size in sizes:
        record = Feedback(seq=journal.next_seq, ms=MS, decision_id="d" * size, at=NOW)
        journal.append([encode_record(record)], MS)
    journal.close()
    return journal.folder


def read(folder: Path) -> tuple[list[int], str]:
    """The sequence numbers as they are read, and what was the trouble in the end."""
    readback = Readback(folder, Archive())
    found = [seen.seq for _, seen in readback.glimpses()]
    assert readback.records == len(found)
    return found, readback.trouble


@pytest.mark.parametrize("seed", range(5))
def test_all_records_are_read_from_the_last_one_on(tmp_path: Path, seed: int) -> None:
    """In segments of any size, lines longer than what is read at once among them; each is found again by its name."""
    random = Random(seed)  # noqa: S311 - a test that repeats itself
    sizes = [random.choice((1, 10, 1000, CHUNK // 3, CHUNK, 3 * CHUNK)) for _ in range(12)] + [5] * 200
    random.shuffle(sizes)
    folder = log_of(tmp_path, sizes, segment_bytes=random.choice((1, 10_000, 2 * CHUNK, 1 << 30)))
    archive = Archive()
    readback = Readback(folder, archive)

    found = list(readback.glimpses())

    assert [seen.seq for _, seen in found] == list(range(len(sizes), 0, -1))
    assert readback.trouble == ""
    assert readback.read_bytes == sum(path.stat().st_size for path in segments(folder))
    for path in segments(folder):
        path.unlink()
    for ref, seen in found:
        text = archive.text(ref)
        assert text is not None
        record = decode_record(text)
        assert isinstance(record, Feedback)
        assert (record.seq, len(record.decision_id)) == (seen.seq, sizes[seen.seq - 1])
    archive.close()
    assert archive.text(found[0][0]) is None


def test_an_empty_log_has_nothing_and_no_trouble(tmp_path: Path) -> None:
    """Nor has a folder without segments."""
    assert read(log_of(tmp_path, [])) == ([], "")
    assert read(tmp_path) == ([], "")


@pytest.mark.parametrize("rest", [b"x", b"0" * 5000, b"0" * (CHUNK * 2 + 7)], ids=len)
def test_an_unfinished_last_line_is_not_there(tmp_path: Path, rest: bytes) -> None:
    """However long it is; of each segment, because a full disk leaves one and the next record begins another."""
    folder = log_of(tmp_path, [10] * 6, segment_bytes=500)
    assert len(segments(folder)) > 1
    for path in segments(folder):
        with path.open("ab") as file:
            file.write(rest)

    assert read(folder) == ([6, 5, 4, 3, 2, 1], "")


def test_every_byte_of_a_log_counts(tmp_path: Path) -> None:
    """Whichever is changed, what is after its line is read, and nothing from it on; only the chain is not looked at."""
    folder = log_of(tmp_path, [3] * 3)
    (path,) = segments(folder)
    whole = path.read_bytes()
    starts = [0, *[at + 1 for at, byte in enumerate(whole) if byte == 10]]
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        found, trouble = read(folder)
        line = sum(start <= at for start in starts)
        if whole[at] == 10:
            # A line and the next are one now; after the last there is nothing.
            after = [seq for seq in (3, 2, 1) if seq > line + 1] if line < 3 else [2, 1]
            assert found == after
        else:
            assert found == [seq for seq in (3, 2, 1) if seq > line]
        assert ("is damaged" in trouble) == (at != len(whole) - 1)


def test_a_gap_ends_it(tmp_path: Path) -> None:
    """A line is missing, within a segment or between two; and the first ones."""
    folder = log_of(tmp_path / "a", [3] * 5)
    (path,) = segments(folder)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[3:]))
    assert read(folder) == ([5, 4], "records 2 to 3 are missing")
    path.write_bytes(b"".join(lines[2:]))
    assert read(folder) == ([5, 4, 3], "records 1 to 2 are not there any more")
    folder = log_of(tmp_path / "b", [3] * 5, segment_bytes=1)
    segments(folder)[2].unlink()
    assert read(folder) == ([5, 4], "records 3 to 3 are missing")


def test_a_record_of_a_loss_ends_it(tmp_path: Path) -> None:
    """Nobody knows what was lost."""
    journal = Journal(tmp_path)
    texts = [Heartbeat(seq=1, ms=MS), Loss(seq=2, ms=MS, count=3, cause="test"), Heartbeat(seq=3, ms=MS)]
    journal.append([encode_record(one) for one in texts], MS)
    journal.close()

    assert read(journal.folder) == ([3], "record 2 tells of a loss")


def test_what_is_not_a_record_ends_it(tmp_path: Path) -> None:
    """Although its checksum is right."""
    for name, text in {"a": b"[]", "b": b'{"kind":"heartbeat"}', "c": b'{"kind":1,"seq":2,"ms":3}'}.items():
        journal = Journal(tmp_path / name)
        journal.append([encode_record(Heartbeat(seq=1, ms=MS)), text, encode_record(Heartbeat(seq=3, ms=MS))], MS)
        journal.close()
        found, trouble = read(journal.folder)
        assert found == [3]
        assert "is damaged" in trouble


def test_a_segment_that_cannot_be_read_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has gone since the folder was listed, or it became shorter while it was read."""
    monkeypatch.setattr("service.log.readback._SMALL", 0)
    folder = log_of(tmp_path, [3] * 4, segment_bytes=1)
    archive = Archive()
    readback = Readback(folder, archive)
    glimpses = readback.glimpses()
    first = next(glimpses)
    os.truncate(segments(folder)[3], 50)
    segments(folder)[2].unlink()

    assert first[1].seq == 4
    assert archive.text(first[0]) is None
    assert list(glimpses) == []
    assert "cannot be read (No such file or directory)" in readback.trouble
    assert repr(archive) == "<Archive of 1 segments>"
    archive.close()


@pytest.mark.parametrize("more", [1, 2, 5])
def test_what_is_not_synced_yet_is_not_read(tmp_path: Path, more: int) -> None:
    """Where the disk is promised nobody was told of it, and it may still be taken back."""
    journal = DurableJournal(tmp_path)
    for made in range(1, 4 + more):
        journal.append([encode_record(Heartbeat(seq=journal.next_seq, ms=MS))], MS)
        if made == 3:
            journal.sync()
    read_back = read(journal.folder)
    journal.close()

    assert read_back == ([3, 2, 1], "")
