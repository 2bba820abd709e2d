"""A small disk of a service's own: a real file system in memory, of which the test can take all that is left."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system.serving import Service

# A mount that only the process and its children see, where the system lets an ordinary user make one.
_UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")
_BLOCK = 64 * 1024


def small_disk(folder: Path, size: str) -> list[str]:
    """What to begin a command with so that it has a disk of this size under ``folder``; skips where none can be had."""
    try:
        subprocess.run([*_UNSHARE, "true"], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("needs unshare and user namespaces")
    folder.mkdir(parents=True, exist_ok=True)
    return [*_UNSHARE, "sh", "-c", f'mount -t tmpfs -o size={size} disk "{folder}" && exec "$@"', "sh"]


def fill(service: Service) -> Path:
    """Take all the space that is left beside a service's data folder; the file that has it."""
    path = service.there.parent / "filled"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for size in (_BLOCK, 512):
        with suppress(OSError):
            while True:
                os.write(descriptor, bytes(size))
    os.close(descriptor)
    return path
