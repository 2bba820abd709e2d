"""The supervisor: one data plane and one agent, each restarted when it dies, both stopped when it is told to.

It owns the data folder, and holds the listening socket, so that connections wait while a data plane is started again,
and a pipe to each child's standard input, so that no child outlives it however it ends. A child says through another
pipe that it has begun: until then its refusal ends the start, and nothing is served before the agent has.

It is there as long as the service is, and imports the standard library alone: whatever needs more is done by others.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from service.hold import OWNER, FolderHold, Owner
from service.processes import MISCONFIGURED

FATAL = {MISCONFIGURED, 3}
# What tells a service to end.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_GO = b"go"
_REST_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_STEADY_S = 5.0
_PATIENCE_S = 10.0
_LOOK_S = 1.0
_ANSWER_BYTES = 4096


@dataclass(slots=True)
class Child:
    """A process that is kept running.

    It writes to the descriptor ``--began`` once it has begun. What ends with a fatal status before it ever has was
    refused, and is not started again. One that is ``held`` waits for a word on its standard input until ``release``.
    """

    name: str
    command: Sequence[str]
    descriptors: Sequence[int] = ()
    held: bool = False
    process: asyncio.subprocess.Process | None = None
    failures: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    # Set when it has begun, or has ended and is to be started again: nobody need wait for it any longer.
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    _began: bool = False
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def keep(self) -> int:
        """Start it again each time it dies, until it is stopped.

        Returns early where it is refused before it has begun. Once it has, nothing is given up: what is wrong then (a
        full disk, a port that somebody took) may pass, and the other process needs it not.
        """
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        asyncio.get_running_loop().add_reader(reading, self._hear, reading)
        try:
            return await self._keep(reading, writing)
        finally:
            asyncio.get_running_loop().remove_reader(reading)
            os.close(reading)
            os.close(writing)

    async def _keep(self, reading: int, writing: int) -> int:
        while not self.stopping.is_set():
            born = time.monotonic()
            process = await self._start(writing)
            if process is None:
                break
            status = await process.wait()
            self._hear(reading)
            if self.stopping.is_set() or (status in FATAL and not self._began):
                return status
            self.settled.set()
            self.failures = 0 if time.monotonic() - born >= _STEADY_S else self.failures + 1
            rest = _REST_S[min(self.failures, len(_REST_S) - 1)]
            sys.stderr.write(f"actd: the {self.name} ended with status {status}, starting it again in {rest:g} s\n")
            with suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self.stopping.wait()
        return 0

    def _hear(self, reading: int) -> None:
        """Take what the child wrote to say that it has begun."""
        with suppress(BlockingIOError):
            if os.read(reading, 64):
                self._began = True
                self.settled.set()

    async def release(self) -> None:
        """Let it serve, now and each time it is started again."""
        async with self._starting:
            self.held = False
            if self.process is not None:
                _let_go(self.process)

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

    async def _start(self, writing: int) -> asyncio.subprocess.Process | None:
        """Start it, unless it was stopped meanwhile; a stop waits until it is known which."""
        async with self._starting:
            if self.stopping.is_set():
                return None
            command = [*self.command, "--began", str(writing)]
            self.process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, pass_fds=(*self.descriptors, writing)
            )
            if not self.held:
                _let_go(self.process)
            return self.process


def _let_go(process: asyncio.subprocess.Process) -> None:
    """Write the word that a held process waits for; one that has ended is past caring."""
    if process.stdin is not None and process.returncode is None:
        with suppress(OSError):
            process.stdin.write(_GO)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises OSError where the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


async def supervise(
    config_path: Path, data: Path, hold: FolderHold, listening: socket.socket, admin_host: str, admin_port: int
) -> int:
    """Keep the data plane and the agent running, and the folder ours, until a signal; the exit status."""
    descriptor = listening.fileno()
    module = [sys.executable, "-m", "service"]
    plane_options = [str(config_path), "--data", str(data), "--descriptor", str(descriptor), "--held"]
    plane = Child("data plane", [*module, "plane", *plane_options], (descriptor,), held=True)
    agent_options = ["--config", str(config_path), "--data", str(data), "--supervised"]
    admin_options = ["--admin-host", admin_host, "--admin-port", str(admin_port)]
    agent = Child("agent", [sys.executable, "-m", "service.agent", *agent_options, *admin_options])
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, told.set)
    children = [asyncio.create_task(child.keep()) for child in (plane, agent)]
    signalled = asyncio.create_task(told.wait())
    besides = [asyncio.create_task(_release(plane, agent)), asyncio.create_task(_own(hold))]
    done, _ = await asyncio.wait([*children, signalled], return_when=asyncio.FIRST_COMPLETED)
    # The agent goes last: what the data plane still answers is shipped too.
    await plane.stop()
    await agent.stop()
    for one in (signalled, *besides):
        one.cancel()
    statuses = [task.result() for task in done if task is not signalled]
    await asyncio.gather(*children)
    return max(statuses, default=0)


async def _own(hold: FolderHold) -> None:
    """Look each second whether the folder still says whose it is."""
    while True:
        await asyncio.sleep(_LOOK_S)
        if problem := hold.keep():
            sys.stderr.write(f"actd: {problem}\n")


async def _release(plane: Child, agent: Child) -> None:
    """Let the data plane serve once the agent has begun, or has failed in a way that may pass."""
    await agent.settled.wait()
    await plane.release()


def prepare(config_path: Path, data: Path) -> FolderHold:
    """Have the configuration read and the data folder made ours before anything is started, by a process that ends.

    Gives what holds the folder, to be kept. Raises CalledProcessError where it was refused, which has been said on
    standard error by then, and OSError.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        answer = theirs.fileno()
        command = [sys.executable, "-m", "service.preparation", str(config_path), "--data", str(data)]
        subprocess.run([*command, "--answer", str(answer)], pass_fds=(answer,), check=True)  # noqa: S603 - ours
        told, (held,), _, _ = socket.recv_fds(ours, _ANSWER_BYTES, 1)
    os.set_inheritable(held, False)
    return FolderHold(data / OWNER, held, Owner(**json.loads(told)))
