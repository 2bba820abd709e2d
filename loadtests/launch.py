"""Servers as processes: started on any free port, their CPU time read, ended by their own process ids."""

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from loadtests.wrk import BenchFailed

ROOT = Path(__file__).resolve().parent.parent
STARTS_WITHIN_S = 60.0
ENDS_WITHIN_S = 20.0
_SERVING = re.compile(r"^actd: serving (\S+) on (http://\S+) \(process (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Serving:
    """Where a server says that it serves, and the process whose CPU time counts."""

    label: str
    url: str
    pid: int


def said(output: str) -> Serving | None:
    """What a server's output says of where it serves, if it has said it."""
    found = _SERVING.search(output)
    return None if found is None else Serving(found[1], found[2], int(found[3]))


def cpu_ns(pid: int) -> int:
    """CPU time that all threads of a process have used, also those that have ended, in nanoseconds.

    The process's own clock (clock_getcpuclockid(3), whose Linux form is used here): exact, where ``/proc/PID/stat``
    counts ticks of 10 ms. Raises BenchFailed where there is no such process.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError as error:
        msg = f"process {pid} is gone, expected it to serve until it is told to stop"
        raise BenchFailed(msg) from error


class Server:
    """A server that runs while the ``with`` block does."""

    def __init__(self, name: str, command: Sequence[str], log: Path, root: Path = ROOT) -> None:
        """``command`` is what follows ``python``; ``log`` takes its standard error; ``root`` has the modules."""
        self.name = name
        self._root = root
        self._command = [sys.executable, *command]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.serving = Serving(name, "", 0)

    def __repr__(self) -> str:
        return f"<Server {self.name} at {self.serving.url or 'no address yet'}, process {self.serving.pid}>"

    def __enter__(self) -> Self:
        # Said twice, for what it starts in turn: no other tree, such as one that is installed, comes first.
        path = os.pathsep.join([str(self._root), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._root,
                env=os.environ | {"PYTHONPATH": path},
            )
        try:
            self.serving = self._wait(self._process)
        except BaseException:
            self._end(self._process)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._end(self._process)

    def rested(self, *, within_s: float = 15.0, share: float = 0.05, every_s: float = 0.2) -> bool:
        """Wait until it and its children use less than ``share`` of a core; whether they did ``within_s``.

        What a server still does after its last answer (shipping, here) is not to be the next one's trouble.
        """
        until, before = time.monotonic() + within_s, self.family_ns()
        while time.monotonic() < until:
            time.sleep(every_s)
            now = self.family_ns()
            # A child that was started again has less on its clock than the one before it.
            if 0 <= now - before < share * every_s * 1e9:
                return True
            before = now
        return False

    def family_ns(self) -> int:
        """CPU time of the process that was started and of its children as they are now."""
        if self._process is None:
            return 0
        first, used = self._process.pid, 0
        children = Path(f"/proc/{first}/task/{first}/children").read_text("ascii").split()
        for pid in (first, *map(int, children)):
            with suppress(BenchFailed):  # a child may have ended since
                used += cpu_ns(pid)
        return used

    def _wait(self, process: "subprocess.Popen[bytes]") -> Serving:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        output, until = b"", time.monotonic() + STARTS_WITHIN_S
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([process.stdout], [], [], left)
            part = os.read(process.stdout.fileno(), 65536) if ready else b""
            output += part
            serving = said(output.decode(errors="replace"))
            if serving is not None:
                return serving
            if ready and not part:
                break
        last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        msg = f"the server {self.name} did not start: {''.join(last) or 'it said nothing'}"
        raise BenchFailed(msg)

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        """Whatever it started goes with it: the supervisor's children end with their standard input."""
        process.terminate()
        try:
            process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
