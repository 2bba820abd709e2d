"""Behaviour of the filter for system calls, which no process can take off again: tried in processes of their own."""

import platform
import subprocess
import sys

import pytest

from export.seccomp import confine

TRY = """
import os, socket
from export.seccomp import confine
print(confine() or "confined", flush=True)
for attempt in (socket.socket, lambda: os.open("/", os.O_RDONLY), os.fork, lambda: os.kill(os.getppid(), 0)):
    try:
        attempt()
        print("reached", flush=True)
    except PermissionError:
        print("refused", flush=True)
print(len(bytes(1 << 24)), flush=True)
os._exit(0)
"""


def test_a_confined_process_computes_and_reaches_nothing() -> None:
    """Memory and open files still work; sockets, files, processes and signals fail."""
    done = subprocess.run([sys.executable, "-c", TRY], check=True, capture_output=True, text=True)

    assert done.stdout.split() == ["confined", *["refused"] * 4, str(1 << 24)]


def test_an_unknown_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter is written for machines whose calls are known, and is left alone on others."""
    monkeypatch.setattr(platform, "machine", lambda: "vax")

    assert confine() == "seccomp on Linux vax"
