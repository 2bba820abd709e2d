"""Reading a writer's log while it is written: segments, torn tails, damaged lines, going back."""

import os
from pathlib import Path

import pytest

from service.agent.tail import Tail, last_seq, segment_of, spent
from service.log.journal import segments
from tests.service.agent.pens import Pen


def read_all(tail: Tail) -> list[int]:
    """The sequence numbers that follow, read in small steps to the end."""
    found: list[int] = []
    while (entries := tail.read(3)) is not None:
        assert len(entries) <= 3
        found += [entry.seq for entry in entries]
    return found


class TestReading:
    """Going forward."""

    def test_records_are_read_as_they_come_across_segments(self, tmp_path: Path) -> None:
        """The very bytes that were journalled, each once, whatever segment they are in."""
        pen = Pen(1, tmp_path, segment_bytes=600)
        tail = Tail(tmp_path / pen.name)
        assert tail.read(3) is None
        for ms in range(1, 8):
            pen.beat(ms)
        assert read_all(tail) == [1, 2, 3, 4, 5, 6, 7]
        for ms in range(8, 21):
            pen.beat(ms)

        assert len(segments(tmp_path / pen.name)) > 2
        assert tail.unread() == 13
        assert read_all(tail) == list(range(8, 21))
        assert tail.account.lost == {}
        pen.close()

    def test_an_unfinished_line_is_waited_for(self, tmp_path: Path) -> None:
        """A line without its end is not there yet; it is read when it is whole."""
        pen = Pen(1, tmp_path)
        pen.beat(1)
        pen.beat(2)
        path = segments(tmp_path / pen.name)[0]
        whole = path.read_bytes()
        path.write_bytes(whole[:-5])
        tail = Tail(tmp_path / pen.name)
        assert read_all(tail) == [1]

        path.write_bytes(whole)
        assert read_all(tail) == [2]
        assert (tail.account.torn, tail.account.damaged) == (0, 0)
        pen.close()

    def test_the_torn_tail_of_a_dead_writer_is_counted_once(self, tmp_path: Path) -> None:
        """Nobody was promised anything about it, so it is not a loss."""
        pen = Pen(1, tmp_path)
        pen.beat(1)
        pen.close()
        with segments(tmp_path / pen.name)[0].open("ab") as file:
            file.write(b"0123abcd torn")
        tail = Tail(tmp_path / pen.name)
        assert read_all(tail) == [1]

        tail.end()
        tail.end()
        assert (tail.account.torn, tail.account.damaged, tail.account.lost) == (1, 0, {})

    def test_a_damaged_line_loses_itself_alone_and_is_counted_once(self, tmp_path: Path) -> None:
        """The gap in the sequence says how many records were lost, however often the log is read again."""
        pen = Pen(1, tmp_path)
        for ms in range(1, 6):
            pen.beat(ms)
        path = segments(tmp_path / pen.name)[0]
        path.write_bytes(path.read_bytes().replace(b'"seq":3', b'"seq":9'))
        tail = Tail(tmp_path / pen.name)
        assert read_all(tail) == [1, 2, 4, 5]

        tail.seek(1)
        assert read_all(tail) == [2, 4, 5]
        assert (tail.account.damaged, tail.account.lost) == (1, {"damage": 1})
        pen.close()

    def test_a_record_larger_than_a_chunk_is_read_whole(self, tmp_path: Path) -> None:
        """An observation may be large."""
        pen = Pen(1, tmp_path)
        large = pen.decision(1, session="s" * 600_000)
        pen.beat(2)
        entries = Tail(tmp_path / pen.name).read(10)

        assert entries is not None
        assert large.session.encode() in entries[0].text
        pen.close()


class TestCut:
    """A file that somebody cuts while it is written to and read."""

    @pytest.mark.parametrize("cut", [0, 100, 250, 399])
    @pytest.mark.parametrize("since", [1, 3, 30])
    def test_f98_what_is_written_where_it_was_cut_is_read(self, tmp_path: Path, cut: int, since: int) -> None:
        """Shorter than what was read, or longer by then: nothing that is in the file is passed over."""
        pen = Pen(1, tmp_path)
        for ms in range(1, 11):
            pen.beat(ms)
        tail = Tail(tmp_path / pen.name)
        read_all(tail)
        os.truncate(segments(tmp_path / pen.name)[0], cut)
        for ms in range(11, 11 + since):
            pen.beat(ms)
        pen.close()

        assert read_all(tail) == list(range(11, 11 + since))
        assert tail.account.lost == {}

    def test_damage_is_read_over_and_not_for_ever(self, tmp_path: Path) -> None:
        """A line that does not follow what was read, because it is damaged, is looked at twice."""
        pen = Pen(1, tmp_path)
        for ms in range(1, 4):
            pen.beat(ms)
        tail = Tail(tmp_path / pen.name)
        read_all(tail)
        for ms in range(4, 7):
            pen.beat(ms)
        path = segments(tmp_path / pen.name)[0]
        lines = path.read_bytes().splitlines(keepends=True)
        lines[3] = lines[3].replace(lines[3][9:41], b"f" * 32)
        path.write_bytes(b"".join(lines))
        pen.close()

        assert read_all(tail) == [5, 6]
        assert (tail.account.damaged, tail.account.lost) == (1, {"damage": 1})


class TestSeeking:
    """Starting anywhere."""

    def test_reading_goes_on_after_any_record(self, tmp_path: Path) -> None:
        """Forward and back, over segments, with nothing counted as lost."""
        pen = Pen(1, tmp_path, segment_bytes=600)
        for ms in range(1, 21):
            pen.beat(ms)
        tail = Tail(tmp_path / pen.name)

        for seq in (0, 17, 3, 20, 5, 6):
            tail.seek(seq)
            assert read_all(tail) == list(range(seq + 1, 21))
        assert tail.account.lost == {}
        pen.close()

    def test_records_whose_segment_is_gone_are_lost_by_retention(self, tmp_path: Path) -> None:
        """A store that lost more than the journal keeps gets what there is, and the rest is counted."""
        pen = Pen(1, tmp_path, segment_bytes=600)
        for ms in range(1, 21):
            pen.beat(ms)
        tail = Tail(tmp_path / pen.name)
        read_all(tail)
        first = segments(tmp_path / pen.name)[0]
        kept = int(segments(tmp_path / pen.name)[1].stem)
        first.unlink()
        for _ in range(2):
            tail.seek(0)
            assert read_all(tail) == list(range(kept, 21))

        assert tail.account.lost == {"retention": kept - 1}
        pen.close()


class TestSegments:
    """Which segments there are."""

    def test_the_segment_of_a_record_is_the_last_that_begins_before_it(self) -> None:
        """Where all begin later, the first."""
        here = [Path(f"{seq:020d}.log") for seq in (5, 9, 30)]

        assert [segment_of(here, seq) for seq in (1, 5, 8, 9, 99)] == [here[0], here[0], here[0], here[1], here[2]]
        assert segment_of([], 1) is None

    def test_spent_are_shipped_and_old_and_not_the_newest(self, tmp_path: Path) -> None:
        """A segment is deleted whole, in order, or kept."""
        pen = Pen(1, tmp_path, segment_bytes=600)
        for ms in range(1, 21):
            pen.beat(ms)
        here = segments(tmp_path / pen.name)
        second = int(here[1].stem)

        assert spent(here, 20, here) == here[:-1]
        assert spent(here, second - 1, here) == here[:1]
        assert spent(here, second - 2, here) == []
        assert spent(here, 20, here[1:]) == []
        assert spent(here, 20, []) == []
        pen.close()

    def test_the_last_record_is_found_over_damage_and_torn_tails(self, tmp_path: Path) -> None:
        """An empty newest segment or an unfinished line does not hide it."""
        pen = Pen(1, tmp_path)
        assert last_seq(tmp_path / pen.name) == 0
        for ms in range(1, 4):
            pen.beat(ms)
        (tmp_path / pen.name / f"{4:020d}.log").write_bytes(b"torn")

        assert last_seq(tmp_path / pen.name) == 3
        pen.close()


class TestCopies:
    """Copies of segments under other numbers."""

    def test_one_of_a_later_segment_under_an_earlier_number_is_none(self, tmp_path: Path) -> None:
        """It would end the one before it, whose records would be taken for taken back."""
        pen = Pen(1, tmp_path, segment_bytes=1000)
        for ms in range(1, 40):
            pen.beat(ms)
        here = segments(tmp_path / pen.name)
        (tmp_path / pen.name / f"{2:020d}.log").write_bytes(here[2].read_bytes())

        assert segments(tmp_path / pen.name) == here
        pen.close()

    def test_one_whose_beginning_is_gone_is_read_from_there(self, tmp_path: Path) -> None:
        """What is left of it was made, and no other segment has it."""
        pen = Pen(1, tmp_path, segment_bytes=1000)
        for ms in range(1, 40):
            pen.beat(ms)
        here = segments(tmp_path / pen.name)
        here[1].write_bytes(here[1].read_bytes().split(b"\n", 1)[1])

        assert segments(tmp_path / pen.name) == here
        pen.close()
