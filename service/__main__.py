"""The command ``actd``: serve a policy."""

import argparse
import asyncio
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import CalledProcessError

from service import supervisor
from service.processes import MISCONFIGURED, UMASK, failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    options = _parser().parse_args(arguments)
    os.umask(UMASK)
    if options.command == "plane":
        # Not above: the supervisor, which is the other command, would hold all of the data plane's modules.
        # Nothing that is imported is garbage: to look for some, now or later, would make the start longer by a fifth.
        gc.disable()
        from service import server  # noqa: PLC0415

        gc.freeze()
        gc.enable()
        return server.run(options.config, options.data, options.descriptor, began=options.began, held=options.held)
    return _serve(options)


def _serve(options: argparse.Namespace) -> int:
    data = options.data.resolve()
    for number in supervisor.SIGNALS:
        # Before anything is started there is nothing to drain.
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        # The folder is ours as long as this process lives.
        hold = supervisor.prepare(options.config, data)
        listening = supervisor.listen(options.host, options.port)
    except CalledProcessError as error:
        refused = error.returncode == MISCONFIGURED
        return MISCONFIGURED if refused else failed(f"the preparation ended with status {error.returncode}")
    except OSError as error:
        where = error.filename or f"{options.host}:{options.port}"
        return failed(f"{where}: {error.strerror}, expected a free address and a data folder that can be written")
    with listening:
        port = listening.getsockname()[1]
        admin = options.admin_port if options.admin_port is not None else port + 1 if options.port else 0
        return asyncio.run(
            supervisor.supervise(options.config.resolve(), data, hold, listening, options.admin_host, admin)
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="actd", description="Serve a policy: POST /act answers with a guarded action."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve what a configuration says")
    serve.add_argument("config", type=Path, metavar="CONFIG.toml")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", type=_port, default=8080, help="port to listen on, 0 for any (default: 8080)")
    serve.add_argument("--data", type=Path, default=Path("data"), help="folder of the journal (default: data)")
    serve.add_argument("--admin-host", default="127.0.0.1", help="the agent's address (default: 127.0.0.1)")
    serve.add_argument("--admin-port", type=_port, help="the agent's port (default: the one after --port)")
    plane = commands.add_parser("plane", help="the data plane alone, as the supervisor starts it")
    plane.add_argument("config", type=Path)
    plane.add_argument("--data", type=Path, required=True)
    plane.add_argument("--descriptor", type=int, required=True, help="a listening socket")
    plane.add_argument("--began", type=int, help="a descriptor to write to once it has begun")
    plane.add_argument("--held", action="store_true", help="serve when there is a word on standard input")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        msg = f"{port} is not a port, expected 0 to 65535"
        raise argparse.ArgumentTypeError(msg)
    return port


if __name__ == "__main__":
    sys.exit(main())
