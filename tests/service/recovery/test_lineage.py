"""The lineage: who wrote in a data folder before whom, and what may be gone on from."""

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guards.abstention import Fresh
from guards.constraints import Bounds, Budget, Cooldown, MaxSwitches, RateLimit, Rule
from guards.records import Schema
from service.config import Config
from service.log.journal import JournalUnavailable
from service.recovery.lineage import Ancestor, Instant, Lineage
from tests.fakes import NOW, SCHEMA, schema_of

BEGAN = Instant(NOW, 1000.0, "boot")
MEMORABLE: tuple[Any, ...] = (
    Cooldown(name="rests", actions=("up",), seconds=9),
    RateLimit(name="slow", per_second=1.0, effect={"up": 1.0}),
    Budget(name="spent", cost="1", at_most=3, seconds=9),
    MaxSwitches(name="switched", at_most=2, seconds=9),
)
FORGETFUL: tuple[Any, ...] = (
    Rule(name="rule", forbid="load > 1"),
    Bounds(name="bounds", of="pods", effect={"up": 1.0}, high=9),
    Fresh(name="fresh", max_age_seconds=1),
)


def ancestor(*constraints: Any, schema: Schema = SCHEMA, writer: str = "", **told: Any) -> Ancestor:
    """A writer under these constraints."""
    baseline = {"kind": "constant", "action": "hold"}
    config = Config.model_validate({"name": "n", "policy": "p.onnx", "baseline": baseline, **told})
    return Ancestor.of(config.model_copy(update={"constraints": constraints}), schema, BEGAN, writer)


def folder_of(data: Path, *writers: str) -> Lineage:
    """A data folder in which these have begun, in this order, each with a folder."""
    for writer in writers:
        (data / "journal" / writer).mkdir(parents=True)
        Lineage(data).begin(ancestor(writer=writer))
    return Lineage(data)


def named(lineage: Lineage) -> list[str]:
    """The writers, newest first."""
    return [one.writer for one in lineage.ancestors]


def test_whoever_begins_comes_first(tmp_path: Path) -> None:
    """The others follow in order; the file is its owner's alone."""
    lineage = folder_of(tmp_path, "a", "b", "c")
    path = tmp_path / "state" / "writers"

    assert named(lineage) == ["c", "b", "a"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["writers"]
    assert repr(lineage) == "<Lineage of 3 writers>"


def test_writers_are_named_as_long_as_they_or_older_ones_are_there(tmp_path: Path) -> None:
    """A missing one in between is a gap that must not be forgotten."""
    folder_of(tmp_path, "a", "b", "c", "d")
    (tmp_path / "journal" / "c").rmdir()
    assert named(folder_of(tmp_path, "e")) == ["e", "d", "c", "b", "a"]
    for name in ("a", "b"):
        (tmp_path / "journal" / name).rmdir()
    assert named(folder_of(tmp_path, "f")) == ["f", "e", "d"]


def test_who_ends_in_order_says_where(tmp_path: Path) -> None:
    """Of itself alone."""
    folder_of(tmp_path, "a")
    lineage = Lineage(tmp_path)
    lineage.begin(ancestor(writer="b"))
    lineage.end(7)

    assert [(one.writer, one.ended) for one in Lineage(tmp_path).ancestors] == [("b", 7), ("a", 0)]


@pytest.mark.parametrize("harm", [b"", b"\n", b"00000000 []\n", b"x" * 100])
def test_a_damaged_file_names_nobody(tmp_path: Path, harm: bytes) -> None:
    """Nor does one that is not there, or is of another kind: then nothing is gone on from."""
    folder_of(tmp_path, "a")
    path = tmp_path / "state" / "writers"
    whole = path.read_bytes()
    path.write_bytes(harm)
    assert named(Lineage(tmp_path)) == []
    for at in range(len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert named(Lineage(tmp_path)) == []
    path.unlink()
    assert named(Lineage(tmp_path)) == []


def test_a_file_that_cannot_be_written_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would name an older writer as the last; where it cannot even be taken away, nothing is served."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    folder_of(tmp_path, "a")
    path = tmp_path / "state" / "writers"
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        lineage = Lineage(tmp_path)
        lineage.begin(ancestor(writer="b"))
        assert not path.exists()
    lineage.begin(ancestor(writer="b"))
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        lineage.end(3)
        assert named(Lineage(tmp_path)) == ["b", "b", "a"]
        broken.setattr(Path, "unlink", full)
        with pytest.raises(JournalUnavailable, match="cannot be written"):
            lineage.begin(ancestor(writer="c"))


def test_the_same_constraints_understand_each_other() -> None:
    """Those that remember nothing do not count, nor does their order, nor one more that the other had."""
    ours = ancestor(*MEMORABLE)

    assert set(ours.remembers) == {"rests", "slow", "spent", "switched"}
    assert ours.understands(ours)
    assert ours.understands(ancestor(*FORGETFUL, *reversed(MEMORABLE)))
    assert ancestor(*MEMORABLE[1:]).understands(ours)
    assert ancestor().understands(ours)


def test_others_do_not() -> None:
    """One that the other had not, or in another way; another clock; other fields or actions, but not other facts."""
    ours, theirs = ancestor(*MEMORABLE), list(MEMORABLE)
    for i, one in enumerate(theirs):
        changed = one.model_copy(update={"per_second": 2.0} if isinstance(one, RateLimit) else {"seconds": 10})
        assert not ours.understands(ancestor(*theirs[:i], changed, *theirs[i + 1 :]))
        assert not ours.understands(ancestor(*theirs[:i], *theirs[i + 1 :]))
    assert not ours.understands(ancestor(*MEMORABLE, guard_clock="observed_at"))
    fields, actions = SCHEMA.fields, SCHEMA.actions
    assert not ours.understands(ancestor(*MEMORABLE, schema=schema_of(fields, actions[:4], SCHEMA.facts)))
    assert not ours.understands(ancestor(*MEMORABLE, schema=schema_of(fields[::-1], actions, SCHEMA.facts)))
    assert ours.understands(ancestor(*MEMORABLE, schema=replace(SCHEMA, facts=("other",))))


@pytest.mark.parametrize("by", [3600.0, -3600.0, 0.1, -0.1])
def test_a_clock_that_was_set_is_seen_within_a_boot(by: float) -> None:
    """Whatever time has passed since; what is less than two readings may differ by counts for nothing."""
    later = Instant(NOW + 77.0 + by, 1077.0, "boot")

    assert later.ahead_of(BEGAN) == pytest.approx(by)
    assert msgspec.structs.replace(later, at=NOW + 77.01).ahead_of(BEGAN) == 0.0


def test_after_another_boot_nobody_knows() -> None:
    """Nor where the system does not say which it is."""
    later = Instant(NOW + 77.0, 1077.0, "boot")

    assert msgspec.structs.replace(later, boot="another").ahead_of(BEGAN) is None
    nameless = msgspec.structs.replace(BEGAN, boot="")
    assert msgspec.structs.replace(later, boot="").ahead_of(nameless) is None


def test_the_time_on_this_machine() -> None:
    """By both clocks, which go on together."""
    first, second = Instant.now(), Instant.now()

    assert first.boot
    assert second.uptime_s >= first.uptime_s > 0
    assert second.ahead_of(first) == 0.0
    assert Instant.now(lambda: NOW).at == NOW


def test_a_system_that_does_not_say_has_no_boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Then every machine may have been down meanwhile."""
    monkeypatch.setattr("service.recovery.lineage._BOOT", tmp_path / "none")

    assert Instant.now(lambda: NOW) == Instant(NOW, 0.0, "")
