"""F25: the embedded store on a disk that was full, once there is some room again."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.agent.full_disk import BATCH
from tests.system.disks import small_disk
from tests.system.serving import ROOT


@pytest.mark.parametrize("room", [2_500_000, 3_500_000, 4_500_000])
def test_f25_the_store_goes_on_with_little_room(tmp_path: Path, room: int) -> None:
    """What there is goes into the file, and not into a write-ahead log that can then never be put into it."""
    folder = tmp_path / "disk"
    command = [
        *small_disk(folder, "12m"),
        sys.executable,
        "-m",
        "tests.service.agent.full_disk",
        str(folder),
        str(room),
    ]

    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, timeout=60)

    before, full, after, there = map(int, done.stdout.split())
    assert before == 10
    assert after >= room // 400_000
    assert there == (before + full + after) * BATCH
