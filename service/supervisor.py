"""The supervisor: one data plane and one agent, each restarted when it dies, both stopped when it is told to.

It holds the listening socket, so that connections wait while a data plane is started again, and a pipe to each child's
standard input, so that no child outlives it however it ends.
"""

import asyncio
import math
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from service.config import Config
from service.process import MISCONFIGURED

FATAL = {MISCONFIGURED, 3}
_REST_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_STEADY_S = 5.0
_PATIENCE_S = 10.0


@dataclass(slots=True)
class Child:
    """A process that is kept running.

    What ends with a fatal status within ``refused_s`` seconds of its first start was refused, and is not started again.
    """

    name: str
    command: Sequence[str]
    descriptors: Sequence[int] = ()
    refused_s: float = _STEADY_S
    process: asyncio.subprocess.Process | None = None
    failures: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def keep(self) -> int:
        """Start it again each time it dies, until it is stopped.

        Returns early where its first start shows that starting again cannot help. Once it has run, nothing is given up:
        what is wrong then (a full disk, a port that somebody took) may pass, and the other process needs it not.
        """
        has_run = False
        while not self.stopping.is_set():
            born = time.monotonic()
            process = await self._start()
            if process is None:
                break
            status = await process.wait()
            lived = time.monotonic() - born
            if self.stopping.is_set() or (status in FATAL and not has_run and lived < self.refused_s):
                return status
            has_run = has_run or lived >= _STEADY_S
            self.failures = 0 if lived >= _STEADY_S else self.failures + 1
            rest = _REST_S[min(self.failures, len(_REST_S) - 1)]
            sys.stderr.write(f"actd: the {self.name} ended with status {status}, starting it again in {rest:g} s\n")
            with suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self.stopping.wait()
        return 0

    async def stop(self) -> None:
        """Ask it to end, and end it where it does not."""
        self.stopping.set()
        async with self._starting:
            process = self.process
        if process is None or process.returncode is not None:
            return
        try:
            process.terminate()
            async with asyncio.timeout(_PATIENCE_S):
                await process.wait()
        except ProcessLookupError:
            return
        except TimeoutError:
            sys.stderr.write(f"actd: the {self.name} did not stop within {_PATIENCE_S:g} s and was ended\n")
            process.kill()

    async def _start(self) -> asyncio.subprocess.Process | None:
        """Start it, unless it was stopped meanwhile; a stop waits until it is known which."""
        async with self._starting:
            if self.stopping.is_set():
                return None
            self.process = await asyncio.create_subprocess_exec(
                *self.command, stdin=asyncio.subprocess.PIPE, pass_fds=self.descriptors
            )
            return self.process


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises OSError where the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


async def supervise(config_path: Path, data: Path, listening: socket.socket, admin_host: str, admin_port: int) -> int:
    """Keep the data plane and the agent running until a signal; the exit status."""
    descriptor = listening.fileno()
    module = [sys.executable, "-m", "service"]
    plane = Child(
        "data plane",
        [*module, "plane", str(config_path), "--data", str(data), "--descriptor", str(descriptor)],
        (descriptor,),
        # It says so before it serves, or never: a proof may take its time.
        refused_s=math.inf,
    )
    agent_options = ["--config", str(config_path), "--data", str(data), "--supervised"]
    admin_options = ["--admin-host", admin_host, "--admin-port", str(admin_port)]
    agent = Child("agent", [sys.executable, "-m", "service.agent", *agent_options, *admin_options])
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    children = [asyncio.create_task(child.keep()) for child in (plane, agent)]
    signalled = asyncio.create_task(told.wait())
    done, _ = await asyncio.wait([*children, signalled], return_when=asyncio.FIRST_COMPLETED)
    # The agent goes last: what the data plane still answers is shipped too.
    await plane.stop()
    await agent.stop()
    signalled.cancel()
    statuses = [task.result() for task in done if task is not signalled]
    await asyncio.gather(*children)
    return max(statuses, default=0)


def prepare(config_path: Path, data: Path) -> Config:
    """Read the configuration and make the data folder before anything is started; raises ConfigInvalid, OSError."""
    config = Config.read(config_path)
    for folder in (data, data / "journal", data / "state"):
        folder.mkdir(parents=True, exist_ok=True)
    return config
