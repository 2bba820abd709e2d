"""A service under test: ``python -m service serve`` as a real process, what it says, and its end."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests import artefacts

ROOT = Path(__file__).resolve().parents[2]
SERVING = re.compile(
    r"^actd: serving (?P<label>\S+) on http://127\.0\.0\.1:(?P<port>\d+)"
    r" \(process (?P<pid>\d+), writer (?P<writer>[0-9a-f]{16})\)$",
    re.MULTILINE,
)
_ADMIN = re.compile(r"admin on http://127\.0\.0\.1:(\d+)")
STARTS_WITHIN_S = 60.0
ENDS_WITHIN_S = 30.0
_POLL_S = 0.01
MINIMAL = """\
name = "test"
policy = "demo-1.onnx"

[baseline]
kind = "constant"
action = "hold"
"""


@dataclass(frozen=True, slots=True)
class Plane:
    """A data plane as its serving line names it."""

    label: str
    port: int
    pid: int
    writer: str


class Service:
    """A supervisor and its children: ``with Service(config, data) as service: service.port``."""

    def __init__(
        self,
        config: Path,
        data: Path,
        *,
        port: int = 0,
        redis_url: str = "",
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        """With ``redis_url`` the streams go there, else into the data folder; ``options`` end the command line.

        ``environment`` is what the processes find in theirs beside what is in this one's; ``within`` begins the command
        line with a command that becomes the service.
        """
        self.config = config
        self.data = data
        self._port = port
        self._redis_url = redis_url
        self._options = options
        self._environment = environment or {}
        self._within = within
        self._log = data.with_name(data.name + ".log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The supervisor."""
        assert self._process is not None
        return self._process

    @property
    def port(self) -> int:
        """Where the data plane that was started last serves, once it does."""
        return self.plane().port

    def spawn(self) -> None:
        """Start the supervisor, and wait for nothing."""
        serve = [sys.executable, "-m", "service", "serve", str(self.config), "--port", str(self._port)]
        command = [*self._within, *serve]
        environment = {key: value for key, value in os.environ.items() if key not in ("REDIS_URL", "ACTD_KEYRING")}
        if self._redis_url:
            environment["REDIS_URL"] = self._redis_url
        environment |= self._environment
        # A file rather than a pipe: nobody has to read it for the service to go on.
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--data", str(self.data), *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment,
                start_new_session=True,  # so that a signal to its group, as of Ctrl-C, is its own
            )

    def output(self) -> str:
        """Everything that the supervisor and its children have said."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def planes(self) -> list[Plane]:
        """The data planes that have served so far, in order."""
        found = (match.groupdict() for match in SERVING.finditer(self.output()))
        return [Plane(told["label"], int(told["port"]), int(told["pid"]), told["writer"]) for told in found]

    def plane(self, count: int = 1) -> Plane:
        """The data plane that serves, once at least ``count`` have been started."""

        def started() -> bool:
            if self.process.poll() is not None:
                msg = f"the supervisor has ended with {self.process.returncode}:\n{self.output()[-4000:]}"
                raise AssertionError(msg)
            return len(self.planes()) >= count

        eventually(started, within_s=STARTS_WITHIN_S, what=lambda: f"no data plane {count}:\n{self.output()[-4000:]}")
        return self.planes()[-1]

    @property
    def admin_port(self) -> int:
        """Where the agent that was started last listens for operators, once it does."""
        eventually(lambda: bool(_ADMIN.findall(self.output())), within_s=STARTS_WITHIN_S)
        return int(_ADMIN.findall(self.output())[-1])

    @property
    def there(self) -> Path:
        """The data folder as the service sees it, whatever is mounted there for it alone."""
        return Path(f"/proc/{self.process.pid}/root{self.data}")

    def kill_plane(self, plane: Plane) -> None:
        """``kill -9`` of a data plane, after a look at whether the process is one of ours still."""
        words = command_line(plane.pid)
        if words[1:4] != ["-m", "service", "plane"] or str(self.data) not in words:
            msg = f"process {plane.pid} is {words}, expected the data plane of {self.data}"
            raise AssertionError(msg)
        os.kill(plane.pid, signal.SIGKILL)

    def stop(self) -> int:
        """Tell the supervisor to stop, as an operator would; its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait for the supervisor's end; its exit status."""
        try:
            return self.process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired as error:
            msg = f"the supervisor has not ended within {ENDS_WITHIN_S:g} s:\n{self.output()[-4000:]}"
            raise AssertionError(msg) from error

    def children(self) -> list[int]:
        """Process ids of the supervisor's children."""
        return children_of(self.process.pid)

    def __enter__(self) -> Self:
        self.spawn()
        try:
            self.plane()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Leave nothing behind, whatever state it is in: the children end with the supervisor's pipes."""
        if self.process.poll() is not None:
            return
        left = self.children()
        self.process.terminate()
        try:
            self.process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            eventually(lambda: not any(map(running, left)), within_s=ENDS_WITHIN_S)


class Client:
    """One keep-alive connection to a service."""

    def __init__(self, port: int, *, timeout_s: float = 20.0) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def post(self, path: str, told: object) -> tuple[int, Any]:
        """Post JSON; status and decoded answer. Raises OSError or HTTPException where no whole answer came."""
        body = json.dumps(told).encode()
        return self._ask("POST", path, body, {"content-type": "application/json"})

    def get(self, path: str) -> tuple[int, Any]:
        """Get a page; status and decoded answer."""
        return self._ask("GET", path, None, {})

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._connection.close()

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, Any]:
        self._connection.request(method, path, body, headers)
        with self._connection.getresponse() as response:
            content = response.read()
            typed = response.headers.get("content-type", "")
        return response.status, json.loads(content) if typed.startswith("application/json") else content

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def demo(folder: Path, config: str = MINIMAL) -> Path:
    """Put the small policy and its configuration into a folder; the configuration's path."""
    (folder / "demo-1.onnx").write_bytes(artefacts.demo())
    path = folder / "policy.toml"
    path.write_text(config, "utf-8")
    return path


def eventually(
    holds: Callable[[], bool], *, within_s: float = 20.0, what: Callable[[], str] = lambda: "it never came true"
) -> None:
    """Wait until a condition holds; fails with ``what`` where it does not in time."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(what())
        time.sleep(_POLL_S)


def rows_of(store: Path, query: str) -> list[Any]:
    """What a query finds in an embedded store; nothing where the agent has not made it yet."""
    try:
        # Only read: a file that is not there must not come into being by being looked at.
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as found:
            return found.execute(query).fetchall()
    except sqlite3.OperationalError as error:
        if "unable to open" in str(error) or "no such table" in str(error):
            return []
        raise


def command_line(pid: int) -> list[str]:
    """The words of a running process's command line; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def running(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    return bool(command_line(pid))


def children_of(pid: int) -> list[int]:
    """Process ids of a process's children."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
