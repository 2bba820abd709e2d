"""The data plane's process: serves an inherited socket until it is told to stop, or its supervisor is gone."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import uvicorn
import uvloop

from service.api.fast_path import ActProtocol
from service.application import Application, assemble
from service.config import Config, ConfigInvalid
from service.hold import FolderRefused
from service.log.ids import KeyringInvalid
from service.log.journal import JournalUnavailable
from service.processes import failed
from service.versions.engine import VersionRefused

DRAIN_S = 5
# A controller with a period of a minute keeps its connection.
KEEP_ALIVE_S = 75


def collect_seldom() -> None:
    """Have the garbage collector look seldom: what is loaded now stays, and a decision's garbage has no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def run(config_path: Path, data: Path, descriptor: int, *, began: int | None = None, held: bool = False) -> int:
    """Serve on the listening socket ``descriptor``; the exit status.

    ``began`` is a descriptor that is written to once it serves; one that is ``held`` has no journal, and serves
    nothing, before there is a word on standard input.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="actd: %(levelname)s %(name)s: %(message)s")
    try:
        config = Config.read(config_path)
        try:
            application = assemble(config, data, _await_word if held else lambda: None)
        except ConfigInvalid as error:
            raise ConfigInvalid(f"{config_path}: {error}") from error
    except (ConfigInvalid, VersionRefused, KeyringInvalid, FolderRefused, JournalUnavailable) as error:
        return failed(str(error))
    except OSError as error:
        return failed(
            f"{error.filename or data}: {error.strerror}, expected a data folder that can be read and written"
        )
    collect_seldom()
    # Ctrl-C reaches all processes of the terminal; uvicorn raises it once more after it has stopped.
    with socket.socket(fileno=descriptor) as listening, suppress(KeyboardInterrupt):
        uvloop.run(serve(application, listening, began))
    return 0


def _await_word() -> None:
    """Wait for the supervisor's word; where it ends without one there is nothing to serve, and nothing to say."""
    if not os.read(sys.stdin.fileno(), 64):
        sys.exit(0)


async def serve(application: Application, listening: socket.socket, began: int | None = None) -> None:
    """Serve until SIGTERM, SIGINT, or the end of standard input, which the supervisor holds open."""
    server = server_of(application, listening, began)
    loop = asyncio.get_running_loop()
    if not sys.stdin.isatty():
        loop.add_reader(sys.stdin.fileno(), _supervisor_gone, server, loop)
    await server.serve(sockets=[listening])


def server_of(application: Application, listening: socket.socket, began: int | None = None) -> "_Server":
    """The HTTP server of a data plane, with the short way for ``POST /act``."""
    # Everything that is said is said by the records; one access line a decision would cost more than deciding.
    protocol = partial(ActProtocol, endpoint=application.endpoint, body_bytes=application.config.limits.body_bytes)
    config = uvicorn.Config(
        application.asgi,
        loop="uvloop",
        ws="none",
        http=protocol,  # type: ignore[arg-type]  # whatever makes a protocol serves
        proxy_headers=False,
        access_log=False,
        log_config=None,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
    )
    return _Server(config, application, listening, began)


class _Server(uvicorn.Server):
    """Says where it serves once it does."""

    def __init__(
        self, config: uvicorn.Config, application: Application, listening: socket.socket, began: int | None
    ) -> None:
        super().__init__(config)
        self._application = application
        self._listening = listening
        self._began = began

    async def startup(self, sockets: "list[socket.socket] | None" = None) -> None:
        await super().startup(sockets)
        host, port = self._listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        sys.stdout.write(
            f"actd: serving {self._application.engine.label} on http://{shown}:{port}"
            f" (process {os.getpid()}, writer {self._application.journal.writer.hex()})\n"
        )
        sys.stdout.flush()
        if self._began is not None:
            os.write(self._began, b"began")

    def handle_exit(self, sig: int, frame: object) -> None:
        """A second signal while draining changes nothing: nobody's answer is cut off."""
        self._application.stopping = True
        if not self.should_exit:
            super().handle_exit(sig, frame)  # type: ignore[arg-type]  # a frame is what signal gives


def _supervisor_gone(server: _Server, loop: asyncio.AbstractEventLoop) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        loop.remove_reader(sys.stdin.fileno())
        server.handle_exit(signal.SIGTERM, None)
