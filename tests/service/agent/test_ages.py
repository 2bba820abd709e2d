"""Ages: what passes makes a file old, and a wall clock that is set does not."""

import os
from pathlib import Path

import pytest

from service.agent.ages import Ages
from service.agent.folders import FolderVerdict
from service.agent.ship import Shipper
from service.agent.stores.sqlite import SqliteStore
from service.clock import Clock
from service.config import Retention
from service.log.journal import segments
from tests.service.agent.pens import KEYRING, Pen
from tests.service.agent.ships import settle

NOW = 1_700_000_000.0
STEPS = pytest.mark.parametrize("step", [3600.0, -3600.0, 86400 * 365.0])


class Hands:
    """A wall clock, which files' times are by, and one of what has passed."""

    def __init__(self) -> None:
        self.wall = NOW
        self.passed = 100.0

    def ages(self) -> Ages:
        """Ages by these clocks."""
        return Ages(wall=lambda: self.wall, monotonic=lambda: self.passed)

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.passed += seconds

    def write(self, path: Path, text: str = "x") -> None:
        """Append to a file, now."""
        with path.open("a", encoding="ascii") as file:
            file.write(text)
        os.utime(path, (self.wall, self.wall))


@STEPS
def test_f99_a_step_makes_no_file_old_or_young(tmp_path: Path, step: float) -> None:
    """Neither what was written before it, nor what is written after it."""
    hands, before, after = Hands(), tmp_path / "before", tmp_path / "after"
    ages = hands.ages()
    hands.write(before)
    assert ages.of(before) == 0

    hands.go(10)
    hands.wall += step
    hands.write(after)
    assert [ages.of(before), ages.of(after)] == [10, 0]
    hands.go(20)
    hands.write(before)
    assert [ages.of(before), ages.of(after)] == [0, 20]
    hands.wall -= step
    hands.go(5)
    assert [ages.of(before), ages.of(after)] == [5, 25]


def test_what_was_there_before_is_as_old_as_it_says(tmp_path: Path) -> None:
    """So that an agent that is started again each day deletes what is older; from the future is nothing."""
    hands, old, odd = Hands(), tmp_path / "old", tmp_path / "odd"
    hands.write(old)
    hands.go(500)
    hands.write(odd)
    os.utime(odd, (NOW + 10_000, NOW + 10_000))
    ages = hands.ages()

    assert [ages.of(old), ages.of(odd)] == [500, 0]
    hands.go(1)
    assert [ages.of(old), ages.of(odd)] == [501, 1]


def test_what_is_gone_has_no_age(tmp_path: Path) -> None:
    """And is new when it is there again."""
    hands, folder = Hands(), tmp_path / "folder"
    folder.mkdir()
    ages = hands.ages()
    hands.write(folder / "file")
    os.utime(folder, (NOW, NOW))
    assert [ages.of(folder), ages.of(folder / "file")] == [0, 0]
    hands.go(9)
    ages.forget(folder)

    assert repr(ages) == "<Ages of 0 files>"
    (folder / "file").unlink()
    assert ages.of(folder / "file") == 0


@STEPS
async def test_f99_the_journal_is_kept_as_long_as_it_says_over_a_step(tmp_path: Path, step: float) -> None:
    """Not deleted early, nor never: a living writer's old segments, and the folder of a dead one."""
    hands, store = Hands(), SqliteStore(tmp_path / "store.sqlite")
    living, dead = Pen(1, tmp_path / "journal", segment_bytes=600), Pen(2, tmp_path / "journal")
    for ms in range(1, 21):
        living.beat(ms)
    dead.beat(1)
    dead.close()
    for path in (tmp_path / "journal").rglob("*"):
        os.utime(path, (hands.wall, hands.wall))
    before = segments(tmp_path / "journal" / living.name)
    ship = Shipper(
        store,
        tmp_path / "journal",
        retention=Retention(journal_seconds=100.0),
        place=KEYRING.place,
        judge=lambda _: FolderVerdict(True),
        wall=lambda: hands.wall,
        now=Clock(lambda: hands.wall, lambda: hands.passed).now,
        monotonic=lambda: hands.passed,
    )
    for _ in range(3):
        hands.go(2)
        await settle(ship)

    hands.wall += step
    for _ in range(9):
        hands.go(10)
        await settle(ship)
        assert segments(tmp_path / "journal" / living.name) == before
        assert (tmp_path / "journal" / dead.name).exists()
    hands.wall -= step
    for _ in range(3):
        hands.go(10)
        await settle(ship)

    assert segments(tmp_path / "journal" / living.name) == before[-1:]
    assert not (tmp_path / "journal" / dead.name).exists()
    living.close()
    await store.close()
