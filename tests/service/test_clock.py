"""The process's time: it goes by what passes, whatever the wall clock says."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.clock import Clock, elapsed
from service.log.records import Heartbeat, Writer
from tests.in_process import serving
from tests.service.agent.agents import seen
from tests.system.shifted import WallClock

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_700_000_000.0
COOLDOWN = {"kind": "cooldown", "name": "rest", "actions": ["scale_up"], "seconds": 60}
BUSY = [1.0, 0.0, 3.0]


class Hands:
    """A wall clock and one of what has passed, both set by hand."""

    def __init__(self) -> None:
        self.wall = NOW
        self.passed = 500.0

    def clock(self) -> Clock:
        """A process's time that begins now."""
        return Clock(lambda: self.wall, lambda: self.passed)


@pytest.mark.parametrize("step", [3600.0, -3600.0, 86400 * 365.0, -NOW, 0.75])
def test_f90_a_step_is_no_time(step: float) -> None:
    """Neither when it is made, nor when it is taken back; only ``ahead`` shows it."""
    hands = Hands()
    clock = hands.clock()

    hands.wall += step
    assert (clock.now(), clock.ahead()) == (NOW, step)
    hands.wall += 10
    hands.passed += 10
    assert (clock.now(), clock.ahead()) == (NOW + 10, step)
    hands.wall -= step
    assert (clock.now(), clock.ahead()) == (NOW + 10, 0.0)


def test_f90_a_clock_that_drifts_or_stands_still_is_not_followed() -> None:
    """Over a day of a wall clock that is a second fast, and one that it stands still: elapsed times are right."""
    hands = Hands()
    clock = hands.clock()
    for _ in range(24):
        hands.passed += 3600
        hands.wall += 3600 + 1 / 24
    assert clock.now() == NOW + 86400
    assert clock.ahead() == pytest.approx(1.0, abs=0.001)
    hands.passed += 86400

    assert clock.now() == NOW + 2 * 86400


def test_a_process_begins_with_the_wall_clock() -> None:
    """So a restart takes what the clock was set to."""
    hands = Hands()
    hands.clock()
    hands.wall += 3600

    assert hands.clock().now() == NOW + 3600


def test_two_times_of_a_process_are_as_far_apart_as_it_took() -> None:
    """By the machine's own clocks, whose sleep counts."""
    clock = Clock()
    began, before = elapsed(), clock.now()
    while elapsed() - began < 0.05:
        time.sleep(0.01)

    assert clock.now() - before == pytest.approx(elapsed() - began, abs=0.01)
    assert abs(clock.now() - time.time()) < 1.0
    assert elapsed() >= time.monotonic() - 0.001


def test_f90_a_process_whose_wall_clock_is_set_keeps_its_time(tmp_path: Path) -> None:
    """A real one, by the system's clocks."""
    wall = WallClock(tmp_path)
    code = (
        "import sys; from service.clock import Clock; clock = Clock(); print(clock.now(), flush=True)\n"
        "sys.stdin.readline(); print(clock.now(), clock.ahead())"
    )
    environment = {"PYTHONPATH": str(ROOT), **wall.environment}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        before = float(process.stdout.readline())
        wall.set("+7200")
        told, _ = process.communicate("\n", timeout=30)
    after, ahead = map(float, told.split())

    assert 0 <= after - before < 30
    assert ahead == pytest.approx(7200, abs=1.0)


@pytest.mark.parametrize("steps", [(3600.0, -3600.0), (-3600.0, 3600.0), (86400 * 365.0, 0.0)])
async def test_f99_cooldowns_take_what_they_take_and_ids_go_on(tmp_path: Path, steps: tuple[float, float]) -> None:
    """While the clock is set during one cooldown and once more during the next; all of it by what is logged."""
    hands = Hands()
    with serving(tmp_path, None, hands.clock(), constraints=[COOLDOWN]) as served:
        await served.act("s", BUSY, previous=None)
        for step in steps:
            hands.wall += step
            for passed in (59.0, 0.5, 1.0):
                hands.passed += passed
                hands.wall += passed
                await served.act("s", BUSY)
        records = served.decisions()

    assert [record.action for record in records] == [2, 1, 1, 2, 1, 1, 2]
    assert [record.at - NOW for record in records] == [0, 59, 59.5, 60.5, 119.5, 120, 121]
    assert [record.ms for record in records] == [int(record.at * 1000) for record in records]
    assert records[-1].state.used == {2: NOW + 60.5}


async def test_f99_all_records_go_by_it(tmp_path: Path) -> None:
    """Its writer's and its heartbeats too."""
    hands = Hands()
    with serving(tmp_path, None, hands.clock(), rewards={"wait_seconds": 1.0}) as served:
        hands.wall -= 3600
        hands.passed += 5
        async with served.application.alive():
            records = await seen(lambda: found if len(found := served.records()) > 1 else None)

    assert [type(record) for record in records] == [Writer, Heartbeat]
    assert [record.ms for record in records] == [int(NOW * 1000), int(NOW * 1000) + 5000]


async def test_f90_a_clock_that_was_set_is_said_once_and_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A second more or less is not: the clock is disciplined, not set."""
    hands = Hands()
    with serving(tmp_path, None, hands.clock()) as served:
        for step in (3600.0, 0.2, -7200.0):
            hands.wall += step
            served.application.heed_clock()
            served.application.heed_clock()
        text = (await served.get("/metrics")).body.decode()

    said = [record.getMessage() for record in caplog.records if "the clock was set" in record.getMessage()]
    assert [line.partition(" s from")[0].rpartition(" ")[2] for line in said] == ["+3600.0", "-3599.8"]
    assert "actd_clock_ahead_seconds -3599.8" in text
